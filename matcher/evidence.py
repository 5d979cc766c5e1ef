"""How much speaks for a tracklet being a known identity: appearance, calibrated, and time.

    L = clip(a + b * s, -8, 8) + ln(h / lambda)

s       (largest + mean) / 2 of the tracklet's cosines to the identity's exemplars, camera means removed
a, b    logistic fit for a nearest exemplar of the same camera, or of another one
h       density of transit times: heavy-tailed, 1 / (gap + tau); where this camera lost the identity seconds ago, a term
        for a track that was cut and goes on where it stopped
lambda  newcomers per second on this site

A search in float32 chooses whom to look at; what counts is computed again in float64, identity by identity, so that it
does not depend on where a row happens to lie.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matcher.rules import SECOND
from matcher.state import ARRIVALS_NS, Exemplar, State, Tracklet

F64 = NDArray[np.float64]

LEAST = -6.0  # candidates of less log-odds do not matter
CUT_NS = 6 * SECOND  # a cut track goes on within this time
CUT_RATE = 0.075  # per second and camera of the site
RIVALS = 6  # candidates that may be the same person twice
TWICE = 0.1  # prior odds that two identities are one person
MARGIN = 0.02  # the float32 search is right to this log-odds, with room


@dataclass(frozen=True, slots=True)
class Candidate:
    """What speaks for one identity."""

    identity: int
    similarity: float
    row: str
    appearance: float
    """a + b * s, before it is clipped."""
    time: float
    """ln(h / lambda)"""
    log_odds: float
    gap_s: float
    """From the identity's last sighting to the tracklet's first; negative where they overlap."""


def centred(state: State, vector: NDArray[np.float32], camera: str) -> F64:
    """(D,) float64 unit vector: what is special about `vector` (D,) among the people of its camera."""
    return _unit(vector.astype(np.float64) - state.centre(camera))


def newcomers_per_s(state: State, time: int) -> float:
    """lambda: by probability, so that a matcher that takes friends for strangers does not raise its own bar."""
    window_s = min(max(0, time - state.site.first), ARRIVALS_NS) / SECOND
    return (6 + sum(probability for _, probability in state.arrivals)) / (60 + window_s)


def candidates(state: State, rows: Sequence[Tracklet], time: int) -> list[list[Candidate]]:
    """For each pending tracklet of one camera its best 16 identities with L >= -6, best first."""
    if not state.identities:
        return [[] for _ in rows]
    rate = newcomers_per_s(state, time)
    camera = rows[0].camera
    queries = np.stack([centred(state, state.pools[row.name].vector, camera) for row in rows])
    found = []
    for row, query, likely in zip(rows, queries, _shortlists(state, rows, queries, rate), strict=True):
        exact = evidence(state, row, query, likely, rate)
        best = sorted((c for c in exact if c.log_odds >= LEAST), key=lambda c: (-c.log_odds, c.identity))
        found.append(best[: state.rules.max_candidates])
    return found


def evidence(state: State, tracklet: Tracklet, query: F64, identities: Iterable[int], rate: float) -> list[Candidate]:
    """L of each identity that has exemplars and was not in this camera at the same time; `query` (D,) is centred."""
    possible = []
    for index in sorted(identities):
        if state.exemplars[index] and state.identities[index].seen.get(tracklet.camera, -1) < tracklet.first:
            possible.append(index)
    if not possible:
        return []
    exemplars = [[e for _, e in sorted(state.exemplars[index].items())] for index in possible]
    cosines = (_centred_rows(state, [e for mine in exemplars for e in mine]) * query).sum(axis=1)
    out, start = [], 0
    for index, mine in zip(possible, exemplars, strict=True):
        own = cosines[start : start + len(mine)].tolist()
        start += len(mine)
        best = max(own)
        nearest = [e.camera for e, cosine in zip(mine, own, strict=True) if cosine == best]
        similarity = (best + sum(own) / len(own)) / 2
        row, name = state.rules.calibration.row(
            tracklet.camera, tracklet.camera if tracklet.camera in nearest else min(nearest)
        )
        appearance = row.a + row.b * similarity
        density, gap_s = _transit(state, tracklet, index)
        since = math.log(density / rate)
        clip = state.rules.clip
        log_odds = min(max(appearance, -clip), clip) + since
        out.append(Candidate(index, similarity, name, appearance, since, log_odds, gap_s))
    return out


def same_person(state: State, one: int, other: int) -> float:
    """Probability that two identities are one person, founded twice."""
    if other in state.identities[one].met:
        return 0.0
    row, clip = state.rules.calibration.between_identities, state.rules.clip
    cosine = float(_centroid(state, one) @ _centroid(state, other))
    return TWICE / (TWICE + math.exp(-min(max(row.a + row.b * cosine, -clip), clip)))


def probability(state: State, odds: F64, columns: Sequence[int], row: int, column: int) -> float:
    """That the tracklet of `row` is the identity of `column`, given `odds` (R, C) of tracklets against `columns`.

    Others that may be the same person twice speak for it; all other identities and other open tracklets against it.
    """
    mine = odds[row]
    chosen = float(mine[column])
    rivals = sorted(range(len(columns)), key=lambda c: (-mine[c], c))[:RIVALS]
    shared = sum(
        same_person(state, columns[column], columns[c]) * float(mine[c]) for c in rivals if c != column and mine[c] > 0
    )
    return (chosen + shared) / (1 + float(mine.sum()) + float(odds[:, column].sum()) - chosen)


def _shortlists(state: State, rows: Sequence[Tracklet], queries: F64, rate: float) -> list[set[int]]:
    """Per row, identities that may be among its best; whom this camera saw lately is always looked at exactly."""
    rules, camera = state.rules, rows[0].camera
    scores = state.mirror.search(queries, camera, state.centre, state.means_version)
    fits = [rules.calibration.row(camera, other)[0] for other in scores.cameras]
    slope, offset = (np.array([getattr(fit, name) for fit in fits], np.float32) for name in ("b", "a"))
    lists = []
    for place, tracklet in enumerate(rows):
        recent = set(state.seen_since(camera, tracklet.first - CUT_NS))
        similarity = (scores.best[place] + scores.mean[place]) / 2
        nearest = scores.nearest[place]
        score = np.clip(offset[nearest] + slope[nearest] * similarity, -rules.clip, rules.clip)
        near = np.flatnonzero(score >= LEAST - MARGIN + math.log(rules.tau_s * rate))  # as if it were here just now
        gap_s = np.maximum(0, tracklet.first - scores.last[near]) / SECOND
        score = score[near] - np.log((gap_s + rules.tau_s) * rate)
        keep = np.array([index not in recent for index in scores.index[near].tolist()], bool) & (
            score >= LEAST - MARGIN
        )
        near, score = near[keep], score[keep]
        if len(near) > rules.max_candidates:
            bar = np.partition(score, -rules.max_candidates)[-rules.max_candidates] - MARGIN
            near = near[score >= bar]
        lists.append(recent | set(scores.index[near].tolist()))
    return lists


def _transit(state: State, tracklet: Tracklet, index: int) -> tuple[float, float]:
    identity = state.identities[index]
    gap_s = (tracklet.first - identity.last) / SECOND
    density = 1 / (max(0.0, gap_s) + state.rules.tau_s)
    lost = tracklet.first - identity.seen.get(tracklet.camera, tracklet.first)
    if 0 < lost <= CUT_NS:
        g = lost / SECOND
        (x, y), (px, py) = tracklet.entry, identity.pos[tracklet.camera]
        spread = 0.08 + 0.15 * g
        square = (x - px) ** 2 + (y - py) ** 2
        place = math.exp(-square / (2 * spread**2)) / (2 * math.pi * spread**2)
        density += CUT_RATE * state.rules.cameras * math.exp(-g / 2) * place
    return density, gap_s


def _centroid(state: State, index: int) -> F64:
    exemplars = [e for _, e in sorted(state.exemplars[index].items())]
    weights = np.array([e.weight for e in exemplars])
    return _unit((_centred_rows(state, exemplars) * weights[:, None]).sum(axis=0))


def _centred_rows(state: State, exemplars: Sequence[Exemplar]) -> F64:
    rows = np.stack([e.vector for e in exemplars]).astype(np.float64)
    rows -= np.stack([state.centre(e.camera) for e in exemplars])
    norm = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return np.asarray(rows / np.maximum(norm, 1e-12))


def _unit(vector: F64) -> F64:
    return np.asarray(vector / max(math.sqrt(float((vector * vector).sum())), 1e-12))
