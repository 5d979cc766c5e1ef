"""What a failed comparison looks like: the faults that exports are known for, tried on the golden pictures one after the other.

An answer here is a guess with evidence, and is worded so. It never decides whether something is refused, only what is said.
"""

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stream.model import IMAGENET_MEAN, IMAGENET_STD

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Outputs = Mapping[str, F32]

MEAN, DEVIATION = (255 * np.array(shares, np.float32) for shares in (IMAGENET_MEAN, IMAGENET_STD))
"""Of pixels from 0 to 255: all networks trained here take (pixel - MEAN) / DEVIATION."""
DIGITS = 48
"""Of 64: two unlike files share four digits of their SHA-256 by chance."""
FIELDS = 1000
"""Outermost ones of an ONNX file that are looked at; it has some ten."""
ENTRY = 1e-4
"""An entry of a unit vector that is larger says something."""
ALIKE = 0.05
"""Pictures that differ by less than this share of what they should are said to get one and the same answer."""

OTHER_WEIGHTS = (
    "other weights or a part left out: a stale graph, or golden outputs of another model (no simpler fault explains it)"
)


def _normalised(x: F32) -> F32:
    return (x - MEAN) / DEVIATION


def _pixels(x: F32) -> F32:
    return x * DEVIATION + MEAN


def _as_planes(x: F32) -> F32:
    """(n, H, W, 3) whose memory is read as (n, 3, H, W)."""
    return x.reshape(len(x), 3, *x.shape[1:3]).transpose(0, 2, 3, 1)


LAYOUT = "pixels taken in the wrong layout (NHWC read as NCHW)"
MISREAD: Sequence[tuple[str, Callable[[F32], F32]]] = (
    ("red and blue swapped", lambda x: x[..., ::-1]),
    ("normalised pixels that are normalised again", _normalised),
    ("missing normalisation: the network gets 0 to 255", _pixels),
    ("missing mean and standard deviation: the network gets 0 to 1", lambda x: _pixels(x / np.float32(255))),
    ("missing scale: mean and standard deviation of 0 to 1 applied to 0 to 255", lambda x: x * np.float32(255)),
    (LAYOUT, _as_planes),
    (LAYOUT, lambda x: _pixels(_as_planes(_normalised(x)))),
    ("pictures upside down", lambda x: x[:, ::-1]),
    ("pictures mirrored", lambda x: x[:, :, ::-1]),
)
"""Fault -> pixels for which a right network gives what a network with the fault gives for the true ones."""
UNDONE: Sequence[tuple[str, Callable[[U8], U8]]] = (
    ("red and blue swapped", lambda x: x[..., ::-1]),
    (LAYOUT, lambda x: x.transpose(0, 3, 1, 2).reshape(x.shape)),
    ("pictures upside down", lambda x: x[:, ::-1]),
    ("pictures mirrored", lambda x: x[:, :, ::-1]),
)
"""Fault -> pixels for which a network with the fault gives what is expected of the true ones."""


def looks_like(
    infer: Callable[[U8], Outputs],
    have: Outputs,
    want: Outputs,
    golden: U8,
    close: Callable[[Outputs, Outputs], bool],
    reference: Callable[[F32], Outputs] | None,
    precision: str,
) -> str:
    """The likeliest fault in words, given what `infer` gave for `golden` alone (`have`) and what it should have (`want`).

    `close` is the gate's own comparison; see `deploy.gate.check` for `reference`.
    """
    if not all(np.isfinite(values).all() for values in have.values()):
        half = "half precision (65504 is its largest number)" if precision == "fp16" else precision
        return f"an overflow in {half}"
    if "embedding" in have and (fault := _length(have["embedding"], want["embedding"])):
        return fault
    tried: dict[str, float] = {}
    if reference is not None:
        for fault, misread in MISREAD:
            wrong = reference(np.ascontiguousarray(misread(golden.astype(np.float32))))
            if close(have, wrong):
                tried[fault] = _distance(have, wrong)
    else:
        for fault, undo in UNDONE:
            right = infer(np.ascontiguousarray(undo(golden)))
            if close(right, want):
                tried[fault] = _distance(right, want)
    # an untrained network hardly minds how it is shown a picture: only what explains most of the difference is said
    if tried and min(tried.values()) < _distance(have, want) / 10:
        return min(tried, key=lambda fault: tried[fault])
    if "embedding" in have and (fault := _branch(have["embedding"], want["embedding"])):
        return fault
    if len(golden) > 1 and _spread(have) < ALIKE * _spread(want):
        return "pixels scaled away: all pictures get nearly the same answer"
    return OTHER_WEIGHTS


def damage(name: str, data: bytes, digest: str, expected: str) -> str:
    """What became of a file whose SHA-256 is not the one on its card, in words."""
    if sum(a == b for a, b in zip(digest, expected, strict=False)) > DIGITS:
        return "an altered card: the file's digest differs from its own in a few digits only"
    if not data:
        return "a file that was cut short: it is empty"
    if name.endswith(".npz") and not zipfile.is_zipfile(io.BytesIO(data)):
        return "a file that was cut short: it has no end"
    if name.endswith(".json") and not data.rstrip().endswith(b"}"):
        return "a file that was cut short: it has no end"
    if name.endswith(".onnx") and not _has_end(data):
        return "a file that was cut short: it has no end"
    return "another file, or single bytes that changed"


def _has_end(data: bytes) -> bool:
    """Whether the outermost fields of a protobuf message (an ONNX file is one) fill it exactly."""
    place = fields = 0
    while place < len(data) and fields < FIELDS:
        fields += 1
        key, place = _varint(data, place)
        if key & 7 == 2:  # so many bytes follow: the graph is one such field
            size, place = _varint(data, place)
            place += size
        elif key & 7 == 0:
            _, place = _varint(data, place)
        else:
            return False
    return place == len(data) or fields == FIELDS


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A protobuf number at `place`, and where the next thing begins; beyond the end, all that is missing counts as 0."""
    value = shift = 0
    while True:
        byte = data[place] if place < len(data) else 0
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128 or shift > 63:
            return value, place


def _length(have: F32, want: F32) -> str | None:
    """Vectors that are not of unit length."""
    lengths = np.linalg.norm(have, axis=-1)
    if np.abs(lengths - 1).max() < 1e-3:
        return None
    cosine = (have * want).sum(-1) / np.maximum(lengths, 1e-12)
    if cosine.min() > 0.999:
        return "a wrong or missing L2 norm: directions are right, lengths are not"
    return "a wrong L2 norm (over another axis), and directions are wrong too"


def _branch(have: F32, want: F32) -> str | None:
    """A part of every vector is right up to its length and the rest is not: branches of a network stand side by side there."""
    told = (np.abs(want) > ENTRY) & (np.abs(have) > ENTRY)  # (n, D): entries that have a ratio
    if not told.any(1).all():
        return None
    scale = np.array([np.median(h[t] / w[t]) for h, w, t in zip(have, want, told, strict=True)], np.float32)
    off = np.asarray((np.abs(have - scale[:, None] * want) > ENTRY).any(0))  # (D,)
    places = np.flatnonzero(off)
    telling = np.asarray((np.abs(want) > ENTRY).any(0))
    if not len(places):
        return None
    first, last = int(places[0]), int(places[-1])
    inside = slice(first, last + 1)
    outside = int(telling.sum() - telling[inside].sum())
    if outside < 0.2 * telling.sum() or off[inside].sum() < 0.8 * telling[inside].sum():
        return None  # scattered over the vector: no branch
    return f"a branch that was dropped or altered: the others agree, values {first} to {last} of {len(off)} do not"


def _distance(one: Outputs, other: Outputs) -> float:
    """Mean difference over all outputs."""
    return sum(float(np.abs(one[name] - values).mean()) for name, values in other.items())


def _spread(outputs: Outputs) -> float:
    """How much the answers to several pictures differ from their mean."""
    return sum(float(np.abs(values - values.mean(0)).mean()) for values in outputs.values())
