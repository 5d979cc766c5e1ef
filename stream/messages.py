"""What flows between the stages.

Frozen values, validated once at the edge (`stream.codec.decode`); inside, everybody trusts them.
Times are UTC in integer nanoseconds. `captured_at` is event time, the only time that decisions read;
`ingested_at` is the wall clock of the ingest worker and serves latency figures and shedding alone.

Names that survive a restart, because order and equality rest on them:

stream     one unbroken run of a camera, named by the captured_at of its first frame (a file: its start time)
sequence   place on the stream's sampling grid: (captured_at - stream) * fps, rounded; a gap is a frame not sampled or lost
tracklet   ``camera/stream/s/n``: the n-th tracklet of a tracker whose first frame had sequence s; ``+k`` behind it: what the
           tracker took for one, from where the looks said for the k-th time that it had gone on with somebody else
identity   128 bits of HMAC(site key, founding tracklet), in hexadecimal
number     gapless counter of a site's match events
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Tracklet = Annotated[str, msgspec.Meta(min_length=1, max_length=160)]
Identity = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Sequence_ = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Pixels = Annotated[int, msgspec.Meta(gt=0, le=16384)]
Unit = Annotated[float, msgspec.Meta(ge=0, le=1)]
Clock = Literal["rtcp", "file", "arrival"]
Status = Literal["ok", "skipped", "undecodable"]
EventKind = Literal["new", "link", "end", "merge"]
Reason = Literal["sure", "credit", "stranger", "ambiguous", "unsure", "left", "alike"]

MAX_PEOPLE = 1024  # in one frame; more is a broken or hostile message


class Frame(msgspec.Struct, frozen=True, kw_only=True, tag="frame"):
    """One sampled picture of one camera, as JPEG. Written by ingest, read by perceive."""

    site: Name
    camera: Name
    stream: Nanoseconds
    sequence: Sequence_
    captured_at: Nanoseconds
    ingested_at: Nanoseconds
    clock: Clock
    """Where captured_at comes from. ``file`` also says that nothing of this camera may be shed."""
    width: Pixels
    height: Pixels
    encoding: Literal["jpeg"] = "jpeg"
    image: bytes


class CameraState(msgspec.Struct, frozen=True, kw_only=True, tag="camera_state"):
    """Why no frame came: silence is never mistaken for an empty room.

    ``idle``: a live camera is connected but silent, or away; nothing of it is older than `captured_at` any more.
    ``end``: a file's last frame has been sent; `captured_at` is that frame's.
    Travels from ingest through perceive to the matcher in its place in the order.
    """

    site: Name
    camera: Name
    stream: Nanoseconds
    captured_at: Nanoseconds
    ingested_at: Nanoseconds
    state: Literal["idle", "end"]


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """One person in one frame, after tracking."""

    xyxy: tuple[float, float, float, float]
    """Pixels of the frame, x1 < x2, y1 < y2."""
    score: Unit
    tracklet: Tracklet
    quality: Unit
    """How much a crop of this box can be trusted: size, visibility, blur, border."""
    vector: Annotated[bytes, msgspec.Meta(max_length=16384)] | None = None
    """Unit-norm embedding, little-endian float16; None when not embedded in this frame."""


class Embeddings(msgspec.Struct, frozen=True, kw_only=True, tag="embeddings"):
    """Everybody in one frame. Exactly one per Frame, in its order, with nobody in it or skipped under load too."""

    site: Name
    camera: Name
    stream: Nanoseconds
    sequence: Sequence_
    captured_at: Nanoseconds
    ingested_at: Nanoseconds
    clock: Clock
    width: Pixels
    height: Pixels
    status: Status
    model: Annotated[str, msgspec.Meta(max_length=128)]
    """Id of the embedder (`ModelCard.id`); vectors of different models never meet."""
    people: Annotated[tuple[Person, ...], msgspec.Meta(max_length=MAX_PEOPLE)] = ()


class RunnerUp(msgspec.Struct, frozen=True, kw_only=True):
    """The next best candidate of a decision."""

    identity: str
    similarity: float
    log_odds: float
    same_person: Unit
    """Probability that it and the chosen identity are one person."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Why an event was decided as it was. A candidate that was not chosen is named as runner-up, never as a match."""

    reason: Reason
    similarity: float | None = None
    """(largest + mean) / 2 of the cosines to the identity's exemplars, camera means removed; of a merge, the mean
    cosine of both identities' exemplars."""
    runner_up: RunnerUp | None = None
    gap_s: float | None = None
    """Seconds between the identity's last sighting and this tracklet's first."""
    new_probability: float | None = None
    appearance_log_odds: float | None = None
    """a + b * similarity by the calibration row, before it is clipped to between -8 and 8."""
    time_log_odds: float | None = None
    """How much likelier this gap is for the identity than for a newcomer."""
    competition: float | None = None
    """Summed odds of other open tracklets for the same identity."""
    row: str | None = None
    """Which calibration row judged the similarity: ``same`` or ``other`` camera, and where it was fitted."""
    credit: float | None = None
    """False-link budget left after this decision."""
    crops: int | None = None
    weight: float | None = None
    exemplars: tuple[str, ...] = ()


class MatchEvent(msgspec.Struct, frozen=True, kw_only=True, tag="match_event"):
    """Somebody was seen anew (`new`), seen again (`link`), or has left a camera's view (`end`), or two identities have turned
    out to be one person (`merge`). The public message."""

    site: Name
    number: Annotated[int, msgspec.Meta(ge=1, lt=2**53)]
    """Gapless per site, from 1. Keep the last one with your own effect and you read exactly once."""
    kind: EventKind
    identity: Identity
    merged: Identity | None = None
    """Of a merge: the identity that was `identity` all along. It is never named again. Camera and tracklet of a merge are those
    whose end settled it."""
    camera: Name
    previous_camera: Name | None = None
    """Where a linked identity was last seen before this tracklet; may be the same camera."""
    tracklet: Tracklet
    first_seen: Nanoseconds
    """captured_at of the tracklet's first frame."""
    captured_at: Nanoseconds
    """Event time of the decision; of an ``end``, the tracklet's last frame."""
    probability: Unit | None = None
    """Of a link or a merge, that it is right; of a new, that this person was never seen; None for an end."""
    evidence: Evidence | None = None
    model: Annotated[str, msgspec.Meta(max_length=128)]


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, tag="dead_letter"):
    """Bytes that could not be read, as they are remembered on ``<topic>.dead``."""

    topic: str
    partition: Annotated[int, msgspec.Meta(ge=0)]
    offset: Annotated[int, msgspec.Meta(ge=0)]
    captured_at: Nanoseconds
    """When it was set aside, by the wall clock."""
    reason: str
    payload: bytes | None = None
    """The bytes themselves, of the matches topic alone: images and vectors outlive their retention nowhere."""


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A Frame with its pixels, in process only."""

    frame: Frame
    image: NDArray[np.uint8] | None
    """(H, W, 3) RGB; None where the JPEG cannot be decoded."""


@dataclass(frozen=True, slots=True)
class Detections:
    """The people found and tracked in one frame, in process only: detector -> reid.

    Complete for its reader: it carries the crops, so reid never asks upstream for pixels.
    """

    frame: Frame
    """The frame it was made from."""
    status: Status
    xyxy: NDArray[np.float32]
    """(N, 4) pixels of the frame, x1 < x2, y1 < y2, inside the frame."""
    scores: NDArray[np.float32]
    """(N,) in [0, 1]."""
    tracklets: tuple[str, ...]
    """N names, unique within the frame."""
    quality: NDArray[np.float32]
    """(N,) in [0, 1]."""
    ambiguous: NDArray[np.bool_]
    """(N,) True where the tracker's association was a close call (crossing, occlusion): embed again now."""
    crops: tuple[NDArray[np.uint8], ...]
    """N views (h, w, 3) RGB into the frame's pixels; empty when status is not ``ok``."""
    vectors: NDArray[np.float32] | None = None
    """(N, D) unit vectors, where one model finds people and describes them; reid then has no model to run."""


Inner = Frame | CameraState | Embeddings
"""What travels on the inner topics."""
