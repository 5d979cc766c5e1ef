"""A whole site in one process: files to their end, a live camera until it is told to stop, the same events however many work."""

import json
import re
import stat
from pathlib import Path

import pytest
from feeds import MjpegCamera, http_server
from rich.console import Console
from services import wait_for

from deploy.settings import load
from deploy.state import key_of, opened_state
from deploy.telling import EventLog
from stream.codec import encode
from stream.errors import GalleryError, UsageError
from stream.messages import MatchEvent
from tests.deploy.sites import write_bundles, write_site
from tests.deploy.workers import Worker, end, json_lines, last_line, sightline

EVENT = MatchEvent(
    site="s", number=1, kind="new", identity="a" * 32, camera="hall", tracklet="t", first_seen=0, captured_at=0, model="m"
)  # fmt: skip
REMOTE = {"SIGHTLINE_REDIS__URL": "redis://127.0.0.1:6379/0"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site(tmp_path_factory.mktemp("depot"))


def test_files_run_to_their_end_and_say_what_was_seen(site: Path, tmp_path: Path) -> None:
    events, report = tmp_path / "events.jsonl", tmp_path / "report.json"
    done = sightline("run", str(site), "--events", str(events), "--json", str(report), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    seen = json_lines(events)
    assert [event["number"] for event in seen] == list(range(1, len(seen) + 1))
    assert seen[0]["kind"] == "new"
    assert {event["camera"] for event in seen} == {"north", "south"}
    said = json.loads(report.read_text())
    assert said["last_number"] == len(seen)
    assert said["new"] + said["link"] == said["end"] > 4
    assert done.stdout.count("\n") == len(seen) + 1


def test_a_reader_of_the_lines_that_goes_away_takes_no_event_from_the_file(site: Path, tmp_path: Path) -> None:
    events, report = tmp_path / "events.jsonl", tmp_path / "report.json"
    run = Worker("run", str(site), "--events", str(events), "--json", str(report), folder=tmp_path, head=True)
    assert run.wait() == 0, run.log
    seen = json_lines(events)
    assert [event["number"] for event in seen] == list(range(1, json.loads(report.read_text())["last_number"] + 1))
    assert run.log.count("nobody reads standard output any more") == 1


def test_events_go_to_standard_output_where_asked(site: Path, tmp_path: Path) -> None:
    done = sightline("run", str(site), "--events", "-", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    numbers = [json.loads(line)["number"] for line in done.stdout.splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert not (tmp_path / "-").exists()
    both = sightline("run", str(site), "--events", "-", "--json", "-", folder=tmp_path)
    assert last_line(both).endswith("only one of them can be standard output")


def test_events_that_cannot_be_written_any_more_end_the_run_with_the_number(site: Path, tmp_path: Path) -> None:
    run = Worker("run", str(site), "--events", "-", folder=tmp_path, head=True)
    assert run.wait() == 1
    last = run.log.strip().splitlines()[-1]
    assert re.fullmatch(r"sightline: --events -: ends before event \d+: whoever read it is gone", last)
    full = sightline("run", str(site), "--events", "/dev/full", folder=tmp_path)
    assert full.returncode == 1
    said = "--events /dev/full: ends before event 1: no space left on device; free some room, or name another file"
    assert last_line(full) == f"sightline: {said}"


def test_an_event_behind_a_line_that_was_cut_short_has_a_line_of_its_own(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    for before, kept in ((b'{"schema":"1.0","ty', 1), (b"{}\n", 1), (b"", 0)):
        events.write_bytes(before)
        with EventLog(Console(quiet=True), events) as log:
            log(EVENT)
        assert events.read_bytes().splitlines()[kept:] == [encode(EVENT)]


def test_a_site_that_keeps_nothing_here_needs_no_folder(site: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nowhere, here = tmp_path / "file" / "state", tmp_path / "made"
    for environment, folder in ((REMOTE, nowhere), (REMOTE, here), ({}, here)):
        settings = load(site, environment)
        with opened_state(settings, folder) as state:
            assert key_of(settings, state) == b"0123456789abcdef"
        assert here.exists() == (environment != REMOTE)
    with pytest.raises(UsageError, match="cannot be made"), opened_state(load(site, {}), nowhere):
        pass


def test_a_key_that_cannot_be_read_is_said(site: Path, tmp_path: Path) -> None:
    (tmp_path / "site.key").mkdir()
    settings = load(site, {})
    settings = settings.model_copy(update={"site": settings.site.model_copy(update={"key": None})})
    with pytest.raises(GalleryError, match=r"site\.key: cannot be used: is a directory; name another folder"):
        key_of(settings, tmp_path)


def test_the_events_are_the_same_with_more_workers(site: Path, tmp_path: Path) -> None:
    written = []
    for workers in ("1", "2"):
        events = tmp_path / f"{workers}.jsonl"
        done = sightline("run", str(site), "--workers", workers, "--events", str(events), folder=tmp_path)
        assert done.returncode == 0, done.stderr
        written.append(events.read_bytes())
    assert written[0]
    assert written[0] == written[1]


def test_a_file_played_again_into_the_same_gallery_is_a_repeat_and_said_to_be(site: Path, tmp_path: Path) -> None:
    events, state = tmp_path / "events.jsonl", tmp_path / "state"
    arguments = ("run", str(site), "--state", str(state), "--events", str(events))
    assert sightline(*arguments, folder=tmp_path).returncode == 0
    assert stat.S_IMODE(state.stat().st_mode) == 0o700  # vectors of people and the site's key are its owner's alone
    first = events.read_bytes()
    again = sightline(*arguments, folder=tmp_path)
    assert again.returncode == 0
    assert "camera north: all 50 frames were seen before: give this camera another start" in again.stderr
    assert events.read_bytes() == first


def test_a_site_of_files_leaves_nothing_behind_unless_told(site: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = sightline("run", str(site), folder=tmp_path, environment={"TMPDIR": str(temporary)})
    assert done.returncode == 0
    assert list(temporary.iterdir()) == []  # the telemetry of onnxruntime would leave a file here, too
    assert not (tmp_path / "xdg_state_home").exists()


def test_a_live_site_runs_until_it_is_told_to_stop(tmp_path: Path) -> None:
    write_bundles(tmp_path)
    site, events = tmp_path / "site.toml", tmp_path / "events.jsonl"
    with http_server(MjpegCamera) as address:
        site.write_text(
            f'[site]\nname = "live"\n[[camera]]\nid = "door"\nurl = "http://{address}/"\n'
            '[detector]\nbundle = "./red-square"\n[reid]\nbundle = "./mean-colour"\n'
        )
        worker = Worker("run", str(site), "--events", str(events), folder=tmp_path)
        try:
            wait_for(lambda: len(json_lines(events)) > 0, f"an event of a live camera:\n{worker.log}", 30)
            assert worker.terminate() == 0, worker.log
        finally:
            end([worker])
    assert "Traceback" not in worker.log
    assert "was stopped" in worker.log
    assert (tmp_path / "xdg_state_home" / "sightline" / "live" / "site.key").stat().st_mode & 0o77 == 0


def test_two_runs_of_one_site_do_not_share_a_state_folder(tmp_path: Path) -> None:
    write_bundles(tmp_path)
    live = tmp_path / "site.toml"
    with http_server(MjpegCamera) as address:
        live.write_text(
            f'[site]\nname = "live"\n[[camera]]\nid = "door"\nurl = "http://{address}/"\n'
            '[detector]\nbundle = "./red-square"\n[reid]\nbundle = "./mean-colour"\n'
        )
        first = Worker("run", str(live), folder=tmp_path)
        try:
            folder = tmp_path / "xdg_state_home" / "sightline" / "live"
            wait_for((folder / "server.json").exists, "the first run's gallery", 30)
            second = sightline("run", str(live), folder=tmp_path)
            assert second.returncode == 1
            assert "is in use by process" in last_line(second)
            assert first.terminate() == 0, first.log
        finally:
            end([first])


def test_a_real_camera_behind_a_model_of_drawn_people_is_said_with_the_remedy(site: Path, tmp_path: Path) -> None:
    write_bundles(tmp_path, synthetic_only=True)
    own = tmp_path / "site.toml"
    own.write_text(site.read_text().replace('url = "', f'url = "{site.parent}/'))
    line = "red-square saw synthetic people only, and a camera is real: `sightline adopt"
    done = sightline("run", str(own), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(line) == 1
    looked = sightline("doctor", str(own), "--json", "-", folder=tmp_path)
    assert looked.returncode == 0
    assert line in looked.stdout
