"""``sightline evaluate``"""

from pathlib import Path
from typing import Annotated

import typer

from deploy.output import JsonPath, Output
from deploy.settings import Runtime


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A training's output folder, a checkpoint.pt, or a bundle's name or folder. Several make a table.",
            show_default=False,
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Data set, as in `sightline data inspect`, or a folder in Market-1501's layout; may be repeated.",
            show_default="what the model was trained on",
        ),
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder of each --data that is read from one, in the same order."),
    ] = None,
    rerank: Annotated[bool, typer.Option("--rerank", help="Also re-rank by k-reciprocal neighbours.")] = False,
    erase: Annotated[
        float, typer.Option(min=0, max=1, help="Wipe out a rectangle in this share of the pictures (embedders).")
    ] = 0.0,
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw ranked lists and CMC curves there, as PNG.")
    ] = None,
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
    backend: Annotated[
        Runtime | None,
        typer.Option(help="Runtime of bundles: of tensorrt its engine is scored.", show_default="onnxruntime"),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor cores.", show_default="all")] = None,
    json: JsonPath = None,
) -> None:
    """Score models on pictures they have not seen: test sets of the field, drawn ones, or real footage beside a reference.

    Example: sightline evaluate runs/osnet --data market1501 --root data/market --rerank --pictures runs/osnet
    """
    from deploy.evaluation import Asked, evaluate_models, evaluate_on_video
    from deploy.training import require_torch
    from stream.errors import UsageError

    require_torch("evaluate")
    report = Output(json)
    if video is not None:
        if len(models) > 1 or data:
            raise UsageError("--video takes one model and no --data")
        report.data(evaluate_on_video(models[0], video, reference, people, threads, backend, report.console))
        return
    asked = Asked(rerank, erase, pictures, threads, backend)
    report.data(evaluate_models(models, data or [], root or [], asked, report.console))
