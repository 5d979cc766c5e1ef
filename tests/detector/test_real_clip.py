"""An adopted YOLOX-nano and the tracker on the real clip, against what a person sees in it.

A woman crosses (frames 20 to 76), two people walk off together (180 to 250), three come and part (340 to 402), one more (522 to
560); in between the room is empty.
"""

from pathlib import Path

import av
import pytest

from deploy import backends
from deploy.adopt import PRESETS, adopt
from detector.detector import Detector
from detector.settings import DetectorSettings
from stream.messages import DecodedFrame, Detections, Frame

FPS = 12
VISITS = {"one": (16, 80, 1), "two": (176, 254, 2), "three": (336, 406, 3), "last": (516, 566, 1)}
EVERY = 2  # analysed at 6 frames a second, as a camera would be


@pytest.fixture(scope="module")
def found(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Detections]:
    data = (assets / "yolox_nano_416.onnx").read_bytes()
    folder = tmp_path_factory.mktemp("yolox")
    adopted = adopt(data, PRESETS["yolox"], folder, name="yolox-nano", where="yolox_nano_416.onnx")
    detector = Detector(backends.load(adopted.bundle), DetectorSettings())
    frames = []
    with av.open(str(assets / "people-detection.264")) as clip:
        for place, picture in enumerate(clip.decode(video=0)):
            if place % EVERY == 0:
                image = picture.to_ndarray(format="rgb24")
                frame = Frame(
                    site="s", camera="room", stream=0, sequence=place, captured_at=place * 1_000_000_000 // FPS,
                    ingested_at=0, clock="file", width=image.shape[1], height=image.shape[0], image=b"",
                )  # fmt: skip
                frames.append(DecodedFrame(frame, image))
    return [
        one for start in range(0, len(frames), 8) for one in detector.process(frames[start : start + 8])
        if isinstance(one, Detections)
    ]  # fmt: skip


def test_nobody_is_seen_in_the_empty_room(found: list[Detections]) -> None:
    busy = {place for low, high, _ in VISITS.values() for place in range(low, high)}
    assert [one.frame.sequence for one in found if one.tracklets and one.frame.sequence not in busy] == []


def test_everybody_is_seen_while_in_full_view(found: list[Detections]) -> None:
    full_view = dict.fromkeys(range(28, 72), 1) | dict.fromkeys(range(188, 236), 2)
    full_view |= dict.fromkeys(range(352, 392), 2) | dict.fromkeys(range(530, 546), 1)
    frames = [one for one in found if one.frame.sequence in full_view]
    seen = [len(one.tracklets) >= full_view[one.frame.sequence] for one in frames]
    assert sum(seen) >= 0.97 * len(seen)


@pytest.mark.parametrize("visit", list(VISITS))
def test_each_person_is_one_tracklet(found: list[Detections], visit: str) -> None:
    low, high, people = VISITS[visit]
    counts: dict[str, int] = {}
    for one in found:
        if low <= one.frame.sequence < high:
            for name in one.tracklets:
                counts[name] = counts.get(name, 0) + 1
    assert len(counts) == people
    assert min(counts.values()) >= 10


def test_good_crops_are_those_of_people_in_full_view(found: list[Detections]) -> None:
    best = {}
    for one in found:
        for name, quality in zip(one.tracklets, one.quality.tolist(), strict=True):
            best[name] = max(quality, best.get(name, 0))
    assert min(best.values()) > 0.6
