"""How far colour alone gets: links true tracklets by histograms of their clothes' colours.

    python benchmarks/colour_linker.py [--seeds 1001 1002 1003] [--people 16] [--seconds 60] [--lookalikes 0.1]

The baseline is given every advantage: perfect tracklets, all of a tracklet's crops before it decides, no limit on what it
compares, and the threshold that scores best on the very scene it is judged on. What it prints is therefore its best case.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ingest.synthetic.scene import SceneSettings
from ingest.synthetic.truth import TrackletCrops, tracklet_crops

F32 = NDArray[np.float32]

UPPER, LOWER = (0.15, 0.5), (0.5, 0.9)
"""Share of a person's height: the top's part of the box and the trousers'."""
BINS = (12, 4, 4)
"""Hue, saturation, value."""


@dataclass(frozen=True)
class Tracklet:
    """What the linker may know."""

    camera: str
    first_s: float
    last_s: float
    crops: Sequence[NDArray[np.uint8]]
    """(h, w, 3) RGB each."""


@dataclass(frozen=True)
class Figures:
    """In [0, 1]."""

    idf1: float
    link_precision: float
    link_recall: float
    links: int


def describe(crops: Sequence[NDArray[np.uint8]], balance: bool = False) -> F32:
    """Mean HSV histogram of top and trousers, (2 * 192,), square roots, unit norm: its dot product is Bhattacharyya's.

    With `balance`, colours are first scaled to a grey mean (grey world), which takes some of a camera's tint away.
    """
    total = np.zeros((2, np.prod(BINS)), np.float64)
    for crop in crops:
        image = crop
        if balance:
            mean = crop.reshape(-1, 3).mean(axis=0)
            image = np.clip(crop * (mean.mean() / np.maximum(mean, 1)), 0, 255).astype(np.uint8)
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        height, width = hsv.shape[:2]
        for part, (low, high) in enumerate((UPPER, LOWER)):
            middle = hsv[int(low * height) : max(1, int(high * height)), width // 4 : max(1, width - width // 4)]
            if middle.size:
                counts = cv2.calcHist(
                    [np.ascontiguousarray(middle)], [0, 1, 2], None, list(BINS), [0, 180, 0, 256, 0, 256]
                )
                total[part] += counts.ravel() / middle[..., 0].size
    roots = np.sqrt(total.ravel())
    return (roots / max(1e-9, float(np.linalg.norm(roots)))).astype(np.float32)


def link(tracklets: Sequence[Tracklet], threshold: float, descriptors: Sequence[F32] | None = None) -> list[int]:
    """Identity per tracklet, given in order of first_s: that of the nearest earlier one above `threshold`, else a new one.

    Nobody is twice before one camera at a time: such candidates are left out.
    """
    vectors = [describe(tracklet.crops) for tracklet in tracklets] if descriptors is None else list(descriptors)
    identities: list[int] = []
    for k in range(len(tracklets)):
        best, chosen = threshold, -1
        for j in range(k):
            similarity = float(vectors[k] @ vectors[j])
            if similarity > best and not _together(tracklets, identities, k, identities[j]):
                best, chosen = similarity, identities[j]
        identities.append(max(identities, default=-1) + 1 if chosen < 0 else chosen)
    return identities


def _together(tracklets: Sequence[Tracklet], identities: Sequence[int], k: int, identity: int) -> bool:
    mine = tracklets[k]
    return any(
        who == identity and tracklets[j].camera == mine.camera and tracklets[j].last_s >= mine.first_s
        for j, who in enumerate(identities)
    )


def judge(people: Sequence[int], cameras: Sequence[str], boxes: Sequence[int], identities: Sequence[int]) -> Figures:
    """Figures of a linking of perfect tracklets in order of time: their true person, camera and number of boxes."""
    shared = np.zeros((max(people) + 1, max(identities) + 1))
    for person, identity, count in zip(people, identities, boxes, strict=True):
        shared[person, identity] += count
    idf1 = shared[linear_sum_assignment(-shared)].sum() / sum(boxes)
    latest: dict[int, int] = {}
    right = links = kept = moves = 0
    where: dict[int, tuple[str, int]] = {}
    for person, camera, identity in zip(people, cameras, identities, strict=True):
        if identity in latest:
            links += 1
            right += latest[identity] == person
        latest[identity] = person
        if person in where and where[person][0] != camera:
            moves += 1
            kept += where[person][1] == identity
        where[person] = (camera, identity)
    return Figures(float(idf1), right / max(1, links), kept / max(1, moves), links)


def best_case(found: Sequence[TrackletCrops], balance: bool) -> tuple[float, Figures]:
    """The threshold with the highest IDF1 on this very scene, and its figures."""
    tracklets = [Tracklet(str(t.camera), float(t.times_s[0]), float(t.times_s[-1]), t.crops) for t in found]
    vectors = [describe(tracklet.crops, balance) for tracklet in tracklets]
    people, cameras, boxes = [t.person for t in found], [t.camera for t in tracklets], [len(t.crops) for t in found]
    tried = (
        (threshold, judge(people, cameras, boxes, link(tracklets, threshold, vectors)))
        for threshold in np.arange(0.3, 1.0, 0.02).tolist()
    )
    return max(tried, key=lambda pair: pair[1].idf1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1001, 1002, 1003])
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--lookalikes", type=float, default=SceneSettings().lookalikes)
    asked = parser.parse_args()
    print("| seed | tracklets | histogram | threshold | IDF1 | link precision | link recall |")
    print("|---|---|---|---|---|---|---|")
    for seed in asked.seeds:
        settings = SceneSettings(seed=seed, people=asked.people, seconds=asked.seconds, lookalikes=asked.lookalikes)
        found = [t for t in tracklet_crops(settings) if len(t.crops) >= 5]
        for name, balance in (("HSV", False), ("HSV, grey world", True)):
            threshold, got = best_case(found, balance)
            print(
                f"| {seed} | {len(found)} | {name} | {threshold:.2f} | {got.idf1:.3f} | {got.link_precision:.3f} "
                f"| {got.link_recall:.3f} |"
            )


if __name__ == "__main__":
    main()
