"""``sightline run``"""

from pathlib import Path
from typing import Annotated

import typer

from deploy.output import STDOUT, JsonPath, Output, SitePath, StatePath, check_writable
from stream.errors import UsageError


def run(
    site: SitePath,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Perceive workers, each with models of its own.")] = 1,
    events: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Append every match event as a line of JSON; - is standard output.", show_default=False
        ),
    ] = None,
    state: StatePath = None,
    json: JsonPath = None,
) -> None:
    """Run a whole site in one process, until its files have ended or Ctrl-C. What the file leaves out is kept inside.

    Example: sightline run site.toml
    """
    from deploy.service import service
    from deploy.settings import load
    from deploy.telling import EventLog
    from deploy.wiring import run_site

    if events == json == STDOUT:
        raise UsageError("--events - and --json -: only one of them can be standard output")
    output = Output(json, stderr=events == STDOUT)
    if events and events != STDOUT:
        check_writable("--events", events)
    settings = load(site)
    with service(settings, "run") as stop, EventLog(output.console, events) as told:
        run_site(settings, stop, workers=workers, state=state, told=told)
    output.console.print(told.summary())
    output.data(told.counts())
