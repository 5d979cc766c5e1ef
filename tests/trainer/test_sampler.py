import numpy as np
import pytest

from stream.errors import UsageError
from trainer.sampler import PKSampler, ShuffleSampler, sites_of

LABELS = np.repeat(np.arange(10), [9, 8, 8, 5, 4, 4, 8, 12, 3, 2])


def test_every_batch_has_p_people_and_k_pictures_of_each():
    order = PKSampler(LABELS, 3, 4, seed=5).order(0)
    for batch in order:
        people, counts = np.unique(LABELS[batch], return_counts=True)
        assert len(people) == 3
        assert (counts == 4).all()


def test_no_picture_comes_twice_in_an_epoch_but_of_people_with_too_few():
    order = PKSampler(LABELS, 3, 4, seed=5).order(2).ravel()
    enough = order[np.isin(LABELS[order], np.flatnonzero(np.bincount(LABELS) >= 4))]
    assert len(np.unique(enough)) == len(enough)


def test_an_epoch_ends_when_too_few_people_are_left():
    order = PKSampler(LABELS, 3, 4, seed=5).order(0)
    groups = np.maximum(1, np.bincount(LABELS) // 4)
    assert len(order) <= groups.sum() // 3


def test_the_order_is_a_function_of_seed_and_epoch():
    first = PKSampler(LABELS, 3, 4, seed=5)
    assert (first.order(1) == PKSampler(LABELS, 3, 4, seed=5).order(1)).all()
    assert not np.array_equal(first.order(1), PKSampler(LABELS, 3, 4, seed=6).order(1))
    assert not np.array_equal(first.order(0), first.order(1))
    plain = ShuffleSampler(23, 5, seed=5)
    assert (plain.order(1) == ShuffleSampler(23, 5, seed=5).order(1)).all()
    assert not np.array_equal(plain.order(0), plain.order(1))


def test_half_of_a_batch_is_of_one_site_and_half_of_another():
    people = np.repeat(np.arange(24), 8)
    sites = people // 8
    order = PKSampler(people, 6, 4, seed=5, sites=sites).order(0)
    assert len(order) >= 6
    for batch in order[:4]:  # later a site may have too few people left
        assert sorted(np.bincount(sites[batch], minlength=3).tolist()) == [0, 12, 12]
        assert len(np.unique(people[batch])) == 6


def test_a_batch_is_filled_from_one_site_where_there_is_no_other():
    order = PKSampler(LABELS, 6, 2, seed=5, sites=np.zeros(len(LABELS), np.int64)).order(0)
    assert {len(np.unique(LABELS[batch])) for batch in order} == {6}


def test_cameras_that_saw_the_same_people_are_of_one_site():
    people = np.array([5, 5, 6, 6, 7, 9, 9])
    cameras = np.array([1, 2, 2, 3, 8, 8, 40])
    assert sites_of(people, cameras).tolist() == [0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: PKSampler(LABELS, 3, 4, seed=1), id="people and pictures"),
        pytest.param(lambda: PKSampler(LABELS, 4, 4, seed=1, sites=LABELS // 5), id="two sites"),
        pytest.param(lambda: ShuffleSampler(23, 5, seed=1), id="plain shuffling"),
    ],
)
def test_a_restored_sampler_goes_on_where_it_was(make):
    uninterrupted = make()
    batches = [uninterrupted.next() for _ in range(20)]
    stopped = make()
    for _ in range(9):
        stopped.next()
    resumed = make()
    resumed.restore(stopped.state())
    assert all(np.array_equal(resumed.next(), batch) for batch in batches[9:])


def test_epoch_and_place_are_those_of_the_batch_that_comes_next():
    sampler = ShuffleSampler(23, 5, seed=1)
    seen = []
    for _ in range(9):
        seen.append((sampler.epoch, sampler.place, len(sampler)))
        assert (sampler.next() == sampler.order(seen[-1][0])[seen[-1][1]]).all()
    assert seen == [(epoch, place, 4) for epoch in (0, 1) for place in range(4)] + [(2, 0, 4)]


def test_a_state_taken_behind_an_epochs_last_batch_goes_on_with_the_next_epoch():
    sampler = ShuffleSampler(23, 5, seed=1)
    sampler.restore({"epoch": 0, "place": 4})
    assert (sampler.epoch, sampler.place) == (1, 0)


def test_people_with_too_few_pictures_are_shown_with_repeats():
    order = PKSampler(LABELS, 10, 4, seed=5).order(0)
    assert len(order) == 1
    for person, count in ((8, 3), (9, 2)):
        shown = order[0][LABELS[order[0]] == person]
        assert len(shown) == 4
        assert len(np.unique(shown)) <= count


def test_a_batch_of_one_person_is_refused():
    with pytest.raises(UsageError, match="2 people"):
        PKSampler(LABELS, 1, 4, seed=0)


def test_data_of_one_person_are_refused():
    with pytest.raises(UsageError, match="pictures of 2 people, got 1"):
        PKSampler(np.zeros(8, np.int64), 4, 4, seed=0)


def test_with_fewer_people_than_a_batch_takes_every_batch_takes_them_all():
    order = PKSampler(LABELS, 24, 2, seed=0).order(0)
    assert order.shape[1] == 20
    assert all(len(np.unique(LABELS[batch])) == 10 for batch in order)


def test_with_fewer_samples_than_a_batch_takes_every_batch_takes_them_all():
    assert sorted(ShuffleSampler(3, 16, seed=0).next()) == [0, 1, 2]


def test_nothing_to_sample_is_refused():
    with pytest.raises(UsageError, match="nothing to train on"):
        ShuffleSampler(0, 16, seed=0)
