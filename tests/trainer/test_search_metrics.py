import numpy as np
import pytest

from stream.errors import DataError
from trainer.data import NOBODY, UNLABELLED, Scenes
from trainer.datasets.sets import Gallery, Queries
from trainer.search_metrics import (
    STANDARD,
    STRICT,
    Found,
    average_precision,
    score_found,
    score_original,
    score_search,
    trapezoid_precision,
)

A, B, FAR = (0, 0, 20, 40), (100, 0, 120, 40), (300, 0, 320, 40)


def _found(*boxes):
    """Boxes as (xyxy, score, similarity to the query [1, 0])."""
    xyxy = np.array([box for box, _, _ in boxes], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, _ in boxes], np.float32)
    vectors = np.array([[s, np.sqrt(1 - s * s)] for _, _, s in boxes], np.float32).reshape(-1, 2)
    return Found(xyxy, scores, vectors)


def _scenes(frames, cameras=None):
    """Per frame a list of (xyxy, person)."""
    most = max(len(frame) for frame in frames)
    xyxy = np.full((len(frames), most, 4), np.nan, np.float32)
    people = np.full((len(frames), most), NOBODY)
    for place, frame in enumerate(frames):
        for slot, (box, person) in enumerate(frame):
            xyxy[place, slot], people[place, slot] = box, person
    images = np.zeros((len(frames), 1, 1, 3), np.uint8)
    cameras = np.zeros(len(frames), int) if cameras is None else np.array(cameras)
    return Scenes(images, xyxy, np.ones((len(frames), most), np.float32), people, cameras)


def _gallery(*boxes):
    nowhere = (np.nan,) * 4
    return Gallery(np.arange(len(boxes)), np.array([box or nowhere for box in boxes], np.float32))


ASK = np.array([[1, 0]], np.float32)


def test_search_is_scored_as_worked_by_hand():
    # by similarity: wrong, right, wrong, right, of three frames that show the person: 0.5 * 2/3
    found = [
        _found((FAR, 0.9, 0.9), (A, 0.9, 0.8)),
        _found((FAR, 0.9, 0.7), (B, 0.9, 0.6)),
        _found(),
    ]
    score = score_search(ASK, found, [_gallery(A, B, A)])
    assert score.mean_ap == pytest.approx(1 / 3)
    assert score.top == {1: 0, 5: 1, 10: 1}
    assert (score.queries, score.left_out) == (1, 0)


def test_only_the_most_similar_box_of_a_frame_is_right():
    near = (2, 0, 22, 40)
    score = score_search(ASK, [_found((near, 0.9, 0.9), (A, 0.9, 0.95)), _found((B, 0.9, 0.5))], [_gallery(A, B)])
    assert score.mean_ap == pytest.approx((1 + 2 / 3) / 2)


def test_boxes_below_the_score_and_frames_outside_the_gallery_do_not_exist():
    found = [_found((A, 0.9, 0.5)), _found((FAR, 0.49, 0.9)), _found((FAR, 0.9, 0.9))]
    score = score_search(ASK, found, [Gallery(np.array([0, 1]), np.array([A, (np.nan,) * 4], np.float32))])
    assert (score.mean_ap, score.top[1]) == (1, 1)


def test_a_person_who_was_never_found_has_no_precision_and_one_who_is_nowhere_no_say():
    found = [_found((FAR, 0.9, 0.9))]
    score = score_search(np.repeat(ASK, 2, 0), found, [_gallery(A), _gallery(None)])
    assert (score.mean_ap, score.queries, score.left_out) == (0, 1, 1)
    with pytest.raises(DataError, match="nothing can be scored"):
        score_search(ASK, found, [_gallery(None)])


@pytest.mark.parametrize(
    ("rule", "size", "overlap", "right"),
    [
        pytest.param(STANDARD, (20, 40), 0.5, True, id="0.5 is enough"),
        pytest.param(STANDARD, (20, 40), 0.49, False, id="less is not"),
        pytest.param(STANDARD, (10, 20), 0.34, True, id="10 x 20 needs a third"),
        pytest.param(STANDARD, (10, 20), 0.33, False, id="10 x 20 needs no less"),
        pytest.param(STRICT, (20, 40), 0.75, False, id="strict: more than 0.75"),
        pytest.param(STRICT, (20, 40), 0.76, True, id="strict: 0.76"),
        pytest.param(STRICT, (10, 20), 0.6, False, id="strict: small people too"),
    ],
)
def test_a_box_matches_by_the_rule(rule, size, overlap, right):
    width, height = size
    truth = np.array([0, 0, width, height], np.float32)
    assert rule.matches(np.array([overlap], np.float32), truth).tolist() == [right]


def test_boxes_and_people_are_paired_by_mutual_best_overlap():
    scenes = _scenes([[(A, 7), (B, UNLABELLED)], [(A, 8)]])
    shifted = (5, 0, 25, 40)
    found = [_found((A, 0.9, 0), (shifted, 0.8, 0), (B, 0.7, 0)), _found((A, 0.3, 0))]
    score = score_found(found, scenes)
    # by score: right, wrong (A has a better box), right; of three people one has no box of at least 0.5
    assert (score.recall, score.people) == (pytest.approx(2 / 3), 3)
    assert score.average_precision == pytest.approx((1 + 2 / 3) / 2 * 2 / 3)
    assert (
        score_found(
            [_found(((4, 0, 20, 40), 0.9, 0)), _found((A, 0.9, 0))], _scenes([[(A, 7)], [(A, 8)]]), STRICT
        ).recall
        == 1
    )
    assert (
        score_found(
            [_found(((6, 0, 20, 40), 0.9, 0)), _found((A, 0.9, 0))], _scenes([[(A, 7)], [(A, 8)]]), STRICT
        ).recall
        == 0.5
    )


def test_scenes_without_people_cannot_be_scored():
    with pytest.raises(DataError, match="none of the scenes"):
        score_found([_found((A, 0.9, 0))], _scenes([[((np.nan,) * 4, NOBODY)]]))


def test_the_trapezoid_of_the_first_protocol_is_that_worked_by_hand():
    # wrong, (ignored,) hit, hit, and one more who was not found
    assert trapezoid_precision(np.array([1, 2]), 3) == pytest.approx(0.277778, abs=1e-6)
    assert trapezoid_precision(np.array([1, 3]), 2) == pytest.approx(1 / 3)  # where the mean precision at hits is 1/2
    assert trapezoid_precision(np.array([0]), 1) == 1


def _original(found, scenes, person=7, frame=0):
    queries = Queries(np.array([frame]), np.array([A], np.float32), np.array([person]))
    return score_original(ASK, queries, found, scenes)


def test_the_first_protocol_counts_as_worked_by_hand():
    scenes = _scenes([[(A, 7)], [(A, 7), (B, 9)], [(A, 7)], [(A, 7)]], cameras=[0, 1, 2, 1])
    found = [
        _found((A, 0.1, 0.99)),  # the query's own camera: ignored
        _found((B, 0.1, 0.9), (A, 0.1, 0.8)),  # somebody else, then a hit
        _found((A, 0.1, 0.7)),  # a hit
        _found(),  # not found: counts as missed
    ]
    score = _original(found, scenes)
    assert score.mean_ap == pytest.approx(0.277778, abs=1e-6)
    assert score.top == {1: 0, 5: 1, 10: 1}


@pytest.mark.parametrize(
    ("box", "person", "ap"),
    [
        pytest.param((0, 0, 20, 40), UNLABELLED, 1, id="unnamed people are ignored"),
        pytest.param((11, 0, 31, 40), 9, 1, id="an overlap of 0.3 with both edges is ignored"),
        pytest.param((16, 0, 36, 40), 9, 0.25, id="an overlap below 0.3 is wrong"),
        pytest.param((0, 0, 20, 40), 9, 0.25, id="somebody else is wrong"),
    ],
)
def test_the_first_protocol_ignores_what_is_unclear(box, person, ap):
    scenes = _scenes([[(A, 7)], [(A, person)], [(A, 7)]], cameras=[0, 1, 1])
    found = [_found(), _found((box, 0.9, 0.9)), _found((A, 0.9, 0.5))]
    assert _original(found, scenes).mean_ap == pytest.approx(ap)  # second place: (0 + 1/2) / 2


def test_in_the_first_protocol_the_best_box_of_a_frame_counts_and_its_others_do_not():
    scenes = _scenes([[(A, 7)], [(A, 7)]], cameras=[0, 1])
    worse = (4, 0, 24, 40)
    assert _original([_found(), _found((worse, 0.9, 0.9), (A, 0.9, 0.5))], scenes).mean_ap == 1


def test_a_hit_past_rank_1000_does_not_count_in_the_first_protocol():
    scenes = _scenes([[(A, 7)], [(A, 7)]], cameras=[0, 1])
    for wrong, top in ((999, True), (1000, False)):
        found = [_found(), _found(*[(FAR, 0.9, 0.9)] * wrong, (A, 0.9, 0.5))]
        assert (_original(found, scenes).mean_ap > 0) == top


def test_a_query_that_is_on_one_camera_only_is_left_out_of_the_first_protocol():
    scenes = _scenes([[(A, 7)], [(A, 7)]], cameras=[0, 0])
    with pytest.raises(DataError, match="nothing can be scored"):
        _original([_found((A, 0.9, 0.9))] * 2, scenes)


def _slow_precision(hits, scores):
    """Area under precision over recall, a threshold at a time."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [hit for hit, score in zip(hits, scores, strict=True) if score >= threshold]
        recall = sum(taken) / sum(hits)
        total, before = total + (recall - before) * sum(taken) / len(taken), recall
    return total


def test_average_precision_is_the_area_by_thresholds_with_ties():
    rng = np.random.default_rng(0)
    for size in (1, 7, 60):
        hits, scores = rng.random(size) < 0.4, rng.integers(0, 12, size).astype(np.float32)
        hits[0] = True
        assert average_precision(hits, scores) == pytest.approx(_slow_precision(hits.tolist(), scores.tolist()))
    assert average_precision(np.array([False]), np.array([1], np.float32)) == 0


def _slow_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inner = max(0, width) * max(0, height)
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


def _slow_search(vectors, found, galleries):
    """The published protocol, a query, a frame and a box at a time."""
    precisions, firsts = [], []
    for query, gallery in zip(vectors, galleries, strict=True):
        hits, scores, shown, done = [], [], 0, 0
        for frame, truth in zip(gallery.frames, gallery.xyxy, strict=True):
            there = np.isfinite(truth).all()
            shown += there
            free = there
            boxes = [i for i, score in enumerate(found[frame].scores) if score >= 0.5]
            for i in sorted(boxes, key=lambda i, f=frame, q=query: -float(found[f].vectors[i] @ q)):
                width, height = truth[2] - truth[0], truth[3] - truth[1]
                least = min(0.5, width * height / ((width + 10) * (height + 10)))
                hit = bool(free and _slow_iou(found[frame].xyxy[i], truth) >= least)
                free = free and not hit
                done += hit
                hits.append(hit)
                scores.append(float(found[frame].vectors[i] @ query))
        precisions.append(_slow_precision(hits, scores) * done / shown if done else 0.0)
        ordered = [hit for _, hit in sorted(zip(scores, hits, strict=True), key=lambda pair: -pair[0])]
        firsts.append([any(ordered[:k]) for k in (1, 5, 10)])
    return np.mean(precisions), np.mean(firsts, 0)


@pytest.mark.parametrize("seed", range(4))
def test_search_is_that_of_the_published_protocol_on_random_scenes(seed):
    rng = np.random.default_rng(seed)
    frames = 14
    corners = rng.uniform(0, 200, (frames, 4, 2))
    truth = np.concatenate([corners, corners + rng.uniform(8, 60, (frames, 4, 2))], 2)
    people = np.array([rng.permutation(6)[:4] for _ in range(frames)])
    centres = rng.normal(size=(6, 8))
    found = []
    for frame in range(frames):
        boxes = np.concatenate([truth[frame] + rng.normal(0, 3, (4, 4)), truth[frame] + rng.normal(0, 8, (4, 4))])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 2)
        vectors = centres[np.tile(people[frame], 2)] + rng.normal(0, 1, (8, 8))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        found.append(Found(boxes.astype(np.float32), rng.random(8).astype(np.float32), vectors.astype(np.float32)))
    galleries, queries = [], []
    for person in range(6):
        kept = rng.permutation(frames)[:10]
        where = [np.flatnonzero(people[f] == person) for f in kept]
        boxes = [truth[f, w[0]] if len(w) else [np.nan] * 4 for f, w in zip(kept, where, strict=True)]
        galleries.append(Gallery(kept, np.array(boxes, np.float32)))
        queries.append(centres[person] / np.linalg.norm(centres[person]))
    vectors = np.array(queries, np.float32)
    mean_ap, top = _slow_search(vectors, found, galleries)
    score = score_search(vectors, found, galleries)
    assert score.mean_ap == pytest.approx(mean_ap, abs=1e-6)
    assert list(score.top.values()) == pytest.approx(list(top))
