"""The GPU's resize, made by the host's compiler from the very source: the CPU's pixels to within one grey level.

Its arithmetic is in integers, so what holds here holds for the same source on a GPU.
"""

import ctypes
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from services import unavailable

from deploy.backends.pixels import SOURCE
from detector.letterbox import letterbox
from reid.crops import to_batch
from tests.deploy.host_kernel import fitted

PICTURES = [
    pytest.param((720, 1280), id="a frame, half"),
    pytest.param((1080, 1920), id="a frame, a third"),
    pytest.param((480, 640), id="another aspect"),
    pytest.param((377, 613), id="odd sides"),
    pytest.param((384, 640), id="the very size"),
    pytest.param((90, 160), id="enlarged"),
    pytest.param((20, 3000), id="a strip"),
    pytest.param((3000, 20), id="a column"),
    pytest.param((1, 1), id="one pixel"),
]
CROPS = [
    pytest.param((300, 120), id="smaller on both sides"),
    pytest.param((256, 128), id="the very size"),
    pytest.param((512, 256), id="half"),
    pytest.param((100, 41), id="enlarged"),
    pytest.param((100, 500), id="wider than high"),
    pytest.param((900, 50), id="higher, but narrower"),
    pytest.param((1, 1), id="one pixel"),
    pytest.param((2, 3), id="a few pixels"),
    pytest.param((257, 129), id="one pixel more"),
]


def picture(hw: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Noise over a gradient: every mistake of a pixel shows."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (*hw, 3))
    ramp = np.linspace(0, 255, hw[1])[None, :, None] * np.linspace(0.2, 1, hw[0])[:, None, None]
    return np.clip(0.5 * noise + 0.5 * ramp, 0, 255).astype(np.uint8)


def levels(have: NDArray[np.uint8], want: NDArray[np.uint8]) -> int:
    return int(np.abs(have.astype(int) - want).max())


@pytest.mark.parametrize("hw", PICTURES)
@pytest.mark.parametrize("input_hw", [(384, 640), (256, 416)], ids=["640x384", "416x256"])
def test_a_letterboxed_picture_is_the_cpus_to_one_grey_level(hw: tuple[int, int], input_hw: tuple[int, int]) -> None:
    image = picture(hw)
    want, _ = letterbox([image], input_hw)
    assert levels(fitted([image], input_hw, "letterbox"), want) <= 1


@pytest.mark.parametrize("hw", CROPS)
@pytest.mark.parametrize("size_hw", [(256, 128), (384, 192), (64, 32)], ids=["128x256", "192x384", "32x64"])
def test_a_stretched_crop_is_the_cpus_to_one_grey_level(hw: tuple[int, int], size_hw: tuple[int, int]) -> None:
    image = picture(hw)
    assert levels(fitted([image], size_hw, "stretch"), to_batch([image], size_hw)) <= 1


def test_pictures_of_a_batch_do_not_touch_each_other() -> None:
    images = [picture(hw, seed) for seed, hw in enumerate([(300, 120), (40, 30), (600, 90), (256, 128), (1, 1)])]
    together = fitted(images, (256, 128), "stretch")
    for place, image in enumerate(images):
        np.testing.assert_array_equal(together[place], fitted([image], (256, 128), "stretch")[0])


def test_a_crop_is_a_view_of_its_frame() -> None:
    frame = picture((720, 1280))
    crop = frame[100:400, 333:480]
    assert levels(fitted([crop], (256, 128), "stretch"), to_batch([crop], (256, 128))) <= 1


def test_random_sizes_are_the_cpus_to_one_grey_level() -> None:
    rng = np.random.default_rng(3)
    images = [picture((int(h), int(w)), seed) for seed, (h, w) in enumerate(rng.integers(1, 500, (40, 2)))]
    assert levels(fitted(images, (96, 48), "stretch"), to_batch(images, (96, 48))) <= 1
    assert levels(fitted(images, (96, 160), "letterbox"), letterbox(images, (96, 160))[0]) <= 1


def test_the_comparison_can_fail() -> None:
    image = picture((300, 120))
    nearest = cv2.resize(image, (128, 256), interpolation=cv2.INTER_NEAREST)
    assert levels(fitted([image], (256, 128), "stretch"), nearest[None]) > 1


@pytest.mark.parametrize("architecture", ["compute_75", "compute_90", "compute_120"])
def test_nvidias_compiler_takes_the_kernel(architecture: str) -> None:
    library = _nvrtc()
    program = ctypes.c_void_p()
    source = SOURCE.read_bytes()
    assert library.nvrtcCreateProgram(ctypes.byref(program), source, b"pixels.cu", 0, None, None) == 0
    options = (ctypes.c_char_p * 2)(f"--gpu-architecture={architecture}".encode(), b"-Werror=all-warnings")
    status = library.nvrtcCompileProgram(program, 2, options)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    said = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, said)
    assert status == 0, said.value.decode()
    library.nvrtcGetPTXSize(program, ctypes.byref(size))
    assembly = ctypes.create_string_buffer(size.value)
    library.nvrtcGetPTX(program, assembly)
    assert b".entry fit_pictures" in assembly.value
    library.nvrtcDestroyProgram(ctypes.byref(program))


def _nvrtc() -> ctypes.CDLL:
    """NVIDIA's compiler as torch brings it; it needs no GPU."""
    from importlib.util import find_spec

    places = (
        find_spec("nvidia") or unavailable("NVIDIA's compiler comes with torch: pip install '.[train]'")
    ).submodule_search_locations
    found = [path for place in places or () for path in Path(place).glob("*/lib/libnvrtc.so.*")]
    if not found:
        unavailable("NVIDIA's compiler comes with torch: pip install '.[train]'")
    return ctypes.CDLL(str(found[0]))
