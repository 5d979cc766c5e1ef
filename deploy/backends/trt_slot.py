"""A place for one batch in flight on the GPU: a stream, an execution context, and buffers for the largest batch.

What a slot is asked for is queued on its stream and done in that order; nothing is waited for before `finish`. Two slots used in
turn therefore copy one batch while they compute the other. All methods run within `Device.current`.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deploy.backends import tensorrt_api
from deploy.backends.pixels import JOB, Resizer, jobs_of, pack
from stream.errors import EngineError
from stream.model import Fit

if TYPE_CHECKING:
    import tensorrt as trt

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tensors:
    """An engine's inputs and outputs."""

    input: str
    input_hw: tuple[int, int]
    outputs: dict[str, tuple[int, ...]]
    """Name -> shape after the batch axis."""
    least: int
    most: int
    """Batch sizes of its profile."""


class Slot:
    """Buffers are allocated here and once; those for pictures of any size grow with the largest that came.

    Raises `EngineError` where outputs are not of the card's shape, what CUDA raises where memory is full; then nothing is left behind.
    """

    def __init__(self, engine: "trt.ICudaEngine", tensors: Tensors, cuda: ModuleType, doing: str) -> None:
        self._tensors = tensors
        self._cuda = cuda
        self._doing = doing
        _, self._said = tensorrt_api.logger()
        self._context: trt.IExecutionContext | None = None
        self._stream: Any = None
        self._host: dict[str, NDArray[Any]] = {}
        self._device: dict[str, Any] = {}
        self._host_jobs = np.empty(0, np.int64)
        self._device_jobs: Any = None
        self._host_pictures: U8 = np.empty(0, np.uint8)
        self._device_pictures: Any = None
        self._n = 0
        try:
            self._allocate(engine)
        except BaseException:
            with suppress(cuda.Error):
                self.free()
            raise

    def _allocate(self, engine: "trt.ICudaEngine") -> None:
        tensors, cuda = self._tensors, self._cuda
        self._said.clear()
        self._context = engine.create_execution_context()
        if self._context is None:
            raise self._said.explained(self._doing)
        self._stream = cuda.Stream()
        self._must(self._context.set_input_shape(tensors.input, (tensors.most, *tensors.input_hw, 3)))
        for name, shape in tensors.outputs.items():
            found, wanted = sizes(self._context.get_tensor_shape(name)), (tensors.most, *shape)
            if not fits(found, wanted):
                raise EngineError(f"{self._doing}: the engine's {name} is {found}, its card says {wanted}")
        shapes = {tensors.input: (*tensors.input_hw, 3)} | tensors.outputs
        kinds = {tensors.input: np.uint8} | dict.fromkeys(tensors.outputs, np.float32)
        for name, shape in shapes.items():
            self._host[name] = cuda.pagelocked_empty((tensors.most, *shape), kinds[name])
            size = self._host[name].nbytes
            # where TensorRT does not see an output's shape it has a bound of its own, and may write as far
            if name in tensors.outputs:
                size = max(size, self._context.get_max_output_size(name))
            self._device[name] = cuda.mem_alloc(size)
            self._must(self._context.set_tensor_address(name, int(self._device[name])))
        self._host_jobs = cuda.pagelocked_empty((tensors.most, JOB), np.int64)
        self._device_jobs = cuda.mem_alloc(self._host_jobs.nbytes)

    def copy(self, images: U8) -> None:
        """Bring a batch (n, H, W, 3) onto the GPU."""
        name, n = self._tensors.input, len(images)
        self._host[name][:n] = images
        self._cuda.memcpy_htod_async(self._device[name], self._host[name][:n], self._stream)

    def scale(self, pictures: Sequence[U8], fit: Fit, resizer: Resizer) -> None:
        """Bring pictures (h, w, 3) of any sizes onto the GPU and make the batch of them there."""
        jobs, size = jobs_of(
            [(picture.shape[0], picture.shape[1]) for picture in pictures], self._tensors.input_hw, fit
        )
        self._make_room(size)
        pack(pictures, self._host_pictures)
        n = len(pictures)
        self._host_jobs[:n] = jobs
        self._cuda.memcpy_htod_async(self._device_pictures, self._host_pictures[:size], self._stream)
        self._cuda.memcpy_htod_async(self._device_jobs, self._host_jobs[:n], self._stream)
        batch = self._device[self._tensors.input]
        resizer(self._device_pictures, self._device_jobs, batch, (n, *self._tensors.input_hw), self._stream)

    def start(self, n: int) -> None:
        """Compute the batch of `n` that was brought, and queue the way back of its outputs."""
        context = self._context
        if context is None:
            raise ValueError("the slot is closed")
        self._n = n
        # a profile may begin above 1: what else lies in the buffer is computed and dropped
        run = max(n, self._tensors.least)
        self._said.clear()
        self._must(context.set_input_shape(self._tensors.input, (run, *self._tensors.input_hw, 3)))
        self._must(context.execute_async_v3(self._stream.handle))
        for name in self._tensors.outputs:
            self._cuda.memcpy_dtoh_async(self._host[name][:n], self._device[name], self._stream)

    def finish(self, into: Mapping[str, F32]) -> None:
        """Wait for it and write the outputs into arrays of (n, ...)."""
        self._stream.synchronize()
        for name, values in into.items():
            values[:] = self._host[name][: self._n]

    def free(self) -> None:
        """Wait for what is queued; then the context goes first, its memory next, the stream last.

        All of it is tried, and the last error of CUDA raised: on a GPU that is lost every step has one.
        """
        memory = [one for one in (*self._device.values(), self._device_jobs, self._device_pictures) if one is not None]
        self._device, self._device_jobs, self._device_pictures = {}, None, None
        with ExitStack() as steps:  # the last that is named is the first that is done
            steps.callback(self._let_go)
            for one in memory:
                steps.callback(one.free)
            steps.callback(setattr, self, "_context", None)
            if self._stream is not None:
                steps.callback(self._stream.synchronize)

    def _let_go(self) -> None:
        self._host, self._host_jobs, self._host_pictures = {}, np.empty(0, np.int64), np.empty(0, np.uint8)
        self._stream = None

    def _make_room(self, size: int) -> None:
        if size <= self._host_pictures.nbytes:
            return
        self._stream.synchronize()  # a call that failed may have left a copy from there in the queue
        small, self._device_pictures, self._host_pictures = self._device_pictures, None, np.empty(0, np.uint8)
        if small is not None:
            small.free()
        host, memory = self._cuda.pagelocked_empty(size, np.uint8), self._cuda.mem_alloc(size)
        self._host_pictures, self._device_pictures = host, memory

    def _must(self, done: bool) -> None:
        """TensorRT says no by False, and why in its log."""
        if not done:
            raise self._said.explained(self._doing)


def sizes(shape: "trt.Dims") -> tuple[int, ...]:
    """A tensor's shape as TensorRT has it."""
    return tuple(shape[place] for place in range(len(shape)))


def fits(found: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a tensor is of this shape. -1: TensorRT does not see that a graph always gives as many."""
    return len(found) == len(shape) and all(have in (-1, want) for have, want in zip(found, shape, strict=True))
