"""torch (extra `train`), for an NVIDIA GPU without TensorRT: the checkpoint that a bundle was exported from, in CUDA graphs.

It runs the trained network itself, not the ONNX graph, which torch cannot read. A checkpoint is read with `weights_only`, so it is
numbers and never code, and the bundle's golden outputs tell whether it is the one.

On a processor it runs plainly (that is tested). **No line of `_Graphs` has met a GPU yet.**
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deploy.backends import served_limits
from deploy.backends.cuda import explained
from deploy.backends.cut import check_images, cut, powers_of_two
from deploy.bundle import Bundle
from deploy.gate import differs
from stream.errors import BundleError, DeviceError
from stream.model import ModelCard
from trainer import checkpoint
from trainer.serving import Served, TorchBackend, served

log = logging.getLogger(__name__)

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
TorchPrecision = Literal["fp32", "fp16", "bf16"]
_TYPES: dict[TorchPrecision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
ANOTHER = "name the checkpoint that this bundle was exported from"
"""What there is to do about a checkpoint of another model."""


class TorchRuntime:
    """One checkpoint, served as `card` says: eagerly on a processor, in float32; on a GPU in graphs for powers of two of pictures.

    `threads` is torch's own setting and holds for the whole process. Raises `BundleError` where the checkpoint is of another kind
    or size than the card, `DataError` where it cannot be read, `DeviceError` where the GPU cannot serve.
    """

    def __init__(self, path: Path, card: ModelCard, threads: int = 1, precision: TorchPrecision = "fp32") -> None:
        self.card = card
        self._path = path
        module, _ = served(checkpoint.load(path), card.input_hw)
        if set(module.outputs) != set(card.outputs):
            raise BundleError(
                f"{path}: its network gives {', '.join(module.outputs)}, {card.name} gives {', '.join(card.outputs)}: {ANOTHER}"
            )
        torch.set_num_threads(threads)
        reason = why_no_gpu()
        if reason is None:
            self._run: Callable[[U8], dict[str, F32]] | None = _Graphs(module, card, precision)
        elif precision != "fp32":
            raise DeviceError(f"{card.name}: torch computes in {precision} on a GPU alone: {reason}")
        else:
            log.warning("%s: torch runs on the processor, where onnxruntime is faster: %s", card.name, reason)
            module.to(memory_format=torch.channels_last)
            self._run = TorchBackend(module).infer

    def infer(self, images: U8) -> dict[str, F32]:
        """(N, H, W, 3) RGB -> the card's outputs with N in front; N may be 0 or above `max_batch`."""
        if self._run is None:
            raise ValueError("the backend is closed")
        check_images(images, self.card)
        outputs = {name: np.empty((len(images), *shape), np.float32) for name, shape in self.card.outputs.items()}
        for start in range(0, len(images), self.card.max_batch):
            part = slice(start, start + self.card.max_batch)
            for name, values in self._run(np.ascontiguousarray(images[part])).items():
                if values.shape[1:] != outputs[name].shape[1:]:
                    raise BundleError(
                        f"{self._path}: its network gives {name} of {values.shape[1:]}, {self.card.name} of "
                        f"{outputs[name].shape[1:]}: {ANOTHER}"
                    )
                outputs[name][part] = values
        return outputs

    def close(self) -> None:
        """Let go of network, graphs and buffers."""
        self._run = None


def exported_from(path: Path, bundle: Bundle, threads: int = 1, precision: TorchPrecision = "fp32") -> TorchRuntime:
    """The runtime of checkpoint `path`, which `bundle` was exported from. Raises as `TorchRuntime`, and `BundleError` where it does not
    give the bundle's golden outputs: the bundle was exported from another one.
    """
    runtime = TorchRuntime(path, bundle.card, threads, precision)
    inputs, expected = bundle.answers()
    try:
        if said := differs(runtime.infer(inputs), expected, served_limits(bundle.card)):
            raise BundleError(f"{path}: not the checkpoint that {bundle.path} was exported from: {said}; {ANOTHER}")
    except BundleError:
        runtime.close()
        raise
    return runtime


class _Graphs:
    """The network on the GPU, its launches recorded once per size: replaying one costs a single call to the driver."""

    def __init__(self, module: Served, card: ModelCard, precision: TorchPrecision) -> None:
        self._doing = f"{card.name} in torch"
        self._outputs = module.outputs
        try:
            network = module.eval().to("cuda").to(memory_format=torch.channels_last)
            self._sizes = powers_of_two(card.max_batch)
            self._recorded = {size: _Recorded(network, size, card, precision) for size in self._sizes}
        except RuntimeError as error:  # out of memory, a driver too old for this torch
            raise explained(str(error), self._doing) from error

    def __call__(self, images: U8) -> dict[str, F32]:
        parts = [self._part(images[start : start + size], size) for start, size in cut(len(images), self._sizes)]
        return {name: np.concatenate(arrays) for name, *arrays in zip(self._outputs, *parts, strict=True)}

    def _part(self, images: U8, size: int) -> list[F32]:
        try:
            return self._recorded[size].replay(images)
        except RuntimeError as error:
            raise explained(str(error), self._doing) from error


class _Recorded:
    """One size: pinned memory here, fixed memory there, and the launches between."""

    def __init__(self, network: nn.Module, size: int, card: ModelCard, precision: TorchPrecision) -> None:
        self._host = torch.empty((size, *card.input_hw, 3), dtype=torch.uint8).pin_memory()
        self._device = torch.zeros_like(self._host, device="cuda")
        # cudnn would round float32 to 10 bits (TF32) unless it is told not to
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
            torch.autocast("cuda", dtype=_TYPES.get(precision), enabled=precision != "fp32", cache_enabled=False),
        ):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch says no types of it
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # libraries set themselves up on the first calls, which may not be recorded
                for _ in range(3):
                    network(self._device)
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                given = network(self._device)
                self._given = [values.float() for values in (given if isinstance(given, tuple) else (given,))]

    def replay(self, images: U8) -> list[F32]:
        """One batch of exactly this size."""
        with torch.inference_mode():
            self._host.copy_(torch.from_numpy(images))
            self._device.copy_(self._host, non_blocking=True)
            self._graph.replay()
            return [values.cpu().numpy() for values in self._given]  # waits for the GPU


def precisions_of() -> tuple[TorchPrecision, ...]:
    """What torch may compute in here: on a GPU half precision too."""
    return ("fp32",) if why_no_gpu() else ("fp32", "fp16")


def why_no_gpu() -> str | None:
    """Why torch finds no GPU here, in one line; None where it finds one."""
    with warnings.catch_warnings(record=True) as said:  # what is wrong with a driver is a warning
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return None
    return reason_of([str(warning.message) for warning in said])


def reason_of(said: Sequence[str]) -> str:
    """What torch's warnings about a GPU that cannot be used mean."""
    for text in said:
        if "driver" in text.lower() and "old" in text.lower():
            return "the NVIDIA driver is too old for this torch: update the driver"
    if torch.version.cuda is None:
        return "this torch is built without CUDA: install the one from PyPI"
    return "no GPU can be seen: see nvidia-smi and CUDA_VISIBLE_DEVICES"
