import numpy as np
import pytest

from trainer.cache import Rows
from trainer.data import Crops, Scenes, pad_people


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


def test_some_of_the_crops_keep_all_that_is_known_of_them():
    count = 5
    crops = Crops(
        np.arange(count * 6, dtype=np.uint8).reshape(count, 2, 1, 3),
        np.arange(count),
        np.arange(count) + 10,
        np.arange(count * 51, dtype=np.float32).reshape(count, 17, 3),
        np.arange(count * 2, dtype=np.uint8).reshape(count, 2, 1),
        list("abcde"),
    )
    taken = crops.take(np.array([4, 1, 3])).take(np.array([2, 0]))
    assert taken.people.tolist() == [3, 4]
    assert taken.cameras.tolist() == [13, 14]
    assert taken.names == ["d", "e"]
    assert np.array_equal(taken.joints, crops.joints[[3, 4]])
    assert len(taken.images) == 2
    assert np.array_equal(taken.images[np.array([1])], crops.images[np.array([4])])
    assert np.array_equal(taken.parts[np.array([0])], crops.parts[np.array([3])])


def test_some_of_the_scenes_keep_all_that_is_known_of_them():
    xyxy = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    scenes = Scenes(np.zeros((3, 4, 4, 3), np.uint8), xyxy, np.ones((3, 2)), np.arange(6).reshape(3, 2), np.arange(3))
    taken = scenes.take(np.array([2, 0]))
    assert np.array_equal(taken.xyxy, xyxy[[2, 0]])
    assert taken.people.tolist() == [[4, 5], [0, 1]]
    assert taken.cameras.tolist() == [2, 0]
    assert taken.names is None
    assert Scenes(scenes.images, xyxy, scenes.visible).take(np.array([1])).people is None
