"""``sightline doctor``"""

from pathlib import Path
from typing import Annotated

import typer

from deploy.output import JsonPath, Output, StatePath


def doctor(
    site: Annotated[Path | None, typer.Argument(metavar="[SITE.toml]", show_default=False)] = None,
    json: JsonPath = None,
    state: StatePath = None,
) -> int:
    """Check settings, cameras, Kafka, Redis and models, and say what to do. Exit status 1 when something fails.

    Example: sightline doctor site.toml
    """
    from rich.table import Column, Table
    from rich.text import Text

    from deploy import doctor as examining
    from deploy.settings import load
    from deploy.state import state_folder

    output = Output(json)
    settings = load(site) if site else None
    wide = (Column(overflow="fold"), Column(overflow="fold"))  # a path that is cut off helps nobody
    table = Table.grid(Column(), *wide, padding=(0, 2), pad_edge=False)
    marks = {"ok": ("ok", "green"), "warning": ("look", "yellow"), "failed": ("failed", "red")}
    findings = []
    with output.console.status("looking"):
        for finding in examining.examine(settings, state or state_folder(settings)):
            findings.append(finding)
            said = Text(finding.found)
            if finding.remedy:
                said.append(f"\n→ {finding.remedy}", style="bold")
            table.add_row(Text(*marks[finding.status]), finding.check, said)
    output.console.print(table)
    output.data(findings)
    return int(any(finding.status == "failed" for finding in findings))
