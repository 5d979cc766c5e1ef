"""Accuracy of the five methods and their ablations on drawn people: trains and scores each row, prints the table of docs/methods.md.

    python benchmarks/methods.py --output runs/table                        all rows, hours on one core; goes on where it stopped
    python benchmarks/methods.py --output runs/table --max-minutes 30       so long
    python benchmarks/methods.py --output runs/table --only eprinet         one method
    python benchmarks/methods.py --output runs/table --print                the table of what is there

A small set-up for a machine without a GPU: few people, half the papers' sizes, few epochs, from scratch (`TRIALS`). Each row is what its
two commands do (`sightline train ...`, `sightline evaluate`); they are in rows.jsonl with the scores. Pictures per second are those of
one processor core, so that other work on the machine does not count. A method's first row keeps its checkpoint.
"""

import argparse
import itertools
import json
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from deploy.evaluation import Asked, evaluate_models
from deploy.evaluation_models import Model, open_model
from deploy.training import make_recipe, run_training
from trainer.costs import cost
from trainer.datasets.synthetic import FRAME_HW
from trainer.methods import method_module
from trainer.settings import make_recipe as complete

RECIPES = Path(__file__).resolve().parent.parent / "configs" / "train"
FULL = "as published"
# the table was made before the recipes became calm
BATCH: dict[str, object] = {"batch_people": 8, "batch_pictures": 2, "calm": False}
TRIALS: dict[str, dict[str, object]] = {
    "osnet": BATCH | {
        "people": 40, "epochs": 6, "width": 1.0, "calm": True, "contrastive_weight": 1.0, "softmax_from": 0.2,
        "triplet_weight": 0.0,
    },
    "eprinet": BATCH | {
        "people": 40, "epochs": 2, "learning_rate": 1e-3, "warmup_epochs": 1, "milestones": [2], "triplet_epochs": 0,
        "precision": "fp32",
    },
    "magnifiernet": BATCH | {
        "people": 40, "epochs": 2, "learning_rate": 3e-3, "milestones": [40], "stage2_from": 1, "stage2_lr": 3e-4,
    },
    "mgre": BATCH | {"people": 40, "epochs": 2, "learning_rate": 1e-3, "warmup_epochs": 1, "milestones": [2]},
    "person-search": {"people": 20, "epochs": 2, "milestones": [2], "batch": 2},
}  # fmt: skip
"""What is put on top of configs/train/METHOD-synthetic.toml; the papers' schedules are hundreds of epochs long. EPRI-Net's layers are
mostly depthwise, which a CPU computes faster in fp32. Person search: 24 frames of one site with 20 people who have names."""
PAPERS = {
    ("osnet", FULL): "81.0 / 93.6",
    ("osnet", "full 3x3 convolutions"): "82.7 / 94.0",
    ("osnet", "separate gates"): "80.2 / 92.9",
    ("osnet", "stream-wise gate"): "80.0 / 92.6",
    ("osnet", "fixed gates"): "77.5 / 91.6",
    ("osnet", "addition"): "78.2 / 92.0",
    ("osnet", "concatenation"): "77.4 / 91.4",
    ("osnet", "T = 3"): "79.9 / 92.8",
    ("osnet", "T = 2"): "77.0 / 91.7",
    ("osnet", "T = 1"): "67.7 / 86.5",
    ("osnet", "four streams of depth 2"): "77.9 / 91.7",
    ("eprinet", FULL): "90.2 / 96.1",
    ("eprinet", "baseline"): "88.4 / 94.7",
    ("eprinet", "baseline + FPB"): "89.4 / 95.6",
    ("eprinet", "baseline + PFPB"): "90.1 / 96.0",
    ("eprinet", "baseline + PAM"): "88.7 / 95.2",
    ("magnifiernet", FULL): "79.6 / 82.4",
    ("magnifiernet", "G"): "67.4 / 69.8",
    ("magnifiernet", "G + M"): "69.0 / 71.3",
    ("magnifiernet", "G + M + SAB"): "74.6 / 76.6",
    ("magnifiernet", "G + M + SFB"): "75.9 / 77.4",
    ("magnifiernet", "G + M + SAB + SFB"): "78.5 / 81.2",
    ("mgre", FULL): "90.1 / 96.2",
    ("mgre", "baseline"): "85.8 / 94.3",
    ("mgre", "baseline+1"): "89.0 / 95.4",
    ("mgre", "baseline+2"): "89.0 / 95.2",
    ("mgre", "baseline+3"): "88.8 / 95.5",
    ("mgre", "baseline+2+3"): "90.0 / 95.5",
    ("mgre", "single-grained features"): "87.5 / 95.1",
    ("mgre", "single-grained regions"): "89.6 / 95.3",
    ("mgre", "baseline+joint optimisation"): "86.6 / 95.0",
    ("mgre", "without joint optimisation"): "89.5 / 95.6",
    ("person-search", FULL): "35.8",
    ("person-search", "GoogLeNet"): "26.3",
    ("person-search", "ResNet-50"): "32.7",
    ("person-search", "DenseNet-121"): "33.5",
    ("person-search", "GoogLeNet + attention"): "28.1",
    ("person-search", "ResNet-50 + attention"): "34.7",
}
"""mAP / rank-1 as printed: Market-1501, of MagnifierNet CUHK03-NP labeled (the set of its ablation); of person search mAP on PRW."""


def rows() -> Iterator[tuple[str, str, dict[str, object]]]:
    """(method, variant, keys): every method in full first, then the ablations in turn."""
    yield from ((method, FULL, {}) for method in TRIALS)
    ablations = [
        [
            (method, variant, dict(keys))
            for variant, keys in method_module(method).ABLATIONS.items()
            if trained(method, keys)
        ]
        for method in TRIALS
    ]
    for turn in itertools.zip_longest(*ablations):
        yield from filter(None, turn)


def trained(method: str, keys: Mapping[str, object]) -> bool:
    """Not the method itself again, what begins with somebody's weights, or what differs in its rate or size alone."""
    itself = complete({"method": method, **keys}, "a row") == complete({"method": method}, "a row")
    return not itself and not keys.keys() & {"weights", "learning_rate", "input_hw"}


def run(method: str, variant: str, keys: dict[str, object], output: Path, console: Console) -> dict[str, Any]:
    """Train, score and time one row; what is kept of it in rows.jsonl."""
    file = RECIPES / f"{method}-synthetic.toml"
    overrides = TRIALS[method] | keys
    folder = output / f"{method}-{variant}".replace(" ", "-").replace(",", "")
    console.rule(f"{method}, {variant}")
    run_training(method, file, overrides, folder, None, 1, console)
    scores = evaluate_models([str(folder)], [], [], Asked(threads=1), console)
    recipe = make_recipe(method, file, overrides)
    words = ["--recipe", f"configs/train/{file.name}"]
    for key, value in overrides.items():
        words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    here = cost(recipe)
    published = cost(complete({"method": method, **keys}, variant))
    row = {
        "method": method,
        "variant": variant,
        "command": shlex.join(["sightline", "train", method, *words, "--output", f"runs/{folder.name}"]),
        "date": str(datetime.now(UTC).date()),
        "people": recipe.people,
        "epochs": recipe.epochs,
        "input_hw": recipe.input_hw,
        "parameters": here.parameters,
        "multiply_adds": here.multiply_adds,
        "published_multiply_adds": published.multiply_adds,
        "pictures_per_cpu_s": pace(open_model(str(folder), 1)),
        "rank1": scores.get("synthetic/rank1", scores.get("synthetic/seqnet/top1")),
        "mAP": scores.get("synthetic/mAP", scores.get("synthetic/seqnet/mAP")),
        "detection": scores.get("synthetic/detection/AP"),
    }
    if variant != FULL:
        shutil.rmtree(folder)
    return row


def pace(model: Model) -> float:
    """Pictures per second of one core: sixteen at a time in fp32; of a person search single frames with all their proposals."""
    search = model.searches
    shape = (16, *model.input_hw, 3) if search is None else (1, *FRAME_HW, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    seconds = []
    for _ in range(3):
        began = time.process_time()
        if search is None:
            model.infers.infer(pictures)
        else:
            search.search(list(pictures), 0.0)
        seconds.append(time.process_time() - began)
    return len(pictures) / min(seconds)


def table(found: list[dict[str, Any]]) -> None:
    """Print as markdown what was measured, then the paper's own figures on its own data."""
    print(
        "| method | variant | parameters | multiply-adds, paper's size | here | pictures/s | mAP | rank-1 | **the paper's own** |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    order = list(TRIALS)
    by_method = sorted(rows(), key=lambda row: order.index(row[0]))
    place = {(method, variant): at for at, (method, variant, _) in enumerate(by_method)}
    for row in sorted(found, key=lambda row: place[row["method"], row["variant"]]):
        print(
            f"| {row['method']} | {row['variant']} | {row['parameters']:,} | {row['published_multiply_adds'] / 1e9:.4g} G "
            f"| {row['multiply_adds'] / 1e9:.3g} G | {row['pictures_per_cpu_s']:.3g} | {100 * row['mAP']:.1f} "
            f"| {100 * row['rank1']:.1f} | {PAPERS.get((row['method'], row['variant']), '')} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of rows.jsonl and the checkpoints")
    parser.add_argument("--only", choices=TRIALS, action="append", help="a method; repeatable")
    parser.add_argument("--max-minutes", type=float, default=float("inf"), help="no row is begun after so long")
    parser.add_argument("--print", action="store_true", dest="printed", help="nothing is trained")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.output.mkdir(parents=True, exist_ok=True)
    lines = asked.output / "rows.jsonl"
    found = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    began = time.monotonic()
    for method, variant, keys in rows():
        if asked.printed or time.monotonic() - began > 60 * asked.max_minutes:
            break
        there = any((row["method"], row["variant"]) == (method, variant) for row in found)
        if there or method not in (asked.only or TRIALS):
            continue
        found.append(run(method, variant, keys, asked.output, Console()))
        with lines.open("a") as file:
            file.write(json.dumps(found[-1]) + "\n")
    table(found)


if __name__ == "__main__":
    main()
