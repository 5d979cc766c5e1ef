"""``sightline methods``"""

from typing import Annotated

import typer

from deploy.output import JsonPath, Output


def methods(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[METHOD]...", help="Only these.", show_default="all")
    ] = None,
    json: JsonPath = None,
) -> None:
    """List the training methods and their papers' ablations: embedding, input, parameters, multiply-adds, losses, command.

    Example: sightline methods osnet mgre --json methods.json
    """
    from deploy.training import require_torch

    require_torch("methods")
    from deploy.methods import list_methods

    report = Output(json)
    report.data(list_methods(names or [], report.console))
