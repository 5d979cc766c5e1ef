import numpy as np
import pytest

from stream.errors import UsageError
from trainer.rerank import nearest, rerank_rows


def _vectors(seed, people=12, each=9, size=16, spread=0.5):
    """Clusters, so that neighbours are mutual and the expansion has something to add."""
    rng = np.random.default_rng(seed)
    vectors = np.repeat(rng.normal(size=(people, size)), each, 0) + spread * rng.normal(size=(people * each, size))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return rng.permutation(vectors).astype(np.float32)


def _dense(query, gallery, k1, k2, weight):
    """The published algorithm with whole matrices, a picture at a time."""
    x = np.concatenate([query, gallery]).astype(np.float64)
    size = len(x)
    distance = ((x[:, None] - x[None]) ** 2).sum(-1)
    distance = (distance / distance.max(0)).T
    order = np.argsort(distance, axis=1, kind="stable")

    def mutual(i, k):
        return {j for j in order[i, : k + 1] if i in order[j, : k + 1]}

    encoded = np.zeros((size, size))
    for i in range(size):
        around = mutual(i, k1)
        grown = set(around)
        for c in around:
            close = mutual(c, int(np.around(k1 / 2)))
            if len(close & around) > 2 / 3 * len(close):
                grown |= close
        members = sorted(grown)
        weights = np.exp(-distance[i, members])
        encoded[i, members] = weights / weights.sum()
    if k2 > 1:
        encoded = np.array([encoded[order[i, :k2]].mean(0) for i in range(size)])
    shared = np.array(
        [[np.minimum(encoded[q], encoded[g]).sum() for g in range(len(query), size)] for q in range(len(query))]
    )
    return (1 - weight) * (1 - shared / (2 - shared)) + weight * distance[: len(query), len(query) :]


def _sparse(query, gallery, **options):
    return np.concatenate(list(rerank_rows(query, gallery, **options)))


@pytest.mark.parametrize(
    ("k1", "k2", "weight"),
    [
        pytest.param(20, 6, 0.3, id="as published"),
        pytest.param(5, 3, 0.3, id="odd k1, whose half is rounded to even"),
        pytest.param(7, 1, 0.0, id="no averaging, new distances alone"),
    ],
)
def test_sparse_re_ranking_is_the_dense_one(k1, k2, weight):
    for seed in range(2):
        vectors = _vectors(seed)
        got = _sparse(vectors[:20], vectors[20:], k1=k1, k2=k2, weight=weight)
        np.testing.assert_allclose(got, _dense(vectors[:20], vectors[20:], k1, k2, weight), atol=1e-5)


def test_many_pictures_are_searched_by_blocks_and_in_chunks_with_the_same_result():
    vectors = _vectors(3, people=15, each=22, spread=0.3)  # 330 pictures: five blocks, three chunks of rows
    got = _sparse(vectors[:140], vectors[140:], k1=4, k2=2)
    np.testing.assert_allclose(got, _dense(vectors[:140], vectors[140:], 4, 2, 0.3), atol=1e-5)


def test_new_distances_are_finite_and_within_0_and_1():
    vectors = _vectors(4)
    vectors[7] = vectors[50] = vectors[51]  # twins
    got = _sparse(vectors[:10], vectors[10:])
    assert got.shape == (10, len(vectors) - 10)
    assert got.dtype == np.float32
    assert np.isfinite(got).all()
    assert got.min() >= 0
    assert got.max() <= 1


def test_each_picture_is_its_own_first_neighbour_though_it_has_twins():
    vectors = _vectors(8, people=3, each=4)
    vectors[:6] = vectors[5]  # more twins than neighbours are asked for
    found, furthest = nearest(vectors, np.arange(len(vectors)), 3)
    assert found[:, 0].tolist() == list(range(len(vectors)))
    assert [len(set(row)) for row in found.tolist()] == [4] * len(vectors)
    assert (furthest > 0).all()


def test_pictures_that_are_all_the_same_are_at_no_distance_from_each_other():
    vectors = np.repeat(_vectors(9, people=1, each=1), 8, axis=0)
    assert np.abs(_sparse(vectors[:3], vectors[3:], k1=2, k2=1, weight=1.0)).max() <= 1
    got = _sparse(vectors[:3], vectors[3:], k1=20, k2=6)
    assert np.isfinite(got).all()
    assert np.ptp(got) < 1e-5, "none is nearer than another"


def test_a_twin_is_nearer_than_anybody_who_looks_alike():
    for seed in range(3):
        vectors = _vectors(seed)
        vectors[30] = vectors[0]
        assert _sparse(vectors[:10], vectors[10:])[0].argmin() == 20


def test_the_old_distance_alone_keeps_the_order():
    vectors = _vectors(5)
    got = _sparse(vectors[:15], vectors[15:], weight=1.0)
    assert np.array_equal(np.argsort(got, 1), np.argsort(-(vectors[:15] @ vectors[15:].T), 1))


def test_neighbours_help_where_a_picture_alone_is_misleading():
    # the query's person is a chain of pictures; a stranger is as near as the chain's far end but knows none of them
    angles = np.deg2rad([0, 12, 24, 36, 48, -46, -58, -70, -82])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    plain = -(vectors[:1] @ vectors[1:].T)[0]
    assert plain[4] < plain[3]  # the stranger at -46 degrees comes before the person at 48
    again = _sparse(vectors[:1], vectors[1:], k1=3, k2=2)[0]
    assert again[3] < again[4]


def test_fewer_pictures_than_neighbours_are_enough():
    vectors = _vectors(6, people=2, each=3)
    assert np.isfinite(_sparse(vectors[:2], vectors[2:])).all()


@pytest.mark.parametrize("options", [{"k1": 0}, {"k2": 30}, {"weight": 1.5}], ids=["k1", "k2", "weight"])
def test_impossible_settings_are_refused(options):
    vectors = _vectors(7, people=2, each=3)
    with pytest.raises(UsageError, match="re-ranking takes"):
        _sparse(vectors[:2], vectors[2:], **options)
