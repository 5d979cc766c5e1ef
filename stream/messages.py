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


def about(description: str) -> msgspec.Meta:
    """What the published JSON Schema says of a field; decoding is not changed by it."""
    return msgspec.Meta(description=description)


class RunnerUp(msgspec.Struct, frozen=True, kw_only=True):
    """The next best candidate of a decision, which was not chosen."""

    identity: Annotated[str, about("Identity of the candidate, 32 hexadecimal digits.")]
    similarity: Annotated[float, about("How alike it and the tracklet look, -1 to 1, as evidence.similarity.")]
    log_odds: Annotated[
        float,
        about(
            "Natural logarithm of the odds that the tracklet is it, from appearance and time, any sign; 0 is 1 to 1."
        ),
    ]
    same_person: Annotated[Unit, about("Probability that it and the event's identity are one person, 0 to 1.")]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Why an event was decided as it was. A candidate that was not chosen is named as runner-up, never as a match."""

    reason: Annotated[
        Reason,
        about(
            "Of a link: `sure`, its probability is at least 1 - false_links; `credit`, it is less, at least 0.8, and "
            "was paid for with false links that were allowed and not used. Of a new: `stranger`, the probability "
            "that this person was never seen is at least 1 - false_links; else it is new out of doubt, `ambiguous`, "
            "two known identities were almost as likely as each other, or `unsure`, none was likely enough. Of an "
            "end: `left`. Of a merge: `alike`. false_links is the site's setting, 0.05 unless told otherwise."
        ),
    ]
    similarity: Annotated[
        float | None,
        about(
            "How alike they look, -1 to 1, after what is common to the people of each camera was taken out. Of a "
            "link: (largest + mean) / 2 of the tracklet's cosines to the identity's exemplars. Of a merge: mean "
            "cosine between both identities' exemplars. Null for others."
        ),
    ] = None
    runner_up: Annotated[
        RunnerUp | None, about("The next best candidate; null where there was none, and for an end or a merge.")
    ] = None
    gap_s: Annotated[
        float | None,
        about(
            "Of a link: seconds from the identity's last sighting on any camera to first_seen; negative when two "
            "cameras overlap and another one still saw it after first_seen. Null for others."
        ),
    ] = None
    new_probability: Annotated[
        float | None,
        about("Of a link or a new: probability that this person was never seen here before, 0 to 1. Null for others."),
    ] = None
    appearance_log_odds: Annotated[
        float | None,
        about(
            "Of a link: natural logarithm of the odds that appearance alone gives, a + b * similarity by the "
            "calibration row, any sign, before it is clipped to between -8 and 8. Null for others."
        ),
    ] = None
    time_log_odds: Annotated[
        float | None,
        about(
            "Of a link: natural logarithm of how many times likelier this gap is for the identity than for a "
            "newcomer, any sign; added to the clipped appearance_log_odds it gives the link's log-odds. Null for "
            "others."
        ),
    ] = None
    competition: Annotated[
        float | None,
        about(
            "Of a link: summed odds, 0 or more, that other open tracklets of this camera are the same identity. Null "
            "for others."
        ),
    ] = None
    row: Annotated[
        str | None,
        about(
            "Of a link: the calibration row that judged the similarity: `same` or `other`, as the nearest exemplar "
            "is of the same camera or another one, then / and where it was fitted, `bundle`, `site` or `pair` of "
            "cameras. Null for others."
        ),
    ] = None
    credit: Annotated[
        float | None,
        about(
            "Of a link or a new: false links, 0 to 1, that are allowed and not used after this event. Null for others."
        ),
    ] = None
    crops: Annotated[
        int | None,
        about("Pictures of the tracklet that had been embedded and taken as evidence, 1 or more. Null for a merge."),
    ] = None
    weight: Annotated[
        float | None,
        about("Summed quality of those crops, above 0, each between 0.25 and 1. Null for a merge."),
    ] = None
    exemplars: Annotated[
        tuple[str, ...],
        about("Tracklets whose looks stood for the identity; of a merge, for both identities. Empty for others."),
    ] = ()


class MatchEvent(msgspec.Struct, frozen=True, kw_only=True, tag="match_event"):
    """Somebody was seen anew (`new`), seen again (`link`), or has left a camera's view (`end`), or two identities have turned
    out to be one person (`merge`). The public message."""

    site: Annotated[Name, about("Name of the site.")]
    number: Annotated[
        int,
        msgspec.Meta(ge=1, lt=2**53),
        about(
            "Counts the site's events from 1 on without a gap. Keep the last one together with your own effect and "
            "you act exactly once on each."
        ),
    ]
    kind: Annotated[
        EventKind,
        about(
            "`new`: a tracklet is of somebody not seen before. `link`: it is of a known identity. `end`: it has left "
            "its camera's view. `merge`: two identities are one person."
        ),
    ]
    identity: Annotated[
        Identity, about("Who: an anonymous name, 32 hexadecimal digits, the same as long as the person is remembered.")
    ]
    merged: Annotated[
        Identity | None,
        about(
            "Of a merge: the identity that was `identity` all along; it is never named again, and `identity` may "
            "itself be merged later. Null for others."
        ),
    ] = None
    camera: Annotated[Name, about("Camera of the tracklet.")]
    previous_camera: Annotated[
        Name | None,
        about(
            "Of a link: the camera that had seen the identity last when the link was decided; may be the same one, and "
            "where cameras overlap it may see the person still. Null for others."
        ),
    ] = None
    tracklet: Annotated[
        Tracklet,
        about(
            "One person followed in one camera, camera/stream/sequence/n, and +k behind it where the tracker had gone "
            "on with somebody else; one name, not to be taken apart. A new or a link begins it, its end ends it; of a "
            "merge, the one whose end settled it."
        ),
    ]
    first_seen: Annotated[
        Nanoseconds, about("When the tracklet's first frame was captured, nanoseconds since 1970-01-01T00:00:00 UTC.")
    ]
    captured_at: Annotated[
        Nanoseconds,
        about(
            "When the frame that settled the event was captured, nanoseconds since 1970-01-01T00:00:00 UTC; of an "
            "end, the tracklet's last frame. Does not always grow with number."
        ),
    ]
    probability: Annotated[
        Unit | None,
        about(
            "Of a link or a merge: that it is right; of a new: that this person was never seen before; 0 to 1. Null "
            "for an end."
        ),
    ] = None
    evidence: Annotated[Evidence | None, about("Why it was decided so.")] = None
    model: Annotated[
        str,
        msgspec.Meta(max_length=128),
        about("Model whose vectors were compared: name, version, 12 digits of its digest."),
    ]


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
