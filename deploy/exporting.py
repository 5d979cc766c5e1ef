"""What `sightline export` does: golden pictures, scores and words for the card around `deploy.export`."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from deploy.adopt_links import fitter
from deploy.adopting import check_named
from deploy.backends.pixels import fit_of, scaled
from deploy.bundle import Bundle
from deploy.converting import Conversion, converting
from deploy.export import Described, export
from deploy.export_search import export_person_search, served_hw
from deploy.thresholds import card_defaults
from deploy.training import Bar, check_output
from detector.letterbox import letterbox
from stream.errors import DataError, UsageError
from stream.model import MAX_SIDE_PX, Backend, Kind, Links, Precision
from trainer import checkpoint, drawn
from trainer.checkpoint import Checkpoint
from trainer.datasets.table import MIX, SYNTHETIC
from trainer.methods.person_search import PersonSearchRecipe
from trainer.scene_batch import STRIDE as SIDES
from trainer.serving import ServedDetector, served
from trainer.settings import make_recipe

GOLDEN = 4
DRAWN = "synthetic: drawn people of ingest.synthetic"
"""What a card says in place of the names of drawn data sets."""

UNKNOWN = "unknown"
"""How a licence begins that nobody has named."""

Size = tuple[int | None, int | None]
"""Height and width that were asked for."""


def export_checkpoint(
    path: Path,
    output: Path,
    name: str,
    version: str,
    source: str,
    licence: str,
    score_files: list[Path],
    thresholds: list[str],
    size: Size,
    precision: Precision,
    calibration: Path | None,
    console: Console,
) -> dict[str, Any]:
    """Write the bundle and say what it is; fp16 and int8 take ranges from the pictures in folder `calibration`, else drawn ones.

    `licence` is the card's; where it is empty, only a network that has seen nothing but drawn people is Apache-2.0.
    """
    if not name:
        raise UsageError("--name is missing: a checkpoint brings none")
    check_named(name, version)
    saved = checkpoint.load(path)
    recipe = make_recipe(saved.recipe, f"{path} was trained with another Sightline, which can export it")
    check_output(output)
    data_sets, terms = seen_on_card(saved.data_sets, licence)
    if terms.startswith(UNKNOWN) and not licence:
        console.print(f"licence: {terms}; once you know it, say it with --licence")
    described = Described(
        name=name,
        version=version,
        source=source,
        data_sets=data_sets,
        scores=card_scores(score_files),
        synthetic_only=data_sets == (DRAWN,),
        licence=terms,
        defaults=card_defaults(thresholds),
    )
    if isinstance(recipe, PersonSearchRecipe):
        if precision != "fp32":
            raise UsageError(
                f"{path} is of person search, which is exported in fp32 first: leave --precision out, then "
                f"`sightline export {output} --precision {precision} --output DIR`"
            )
        bundle = _person_search(path, recipe, output, described, size, console)
    else:
        bundle = _one_graph(path, saved, output, described, size, precision, calibration, console)
    card = bundle.card
    console.print(f"{output}: {card.id}, {card.kind} of {card.input_hw[0]}x{card.input_hw[1]} (height x width)")
    return {"bundle": str(output), "id": card.id, "input_hw": card.input_hw, "scores": card.scores}


def seen_on_card(data_sets: Sequence[str], licence: str) -> tuple[tuple[str, ...], str]:
    """What a card says that the weights have seen, given the names in a checkpoint, and its licence, given what was asked for ("": none)."""
    real = [each for each in data_sets if each not in (SYNTHETIC, MIX)]
    if not real:
        return (DRAWN,), licence or "Apache-2.0"
    drawn_too = [DRAWN] if len(real) < len(data_sets) else []
    return (*drawn_too, *real), licence or f"{UNKNOWN}: see the terms of {', '.join(real)}"


def _one_graph(
    path: Path,
    saved: Checkpoint,
    output: Path,
    described: Described,
    size: Size,
    precision: Precision,
    calibration: Path | None,
    console: Console,
) -> Bundle:
    module, size_hw = served(saved)
    is_detector = isinstance(module, ServedDetector)
    kind: Kind = "detector" if is_detector else "embedder"
    if any(size):
        if not is_detector:
            raise UsageError(
                "--height and --width are for what takes whole pictures: an embedder is served at the size it was trained at"
            )
        size_hw = _asked(size, size_hw)
    pictures = drawn.golden_pictures("scenes" if is_detector else "crops", GOLDEN)
    golden = scaled(pictures, size_hw, fit_of(kind))
    conversion: AbstractContextManager[Conversion | None] = nullcontext()
    if precision != "fp32":
        conversion = converting(kind, size_hw, precision, calibration, console)
    with conversion as wanted:
        return export(
            path,
            output,
            described,
            golden,
            input_hw=size_hw,
            conversion=wanted,
            fit=partial(_link_rows, console),
            say=console.print,
        )


def _asked(size: Size, own_hw: tuple[int, int]) -> tuple[int, int]:
    """The input size of whole pictures: `size`, and its own where that says nothing."""
    height, width = size[0] or own_hw[0], size[1] or own_hw[1]
    if height % SIDES or width % SIDES or max(height, width) > MAX_SIDE_PX:
        raise UsageError(f"the input is {height}x{width}, expected multiples of {SIDES} up to {MAX_SIDE_PX}")
    return height, width


def _link_rows(console: Console, backend: Backend) -> Links:
    """On drawn people: some thousand crops to embed, which takes minutes where the network is large."""
    with Bar(console, "link rows") as bar:
        return fitter(None, bar.at)(backend)


def _person_search(
    path: Path, recipe: PersonSearchRecipe, output: Path, described: Described, size: Size, console: Console
) -> Bundle:
    golden, _ = letterbox(drawn.golden_pictures("scenes", GOLDEN), _asked(size, served_hw(recipe)))
    with Bar(console, "link rows") as bar:
        return export_person_search(
            path,
            output,
            described,
            golden,
            report=lambda done: bar.at(done, "of the drawn scenes looked at"),
            say=console.print,
        )


def card_scores(files: list[Path]) -> dict[str, float]:
    """The figures that `sightline evaluate --json` wrote of one model, for the card; camera pairs are not for it."""
    scores: dict[str, float] = {}
    for file in files:
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            scores |= {str(key): round(float(value), 4) for key, value in values.items() if key != "camera_pairs"}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{file}: expected the JSON that `sightline evaluate --json` wrote of one model") from error
    return scores
