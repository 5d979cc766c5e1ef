"""What `sightline data draw` does: drawn people as files, labelled, in the layout of a data set of the field."""

from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from deploy.output import check_folder
from deploy.training import Bar
from ingest.synthetic.market import write_market
from ingest.synthetic.prw import write_prw
from ingest.synthetic.scene import SceneSettings
from stream.errors import UsageError

Layout = Literal["market1501", "prw"]

FIRST_SEED = 7_000_000
"""Seeds from here on belong to no training, test, link rows or demo."""
SITE_PEOPLE = 12
"""People of one site, whose four cameras take its frames."""
SITE_S = 60.0
FRAMES_PER_S = 2.0
"""A camera takes; every second picture is written."""
CROWD = 3.0
"""How soon people come into view again: frames without anybody teach little."""


def draw_data(layout: Layout, root: Path, people: int, seed: int, workers: int, console: Console) -> dict[str, Any]:
    """Write a data set of `people` to learn from and half as many others to search for, and say how to go on. Raises `UsageError`."""
    check_folder("ROOT", root)
    if any(root.iterdir()):
        raise UsageError(f"{root}: holds something already; name a new or an empty folder")
    fewest = 2 if layout == "market1501" else SITE_PEOPLE  # of few on a site nobody crosses two cameras
    others = max(fewest, people // 2)
    with Bar(console, "drawing") as bar:
        first = FIRST_SEED + 1000 * seed
        if layout == "market1501":
            _crops(root, people, others, first, workers, bar.at)
        else:
            _scenes(root, people, others, first, bar.at)
    pictures = sum(1 for path in root.glob("*/*.jpg"))
    console.print(f"{root}: {pictures} pictures of {people} people to learn from and {others} others", markup=False)
    console.print(f"look at it: sightline data inspect {layout} {root}", markup=False)
    return {"layout": layout, "root": str(root), "pictures": pictures, "people": people, "others": others, "seed": seed}


def _crops(root: Path, people: int, others: int, seed: int, workers: int, report: Callable[[float, str], None]) -> None:
    def progress(done: int, of: int) -> None:
        report(done / of, f"{done} of {of} people")

    write_market(root, seed=seed, train_people=people, test_people=others, workers=workers, progress=progress)


def _scenes(root: Path, people: int, others: int, seed: int, report: Callable[[float, str], None]) -> None:
    train = _sites(people, seed)
    test = _sites(others, seed + len(train))
    report(0.0, f"{len(train) + len(test)} sites")
    write_prw(root, train, test)


def _sites(people: int, seed: int) -> list[SceneSettings]:
    """As many sites as so many people need, the last one with who is left."""
    return [
        SceneSettings(
            seed + n, min(SITE_PEOPLE, people - n * SITE_PEOPLE), seconds=SITE_S, fps=FRAMES_PER_S, crowd=CROWD
        )
        for n in range(ceil(people / SITE_PEOPLE))
    ]
