"""What scoring costs: CMC and mAP at Market-1501's size beside the published algorithm in plain Python, and re-ranking.

    python benchmarks/evaluate.py                    Market's size, ours and the plain loop (a minute)
    python benchmarks/evaluate.py --share 0.1        a tenth of the queries for the plain loop, its time scaled up
    python benchmarks/evaluate.py --rerank market    re-ranking at Market's size, whole, with its memory
    python benchmarks/evaluate.py --rerank msmt17    the same at MSMT17's size (some minutes)

Vectors are random around a centre per person, 512 values; for re-ranking close to it, so that neighbours are mutual.
"""

import argparse
import os
import platform
import resource
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from trainer import rerank
from trainer.metrics import F32, F64, I64, rank, similarity_rows

T = TypeVar("T")

SIZES = {"market": (3368, 15913, 751), "msmt17": (11659, 82161, 3060)}
"""Queries, gallery and people, as the data sets' authors count them (a gallery of Market-1501 without its junk)."""


def clustered(
    queries: int, gallery: int, people: int, noise: float, rng: np.random.Generator
) -> tuple[F32, I64, I64, F32, I64, I64]:
    """Vectors, people and cameras of the queries, then of the gallery."""
    who, cameras = rng.integers(1, people, queries + gallery), rng.integers(0, 6, queries + gallery)
    vectors = rng.standard_normal((people, 512), dtype=np.float32)[who]
    vectors += np.float32(noise) * rng.standard_normal(vectors.shape, dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[:queries], who[:queries], cameras[:queries], vectors[queries:], who[queries:], cameras[queries:]


def plain(q: F32, qp: I64, qc: I64, g: F32, gp: I64, gc: I64) -> tuple[F64, float]:
    """The published protocol, a query at a time: sort the whole gallery, take junk out, walk down the hits."""
    curves, precisions = [], []
    for rows, start in zip(similarity_rows(q, g), range(0, len(q), 256), strict=False):
        for place, row in enumerate(rows, start=start):
            order = np.argsort(-row, kind="stable")
            keep = (gp[order] != qp[place]) | (gc[order] != qc[place])
            hits = (gp[order] == qp[place])[keep]
            if hits.any():
                found = hits.cumsum()
                curves.append(np.minimum(found[:50], 1))
                precisions.append((found / np.arange(1, len(hits) + 1))[hits].mean())
    return np.mean(curves, 0), float(np.mean(precisions))


def timed(what: str, work: Callable[[], T]) -> tuple[T, float, float]:
    """What comes of it, with seconds of the wall clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    out = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:44} {wall:7.2f} s, {cpu:7.2f} s of processor")
    return out, wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--rerank", choices=SIZES)
    given = parser.parse_args()
    if not 0 < given.share <= 1:
        parser.error(f"--share {given.share:g}: expected more than 0 and at most 1")
    rng = np.random.default_rng(0)
    print(f"{platform.processor() or platform.machine()}, load average {os.getloadavg()[0]:.2f}")
    if given.rerank:
        rerank_whole(given.rerank, rng)
        return
    data = clustered(*SIZES["market"], 8.0, rng)
    ours, wall, _ = timed("ours, CMC, mAP and mINP, Market-1501's size", lambda: rank(*data))
    count = round(given.share * len(data[0]))
    q, qp, qc, *_ = data
    few = (q[:count], qp[:count], qc[:count], *data[3:])
    theirs, slow, _ = timed(f"plain Python, {count} of {len(q)} queries", lambda: plain(*few))
    same = rank(*few)
    assert np.allclose(same.cmc, theirs[0])
    assert np.isclose(same.mean_ap, theirs[1])
    print(
        f"the same figures (mAP {ours.mean_ap:.4f}); {slow / given.share / wall:.0f} times faster, where the plain loop sorts all"
    )


def rerank_whole(which: str, rng: np.random.Generator) -> None:
    """Every new distance of every query, taken as `sightline evaluate --rerank` takes them, and what of the memory is its own."""
    query, _, _, gallery, _, _ = clustered(*SIZES[which], 1.5, rng)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows, _, _ = timed(
        f"re-ranking {len(query)} x {len(gallery)}",
        lambda: sum(len(rows) for rows in rerank.rerank_rows(query, gallery)),
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{rows} queries; peak memory of the process {peak:.0f} MiB, {before:.0f} MiB before it began")


if __name__ == "__main__":
    main()
