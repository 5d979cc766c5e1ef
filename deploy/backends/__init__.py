"""Runtimes that hold a model, and the check that each of them answers as the model did when it was bundled."""

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Bundle
from stream.errors import BundleError
from stream.model import Backend

# How far a runtime may be from the golden outputs. Between CPUs float32 differs by 1e-5; half precision on a GPU needs this
# much; a wrong colour order, scale or weight is far outside (a swapped red and blue gives cosines of 0.6 to 0.95).
MIN_COSINE = 0.995
MAX_SCORE_DIFFERENCE = 0.02
MAX_BOX_DIFFERENCE_PX = 1.5  # only where the score is at least the following; elsewhere a box means nothing
MIN_BOX_SCORE = 0.1


def load(bundle: Bundle, threads: int = 1) -> Backend:
    """The bundle's model, ready to infer on `threads` threads. Raises `BundleError` where it is not what its card says."""
    from deploy.backends.onnxruntime import OnnxRuntimeBackend

    backend = OnnxRuntimeBackend(bundle.model, bundle.card, threads)
    try:
        verify_golden(backend, bundle)
    except BundleError:
        backend.close()
        raise
    return backend


def verify_golden(backend: Backend, bundle: Bundle) -> None:
    """Raises `BundleError` where the backend's outputs for the golden inputs are not the golden outputs."""
    golden = bundle.golden()
    got = backend.infer(golden["inputs"].astype(np.uint8, copy=False))
    expected = {name: golden[name].astype(np.float32, copy=False) for name in bundle.card.outputs}
    for name, want in expected.items():
        have = got[name]
        if not np.isfinite(have).all():
            raise BundleError(_refusal(bundle, f"{name} is not finite"))
        if name == "embedding":
            cosine = float((have * want).sum(-1).min())
            length = float(np.abs(np.linalg.norm(have, axis=-1) - 1).max())
            if cosine < MIN_COSINE or length > 1e-3:
                raise BundleError(
                    _refusal(
                        bundle, f"{name} has cosine {cosine:.3f} (at least {MIN_COSINE}), length off by {length:.4f}"
                    )
                )
        elif name == "scores":
            _at_most(bundle, name, np.abs(have - want), MAX_SCORE_DIFFERENCE)
        elif name == "boxes":
            _at_most(bundle, name, np.abs(have - want)[expected["scores"] >= MIN_BOX_SCORE], MAX_BOX_DIFFERENCE_PX)


def _at_most(bundle: Bundle, name: str, difference: NDArray[np.float32], limit: float) -> None:
    largest = float(difference.max(initial=0.0))
    if largest > limit:
        raise BundleError(_refusal(bundle, f"{name} differs by {largest:.3f} (at most {limit})"))


def _refusal(bundle: Bundle, what: str) -> str:
    return (
        f"{bundle.path}: this machine does not give the bundle's golden outputs: {what}; copy or make the bundle again"
    )
