import numpy as np
import pytest

from stream.errors import DataError
from trainer.metrics import Detected, Ranking, camera_pairs, euclidean_rows, nearest, rank, rank_rows, score_boxes
from trainer.rerank import rerank_rows


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


def test_mean_inp_counts_how_far_the_last_picture_of_the_person_is():
    ranking = _ranked([0.9, 0.8, 0.7, 0.6, 0.5], [7, 0, 7, 9, 7], [1, 1, 2, 3, 4])
    assert ranking.mean_inp == pytest.approx(2 / 4)  # two hits, the last one fourth of what is left


def test_plain_distances_rank_long_vectors_behind_near_ones():
    query, gallery = np.array([[1, 0], [0, 2]], np.float32), np.array([[9, 0], [0.5, 0.5], [0, 1]], np.float32)
    away = np.linalg.norm(query[:, None] - gallery[None], axis=2)
    (rows,) = euclidean_rows(query, gallery)
    assert np.array_equal(np.argsort(-rows, 1), np.argsort(away, 1))
    assert rows[0].argmax() == 1  # by cosine it is the first


@pytest.mark.parametrize(
    ("people", "cameras", "why"),
    [
        pytest.param([7, 9], [1, 2], "nobody is on two cameras", id="nobody walks"),
        pytest.param([7, 9], [1, 1], "all pictures are of one camera", id="one camera"),
    ],
)
def test_without_a_person_on_two_cameras_nothing_is_left_to_score(people, cameras, why):
    with pytest.raises(DataError, match=f"{why}.*nothing is left after pictures of the query's own camera"):
        _ranked([0.9, 0.8], people, cameras)


def test_a_query_without_a_right_answer_does_not_count():
    gallery = np.eye(2, dtype=np.float32)
    ranking = rank(gallery, np.array([7, 8]), np.array([1, 1]), gallery, np.array([7, 8]), np.array([2, 1]))
    assert (ranking.queries, ranking.left_out, ranking.rank1) == (1, 1, 1)


def test_vectors_that_are_not_numbers_are_refused():
    with pytest.raises(DataError, match="1 of 2 gallery vectors are not finite"):
        _ranked([0.9, np.nan], [7, 9], [2, 2])


def _by_cosine(query, gallery):
    return rank(query, PEOPLE, np.array([1, 1]), gallery, PEOPLE, np.array([2, 2]))


def _by_distance(query, gallery):
    rows = euclidean_rows(query, gallery)
    return rank_rows(rows, PEOPLE, np.array([1, 1]), PEOPLE, np.array([2, 2]))


def _again(query, gallery):
    rows = (-rows for rows in rerank_rows(query, gallery, k1=1, k2=1))
    return rank_rows(rows, PEOPLE, np.array([1, 1]), PEOPLE, np.array([2, 2]))


PEOPLE = np.array([7, 9])


@pytest.mark.parametrize("ranked", [_by_cosine, _by_distance, _again], ids=["cosine", "Euclidean", "re-ranked"])
@pytest.mark.parametrize("length", [2.5e19, 1e30, 3e38])
@pytest.mark.parametrize("side", [1, -1], ids=["alike", "opposite"])
def test_finite_vectors_whose_squares_are_not_are_refused(ranked, length, side):
    query = (length * np.array([[0.6, 0.8], [0.8, -0.6]])).astype(np.float32)
    with pytest.raises(DataError, match="not finite, though the vectors are"):
        ranked(query, side * query)


def test_a_similarity_that_is_no_number_is_refused_wherever_it_comes_from():
    rows = np.array([[0.5, np.nan], [0.1, 0.9]], np.float32)
    with pytest.raises(DataError, match=r"similarities of vectors are not finite.*cannot be scored"):
        rank_rows([rows], PEOPLE, np.array([1, 1]), PEOPLE, np.array([2, 2]))


def _slow(similarity, qp, qc, gp, gc, max_rank):
    """The published protocol, a query at a time: sort, take junk out, walk down the list."""
    curves, precisions, penalties = [], [], []
    for q in range(len(qp)):
        order = sorted(range(len(gp)), key=lambda g, q=q: (-similarity[q, g], g))
        hits = [gp[g] == qp[q] for g in order if not (gp[g] == qp[q] and gc[g] == qc[q])]
        if not any(hits):
            continue
        curve = [any(hits[: k + 1]) for k in range(len(hits))][:max_rank]
        curves.append(curve + [curve[-1]] * (max_rank - len(curve)))
        precisions.append(np.mean([sum(hits[: k + 1]) / (k + 1) for k, hit in enumerate(hits) if hit]))
        penalties.append(sum(hits) / (max(k for k, hit in enumerate(hits) if hit) + 1))
    return np.mean(curves, 0), np.mean(precisions), np.mean(penalties), len(curves)


@pytest.mark.parametrize("seed", range(8))
def test_a_ranking_is_that_of_the_published_protocol_ties_and_distractors_included(seed):
    rng = np.random.default_rng(seed)
    queries, items = 20, int(rng.integers(3, 70))
    qp, gp = rng.integers(1, 6, queries), rng.integers(0, 6, items)
    qc, gc = rng.integers(0, 3, queries), rng.integers(0, 3, items)
    similarity = (rng.integers(0, 9, (queries, items)) / 9).astype(np.float32)  # nine values: many ties
    max_rank = min(10, items)
    expected = _slow(similarity, qp, qc, gp, gc, max_rank)
    got = rank_rows([similarity[:7], similarity[7:]], qp, qc, gp, gc, max_rank=10)
    np.testing.assert_allclose(got.cmc, expected[0])
    assert (got.mean_ap, got.mean_inp, got.queries) == pytest.approx(expected[1:])
    assert got.left_out == queries - expected[3]


def test_vectors_are_ranked_by_their_cosine():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(380, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    people, cameras = rng.integers(1, 30, 380), rng.integers(0, 3, 380)
    parts = (vectors[:300], people[:300], cameras[:300], vectors[300:], people[300:], cameras[300:])  # two chunks
    got = rank(*parts)
    expected = _slow(vectors[:300] @ vectors[300:].T, people[:300], cameras[:300], people[300:], cameras[300:], 50)
    np.testing.assert_allclose(got.cmc, expected[0])
    assert got.mean_ap == pytest.approx(expected[1])


def test_ranks_are_counted_from_one():
    ranking = Ranking(np.array([0.2, 0.5, 0.9]), 0.0, 0.0, 10)
    assert [ranking.at(rank) for rank in (1, 2, 3, 5)] == [0.2, 0.5, 0.9, 0.9]
    assert ranking.rank1 == 0.2


def test_a_short_list_keeps_its_last_value():
    assert _ranked([0.9, 0.8, 0.7], [7, 9, 7], [1, 2, 2], max_rank=3).cmc.tolist() == [0, 1, 1]
    assert _ranked([0.8, 0.7], [9, 7], [2, 2]).at(10) == 1


def test_every_pair_of_cameras_has_its_own_ranking():
    # person 1 goes 0 -> 1 and is found there; person 2 goes 1 -> 2 and a stranger on camera 2 is nearer
    query = np.array([[1, 0], [0, 1]], np.float32)
    gallery = np.array([[1, 0], [0.6, 0.8], [0, 1], [1, 0]], np.float32)
    pairs = camera_pairs(
        query, np.array([1, 2]), np.array([0, 1]), gallery, np.array([1, 2, 9, 1]), np.array([1, 2, 2, 0])
    )
    found = {(pair.query_camera, pair.gallery_camera): pair.ranking.rank1 for pair in pairs}
    assert found == {(0, 1): 1.0, (1, 2): 0.0}


def test_the_nearest_ones_leave_out_the_query_s_own_camera():
    row = np.array([0.9, 0.8, 0.8, 0.1], np.float32)
    first = nearest(row, 7, 1, np.array([7, 9, 7, 7]), np.array([1, 1, 2, 2]), count=2)
    assert first.tolist() == [1, 2]


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
        _picture([B], [0.3], [B, FAR], [True, True]),
    ]
    score = score_boxes(pictures)
    assert score.average_precision == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    assert score.recall == pytest.approx(1 / 3)
    assert score.precision == pytest.approx(1 / 2)


def test_precision_counts_as_the_best_that_comes_at_that_recall_or_later():
    # by score: wrong, right, right of two people: precision 0, 1/2, 2/3
    score = score_boxes([_picture([FAR, A, B], [0.9, 0.8, 0.7], [A, B], [True, True])])
    assert score.average_precision == pytest.approx(2 / 3)


def test_a_second_box_on_one_person_is_wrong():
    score = score_boxes([_picture([A, A], [0.9, 0.8], [A], [True])])
    assert score.precision == pytest.approx(0.5)


def test_people_hardly_visible_are_neither_right_nor_wrong():
    score = score_boxes([_picture([A, B], [0.9, 0.8], [A, B], [False, True])])
    assert (score.average_precision, score.people) == (1, 1)


def test_pictures_without_people_cannot_be_scored():
    with pytest.raises(DataError, match="nothing can be scored"):
        score_boxes([_picture([A], [0.9], [], [])])
