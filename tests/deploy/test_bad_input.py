"""Bad input at the command line: each ends in one line that says what to do, in its exit status, and never in a traceback."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clips import write_clip
from feeds import black_hole
from rtsp_server import RtspServer
from services import free_port, unavailable, wait_for

from deploy.cli import status_of
from tests.deploy.sites import write_site
from tests.deploy.workers import Worker, end, json_lines, last_line, sightline

Here = Callable[..., tuple[int, str]]
CAMERA = 'url = "north.mp4"'


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site(tmp_path_factory.mktemp("depot"), frames=25)


def changed(site: Path, folder: Path, *changes: tuple[str, str], extra: str = "") -> Path:
    """The site with other text, in a folder of its own; its bundles and clips stay where they are."""
    text = site.read_text() + extra
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    for name in ("south.mp4", "north.mp4", "red-square", "mean-colour"):
        if not (folder / name).exists():
            (folder / name).symlink_to(site.parent / name)
    path = folder / "site.toml"
    path.write_text(text)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Here]:
    """Runs a command in this process, which saves its imports; returns exit status and what it said on standard error."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        status = status_of(list(arguments))
        return status, capfd.readouterr().err

    yield run
    for handler in [handler for handler in logging.getLogger().handlers if handler.get_name() == "sightline"]:
        logging.getLogger().removeHandler(handler)


def refusal(here: Here, site: Path, status: int, verb: str = "run") -> str:
    """The one line with which a command ends."""
    returned, said = here(verb, str(site))
    assert returned == status, said
    assert "Traceback" not in said
    assert said.count("sightline: ") == 1
    line = said.splitlines()[-1]
    assert line.startswith("sightline: ")
    return line


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        pytest.param(
            CAMERA,
            CAMERA + "\nfsp = 5",
            '[[camera]] "north" unknown setting "fsp"; did you mean "fps"?',
            id="unknown setting",
        ),
        pytest.param(
            CAMERA,
            CAMERA + "\nmasks = [[[0, 0], [1.5, 0], [0, 1]]]",
            "mask 1 has a point outside the frame, (1.5, 0)",
            id="mask outside the frame",
        ),
        pytest.param(
            'id = "south"',
            'id = "north"',
            'two cameras have the id "north": give each camera an id of its own',
            id="one id twice",
        ),
        pytest.param(CAMERA, 'url = "ftp://x/y"', "ftp:// is not supported", id="unknown scheme"),
        pytest.param(
            '"./red-square"', '"./red-sqare"', "there is no such bundle folder", id="bundle that is not there"
        ),
        pytest.param(
            '"./red-square"',
            '"./mean-colour"',
            "is of kind embedder, and detector or person-search is needed",
            id="other kind",
        ),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(
    here: Here, site: Path, tmp_path: Path, old: str, new: str, words: str
) -> None:
    status = 1 if "bundle" in words or "kind" in words else 2
    assert words in refusal(here, changed(site, tmp_path, (old, new)), status)


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("This is a shopping list: two apples, one pear.\n" * 40)


def folder(path: Path) -> None:
    path.mkdir()


def truncated(path: Path) -> None:
    whole = write_clip(path.with_name("whole.mp4"), frames=25).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def missing(path: Path) -> None:
    assert not path.exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(missing, "bad.mp4 does not exist", id="missing"),
        pytest.param(folder, "bad.mp4 is a directory, expected a video file", id="directory"),
        pytest.param(empty, "bad.mp4 is empty (0 bytes)", id="empty"),
        pytest.param(truncated, "bad.mp4 is", id="truncated"),
        pytest.param(text, "bad.mp4 is not a video", id="not a video"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_run(
    here: Here, site: Path, tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    make(tmp_path / "bad.mp4")
    line = refusal(here, changed(site, tmp_path, (CAMERA, 'url = "bad.mp4"')), 1)
    assert "camera north: " in line
    assert words in line


def test_a_clip_that_breaks_off_is_used_as_far_as_it_goes(here: Here, site: Path, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.h264", container="h264", frames=90).read_bytes()
    (tmp_path / "cut.h264").write_bytes(whole[: len(whole) * 2 // 3])
    path = changed(site, tmp_path, (CAMERA, 'url = "cut.h264"'))
    status, said = here("run", str(path), "--events", str(tmp_path / "events.jsonl"))
    assert status == 0, said
    assert any(event["camera"] == "north" for event in json_lines(tmp_path / "events.jsonl"))


def test_a_clock_that_goes_back_is_said_and_the_stream_goes_on(here: Here, site: Path, tmp_path: Path) -> None:
    forth = [n / 25 for n in range(50)]
    clips = [write_clip(tmp_path / f"{n}.ts", container="mpegts", times=forth) for n in range(2)]
    (tmp_path / "back.ts").write_bytes(b"".join(clip.read_bytes() for clip in clips))
    path = changed(site, tmp_path, (CAMERA, 'url = "back.ts"'))
    status, said = here("run", str(path))
    assert status == 0, said
    assert "camera north" in said
    assert "jump" in said or "back" in said.replace("back.ts", "")


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "card.json"])
def test_a_bundle_with_a_flipped_byte_is_refused(here: Here, site: Path, tmp_path: Path, name: str) -> None:
    bundle = tmp_path / "flipped"
    bundle.mkdir()
    for file in (site.parent / "red-square").iterdir():
        (bundle / file.name).write_bytes(file.read_bytes())
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    line = refusal(here, changed(site, tmp_path, ("./red-square", "./flipped")), 1)
    assert "flipped" in line
    assert "copy the bundle again, or make it again" in line


@pytest.mark.parametrize("verb", ["ingest", "perceive", "match"])
def test_kafka_at_the_wrong_port_is_said_within_the_time_given(site: Path, tmp_path: Path, verb: str) -> None:
    port = free_port()
    kafka = f'[kafka]\nbootstrap_servers = "127.0.0.1:{port}"\nconnect_timeout_s = 2\n'
    done = sightline(verb, str(changed(site, tmp_path, extra=kafka)), folder=tmp_path, timeout_s=60)
    assert done.returncode == 1, done.stderr
    assert f"no Kafka broker answers at 127.0.0.1:{port}" in last_line(done)


def test_a_camera_that_is_none_is_said_before_any_broker_is_asked(site: Path, tmp_path: Path) -> None:
    kafka = f'[kafka]\nbootstrap_servers = "127.0.0.1:{free_port()}"\nconnect_timeout_s = 2\n'
    done = sightline("ingest", str(changed(site, tmp_path, extra=kafka)), "--camera", "east", folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "--camera east: no such camera in the site file; known: north" in last_line(done)


def test_a_log_in_json_has_what_ended_the_worker(site: Path, tmp_path: Path) -> None:
    done = sightline("perceive", str(site), folder=tmp_path, environment={"SIGHTLINE_TELEMETRY__LOG_JSON": "true"})
    *logged, said = done.stderr.splitlines()
    last = json.loads(logged[-1])
    assert last["level"] == "error"
    assert last["message"] == f"perceive of site depot failed: {said.removeprefix('sightline: ')}"


def test_workers_without_a_kafka_section_say_what_to_add(here: Here, site: Path) -> None:
    for verb in ("ingest", "perceive", "match"):
        assert "no [kafka] section: add one with bootstrap_servers" in refusal(here, site, 2, verb)


def test_redis_at_the_wrong_port_is_said(here: Here, site: Path, tmp_path: Path) -> None:
    port = free_port()
    path = changed(site, tmp_path, extra=f'[redis]\nurl = "redis://127.0.0.1:{port}"\n')
    assert f"no Redis answers at redis://127.0.0.1:{port}" in refusal(here, path, 1)


def test_redis_with_a_wrong_password_is_said_without_the_password(
    here: Here, site: Path, tmp_path: Path, redis_tls_server: Any
) -> None:
    path = changed(site, tmp_path, extra=f'[redis]\nurl = "{redis_tls_server.wrong_password_url}"\n')
    for verb in ("run", "events", "status"):
        line = refusal(here, path, 1, verb)
        assert "refuses the user or password: check [redis] url" in line
        assert "wrong-password" not in line


def rtsp_site(site: Path, tmp_path: Path, url: str) -> Path:
    """`site` with one camera, at `url`."""
    text = site.read_text()
    begin, end_ = text.index("[[camera]]"), text.index("[detector]")
    path = changed(site, tmp_path)
    path.write_text(text[:begin] + f'[[camera]]\nid = "door"\nurl = "{url}"\n' + text[end_:])
    return path


def examined(here: Here, path: Path, tmp_path: Path) -> tuple[int, dict[str, str], str]:
    """Exit status and finding of `doctor` about the camera, and everything that was said."""
    report = tmp_path / "doctor.json"
    status, said = here("doctor", str(path), "--json", str(report))
    assert "Traceback" not in said
    [finding] = [found for found in json.loads(report.read_text()) if found["check"] == "camera door"]
    return status, finding, said


def test_an_unreachable_camera_fails_the_doctor_and_is_tried_again_by_run(
    here: Here, site: Path, tmp_path: Path
) -> None:
    path = rtsp_site(site, tmp_path, f"rtsp://viewer:hunter2@127.0.0.1:{free_port()}/stream")
    status, finding, said = examined(here, path, tmp_path)
    assert status == 1
    assert finding["status"] == "failed"
    assert "cannot be reached: connection refused" in finding["found"]
    worker = Worker("run", str(path), folder=tmp_path)
    try:
        wait_for(lambda: "cannot be reached" in worker.log, "a warning", 30)
        assert worker.process.poll() is None
        assert worker.terminate() == 0
    finally:
        end([worker])
    assert "hunter2" not in said + worker.log
    assert "Traceback" not in worker.log


def test_a_camera_that_never_answers_fails_the_doctor_in_time(here: Here, site: Path, tmp_path: Path) -> None:
    with black_hole() as address:
        status, finding, _ = examined(here, rtsp_site(site, tmp_path, f"rtsp://{address}/stream"), tmp_path)
    assert status == 1
    assert "is silent: nothing came for 10 s" in finding["found"]


def test_an_unauthorised_camera_fails_the_doctor_without_its_password(
    here: Here, site: Path, tmp_path: Path, rtsp_clip: Path
) -> None:
    server = RtspServer(rtsp_clip, fps=25, user="viewer", password="right")
    try:
        server.start()
    except (RuntimeError, OSError) as error:
        unavailable(str(error))
    try:
        status, finding, said = examined(here, rtsp_site(site, tmp_path, server.url_for("viewer", "hunter2")), tmp_path)
        assert status == 1
        assert "refuses these credentials: check user and password" in finding["found"]
        assert "hunter2" not in said + str(finding)
        status, finding, _ = examined(here, rtsp_site(site, tmp_path, server.url), tmp_path)
        assert (status, finding["status"]) == (0, "ok")
        assert finding["found"].startswith("h264 320x240 at 2")
    finally:
        server.stop()
