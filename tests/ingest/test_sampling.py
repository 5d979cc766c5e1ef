import itertools
import random

import pytest

from ingest.sampling import Sampler

START = 1_790_000_000_000_000_000


def sampled(source_fps: float, fps: float, seconds: float, jitter_s: float = 0.0) -> list[tuple[int, float]]:
    """(sequence, time in seconds) of what is taken."""
    sampler, rng = Sampler(START, fps), random.Random(1)
    out = []
    for k in range(round(seconds * source_fps)):
        time_s = k / source_fps + (rng.uniform(0, jitter_s) if k else 0.0)
        sequence = sampler.take(START + round(time_s * 1e9))
        if sequence is not None:
            out.append((sequence, time_s))
    return out


@pytest.mark.parametrize("source_fps", [25, 30, 29.97, 12, 10, 7, 50, 6])
def test_the_asked_rate_is_met_without_gaps(source_fps: float) -> None:
    taken = sampled(source_fps, 5, 20)
    assert [sequence for sequence, _ in taken] == list(range(len(taken)))
    assert len(taken) == pytest.approx(100, abs=1)


@pytest.mark.parametrize("source_fps", [25, 29.97, 12])
def test_what_is_taken_lies_nearest_to_the_grid(source_fps: float) -> None:
    assert all(abs(time_s - sequence / 5) <= 0.51 / source_fps for sequence, time_s in sampled(source_fps, 5, 20))


def test_sequences_are_the_rounded_place_on_the_grid_and_only_grow() -> None:
    taken = sampled(25, 5, 60, jitter_s=0.1)
    sequences = [sequence for sequence, _ in taken]
    assert sequences == [int(time_s * 5 + 0.5) for _, time_s in taken]
    assert all(a < b for a, b in itertools.pairwise(sequences))
    assert len(sequences) > 295  # jitter of half a step costs next to nothing


def test_a_slower_camera_gives_what_it_has() -> None:
    assert [sequence for sequence, _ in sampled(2, 5, 5)] == [0, 3, 5, 8, 10, 13, 15, 18, 20, 23]


def test_a_gap_in_the_stream_is_a_gap_in_the_sequence() -> None:
    sampler = Sampler(START, 5)
    assert sampler.take(START) == 0
    assert sampler.take(START + 10_000_000_000) == 50
    assert sampler.take(START + 10_010_000_000) is None
    assert sampler.take(START + 10_200_000_000) == 51


def test_the_same_times_give_the_same_sequences() -> None:
    assert sampled(29.97, 7.5, 30, jitter_s=0.01) == sampled(29.97, 7.5, 30, jitter_s=0.01)
