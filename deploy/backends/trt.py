"""TensorRT on an NVIDIA GPU: named tensors, two batches in flight, buffers made once.

No part of this has met a GPU yet; `make gpu-check` on a machine with one builds, proves and measures it (docs/tensorrt.md).
"""

import logging
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from deploy import engine
from deploy.backends import tensorrt_api
from deploy.backends.auto import verify
from deploy.backends.cuda import device
from deploy.backends.cut import check_images
from deploy.backends.pixels import Resizer, scaled
from deploy.backends.trt_slot import Slot, Tensors, fits, sizes
from deploy.bundle import Bundle
from deploy.engine import WORKSPACE_MIB, Profile, Say, Sidecar
from deploy.engine_build import Progress, build_plan, target_of
from stream.errors import DeviceError, DeviceLost, EngineError
from stream.model import Fit, ModelCard

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
S = TypeVar("S")
P = TypeVar("P")

SLOTS = 2  # while one batch is computed the next is copied


def plan_of(
    bundle: Bundle,
    *,
    profile: Profile | None = None,
    workspace_mib: int = WORKSPACE_MIB,
    version_compatible: bool = False,
    rebuild: bool = False,
    say: Say = log.info,
    progress: Progress = lambda phase, done, total: None,
) -> tuple[bytes, Sidecar]:
    """The bundle's engine for this machine: that of the cache, else one that is built now and proven against the golden set.

    Without a `profile` the one that was built last will do, whatever its batch sizes: it is what `sightline build` was told.
    Raises `DeviceError` where there is no GPU, driver or TensorRT, `EngineError` where no engine can be built, `BundleError` where
    the engine does not give the golden outputs.
    """
    gpu = device()
    target = target_of(bundle, gpu, profile, workspace_mib, version_compatible)
    cache = engine.engines()
    if profile is None:
        target = engine.newest(cache, target) or target
    return engine.obtain(
        cache,
        bundle.card.name,
        target,
        build=lambda: build_plan(bundle, target, gpu, progress),
        prove=lambda plan: prove(bundle, plan),
        say=say,
        rebuild=rebuild,
    )


def prove(bundle: Bundle, plan: bytes) -> None:
    """Raises `BundleError` unless the engine gives the bundle's golden outputs, alone and in batches."""
    backend = TensorRTBackend(bundle, plan)
    try:
        verify(backend, bundle, bundle.card.precision)
    finally:
        backend.close()


def overlapped(
    parts: Sequence[P], slots: Sequence[S], begin: Callable[[S, P], None], finish: Callable[[S, P], None]
) -> None:
    """Every part through a slot, in order: with two slots part k + 1 has begun before part k is finished."""
    running: deque[tuple[S, P]] = deque()
    for place, part in enumerate(parts):
        if len(running) == len(slots):
            finish(*running.popleft())
        slot = slots[place % len(slots)]
        begin(slot, part)
        running.append((slot, part))
    while running:
        finish(*running.popleft())


class TensorRTBackend:
    """One engine, two slots for batches. One thread at a time may use it, whichever; many may live in a process, and many processes
    on a GPU.

    `plan`: an engine that is at hand; None: that of the cache, built now where there is none (`plan_of`). Raises what `plan_of`
    raises.
    """

    def __init__(self, bundle: Bundle, plan: bytes | None = None) -> None:
        self.card = bundle.card
        self._device = device()
        self._doing = f"{self.card.name} on {self._device.name}"
        self._runtime: trt.Runtime | None = None
        self._engine: trt.ICudaEngine | None = None
        self._slots: list[Slot] = []
        self._resizer: Resizer | None = None
        try:
            self._runtime, self._engine = self._of_the_cache(bundle) if plan is None else self._deserialised(plan)
            with self._device.current(self._doing) as cuda:
                tensors = _tensors(self._engine, self.card)
                self._most = tensors.most
                for _ in range(SLOTS):
                    self._slots.append(Slot(self._engine, tensors, cuda, self._doing))
                self._resizer = _resizer()
        except BaseException as error:
            _let_go_of_locals(error)
            self.close()
            raise

    def _of_the_cache(self, bundle: Bundle) -> "tuple[trt.Runtime, trt.ICudaEngine]":
        """What the cache has, or what is built where this TensorRT does not load that: one that is version-compatible loads in newer
        ones alone."""
        try:
            return self._deserialised(plan_of(bundle)[0])
        except EngineError as error:
            log.warning("%s: building it again, which takes minutes", error)
            return self._deserialised(plan_of(bundle, rebuild=True)[0])

    def _deserialised(self, plan: bytes) -> "tuple[trt.Runtime, trt.ICudaEngine]":
        """The engine, and the runtime that must outlive it."""
        import tensorrt as trt

        logger, said = tensorrt_api.logger()
        said.clear()
        with self._device.current(self._doing):
            try:
                runtime = trt.Runtime(logger)
            except (TypeError, RuntimeError) as error:  # what its bindings make of a null
                raise said.explained(f"{self._doing}: TensorRT does not start") from error
            # a version-compatible engine has some; plans come from this user's cache alone
            runtime.engine_host_code_allowed = True
            loaded = runtime.deserialize_cuda_engine(plan)
        if loaded is None and said.of_the_machine():  # the same engine would be as well or ill off built again
            raise said.explained(f"{self._doing}: the engine does not load")
        if loaded is None:
            why = said.explained("TensorRT does not load it")
            raise EngineError(
                f"{self._doing}: the engine is damaged or of another GPU or TensorRT: `sightline build --rebuild` ({why})"
            )
        return runtime, loaded

    def infer(self, images: U8) -> dict[str, F32]:
        """(N, H, W, 3) RGB -> the card's outputs with N in front; N may be 0 or above `max_batch`."""
        check_images(images, self.card)
        return self._infer(len(images), lambda slot, part: slot.copy(images[part]))

    def infer_pictures(self, pictures: Sequence[U8], fit: Fit) -> dict[str, F32]:
        """Pictures (h, w, 3) RGB of any sizes, scaled on the GPU: a detector's "letterbox", an embedder's "stretch"."""
        resizer = self._resizer
        if resizer is None:
            return self.infer(scaled(pictures, self.card.input_hw, fit))
        return self._infer(len(pictures), lambda slot, part: slot.scale(pictures[part], fit, resizer))

    def _infer(self, n: int, fill: Callable[[Slot, slice], None]) -> dict[str, F32]:
        """The outputs of `n` pictures, which `fill` brings onto the GPU part by part."""
        if not self._slots:
            raise ValueError("the backend is closed")
        outputs = {name: np.empty((n, *shape), np.float32) for name, shape in self.card.outputs.items()}
        parts = [slice(start, min(start + self._most, n)) for start in range(0, n, self._most)]

        def begin(slot: Slot, part: slice) -> None:
            fill(slot, part)
            slot.start(part.stop - part.start)

        def finish(slot: Slot, part: slice) -> None:
            slot.finish({name: values[part] for name, values in outputs.items()})

        if parts:
            with self._device.current(self._doing):
                overlapped(parts, self._slots, begin, finish)
        return outputs

    def close(self) -> None:
        """Free everything, in the order that TensorRT asks for: contexts and buffers, then the engine, then its runtime."""
        if self._runtime is None:
            return
        slots, self._slots = self._slots, []
        try:
            # the last that is named is the first that is done; one that fails does not keep the others from it
            with self._device.current(self._doing), ExitStack() as steps:
                for name in ("_runtime", "_engine", "_resizer"):
                    steps.callback(setattr, self, name, None)
                for slot in reversed(slots):
                    steps.callback(slot.free)
        except DeviceError as error:  # of a GPU that is lost there is nothing left to free
            log.warning("%s", error)


def _let_go_of_locals(error: BaseException | None) -> None:
    """Calls that failed leave their variables to the error, engines among them: whoever keeps it would keep the GPU's memory."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__


def _resizer() -> Resizer | None:
    """The kernel that scales pictures; None, said once, where it cannot be compiled: a GPU without the CUDA toolkit serves too."""
    try:
        return Resizer()
    except DeviceLost:
        raise
    except DeviceError as error:
        log.warning("%s; pictures are scaled on the CPU instead", error)
        return None


def _tensors(engine: "trt.ICudaEngine", card: ModelCard) -> Tensors:
    """Raises `EngineError` where the engine's tensors are not what the card says."""
    import tensorrt as trt

    names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    wanted = {name: (trt.DataType.FLOAT, shape) for name, shape in card.outputs.items()}
    wanted |= dict.fromkeys(inputs, (trt.DataType.UINT8, (*card.input_hw, 3)))
    for name, (kind, shape) in wanted.items():
        found = (engine.get_tensor_dtype(name), sizes(engine.get_tensor_shape(name))[1:]) if name in names else None
        if found is None or found[0] != kind or not fits(found[1], shape):
            raise EngineError(
                f"{card.name}: the engine's {name} is {found} after the batch axis, its card says {(kind, shape)}"
            )
    if len(inputs) != 1 or len(names) != len(wanted):
        raise EngineError(
            f"{card.name}: the engine's tensors are {', '.join(names)}, its card says one input, and {', '.join(card.outputs)}"
        )
    least, _, most = engine.get_tensor_profile_shape(inputs[0], 0)
    return Tensors(inputs[0], card.input_hw, dict(card.outputs), least[0], most[0])
