import base64
import contextlib
import hashlib
import itertools
import re
import ssl
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from clips import write_clip
from feeds import MjpegCamera, QuietHandler, black_hole, frames_of, http_server, number_of, watch
from prometheus_client import REGISTRY
from services import certificates

from ingest.clock import WallClock
from ingest.decode import CameraSilent, Video, open_video
from ingest.settings import CameraSettings
from stream.errors import CameraError, CameraUnauthorised, CameraUnreachable, NotAVideo

PASSWORD = "pass%40word"


def camera(url: str, **more: object) -> CameraSettings:
    return CameraSettings.model_validate({"id": "hall", "url": url, **more})


def test_mjpeg_over_http_is_dated_by_its_arrival() -> None:
    with http_server(MjpegCamera) as address:
        frames = frames_of(watch([camera(f"http://{address}/video")], lambda seen: len(frames_of(seen)) == 6))
    assert [f.sequence for f in frames] == sorted({f.sequence for f in frames})
    numbers = [number_of(f) for f in frames]
    assert all(b - a in (1, 2, 3) for a, b in itertools.pairwise(numbers))
    assert {f.clock for f in frames} == {"arrival"}
    assert all(0 <= f.ingested_at - f.captured_at < 1e9 for f in frames)


def test_a_camera_that_falls_silent_is_given_up_after_what_its_rhythm_allows_by_then() -> None:
    class Brief(MjpegCamera):
        def do_GET(self) -> None:  # noqa: N802
            self.pictures = 20  # type: ignore[misc]
            super().do_GET()
            time.sleep(30)

    seen: list[int] = []

    def read(video: Video) -> None:
        for picture in video.pictures(lambda: 60.0 if len(seen) < 10 else 0.7):
            seen.append(picture.arrival_ns)

    with (
        http_server(Brief) as address,
        open_video(camera(f"http://{address}/video"), WallClock(), 20.0) as video,
        pytest.raises(CameraSilent, match=r"is silent: nothing came for 0\.7 s"),
    ):
        read(video)
    assert len(seen) >= 18  # going over to the shorter time-out loses nothing


def test_a_camera_that_sends_what_is_no_picture_is_given_up_with_the_remedy() -> None:
    class Spoilt(MjpegCamera):
        pictures: ClassVar[int] = 20

        def do_GET(self) -> None:  # noqa: N802
            super().do_GET()
            with contextlib.suppress(OSError):  # until the reader has gone
                while True:
                    self.wfile.write(b"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: 8\r\n\r\nspoilt!!\r\n")
                    self.wfile.flush()
                    time.sleep(self.interval_s)

    with (
        http_server(Spoilt) as address,
        open_video(camera(f"http://{address}/video"), WallClock(), 20.0) as video,
        pytest.raises(CameraSilent, match=r"sends, but no picture for 1 s: set .* key frame interval to 1 or 2 s"),
    ):
        for _ in video.pictures(lambda: 1.0):
            pass


def test_a_camera_behind_basic_authentication_is_opened_with_the_url_s_password() -> None:
    class Locked(MjpegCamera):
        def do_GET(self) -> None:  # noqa: N802
            if self.headers.get("Authorization") == "Basic " + base64.b64encode(b"ad min:p@ss:word").decode():
                return super().do_GET()
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return None

    with http_server(Locked) as address:
        url = f"http://ad%20min:p%40ss%3Aword@{address}/video"
        assert frames_of(watch([camera(url)], lambda seen: len(frames_of(seen)) == 1))


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def test_a_camera_behind_digest_authentication_is_opened_without_the_password_on_the_wire() -> None:
    sent = []

    class Locked(MjpegCamera):
        def do_GET(self) -> None:  # noqa: N802
            scheme, _, fields = self.headers.get("Authorization", "").partition(" ")
            given = dict(re.findall(r'(\w+)="?([^",]+)"?', fields))
            sent.append(str(self.headers))
            secret, asked = md5("ad min:camera:p@ss:word"), md5(f"GET:{given.get('uri')}")
            proof = ":".join([secret, *(given.get(key, "") for key in ("nonce", "nc", "cnonce", "qop")), asked])
            if scheme == "Digest" and given["uri"] == "/video" and given["response"] == md5(proof):
                return super().do_GET()
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Digest realm="camera", nonce="0f1e2d", qop="auth", algorithm=MD5')
            self.end_headers()
            return None

    with http_server(Locked) as address:
        url = f"http://ad%20min:p%40ss%3Aword@{address}/video"
        assert frames_of(watch([camera(url)], lambda seen: len(frames_of(seen)) == 1))
    assert "Digest" in sent[-1]
    assert base64.b64encode(b"ad min:p@ss:word").decode() not in "".join(sent)


def test_a_camera_over_https_may_sign_its_own_certificate(tmp_path: Path) -> None:
    certificate, key = certificates(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with http_server(MjpegCamera, tls) as address:
        assert frames_of(watch([camera(f"https://{address}/video")], lambda seen: len(frames_of(seen)) == 1))


class HlsCamera(QuietHandler):
    """A live playlist of one-second segments; each appears when it is over, the three newest are kept."""

    segments: ClassVar[list[bytes]] = []
    began_s: ClassVar[float] = 0.0

    def do_GET(self) -> None:  # noqa: N802
        newest = min(int(time.monotonic() - self.began_s) + 3, len(self.segments))
        if self.path == "/hall.m3u8":
            listed = range(newest - 3, newest)
            lines = [f"#EXTINF:1.0,\n{k}.ts" for k in listed]
            head = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{listed[0]}\n"
            body, kind = (head + "\n".join(lines) + "\n").encode(), "application/vnd.apple.mpegurl"
        else:
            body, kind = self.segments[int(self.path[1:-3])], "video/mp2t"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hls(tmp_path: Path) -> Iterator[str]:
    HlsCamera.segments = []
    for k in range(12):
        times = [10 + k + j / 25 for j in range(25)]
        clip = write_clip(tmp_path / f"{k}.ts", frames=25, first=25 * k, times=times)
        HlsCamera.segments.append(clip.read_bytes())
    HlsCamera.began_s = time.monotonic()
    with http_server(HlsCamera) as address:
        yield f"http://{address}/hall.m3u8"


def test_hls_is_handed_on_at_its_own_pace_though_it_comes_in_segments(hls: str) -> None:
    frames = frames_of(watch([camera(hls)], lambda seen: len(frames_of(seen)) == 15))
    assert [f.sequence for f in frames] == list(range(15))
    numbers = [number_of(f) for f in frames]
    assert all(4 <= b - a <= 6 for a, b in itertools.pairwise(numbers))
    ages_s = [(f.ingested_at - f.captured_at) / 1e9 for f in frames]
    assert max(ages_s) < 0.9  # a segment's first picture would be a second old when the last one comes


@pytest.mark.parametrize(
    ("width", "taken"),
    [
        pytest.param(256, (256, 192), id="the smallest that is wide enough, scaled"),
        pytest.param(1280, (640, 480), id="the largest, where none is"),
    ],
)
def test_of_several_sizes_one_is_fetched(tmp_path: Path, width: int, taken: tuple[int, int]) -> None:
    sizes = {"small": (120, 160), "large": (480, 640), "middle": (240, 320)}
    files = {"/hall.m3u8": b"#EXTM3U\n"}
    for name, (height, wide) in sizes.items():
        files["/hall.m3u8"] += f"#EXT-X-STREAM-INF:BANDWIDTH={wide}000\n{name}.m3u8\n".encode()
        listed = "".join(f"#EXTINF:1.0,\n{name}{k}.ts\n" for k in range(8))
        files[f"/{name}.m3u8"] = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n{listed}#EXT-X-ENDLIST\n".encode()
        for k in range(8):
            times = [10 + k + j / 25 for j in range(25)]
            clip = write_clip(tmp_path / f"{name}{k}.ts", frames=25, first=25 * k, times=times, size_hw=(height, wide))
            files[f"/{name}{k}.ts"] = clip.read_bytes()
    fetched: list[str] = []

    class Sizes(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802
            fetched.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(files[self.path])))
            self.end_headers()
            self.wfile.write(files[self.path])

    with http_server(Sizes) as address:
        url = f"http://{address}/hall.m3u8"
        frames = frames_of(watch([camera(url, width=width)], lambda seen: len(frames_of(seen)) == 12))
    assert {(f.width, f.height) for f in frames} == {taken}
    name = "middle" if width == 256 else "large"
    most = max(int(re.findall(r"\d+", path)[0]) for path in fetched if path.startswith(f"/{name}") and ".ts" in path)
    others = [
        p for p in fetched if ".ts" in p and not p.startswith(f"/{name}") and int(re.findall(r"\d+", p)[0]) >= most
    ]
    assert not others, "beyond what tells their size they are left where they are"


@pytest.mark.parametrize(
    ("second_begins_s", "jump"),
    [pytest.param(20.0, "jumped by -82.0 s", id="back"), pytest.param(5000.0, "jumped by +4898.0 s", id="ahead")],
)
def test_a_camera_whose_clock_jumps_begins_a_new_stream(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, second_begins_s: float, jump: str
) -> None:
    parts = [
        write_clip(tmp_path / f"{begins_s}.ts", frames=50, first=first, times=[begins_s + k / 25 for k in range(50)])
        for first, begins_s in ((0, 100.0), (50, second_begins_s))
    ]

    class Endless(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            for part in parts:
                self.wfile.write(part.read_bytes())
            time.sleep(10)

    before = REGISTRY.get_sample_value("sightline_clock_jumps_total", {"camera": "hall"}) or 0.0
    with http_server(Endless) as address:
        frames = frames_of(
            watch([camera(f"http://{address}/")], lambda seen: len({f.stream for f in frames_of(seen)}) == 2)
        )
    keys = [(f.stream, f.sequence) for f in frames]
    assert keys == sorted(set(keys))
    assert [f.captured_at for f in frames] == sorted({f.captured_at for f in frames})
    assert number_of(frames[-1]) >= 50
    assert REGISTRY.get_sample_value("sightline_clock_jumps_total", {"camera": "hall"}) == before + 1
    assert f"camera hall: its clock {jump}" in caplog.text


def answering(status: int, body: bytes = b"", kind: str = "text/html") -> type[QuietHandler]:
    class Answer(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Answer


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        pytest.param(401, CameraUnauthorised, "refuses these credentials: check user and password", id="401"),
        pytest.param(403, CameraUnauthorised, "refuses these credentials", id="403"),
        pytest.param(404, CameraUnreachable, "no such path: check the path in the url", id="404"),
        pytest.param(503, CameraUnreachable, "answers with an error", id="503"),
        pytest.param(200, NotAVideo, "is not a video", id="a web page"),
    ],
)
def test_what_a_server_answers_is_told_apart(status: int, kind: type[CameraError], said: str) -> None:
    page = answering(status, b"<html>Log in</html>" * 50)
    with http_server(page) as address, pytest.raises(kind) as caught:
        open_video(camera(f"http://admin:{PASSWORD}@{address}/video"), WallClock(), 3.0)
    line = str(caught.value)
    assert line.startswith(f"camera hall: http://***@{address}/video")
    assert said in line
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_nobody_there_is_said(scheme: str) -> None:
    with black_hole() as address:
        pass  # closed again: the port refuses
    with pytest.raises(
        CameraUnreachable, match=r"cannot be reached: connection refused; check host and port .*%40 %3A %2F"
    ):
        open_video(camera(f"{scheme}://{address}/video"), WallClock(), 3.0)


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_camera_that_takes_the_call_and_says_nothing_is_given_up(scheme: str) -> None:
    began = time.monotonic()
    with black_hole() as address, pytest.raises(CameraSilent, match=r"is silent: nothing came for 0\.5 s"):
        open_video(camera(f"{scheme}://{address}/video"), WallClock(), 0.5)
    assert time.monotonic() - began < 5


def test_a_playlist_from_the_network_cannot_read_our_files(tmp_path: Path) -> None:
    secret = write_clip(tmp_path / "secret.ts", frames=5)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode()
    with http_server(answering(200, playlist, "application/vnd.apple.mpegurl")) as address:
        evil = camera(f"http://{address}/a.m3u8")
        with pytest.raises(CameraError), open_video(evil, WallClock(), 2.0) as video:
            next(video.pictures(lambda: 2.0))


@pytest.mark.parametrize("device", ["/dev/video99", "/dev/null"])
def test_a_device_that_is_not_there_or_no_camera_is_said(device: str) -> None:
    with pytest.raises(CameraError, match=f"camera hall: {device} "):
        open_video(camera(device), WallClock(), 1.0)
