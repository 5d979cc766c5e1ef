"""``sightline train``"""

from pathlib import Path
from typing import Annotated

import typer

from deploy.output import JsonPath, Output


def train(
    method: Annotated[str, typer.Argument(help="osnet or detector.", show_default=False)],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where checkpoint.pt goes; one that is there is continued.")
    ],
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Recipe, as in configs/train/. Default: the method's own values."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="synthetic, or a folder in Market-1501's layout.", show_default="synthetic")
    ] = None,
    people: Annotated[int | None, typer.Option(min=2, help="Drawn people (osnet).")] = None,
    scenes: Annotated[int | None, typer.Option(min=1, help="Drawn scenes (detector).")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Length of the schedule.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the drawings, the weights and the order.")] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so long; the same command goes on from there.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor cores.", show_default="all")] = None,
    json: JsonPath = None,
) -> None:
    """Train a model. It can be stopped and continued at any time: the same command goes on where it was.

    Example: sightline train osnet --recipe configs/train/osnet.toml --output runs/osnet --max-minutes 20
    """
    from deploy.training import require_torch, run_training

    require_torch("train")
    keys = {"data": data, "people": people, "scenes": scenes, "epochs": epochs, "seed": seed}
    overrides = {key: value for key, value in keys.items() if value is not None}
    report = Output(json)
    report.data(run_training(method, recipe, overrides, output, max_minutes, threads, report.console))
