"""What `sightline data` does: look into a data set, and have people's joints and body parts found in its pictures."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from deploy.output import check_picture
from deploy.training import Bar
from stream.errors import UsageError
from trainer.annotate import annotate, load_teachers
from trainer.datasets import folder_of, unknown
from trainer.datasets.inspect import inspect
from trainer.datasets.sheet import png
from trainer.datasets.table import REID


def inspect_data(
    name: str, root: Path | None, sheet: Path, people: int, workers: int, console: Console
) -> dict[str, Any]:
    """Print counts beside the published ones, notes and problems, and write the contact sheet; returns what is reported."""
    check_picture("--sheet", sheet)
    with Bar(console, "looking") as bar:
        found, picture = inspect(name, root, people, workers, lambda done, of: bar.at(done / of, f"{done} of {of}"))
    table = Table(title=found.title, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("here", justify="right")
    if found.published:
        table.add_column("published", justify="right")
    for what, number in found.counts.items():
        published = found.published.get(what)
        row = [what, str(number)] + ([] if not found.published else ["" if published is None else str(published)])
        table.add_row(*row, style="yellow" if published not in (None, number) else None)
    console.print(table)
    for note in found.notes:
        console.print(note, markup=False)
    for problem in found.problems:
        console.print(f"! {problem}", markup=False)
    console.print(f"{len(found.problems) or 'no'} inconsistencies")
    if picture is not None:
        sheet.write_bytes(png(picture))
        console.print(f"contact sheet: {sheet}", markup=False)
    return {"name": name, **asdict(found), "sheet": None if picture is None else str(sheet)}


def annotate_data(
    name: str,
    root: Path,
    every_split: bool,
    keypoint_weights: Path | None,
    mask_weights: Path | None,
    threads: int,
    console: Console,
) -> dict[str, Any]:
    """Write joints and part labels of the training pictures (of all, with `every_split`); returns the coverage."""
    if name not in REID:
        raise UsageError(f"data annotate is for crops of people. {unknown(name, tuple(REID))}")
    listing = REID[name].read(folder_of(name, root))
    splits = [listing.train, listing.query, listing.gallery] if every_split else [listing.train]
    torch.set_num_threads(threads)
    teachers = load_teachers(
        keypoint_weights, mask_weights, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    )
    with Bar(console, f"annotating {name}") as bar:
        done = annotate(listing.root, splits, teachers, lambda n, of: bar.at(n / of, f"{n} of {of} pictures"))
    for what, number in (("joints", done.joints), ("part labels", done.parts)):
        console.print(f"{number} of {done.pictures} pictures have {what}")
    console.print(f"{done.written} annotated now; files below {listing.root}", markup=False)
    return asdict(done)
