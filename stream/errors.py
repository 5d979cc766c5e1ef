"""Everything that can go wrong, as a tree. Messages read: what, where, expected and got, remedy.

SightlineError                 exit status 1
├── UsageError                 wrong arguments on the command line; exit status 2
├── SettingsError              a settings file or environment value is wrong; exit status 2
├── CameraError                a camera or video file cannot be used
│   ├── CameraUnreachable
│   ├── CameraUnauthorised
│   └── NotAVideo
├── MessageError               bytes that are no message of ours: dead-lettered, never fatal
├── TransportError             a topic cannot be read or written
│   ├── BrokerUnreachable
│   ├── DeliveryFailed
│   ├── MessageTooLarge
│   └── OffsetGone             retention, or a topic or gallery made anew, took what was to be read
├── GalleryError               Redis refused or lost something
│   ├── GalleryUnreachable
│   ├── GalleryRefused         wrong password, no permission
│   ├── ModelMismatch          the gallery holds vectors of another model
│   └── EpochLost              another matcher took this site over; exit status 3
├── BundleError                a model bundle is incomplete, altered or of another kind
├── DeviceError                no GPU, or it, its driver or its libraries cannot serve
│   └── DeviceLost             it failed in mid-work: the process has to start again
├── EngineError                a TensorRT engine cannot be built, or is not the one that belongs here
├── AdoptError                 an ONNX file cannot be brought to the house contract
├── DataError                  a data set is missing, malformed or empty
└── TrainingError              a training run cannot go on: it diverged, or memory or disk is full
"""


class SightlineError(Exception):
    """Base of all; `str(error)` is the one line that a user sees."""

    exit_status = 1


class UsageError(SightlineError):
    """Wrong arguments."""

    exit_status = 2


class SettingsError(SightlineError):
    """A setting is unknown, missing or out of range."""

    exit_status = 2


class CameraError(SightlineError):
    """A camera or video file cannot be used."""


class CameraUnreachable(CameraError):
    """No connection, or it broke."""


class CameraUnauthorised(CameraError):
    """The camera wants other credentials."""


class NotAVideo(CameraError):
    """There are bytes, but no video in them."""


class MessageError(SightlineError):
    """Bytes that are no message of ours."""


class TransportError(SightlineError):
    """A topic cannot be read or written."""


class BrokerUnreachable(TransportError):
    """No broker answers."""


class DeliveryFailed(TransportError):
    """A message was not acknowledged in time."""


class MessageTooLarge(TransportError):
    """Larger than the topic takes, even after encoding it smaller."""


class OffsetGone(TransportError):
    """What was to be read next is no longer there."""

    def __init__(self, message: str, *, after: int | None = None) -> None:
        """`after`, of match events: the number behind which they go on; None: read from the start."""
        super().__init__(message)
        self.after = after


class GalleryError(SightlineError):
    """Redis refused or lost something."""


class GalleryUnreachable(GalleryError):
    """No Redis answers."""


class GalleryRefused(GalleryError):
    """Wrong password or missing permission."""


class ModelMismatch(GalleryError):
    """The gallery holds vectors of another model."""


class EpochLost(GalleryError):
    """Another matcher took this site over."""

    exit_status = 3


class BundleError(SightlineError):
    """A model bundle is incomplete, altered or of another kind."""


class DeviceError(SightlineError):
    """There is no GPU, or it, its driver or its libraries cannot serve."""


class DeviceLost(DeviceError):
    """The GPU failed in mid-work; nothing on it answers until the process starts again."""


class EngineError(SightlineError):
    """A TensorRT engine cannot be built, or is not the one that belongs here."""


class AdoptError(SightlineError):
    """An ONNX file cannot be brought to the house contract."""


class DataError(SightlineError):
    """A data set is missing, malformed or empty."""


class TrainingError(SightlineError):
    """A training run cannot go on: it diverged, or memory or disk is full."""
