"""Precision written into a graph of the house contract: pixels in and float32 out stay, what lies between changes its type.

fp16   fp16 weights and values from the first learned layer to the last, with islands of fp32 (`precision_half`)
int8   Q/DQ pairs before the learned layers that bear it, all else fp32 (`precision_int8`, of a person search `precision_search`)

TensorRT 10 and 11 take such graphs as strongly typed networks; ONNX Runtime and OpenVINO read the same file.
"""

import numpy as np
from numpy.typing import NDArray

from deploy import precision_half, precision_int8, precision_search
from deploy.backends.onnxruntime import run_each
from deploy.precision_graph import Graph, fold_norms
from deploy.precision_int8 import PICTURES_SEEN, Report
from stream.errors import BundleError, UsageError
from stream.model import ModelCard, Precision

LEAST_PICTURES = 64
"""For the ranges of values: fewer miss some."""


def silent(done: int, of: int, what: str) -> None:
    """A report that says nothing."""


def convert(
    model: bytes,
    precision: Precision,
    calibration: NDArray[np.uint8],
    report: Report = silent,
    card: ModelCard | None = None,
) -> bytes:
    """A float32 graph in another precision; fp32 gives it back as it is.

    `calibration` (n >= 64, H, W, 3) RGB uint8: pictures like those it will see, for the ranges of its values. `report` hears how
    many of how many pictures or trials are done. With `card`, the float32 model's, int8 is tried in every runtime here, else in ONNX Runtime
    alone. Same input and runtimes, same bytes. Raises `BundleError` where the graph cannot be converted.
    """
    if precision == "fp32":
        return model
    _check_count(calibration)
    graph = Graph(model)
    fold_norms(graph)
    if precision == "int8":
        return precision_int8.to_int8(graph, calibration, report, card)
    places = precision_half.candidates(graph)
    if not places:
        raise BundleError("no layer of this network can be fp16: keep the graph as it is")
    nodes = [graph.nodes[place] for place in places]
    names = {name for node in nodes for name in (*node.input, *node.output) if name and name not in graph.constants}
    largest = dict.fromkeys(sorted(filter(graph.is_float, names)), 0.0)
    for done, seen in enumerate(run_each(graph.opened(list(largest)), calibration)):
        report(done, len(calibration), PICTURES_SEEN)
        for name, values in seen.items():
            largest[name] = max(largest[name], float(np.abs(values).max(initial=0.0)))
    report(len(calibration), len(calibration), PICTURES_SEEN)
    return precision_half.to_half(graph, places, largest)


def convert_search(
    model: bytes,
    query: bytes,
    card: ModelCard,
    precision: Precision,
    calibration: NDArray[np.uint8],
    report: Report = silent,
) -> tuple[bytes, bytes]:
    """Both graphs of a person search, `query` with its own weights, in another precision; `card` is that of the float32 bundle.

    As `convert`; for int8 one choice of layers holds for both.
    """
    if precision != "int8":
        return convert(model, precision, calibration, report), convert(query, precision, calibration, report)
    _check_count(calibration)
    return precision_search.to_int8(model, query, card, calibration, report)


def _check_count(calibration: NDArray[np.uint8]) -> None:
    if len(calibration) < LEAST_PICTURES:
        raise UsageError(f"{len(calibration)} calibration pictures, at least {LEAST_PICTURES} are needed")
