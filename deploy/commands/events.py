"""``sightline events``"""

from pathlib import Path
from string import hexdigits
from typing import Annotated

import typer

from deploy.output import SitePath, StatePath


def events(
    site: SitePath,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, until Ctrl-C.")] = False,
    camera: Annotated[str | None, typer.Option(metavar="ID", help="Of this camera only.", show_default=False)] = None,
    identity: Annotated[
        str | None, typer.Option(metavar="HEX", help="Of identities that begin so.", show_default=False)
    ] = None,
    after: Annotated[
        int | None, typer.Option(min=0, metavar="NUMBER", help="Behind this number.", show_default=False)
    ] = None,
    start: Annotated[
        str, typer.Option("--from", metavar="WHEN", help="earliest, latest, or a time like 2026-01-31T08:00Z.")
    ] = "earliest",
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="PATH", help="Also as lines of JSON; - is standard output.", show_default=False),
    ] = None,
    state: StatePath = None,
) -> None:
    """Print match events, oldest first: from Kafka, or without it from the gallery.

    Example: sightline events site.toml --follow --camera entrance
    """
    from deploy.service import stop_on_signals
    from deploy.settings import load
    from deploy.telling import print_events, when

    settings = load(site)
    if camera is not None and camera not in settings.partitions:
        raise typer.BadParameter(
            f"no such camera in {site}; known: {', '.join(settings.partitions)}", param_hint="--camera"
        )
    if after is not None and start != "earliest":
        raise typer.BadParameter("a number says where to begin: leave --from out", param_hint="--after")
    if identity and not set(identity) <= set(hexdigits):
        raise typer.BadParameter("identities are written in 0 to 9 and a to f", param_hint="--identity")
    with stop_on_signals() as stop:
        print_events(
            settings,
            stop,
            json,
            state,
            follow=follow,
            camera=camera,
            identity=(identity or "").lower(),
            after=after,
            start=when(start),
        )
