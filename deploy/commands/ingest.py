"""``sightline ingest``"""

from typing import Annotated

import typer

from deploy.output import SitePath


def ingest(
    site: SitePath,
    camera: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Serve this camera only; may be given again.", show_default=False),
    ] = None,
) -> None:
    """Decode cameras and publish their frames on Kafka. Ends after the last frame of files; live until it is stopped.

    Example: sightline ingest site.toml --camera entrance --camera loading-bay
    """
    from deploy.service import service
    from deploy.settings import load
    from deploy.wiring import ingest_worker

    settings = load(site)
    with service(settings, "ingest") as stop:
        ingest_worker(settings, stop, camera or ())
