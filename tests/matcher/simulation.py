"""A seeded site as an embedder would see it: who walks where is known, so the matcher can be scored.

People are vectors with look-alikes among them; cameras shift everybody's vector their own way; a tracklet sees its person from
one side. Tracks are cut, some go on with somebody else, people come back.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from deploy.score import Linking
from matcher.matcher import Matcher
from matcher.rules import Calibration, Rules
from matcher.state import State
from stream.messages import CameraState, Embeddings, MatchEvent, Person
from stream.model import LinkRow, Links
from stream.transport import Record

START = 1_800_000_000 * 10**9
FPS = 5
SIZE = 64
WIDTH, HEIGHT = 640, 360


@dataclass
class Simulation:
    """Records per camera in the order of the camera, and the truth of every tracklet."""

    cameras: list[str]
    records: list[list[Record]] = field(default_factory=list)
    truth: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    """Tracklet -> how many frames of it show whom."""

    def in_order(self) -> list[Record]:
        """All records as one reader might get them."""
        everything = [record for camera in self.records for record in camera]
        return sorted(everything, key=lambda r: (r.message.captured_at, r.partition))


def simulate(seed: int, *, people: int = 24, cameras: int = 4, seconds: int = 300, live: bool = False) -> Simulation:
    """The same seed gives the same records."""
    rng = np.random.default_rng(seed)
    site = Simulation([f"c{n}" for n in range(cameras)])
    who = rng.normal(size=(people, SIZE))
    for n in rng.choice(people // 2, max(1, round(people * 0.15)), replace=False):
        who[people - 1 - n] = 0.6 * who[n] + 0.8 * who[people - 1 - n]
    shift = 2.0 * rng.normal(size=SIZE) + 0.7 * rng.normal(size=(cameras, SIZE))
    seen: list[dict[int, list[Person]]] = [defaultdict(list) for _ in range(cameras)]
    count = [0] * cameras
    for person in range(people):
        time, place = float(rng.uniform(0, seconds / 2)), int(rng.integers(cameras))
        while time < seconds:
            until = min(time + rng.uniform(4, 20), seconds)
            cuts = [until] if rng.random() > 0.15 else [time + (until - time) * rng.uniform(0.3, 0.8), until]
            foot = rng.uniform(0.2, 0.8, size=2)
            for cut in cuts:
                name = f"c{place}/{START}/0/{count[place]}"
                count[place] += 1
                view, size = who[person] + 0.9 * rng.normal(size=SIZE), rng.uniform(0.4, 0.9)
                other = int(rng.integers(people)) if rng.random() < 0.04 else person  # the tracker switches people
                for frame in range(round(time * FPS), round(cut * FPS)):
                    shown = person if frame < round((time + cut) / 2 * FPS) else other
                    crop = shift[place] + (view if shown == person else who[shown]) + 0.7 * rng.normal(size=SIZE)
                    age = frame - round(time * FPS)
                    vector = None if age > 4 and age % 10 else (crop / np.linalg.norm(crop)).astype("<f2").tobytes()
                    foot = np.clip(foot + rng.normal(size=2) * 0.01, 0.05, 0.95)
                    x, y = float(foot[0] * WIDTH), float(foot[1] * HEIGHT)
                    quality = float(np.clip(size + 0.1 * rng.normal(), 0, 1))
                    box = (x - 20, y - 80, x + 20, y)
                    seen[place][frame].append(
                        Person(xyxy=box, score=0.9, tracklet=name, quality=quality, vector=vector)
                    )
                    site.truth[name][shown] += 1
                time = cut + rng.uniform(0.4, 2.5)
            time = until + (rng.uniform(3, 30) if rng.random() < 0.8 else rng.uniform(40, 90))
            place = int(rng.integers(cameras))
    for place, name in enumerate(site.cameras):
        records: list[Record] = []
        for frame in range(seconds * FPS):
            at = START + int((frame + place / cameras) * 1e9 / FPS)
            records.append(Record(_embeddings(name, frame, at, seen[place].get(frame, []), live), place, frame))
        end = {"site": "sim", "camera": name, "stream": START, "captured_at": at, "ingested_at": at, "state": "end"}
        records.append(Record(CameraState(**end), place, len(records)))
        site.records.append(records)
    return site


def _embeddings(camera: str, frame: int, at: int, people: Sequence[Person], live: bool) -> Embeddings:
    return Embeddings(
        site="sim", camera=camera, stream=START, sequence=frame, captured_at=at, ingested_at=at,
        clock="arrival" if live else "file", width=WIDTH, height=HEIGHT, status="ok", model="m", people=tuple(people),
    )  # fmt: skip


@dataclass(frozen=True)
class Score:
    """Of one run against the truth."""

    idf1: float
    link_precision: float
    links: int
    identities: int


def score(site: Simulation, events: Iterable[MatchEvent]) -> Score:
    """IDF1 over all cameras, and the share of links whose two tracklets are mostly one person."""
    linking = Linking.of(events)
    of = linking.identities
    mostly = {tracklet: shown.most_common(1)[0][0] for tracklet, shown in site.truth.items()}
    right = [mostly[one] == mostly[other] for one, other in linking.links]
    people = sorted({person for shown in site.truth.values() for person in shown})
    identities = sorted(set(of.values()))
    overlap = np.zeros((len(people), len(identities)))
    for tracklet, identity in of.items():
        for person, frames in site.truth[tracklet].items():
            overlap[people.index(person), identities.index(identity)] += frames
    matched = overlap[linear_sum_assignment(-overlap)].sum()
    frames = sum(sum(shown.values()) for shown in site.truth.values())
    idf1 = 2 * matched / (frames + overlap.sum())
    return Score(float(idf1), sum(right) / max(1, len(right)), len(right), len(identities))


def rules_for(site: Simulation, **changes: object) -> Rules:
    """Rows set by hand for this simulation's noise: the scores are floors against regressions, no measure of quality."""
    row = LinkRow(a=-7.5, b=30.0, same_pairs=1000)
    return Rules(
        Calibration(Links(mean=[0.0] * SIZE, same=row, other=row, fitted_on="seeds 100 to 102")),
        len(site.cameras),
        **changes,
    )  # type: ignore[arg-type]


def matcher_for(site: Simulation, state: State | None = None, **options: object) -> Matcher:
    """A matcher of files unless told otherwise."""
    given = {"key": b"k" * 32, "model": "m", "live": False} | options
    return Matcher("sim", site.cameras, state or State(rules_for(site)), **given)  # type: ignore[arg-type]
