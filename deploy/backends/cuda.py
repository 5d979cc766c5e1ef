"""The GPU through pycuda, and the only import of it: who it is, its context, its errors in one line.

The process's primary context is used, the one that TensorRT and torch use too: it is retained, not created, so engines and
libraries share it, and it stays until the process ends. A context belongs to threads: whoever touches the GPU does so within
`Device.current`.
"""

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from stream.errors import DeviceError, DeviceLost, SightlineError

INSTALL = "pip install -c constraints.txt -e '.[tensorrt]' (docs/tensorrt.md)"
KERNEL_MODULE = Path("/proc/driver/nvidia/version")

# What CUDA and TensorRT say, by the words that do not change with the version -> what it means and what to do.
_LOST = re.compile(
    r"illegal memory access|launch fail|launch time|ECC|context is destroyed|illegal instruction|misaligned address"
    r"|hardware stack|unknown error|: unknown$|GPU is lost|fallen off|device-side assert|invalid program counter",
    re.IGNORECASE,
)
_MEMORY = re.compile(r"out of memory|failed to allocate|bad_alloc", re.IGNORECASE)
_ABSENT = re.compile(
    r"no CUDA-capable device|: no device$|invalid device ordinal|no cuda device|error: 100\b", re.IGNORECASE
)
_DRIVER = re.compile(
    r"driver version is insufficient|driver mismatch|unsupported display driver|unsupported toolchain|error: (35|803|804)\b",
    re.IGNORECASE,
)


def explained(said: str, doing: str) -> SightlineError:
    """What a line of CUDA or TensorRT means, as an error of ours. `doing`: what was tried, for the beginning of the line."""
    line = " ".join(said.split())[:300] or "no reason given"
    if _DRIVER.search(line):
        return DeviceError(f"{doing}: the NVIDIA driver is too old for this CUDA ({line}): update the driver")
    if _ABSENT.search(line):
        return DeviceError(f"{doing}: no GPU can be seen ({line}): see nvidia-smi and CUDA_VISIBLE_DEVICES")
    if _MEMORY.search(line):
        return DeviceError(
            f"{doing}: the GPU's memory is full ({line}): see nvidia-smi for who holds it, or build with a smaller --max"
        )
    if _LOST.search(line):
        return DeviceLost(
            f"{doing}: the GPU failed ({line}): start the process again; see dmesg for Xid lines if it comes back"
        )
    return DeviceError(f"{doing}: {line}")


def of_the_machine(said: str) -> bool:
    """Whether a line of CUDA or TensorRT is about the GPU, its memory or driver, and not about what it was given."""
    return any(words.search(said) for words in (_DRIVER, _ABSENT, _MEMORY, _LOST))


@contextmanager
def cuda_errors(doing: str) -> Iterator[None]:
    """Errors of pycuda come out as ours."""
    import pycuda.driver as cuda

    try:
        yield
    except cuda.Error as error:
        raise explained(str(error), doing) from error


def driver() -> ModuleType:
    """``pycuda.driver``, initialised. Raises `DeviceError` where pycuda, the driver or the GPU is missing or too old."""
    try:
        import pycuda.driver as cuda
    except ModuleNotFoundError as error:
        raise DeviceError(f"TensorRT needs {error.name}, which is not installed: {INSTALL}") from error
    except ImportError as error:  # libcuda.so.1 comes with the driver
        raise DeviceError(
            f"there is no NVIDIA driver on this machine ({' '.join(str(error).split())}): install it, or take another backend"
        ) from error
    found: ModuleType = cuda
    with cuda_errors("CUDA does not start"):
        found.init()
        if not found.Device.count():
            raise DeviceError("no GPU can be seen: see nvidia-smi and CUDA_VISIBLE_DEVICES")
    return found


class Device:
    """The first GPU that CUDA shows (CUDA_VISIBLE_DEVICES chooses another)."""

    def __init__(self) -> None:
        cuda = driver()
        with cuda_errors("the GPU does not answer"):
            device = cuda.Device(0)
            self.name = str(device.name())
            self.capability = ".".join(str(part) for part in device.compute_capability())
            self.driver = _driver_version(cuda)
            self._context: Any = device.retain_primary_context()

    @contextmanager
    def current(self, doing: str) -> Iterator[ModuleType]:
        """Within it this thread talks to the GPU, through what it is given: ``pycuda.driver``."""
        import pycuda.driver as cuda

        with cuda_errors(doing):
            self._context.push()
            try:
                yield cuda
            finally:
                cuda.Context.pop()


@functools.cache
def device() -> Device:
    """The process's GPU."""
    return Device()


def _driver_version(cuda: ModuleType) -> str:
    """Of the kernel module where it says it, and the newest CUDA that it serves."""
    number = cuda.get_driver_version()
    serves = f"CUDA {number // 1000}.{number % 1000 // 10}"
    try:
        text = KERNEL_MODULE.read_text(encoding="utf-8", errors="replace")[:4096]
    except OSError:
        return serves
    found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", text)
    return f"{found[1]}, {serves}" if found else serves
