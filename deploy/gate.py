"""The gate: a runtime gives what a model is known to give, or it is not used.

Every picture alone, in a batch of three and in the largest batch, filled up with others: alone it must give what is expected (what
torch gave, or a bundle's golden outputs), and among others what it gives alone. `diagnose` then says what a failure looks like.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deploy import diagnose
from stream.errors import BundleError
from stream.model import Backend

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Arithmetic = Literal["fp32", "fp16", "bf16", "int8"]
"""What a runtime computes in: a graph's precision, or bf16 where a processor has it."""

MIN_COSINE: Mapping[Arithmetic, float] = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.999, "int8": 0.99}
HARD_CHOICES_MIN_COSINE = 0.9995
"""In fp32, for a graph that chooses inside (MagnifierNet gives each pixel to one body region): rounding can turn a close choice."""
MAX_LENGTH_ERROR = 1e-3
ODD = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """How far outputs may be from the expected ones."""

    cosine: float
    value: float
    """Largest difference of an embedding's entries."""
    score: float
    box_px: float
    """In pixels of the input, where the expected score is at least `box_score`: elsewhere a rounded box means nothing."""
    box_score: float


LIMITS: Mapping[Arithmetic, Limits] = {
    "fp32": Limits(MIN_COSINE["fp32"], value=1e-4, score=1e-4, box_px=0.05, box_score=0.0),
    "fp16": Limits(MIN_COSINE["fp16"], value=np.inf, score=0.02, box_px=1.5, box_score=0.1),
    "bf16": Limits(MIN_COSINE["bf16"], value=np.inf, score=0.02, box_px=1.5, box_score=0.1),
    "int8": Limits(MIN_COSINE["int8"], value=np.inf, score=0.1, box_px=5.0, box_score=0.1),
}


def limits_of(precision: Arithmetic, min_cosine: float | None = None) -> Limits:
    """The limits of a precision; a card's own `min_cosine` replaces those of an embedding where it is lower."""
    limits = LIMITS[precision]
    if min_cosine is None or min_cosine >= limits.cosine:
        return limits
    return replace(limits, cosine=min_cosine, value=np.inf)


def check(
    backend: Backend,
    expected: Mapping[str, F32],
    golden: U8,
    *,
    precision: Arithmetic | None = None,
    reference: Callable[[F32], Mapping[str, F32]] | None = None,
) -> None:
    """Raise `BundleError`, which says what the fault looks like, unless `backend` gives `expected` for `golden` (n, H, W, 3).

    `precision` is what the backend computes in, its card's unless it says otherwise. `reference` gives the true network's outputs for
    float32 pixels (n, H, W, 3), 0 to 255, also beyond: with it more faults are told apart.
    """
    card = backend.card
    arithmetic = precision or card.precision
    limits = limits_of(arithmetic, card.min_cosine)
    pictures = several(golden, max(len(golden), card.max_batch))
    own = answers_alone(backend, expected, pictures)
    alone = {name: values[: len(golden)] for name, values in own.items()}
    if said := differs(alone, expected, limits):

        def close(have: Mapping[str, F32], want: Mapping[str, F32]) -> bool:
            return differs(have, want, limits) is None

        fault = diagnose.looks_like(backend.infer, alone, expected, golden, close, reference, arithmetic)
        raise BundleError(f"{card.name}: {said}, for pictures alone ({arithmetic}): looks like {fault}")
    # whatever the precision: rounding only
    among = limits_of("fp32" if arithmetic == "fp32" else "fp16", card.min_cosine)
    for size in sorted({min(ODD, card.max_batch), card.max_batch} - {1}):
        together = backend.infer(pictures[:size])
        if said := differs(together, {name: values[:size] for name, values in own.items()}, among):
            raise BundleError(
                f"{card.name}: {said}, for pictures in a batch of {size} against themselves alone ({arithmetic}): "
                "looks like a graph that mixes the pictures of a batch"
            )


def several(golden: U8, count: int) -> U8:
    """`count` pictures, at least those of `golden` (n, H, W, 3), no two alike: the same again turned sideways, further each time.

    With equal ones in a batch, a graph that hands one picture's answer to another is not found out.
    """
    rounds = -(-count // len(golden))
    width = golden.shape[2]
    turned = [np.roll(golden, width * each // rounds, axis=2) for each in range(rounds)]
    return np.concatenate(turned)[:count]


def answers_alone(backend: Backend, expected: Mapping[str, F32], golden: U8) -> dict[str, F32]:
    """What the backend gives for each picture by itself; `BundleError` where an output is missing or of another shape."""
    each = [backend.infer(golden[place : place + 1]) for place in range(len(golden))]
    for name, values in expected.items():
        got = each[0][name].shape if name in each[0] else None
        if got != (1, *values.shape[1:]):
            raise BundleError(f"{backend.card.name}: {name} has shape {got}, expected {(1, *values.shape[1:])}")
    return {name: np.concatenate([one[name] for one in each]) for name in expected}


def differs(have: Mapping[str, F32], want: Mapping[str, F32], limits: Limits) -> str | None:
    """How outputs differ from the expected ones, in words with the numbers; None where they are within `limits`."""
    for name in want:
        if not np.isfinite(have[name]).all():
            return f"{name} is not finite"
    if "embedding" in want:
        return _vectors_differ(have["embedding"], want["embedding"], limits)
    if said := _beyond("scores", np.abs(have["scores"] - want["scores"]), limits.score):
        return said
    counts = want["scores"] >= limits.box_score
    return _beyond("boxes", np.abs(have["boxes"] - want["boxes"])[counts], limits.box_px)


def _vectors_differ(have: F32, want: F32, limits: Limits) -> str | None:
    length = float(np.abs(np.linalg.norm(have, axis=-1) - 1).max())
    if length > MAX_LENGTH_ERROR:
        return f"embedding's length is off by {length:.3g} (at most {MAX_LENGTH_ERROR})"
    cosine = float((have * want).sum(-1).min())
    if cosine < limits.cosine:
        return f"embedding has cosine {cosine:.5f} to what is expected (at least {limits.cosine})"
    return _beyond("embedding", np.abs(have - want), limits.value)


def _beyond(name: str, differences: F32, limit: float) -> str | None:
    largest = float(differences.max(initial=0.0))
    return f"{name} differs by {largest:.3g} (at most {limit})" if largest > limit else None
