"""``sightline export``"""

from pathlib import Path
from typing import Annotated

import typer

from deploy.output import JsonPath, Output


def export(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint.pt of a training run.", show_default=False)],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the bundle.")],
    name: Annotated[str, typer.Option(help="The model's name on its card.")],
    version: Annotated[str, typer.Option(help="The model's version on its card.")] = "1",
    source: Annotated[str, typer.Option(help="What the card says about where it comes from.")] = "",
    scores: Annotated[
        list[Path] | None, typer.Option(metavar="JSON", help="What `sightline evaluate --json` wrote; may be repeated.")
    ] = None,
    default: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A threshold that sites get unless they state it: high_score, new_score, low_score, nms_iou, false_links; may be repeated.",
        ),
    ] = None,
    height: Annotated[
        int | None, typer.Option(min=32, help="Input height (detectors, person search).", show_default="recipe")
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=32, help="Input width (detectors, person search).", show_default="recipe")
    ] = None,
    json: JsonPath = None,
) -> None:
    """Make a bundle of a checkpoint: ONNX graph, card, golden set and link rows, once the graph has answered as torch did.

    Example: sightline export runs/osnet/checkpoint.pt --output my-osnet --name my-osnet
    """
    from deploy.exporting import export_checkpoint
    from deploy.training import require_torch

    require_torch("export")
    report = Output(json)
    report.data(
        export_checkpoint(
            checkpoint, output, name, version, source, scores or [], default or [], (height, width), report.console
        )
    )
