"""What flows from training to serving: a model's card, and what a runtime promises to do with it.

The house contract of every artifact: RGB uint8 ``(N, H, W, 3)`` in; scaling, mean, std, box decoding and L2 norm inside the
graph; N may be anything from 0 to `max_batch` (backends split more). By kind the outputs are

detector       ``boxes`` (N, A, 4) float32 xyxy in pixels of the input picture, ``scores`` (N, A) float32 in [0, 1], people only
embedder       ``embedding`` (N, D) float32, unit norm
person-search  both: ``boxes``, ``scores`` and ``embedding`` (N, A, D) of what was found, best first, the rest zeros

A detector's picture is letterboxed: scaled to fit, top left, the rest filled with 114.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

CARD_VERSION = 1
LETTERBOX_FILL = 114
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""RGB in shares of 255: what networks trained here, and most of others, take off their pixels and divide them by."""

MIN_SIDE_PX, MAX_SIDE_PX = 8, 4096
"""Of a model's input."""
Kind = Literal["detector", "embedder", "person-search"]
Precision = Literal["fp32", "fp16", "int8"]


class ModelCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """``card.json`` of a bundle: what a model is, takes, returns and was measured to do."""

    card_version: int = CARD_VERSION
    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
    version: str
    kind: Kind
    input_hw: tuple[int, int]
    outputs: dict[str, tuple[int, ...]]
    """Output name -> shape without the batch axis."""
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    embedding_size: int | None = None
    precision: Precision = "fp32"
    """Of the graph's arithmetic; it is written into the graph, and the outputs are float32 in any case."""
    opset: int | None = None
    """Of ONNX, of the graph; None where nobody wrote it down."""
    min_cosine: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    """Least cosine to the golden vectors that is asked of a runtime where it is not the precision's own (`deploy.gate`)."""
    synthetic_only: bool
    """True when no picture of a real person was seen in training."""
    data_sets: tuple[str, ...] = ()
    scores: dict[str, float] = {}
    """Measured figures, e.g. ``synthetic_test/rank1``; each says on what in its key."""
    defaults: dict[str, float] = {}
    """Settings of `[detector]` and `[matcher]` by name that a site gets where its file does not state them, e.g. ``new_score``."""
    licence: str
    source: str = ""
    """Where it comes from and the command that made it."""
    digest: str
    """SHA-256 of model.onnx, hexadecimal."""
    digests: dict[str, str] = {}
    """SHA-256 of the bundle's other files by name (golden.npz, links.json, query.onnx)."""

    @property
    def id(self) -> str:
        """Name, version and the digest's first 12 digits: what vectors are labelled with."""
        return f"{self.name}-{self.version}-{self.digest[:12]}"


class Backend(Protocol):
    """A runtime that holds one model. It knows tensors, never models."""

    @property
    def card(self) -> ModelCard:
        """What the model is and takes."""
        ...

    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """(N, H, W, 3) RGB -> the card's outputs with N in front; N = 0 gives empty arrays, N > max_batch is split."""
        ...

    def close(self) -> None:
        """Free everything; safe to call twice."""
        ...


Fit = Literal["letterbox", "stretch"]
"""How a picture comes to a model's size: scaled to fit and filled, for detectors; to both sides, for embedders."""


@runtime_checkable
class PictureBackend(Backend, Protocol):
    """A runtime that also scales pictures, with the CPU's pixels to within one grey level (`deploy.backends.pixels`)."""

    def infer_pictures(self, pictures: Sequence[NDArray[np.uint8]], fit: Fit) -> dict[str, NDArray[np.float32]]:
        """Pictures (h, w, 3) RGB of any sizes, views too -> the card's outputs with N in front."""
        ...


class LinkRow(msgspec.Struct, frozen=True, kw_only=True):
    """Logistic fit from a similarity s to log-odds ``a + b * s`` that two tracklets are one person."""

    a: float
    b: float
    same_pairs: int
    """How many same-person pairs it was fitted on."""


class Links(msgspec.Struct, frozen=True, kw_only=True):
    """``links.json`` of a bundle that embeds: without it the matcher cannot judge a similarity and refuses the bundle."""

    mean: list[float]
    """(D,) mean training vector, prior of every camera's mean."""
    same: LinkRow
    """The nearest exemplar is of the same camera."""
    other: LinkRow
    """It is of another camera."""
    fitted_on: str
    """Which labelled crops, in words."""
