import cv2
import numpy as np
import pytest

from stream.errors import DataError
from trainer.cache import Rows
from trainer.data import pad_people, read_market


@pytest.fixture
def market(tmp_path):
    """Two people on two cameras, one junk picture, one distractor, one file that is no picture."""
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (tmp_path / folder).mkdir()
        for name in ("0002_c1s1_000451_03.jpg", "0002_c2s1_000001_01.jpg", "0007_c1s1_000451_03.png", "0007_c2_7.jpg"):
            person, camera = int(name[:4]), int(name[6])
            picture = np.full((128, 64, 3), (10 * camera, 20, 30 * person), np.uint8)  # blue, green, red
            cv2.imwrite(str(tmp_path / folder / name), picture)
    for name in ("-1_c1s1_000001_00.jpg", "0000_c2s1_000001_00.jpg"):
        cv2.imwrite(str(tmp_path / "bounding_box_test" / name), np.zeros((128, 64, 3), np.uint8))
    (tmp_path / "bounding_box_train" / "Thumbs.db").write_bytes(b"x")
    return tmp_path


def test_a_folder_in_market_s_layout_is_read_with_people_and_cameras(market):
    crops = read_market(market, "train", (64, 32))
    assert crops.images.shape == (4, 64, 32, 3)
    assert crops.people.tolist() == [2, 2, 7, 7]
    assert crops.cameras.tolist() == [1, 2, 1, 2]
    assert crops.images[2, 5, 5] == pytest.approx([210, 20, 10], abs=3)  # red first


def test_junk_is_left_out_and_distractors_stay(market):
    assert read_market(market, "gallery").people.tolist() == [0, 2, 2, 7, 7]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"query is missing.*bounding_box_train"):
        read_market(tmp_path, "query")


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "query").mkdir()
    with pytest.raises(DataError, match="holds no labelled picture"):
        read_market(tmp_path, "query")


def test_a_picture_without_a_name_is_refused(market):
    (market / "query" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"holiday.jpg: the name says neither person nor camera"):
        read_market(market, "query")


def test_a_picture_that_cannot_be_decoded_is_named(market):
    (market / "query" / "0009_c1s1_000001_00.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"0009_c1s1_000001_00.jpg cannot be decoded"):
        read_market(market, "query")


def test_rows_of_parts_are_read_as_if_they_were_one():
    parts = [np.arange(6).reshape(3, 2), np.arange(10, 14).reshape(2, 2)]
    rows = Rows(parts)
    assert len(rows) == 5
    assert rows[np.array([4, 0, 3])].tolist() == [[12, 13], [0, 1], [10, 11]]


def test_of_too_many_people_the_largest_are_kept_in_their_order():
    boxes = np.array([[0, 0, 1, 1], [0, 0, 9, 9], [0, 0, 5, 5]], np.float32)
    nobody = np.zeros((0, 4), np.float32)
    xyxy, visible = pad_people([(boxes, np.array([0.1, 0.2, 0.3])), (nobody, np.zeros(0))], 2)
    assert xyxy[0].tolist() == [[0, 0, 9, 9], [0, 0, 5, 5]]
    assert visible[0].tolist() == pytest.approx([0.2, 0.3])
    assert np.isnan(xyxy[1]).all()
    assert visible[1].tolist() == [0, 0]
