"""The link rows of an embedder: from a similarity to the log-odds that two tracklets show one person.

The matcher compares a tracklet with an identity's exemplars after it has taken each camera's mean out of the vectors. The same is
done here with labelled tracklets, for every crop at which the matcher could have asked, and a logistic curve is fitted to
each of the two cases: the nearest exemplar is of the tracklet's own camera, or of another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from matcher.rules import EXEMPLARS, MEAN_PRIOR
from reid.crops import to_batch
from stream.errors import DataError
from stream.model import LinkRow, Links, ModelCard
from trainer.tracklets import LabelledTracklet, Stay

F64 = NDArray[np.float64]

CHUNK = 256
"""Crops resized and embedded at a time: thousands at once took 4 GB."""
LEAST_PAIRS = 200
"""Same-person pairs per row below which a curve is not worth trusting."""
RIDGE = 1e-5
"""Keeps the slope finite where the two classes do not overlap."""


class Embeds(Protocol):
    """What is needed of a backend."""

    @property
    def card(self) -> ModelCard:
        """For the input size."""
        ...

    def infer(self, images: NDArray[np.uint8], /) -> dict[str, NDArray[np.float32]]:
        """Pixels to vectors."""
        ...


def fit_links(backend: Embeds, tracklets: Sequence[LabelledTracklet], *, fitted_on: str) -> Links:
    """Fit both rows and the mean vector on people the model was not trained on.

    Raises `DataError` for fewer than 200 same-person pairs in a row: it takes some 60 people, each seen twice by at least two
    cameras.
    """
    return fit_vectors(_embed(backend, tracklets), tracklets, fitted_on)


def fit_vectors(vectors: Sequence[F64], stays: Sequence[Stay], fitted_on: str) -> Links:
    """Fit rows and mean on the vectors (n, D) of each stay, in order of time."""
    pooled = np.stack([v.mean(0) for v in vectors])  # (T, D)
    mean = pooled.mean(0)
    rng = np.random.default_rng(0)  # equal input, equal rows
    same, other = _Row([], [], 0), _Row([], [], 0)
    for site in sorted({t.site for t in stays}):
        mine = [place for place, t in enumerate(stays) if t.site == site]
        people = np.array([stays[place].person for place in mine])
        cameras = np.array([stays[place].camera for place in mine])
        _compare([vectors[p] for p in mine], pooled[mine], people, cameras, mean, (same, other), rng)
    return Links(
        mean=[float(x) for x in mean], same=_fit(same, "same"), other=_fit(other, "other"), fitted_on=fitted_on
    )


def camera_means(pooled: F64, cameras: NDArray[np.int64], prior: F64) -> dict[int, F64]:
    """Each camera's mean vector, drawn towards the site's, which is drawn towards `prior` (D,)."""
    site = (MEAN_PRIOR * prior + pooled.sum(0)) / (MEAN_PRIOR + len(pooled))
    return {
        int(camera): (MEAN_PRIOR * site + pooled[cameras == camera].sum(0))
        / (MEAN_PRIOR + int((cameras == camera).sum()))
        for camera in np.unique(cameras)
    }


def _embed(backend: Embeds, tracklets: Sequence[LabelledTracklet]) -> list[F64]:
    """One (n, D) array per tracklet."""
    crops = [crop for tracklet in tracklets for crop in tracklet.crops]
    flat = np.concatenate(
        [
            backend.infer(to_batch(crops[start : start + CHUNK], backend.card.input_hw))["embedding"].astype(np.float64)
            for start in range(0, len(crops), CHUNK)
        ]
    )
    return np.split(flat, np.cumsum([len(t.crops) for t in tracklets])[:-1])


@dataclass(slots=True)
class _Row:
    similarities: list[float]
    right: list[bool]
    same_pairs: int


def _compare(
    vectors: Sequence[F64],
    pooled: F64,
    people: NDArray[np.int64],
    cameras: NDArray[np.int64],
    prior: F64,
    rows: tuple[_Row, _Row],
    rng: np.random.Generator,
) -> None:
    """Every tracklet of a site against every identity, once per crop; into the rows of the same and of another camera."""
    means = camera_means(pooled, cameras, prior)
    offsets = np.stack([means[int(c)] for c in cameras])
    exemplars = _unit(pooled - offsets)
    for t, crops in enumerate(vectors):
        prefixes = np.cumsum(crops, 0) / np.arange(1, len(crops) + 1)[:, None]
        cosines = _unit(prefixes - offsets[t]) @ exemplars.T  # (n, T)
        for person in np.unique(people):
            known = np.flatnonzero((people == person) & (np.arange(len(people)) != t))
            if not len(known):
                continue
            # an identity has one exemplar at first and up to eight later; the curve must hold for all
            known = rng.choice(known, rng.integers(1, min(EXEMPLARS, len(known)) + 1), replace=False)
            near = cosines[:, known]
            score = (near.max(1) + near.mean(1)) / 2
            elsewhere = cameras[known[near.argmax(1)]] != cameras[t]
            right = bool(person == people[t])
            for other, row in enumerate(rows):
                mine = score[elsewhere == bool(other)]
                row.similarities += mine.tolist()
                row.right += [right] * len(mine)
                row.same_pairs += int(right and len(mine) > 0)


def _fit(row: _Row, name: str) -> LinkRow:
    """Logistic curve by Newton's method, both classes of equal weight."""
    if row.same_pairs < LEAST_PAIRS:
        raise DataError(
            f"{row.same_pairs} same-person pairs for the row {name!r}, at least {LEAST_PAIRS} are needed: "
            "give tracklets of more people, each seen twice by at least two cameras"
        )
    s, y = np.array(row.similarities), np.array(row.right, dtype=np.float64)
    weight = np.where(y == 1, 0.5 / y.sum(), 0.5 / (1 - y).sum())
    x = np.stack([np.ones_like(s), s], 1)
    ab = np.zeros(2)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ ab, -30, 30)))
        gradient = x.T @ (weight * (p - y)) + RIDGE * ab
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        ab -= step * min(1.0, 5.0 / float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    return LinkRow(a=float(ab[0]), b=float(ab[1]), same_pairs=row.same_pairs)


def _unit(x: F64) -> F64:
    result: F64 = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return result
