"""The demo as a user runs it, small: drawn, played through every stage, scored, reported."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from deploy.bench import SEEDS, mean_table, stage_table
from deploy.bundle import load_bundle
from deploy.cli import status_of
from deploy.demo import drawn, too_slow
from deploy.play import play, site
from detector.settings import DetectorSettings
from ingest.synthetic.scene import SceneSettings
from reid.settings import EmbedderSettings
from stream.messages import MatchEvent

SMALL = SceneSettings(seed=11, people=5, cameras=2, seconds=12.0, fps=10.0)
ARGUMENTS = ["demo", "--headless", "--seed", "11", "--people", "5", "--cameras", "2", "--seconds", "12"]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory):
    """One cache for this file: the scene is drawn once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGHTLINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_a_fast_demo_leaves_a_report_with_every_figure_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert status_of([*ARGUMENTS, "--fast", "--report", str(tmp_path / "report")]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    expected = {
        "cameras", "seconds", "frames_decoded", "frames_analysed", "frames_dropped", "people_true", "identities",
        "link_precision", "link_recall", "idf1", "mota", "latency_ms", "realtime_factor", "cpu_ms_per_camera_second",
        "versions", "backends",
    }  # fmt: skip
    assert expected <= report.keys()
    assert report["frames_decoded"] == 2 * 120
    assert abs(report["frames_analysed"] - 2 * 60) <= 2  # a camera's phase decides whether the last place is reached
    assert report["frames_dropped"] == 0
    assert report["people_true"] >= 2
    models = [load_bundle(name).card.id for name in (DetectorSettings().bundle, EmbedderSettings().bundle)]
    assert list(report["backends"]) == models
    assert set(map(len, map(str.split, report["backends"].values()))) == {2}  # a runtime and a precision
    assert report["identities"] >= 1
    assert report["idf1"] > 0.4
    for picture in ("timeline.png", "cam-1.png", "cam-2.png"):
        assert (tmp_path / "report" / picture).read_bytes().startswith(b"\x89PNG")
    events = (tmp_path / "report" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in events] == list(range(1, len(events) + 1))
    assert "IDF1 over all cameras" in capsys.readouterr().out


def _events(workers: int) -> list[MatchEvent]:
    import threading

    return play(site(SMALL, fast=True), threading.Event(), workers=workers).events


def test_the_same_seed_gives_the_same_events_on_every_run_and_with_any_number_of_workers():
    once = _events(1)
    assert once
    assert _events(1) == once
    assert _events(4) == once


def test_over_kafka_and_redis_the_demo_says_the_same(tmp_path: Path, kafka_server: str, redis_server: str):
    places = ["--kafka", kafka_server, "--redis", redis_server]
    assert status_of([*ARGUMENTS, "--fast", *places, "--report", str(tmp_path)]) == 0
    told = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    said = [(event["number"], event["kind"], event["tracklet"]) for event in told]
    assert said == [(event.number, event.kind, event.tracklet) for event in _events(1)]


def test_a_live_demo_accounts_for_every_frame_and_says_how_late_its_events_were(tmp_path: Path):
    status = status_of([*ARGUMENTS, "--report", str(tmp_path)])
    assert status == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["latency_ms"]["p50"] > 0
    assert report["realtime_factor"] < 1.05
    assert abs(report["frames_analysed"] + report["frames_dropped"] - 2 * 60) <= 2


def test_a_scene_that_is_drawn_already_is_not_said_to_be_drawn():
    said = io.StringIO()
    for _ in range(2):
        said.truncate(said.seek(0))
        with drawn(SMALL, Console(file=said), workers=1, ahead=False):
            pass
    assert said.getvalue() == ""


@pytest.mark.parametrize(
    ("dropped", "said"),
    [
        pytest.param(0, None, id="none"),
        pytest.param(1, None, id="one in a hundred"),
        pytest.param(2, "this machine was too slow or too busy: 2 of 101 frames were skipped; ", id="more"),
    ],
)
def test_a_run_that_skipped_frames_says_whose_fault_that_is(dropped: int, said: str | None):
    hint = too_slow({"frames_analysed": 99, "frames_dropped": dropped})
    assert hint == said if said is None else hint and hint.startswith(said) and "--fast" in hint


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--size", "640by360"], "WIDTHxHEIGHT", id="size"),
        pytest.param(["--people", "0"], "people", id="nobody"),
        pytest.param(["--cameras", "99"], "cameras", id="too many cameras"),
        pytest.param(
            ["--kafka", "broker"], "bootstrap_servers = broker: expected host:port", id="broker without a port"
        ),
        pytest.param(["--redis", "http://:pw@h"], "url = http://***@h: expected redis://", id="no Redis address"),
        pytest.param(["--redis", "redis://127.0.0.1:1/0", "--seed", "12"], "127.0.0.1:1", id="no Redis there"),
    ],
)
def test_a_wrong_wish_ends_in_one_line_before_anything_is_drawn(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))
    status = status_of([*ARGUMENTS, "--fast", *arguments])
    assert status in (1, 2)
    assert not list(tmp_path.iterdir())
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("sightline: ")
    assert said in line


def test_bench_tables_say_mean_and_worst():
    run = {
        "idf1": 0.8, "link_precision": 0.9, "link_recall": 0.7, "mota": 0.6, "frames_dropped": 0,
        "cpu_ms_per_camera_second": 90.0, "latency_ms": {"p95": 300.0},
    }  # fmt: skip
    worse = {**run, "idf1": 0.6, "frames_dropped": 4, "latency_ms": {"p95": 450.0}}
    cells = {
        str(name): (mean, worst)
        for name, mean, worst in zip(*(column._cells for column in mean_table([run, worse]).columns), strict=True)
    }
    assert cells["idf1"] == ("0.700", "0.600")
    assert cells["frames_dropped"] == ("2.000", "4.000")
    assert cells["latency p95 ms"] == ("375.000", "450.000")
    assert stage_table({"match": {"batches": 10, "seconds": 1.0}}, 20.0).row_count == 1
    assert len(SEEDS) == 5
