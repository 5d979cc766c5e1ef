"""``sightline data``"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from deploy.output import JsonPath, Output
from stream.cores import usable_cores

data = typer.Typer(
    help="Look into data sets, annotate them, and draw some.\n\nExample: sightline data inspect market1501 /data",
    no_args_is_help=True,
)
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="market1501, duke, cuhk03-labeled, cuhk03-detected, msmt17, msmt17-train, folder, prw, cuhk-sysu, synthetic.",
        show_default=False,
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor cores.", show_default="all")]


@data.command()
def inspect(
    name: Name,
    root: Annotated[
        Path | None,
        typer.Argument(
            metavar="[ROOT]", help="The set's folder, or the one above; none for synthetic.", show_default=False
        ),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="The contact sheet.", show_default="NAME.png")
    ] = None,
    people: Annotated[int, typer.Option(min=0, help="synthetic: how many people are drawn to learn; 0 means 300.")] = 0,
    threads: Threads = None,
    json: JsonPath = None,
) -> None:
    """Count a data set beside what its authors publish, open every picture, and list everything that does not fit.

    Example: sightline data inspect market1501 /data/Market-1501-v15.09.15
    """
    from deploy.training import require_torch

    require_torch("data")
    from deploy.data import inspect_data

    report = Output(json)
    cores = threads or usable_cores()
    report.data(inspect_data(name, root, sheet or Path(f"{name}.png"), people, cores, report.console))


@data.command()
def annotate(
    name: Name,
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="The set's folder, or the one above.", show_default=False)
    ],
    every_split: Annotated[
        bool, typer.Option("--every-split", help="Query and gallery too; training needs neither.")
    ] = False,
    keypoint_weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="State dict of keypointrcnn_resnet50_fpn.", show_default="downloaded"),
    ] = None,
    mask_weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="State dict of maskrcnn_resnet50_fpn.", show_default="downloaded"),
    ] = None,
    threads: Threads = None,
    json: JsonPath = None,
) -> None:
    """Find joints and body parts in a set of crops and write them beside the pictures; the same command goes on after a stop.

    Example: sightline data annotate market1501 /data/Market-1501-v15.09.15
    """
    from deploy.training import require_torch

    require_torch("data")
    from deploy.data import annotate_data

    report = Output(json)
    cores = threads or usable_cores()
    report.data(annotate_data(name, root, every_split, keypoint_weights, mask_weights, cores, report.console))


@data.command()
def draw(
    layout: Annotated[
        Literal["market1501", "prw"],
        typer.Argument(metavar="market1501|prw", help="Crops of people, or whole scenes.", show_default=False),
    ],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="A new or an empty folder.", show_default=False)],
    people: Annotated[
        int, typer.Option(min=2, max=10_000, help="Whom to learn from; half as many others are searched for.")
    ] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Another seed: other people, clothes and cameras.")] = 0,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Processor cores that draw crops; scenes are drawn on one.", show_default="all"),
    ] = None,
    json: JsonPath = None,
) -> None:
    """Draw people and write them as files in a data set's layout, crops with joints and body parts: for any tool that reads it.

    Training on drawn people needs no files: sightline train METHOD --data synthetic.

    Example: sightline data draw market1501 drawn-people --people 100
    """
    from deploy.drawing import draw_data

    report = Output(json)
    report.data(draw_data(layout, root, people, seed, threads or usable_cores(), report.console))
