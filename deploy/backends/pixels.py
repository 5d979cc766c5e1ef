"""Pictures of any size -> a batch on the GPU, by the kernel in pixels.cu: the same pixels as on the CPU, to within one grey level.

The CPU's side is `detector.letterbox` and `reid.crops`. Which picture is averaged and which is interpolated is theirs to say.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.backends.cuda import INSTALL, explained
from detector.letterbox import fitted_hw, letterbox
from reid.crops import shrinks, to_batch
from stream.errors import DeviceError
from stream.model import LETTERBOX_FILL, Fit, Kind

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

SOURCE = Path(__file__).with_name("pixels.cu")
KERNEL = "fit_pictures"
JOB = 8  # numbers per picture, in the order of `struct Job`
BLOCK = (32, 8, 1)  # threads: a warp reads along a row


def fit_of(kind: Kind) -> Fit:
    """How pictures come to a model of a kind."""
    return "stretch" if kind == "embedder" else "letterbox"


def scaled(pictures: Sequence[U8], input_hw: tuple[int, int], fit: Fit) -> U8:
    """Pictures (h, w, 3) of any sizes -> (N, *input_hw, 3), on the CPU."""
    return to_batch(pictures, input_hw) if fit == "stretch" else letterbox(pictures, input_hw)[0]


def jobs_of(sizes_hw: Sequence[tuple[int, int]], input_hw: tuple[int, int], fit: Fit) -> tuple[I64, int]:
    """What the kernel does with pictures of these sizes that lie one behind the other: (N, 8) numbers, and the bytes they take."""
    jobs = np.zeros((len(sizes_hw), JOB), np.int64)
    offset = 0
    for job, (height, width) in zip(jobs, sizes_hw, strict=True):
        if fit == "letterbox":
            fit_hw = fitted_hw((height, width), input_hw)
            averages = fit_hw[0] < height or fit_hw[1] < width
        else:
            fit_hw, averages = input_hw, shrinks((height, width), input_hw)
        job[:] = (offset, width * 3, height, width, *fit_hw, averages, LETTERBOX_FILL)
        offset += height * width * 3
    return jobs, offset


def pack(pictures: Sequence[U8], into: U8) -> None:
    """Pictures (h, w, 3), views too, one behind the other into flat `into`, which is large enough."""
    offset = 0
    for picture in pictures:
        until = offset + picture.size
        into[offset:until].reshape(picture.shape)[:] = picture
        offset = until


class Resizer:
    """The kernel, compiled for this GPU; pycuda keeps what nvcc made of it. Within `Device.current`."""

    def __init__(self) -> None:
        from pycuda.compiler import SourceModule
        from pycuda.driver import CompileError, Error

        source = SOURCE.read_text(encoding="utf-8")
        try:
            self._module = SourceModule(source, no_extern_c=True)
            self._kernel = self._module.get_function(KERNEL)
        except CompileError as error:
            raise DeviceError(f"{SOURCE}: nvcc does not compile it ({' '.join(str(error).split())[:300]})") from error
        except Error as error:  # compiled for another GPU or driver than this one
            raise explained(str(error), f"{SOURCE}: the GPU does not load it") from error
        except OSError as error:
            if shutil.which("nvcc") is None:
                raise DeviceError(f"the CUDA compiler nvcc is not on the PATH ({error}): {INSTALL}") from error
            raise DeviceError(f"{SOURCE}: what nvcc makes of it cannot be kept ({error})") from error

    def __call__(self, pixels: Any, jobs: Any, batch: Any, size_nhw: tuple[int, int, int], stream: Any) -> None:
        """Start it on `stream`: device pointers to the pictures' bytes, their jobs, and the batch of `size_nhw` that it fills."""
        n, height, width = size_nhw
        grid = (-(-width // BLOCK[0]), -(-height // BLOCK[1]), n)
        self._kernel(pixels, jobs, batch, np.int32(height), np.int32(width), block=BLOCK, grid=grid, stream=stream)
