"""The README and the docs name what is there: commands, options, metrics, pages. That they name every setting: test_settings."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client.metrics import MetricWrapperBase

from deploy.cli import app
from stream import telemetry

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks/results.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
RECIPES = sorted(ROOT.glob("configs/**/*.toml"))
AT_A_PROMPT = re.compile(
    r"^(?:[ #$]*)(?:\w+=\S+ |torchrun .*--no-python )?(?:\.venv/bin/)?sightline +([a-z].*)$", re.MULTILINE
)
IN_A_SENTENCE = re.compile(r"`(?:\.venv/bin/)?sightline\s+([^`]+)`")


def commands(page: Path) -> Iterator[list[str]]:
    """The words behind ``sightline`` of every command that a page shows."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for shown in AT_A_PROMPT.findall(text) + IN_A_SENTENCE.findall(text):
        yield shown.split("  #")[0].split()


@pytest.mark.parametrize("page", [*PAGES, *RECIPES], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_is_shown_exists_with_its_options(page: Path) -> None:
    for words in commands(page):
        command: Any = typer.main.get_command(app())
        for word in words:
            if word not in getattr(command, "commands", {}):
                break
            command = command.commands[word]
        options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        given = {match[0] for word in words if (match := re.match(r"--[a-z][a-z0-9-]+", word))}
        assert command.name in words, f"{page.name}: sightline {' '.join(words)}"
        assert given <= options, f"{page.name}: sightline {' '.join(words)}"


def test_every_metric_that_is_named_is_served() -> None:
    served = [
        one for metric in vars(telemetry).values() if isinstance(metric, MetricWrapperBase) for one in metric.describe()
    ]
    known = {f"{one.name}_total" if one.type == "counter" else one.name for one in served}
    named = {page.name: set(re.findall(r"\bsightline_[a-z_]+", page.read_text(encoding="utf-8"))) for page in PAGES}
    assert named["operations.md"] == known
    assert [(page, names - known) for page, names in named.items() if names - known] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_pages_and_headings_that_are_there(page: Path) -> None:
    for path, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")):
        target = page.parent / path if path else page
        assert target.exists(), path
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, heading
