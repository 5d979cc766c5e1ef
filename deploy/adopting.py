"""What `sightline adopt` does: options to a recipe, the bytes, the bundle, and words about each step."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from deploy.adopt import PRESETS, Recipe, adopt
from deploy.adopt_fetch import fetch
from deploy.adopt_graph import BoxFormat, Colour
from deploy.adopt_links import fitter
from deploy.bundle import CARD, SHIPPED, user_bundles
from deploy.thresholds import card_defaults
from deploy.training import Bar
from stream.errors import UsageError

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user says about the model; None where nothing was said."""

    preset: str | None
    kind: Literal["detector", "embedder"] | None
    colour: Colour | None
    scale: float | None
    mean: str | None
    std: str | None
    boxes: BoxFormat | None
    objectness: bool | None
    person: int | None


def adopt_model(
    place: str,
    wanted: Wanted,
    console: Console,
    *,
    name: str,
    version: str,
    sha256: str | None,
    licence: str | None,
    crops: Path | None,
    output: Path | None,
    replace: bool,
    thresholds: list[str],
    input_hw: str | None,
    take: str | None,
) -> dict[str, Any]:
    """Fetch, rewrite, try and write; says what was done."""
    recipe = recipe_of(wanted)
    check_named(name, version)
    folder = _folder(name, output, replace)
    size_hw = _size(input_hw)
    defaults = card_defaults(thresholds)
    data = _fetch(place, sha256, console)
    with Bar(console, "link rows") as bar:
        fit = None
        if recipe.kind == "embedder":
            fit = fitter(crops, bar.at)
        adopted = adopt(
            data, recipe, folder, name=name, where=place, version=version, licence=licence, input_hw=size_hw,
            output=take, fit=fit, defaults=defaults,
        )  # fmt: skip
    card = adopted.bundle.card
    height, width = card.input_hw
    console.print(f"{folder}: {card.id}, {card.kind} of {height}x{width} (height x width), {card.licence}")
    for note in adopted.notes:
        console.print(f"  {note}")
    section = "detector" if card.kind == "detector" else "reid"
    said = name if output is None else str(folder)
    console.print(f'Use it: [{section}] bundle = "{said}" in the site file')
    return {"bundle": str(folder), "id": card.id, "max_batch": card.max_batch, "notes": list(adopted.notes)}


def check_named(name: str, version: str) -> None:
    """Raises `UsageError` where a card could not carry them: its id, the label of every vector, begins with both."""
    for option, said, like in (("--name", name, "my-osnet"), ("--version", version, "2.1")):
        if not NAME.fullmatch(said):
            raise UsageError(
                f"{option} {said}: expected small letters, digits, '.', '_' and '-', at most 64, like {like}"
            )


def recipe_of(wanted: Wanted) -> Recipe:
    """The preset with what the user says otherwise. Raises `UsageError` where too little is said."""
    if wanted.preset is None and wanted.kind is None:
        raise UsageError(f"which family is it? Say --preset {', '.join(PRESETS)}, or --kind and its preprocessing")
    recipe = PRESETS[wanted.preset] if wanted.preset else Recipe(kind="detector")
    if wanted.preset and wanted.kind and wanted.kind != recipe.kind:
        raise UsageError(f"--preset {wanted.preset} is of kind {recipe.kind}, and --kind says {wanted.kind}")
    said: dict[str, Any] = {
        "kind": wanted.kind,
        "colour": wanted.colour,
        "scale": wanted.scale,
        "mean": _three("--mean", wanted.mean),
        "std": _three("--std", wanted.std),
        "boxes": wanted.boxes,
        "objectness": wanted.objectness,
        "person": wanted.person,
    }
    recipe = dataclasses.replace(recipe, **{key: value for key, value in said.items() if value is not None})
    if 0 in recipe.std or recipe.scale == 0:
        raise UsageError("--scale and --std must not be 0")
    return recipe


def _three(option: str, text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        a, b, c = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text}: expected three numbers like 0.485,0.456,0.406") from error
    return a, b, c


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    if match is None:
        raise UsageError(f"--input-hw {text}: expected height and width like 256x128")
    return int(match[1]), int(match[2])


def _folder(name: str, output: Path | None, replace: bool) -> Path:
    """Where the bundle goes. Raises `UsageError` where the place is taken."""
    if output is None and (SHIPPED / name / CARD).exists():
        raise UsageError(f"--name {name}: a shipped bundle has this name; choose another")
    folder = output.expanduser() if output is not None else user_bundles() / name
    if folder.is_file():
        raise UsageError(f"--output {folder}: is a file; give a folder")
    if (folder / CARD).exists() and not replace:
        raise UsageError(f"{folder}: there is a bundle already; choose another name or say --replace")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CARD).exists():
        raise UsageError(f"--output {folder}: holds other files; give a new folder")
    return folder


def _fetch(place: str, sha256: str | None, console: Console) -> bytes:
    """Bytes of a file or address; the bar's share is unknown where the server does not say how much will come."""
    with Bar(console, "fetching") as bar:
        return fetch(place, sha256, lambda done, of: bar.at(done / of if of else 0.0, f"{done / 1e6:.1f} MB"))
