import numpy as np
import pytest

from ingest.masks import Masks

WHOLE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
CORNER = ((0.5, 0.5), (1.0, 0.5), (1.0, 1.0), (0.5, 1.0))


@pytest.mark.parametrize("size_hw", [pytest.param((360, 640), id="wide"), pytest.param((640, 360), id="high")])
def test_a_mask_is_black_inside_and_leaves_the_rest(size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    image = np.full((height, width, 3), 200, np.uint8)
    Masks([CORNER]).burn(image)
    assert not image[height // 2 :, width // 2 :].any()
    assert (image[: height // 2 - 3] == 200).all()
    assert (image[:, : width // 2 - 3] == 200).all()


def test_a_mask_covers_a_pixel_more_than_asked_for() -> None:
    image = np.full((360, 640, 3), 200, np.uint8)
    Masks([CORNER]).burn(image)
    assert not image[179:, 319:].any()  # scaling has mixed what lies on the border with what lies beside it


def test_a_mask_over_everything_leaves_nothing() -> None:
    image = np.full((90, 160, 3), 200, np.uint8)
    Masks([WHOLE]).burn(image)
    assert not image.any()


def test_masks_that_overlap_leave_no_hole() -> None:
    image = np.full((360, 640, 3), 200, np.uint8)
    Masks([CORNER, CORNER, ((0.4, 0.4), (0.8, 0.4), (0.8, 0.8), (0.4, 0.8))]).burn(image)
    assert not image[180:, 320:].any()


def test_masks_follow_a_change_of_resolution() -> None:
    masks = Masks([CORNER])
    for height, width in ((360, 640), (180, 320)):
        image = np.full((height, width, 3), 200, np.uint8)
        masks.burn(image)
        assert not image[height // 2 :, width // 2 :].any()


def test_no_mask_changes_nothing() -> None:
    image = np.full((90, 160, 3), 200, np.uint8)
    Masks([]).burn(image)
    assert (image == 200).all()
