"""`sightline doctor`, `plan` and `status`: what they look at, what they find, and what they advise."""

import itertools
import json
import shutil
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import write_clip
from feeds import MjpegCamera, http_server
from numpy.typing import NDArray
from secure_kafka import SecureKafka
from services import RedisServer, free_port, valkey_binary

from deploy import doctor
from deploy.bundle import load_bundle
from deploy.plan import Costs, measure, plan
from deploy.settings import load
from deploy.status import status
from deploy.wiring import run_site
from ingest.settings import CameraSettings
from matcher.redis_client import connect
from stream.errors import GalleryUnreachable
from tests.deploy.sites import write_bundles, write_site
from tests.deploy.workers import sightline


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site(tmp_path_factory.mktemp("depot"), frames=50)


def test_a_healthy_site_passes_every_check(site: Path, tmp_path: Path, redis_server: str, kafka_server: str) -> None:
    environment = {"SIGHTLINE_REDIS__URL": redis_server, "SIGHTLINE_KAFKA__BOOTSTRAP_SERVERS": kafka_server}
    report = tmp_path / "doctor.json"
    done = sightline("doctor", str(site), "--json", str(report), folder=tmp_path, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    findings = json.loads(report.read_text())
    assert {finding["status"] for finding in findings} == {"ok"}
    checks = [finding["check"].split()[0] for finding in findings]
    assert checks == ["machine", "bundle", "bundle", "redis", "kafka", "camera", "camera"]
    assert ["(height x width)" in finding["found"] for finding in findings] == [False, True, True, *[False] * 4]
    for finding in findings:
        assert finding["check"] in done.stdout
    assert "h264 320x240 at 25.0 fps" in done.stdout


def test_a_redis_that_may_lose_events_is_said_with_the_remedy(tmp_path: Path) -> None:
    port = free_port()
    settings = [f"port {port}", "appendonly no", "maxmemory-policy allkeys-lru"]
    server = RedisServer(valkey_binary(), tmp_path, settings, port)
    server.start()
    try:
        finding = doctor.gallery(server.url)
    finally:
        server.kill()
    assert finding.status == "warning"
    assert "appendonly no" in finding.remedy
    assert "set noeviction" in finding.remedy


def test_a_state_folder_that_cannot_be_made_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = doctor.machine(tmp_path / "file" / "state")
    assert found.status == "failed"
    assert f"{tmp_path / 'file'} is no folder" in found.found
    assert doctor.machine(tmp_path / "state", [tmp_path / "file"]).remedy == "give another folder by SIGHTLINE_CACHE"
    assert doctor.machine(tmp_path / "state").status == "ok"
    assert doctor.machine(tmp_path / "file" / "state", keeps=False).status == "ok"


def test_a_narrow_terminal_gets_every_path_whole(tmp_path: Path) -> None:
    site, state = write_site(tmp_path, frames=1), tmp_path / "file" / ("x" * 80)
    (tmp_path / "file").touch()
    done = sightline("doctor", str(site), "--state", str(state), folder=tmp_path, environment={"COLUMNS": "60"})
    assert done.returncode == 1
    assert "…" not in done.stdout
    assert done.stdout.count("x") >= 80


def test_a_camera_that_fails_is_named_once(tmp_path: Path) -> None:
    found = doctor.camera(CameraSettings(id="gone", url=str(tmp_path / "gone.mp4")))
    assert (found.check, found.status) == ("camera gone", "failed")
    assert found.found.startswith(str(tmp_path))


def test_a_camera_too_slow_to_follow_people_is_said(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "slow.mp4", fps=1, frames=10)
    found = doctor.camera(CameraSettings(id="slow", url=str(clip)))
    assert (found.status, found.remedy) == ("warning", "people are lost below 2 fps: raise the camera's rate")


def test_a_redis_user_with_the_rights_of_the_manual_passes(redis_server: str) -> None:
    rights = ["~sightline:*", "+@read", "+@write", "+@scripting", "+@connection"]
    with closing(connect(redis_server)) as client:
        client.execute_command("ACL", "SETUSER", "depot", "on", ">hunter2", *rights)
        finding = doctor.gallery(redis_server.replace("redis://", "redis://depot:hunter2@"))
        client.execute_command("ACL", "DELUSER", "depot")
    assert finding.status == "warning"  # it cannot read the settings either, and says so
    assert finding.found.startswith("version unknown, answers in")
    assert "does not show its settings" in finding.remedy


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        pytest.param(
            {"fps": 30}, "30 fps are asked for: raise the camera's rate, or lower fps", id="slower than asked"
        ),
        pytest.param({"fps": 5}, "", id="as asked"),
    ],
)
def test_a_camera_that_gives_less_than_asked_is_said(tmp_path: Path, settings: dict[str, Any], remedy: str) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    finding = doctor.camera(CameraSettings(id="a", url=str(clip), **settings))
    assert finding.remedy == remedy
    assert finding.status == ("warning" if remedy else "ok")


def test_a_disk_that_is_nearly_full_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.machine(tmp_path / "not" / "there").status == "ok"
    monkeypatch.setattr(doctor, "DISK_FREE", 1 << 60)
    finding = doctor.machine(tmp_path)
    assert (finding.status, finding.remedy) == ("warning", "free some disk, or give --state another")


def test_models_that_will_not_do_are_said_with_the_remedy(tmp_path: Path) -> None:
    site = write_site(tmp_path, cameras=("north",), frames=5)
    for name in ("red-square", "mean-colour"):
        shutil.rmtree(tmp_path / name)
    write_bundles(tmp_path, synthetic_only=True, links=False)
    eyes, looks = doctor.bundles(load(site, {}))
    assert eyes.status == "warning"
    assert "sightline adopt" in eyes.remedy
    assert looks.status == "failed"
    assert "without links.json the matcher cannot judge a similarity" in looks.remedy


def test_thresholds_are_those_that_hold_for_the_site(site: Path) -> None:
    shipped = {"SIGHTLINE_DETECTOR__BUNDLE": "person-detector", "SIGHTLINE_REID__BUNDLE": "osnet-x0.25"}
    eyes, looks = doctor.bundles(load(site, shipped))
    assert eyes.found.endswith(", high_score 0.45, new_score 0.65")
    assert looks.found.endswith(", false_links 0.03")
    stated = {"SIGHTLINE_DETECTOR__NEW_SCORE": "0.7", "SIGHTLINE_MATCHER__FALSE_LINKS": "0.01"}
    eyes, looks = doctor.bundles(load(site, shipped | stated))
    assert eyes.found.endswith(", high_score 0.45, new_score 0.7 (the site's; its card says 0.65)")
    assert looks.found.endswith(", false_links 0.01 (the site's; its card says 0.03)")


def test_a_site_whose_topics_are_not_there_yet_needs_nothing(site: Path, kafka_server: str) -> None:
    settings = load(site, {"SIGHTLINE_KAFKA__BOOTSTRAP_SERVERS": kafka_server, "SIGHTLINE_SITE__NAME": "unheard-of"})
    assert settings.kafka
    finding = doctor.broker(settings, settings.kafka)
    assert finding.status == "ok"
    assert "unheard-of.frames has 0 partition(s), 2 wanted" in finding.found
    assert "the first worker makes what is missing" in finding.remedy


def test_a_broker_that_lets_us_see_nothing_fails(
    site: Path, secure_kafka_server: SecureKafka, refused_connections: None
) -> None:
    finding = doctor.broker(load(site, {}), secure_kafka_server.as_user("nobody-yet"))
    assert finding.status == "failed"
    assert 'user "nobody-yet" is not allowed to' in finding.found


def test_a_camera_whose_first_picture_comes_late_is_asked_for_more_key_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LATE_FIRST_PICTURE_S", 0.0)
    with http_server(MjpegCamera) as address:
        finding = doctor.camera(CameraSettings(id="a", url=f"http://{address}/"))
    assert finding.status == "warning"
    assert "key frame interval to 1 or 2 s" in finding.remedy


def test_a_file_without_times_is_asked_for_its_rate(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.h264", container="h264")
    assert "set source_fps" in doctor.camera(CameraSettings(id="a", url=str(clip))).remedy
    assert doctor.camera(CameraSettings(id="a", url=str(clip), source_fps=25)).status == "ok"


def test_a_live_camera_is_measured() -> None:
    with http_server(MjpegCamera) as address:
        finding = doctor.camera(CameraSettings(id="a", url=f"http://{address}/"))
    assert finding.status == "ok", finding
    assert finding.found.startswith("mjpeg 320x240 at ")
    assert "first picture after" in finding.found


def test_a_synthetic_camera_is_drawn_here() -> None:
    finding = doctor.camera(CameraSettings(id="a", url="synthetic://?seed=3&cameras=2&camera=1"))
    assert finding.found.startswith("drawn here: 640x360 at 10 fps")


def test_a_plan_adds_up(site: Path) -> None:
    costs = Costs(detect_ms=10, embed_ms=2, embedding_size=512)
    few, many = (plan(load(site, {}), costs, people, 600) for people in (2, 20))
    assert [camera.camera for camera in few.cameras] == ["north", "south"]
    frames, embeddings, matches = few.topics
    assert frames.mb_s == pytest.approx(sum(camera.frames_mb_s for camera in few.cameras))
    assert frames.disk_mb == pytest.approx(frames.mb_s * 600 * 1.25)
    assert (frames.partitions, embeddings.partitions, matches.partitions) == (2, 2, 1)
    assert many.perceive_cores > few.perceive_cores
    assert many.topics[1].mb_s > embeddings.mb_s
    assert few.perceive_workers == 1


def test_a_plan_looks_at_people_as_often_as_the_site_does(site: Path) -> None:
    costs = Costs(detect_ms=20, embed_ms=5, embedding_size=512)
    seldom, often = (plan(load(site, {"SIGHTLINE_REID__EVERY_S": each}), costs, 10, 600) for each in ("2", "0.5"))
    cameras, more = len(seldom.cameras), 10 / 0.5 - 10 / 2
    assert often.perceive_cores - seldom.perceive_cores == pytest.approx(cameras * more * 5 / 1000)


def test_a_plan_takes_the_quickest_turn_by_the_clock_it_is_given() -> None:
    now_s = [0.0]

    class Busy:
        """A model whose calls take 20 ms a picture, and more where something else runs."""

        def __init__(self, bundle: str) -> None:
            self.card, self._others_s = load_bundle(bundle).card, itertools.cycle((0.3, 0.0, 0.1))

        def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
            now_s[0] += 0.02 * len(images) + next(self._others_s)
            return {}

        def close(self) -> None:
            pass

    costs = measure(Busy("person-detector"), Busy("osnet-x0.25"), lambda: now_s[0])
    assert (costs.detect_ms, costs.embed_ms) == (pytest.approx(20), pytest.approx(20))


def test_a_plan_times_the_models_and_prints(site: Path, tmp_path: Path) -> None:
    done = sightline("plan", str(site), "--json", str(tmp_path / "plan.json"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "depot.frames" in done.stdout
    assert "cameras of 720p at 25 fps" in done.stdout
    assert json.loads((tmp_path / "plan.json").read_text())["costs"]["detect_ms"] > 0


def test_the_status_of_a_site_that_has_run(site: Path, tmp_path: Path, redis_server: str) -> None:
    settings = load(site, {"SIGHTLINE_REDIS__URL": redis_server, "SIGHTLINE_SITE__NAME": "status-test"})
    run_site(settings, threading.Event())
    known = status(settings, None)
    assert known.matcher is None
    assert known.last_number > 0
    assert known.identities >= 1
    assert all(camera.ended and camera.last_ns is not None for camera in known.cameras)
    shown = sightline(
        "status",
        str(site),
        folder=tmp_path,
        environment={"SIGHTLINE_REDIS__URL": redis_server, "SIGHTLINE_SITE__NAME": "status-test"},
    )
    assert shown.returncode == 0
    assert f"events up to {known.last_number}" in shown.stdout


def test_the_status_of_a_site_that_does_not_run_says_how_to_start_it(site: Path, tmp_path: Path) -> None:
    with pytest.raises(GalleryUnreachable, match="start `sightline run`"):
        status(load(site, {}), tmp_path)
