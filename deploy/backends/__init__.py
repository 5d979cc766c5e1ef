"""Runtimes that hold a model, which of them serve here, and the check that each answers as the model did when it was bundled."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from deploy import search_people
from deploy.backends.cuda import KERNEL_MODULE
from deploy.bundle import Bundle
from deploy.gate import LIMITS, Arithmetic, Limits, differs
from deploy.settings import Runtime
from stream.errors import BundleError, DeviceError
from stream.model import Backend, ModelCard

# How far a runtime may be from the golden outputs. Between CPUs float32 differs by 1e-5; half precision on a GPU needs this
# much; a wrong colour order, scale or weight is far outside (a swapped red and blue gives cosines of 0.6 to 0.95).
MIN_COSINE = 0.995
SERVED = Limits(MIN_COSINE, value=np.inf, score=0.02, box_px=1.5, box_score=0.1)
"""Of fp32 and fp16; what was bundled as int8 is held to the gate's own limits, against the same float32 outputs."""

NAMES: Mapping[Runtime, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A runtime and a precision that could run a bundle here."""

    runtime: Runtime
    precision: Arithmetic
    make: Callable[[], Backend]
    """Not checked yet. Raises `SightlineError` where it cannot run this model after all."""
    remainder: Arithmetic | None = None
    """What the nodes of an int8 graph that are not int8 are computed in, where there is a choice."""
    remark: str = ""
    """Of the one that was chosen among several: "2.1 times onnxruntime fp32 here"."""

    @property
    def name(self) -> str:
        """As it is said and stored: "openvino bf16"."""
        return f"{self.runtime} {self.precision}" + (f"+{self.remainder}" if self.remainder else "")


def load(bundle: Bundle, threads: int = 1, backend: Runtime = "onnxruntime", checkpoint: Path | None = None) -> Backend:
    """The bundle's model on `threads` threads, once it has given its golden outputs.

    ONNX Runtime unless `backend` says otherwise: figures and proofs rest on one runtime. What a site sets is "auto". `checkpoint` is
    what "torch" runs. Raises `BundleError` where the model is not what its card says, `DeviceError` where the runtime cannot run.
    """
    made = choose(bundle, threads, backend, checkpoint).make()
    try:
        verify_golden(made, bundle)
    except BundleError:
        made.close()
        raise
    return made


def choose(bundle: Bundle, threads: int, backend: Runtime, checkpoint: Path | None = None) -> Candidate:
    """The fastest candidate that passes the gate, as measured once on this machine; the only one where there is one."""
    found = candidates(bundle, threads, backend, checkpoint)
    if len(found) == 1:
        return found[0]
    from deploy.backends.auto import fastest

    return fastest(bundle, threads, found)


def candidates(bundle: Bundle, threads: int, backend: Runtime, checkpoint: Path | None = None) -> list[Candidate]:
    """What could run the bundle: every precision of the runtime that `backend` names, for "auto" of all that are installed.

    Raises `DeviceError` where the named one is not installed, `BundleError` where it has nothing to run.
    """
    found = on_processor(bundle.model, bundle.card, threads, backend)
    has_gpu = backend != "auto" or KERNEL_MODULE.exists()  # asking torch or CUDA itself costs seconds
    if has_gpu and _wanted("tensorrt", "tensorrt", "tensorrt", backend):
        found.append(Candidate("tensorrt", bundle.card.precision, partial(_tensorrt, bundle)))
    if has_gpu and (backend == "torch" or checkpoint) and _wanted("torch", "torch", "train", backend):
        if checkpoint is None:
            raise BundleError(
                f"{bundle.path}: torch runs the checkpoint that a bundle was exported from: name it, as [compute] {_key(bundle)} = "
                '"runs/model/checkpoint.pt"'
            )
        from deploy.backends.torch import exported_from, precisions_of

        for each in precisions_of():
            found.append(Candidate("torch", each, partial(exported_from, checkpoint, bundle, threads, each)))
    return found


def on_processor(model: Path | bytes, card: ModelCard, threads: int, backend: Runtime = "auto") -> list[Candidate]:
    """Those of the candidates that need no GPU; `model` is a path or the graph's bytes."""
    found: list[Candidate] = []
    if backend in ("auto", "onnxruntime"):
        found.append(Candidate("onnxruntime", card.precision, partial(_onnxruntime, model, card, threads)))
    if _wanted("openvino", "openvino", "openvino", backend):
        found += _openvino(model, card, threads)
    return found


def exact(model: bytes, card: ModelCard) -> list[Candidate]:
    """Each runtime that needs no GPU, with the card's precision and float32 beside it: all must pass the gate before a graph is bundled."""
    found = on_processor(model, card, 1)
    return [each for each in found if each.precision == card.precision and each.remainder in (None, "fp32")]


def in_each(model: bytes, card: ModelCard, use: Callable[[Backend], object]) -> str:
    """Hand the graph to `use` in each of the `exact` runtimes, one after the other; gives their names, as people write them.

    Raises `BundleError` with the runtime's name where `use` raises one.
    """
    names = []
    for candidate in exact(model, card):
        names.append(NAMES[candidate.runtime])
        with closing(candidate.make()) as runtime:
            try:
                use(runtime)
            except BundleError as error:
                raise BundleError(f"{error}, in {names[-1]}") from error
    return " and ".join(names)


def _wanted(runtime: Runtime, package: str, extra: str, backend: Runtime) -> bool:
    """Whether `backend` names the runtime, or means every one that is installed and this is."""
    installed = find_spec(package) is not None
    if backend == runtime and not installed:
        raise DeviceError(
            f'[compute] backend = "{runtime}": {package} is not installed: '
            f"pip install -c constraints.txt -e '.[{extra}]', or take another backend"
        )
    return backend == runtime or (backend == "auto" and installed)


def _key(bundle: Bundle) -> str:
    return "embedder_checkpoint" if bundle.card.kind == "embedder" else "detector_checkpoint"


def _onnxruntime(model: Path | bytes, card: ModelCard, threads: int) -> Backend:
    from deploy.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(model, card, threads)


def _openvino(model: Path | bytes, card: ModelCard, threads: int) -> list[Candidate]:
    """Of a float32 graph every precision that the processor has; of a float16 graph that, if it has it."""
    from deploy.backends.openvino import OpenVinoBackend, precisions

    own, has = card.precision, precisions()
    if own == "fp16":
        has = ("fp16",) if "fp16" in has else ("fp32",)
    return [
        Candidate(
            "openvino",
            each if own == "fp32" else own,
            partial(OpenVinoBackend, model, card, threads, each),
            each if own == "int8" else None,
        )
        for each in has
    ]


def _tensorrt(bundle: Bundle) -> Backend:
    from deploy.backends.trt import TensorRTBackend

    return TensorRTBackend(bundle)


def served_limits(card: ModelCard) -> Limits:
    """How far a bundle's outputs may be from its golden ones where it is served."""
    return LIMITS["int8"] if card.precision == "int8" else SERVED


def verify_golden(backend: Backend, bundle: Bundle) -> None:
    """Raises `BundleError` where the backend's outputs for the golden inputs are not the golden outputs."""
    inputs, expected = bundle.answers()
    got, limits = backend.infer(inputs), served_limits(bundle.card)
    if bundle.card.kind == "person-search":
        said = search_people.differ(got, expected, score=limits.score, box_px=limits.box_px, cosine=limits.cosine)
    else:
        said = differs(got, expected, limits)
    if said:
        raise BundleError(_refusal(bundle, said))


def _refusal(bundle: Bundle, what: str) -> str:
    return (
        f"{bundle.path}: this machine does not give the bundle's golden outputs: {what}; copy or make the bundle again"
    )
