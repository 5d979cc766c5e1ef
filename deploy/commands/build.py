"""``sightline build``"""

from typing import Annotated

import typer

from deploy.engine import WORKSPACE_MIB
from deploy.output import JsonPath, Output


def build(
    bundle: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE", help="Name or folder of a bundle; with --check an ONNX file too.", show_default=False
        ),
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Only list the nodes that TensorRT's parser does not take; needs no GPU.")
    ] = False,
    least: Annotated[int, typer.Option("--min", min=1, help="Smallest batch.")] = 1,
    best: Annotated[
        int | None, typer.Option("--opt", min=1, help="Batch to be fastest at.", show_default="--max")
    ] = None,
    most: Annotated[
        int | None, typer.Option("--max", min=1, help="Largest batch; more is split.", show_default="the card's")
    ] = None,
    workspace_mib: Annotated[
        int,
        typer.Option("--workspace", metavar="MIB", min=16, help="GPU memory that kernels may use beside the engine."),
    ] = WORKSPACE_MIB,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="An engine that newer TensorRTs of the same major version load too; may be slower.",
        ),
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build, though the cache has an engine that fits.")
    ] = False,
    json: JsonPath = None,
) -> int:
    """Make the TensorRT engine of a bundle for this machine's GPU, prove that it answers as the bundle does, and keep it.

    The stream takes it from the cache, and builds it itself where there is none.

    Examples: sightline build osnet-x0.25 · sightline build person-detector --max 4 · sightline build my-model.onnx --check
    """
    from deploy import building

    output = Output(json)
    if check:
        found, is_taken = building.check(bundle, output.console)
        output.data(found)
        return 0 if is_taken else 1
    sizes = (least, best, most)
    output.data(building.build(bundle, sizes, workspace_mib, version_compatible, rebuild, output.console))
    return 0
