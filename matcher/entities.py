"""What the linking policy remembers, entity by entity, and how each is stored.

Keys in the gallery:

site                  clock, credit, next index, counters
arrivals              recent newcomers
mean/, mean/C         sums of pooled vectors, of the site and of camera C
camera/C              the stream it is in
ended/C/T             a tracklet that has ended and may not open again
tracklet/T, pool/T    an open tracklet, and its pooled vector
identity/I            who, when last seen where, whom it has met
exemplar/I/T          what identity I looked like in tracklet T
"""

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.errors import GalleryError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Point = tuple[float, float]


class Site(msgspec.Struct, array_like=True):
    """What every step changes."""

    clock: int = -1
    """Largest time of any step."""
    first: int = -1
    """Time of the first step."""
    credit: float = 0.0
    """False links that were allowed and not used."""
    next_index: int = 0
    counters: dict[str, int] = {}


class Mean(msgspec.Struct, array_like=True):
    """Aged sum of pooled vectors and how many they count for."""

    total: F64
    """(D,)"""
    count: float = 0.0
    time: int = 0
    """Of the last addition."""

    def add(self, vector: F32, time: int, retention_ns: int) -> None:
        """What is older counts exp(-age / retention)."""
        keep = math.exp(-max(0, time - self.time) / retention_ns)
        self.total = self.total * keep + vector
        self.count = self.count * keep + 1
        self.time = max(self.time, time)


class Exemplar(msgspec.Struct, array_like=True):
    """What an identity looked like in one tracklet."""

    tracklet: str
    camera: str
    vector: F32
    """(D,) pooled, never normalised again."""
    weight: float
    time: int
    """Of its last crop; gone at time + retention."""


class Identity(msgspec.Struct, array_like=True):
    """Somebody."""

    index: int
    founder: str
    """The tracklet that founded it."""
    last: int
    seen: dict[str, int] = {}
    """Per camera, when last."""
    pos: dict[str, Point] = {}
    """Per camera, where last: foot point as a share of the frame's width and height."""
    met: set[int] = set()
    """Identities that were in one picture with it, so are not it."""
    saved: int = 0
    """When it was last marked for storing."""


class Pool(msgspec.Struct, array_like=True):
    """Quality-weighted sum of a tracklet's vectors."""

    total: F32
    """(D,) sum of quality * vector"""
    weight: float = 0.0
    crops: int = 0
    held: list[tuple[float, F32]] = []
    """Crops in a row that look like somebody else: (quality, vector)."""

    @property
    def vector(self) -> F32:
        """(D,) weighted mean, not normalised."""
        return self.total / np.float32(self.weight)


class Tracklet(msgspec.Struct, array_like=True):
    """Somebody followed in one camera."""

    name: str
    camera: str
    first: int
    last: int
    entry: Point
    """Foot point when first seen."""
    pos: Point
    """Foot point when last seen."""
    identity: int | None = None
    """None while pending."""
    probability: float = 0.0
    """That it is its identity; 1 for the one that founded it."""
    frozen: bool = False
    """Somebody else took its place: it teaches nothing any more."""
    fresh: bool = False
    """Has crops that no decision has seen, or its time has come."""
    last_crop: int = 0
    due: bool = False
    """Its time to wait for more is over."""


def pack(entity: Any) -> bytes:
    """An entity as it is stored, every number to its last bit."""
    return _ENCODER.encode(entity)


def unpack(key: str, data: bytes) -> Any:
    """The entity that was stored under `key`. Raises `GalleryError` for anything else."""
    try:
        return _DECODERS[key.partition("/")[0]].decode(data)
    except (KeyError, ValueError) as error:  # msgspec's own errors are ValueErrors
        raise GalleryError(
            f"the gallery holds {key!r}, which cannot be read ({error}): go on with an empty gallery "
            f"(another --state folder, or another [redis] database)"
        ) from None


_KINDS: dict[str, Any] = {
    "site": Site,
    "arrivals": list[tuple[int, float]],
    "mean": Mean,
    "camera": int,
    "ended": int,
    "tracklet": Tracklet,
    "pool": Pool,
    "identity": Identity,
    "exemplar": Exemplar,
}


def _to_array(kind: Any, value: Any) -> Any:
    return np.frombuffer(value, np.float64 if kind == F64 else np.float32).copy()


_ENCODER = msgspec.msgpack.Encoder(enc_hook=lambda array: array.tobytes())
_DECODERS = {kind: msgspec.msgpack.Decoder(type_, dec_hook=_to_array) for kind, type_ in _KINDS.items()}
