"""``sightline methods``"""

from typing import Annotated

import typer

from deploy.output import JsonPath, Output


def methods(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[METHOD]...", help="Only these.", show_default="all")
    ] = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="Instead: every key of one method, its value and meaning, as a recipe file.")
    ] = False,
    json: JsonPath = None,
) -> None:
    """List the training methods and their papers' ablations: embedding, input, parameters, multiply-adds, losses, command.

    Examples: sightline methods osnet mgre --json methods.json
              sightline methods osnet --keys > my.toml
    """
    from deploy.training import require_torch

    require_torch("methods")
    from deploy.methods import list_keys, list_methods

    report = Output(json)
    report.data((list_keys if keys else list_methods)(names or [], report.console))
