"""Real people through the whole stream, with adopted models of real people.

The clip (596 frames, 12 fps) was watched by a person: seven different people cross the room in four groups and nobody comes
back. Seconds are of the clip.
"""

import threading
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from deploy.adopt import PRESETS, adopt
from deploy.play import Played, play
from deploy.settings import Settings
from ingest.synthetic.crops import draw_crops
from stream.model import Backend, LinkRow, Links

EMPTY = [(0.0, 1.0), (7.5, 14.0), (22.0, 27.5), (35.0, 43.0), (47.5, 49.6)]
GROUPS = [((3.0, 5.5), 1), ((16.5, 19.0), 2), ((30.0, 32.0), 3), ((44.5, 45.5), 1)]
PEOPLE = 7


@pytest.fixture(scope="module")
def models(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Settings that name the two adopted bundles."""
    folder = tmp_path_factory.mktemp("models")
    adopt(
        (assets / "yolox_nano_416.onnx").read_bytes(),
        PRESETS["yolox"],
        folder / "eyes",
        name="yolox",
        where="yolox.onnx",
    )
    drawn = draw_crops(5, range(24), size_hw=(256, 128), per_person=8).images

    def links(backend: Backend) -> Links:
        """The mean of drawn people, and rows that a published embedder of this kind has on crops of real ones."""
        mean = backend.infer(drawn)["embedding"].mean(axis=0)
        return Links(
            mean=mean.tolist(),
            same=LinkRow(a=-4.46, b=16.83, same_pairs=200),
            other=LinkRow(a=-3.66, b=17.67, same_pairs=200),
            fitted_on="crops of real people",
        )

    adopt(
        (assets / "person-reidentification-retail-0287.onnx").read_bytes(), PRESETS["omz-reid"], folder / "looks",
        name="retail", where="retail.onnx", fit=links,
    )  # fmt: skip
    return {"detector": {"bundle": str(folder / "eyes")}, "reid": {"bundle": str(folder / "looks")}}


def _play(models: dict[str, dict[str, str]], cameras: list[dict[str, object]], tmp_path: Path) -> Played:
    exact = {"compute": {"backend": "onnxruntime"}}  # the same on every machine
    settings = Settings.model_validate({"site": {"name": "room"}, "camera": cameras, **models, **exact})
    return play(settings, threading.Event(), state=tmp_path)


@pytest.fixture(scope="module")
def room(assets: Path, models: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Played:
    clip = {"id": "room", "url": str(assets / "people-detection.264"), "source_fps": 12, "fps": 6}
    return _play(models, [clip], tmp_path_factory.mktemp("room"))


def _seconds(played: Played) -> list[tuple[float, int]]:
    return [((record.captured_at - record.stream) / 1e9, len(record.people)) for record in played.records]


def test_people_are_found_where_people_are(room: Played):
    for (first, last), people in GROUPS:
        counts = [count for second, count in _seconds(room) if first <= second <= last]
        assert np.median(counts) == people
        assert max(counts) <= people


def test_nobody_is_found_in_the_empty_stretches(room: Played):
    for first, last in EMPTY:
        assert [count for second, count in _seconds(room) if first <= second <= last and count] == []


def test_each_visit_is_one_stable_tracklet(room: Played):
    for (first, last), people in GROUPS:
        names = [
            {person.tracklet for person in record.people}
            for record in room.records
            if first <= (record.captured_at - record.stream) / 1e9 <= last
        ]
        assert len(set().union(*names)) == people


def test_seven_strangers_are_seven_identities_and_nobody_is_linked(room: Played):
    kinds = [event.kind for event in room.events]
    assert kinds.count("new") == PEOPLE
    assert kinds.count("link") == 0
    assert kinds.count("end") == PEOPLE


@pytest.fixture(scope="module")
def dimmer(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same room as another camera would show it: mirrored, darker, with another white balance."""
    path = tmp_path_factory.mktemp("clip") / "dimmer.mp4"
    with av.open(str(assets / "people-detection.264")) as source, av.open(str(path), "w") as sink:
        stream = sink.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 768, 432, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "24"}
        for index, picture in enumerate(source.decode(video=0)):
            image = picture.to_ndarray(format="rgb24")[:, ::-1]
            image = np.clip(image * np.array([0.62, 0.75, 0.85]) + 4, 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(cv2.GaussianBlur(image, (3, 3), 0), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 12)
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))
    return path


def test_people_who_walk_past_a_second_camera_are_linked_to_the_first(
    assets: Path, dimmer: Path, models: dict[str, dict[str, str]], tmp_path: Path
):
    cameras: list[dict[str, object]] = [
        {"id": "room", "url": str(assets / "people-detection.264"), "source_fps": 12, "fps": 6},
        {"id": "hall", "url": str(dimmer), "fps": 6, "start": "2000-01-01T00:00:20Z"},
    ]
    played = _play(models, cameras, tmp_path)
    first_seen = {event.identity: event for event in played.events if event.kind == "new" and event.camera == "room"}
    links = [event for event in played.events if event.kind == "link" and event.camera == "hall"]
    right = 0
    for link in links:
        if link.identity in first_seen:
            delay_s = (link.first_seen - first_seen[link.identity].first_seen) / 1e9
            right += abs(delay_s - 20) < 2
    assert right >= PEOPLE - 2
    assert len(links) - right <= 1
