"""What `sightline export` does: golden pictures, scores and words for the card around `deploy.export`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from deploy.export import Described, export
from detector.letterbox import letterbox
from reid.crops import to_batch
from stream.errors import DataError, UsageError
from trainer import checkpoint, drawn
from trainer.datasets.table import MIX, SYNTHETIC
from trainer.serving import ServedDetector, served

GOLDEN = 4


def export_checkpoint(
    path: Path,
    output: Path,
    name: str,
    version: str,
    source: str,
    score_files: list[Path],
    size: tuple[int | None, int | None],
    console: Console,
) -> dict[str, Any]:
    """Write the bundle and say what it is."""
    saved = checkpoint.load(path)
    if saved.recipe.get("method") == "person-search":
        raise UsageError(
            f"{path} is of person search, which the stream cannot serve yet: evaluate it, or name an embedder"
        )
    module, size_hw = served(saved)
    is_detector = isinstance(module, ServedDetector)
    if any(size):
        if not is_detector:
            raise UsageError(
                "--height and --width are for detectors: an embedder is served at the size it was trained at"
            )
        size_hw = (size[0] or size_hw[0], size[1] or size_hw[1])
        if size_hw[0] % 32 or size_hw[1] % 32:
            raise UsageError(f"the input is {size_hw[0]}x{size_hw[1]}, expected multiples of 32")
    pictures = drawn.golden_pictures("scenes" if is_detector else "crops", GOLDEN)
    golden = letterbox(pictures, size_hw)[0] if is_detector else to_batch(pictures, size_hw)
    synthetic = saved.recipe.get("data") in (SYNTHETIC, MIX)
    described = Described(
        name=name,
        version=version,
        source=source,
        data_sets=("synthetic: drawn people of ingest.synthetic",) if synthetic else (Path(saved.recipe["data"]).name,),
        scores=card_scores(score_files),
        synthetic_only=synthetic,
    )
    bundle = export(path, output, described, np.ascontiguousarray(golden), input_hw=size_hw)
    console.print(f"{output}: {bundle.card.id}, {bundle.card.kind} of {size_hw[0]}x{size_hw[1]} (height x width)")
    return {"bundle": str(output), "id": bundle.card.id, "input_hw": size_hw, "scores": bundle.card.scores}


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
