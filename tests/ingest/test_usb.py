"""USB cameras through FFmpeg's V4L2 reader and a device that v4l2_camera.c plays: there is no real one where tests run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import pytest
from clips import numbered_picture
from services import unavailable

DEVICE = "/dev/video-test"
TESTS = Path(__file__).resolve().parent.parent
WATCH = f"""
import json, sys
from feeds import frames_of, number_of, watch
from ingest.settings import CameraSettings

camera = CameraSettings.model_validate({{"id": "usb", "url": "{DEVICE}", "fps": 20}})
frames, messages = map(int, sys.argv[1:])
seen = frames_of(watch([camera], lambda seen: len(frames_of(seen)) >= frames or len(seen) >= messages))
print(json.dumps([[frame.stream, number_of(frame), frame.captured_at / 1e9, frame.clock] for frame in seen]))
"""


@pytest.fixture(scope="module")
def usb_camera(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a process needs in its environment to find the camera: 320x240, 20 pictures a second, numbered."""
    folder = tmp_path_factory.mktemp("usb")
    if (compiler := shutil.which("cc")) is None:
        unavailable("the USB camera of the tests is compiled: apt-get install gcc libc6-dev")
    library, film = folder / "camera.so", folder / "film.yuyv"
    source = Path(__file__).parent / "v4l2_camera.c"
    subprocess.run([compiler, "-Wall", "-Werror", "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)
    with film.open("wb") as file:
        for number in range(200):
            picture = av.VideoFrame.from_ndarray(numbered_picture(number), "rgb24").reformat(format="yuyv422")
            file.write(picture.to_ndarray().tobytes())
    return {
        "LD_PRELOAD": str(library), "V4L2_CAMERA": DEVICE, "V4L2_FILM": str(film), "V4L2_SIZE": "320x240", "V4L2_FPS": "20",
    }  # fmt: skip


def pictures(
    camera: dict[str, str], frames: int, fault: str = "", messages: int = 1000
) -> tuple[list[tuple[int, int, float, str]], str]:
    """(stream, number, captured at in seconds, clock) of so many frames, or those of so many messages, and what was logged."""
    done = subprocess.run(
        [sys.executable, "-c", WATCH, str(frames), str(messages)],
        env={**os.environ, **camera, "V4L2_FAULT": fault, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(frame) for frame in json.loads(done.stdout)], done.stderr


def test_a_usb_camera_is_read_in_its_own_rhythm_and_dated_by_its_driver(usb_camera: dict[str, str]) -> None:
    seen, _ = pictures(usb_camera, 40)
    assert len({stream for stream, *_ in seen}) == 1
    numbers = [number for _, number, *_ in seen]
    assert numbers == list(range(numbers[0], numbers[0] + 40))
    times = [captured for _, _, captured, _ in seen]
    assert times[-1] - times[0] == pytest.approx(39 / 20, abs=0.3)
    assert {clock for *_, clock in seen} == {"arrival"}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        pytest.param("stall 15", "is silent: nothing came for", id="the picture that never comes"),
        pytest.param("unplug 15 1.0", "broke off: no such device", id="unplugged"),
    ],
)
def test_a_usb_camera_that_stops_is_missed_and_read_again(usb_camera: dict[str, str], fault: str, said: str) -> None:
    seen, log = pictures(usb_camera, 30, fault)
    assert said in log
    streams = [stream for stream, *_ in seen]
    assert len(set(streams)) == 2  # what comes after the gap is a stream of its own
    assert streams.index(streams[-1]) == 15


def test_a_usb_camera_that_never_gives_a_picture_is_away_and_holds_nobody_up(usb_camera: dict[str, str]) -> None:
    seen, log = pictures(usb_camera, 1, "stall 0", messages=12)
    assert not seen  # twelve messages that the camera is away, and an end
    assert "is silent: nothing came for" in log


def test_doctor_says_what_a_usb_camera_gives(usb_camera: dict[str, str], tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text(f'[site]\nname = "yard"\n[[camera]]\nid = "usb"\nurl = "{DEVICE}"\n')
    done = subprocess.run(
        [Path(sys.executable).parent / "sightline", "doctor", site],
        env={**os.environ, **usb_camera},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "rawvideo 320x240 at 20.0 fps" in " ".join(done.stdout.split()), done.stdout + done.stderr
