"""`sightline events` without Kafka: reads the gallery, running or not, and shows what was asked for."""

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from deploy.telling import line
from deploy.view import View
from stream.messages import EventKind, Evidence, MatchEvent
from tests.deploy.sites import write_site
from tests.deploy.workers import Worker, json_lines, last_line, sightline


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict[str, Any]]]:
    """A site that has run to its end, its state folder, and the events that `run` wrote."""
    folder = tmp_path_factory.mktemp("ran")
    site, state, events = write_site(folder), folder / "state", folder / "events.jsonl"
    done = sightline("run", str(site), "--state", str(state), "--events", str(events), folder=folder)
    assert done.returncode == 0, done.stderr
    return site, state, json_lines(events)


def test_the_events_of_a_site_that_has_ended_are_still_there(
    ran: tuple[Path, Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    site, state, events = ran
    done = sightline("events", str(site), "--state", str(state), "--json", "-", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == events


@pytest.mark.parametrize("data", [(), ("--json", "-")], ids=["lines", "json"])
def test_a_reader_that_has_had_enough_is_no_failure(
    ran: tuple[Path, Path, list[dict[str, Any]]], tmp_path: Path, data: tuple[str, ...]
) -> None:
    site, state, _ = ran
    reading = Worker("events", str(site), "--state", str(state), *data, folder=tmp_path, head=True)
    assert (reading.wait(), reading.log) == (0, "")


def test_events_are_chosen_by_number_camera_and_identity(
    ran: tuple[Path, Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    site, state, events = ran
    identity = events[0]["identity"]
    asked = (
        "--after",
        "3",
        "--camera",
        "south",
        "--identity",
        identity[:8].upper(),
        "--json",
        str(tmp_path / "some.jsonl"),
    )
    done = sightline("events", str(site), "--state", str(state), *asked, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    wanted = [e for e in events if e["number"] > 3 and e["camera"] == "south" and e["identity"] == identity]
    assert wanted
    assert json_lines(tmp_path / "some.jsonl") == wanted
    assert done.stdout.count("\n") == len(wanted)
    assert identity[:8] in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        pytest.param(["--camera", "east"], 2, "no such camera", id="unknown camera"),
        pytest.param(["--identity", "cam-1"], 2, "0 to 9 and a to f", id="no identity"),
        pytest.param(["--after", "3", "--from", "latest"], 2, "leave --from out", id="two beginnings"),
        pytest.param(["--from", "yesterday"], 2, "expected earliest, latest, or a time like", id="no time"),
        pytest.param(
            ["--state", "/no/such"], 1, "no gallery runs in /no/such: start `sightline run`", id="nothing there"
        ),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(
    ran: tuple[Path, Path, list[dict[str, Any]]], tmp_path: Path, arguments: list[str], status: int, words: str
) -> None:
    done = sightline("events", str(ran[0]), *arguments, folder=tmp_path)
    assert done.returncode == status
    assert words in last_line(done)


@pytest.mark.parametrize("command", ["events", "status"])
def test_of_films_that_ran_without_a_state_folder_it_is_said_that_nothing_is_kept(
    ran: tuple[Path, Path, list[dict[str, Any]]], tmp_path: Path, command: str
) -> None:
    at_home = {"XDG_STATE_HOME": str(tmp_path / "state")}
    done = sightline(command, str(ran[0]), folder=tmp_path, environment=at_home)
    assert done.returncode == 1
    assert "keeps what it found with --state DIR alone" in last_line(done)


def test_who_follows_a_site_that_has_ended_hears_how_to_read_what_it_left(
    ran: tuple[Path, Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    site, state, _ = ran
    done = sightline("events", str(site), "--state", str(state), "--follow", folder=tmp_path)
    assert done.returncode == 1
    assert "what it left there is read without follow (--follow)" in last_line(done)


def test_a_number_ahead_of_the_gallery_is_not_taken_for_silence(
    ran: tuple[Path, Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    site, state, events = ran
    done = sightline("events", str(site), "--state", str(state), "--after", "1200", folder=tmp_path)
    assert done.returncode == 1
    assert f"event 1200 was read before, its newest is {len(events)}: its numbers began anew" in last_line(done)


def test_a_terminal_without_arrows_gets_the_rest(ran: tuple[Path, Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    site, state, events = ran
    latin = {"PYTHONIOENCODING": "latin-1"}
    done = sightline("events", str(site), "--state", str(state), folder=tmp_path, environment=latin)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == len(events)
    assert "south ? north" in done.stdout


def event(kind: EventKind, identity: str, merged: str | None = None) -> MatchEvent:
    return MatchEvent(
        site="s", number=1, kind=kind, identity=identity * 32, merged=merged and merged * 32, camera="hall", tracklet="t",
        first_seen=0, captured_at=0, probability=0.97, model="m",
    )  # fmt: skip


def test_a_merge_names_both_identities() -> None:
    said = line(event("merge", "a", "b")).plain
    assert said.split()[2:] == ["merge", "aaaaaaaa", "was", "also", "bbbbbbbb", "hall", "0.97"]


def test_the_live_view_counts_merged_identities_once() -> None:
    shown = io.StringIO()
    with View(["hall"], Console(file=shown, width=120), "title") as view:
        for one in (event("new", "a"), event("new", "b"), event("merge", "a", "b")):
            view.event(one)
    assert "1 identities, 0 links" in shown.getvalue()


def test_who_is_on_two_cameras_at_once_came_after_no_time() -> None:
    view = View(["hall"], Console(file=io.StringIO()), "title")
    for gap_s in (-2.0, 3.0):
        linked = msgspec.structs.replace(event("link", "a"), evidence=Evidence(reason="sure", gap_s=gap_s))
        view.event(linked)
    assert [" after 3 s" in text.plain for text in view._latest] == [False, True]
    assert " after -2 s" not in view._latest[0].plain


def test_a_narrow_terminal_loses_nothing_of_the_live_view() -> None:
    console = Console(file=io.StringIO(), width=60, soft_wrap=True)
    view = View(["hall"], console, "a site", 60.0)
    console.print(view._draw())
    assert "0 links (of 60 s)" in " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
