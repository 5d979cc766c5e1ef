"""The data sets by name: how each is read, its layout and the counts that its authors publish."""

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
    layout: str
    read: Callable[[Path], Listing]
    published: Mapping[str, int] = field(default_factory=dict)
    warning: str = ""


@dataclass(frozen=True, slots=True)
class SearchSet:
    """A set of scenes."""

    title: str
    layout: str
    read: Callable[[Path], SearchListing]
    published: Mapping[str, int] = field(default_factory=dict)


CUHK03: tuple[tuple[Boxes, int, int], ...] = (("labeled", 7368, 5328), ("detected", 7365, 5332))
MARKET_FOLDERS = "bounding_box_train, query, bounding_box_test"

REID: dict[str, ReidSet] = {
    "market1501": ReidSet(
        "Market-1501",
        f"Market-1501-v15.09.15/{{{MARKET_FOLDERS}}}/0002_c1s1_000451_03.jpg",
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
        f"DukeMTMC-reID/{{{MARKET_FOLDERS}}}/0001_c2_f0046182.jpg",
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
            f"cuhk03-np/{boxes}/{{{MARKET_FOLDERS}}}/0001_c1_1.png, or cuhk-03.mat with "
            f"cuhk03_new_protocol_config_{boxes}.mat",
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
            "MSMT17_V1/{train, test} or MSMT17_V2/{mask_train_v2, mask_test_v2}, list_{train, val, query, gallery}.txt",
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
        "a folder of folders", "{train, test}/identity/camera_*.jpg, or identity/camera_*.jpg", read_folder
    ),
}

SEARCH: dict[str, SearchSet] = {
    "prw": SearchSet(
        "PRW",
        "PRW-v16.04.20/{frames/c1s1_000151.jpg, annotations/c1s1_000151.jpg.mat, frame_train.mat, frame_test.mat, "
        "query_info.txt}",
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
        "{Image/SSM/*.jpg, annotation/{Images, Person, pool}.mat, annotation/test/train_test/{Train, TestG50, ...}.mat}",
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
