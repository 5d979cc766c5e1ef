"""pixels.cu, compiled by the host's C++ compiler as it stands: what makes it CUDA is defined away."""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from services import unavailable

from deploy.backends.pixels import SOURCE, jobs_of, pack
from stream.model import Fit

SHIM = """
#define __global__
#define __device__
struct Place { int x, y, z; };
static Place blockIdx, blockDim, threadIdx;
#include "%s"
extern "C" void on_host(const u8 *pixels, const Job *jobs, u8 *batch, int height, int width,
                        int gx, int gy, int gz, int bx, int by, int bz) {
    blockDim = {bx, by, bz};
    for (int z = 0; z < gz; ++z) for (int y = 0; y < gy; ++y) for (int x = 0; x < gx; ++x) {
        blockIdx = {x, y, z};
        for (int j = 0; j < by; ++j) for (int i = 0; i < bx; ++i) {
            threadIdx = {i, j, 0};
            fit_pictures(pixels, jobs, batch, height, width);
        }
    }
}
"""


@functools.cache
def compiled() -> ctypes.CDLL:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        unavailable("the CUDA kernel is tested as C++: a host compiler is needed (g++)")
    folder = Path(tempfile.mkdtemp(prefix="sightline-kernel-"))
    source, library = folder / "host.cpp", folder / "host.so"
    source.write_text(SHIM % SOURCE)
    flags = ["-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-std=c++17"]
    done = subprocess.run(
        [compiler, *flags, "-o", str(library), str(source)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    loaded = ctypes.CDLL(str(library))
    shutil.rmtree(folder)
    return loaded


def fitted(pictures: list[NDArray[np.uint8]], input_hw: tuple[int, int], fit: Fit) -> NDArray[np.uint8]:
    """What the kernel makes of pictures."""
    jobs, size = jobs_of([picture.shape[:2] for picture in pictures], input_hw, fit)
    flat = np.zeros(size, np.uint8)
    pack(pictures, flat)
    batch = np.full((len(pictures), *input_hw, 3), 7, np.uint8)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (flat, jobs, batch)]
    height, width = input_hw
    grid = (-(-width // 32), -(-height // 8), len(pictures))
    compiled().on_host(*pointers, *(ctypes.c_int(one) for one in (height, width, *grid, 32, 8, 1)))
    return batch
