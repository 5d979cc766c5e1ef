"""``sightline adopt``"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from deploy.output import JsonPath, Output, Thresholds, named_path

Preset = Literal["yolox", "omz-reid", "torchreid"]


def adopt(
    model: Annotated[str, typer.Argument(metavar="MODEL.onnx|https://…", help="The ONNX file.", show_default=False)],
    name: Annotated[str, typer.Option(help="The bundle's name; settings take it.", show_default=False)],
    preset: Annotated[Preset | None, typer.Option(help="The family; says all that follows below.")] = None,
    sha256: Annotated[str | None, typer.Option(metavar="DIGEST", help="Of the file; an address needs it.")] = None,
    licence: Annotated[str | None, typer.Option(help="Under which licence it is.", show_default="preset's")] = None,
    crops: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Embedders: labelled crops named as in Market-1501, to fit link rows on.",
            show_default="drawn people",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", parser=named_path, help="Folder to write.", show_default="your data folder, by name"
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle that is there.")] = False,
    version: Annotated[str, typer.Option(help="The version on its card.")] = "1",
    default: Thresholds = None,
    input_hw: Annotated[
        str | None, typer.Option(metavar="HxW", help="Input size, where the graph leaves it open.")
    ] = None,
    take: Annotated[str | None, typer.Option(metavar="OUTPUT", help="Which output, where there are several.")] = None,
    kind: Annotated[Literal["detector", "embedder"] | None, typer.Option(help="Without a preset: what it is.")] = None,
    colour: Annotated[Literal["rgb", "bgr"] | None, typer.Option(help="Colour order that it takes.")] = None,
    scale: Annotated[float | None, typer.Option(help="Pixels are multiplied by it, e.g. 0.00392157.")] = None,
    mean: Annotated[str | None, typer.Option(metavar="A,B,C", help="Then this is taken off.")] = None,
    std: Annotated[str | None, typer.Option(metavar="A,B,C", help="Then they are divided by this.")] = None,
    boxes: Annotated[
        Literal["yolox-grid", "cxcywh", "xyxy"] | None, typer.Option(help="Detectors: what the first four values are.")
    ] = None,
    objectness: Annotated[
        bool | None,
        typer.Option("--objectness/--no-objectness", help="Detectors: a fifth value multiplies the classes."),
    ] = None,
    person: Annotated[int | None, typer.Option(min=0, help="Detectors: which class people are.")] = None,
    json: JsonPath = None,
) -> None:
    """Make a bundle of somebody else's ONNX model: for real cameras, models of real people.

    Examples: sightline adopt yolox_nano.onnx --preset yolox --name yolox-nano
              sightline adopt theirs.onnx --preset yolox --name theirs --default new_score=0.6
    """
    from deploy.adopting import Wanted, adopt_model

    wanted = Wanted(preset, kind, colour, scale, mean, std, boxes, objectness, person)
    report = Output(json)
    report.data(
        adopt_model(
            model,
            wanted,
            report.console,
            name=name,
            version=version,
            sha256=sha256,
            licence=licence,
            crops=crops,
            output=output,
            replace=replace,
            thresholds=default or [],
            input_hw=input_hw,
            take=take,
        )
    )
