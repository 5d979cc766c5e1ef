"""``sightline export``"""

from pathlib import Path
from typing import Annotated

import typer

from deploy.output import JsonPath, Output, Thresholds, named_path
from stream.errors import UsageError
from stream.model import Precision


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="checkpoint.pt of a training run, or its folder; with --precision also a bundle, by name or folder.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", parser=named_path, help="Folder of the bundle.")],
    name: Annotated[str, typer.Option(help="The model's name on its card; a bundle's is kept and lengthened.")] = "",
    version: Annotated[
        str, typer.Option(help="The model's version on its card.", show_default="1, or the bundle's")
    ] = "",
    precision: Annotated[
        Precision, typer.Option(help="What the graph computes in; int8 keeps fp32 where a layer does not bear it.")
    ] = "fp32",
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="At least 64 .jpg and .png pictures for the ranges of fp16 and int8: crops, or scenes for a detector.",
            show_default="drawn pictures",
        ),
    ] = None,
    source: Annotated[str, typer.Option(help="What the card says about where it comes from.")] = "",
    licence: Annotated[
        str,
        typer.Option(
            help="The model's licence on its card, where more than drawn people was seen.",
            show_default="Apache-2.0 of drawn people, else unknown",
        ),
    ] = "",
    scores: Annotated[
        list[Path] | None, typer.Option(metavar="JSON", help="What `sightline evaluate --json` wrote; may be repeated.")
    ] = None,
    default: Thresholds = None,
    height: Annotated[
        int | None, typer.Option(min=32, help="Input height (detectors, person search).", show_default="recipe")
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=32, help="Input width (detectors, person search).", show_default="recipe")
    ] = None,
    json: JsonPath = None,
) -> None:
    """Make a bundle of a checkpoint: ONNX graph, card, golden set and link rows, once the graph has answered as torch did.

    Examples: sightline export runs/osnet/checkpoint.pt --output my-osnet --name my-osnet
              sightline export my-osnet --precision fp16 --output my-osnet-fp16
              sightline export my-osnet --precision int8 --calibration crops --output my-osnet-int8
    """
    from deploy.bundle import CARD, names
    from deploy.training import require_torch

    report = Output(json)
    if calibration is not None and precision == "fp32":
        raise UsageError("--calibration is for --precision fp16 and int8")
    is_run = model.endswith(".pt") or (Path(model) / "checkpoint.pt").is_file()
    if model in names() or (Path(model) / CARD).is_file() or (precision != "fp32" and not is_run):
        if source or licence or scores or default or height or width:
            raise UsageError(
                "--source, --licence, --scores, --default, --height and --width are for a checkpoint: "
                "a bundle has its own"
            )
        if calibration is None:
            require_torch("export with drawn calibration pictures")
        from deploy.converting import convert_bundle

        report.data(convert_bundle(model, output, precision, calibration, name, version, report.console))
        return
    require_torch("export")
    from deploy.exporting import export_checkpoint

    size = (height, width)
    report.data(
        export_checkpoint(
            Path(model),
            output,
            name,
            version or "1",
            source,
            licence,
            scores or [],
            default or [],
            size,
            precision,
            calibration,
            report.console,
        )
    )
