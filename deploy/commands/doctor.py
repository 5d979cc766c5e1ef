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
    from rich.table import Table

    from deploy import doctor as examining
    from deploy.settings import load
    from deploy.state import state_folder

    output = Output(json)
    settings = load(site) if site else None
    table = Table("", "check", "found", "what to do", show_lines=False)
    marks = {"ok": "[green]ok[/green]", "warning": "[yellow]look[/yellow]", "failed": "[red]failed[/red]"}
    findings = []
    with output.console.status("looking"):
        for finding in examining.examine(settings, state or state_folder(settings)):
            findings.append(finding)
            table.add_row(marks[finding.status], finding.check, finding.found, finding.remedy)
    output.console.print(table)
    output.data(findings)
    return int(any(finding.status == "failed" for finding in findings))
