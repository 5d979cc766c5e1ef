"""What never moves is a thing: signs and mannequins leave, who moves at all stays."""

import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.backends.reference import ReferenceDetector, ReferencePersonSearch
from detector.detector import Detector
from detector.scenery import Scenery
from detector.settings import DetectorSettings
from stream.messages import Detections
from stream.telemetry import STILL
from tests.detector.test_detector import Image, frame, picture

BOX = np.array([[100, 40, 140, 160]], np.float32)
"""Somebody 120 pixels high; the middle half is 20 wide."""


def room(seed: int = 0, noise: float = 6.0) -> Image:
    """320x180 of texture that is the same each time, with new noise of the camera."""
    texture = np.random.default_rng(99).integers(40, 200, (18, 32, 3)).repeat(10, 0).repeat(10, 1)
    return (texture + np.random.default_rng(seed).normal(0, noise, texture.shape)).clip(0, 255).astype(np.uint8)


def watch(scenery: Scenery, images: list[Image], boxes: NDArray[np.float32] = BOX, fps: float = 5) -> list[bool]:
    """Whether each image's first box is taken for a thing."""
    return [bool(scenery.unchanged(n / fps, image, boxes)[0]) for n, image in enumerate(images)]


def test_what_stands_still_for_three_seconds_is_a_thing_through_the_noise_of_the_camera() -> None:
    still = watch(Scenery(3.0), [room(n) for n in range(40)])
    assert not any(still[:15])
    assert all(still[15:])


@pytest.mark.parametrize("noise", [0.0, 6.0])
def test_who_moves_one_hand_stays(noise: float) -> None:
    """A hand of 8 of 120 pixels, here and there: never unmoved for the 1.4 s after which a tracklet is over."""
    places = np.random.default_rng(5).integers(0, 12, 100)
    images = []
    for n, right in enumerate(places):
        image = room(n, noise)
        image[100:108, 110 + right : 118 + right] = 250
        images.append(image)
    still = watch(Scenery(3.0), images)
    assert not any(all(still[n : n + 7]) for n in range(len(still)))


def test_who_passes_hides_a_thing_for_a_moment_only() -> None:
    images = [room(n) for n in range(60)]
    for n in (20, 21, 22):
        images[n][30:170, 100:150] = (20, 40, 60)
    still = watch(Scenery(3.0), images)
    assert not any(still[20:23])
    assert all(still[15:20])
    assert all(still[23:])


def test_a_thing_carried_in_is_new_for_three_seconds_and_a_light_switched_on_shows_all_anew() -> None:
    images = [room(n) for n in range(80)]
    for n in range(20, 80):
        images[n][40:160, 100:140] = np.roll(images[n][40:160, 100:140], 7, 1)
    for n in range(50, 80):
        images[n] = (images[n] * 0.6).astype(np.uint8)
    still = watch(Scenery(3.0), images)
    assert not any(still[20:35])
    assert all(still[36:50])
    assert not any(still[50:65])
    assert all(still[66:])


def test_pictures_of_another_size_are_not_compared() -> None:
    scenery = Scenery(1.0)
    assert not any(watch(scenery, [room(n) for n in range(5)]))
    half = room()[::2, ::2]
    assert not scenery.unchanged(2.0, half, BOX / 2).any()


@pytest.mark.parametrize("box", [[0, 0, 2, 2], [318, 178, 320, 180], [0, 0, 320, 180], [319.5, 179.5, 320, 180]])
def test_boxes_at_the_border_and_of_a_pixel_are_compared_too(box: list[float]) -> None:
    boxes = np.array([box], np.float32)
    assert all(watch(Scenery(1.0), [room(n, noise=0) for n in range(12)], boxes)[5:])


def test_nothing_is_a_thing_where_it_is_turned_off() -> None:
    assert not any(watch(Scenery(0.0), [room(n) for n in range(40)]))


def scene(weak_x: int) -> Image:
    """A rectangle, which the reference models are sure of, and at `weak_x` one that lacks a corner and scores 0.65."""
    image = picture((60, 40), (weak_x, 100))
    image[100:142, weak_x : weak_x + 10] = 128
    return image


def test_only_weak_boxes_are_things_and_one_that_moves_is_somebody_again() -> None:
    detector = Detector(ReferenceDetector(), DetectorSettings())
    before = STILL.labels("a")._value.get()
    seen = [
        one
        for n in range(40)
        for one in detector.process([frame(n, scene(200 if n < 30 else 230))])
        if isinstance(one, Detections)
    ]
    assert [len(one.tracklets) for one in seen] == [2] * 15 + [1] * 15 + [2] * 10
    assert STILL.labels("a")._value.get() - before == 15
    assert seen[20].scores[0] == 1.0
    assert set(seen[35].tracklets) == {"a/0/0/1", "a/0/0/3"}  # the tracklet of the thing is over


def test_vectors_of_a_person_search_stay_with_their_people() -> None:
    detector = Detector(ReferencePersonSearch(), DetectorSettings())
    seen = [one for n in range(20) for one in detector.process([frame(n, scene(200))]) if isinstance(one, Detections)]
    first, last = seen[0], seen[-1]
    assert first.vectors is not None
    assert last.vectors is not None
    assert len(first.vectors) == 2
    sure = int(first.scores.argmax())
    np.testing.assert_allclose(last.vectors, first.vectors[sure : sure + 1], atol=1e-6)
