import numpy as np
import pytest

from stream.errors import DataError
from trainer.data import Scenes
from trainer.datasets.search import all_frames
from trainer.datasets.sets import ALL_FRAMES, Gallery, Queries, SearchData
from trainer.ranked import box_rows
from trainer.searching import galleries, gallery_of, score_searcher

COLOURS = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250]])
SIZE = np.array([10, 20])


class ColourSearch:
    """Finds the boxes that it is told of, and describes each by its mean colour."""

    def __init__(self, boxes):
        self.boxes = boxes

    def search(self, images, min_score=0.5):
        boxes = [self.boxes(image) for image in images]
        return boxes, [np.full(len(each), 0.9, np.float32) for each in boxes], self.embed(images, boxes)

    def embed(self, images, boxes):
        return [np.array([self._colour(image, box) for box in each]) for image, each in zip(images, boxes, strict=True)]

    def _colour(self, image, box):
        x1, y1, x2, y2 = box.astype(int)
        mean = image[y1:y2, x1:x2].reshape(-1, 3).mean(0).astype(np.float32)
        return mean / np.linalg.norm(mean)


def _world(cameras):
    """A frame per camera with people 1, 2 and 3 in their colours, side by side; each asks once, from the first frame."""
    frames, corner = len(cameras), np.array([[5, 5], [25, 5], [45, 5]])
    images = np.full((frames, 40, 70, 3), 60, np.uint8)
    for (x, y), colour in zip(corner, COLOURS, strict=True):
        images[:, y : y + SIZE[1], x : x + SIZE[0]] = colour
    boxes = np.concatenate([corner, corner + SIZE], 1).astype(np.float32)
    xyxy = np.repeat(boxes[None], frames, 0)
    people = np.repeat([[1, 2, 3]], frames, 0)
    test = Scenes(images, xyxy, np.ones((frames, 3), np.float32), people, np.array(cameras))
    queries = Queries(np.zeros(3, np.int64), boxes, np.array([1, 2, 3]))
    return SearchData(test, test, queries, (ALL_FRAMES,), all_frames(test, queries), ALL_FRAMES, 3), boxes


def test_who_finds_everybody_and_tells_all_apart_scores_one_by_every_protocol():
    data, boxes = _world([0, 0, 1, 1])
    score = score_searcher(ColourSearch(lambda _: boxes), data)
    assert all(found.average_precision == found.recall == 1 for found in score.found.values())
    assert list(score.search) == ["seqnet", "cross_cam", "original"]
    assert all(one.mean_ap == 1 and one.top[1] == 1 for by_rule in score.search.values() for one in by_rule.values())


def test_boxes_that_are_half_right_count_by_the_standard_rule_only():
    data, boxes = _world([0, 1])
    shifted = boxes + np.array([0, 3, 0, 3], np.float32)  # overlap 17/23 = 0.74
    score = score_searcher(ColourSearch(lambda _: shifted), data)
    assert (score.found[""].recall, score.found["_iou75"].recall) == (1, 0)
    assert (score.search["seqnet"][""].mean_ap, score.search["seqnet"]["_iou75"].mean_ap) == (1, 0)


def test_other_cameras_frames_are_a_gallery_of_their_own():
    data, _ = _world([0, 0, 1])
    assert next(gallery_of(data, "seqnet")).frames.tolist() == [1, 2]
    assert next(gallery_of(data, "cross_cam")).frames.tolist() == [2]


def test_a_set_without_several_cameras_is_searched_whole():
    data, _ = _world([0, 0])
    assert galleries(data) == ["gallery_all"]


def test_every_gallery_size_is_scored_the_headline_first():
    data, boxes = _world([0, 0, 0, 0])

    def gallery(size, query):
        frames = np.arange(1, 4)[: 3 if size == ALL_FRAMES else size]
        return Gallery(frames, np.repeat(boxes[query][None], len(frames), 0))

    sized = SearchData(data.train, data.test, data.queries, (1, 2, ALL_FRAMES), gallery, 2, 3)
    assert galleries(sized) == ["gallery_2", "gallery_1", "gallery_all"]
    score = score_searcher(ColourSearch(lambda _: boxes), sized)
    assert list(score.search) == galleries(sized)
    assert [len(one.frames) for one in gallery_of(sized, "gallery_1")] == [1, 1, 1]


def test_a_model_that_finds_nobody_is_said():
    data, _ = _world([0, 1])
    with pytest.raises(DataError, match="found nobody in any test frame"):
        score_searcher(ColourSearch(lambda _: np.zeros((0, 4), np.float32)), data)


def test_ranked_boxes_are_cut_out_of_their_frames():
    data, boxes = _world([0, 1])
    score = score_searcher(ColourSearch(lambda _: boxes), data)
    rows = box_rows(data, score.vectors, score.boxes, "seqnet")
    assert [query.words for query, _ in rows] == ["person 1", "person 2", "person 3"]
    for (query, tiles), colour in zip(rows, COLOURS, strict=True):
        assert [tile.right for tile in tiles] == [True, False, False]
        assert (
            query.image.reshape(-1, 3).mean(0).tolist()
            == colour.tolist()
            == tiles[0].image.reshape(-1, 3).mean(0).tolist()
        )
