import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import simplejpeg
from clips import numbered_picture, write_clip
from feeds import MjpegCamera, frames_of, http_server, number_of, play
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from ingest.cameras import Cameras
from ingest.clock import WallClock
from ingest.decode import open_video
from ingest.settings import FILE_START, CameraSettings
from stream.codec import FRAMES
from stream.errors import CameraError, NotAVideo
from stream.memory import MemoryTopic
from stream.messages import CameraState, Frame
from stream.stage import Pass, as_messages, run

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
START_NS = int(START.timestamp()) * 1_000_000_000


def camera(path: Path, **more: object) -> CameraSettings:
    return CameraSettings.model_validate({"id": "hall", "url": str(path), **more})


def noise(number: int, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def dropped(reason: str) -> float:
    return REGISTRY.get_sample_value("sightline_frames_dropped_total", {"camera": "hall", "reason": reason}) or 0.0


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        pytest.param("a.mp4", "libx264", None, id="H.264 in MP4"),
        pytest.param("a.mkv", "libx265", None, id="H.265 in Matroska"),
        pytest.param("a.ts", "libx264", None, id="H.264 in MPEG-TS, whose time begins anywhere"),
        pytest.param("a.avi", "mjpeg", None, id="MJPEG in AVI"),
        pytest.param("a.264", "libx264", "h264", id="raw H.264"),
        pytest.param("a.265", "libx265", "hevc", id="raw H.265"),
        pytest.param("a.mjpeg", "mjpeg", "mjpeg", id="raw MJPEG"),
    ],
)
def test_a_file_is_sampled_on_its_grid(tmp_path: Path, name: str, codec: str, container: str | None) -> None:
    path = write_clip(tmp_path / name, codec=codec, container=container)
    messages = play(camera(path, start=START))
    frames, end = frames_of(messages), messages[-1]
    assert [(f.sequence, number_of(f)) for f in frames] == [(k, 5 * k) for k in range(10)]
    assert [f.captured_at for f in frames] == [START_NS + k * 200_000_000 for k in range(10)]
    assert {(f.stream, f.clock, f.width, f.height) for f in frames} == {(START_NS, "file", 320, 240)}
    assert isinstance(end, CameraState)
    assert (end.state, end.stream, end.captured_at) == ("end", START_NS, frames[-1].captured_at)


def test_the_same_file_again_repeats_the_same_keys_and_pixels(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    first, again = (
        [(f.stream, f.sequence, f.captured_at, f.image) for f in frames_of(play(camera(path)))] for _ in "ab"
    )
    assert first == again
    assert first[0][0] == int(FILE_START.timestamp()) * 1_000_000_000


def test_uneven_times_and_gaps_are_kept(tmp_path: Path) -> None:
    times = [0.0, 0.21, 0.39, 0.62, 3.0, 3.2]
    frames = frames_of(play(camera(write_clip(tmp_path / "a.mkv", frames=6, times=times))))
    assert [f.sequence for f in frames] == [0, 1, 2, 3, 15, 16]
    assert [round((f.captured_at - f.stream) / 1e9, 2) for f in frames] == times


@pytest.mark.parametrize(
    ("given", "seconds", "said"),
    [
        pytest.param({}, 2.0, "taken as 25 pictures per second, for want of a setting: set source_fps", id="nothing set"),
        pytest.param({"source_fps": 10}, 5.0, "taken as 10 pictures per second, as set", id="source_fps"),
        pytest.param({"fps": 10}, 5.0, "taken as 10 pictures per second, as set", id="fps"),
    ],
)  # fmt: skip
def test_a_file_without_times_is_given_a_rate_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, given: dict[str, float], seconds: float, said: str
) -> None:
    path = write_clip(tmp_path / "a.264", container="h264")
    with caplog.at_level(logging.INFO):
        frames = frames_of(play(camera(path, **given)))
    assert (frames[-1].captured_at - frames[0].stream) / 1e9 == pytest.approx(seconds, abs=0.21)
    assert said in caplog.text


def test_the_real_clip_is_read_whole(assets: Path) -> None:
    frames = frames_of(play(camera(assets / "people-detection.264", fps=12)))
    assert [f.sequence for f in frames] == list(range(596))
    assert {(f.width, f.height) for f in frames} == {(768, 432)}
    assert (frames[-1].captured_at - frames[0].captured_at) / 1e9 == pytest.approx(595 / 12, abs=1e-6)


@pytest.mark.parametrize(
    ("width", "size"),
    [
        pytest.param(320, (320, 180), id="smaller"),
        pytest.param(1280, (640, 360), id="never larger"),
        pytest.param(500, (500, 282), id="height even"),
    ],
)
def test_pictures_are_scaled_to_the_asked_width(tmp_path: Path, width: int, size: tuple[int, int]) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=3, size_hw=(360, 640))
    frame = frames_of(play(camera(path, width=width)))[0]
    assert (frame.width, frame.height) == size
    assert simplejpeg.decode_jpeg_header(frame.image)[:2] == (size[1], size[0])


def test_odd_sizes_become_even(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.avi", codec="mjpeg", frames=2, size_hw=(241, 321))
    frame = frames_of(play(camera(path)))[0]
    assert (frame.width, frame.height) == (320, 240)


def test_a_phones_upright_film_is_turned_upright(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=2, rotate=90, picture=lambda *_: _left_white())
    frame = frames_of(play(camera(path)))[0]
    image = simplejpeg.decode_jpeg(frame.image)
    assert (frame.width, frame.height) == (240, 320)
    assert image[300].mean() > 200 > 60 > image[20].mean()  # what was left is below after a quarter turn to the left


@pytest.mark.parametrize(
    ("aspect", "width", "size"),
    [
        pytest.param(Fraction(2), 1280, (640, 240), id="a recorder that keeps every second column"),
        pytest.param(Fraction(2), 320, (320, 120), id="scaled down"),
        pytest.param(Fraction(1, 2), 1280, (320, 480), id="every second line"),
        pytest.param(Fraction(1, 100), 1280, (320, 240), id="nonsense"),
    ],
)
def test_pixels_that_are_not_square_are_made_square(
    tmp_path: Path, aspect: Fraction, width: int, size: tuple[int, int]
) -> None:
    frame = frames_of(play(camera(write_film(tmp_path / "a.mkv", aspect=aspect), width=width)))[0]
    assert (frame.width, frame.height) == size
    assert number_of(frame) == 0


def write_film(path: Path, *, aspect: Fraction = Fraction(1), sound_s: int = 0) -> Path:
    """Two seconds at 320x240, its pixels `aspect` times as wide as high, with silence beside it."""
    with av.open(str(path), "w") as output:
        sound = output.add_stream("aac", rate=8000) if sound_s else None
        video = output.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.height, video.width, video.pix_fmt = 240, 320, "yuv420p"
        video.codec_context.sample_aspect_ratio = aspect
        for k in range(50):
            picture = av.VideoFrame.from_ndarray(numbered_picture(k), "rgb24")
            picture.pts, picture.time_base = k, Fraction(1, 25)
            output.mux(video.encode(picture))
        output.mux(video.encode(None))
        if sound is not None:
            for k in range(0, sound_s * 8000, 1024):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                silence.sample_rate, silence.pts = 8000, k
                output.mux(sound.encode(silence))
            output.mux(sound.encode(None))
    return path


def _left_white() -> NDArray[np.uint8]:
    image = np.zeros((240, 320, 3), np.uint8)
    image[:, :160] = 235
    return image


def test_a_mask_is_burnt_in_before_anything_leaves(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=2, picture=lambda n, s: np.full((*s, 3), 200, np.uint8))
    lower_right = [(0.5, 0.5), (1, 0.5), (1, 1), (0.5, 1)]
    frame = frames_of(play(camera(path, masks=[lower_right])))[0]
    image = simplejpeg.decode_jpeg(frame.image)
    assert image[125:, 165:].max() < 25
    assert image[:110, :150].min() > 170


def test_a_resolution_change_mid_stream_is_followed(tmp_path: Path) -> None:
    parts = [
        write_clip(tmp_path / f"{k}.264", container="h264", frames=25, first=25 * k, size_hw=size)
        for k, size in enumerate([(240, 320), (360, 640), (180, 320)])
    ]
    path = tmp_path / "changing.264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = frames_of(play(camera(path, fps=5, source_fps=25)))
    assert [number_of(f) for f in frames] == [5 * k for k in range(15)]
    assert [(f.width, f.height) for f in frames[::5]] == [(320, 240), (640, 360), (320, 180)]


def test_corrupt_packets_are_counted_and_survived(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.ts", frames=100, picture=noise)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(1)
    for at in rng.integers(len(data) // 4, len(data) // 2, 300):
        data[at] ^= 0xFF
    path.write_bytes(data)
    before = dropped("corrupt")
    messages = play(camera(path, fps=25))
    assert dropped("corrupt") > before
    assert 30 < len(frames_of(messages)) < 100
    assert max(f.captured_at - f.stream for f in frames_of(messages)) >= 3.9e9  # the end was reached


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.264"])
def test_a_cut_off_video_is_used_as_far_as_it_goes(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / name, frames=100, picture=noise, container="h264" if name == "a.264" else None)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    messages = play(camera(path))
    assert 7 <= len(frames_of(messages)) <= 13
    assert isinstance(messages[-1], CameraState)


def test_a_cut_off_video_that_says_its_length_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_clip(tmp_path / "a.mkv", frames=100, picture=noise)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    play(camera(path))
    assert "is cut off: it says 4.0 s and ends after" in caplog.text


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_film_whose_sound_is_longer_is_not_called_cut_off(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    messages = play(camera(write_film(tmp_path / name, sound_s=6)))
    assert len(frames_of(messages)) == 10
    assert "cut off" not in caplog.text


def test_whoever_is_slow_to_take_a_film_s_pictures_is_not_taken_for_a_silent_film(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.ts", frames=100, picture=noise)
    data = bytearray(path.read_bytes())
    for at in np.random.default_rng(1).integers(len(data) // 4, len(data) // 2, 300):
        data[at] ^= 0xFF  # packets without a picture
    path.write_bytes(data)
    now_ns = 10**18
    with open_video(camera(path), WallClock(lambda: now_ns, lambda: now_ns), 10.0) as video:
        times = []
        for picture in video.pictures(lambda: 60.0):
            times.append(picture.time_ns or 0)
            now_ns += 100 * 10**9  # as long as the reader lags, an ingest of files waits
    assert max(times) >= 3.9e9, "the end was reached"


def _missing(path: Path) -> None:
    pass


def _directory(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _empty(path: Path) -> None:
    path.touch()


def _text(path: Path) -> None:
    path.write_text("hello " * 1000)


def _noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(1).bytes(50_000))


def _picture(path: Path) -> None:
    path.write_bytes(simplejpeg.encode_jpeg(numbered_picture(1)))


def _no_index(path: Path) -> None:
    write_clip(path)
    path.write_bytes(path.read_bytes()[:3000])


def _sound(path: Path) -> None:
    import wave

    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))


def _pictures_destroyed(path: Path) -> None:
    data = bytearray(write_clip(path, frames=100).read_bytes())
    for at in range(188 * 6, len(data), 188):  # the payload of every packet but the first, which describe the stream
        data[at + 60 : at + 188] = np.random.default_rng(at).bytes(128)
    path.write_bytes(data)


def _header(path: Path) -> None:
    write_clip(path)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])  # up to the first cluster, where pictures begin


@pytest.mark.parametrize(
    ("make", "name", "kind", "said"),
    [
        pytest.param(_missing, "a.mp4", CameraError, "does not exist: check the path", id="missing file"),
        pytest.param(_directory, "a.mp4", CameraError, "is a directory, expected a video file", id="directory"),
        pytest.param(_pipe, "a.mp4", CameraError, "is neither a file nor a device", id="named pipe"),
        pytest.param(_empty, "a.mp4", NotAVideo, "is empty (0 bytes)", id="empty"),
        pytest.param(_text, "a.mp4", NotAVideo, "is not a video", id="text"),
        pytest.param(_text, "a.ans", NotAVideo, "is not a video but a single picture or text", id="text for terminals"),
        pytest.param(_noise, "a.mp4", NotAVideo, "is not a video", id="random bytes"),
        pytest.param(_picture, "a.mp4", NotAVideo, "is not a video but a single picture", id="a picture"),
        pytest.param(_no_index, "a.mp4", NotAVideo, "is not a video, or is cut off", id="MP4 without its end"),
        pytest.param(_sound, "a.mp4", NotAVideo, "has no video", id="sound"),
        pytest.param(
            _pictures_destroyed, "a.ts", NotAVideo, "holds no picture that can be decoded", id="no picture left"
        ),
        pytest.param(_header, "a.mkv", NotAVideo, "is cut off: ", id="a header alone"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_source_with_one_line(
    tmp_path: Path, make: Callable[[Path], None], name: str, kind: type[CameraError], said: str
) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(kind) as caught:
        play(camera(path))
    line = str(caught.value)
    assert line.startswith(f"camera hall: {path}")
    assert said in line
    assert "\n" not in line


def test_a_playlist_that_is_a_file_cannot_open_the_network(tmp_path: Path) -> None:
    asked = threading.Event()

    class Listening(MjpegCamera):
        def do_GET(self) -> None:  # noqa: N802
            asked.set()
            super().do_GET()

    with http_server(Listening) as address:
        playlist = tmp_path / "a.m3u8"
        playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://{address}/a.ts\n#EXT-X-ENDLIST\n")
        with pytest.raises(CameraError, match="camera hall"):
            play(camera(playlist))
    assert not asked.is_set()


def test_a_film_whose_clock_goes_back_goes_on_without_a_gap(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    late = write_clip(tmp_path / "late.ts", frames=50, times=[100 + k / 25 for k in range(50)])
    early = write_clip(tmp_path / "early.ts", frames=50, first=50)
    path = tmp_path / "both.ts"
    path.write_bytes(late.read_bytes() + early.read_bytes())
    frames = frames_of(play(camera(path)))
    assert [f.sequence for f in frames] == sorted({f.sequence for f in frames})
    assert (frames[-1].captured_at - frames[0].captured_at) / 1e9 == pytest.approx(3.8, abs=0.25)
    assert number_of(frames[-1]) >= 94
    assert "goes back by" in caplog.text


def test_files_are_interleaved_in_order_of_their_time(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    cameras = [
        CameraSettings(id="a", url=str(path), start=START, partition=5),
        CameraSettings(id="b", url=str(path), start=START.replace(second=1)),
    ]
    with closing(Cameras("site", cameras)) as source:
        records = [record for batch in source.batches() for record in batch]
    times = [record.message.captured_at for record in records]
    assert times == sorted(times)
    assert {record.message.camera: record.partition for record in records} == {"a": 5, "b": 1}
    for partition in (5, 1):
        assert [r.offset for r in records if r.partition == partition] == list(range(11))
    assert source.position() == {5: 11, 1: 11}


def test_a_file_waits_for_its_reader_and_loses_nothing(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=200, size_hw=(120, 160))
    with closing(Cameras("site", [camera(path, fps=25)])) as source:
        batches = source.batches()
        records = list(next(batches))
        time.sleep(0.3)
        decoded = REGISTRY.get_sample_value("sightline_queue_depth", {"queue": "camera hall"})
        assert decoded == 16
        records += [record for batch in batches for record in batch]
    assert len(frames_of([r.message for r in records])) == 200


def test_a_file_runs_into_a_topic_whole(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=200, size_hw=(120, 160))
    before = REGISTRY.get_sample_value("sightline_frames_sent_total", {"camera": "into"}) or 0.0
    topic: MemoryTopic[Frame | CameraState] = MemoryTopic("try.frames", FRAMES, 1)
    cameras = Cameras("site", [camera(path, id="into", fps=25)])
    with closing(cameras), closing(topic.sink(lambda message: cameras.partitions[message.camera])) as sink:
        run(cameras, Pass[Frame | CameraState](), sink, prepare=as_messages, name="ingest")
    topic.close_input()
    with closing(topic.source("reader")) as source:
        messages = [record.message for batch in source.batches() for record in batch]
    assert [m.sequence for m in frames_of(messages)] == list(range(200))
    assert isinstance(messages[-1], CameraState)
    assert REGISTRY.get_sample_value("sightline_frames_sent_total", {"camera": "into"}) == before + 200


def test_a_paused_partition_is_held_back_until_it_is_resumed(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    with closing(Cameras("site", [camera(path), camera(path, id="door")])) as source:
        source.pause([0])
        batches = source.batches()
        before = [record for _ in range(12) for record in next(batches)]
        assert {record.message.camera for record in before} == {"door"}
        source.resume([0])
        after = [record for batch in batches for record in batch]
    assert len([r for r in after if r.message.camera == "hall"]) == 11


def test_closing_in_the_middle_of_a_file_leaves_no_thread(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=200, size_hw=(120, 160))
    source = Cameras("site", [camera(path, fps=25)])
    next(source.batches())
    source.close()
    source.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "camera hall"]


def test_a_broken_file_beside_a_good_one_is_named(tmp_path: Path) -> None:
    good = write_clip(tmp_path / "a.mp4")
    bad = tmp_path / "bad.mp4"
    shutil.copy(good, bad)
    bad.write_bytes(bad.read_bytes()[:2000])
    with pytest.raises(NotAVideo, match="camera door"):
        play(camera(good), camera(bad, id="door"))
