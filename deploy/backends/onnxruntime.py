"""ONNX Runtime on the CPU, the backend of the base install; the only import of onnxruntime."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from deploy.backends.cut import check_images
from stream.errors import BundleError
from stream.model import ModelCard


class OnnxRuntimeBackend:
    """One ONNX graph of the house contract in one session.

    Single-threaded by default and without spinning: workers share a machine, and idle threads that spin cost 1.66 times the
    CPU. `model` is a path or the graph's bytes. Raises `BundleError` where it is no ONNX or not of the card's shape.
    """

    def __init__(self, model: Path | bytes, card: ModelCard, threads: int = 1) -> None:
        self.card = card
        self._where = str(model) if isinstance(model, Path) else card.name
        session = open_session(model, self._where, threads)
        self._check(session)
        self._session: onnxruntime.InferenceSession | None = session
        self._input = session.get_inputs()[0].name

    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """(N, H, W, 3) RGB -> the card's outputs with N in front; N may be 0 or above `max_batch`."""
        if self._session is None:
            raise ValueError("the backend is closed")
        check_images(images, self.card)
        names = list(self.card.outputs)
        parts = []
        for start in range(0, len(images), self.card.max_batch):
            chunk = np.ascontiguousarray(images[start : start + self.card.max_batch])
            try:
                parts.append(self._session.run(names, {self._input: chunk}))
            except Exception as error:  # onnxruntime's classes have no common base but this
                raise BundleError(
                    f"{self._where}: fails on a batch of {len(chunk)} ({first_line(error)}); make the bundle again"
                ) from error
        if not parts:
            return {name: np.zeros((0, *self.card.outputs[name]), np.float32) for name in names}
        if len(parts) == 1:
            return dict(zip(names, parts[0], strict=True))
        return {name: np.concatenate(arrays) for name, *arrays in zip(names, *parts, strict=True)}

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _check(self, session: onnxruntime.InferenceSession) -> None:
        """Raises `BundleError` where input or outputs are not what the card says."""
        inputs = session.get_inputs()
        expected = ("uint8", *self.card.input_hw, 3)
        got = [(one.type.removeprefix("tensor(").removesuffix(")"), *one.shape[1:]) for one in inputs]
        if got != [expected]:
            raise BundleError(f"{self._where}: takes {got} after the batch axis, its card says {[expected]}")
        outputs = {one.name: tuple(one.shape[1:]) for one in session.get_outputs()}
        for name, shape in self.card.outputs.items():
            if outputs.get(name) != shape:
                raise BundleError(f"{self._where}: output {name} has shape {outputs.get(name)}, its card says {shape}")


def run_each(model: bytes, images: NDArray[np.uint8]) -> Iterator[dict[str, NDArray[np.float32]]]:
    """The float32 outputs of a graph that takes pixels, for one picture after the other.

    A graph that also takes `boxes` is given the whole picture as the only one. Raises `BundleError` where it does not run.
    """
    session = open_session(model, "the graph", threads=1)
    names = [one.name for one in session.get_outputs()]
    whole = np.array([[0, 0, images.shape[2], images.shape[1]]], np.float32)
    takes = [one.name for one in session.get_inputs()]
    for image in images:
        given = {name: whole if name == "boxes" else image[None] for name in takes}
        try:
            yield dict(zip(names, session.run(names, given), strict=True))
        except Exception as error:  # onnxruntime's classes have no common base but this
            raise BundleError(f"the graph: fails on one image ({first_line(error)})") from error


def open_session(model: Path | bytes, where: str, threads: int) -> onnxruntime.InferenceSession:
    """A session of a graph, a path or its bytes. Raises `BundleError`, which begins with `where`, for what is no graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what matters is raised; the rest would go to standard error
    source = str(model) if isinstance(model, Path) else model
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes have no common base but this
        raise BundleError(f"{where}: ONNX Runtime cannot load it ({first_line(error)})") from error


def first_line(error: Exception) -> str:
    """What ONNX Runtime said, without the rest of its report, and without the place in its source."""
    lines = str(error).strip().splitlines()
    return re.sub(r"/onnxruntime_src/\S+ [^)]*\)( const)? ", "", lines[0])[:300] if lines else type(error).__name__
