"""``sightline evaluate``"""

from pathlib import Path
from typing import Annotated

import typer

from deploy.output import JsonPath, Output


def evaluate(
    model: Annotated[str, typer.Argument(help="A bundle's name or folder, or a checkpoint.pt.", show_default=False)],
    data: Annotated[
        str, typer.Option(help="synthetic, or a folder in Market-1501's layout (embedders).")
    ] = "synthetic",
    video: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Real footage: how far the model agrees with --reference on it.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="BUNDLE", help="A model of real people, of the same kind.")
    ] = None,
    people: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Who is where in the video: frame,x1,y1,x2,y2,person (embedders)."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor cores.", show_default="all")] = None,
    json: JsonPath = None,
) -> None:
    """Score a model on pictures it has not seen: drawn ones, a folder of labelled crops, or real footage beside a reference.

    Example: sightline evaluate person-detector --video lobby.mp4 --reference yolox-nano
    """
    from deploy.evaluation import evaluate_model
    from deploy.training import require_torch

    require_torch("evaluate")
    report = Output(json)
    report.data(evaluate_model(model, data, video, reference, people, threads, report.console))
