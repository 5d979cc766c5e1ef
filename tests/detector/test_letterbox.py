"""Frames as a detector takes them, and boxes on their way back."""

import numpy as np
import pytest

from detector.letterbox import letterbox
from detector.nms import select
from stream.model import LETTERBOX_FILL


@pytest.mark.parametrize(
    ("image_hw", "filled_hw", "scale"),
    [
        pytest.param((360, 640), (234, 416), 0.65, id="wide: rows below are filled"),
        pytest.param((640, 360), (416, 234), 0.65, id="high: columns to the right are filled"),
        pytest.param((416, 416), (416, 416), 1.0, id="fits as it is"),
        pytest.param((104, 208), (208, 416), 2.0, id="small: enlarged"),
    ],
)
def test_a_frame_is_scaled_to_fit_top_left_and_the_rest_is_filled(
    image_hw: tuple[int, int], filled_hw: tuple[int, int], scale: float
) -> None:
    batch, scales = letterbox([np.full((*image_hw, 3), 200, np.uint8)], (416, 416))
    h, w = filled_hw
    assert batch.shape == (1, 416, 416, 3)
    assert (batch[0, :h, :w] == 200).all()
    assert (batch[0, h:] == LETTERBOX_FILL).all()
    assert (batch[0, :, w:] == LETTERBOX_FILL).all()
    assert scales.tolist() == pytest.approx([scale])


def test_frames_of_several_sizes_share_a_batch() -> None:
    sizes = [(360, 640), (720, 1280), (100, 50)]
    batch, scales = letterbox([np.zeros((*size, 3), np.uint8) for size in sizes], (256, 416))
    assert batch.shape == (3, 256, 416, 3)
    np.testing.assert_allclose(scales, [0.65, 0.325, 2.56])


def test_no_frames_make_an_empty_batch() -> None:
    assert letterbox([], (256, 416))[0].shape == (0, 256, 416, 3)


def chosen(boxes: list[list[float]], scores: list[float], **options: float) -> tuple[list[list[float]], list[float]]:
    settings = {"scale": 0.5, "min_score": 0.2, "max_iou": 0.5} | options
    xyxy, kept, places = select(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), image_hw=(360, 640), **settings
    )
    assert [round(scores[place], 3) for place in places] == [round(score, 3) for score in kept.tolist()]
    return xyxy.tolist(), [round(score, 3) for score in kept.tolist()]


@pytest.mark.parametrize(
    ("boxes", "scores", "xyxy", "kept"),
    [
        pytest.param([], [], [], [], id="nothing"),
        pytest.param([[10, 20, 30, 80]], [0.9], [[20, 40, 60, 160]], [0.9], id="scaled back to the frame"),
        pytest.param([[10, 20, 30, 80]], [0.1], [], [], id="below the score"),
        pytest.param([[-9, -5, 999, 999]], [0.9], [[0, 0, 640, 360]], [0.9], id="clipped to the frame"),
        pytest.param([[400, 20, 500, 80]], [0.9], [], [], id="outside the frame"),
        pytest.param([[np.nan, 20, 30, 80]], [0.9], [], [], id="not a number"),
        pytest.param([[-np.inf, 20, 30, 80], [10, 20, 30, np.inf]], [0.9, 0.8], [], [], id="without end"),
        pytest.param([[10, 20, 10, 80]], [0.9], [], [], id="no width"),
        pytest.param(
            [[0, 0, 20, 60], [0, 0, 20, 50]], [0.3, 0.8], [[0, 0, 40, 100]], [0.8], id="the better of two stays"
        ),
        pytest.param(
            [[0, 0, 20, 60], [15, 0, 35, 60]],
            [0.3, 0.8],
            [[30, 0, 70, 120], [0, 0, 40, 120]],
            [0.8, 0.3],
            id="neighbours both stay, best first",
        ),
        pytest.param(
            [[0, 0, 20, 60], [8, 0, 28, 60], [16, 0, 36, 60]],
            [0.9, 0.8, 0.7],
            [[0, 0, 40, 120], [32, 0, 72, 120]],
            [0.9, 0.7],
            id="one that is dropped drops nobody",
        ),
    ],
)
def test_raw_outputs_become_boxes_of_people(
    boxes: list[list[float]], scores: list[float], xyxy: list[list[float]], kept: list[float]
) -> None:
    assert chosen(boxes, scores, max_iou=0.4) == (xyxy, kept)
