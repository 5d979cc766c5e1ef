"""The detector stage: one Detections per frame in its order, shedding for live cameras only, names that survive a restart."""

import msgspec
import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray

from deploy.backends.reference import ReferenceDetector, ReferencePersonSearch
from detector.detector import Detector
from detector.jpeg import decode, decode_frames
from detector.quality import quality
from detector.settings import DetectorSettings
from stream.messages import CameraState, Clock, DecodedFrame, Detections, Frame
from stream.telemetry import FRAMES_DROPPED, REPEATS
from stream.transport import Record

NOW_S = 1000.0
S = 1_000_000_000
Image = NDArray[np.uint8]


def picture(*people: tuple[int, int], size_hw: tuple[int, int] = (180, 320)) -> Image:
    """Grey, with a red rectangle 20 wide and 60 high at each (x, y)."""
    image = np.full((*size_hw, 3), 128, np.uint8)
    for x, y in people:
        image[y : y + 60, x : x + 20] = (220, 30, 40)
    return image


def frame(
    sequence: int,
    image: Image | None = None,
    *,
    camera: str = "a",
    clock: Clock = "file",
    stream: int = 0,
    waited_s: float = 0.0,
) -> DecodedFrame:
    """A frame at 5 fps that was ingested `waited_s` before `NOW_S`."""
    made = Frame(
        site="s",
        camera=camera,
        stream=stream,
        sequence=sequence,
        captured_at=stream + sequence * S // 5,
        ingested_at=int((NOW_S - waited_s) * S),
        clock=clock,
        width=320,
        height=180,
        image=b"",
    )
    return DecodedFrame(made, image)


def end(camera: str = "a", state: str = "end") -> CameraState:
    assert state in ("end", "idle")
    return CameraState(
        site="s", camera=camera, stream=0, captured_at=0, ingested_at=0, state="end" if state == "end" else "idle"
    )


@pytest.fixture
def detector() -> Detector:
    return Detector(ReferenceDetector(), DetectorSettings(max_batch=3), clock=lambda: NOW_S)


def run(detector: Detector, *items: DecodedFrame | CameraState) -> list[Detections | CameraState]:
    return list(detector.process(items))


def statuses(outputs: list[Detections | CameraState]) -> list[str]:
    return [one.state if isinstance(one, CameraState) else one.status for one in outputs]


def names(output: Detections | CameraState) -> tuple[str, ...]:
    assert isinstance(output, Detections)
    return output.tracklets


def test_people_are_found_where_they_are_with_their_pixels(detector: Detector) -> None:
    image = picture((40, 50), (200, 80))
    run(detector, frame(0, image))
    (found,) = run(detector, frame(1, image))
    assert isinstance(found, Detections)
    order = np.argsort(found.xyxy[:, 0])
    np.testing.assert_allclose(found.xyxy[order], [[40, 50, 60, 110], [200, 80, 220, 140]], atol=1.5)
    assert found.tracklets == ("a/0/0/1", "a/0/0/2")
    assert all(crop.base is not None and np.shares_memory(crop, image) for crop in found.crops)
    assert all(crop.mean() > 80 for crop in found.crops)
    assert ((found.quality >= 0) & (found.quality <= 1)).all()


class Told:
    """A person search that finds what it is told, whatever it is shown: by frame, (score, box in the frame's pixels).

    The n-th box's vector is the n-th axis.
    """

    def __init__(self, *frames: list[tuple[float, tuple[int, int, int, int]]]) -> None:
        self.card, self._frames = ReferenceDetector().card, iter(frames)

    def infer(self, images: Image) -> dict[str, NDArray[np.float32]]:
        (found,) = [next(self._frames) for _ in images]
        boxes, scores = np.zeros((1, 64, 4), np.float32), np.zeros((1, 64), np.float32)
        for place, (score, box) in enumerate(found):
            boxes[0, place], scores[0, place] = np.array(box) * 1.3, score  # 180x320 in 256x416
        return {"boxes": boxes, "scores": scores, "embedding": np.eye(64, dtype=np.float32)[None]}

    def close(self) -> None:
        pass


def test_whoever_is_kept_by_a_weak_box_has_that_box_s_crop_quality_and_vector() -> None:
    image, small, large = picture((40, 50)), (40, 50, 60, 110), (200, 20, 260, 140)
    image[20:140, 200:260] = np.random.default_rng(0).integers(0, 2, (120, 60, 1)) * np.array([30, 40, 220])
    told = Told([(0.9, small)], [(0.9, small)], [(0.3, small), (0.5, large)])  # nobody new begins with 0.5
    detector = Detector(told, DetectorSettings())
    for k in range(3):
        (found,) = run(detector, frame(k, image))
    assert isinstance(found, Detections)
    assert found.tracklets == ("a/0/0/1",)
    np.testing.assert_allclose(found.xyxy, [small], atol=0.1)
    assert found.scores == pytest.approx([0.3])
    assert found.crops[0].mean((0, 1)).argmax() == 0  # red
    assert found.quality[0] < 0.6  # 60 pixels high
    assert found.vectors is not None
    np.testing.assert_array_equal(found.vectors, np.eye(64, dtype=np.float32)[:1])


def test_each_frame_gives_one_record_in_its_place(detector: Detector) -> None:
    image = picture((40, 50))
    items = [
        frame(0, image),
        frame(0, image, camera="b"),
        end("c", "idle"),
        frame(1, image),
        frame(1, None, camera="b"),
        end(),
    ]
    outputs = run(detector, *items)
    assert statuses(outputs) == ["ok", "ok", "idle", "ok", "undecodable", "end"]
    assert [one.frame if isinstance(one, Detections) else one for one in outputs] == [
        one.frame if isinstance(one, DecodedFrame) else one for one in items
    ]
    assert outputs[2] is items[2]


def test_an_empty_batch_gives_nothing(detector: Detector) -> None:
    assert run(detector) == []
    assert list(detector.finish()) == []


def test_batches_do_not_change_what_is_found() -> None:
    items = [frame(k, picture((20 + 4 * k, 50), (250 - 3 * k, 60)), camera=c) for k in range(8) for c in "ab"]
    alone, together = (Detector(ReferenceDetector(), DetectorSettings(max_batch=5)) for _ in range(2))
    one_by_one = [run(alone, item)[0] for item in items]
    for left, right in zip(one_by_one, run(together, *items), strict=True):
        assert isinstance(left, Detections)
        assert isinstance(right, Detections)
        assert left.tracklets == right.tracklets
        np.testing.assert_array_equal(left.xyxy, right.xyxy)


@pytest.mark.parametrize(
    ("waited_s", "expected"),
    [
        pytest.param([0.45, 0.25, 0.05], ["ok", "ok", "ok"], id="no lag: all"),
        pytest.param([0.7, 0.5, 0.3], ["skipped", "skipped", "ok"], id="lag: the newest"),
        pytest.param([1.6, 1.4, 1.2], ["skipped", "skipped", "skipped"], id="older than a second: none"),
    ],
)
def test_live_cameras_are_shed_when_the_worker_lags(
    detector: Detector, waited_s: list[float], expected: list[str]
) -> None:
    items = [frame(k, picture(), clock="arrival", waited_s=waited) for k, waited in enumerate(waited_s)]
    counter = FRAMES_DROPPED.labels(items[0].frame.camera, "skipped")
    before = counter._value.get()
    assert statuses(run(detector, *items)) == expected
    assert counter._value.get() - before == expected.count("skipped")


def test_each_live_camera_keeps_its_own_newest_frame(detector: Detector) -> None:
    items = [
        frame(k, picture(), camera=camera, clock="rtcp", waited_s=0.9 - 0.2 * k) for k in range(3) for camera in "ab"
    ]
    assert statuses(run(detector, *items)) == ["skipped"] * 4 + ["ok"] * 2


def test_files_are_never_shed(detector: Detector) -> None:
    items = [frame(k, picture(), waited_s=3600) for k in range(5)]
    assert statuses(run(detector, *items)) == ["ok"] * 5


def test_no_frame_is_inferred_that_grew_old_while_others_were() -> None:
    now = iter(np.arange(NOW_S, NOW_S + 100, 0.12))
    slow = Detector(ReferenceDetector(), DetectorSettings(max_batch=2, lag_s=60), clock=lambda: float(next(now)))
    found = statuses(run(slow, *(frame(0, picture(), camera=f"c{k}", clock="rtcp") for k in range(6))))
    assert found[-1] == "skipped"


def test_a_skipped_frame_does_not_end_a_tracklet(detector: Detector) -> None:
    for k in range(4):
        run(detector, frame(k, picture((40 + 4 * k, 50)), clock="arrival"))
    run(detector, frame(4, picture((56, 50)), clock="arrival", waited_s=2))
    assert names(run(detector, frame(5, picture((60, 50)), clock="arrival"))[0]) == ("a/0/0/1",)


def test_a_name_is_lost_after_a_time_whatever_the_number_of_frames(detector: Detector) -> None:
    image = picture((40, 50))
    late = frame(1, image)
    late = DecodedFrame(msgspec.structs.replace(late.frame, captured_at=5 * S), image)
    assert names(run(detector, frame(0, image), late)[-1]) == ("a/0/0/2",)


@pytest.mark.parametrize(
    ("then", "name"),
    [
        pytest.param(
            [frame(7, picture((40, 50)), stream=S), frame(8, picture((40, 50)), stream=S)],
            f"a/{S}/7/1",
            id="a new stream",
        ),
        pytest.param([end(), frame(9, picture((40, 50))), frame(10, picture((40, 50)))], "a/0/9/1", id="after the end"),
        pytest.param([frame(2, picture((40, 50))), frame(3, picture((40, 50)))], "a/0/2/1", id="played again"),
    ],
)
def test_a_break_begins_a_new_tracker_named_by_its_first_frame(
    detector: Detector, then: list[DecodedFrame | CameraState], name: str
) -> None:
    for k in range(2, 8):
        run(detector, frame(k, picture((40, 50))))
    assert names(run(detector, *then)[-1]) == (name,)


def test_frames_delivered_again_are_counted_and_break_no_tracklet(detector: Detector) -> None:
    before = REPEATS.labels("a")._value.get()
    order = [0, 1, 2, 3, 4, 3, 4, 5, 6]
    found = run(detector, *(frame(k, picture((40 + 4 * k, 50))) for k in order))
    assert statuses(found) == ["ok"] * 5 + ["skipped"] * 2 + ["ok"] * 2
    assert names(found[-1]) == ("a/0/0/1",)
    assert REPEATS.labels("a")._value.get() == before + 2


def test_a_worker_that_starts_again_at_a_frame_says_the_same_names() -> None:
    items = [frame(k, picture((20 + 4 * k, 50), (250 - 3 * k, 60))) for k in range(12)]
    first, second = Detector(ReferenceDetector(), DetectorSettings()), Detector(ReferenceDetector(), DetectorSettings())
    said = [names(one) for one in run(first, *items)]
    assert [names(run(second, item)[0]) for item in items] == said
    assert said[-1] == ("a/0/0/1", "a/0/0/2")


def test_cameras_share_no_state(detector: Detector) -> None:
    for k in range(3):
        run(detector, frame(k, picture((40, 50), (200, 50)), camera="a"))
    run(detector, frame(0, picture((100, 50)), camera="b"))
    assert names(run(detector, frame(1, picture((100, 50)), camera="b"))[0]) == ("b/0/0/1",)


def jpeg(image: Image) -> bytes:
    return bytes(simplejpeg.encode_jpeg(image, quality=90, colorspace="RGB"))


@pytest.mark.parametrize(
    ("data", "decodable"),
    [
        pytest.param(jpeg(picture((40, 50))), True, id="a jpeg"),
        pytest.param(b"", False, id="nothing"),
        pytest.param(b"not a jpeg at all", False, id="garbage"),
        pytest.param(jpeg(picture())[:200], False, id="only a header"),
        pytest.param(jpeg(picture(size_hw=(360, 640))), False, id="of another size than the frame says"),
    ],
)
def test_a_jpeg_that_cannot_be_decoded_is_a_value(data: bytes, decodable: bool) -> None:
    made = Frame(
        site="s",
        camera="a",
        stream=0,
        sequence=0,
        captured_at=0,
        ingested_at=0,
        clock="file",
        width=320,
        height=180,
        image=data,
    )
    state = end()
    decoded, passed = decode_frames([Record(made, 0, 0), Record(state, 0, 1)])
    assert passed is state
    assert isinstance(decoded, DecodedFrame)
    assert (decoded.image is not None) == decodable
    if decoded.image is not None:
        np.testing.assert_allclose(decoded.image[80, 50], (220, 30, 40), atol=12)  # red, not blue


def test_a_jpeg_that_would_unpack_to_more_than_any_camera_films_stays_packed() -> None:
    bomb = bytes(simplejpeg.encode_jpeg(np.zeros((9000, 4000, 3), np.uint8), quality=50))
    assert len(bomb) < 1 << 20
    made = Frame(
        site="s", camera="a", stream=0, sequence=0, captured_at=0, ingested_at=0, clock="file", width=4000, height=9000,
        image=bomb,
    )  # fmt: skip
    assert decode(made) is None


SHARP = np.random.default_rng(0).integers(0, 256, (120, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("box", "other", "crop", "low", "high"),
    [
        pytest.param((100, 100, 150, 220), None, SHARP, 0.99, 1.0, id="large, clear, sharp, inside"),
        pytest.param((100, 100, 120, 148), None, SHARP, 0.2, 0.5, id="small"),
        pytest.param((100, 100, 110, 120), None, SHARP, 0.0, 0.0, id="tiny"),
        pytest.param((0, 100, 50, 220), None, SHARP, 0.35, 0.45, id="cut off at the side"),
        pytest.param((100, 240, 150, 360), None, SHARP, 0.35, 0.45, id="cut off below"),
        pytest.param((100, 100, 150, 220), (125, 110, 175, 230), SHARP, 0.2, 0.5, id="half hidden by somebody nearer"),
        pytest.param((100, 100, 150, 220), (105, 110, 155, 230), SHARP, 0.0, 0.05, id="hidden"),
        pytest.param((100, 100, 150, 220), (125, 80, 175, 210), SHARP, 0.99, 1.0, id="in front of somebody"),
        pytest.param((100, 100, 150, 220), None, np.full((120, 50, 3), 90, np.uint8), 0.4, 0.6, id="all blur"),
    ],
)
def test_quality_says_how_far_a_crop_can_be_trusted(
    box: tuple[int, ...], other: tuple[int, ...] | None, crop: Image, low: float, high: float
) -> None:
    boxes = np.array([box] if other is None else [box, other], np.float32)
    value = quality(boxes, [crop] * len(boxes), (360, 640))[0]
    assert low <= value <= high


def test_people_of_a_person_search_bring_their_own_vectors() -> None:
    search = Detector(ReferencePersonSearch(), DetectorSettings(), clock=lambda: NOW_S)
    image = picture((40, 50), (200, 80))
    image[80:140, 200:220] = (30, 40, 220)
    outputs = run(search, *(frame(n, image) for n in range(3)))
    last = outputs[-1]
    assert isinstance(last, Detections)
    assert last.vectors is not None
    assert last.vectors.shape == (len(last.tracklets), 24) == (2, 24)
    for crop, vector in zip(last.crops, last.vectors, strict=True):  # red or blue, as the person is
        assert vector.reshape(-1, 3).sum(0).argmax() == crop.mean((0, 1)).argmax()
    found_apart = Detector(ReferenceDetector(), DetectorSettings(), clock=lambda: NOW_S)
    assert all(isinstance(one, Detections) and one.vectors is None for one in run(found_apart, frame(0, image)))
