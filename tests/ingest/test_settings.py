from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from ingest.settings import CameraSettings, partitions
from stream.errors import SettingsError
from stream.telemetry import mask

SQUARE = ((0.1, 0.1), (0.4, 0.1), (0.4, 0.4))


@pytest.mark.parametrize(
    ("url", "kind", "is_file"),
    [
        pytest.param("rtsp://10.0.0.7/live", "rtsp", False, id="rtsp"),
        pytest.param("rtsps://u:p@cam.example:322/live", "rtsp", False, id="rtsp over TLS"),
        pytest.param("http://10.0.0.7:8080/video.mjpg", "http", False, id="MJPEG"),
        pytest.param("https://example.org/hall.m3u8", "http", False, id="HLS"),
        pytest.param("/dev/video0", "device", False, id="V4L2"),
        pytest.param("films/hall.mp4", "file", True, id="relative path"),
        pytest.param("file:///films/hall.mp4", "file", True, id="file url"),
        pytest.param("synthetic://?seed=3&camera=1", "synthetic", False, id="synthetic, live"),
        pytest.param("synthetic://?seed=3&camera=1&pace=fast", "synthetic", True, id="synthetic, fast"),
    ],
)
def test_the_url_says_what_a_camera_is(url: str, kind: str, is_file: bool) -> None:
    camera = CameraSettings(id="hall", url=url)
    assert (camera.kind, camera.is_file) == (kind, is_file)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param({"url": "rtmp://10.0.0.7/live"}, "rtmp:// is not supported: expected rtsp://", id="unknown scheme"),
        pytest.param({"url": "rtsp:///live"}, "no host in rtsp://", id="no host"),
        pytest.param({"url": "synthetic://?sed=1"}, "did you mean seed?", id="synthetic, misspelt"),
        pytest.param({"masks": [[(0, 0), (1.2, 0), (1, 1)]]}, "mask 1 has a point outside the frame, (1.2, 0)", id="mask outside"),
        pytest.param({"masks": [[(0, 0), (1, 1)]]}, "at least 3 items", id="mask of two points"),
        pytest.param({"fps": 0}, "greater than or equal to 1", id="no pictures"),
        pytest.param({"width": 641}, "multiple of 2", id="odd width"),
        pytest.param({"start": datetime(2026, 1, 1)}, "timezone", id="start without time zone"),  # noqa: DTZ001
        pytest.param({"url": "rtsp://h/x", "start": datetime(2026, 1, 1, tzinfo=UTC)}, "start is for files", id="live start"),
        pytest.param({"clock_offset": 1.0}, "clock_offset is for live cameras", id="offset of a file"),
        pytest.param({"url": "rtsp://h/x", "source_fps": 12}, "source_fps is for files", id="rate of a live camera"),
        pytest.param({"id": "the hall"}, "pattern", id="id with a space"),
        pytest.param({"colour": "red"}, "Extra inputs", id="unknown key"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_with_what_would_be_right(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CameraSettings.model_validate({"id": "hall", "url": "hall.mp4", **given})
    assert said in str(caught.value)


def test_a_password_in_the_url_is_never_shown() -> None:
    camera = CameraSettings(id="hall", url="rtsp://admin:pass%40word@10.0.0.7/live")
    assert "pass" not in repr(camera) + str(camera) + camera.shown_url
    with pytest.raises(ValidationError) as caught:
        CameraSettings.model_validate({"id": "hall", "url": "rtmp://admin:pass%40word@10.0.0.7/live"})
    assert "pass%40word" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        pytest.param("http://cam/v?u=admin&p=it's hunter2", "http://cam/v?u=***&p=***", id="query of any signs"),
        pytest.param("https://tok'hunter2@h:8443/x.m3u8", "https://***@h:8443/x.m3u8", id="token as user"),
        pytest.param("rtsp://joe:hun?te r2@h/x", "rtsp://***", id="signs that should be encoded"),
        pytest.param("synthetic://?seed=3&camera=1", "synthetic://?seed=3&camera=1", id="drawn scene"),
    ],
)
def test_of_a_url_only_where_it_leads_is_shown(url: str, shown: str) -> None:
    assert CameraSettings(id="hall", url=url).shown_url == shown
    assert mask(f"{url} failed") == f"{shown} failed"


def test_a_file_begins_in_2000_unless_said() -> None:
    assert CameraSettings(id="a", url="a.mp4").start_ns == 946_684_800_000_000_000
    said = CameraSettings(id="a", url="a.mp4", start=datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC))
    assert said.start_ns == 1_772_366_400_250_000_000


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        pytest.param({}, 25, id="nothing said"),
        pytest.param({"fps": 12}, 12, id="fps"),
        pytest.param({"fps": 5, "source_fps": 12.5}, 12.5, id="source_fps"),
    ],
)
def test_the_rate_of_a_file_without_times(given: dict[str, float], rate: float) -> None:
    assert CameraSettings.model_validate({"id": "a", "url": "a.264", **given}).raw_fps == rate


def test_a_partition_is_the_place_in_the_site_file_unless_pinned() -> None:
    cameras = [
        CameraSettings(id="a", url="a.mp4"),
        CameraSettings(id="b", url="b.mp4", partition=7),
        CameraSettings(id="c", url="c.mp4", masks=(SQUARE,)),
    ]
    assert partitions(cameras) == {"a": 0, "b": 7, "c": 2}


@pytest.mark.parametrize(
    ("second", "said"),
    [
        pytest.param(CameraSettings(id="a", url="b.mp4"), 'two cameras have the id "a"', id="one id"),
        pytest.param(CameraSettings(id="b", url="b.mp4", partition=0), "both have partition 0", id="one partition"),
    ],
)
def test_two_cameras_share_neither_id_nor_partition(second: CameraSettings, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        partitions([CameraSettings(id="a", url="a.mp4"), second])
