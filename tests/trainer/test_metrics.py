import numpy as np
import pytest

from stream.errors import DataError
from trainer.metrics import Detected, rank, score_boxes, score_hits


def _ranked(similarities, people, cameras, **options):
    """One query, person 7 on camera 1, against a gallery whose similarities are given."""
    gallery = np.array([[s, np.sqrt(1 - s * s)] for s in similarities], np.float32)
    query = np.array([[1, 0]], np.float32)
    return rank(query, np.array([7]), np.array([1]), gallery, np.array(people), np.array(cameras), **options)


def test_a_ranking_is_scored_as_worked_by_hand():
    ranking = _ranked([0.9, 0.8, 0.7, 0.6, 0.5], [7, 0, 7, 9, 7], [1, 1, 2, 3, 4], max_rank=4)
    assert ranking.cmc.tolist() == [0, 1, 1, 1]
    assert ranking.mean_ap == pytest.approx(0.5)
    assert ranking.queries == 1


def test_the_query_s_own_camera_neither_helps_nor_hurts():
    without = _ranked([0.8, 0.5], [9, 7], [2, 2])
    beside = _ranked([0.95, 0.8, 0.5], [7, 9, 7], [1, 2, 2])
    assert beside.mean_ap == without.mean_ap == pytest.approx(0.5)


def test_a_query_without_a_right_answer_does_not_count():
    with pytest.raises(DataError, match="another camera"):
        _ranked([0.9, 0.8], [7, 9], [1, 2])


def test_a_ranking_agrees_with_the_definition_on_random_data():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(80, 16)).astype(np.float32)
    people, cameras = rng.integers(1, 9, 80), rng.integers(0, 3, 80)
    ranking = rank(vectors[:30], people[:30], cameras[:30], vectors[30:], people[30:], cameras[30:])
    first, precisions = [], []
    for q in range(30):
        others = [g for g in range(30, 80) if not (people[g] == people[q] and cameras[g] == cameras[q])]
        others.sort(key=lambda g, q=q: -float(vectors[q] @ vectors[g]))
        hits = [people[g] == people[q] for g in others]
        if any(hits):
            first.append(hits[0])
            precisions.append(np.mean([sum(hits[: k + 1]) / (k + 1) for k, hit in enumerate(hits) if hit]))
    assert ranking.queries == len(first)
    assert ranking.rank1 == pytest.approx(np.mean(first))
    assert ranking.mean_ap == pytest.approx(np.mean(precisions))


def test_a_short_list_keeps_its_last_value():
    cmc, precision = score_hits(np.array([False, True]), 5)
    assert cmc.tolist() == [0, 1, 1, 1, 1]
    assert precision == pytest.approx(0.5)


def _picture(boxes, scores, truth, counted):
    return Detected(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(truth, np.float32).reshape(-1, 4),
        np.array(counted, bool),
    )


A, B, FAR = [0, 0, 10, 20], [30, 0, 40, 20], [60, 0, 70, 20]


def test_perfect_boxes_have_an_average_precision_of_one():
    score = score_boxes([_picture([A, B], [0.9, 0.8], [A, B], [True, True])])
    assert (score.average_precision, score.recall, score.precision, score.people) == (1, 1, 1, 2)


def test_average_precision_is_the_one_worked_by_hand():
    # by score: right, wrong, right of three people: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3
    pictures = [
        _picture([A, FAR], [0.9, 0.7], [A], [True]),
        _picture([B], [0.6], [B, FAR], [True, True]),
    ]
    score = score_boxes(pictures, threshold=0.65)
    assert score.average_precision == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    assert score.recall == pytest.approx(1 / 3)
    assert score.precision == pytest.approx(1 / 2)


def test_a_second_box_on_one_person_is_wrong():
    score = score_boxes([_picture([A, A], [0.9, 0.8], [A], [True])])
    assert score.precision == pytest.approx(0.5)


def test_people_hardly_visible_are_neither_right_nor_wrong():
    score = score_boxes([_picture([A, B], [0.9, 0.8], [A, B], [False, True])])
    assert (score.average_precision, score.people) == (1, 1)


def test_pictures_without_people_cannot_be_scored():
    with pytest.raises(DataError, match="nothing can be scored"):
        score_boxes([_picture([A], [0.9], [], [])])
