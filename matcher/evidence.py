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

from matcher.entities import Exemplar, Tracklet
from matcher.rules import SECOND
from matcher.state import ARRIVALS_NS, State

F64 = NDArray[np.float64]

LEAST = -6.0  # candidates of less log-odds do not matter
CUT_NS = 6 * SECOND  # a cut track goes on within this time
CUT_RATE = 0.03  # per second and camera of the site; demo: 0.075 .839 at link precision .94, now .838 at .95
RIVALS = 6  # candidates that may be the same person twice
TWICE = 1.0  # prior odds that two identities that look alike are one person; demo: 0.1 .750 at .96, 10 .774 at .87
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


@dataclass(frozen=True, slots=True)
class Comparison:
    """Pending tracklets of one camera beside whom they may be."""

    found: list[list[Candidate]]
    """Per tracklet its best 16 with L >= -6, best first."""
    columns: list[int]
    """(C,) identities that are among anybody's best."""
    log_odds: F64
    """(R, C) L of every tracklet and column; -inf where it is impossible."""


def compare(state: State, rows: Sequence[Tracklet], time: int) -> Comparison:
    """Weigh pending tracklets of one camera against the gallery."""
    if not state.identities:
        return Comparison([[] for _ in rows], [], np.zeros((len(rows), 0)))
    rate = newcomers_per_s(state, time)
    queries = np.stack([centred(state, state.pools[row.name].vector, row.camera) for row in rows])
    likely = _shortlist(state, rows, queries, rate)
    judged = judge(state, rows, queries, likely, rate)
    found = [_best(candidates, state.rules.max_candidates) for candidates in judged]
    columns = sorted({c.identity for best in found for c in best})
    log_odds = np.full((len(rows), len(columns)), -np.inf)
    place = {index: j for j, index in enumerate(columns)}
    for i, candidates in enumerate(judged):
        for candidate in candidates:
            j = place.get(candidate.identity)
            if j is not None:
                log_odds[i, j] = candidate.log_odds
    return Comparison(found, columns, log_odds)


def judge(
    state: State, rows: Sequence[Tracklet], queries: F64, identities: Iterable[int], rate: float
) -> list[list[Candidate]]:
    """Per tracklet of one camera, every identity that has exemplars and was not there at the same time.

    `queries` (R, D) are centred. In float64 and identity by identity.
    """
    known = [index for index in sorted(identities) if state.exemplars[index]]
    if not known:
        return [[] for _ in rows]
    camera, rules = rows[0].camera, state.rules
    exemplars = [e for index in known for _, e in sorted(state.exemplars[index].items())]
    counts = np.array([len(state.exemplars[index]) for index in known])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    vectors = _centred_rows(state, exemplars)
    of = {name: rules.calibration.row(camera, name) for name in {e.camera for e in exemplars}}
    seen = [state.identities[index].seen.get(camera, -1) for index in known]
    out = []
    for tracklet, query in zip(rows, queries, strict=True):
        cosines = (vectors * query).sum(axis=1)
        best = np.maximum.reduceat(cosines, starts)
        similarities = ((best + np.add.reduceat(cosines, starts) / counts) / 2).tolist()
        nearest = cosines == np.repeat(best, counts)
        judged = []
        for n, index in enumerate(known):
            if seen[n] >= tracklet.first:
                continue
            near = [exemplars[k].camera for k in range(starts[n], starts[n] + counts[n]) if nearest[k]]
            row, name = of[camera if camera in near else min(near)]
            appearance = row.a + row.b * similarities[n]
            density, gap_s = _transit(state, tracklet, index)
            since = math.log(density / rate)
            log_odds = min(max(appearance, -rules.clip), rules.clip) + since
            judged.append(Candidate(index, similarities[n], name, appearance, since, log_odds, gap_s))
        out.append(judged)
    return out


def _best(candidates: Sequence[Candidate], most: int) -> list[Candidate]:
    return sorted((c for c in candidates if c.log_odds >= LEAST), key=lambda c: (-c.log_odds, c.identity))[:most]


def same_person(state: State, one: int, other: int) -> float:
    """Probability that two identities are one person, founded twice."""
    if other in state.identities[one].met:
        return 0.0
    row, clip = state.rules.calibration.between_identities, state.rules.clip
    return TWICE / (TWICE + math.exp(-min(max(row.a + row.b * likeness(state, one, other), -clip), clip)))


def likeness(state: State, one: int, other: int) -> float:
    """Mean cosine of two identities' exemplars, by their weights."""
    return float(_centroid(state, one) @ _centroid(state, other))


def likeliest_twin(state: State, index: int) -> tuple[int, float] | None:
    """The identity that most probably is the same person as `index`, and how probably; None where nobody looks alike."""
    row, clip = state.rules.calibration.between_identities, state.rules.clip
    [found] = state.mirror.search(
        _centroid(state, index)[None],
        state.centre,
        state.means_version,
        fit=lambda _: (row.a, row.b, clip),
        need=lambda _, identities, last: np.zeros(len(identities)),  # no mean is larger than the largest
        most=state.rules.max_candidates + 1,  # it finds itself
    )
    others = [(same_person(state, index, other), -other) for other in found if other != index]
    if not others:
        return None
    probable, other = max(others)
    return -other, probable


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


def _shortlist(state: State, rows: Sequence[Tracklet], queries: F64, rate: float) -> set[int]:
    """Identities that may be among the best of any row; whom this camera saw lately is always looked at exactly."""
    rules, camera = state.rules, rows[0].camera
    recent = set(state.seen_since(camera, min(row.first for row in rows) - CUT_NS))

    def need(row: int, index: NDArray[np.int64], last: NDArray[np.int64]) -> F64:
        gap_s = np.maximum(0, rows[row].first - last) / SECOND
        needed = LEAST - MARGIN + np.log((gap_s + rules.tau_s) * rate)
        needed[np.isin(index, np.fromiter(recent, np.int64, len(recent)))] = np.inf
        return np.asarray(needed)

    def fit(other: str) -> tuple[float, float, float]:
        row, _ = rules.calibration.row(camera, other)
        return row.a, row.b, rules.clip

    found = state.mirror.search(
        queries, state.centre, state.means_version, fit=fit, need=need, most=rules.max_candidates
    )
    return recent.union(*found)


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
    """(D,) weighted mean of an identity's exemplars, each a unit vector; the less they are alike the shorter."""
    centroid = state.centroids.get(index)
    if centroid is None:
        exemplars = [e for _, e in sorted(state.exemplars[index].items())]
        weights = np.array([e.weight for e in exemplars])
        rows = _centred_rows(state, exemplars)
        centroid = state.centroids[index] = (rows * weights[:, None]).sum(axis=0) / weights.sum()
    return centroid


def _centred_rows(state: State, exemplars: Sequence[Exemplar]) -> F64:
    rows = np.stack([e.vector for e in exemplars]).astype(np.float64)
    rows -= np.stack([state.centre(e.camera) for e in exemplars])
    norm = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return np.asarray(rows / np.maximum(norm, 1e-12))


def _unit(vector: F64) -> F64:
    return np.asarray(vector / max(math.sqrt(float((vector * vector).sum())), 1e-12))
