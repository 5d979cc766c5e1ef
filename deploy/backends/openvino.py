"""OpenVINO on the CPU (extra `openvino`); the only import of openvino."""

import sys
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from deploy.backends import signal_stack
from deploy.backends.cut import check_images, cut, powers_of_two
from stream.errors import BundleError
from stream.model import ModelCard

# Importing openvino reports that to its maker through this package, unless it is not to be had: then it reports nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402

Precision = Literal["fp32", "bf16", "fp16"]
_TYPES: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}

MOST_AT_A_TIME = 16  # a crop of OSNet x0.25 in bf16 costs 1.8 ms alone, 0.73 among 8, 0.56 among 16, as much among 32
LARGE_MODEL = 32 << 20  # bytes of the graph; a network with more weights gains nothing beyond
MOST_OF_LARGE = 4  # pictures at a time, and each size holds the weights again


class OpenVinoBackend:
    """One ONNX graph of the house contract, compiled once for each power of two of pictures.

    Fixed sizes, because a graph of dynamic batch ran 1.6 times slower here and every new size cost it up to 0.3 s when it first
    came. A batch is cut into these sizes, largest first; a size at which a picture does not come out to the bit as it does alone
    is not used, so how pictures fall into batches changes no event.

    `precision` is what is computed in, whatever the processor would choose by itself (bf16 where it has it). One stream on
    `threads` threads that stay unpinned: workers share a machine. `model` is a path or the graph's bytes. Raises `BundleError`
    where it is no ONNX, not of the card's shape, or the processor lacks the precision.
    """

    def __init__(self, model: Path | bytes, card: ModelCard, threads: int = 1, precision: Precision = "fp32") -> None:
        self.card = card
        self.precision: Precision = precision
        self._where = str(model) if isinstance(model, Path) else card.name
        if precision not in precisions():
            raise BundleError(
                f"{self._where}: this processor does not compute in {precision}, OpenVINO says; "
                f"it has {', '.join(precisions())}"
            )
        core = openvino.Core()
        options = {
            "INFERENCE_PRECISION_HINT": _TYPES[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
            "ENABLE_HYPER_THREADING": False,
        }
        data = model.read_bytes() if isinstance(model, Path) else model
        self._requests: dict[int, Any] = {}  # pictures at a time -> the request that takes them, largest first
        for size in _sizes(card, len(data)):
            try:
                graph = core.read_model(data)
                self._check(graph)
                graph.reshape({0: [size, *card.input_hw, 3]})
                with signal_stack.kept():
                    self._requests[size] = core.compile_model(graph, "CPU", options).create_infer_request()
            except RuntimeError as error:  # the only class it has
                raise BundleError(
                    f"{self._where}: OpenVINO cannot load it ({_reason(error)}): take backend onnxruntime; an export asks OpenVINO no "
                    "more once it is not installed (pip uninstall openvino)"
                ) from error
        self._keep_equal_sizes()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Pictures that are taken at a time, largest first."""
        return tuple(self._requests)

    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """(N, H, W, 3) RGB -> the card's outputs with N in front; N may be 0 or above `max_batch`."""
        if not self._requests:
            raise ValueError("the backend is closed")
        check_images(images, self.card)
        outputs = {name: np.empty((len(images), *shape), np.float32) for name, shape in self.card.outputs.items()}
        for start, size in cut(len(images), self.sizes):
            self._run(size, images[start : start + size], {n: out[start : start + size] for n, out in outputs.items()})
        return outputs

    def close(self) -> None:
        """Free the compiled graphs."""
        self._requests = {}

    def _run(self, size: int, images: NDArray[np.uint8], outputs: dict[str, NDArray[np.float32]]) -> None:
        """Through the request's own buffers, which were allocated with it."""
        request = self._requests[size]
        np.copyto(request.get_input_tensor().data, images)
        try:
            request.infer()
        except RuntimeError as error:
            raise BundleError(
                f"{self._where}: fails on a batch of {size} in OpenVINO ({_reason(error)}); make the bundle again"
            ) from error
        for name, out in outputs.items():
            values = request.get_tensor(name).data
            if values.shape != out.shape:
                raise BundleError(f"{self._where}: output {name} has shape {values.shape}, its card says {out.shape}")
            np.copyto(out, values)

    def _check(self, graph: Any) -> None:
        """Raises `BundleError` where input or outputs are not what the card says."""
        taken = [(one.element_type, one.partial_shape) for one in graph.inputs]
        want = openvino.PartialShape([-1, *self.card.input_hw, 3])
        if len(taken) != 1 or taken[0][0] != openvino.Type.u8 or not taken[0][1].compatible(want):
            got = ", ".join(f"{kind.get_type_name()} {shape}" for kind, shape in taken)
            raise BundleError(f"{self._where}: takes {got}, its card says u8 {want}")
        outputs = {name: one.partial_shape for one in graph.outputs for name in one.names}
        for name, shape in self.card.outputs.items():
            if name not in outputs or not outputs[name].compatible(openvino.PartialShape([-1, *shape])):
                raise BundleError(f"{self._where}: output {name} has shape {outputs.get(name)}, its card says {shape}")

    def _keep_equal_sizes(self) -> None:
        """Drop the sizes at which a picture among others differs from itself alone; compilers choose kernels by size."""
        images = np.random.default_rng(0).integers(
            0, 256, (next(iter(self._requests)), *self.card.input_hw, 3), np.uint8
        )
        requests = self._requests
        self._requests = {1: requests[1]}
        alone = self.infer(images)
        self._requests = {
            size: request
            for size, request in requests.items()
            if size == 1 or self._equal({size: request, 1: requests[1]}, images[:size], alone)
        }

    def _equal(
        self, requests: dict[int, Any], images: NDArray[np.uint8], alone: dict[str, NDArray[np.float32]]
    ) -> bool:
        self._requests = requests
        return all(np.array_equal(values, alone[name][: len(images)]) for name, values in self.infer(images).items())


def precisions() -> tuple[Precision, ...]:
    """What this processor computes in: fp32, and what it has beside that."""
    has = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name in get_args(Precision) if name == "fp32" or name.upper() in has)


def _sizes(card: ModelCard, model_bytes: int) -> list[int]:
    """Pictures at a time, largest first: 16, 8, 4, 2, 1 unless the card takes fewer or the model is large."""
    return powers_of_two(min(card.max_batch, MOST_OF_LARGE if model_bytes > LARGE_MODEL else MOST_AT_A_TIME))


def _reason(error: RuntimeError) -> str:
    """The line that says it, of several that name its source files."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(("Exception from", "Check '", "FrontEnd API"))]
    return max(telling, key=lambda line: "No conversion rule" in line, default="no reason given")[:200]
