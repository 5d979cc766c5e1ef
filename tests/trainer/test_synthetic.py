"""The synthetic world as a data set."""

import numpy as np
import pytest

from trainer.data import NOBODY, UNLABELLED
from trainer.datasets import load_reid, load_search
from trainer.datasets.sets import ALL_FRAMES

SIZE = (64, 32)


@pytest.fixture(scope="module")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGHTLINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def crops(_own_cache):
    return load_reid("synthetic", "", SIZE, people=6)


@pytest.fixture(scope="module")
def frames(_own_cache):
    return load_search("synthetic", people=6)


def test_every_person_is_seen_twice_by_each_of_six_cameras(crops):
    train = crops.train
    assert np.unique(train.people).tolist() == list(range(6))
    pairs, counts = np.unique(np.stack([train.people, train.cameras], 1), axis=0, return_counts=True)
    assert len(pairs) == 36
    assert set(counts.tolist()) == {2}
    assert len(set(train.names)) == len(train.people) == 72


def test_everybody_asks_once_per_camera_and_distractors_never(crops):
    # half as many people as are learnt, but at least four
    assert sorted(set(crops.query.people.tolist())) == [1, 2, 3, 4]
    assert len(crops.query.people) == 24
    pairs = np.unique(np.stack([crops.query.people, crops.query.cameras], 1), axis=0)
    assert len(pairs) == 24
    assert set(crops.query.names).isdisjoint(crops.gallery.names)
    assert any("a trial" in note for note in crops.notes)
    more = load_reid("synthetic", "", SIZE, people=10)
    assert sorted(set(more.gallery.people.tolist())) == [0, 1, 2, 3, 4, 5]
    assert 0 not in more.query.people


def test_joints_and_part_labels_fit_the_pictures(crops):
    rows = np.arange(24)
    images, parts, joints = crops.train.images[rows], crops.train.parts[rows], crops.train.joints[rows]
    assert images.shape == (24, *SIZE, 3)
    assert parts.shape == (24, *SIZE)
    assert parts.dtype == images.dtype == np.uint8
    assert set(np.unique(parts).tolist()) == set(range(8))
    seen = joints[..., 2] > 0.5
    assert 0.5 < seen.mean() <= 1
    assert np.isfinite(joints).all()
    row, joint = np.nonzero(seen)
    x, y = joints[row, joint, 0], joints[row, joint, 1]
    assert ((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)).mean() > 0.99
    # a visible joint lies on the body, give or take a pixel of this small picture
    at = parts[row, np.clip((y * SIZE[0]).astype(int), 0, 63), np.clip((x * SIZE[1]).astype(int), 0, 31)]
    assert (at > 0).mean() > 0.8
    nose, ankle = joints[:, 0, 1], joints[:, 15:, 1].mean(1)
    assert (nose < ankle).all()


def test_test_people_are_others_and_the_same_whatever_is_learnt(crops):
    other = load_reid("synthetic", "", SIZE, people=8, seed=2)
    rows = np.arange(12)
    assert np.array_equal(other.query.images[rows], crops.query.images[rows])
    assert not np.array_equal(other.train.images[rows], crops.train.images[rows])
    assert not np.array_equal(crops.train.images[rows], crops.gallery.images[rows])
    again = load_reid("synthetic", "", SIZE, people=4)
    assert np.array_equal(again.train.images[rows], crops.train.images[rows])


def test_what_is_drawn_is_read_from_the_cache_the_next_time(crops):
    told = []
    load_reid("synthetic", "", SIZE, people=6, report=lambda done, of: told.append(done))
    assert told == []


@pytest.mark.parametrize(
    "load",
    [lambda **keys: load_reid("synthetic", "", SIZE, **keys), lambda **keys: load_search("synthetic", **keys)],
    ids=["crops", "frames"],
)
def test_for_scoring_alone_nothing_is_drawn_to_learn_from(load, crops, frames):
    drawn = []
    data = load(people=6, seed=9, train=False, report=lambda done, of: drawn.append(done))
    assert drawn == []  # seed 9 learns from others, who are not in the cache; the test people are, whatever the seed
    assert len(data.train.images) == 0
    assert "to learn" not in data.notes[0]


def test_drawn_frames_have_named_and_unnamed_people(frames):
    train = frames.train
    assert frames.identities == len(np.unique(train.people[(train.people >= 0) & (train.people != UNLABELLED)]))
    assert 0 < frames.identities <= 6
    assert train.images[np.array([0, 5])].shape == (2, 360, 640, 3)
    assert ((train.people == NOBODY) == np.isnan(train.xyxy[..., 0])).all()
    assert (train.visible[train.people >= 0] > 0.1).all()
    assert (train.visible[(train.people >= 0) & (train.people != UNLABELLED)] >= 0.25).all()
    assert np.unique(train.cameras).tolist() == [0, 1, 2]


def test_drawn_queries_are_found_under_another_camera(frames):
    assert len(frames.queries.people) > 0
    for number, (row, person) in enumerate(zip(frames.queries.frames, frames.queries.people, strict=True)):
        gallery = frames.gallery(ALL_FRAMES, number)
        assert row not in gallery.frames
        there = np.isfinite(gallery.xyxy[:, 0])
        assert (frames.test.cameras[gallery.frames[there]] != frames.test.cameras[row]).any()
        place = np.flatnonzero(frames.test.people[row] == person)
        assert frames.test.xyxy[row, place[0]].tolist() == frames.queries.xyxy[number].tolist()
