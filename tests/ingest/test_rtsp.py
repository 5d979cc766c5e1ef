import itertools
import statistics
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest
from feeds import HASTY, frames_of, number_of, watch, watch_source
from prometheus_client import REGISTRY
from rtsp_server import RtspServer
from services import certificates, unavailable

from ingest.cameras import Cameras
from ingest.clock import WallClock
from ingest.decode import open_video
from ingest.settings import CameraSettings
from stream.errors import CameraUnauthorised, CameraUnreachable
from stream.messages import CameraState

USER, PASSWORD = "view er", "p@ss:w/%rd"


def camera(url: str, **more: object) -> CameraSettings:
    return CameraSettings.model_validate({"id": "hall", "url": url, **more})


@pytest.fixture
def own_server(rtsp_clip: Path) -> Iterator[RtspServer]:
    """One that may be cut."""
    yield from running(RtspServer(rtsp_clip, 25))


@pytest.fixture(scope="module", params=["basic", "digest", "digest over TLS"])
def locked_server(
    rtsp_clip: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[RtspServer]:
    """One that wants a password, with everything in it that a url has other uses for."""
    scheme: Literal["basic", "digest"] = "basic" if request.param == "basic" else "digest"
    certificate = certificates(tmp_path_factory.mktemp("camera")) if "TLS" in request.param else None
    yield from running(RtspServer(rtsp_clip, 25, USER, PASSWORD, scheme, certificate))


def running(server: RtspServer) -> Iterator[RtspServer]:
    try:
        server.start()
    except (RuntimeError, OSError) as error:
        unavailable(str(error))
    yield server
    server.stop()


def test_an_rtsp_camera_is_sampled_and_dated_by_its_own_utc_once_it_has_told_it(rtsp_server: RtspServer) -> None:
    seen = watch([camera(rtsp_server.url)], lambda m: sum(f.clock == "rtcp" for f in frames_of(m)) >= 5)
    frames = frames_of(seen)
    assert len({f.stream for f in frames}) == 1  # learning the camera's UTC breaks nothing
    assert [f.sequence for f in frames] == list(range(len(frames)))
    steps_ms = [(b.captured_at - a.captured_at) / 1e6 for a, b in itertools.pairwise(frames[2:])]
    # on a busy machine the offset is learnt in steps: each takes something off one interval, none is ever longer
    assert all(0 < step < 225 for step in steps_ms)
    assert abs(statistics.median(steps_ms) - 200) < 25
    numbers = [number_of(f) for f in frames]
    passed = [(b - a) % 50 for a, b in itertools.pairwise(numbers[2:])]
    assert statistics.median(passed) == 5
    assert all(3 <= each <= 7 for each in passed)
    assert all(f.captured_at <= f.ingested_at for f in frames)
    assert [f.clock for f in frames] == sorted(f.clock for f in frames)  # first arrival, then rtcp


def test_a_password_with_special_characters_opens_the_camera(locked_server: RtspServer) -> None:
    assert "%40" in locked_server.url
    frames = frames_of(watch([camera(locked_server.url)], lambda m: len(frames_of(m)) == 2))
    assert len(frames) == 2


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_wrong_password_is_told_apart_from_nobody_there(locked_server: RtspServer, password: str) -> None:
    with pytest.raises(CameraUnauthorised, match="refuses these credentials: check user and password") as caught:
        open_video(camera(locked_server.url_for(USER, password)), WallClock(), 5.0)
    assert "wrong" not in str(caught.value)


def test_a_wrong_path_is_said(rtsp_server: RtspServer) -> None:
    with pytest.raises(CameraUnreachable, match="no such path"):
        open_video(camera(rtsp_server.url + "/nowhere"), WallClock(), 5.0)


def test_a_camera_that_is_cut_for_5_s_comes_back_by_itself(
    own_server: RtspServer, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Cameras("site", [camera(own_server.url)])) as source:  # with the patience of real life
        before = watch_source(source, lambda m: len(frames_of(m)) >= 5)
        own_server.stop()
        threading.Timer(5.0, own_server.start).start()
        stream = frames_of(before)[-1].stream
        after = watch_source(source, lambda m: len([f for f in frames_of(m) if f.stream != stream]) >= 5)
    idle = [m for m in after if isinstance(m, CameraState)]
    fresh = [f for f in frames_of(after) if f.stream != stream]
    assert fresh[0].stream == fresh[0].captured_at > max(m.captured_at for m in idle)
    assert fresh[0].captured_at - frames_of(before)[-1].captured_at >= 4.5e9
    assert len(idle) >= 10  # all the while the matcher need not wait for it
    assert caplog.text.count("trying again until it is back") <= 3  # said, not repeated


def test_a_frozen_camera_is_found_out_and_comes_back(own_server: RtspServer) -> None:
    def given_up() -> float:
        return (
            REGISTRY.get_sample_value("sightline_camera_reconnects_total", {"camera": "frozen", "reason": "silent"})
            or 0
        )

    with closing(Cameras("site", [camera(own_server.url, id="frozen")], patience=HASTY)) as source:
        stream = frames_of(watch_source(source, lambda m: len(frames_of(m)) >= 15))[-1].stream
        own_server.freeze()
        watch_source(source, lambda _: given_up() > 0)
        own_server.thaw()
        watch_source(source, lambda m: any(f.stream != stream for f in frames_of(m)))


def test_a_short_freeze_is_sat_out_on_the_same_connection(own_server: RtspServer) -> None:
    with closing(Cameras("site", [camera(own_server.url)])) as source:
        last = frames_of(watch_source(source, lambda m: len(frames_of(m)) >= 5))[-1]
        own_server.freeze()
        threading.Timer(2.2, own_server.thaw).start()  # longer than the second at which reading wakes up
        later = watch_source(source, lambda m: len(frames_of(m)) >= 5)
    assert {f.stream for f in frames_of(later)} == {last.stream}
    times = [m.captured_at for m in later]
    assert times == sorted(times)
