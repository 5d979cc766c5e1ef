"""What building and running share of TensorRT: whether it is there, its version, what it says.

Written for TensorRT 11. The one thing that 10 needs beside it stands in `strongly_typed`; of 10 only the names are known to fit
(docs/tensorrt.md), nothing here has met it yet.
"""

import functools
from typing import TYPE_CHECKING

from deploy.backends.cuda import INSTALL, explained, of_the_machine
from stream.errors import DeviceError, SightlineError

if TYPE_CHECKING:
    import tensorrt as trt

OLDEST = 10


def version() -> str:
    """Of TensorRT, e.g. ``11.4.0.106``. Raises `DeviceError` where it is not installed or older than 10."""
    try:
        import tensorrt as trt
    except ModuleNotFoundError as error:
        raise DeviceError(f"{error.name} is not installed: {INSTALL}") from error
    except (ImportError, OSError) as error:  # a library beside it is missing or of another version
        raise DeviceError(f"TensorRT cannot be loaded ({' '.join(str(error).split())[:300]}): {INSTALL}") from error
    found = str(trt.__version__)
    if int(found.partition(".")[0]) < OLDEST:
        raise DeviceError(f"TensorRT is {found}, needed is {OLDEST} or newer: {INSTALL}")
    return found


class Said:
    """The errors that TensorRT logged since the last `clear`: its calls return None or False, and why is in the log alone."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def clear(self) -> None:
        """Forget what was said before."""
        self.errors.clear()

    def of_the_machine(self) -> bool:
        """Whether an error was about the GPU, and not about what it was given."""
        return any(map(of_the_machine, self.errors))

    def explained(self, doing: str) -> SightlineError:
        """The last error as one of ours; the first is shown too, which often is the cause."""
        return explained("; ".join(dict.fromkeys([*self.errors[:1], *self.errors[-1:]])), doing)


@functools.cache
def logger() -> "tuple[trt.ILogger, Said]":
    """One for the process, as TensorRT keeps the first it is given. Warnings and less are dropped."""
    import tensorrt as trt

    said = Said()

    class Logger(trt.ILogger):  # type: ignore[misc, unused-ignore]  # its type is known where TensorRT is installed
        def log(self, severity: "trt.ILogger.Severity", msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                said.errors.append(" ".join(str(msg).split()))
                del said.errors[:-20]

    return Logger(), said


def strongly_typed(builder: "trt.Builder") -> "trt.INetworkDefinition":
    """A network that computes in the types that its graph says. Of 11 every network is one; 10 has to be told (unverified)."""
    import tensorrt as trt

    return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
