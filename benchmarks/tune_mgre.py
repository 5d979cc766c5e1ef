"""The weights of MGRe's four stages, searched on people who were held out of training.

    sightline train mgre --data market1501 --root DIR --set val_ids=100 --output runs/mgre ...
    python benchmarks/tune_mgre.py runs/mgre/checkpoint.pt --output runs/mgre/tuned.pt

Prints the weights and the mAP on those people before and after; the new checkpoint differs in them alone.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from stream.errors import SightlineError
from trainer import checkpoint
from trainer.datasets import load_reid
from trainer.evaluate import embed, split
from trainer.methods.mgre import MGReRecipe, tune_weights
from trainer.metrics import F32, rank
from trainer.serving import TorchBackend, served
from trainer.settings import make_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--root", default=None, help="of the data set, if it is no longer where it was")
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    try:
        tune(asked.checkpoint, asked.root, asked.output)
    except SightlineError as error:
        raise SystemExit(f"tune_mgre: {error}") from error


def tune(path: Path, root: str | None, output: Path) -> None:
    saved = checkpoint.load(path)
    recipe = make_recipe(saved.recipe, "the checkpoint's recipe")
    if not isinstance(recipe, MGReRecipe) or not recipe.val_ids or recipe.is_baseline:
        raise SystemExit(f"{path} is no MGRe of several stages that was trained with val_ids")
    held_out = load_reid(
        recipe.data,
        root or recipe.root,
        recipe.input_hw,
        people=recipe.people,
        seed=recipe.seed,
        val_ids=recipe.val_ids,
    ).validation
    assert held_out is not None, "val_ids were asked for"
    query, gallery = split(held_out)
    module, size_hw = served(saved)
    backend = TorchBackend(module)
    vectors = np.concatenate([embed(backend, part, size_hw) for part in (query, gallery)])

    def mean_ap(found: F32) -> float:
        asked_for, among = found[: len(query.people)], found[len(query.people) :]
        return rank(asked_for, query.people, query.cameras, among, gallery.people, gallery.cameras).mean_ap

    weights, best = tune_weights(recipe, vectors, mean_ap)
    print(f"stage_weights {recipe.stage_weights}: mAP {mean_ap(vectors):.4f} on {recipe.val_ids} people held out")
    print(f"stage_weights {weights}: mAP {best:.4f}")
    checkpoint.save(output, replace(saved, recipe=saved.recipe | {"stage_weights": list(weights)}))


if __name__ == "__main__":
    main()
