"""The data sets by name: how each is read, and the counts that its authors publish; docs/data.md shows the layouts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from trainer.datasets.cuhk03 import Boxes, read_cuhk03
from trainer.datasets.cuhk_sysu import read_cuhk_sysu
from trainer.datasets.listing import Listing, SearchListing
from trainer.datasets.market import read_folder, read_market
from trainer.datasets.msmt17 import read_msmt17
from trainer.datasets.prw import read_prw

SYNTHETIC, MIX = "synthetic", "synthetic-mix"


@dataclass(frozen=True, slots=True)
class ReidSet:
    """A set of crops. `published` counts what `trainer.datasets.inspect.counts` counts, under the same names."""

    title: str
    read: Callable[[Path], Listing]
    published: Mapping[str, int] = field(default_factory=dict)
    warning: str = ""


@dataclass(frozen=True, slots=True)
class SearchSet:
    """A set of scenes."""

    title: str
    read: Callable[[Path], SearchListing]
    published: Mapping[str, int] = field(default_factory=dict)


CUHK03: tuple[tuple[Boxes, int, int], ...] = (("labeled", 7368, 5328), ("detected", 7365, 5332))

REID: dict[str, ReidSet] = {
    "market1501": ReidSet(
        "Market-1501",
        partial(read_market, folders=["Market-1501-v15.09.15", "market1501", "Market-1501"], title="Market-1501"),
        {
            "train people": 751,
            "train pictures": 12936,
            "query people": 750,
            "query pictures": 3368,
            "gallery pictures": 15913,
            "distractor pictures": 2798,
            "junk pictures": 3819,
            "cameras": 6,
        },
    ),
    "duke": ReidSet(
        "DukeMTMC-reID",
        partial(read_market, folders=["DukeMTMC-reID", "dukemtmc-reid/DukeMTMC-reID"], title="DukeMTMC-reID"),
        {
            "train people": 702,
            "train pictures": 16522,
            "query people": 702,
            "query pictures": 2228,
            "gallery people": 1110,
            "gallery pictures": 17661,
            "cameras": 8,
        },
        "DukeMTMC was withdrawn by its owners in 2019 (people were filmed without consent): prefer another set; never pass it on",
    ),
    **{
        f"cuhk03-{boxes}": ReidSet(
            f"CUHK03-NP {boxes}",
            partial(read_cuhk03, boxes=boxes),
            {
                "train people": 767,
                "train pictures": train,
                "query pictures": 1400,
                "gallery people": 700,
                "gallery pictures": gallery,
                "cameras": 2,
            },
        )
        for boxes, train, gallery in CUHK03
    },
    **{
        name: ReidSet(
            f"MSMT17, {what}",
            partial(read_msmt17, with_val=with_val),
            {
                "train people": 1041,
                "train pictures": train,
                "query pictures": 11659,
                "gallery people": 3060,
                "gallery pictures": 82161,
                "cameras": 15,
            },
        )
        for name, what, with_val, train in (
            ("msmt17", "training on list_train and list_val, as published tables do", True, 32621),
            ("msmt17-train", "training on list_train alone", False, 30248),
        )
    },
    "folder": ReidSet(
        "a folder of folders",
        read_folder,
    ),
}

SEARCH: dict[str, SearchSet] = {
    "prw": SearchSet(
        "PRW",
        read_prw,
        {
            "train frames": 5704,
            "train people": 483,
            "test frames": 6112,
            "test people": 450,
            "queries": 2057,
            "boxes": 43110,
            "boxes with a name": 34304,
            "cameras": 6,
        },
    ),
    "cuhk-sysu": SearchSet(
        "CUHK-SYSU",
        read_cuhk_sysu,
        {
            "train frames": 11206,
            "train people": 5532,
            "test frames": 6978,
            "test people": 2900,
            "queries": 2900,
            "boxes": 96143,
        },
    ),
}
