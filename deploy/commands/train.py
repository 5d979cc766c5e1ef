"""``sightline train``"""

from pathlib import Path
from typing import Annotated

import typer

from deploy.output import JsonPath, Output, named_path


def train(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD", help="osnet, eprinet, magnifiernet, mgre, person-search or detector.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            parser=named_path,
            help="Where checkpoint.pt, best.pt, curves.png and log/ go; a checkpoint.pt is continued.",
        ),
    ],
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Recipe, as in configs/train/. Default: the method's own values."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Data set, as `sightline data inspect` names it.", show_default="synthetic"),
    ] = None,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the data set.")] = None,
    people: Annotated[
        int | None, typer.Option(min=2, help="How many people are drawn, or taken of a real set.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Length of the schedule.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the drawings, the weights and the order.")] = None,
    start: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A checkpoint.pt, or its folder, whose weights are begun with.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE|imagenet", help="Pretrained weights that are begun with.")
    ] = None,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Begin with random weights.")] = False,
    precision: Annotated[str | None, typer.Option(help="bf16, fp16 or fp32.", show_default="bf16")] = None,
    accumulate: Annotated[int | None, typer.Option(min=1, help="Batches per step of the optimiser.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other key of the recipe; repeatable.")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so long; the same command goes on from there.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor cores.", show_default="all")] = None,
    json: JsonPath = None,
) -> None:
    """Train a model. It can be stopped and continued at any time: the same command goes on where it was, on another machine too.

    Example: sightline train mgre --data market1501 --root /data/market --output runs/mgre --max-minutes 60

    On several GPUs: torchrun --nproc-per-node 4 --no-python sightline train ...
    """
    from deploy.training import overrides_of, require_torch, run_training

    require_torch("train")
    named = {
        "data": data,
        "root": root and str(root),
        "people": people,
        "epochs": epochs,
        "seed": seed,
        "start": start and str(start),
        "weights": weights,
        "precision": precision,
        "accumulate": accumulate,
    }
    overrides = overrides_of(named, settings or [], from_scratch=from_scratch)
    report = Output(json)
    done = run_training(method, recipe, overrides, output, max_minutes, threads, report.console)
    if done is not None:
        report.data(done)
