"""Re-ranking by k-reciprocal neighbours (Z. Zhong, L. Zheng, D. Cao, S. Li, CVPR 2017), sparse.

Two pictures are near when they have the same near pictures. The published program holds several (Q + G)^2 matrices, 8 GiB for
Market-1501; here a row has as many entries as its picture has neighbours. Distances are squared Euclidean ones of unit vectors,
in float32, divided by the largest of the row; programs that square once more, or take half precision, give other figures.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stream.errors import UsageError
from trainer.metrics import check_finite

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

K1, K2, WEIGHT = 20, 6, 0.3
"""The paper's values for Market-1501 (section 4.2)."""
CHUNK = 128
"""Rows of distances at a time: 48 MB among the 93,820 pictures of MSMT17."""
BLOCK = 64


def rerank_rows(query: F32, gallery: F32, *, k1: int = K1, k2: int = K2, weight: float = WEIGHT) -> Iterator[F32]:
    """Unit vectors (Q, D) and (G, D) -> new distances in [0, 1], (at most `CHUNK`, G) at a time, in the order of the queries.

    Vectors whose products are not finite are a DataError.

    `k1`: neighbours that must be mutual; `k2`: neighbours whose encodings are averaged; `weight`: share of the old distance,
    lambda in equation 12. Both counts are taken among all Q + G pictures; each picture is its own first neighbour.
    """
    if not (k1 >= 1 and 1 <= k2 <= k1 + 1 and 0 <= weight <= 1):
        raise UsageError(
            f"re-ranking takes k1 >= 1, k2 in [1, k1 + 1] and a weight in [0, 1], got {k1}, {k2}, {weight}"
        )
    vectors = np.concatenate([query, gallery]).astype(np.float32, copy=False)
    k = min(k1, len(vectors) - 1)
    neighbours, furthest = np.empty((len(vectors), k + 1), np.int64), np.empty(len(vectors), np.float32)
    for rows in _chunks(len(vectors)):
        neighbours[rows], furthest[rows] = nearest(vectors, rows, k)
    encoded = encode(vectors, neighbours, furthest, k1, k2)
    asked, listed = encoded[: len(query)].tocsr(), encoded[len(query) :].tocsc()
    for rows in _chunks(len(query)):
        old = _distances(query[rows], gallery) / furthest[rows, None]
        yield ((1 - weight) * jaccard(asked, rows, listed) + weight * old).astype(np.float32)


def _chunks(count: int) -> Iterator[I64]:
    for start in range(0, count, CHUNK):
        yield np.arange(start, min(start + CHUNK, count))


def _distances(a: F32, b: F32) -> F32:
    """Squared Euclidean distances of unit vectors (n, D) and (m, D)."""
    with np.errstate(over="ignore", invalid="ignore"):
        distances: F32 = 2 - 2 * (a @ b.T)
    check_finite(distances)
    return np.maximum(distances, 0)


def nearest(vectors: F32, rows: I64, k: int) -> tuple[I64, F32]:
    """The k + 1 nearest among N vectors of each of `rows` (n,), itself first (n, k + 1), and the distance of the furthest (n,)."""
    distances = _distances(vectors[rows], vectors)
    furthest = np.maximum(distances.max(1), np.float32(1e-12))
    distances[np.arange(len(rows)), rows] = -1  # before its twins
    blocks = len(vectors) // BLOCK
    if blocks > k:
        # the k + 1 smallest of block minima are k + 1 distances, so none further than they is wanted: a fifth of argpartition's time
        minima = distances[:, : blocks * BLOCK].reshape(len(rows), BLOCK, blocks).min(1)
        limit = np.partition(minima, k, axis=1)[:, k]
    else:
        limit = np.full(len(rows), np.inf, np.float32)
    found = np.empty((len(rows), k + 1), np.int64)
    for place, line in enumerate(distances):
        near = np.flatnonzero(line <= limit[place])
        found[place] = near[np.argsort(line[near], kind="stable")[: k + 1]]
    return found, furthest


def _among(neighbours: I64) -> sparse.csr_matrix:
    """(N, n) row numbers -> (N, N), 1 where the column is a neighbour of the row."""
    size, count = neighbours.shape
    ones, starts = np.ones(size * count, np.float32), np.arange(0, size * count + 1, count)
    return sparse.csr_matrix((ones, neighbours.ravel(), starts), shape=(size, size))


def _mutual(neighbours: I64) -> sparse.csr_matrix:
    among = _among(neighbours)
    both: sparse.csr_matrix = among.multiply(among.T).tocsr()
    return both


def encode(vectors: F32, neighbours: I64, furthest: F32, k1: int, k2: int) -> sparse.csr_matrix:
    """(N, N): each picture as a distribution over its mutual neighbours, the nearer the heavier (equations 3 to 7), then the mean
    of its first `k2` neighbours' ones (equation 11)."""
    half = round(k1 / 2)  # half to even, as numpy's around in the authors' program
    mutual, close = _mutual(neighbours), _mutual(neighbours[:, : half + 1])
    # a mutual neighbour brings its own close ones along where more than two thirds of them are mutual neighbours already
    common = (mutual @ close).multiply(mutual).tocsr()  # (i, c): how many of c's close ones i has
    sizes = np.diff(close.indptr)
    common.data = (3 * common.data > 2 * sizes[common.indices]).astype(np.float32)
    common.eliminate_zeros()
    encoded: sparse.csr_matrix = (mutual + common @ close).tocsr()
    for row in range(len(vectors)):
        part = slice(encoded.indptr[row], encoded.indptr[row + 1])
        distances = np.maximum(2 - 2 * (vectors[encoded.indices[part]] @ vectors[row]), 0) / furthest[row]
        weights = np.exp(-distances)
        encoded.data[part] = weights / weights.sum()
    if k2 == 1:
        return encoded
    around: sparse.csr_matrix = _among(neighbours[:, :k2]) @ encoded
    return around * np.float32(1 / min(k2, neighbours.shape[1]))


def jaccard(asked: sparse.csr_matrix, rows: I64, listed: sparse.csc_matrix) -> F32:
    """Jaccard distances of the distributions `rows` (n,) of one matrix to all G of another (n, G) (equations 9 and 10)."""
    out = np.empty((len(rows), listed.shape[0]), np.float32)
    for place, row in enumerate(rows):
        part = slice(asked.indptr[row], asked.indptr[row + 1])
        columns, weights = asked.indices[part], asked.data[part]
        starts, ends = listed.indptr[columns], listed.indptr[columns + 1]
        counts = ends - starts
        ours = np.repeat(weights, counts)
        places = np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
        shared = np.bincount(listed.indices[places], np.minimum(ours, listed.data[places]), minlength=listed.shape[0])
        shared = np.minimum(shared, 1)
        out[place] = 1 - shared / (2 - shared)
    return out
