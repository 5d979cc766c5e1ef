"""``sightline match``"""

from typing import Annotated

import typer

from deploy.output import SitePath, StatePath


def match(
    site: SitePath,
    takeover: Annotated[
        bool, typer.Option("--takeover", help="Stop another matcher of this site at once instead of waiting for it.")
    ] = False,
    skip_lost: Annotated[
        bool, typer.Option("--skip-lost", help="Go on although records that were not read yet are gone from Kafka.")
    ] = False,
    state: StatePath = None,
) -> None:
    """Link people and publish match events, until stopped. One per site: a second one waits to take over.

    Example: sightline match site.toml
    """
    from deploy.service import service
    from deploy.settings import load
    from deploy.wiring import match_worker

    settings = load(site)
    with service(settings, "match") as stop:
        match_worker(settings, stop, state=state, takeover=takeover, skip_lost=skip_lost)
