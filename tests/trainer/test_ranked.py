import cv2
import numpy as np
import pytest

from stream.errors import DataError
from trainer.ranked import FRAME, GAP, RIGHT, TILE_HW, WRONG, Tile, draw_cmc, draw_ranked

GREY = np.full((40, 20, 3), 128, np.uint8)


def _read(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def _share(sheet, colour):
    return (sheet == np.array(colour)).all(-1).sum()


def test_right_ones_are_framed_green_and_wrong_ones_dashed_red(tmp_path):
    for right, wrong in ((1, 0), (0, 1), (2, 1)):
        tiles = [Tile(GREY, "c2", True)] * right + [Tile(GREY, "c3", False)] * wrong
        draw_ranked(tmp_path / "list.png", [(Tile(GREY, "person 7"), tiles)])
        sheet = _read(tmp_path / "list.png")
        frame = (TILE_HW[0] + 2 * FRAME) * (TILE_HW[1] + 2 * FRAME) - TILE_HW[0] * TILE_HW[1]
        assert _share(sheet, RIGHT) == right * frame
        assert 0.3 * wrong * frame <= _share(sheet, WRONG) <= 0.7 * wrong * frame


def test_the_query_stands_before_its_list_without_a_frame(tmp_path):
    red = np.zeros_like(GREY) + np.array([200, 0, 0], np.uint8)
    draw_ranked(tmp_path / "list.png", [(Tile(red, "query"), [Tile(GREY, "1", True)]), (Tile(GREY, "query"), [])])
    sheet = _read(tmp_path / "list.png")
    assert sheet[GAP + 20, GAP + 20].tolist() == [200, 0, 0]
    assert sheet[GAP, GAP].tolist() == [255, 255, 255]


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match="cannot be written"):
        draw_ranked(tmp_path / "no" / "list.png", [(Tile(GREY, "query"), [])])


def test_curves_are_drawn_higher_where_more_is_found(tmp_path):
    def middle(curve):
        draw_cmc(tmp_path / "cmc.png", {"model": np.array(curve)})
        picture = _read(tmp_path / "cmc.png")
        drawn = np.argwhere((np.abs(picture.astype(int) - [31, 119, 180]) < 30).all(-1))  # matplotlib's first colour
        return drawn[:, 0].min()

    assert middle([0.9] * 30) < middle([0.2] * 30)
