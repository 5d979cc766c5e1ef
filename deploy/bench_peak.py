"""What the processor can do at most, and what a graph asks of it: multiply-adds, measured and counted."""

from collections.abc import Mapping
from itertools import product

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deploy.backends import Candidate, on_processor
from deploy.backends.auto import Clock, clock_for, quickest_s
from deploy.gate import Arithmetic
from deploy.precision_graph import LAYERS, Graph
from stream.errors import BundleError
from stream.model import ModelCard, Precision

SHAPES = ((256, 512), (2048, 256))
"""Rows, and sides of the square matrices, whose products show the peak: of several shapes that were tried the first was the fastest in
fp32, fp16 and int8, the second in bf16."""
PRODUCTS = 24


def peaks(threads: int) -> dict[Arithmetic, float]:
    """Multiply-adds per second by precision: chains of matrix products, in whichever shape and installed runtime is the fastest."""
    found: dict[Arithmetic, float] = {}
    written: tuple[Precision, ...] = ("fp32", "int8")
    for precision, (rows, side) in product(written, SHAPES):
        card = _card(precision, rows, side)
        for candidate in on_processor(_products(precision, rows, side), card, threads):
            seconds = _seconds(candidate, clock_for([candidate], threads))
            rate = rows * side * side * PRODUCTS / seconds
            found[candidate.precision] = max(found.get(candidate.precision, 0.0), rate)
    return found


def multiply_adds(model: bytes) -> int | None:
    """Of the learned layers and matrix products of a graph, for one picture; None where its shapes cannot be told."""
    try:
        graph = Graph(model)
        return sum(_of_node(graph, node) for node in graph.nodes if node.op_type in LAYERS)
    except BundleError:
        return None


def _of_node(graph: Graph, node: onnx.NodeProto) -> int:
    """Axes of open size, which is the batch's, count as 1."""

    def size(shape: tuple[int, ...]) -> int:
        return int(np.prod([axis or 1 for axis in shape]))

    weights = size(graph.shape(node.input[1]))
    if node.op_type == "GRU":  # one step per row; the recurrent weights beside those of the input
        return (weights + size(graph.shape(node.input[2]))) * (graph.shape(node.input[0])[0] or 1)
    if node.op_type == "Conv":
        return weights * size(graph.shape(node.output[0])[2:])
    if node.op_type == "ConvTranspose":
        return weights * size(graph.shape(node.input[0])[2:])
    inner = graph.shape(node.input[0])[-1] or 1
    return size(graph.shape(node.output[0])) * inner


def _seconds(candidate: Candidate, clock: Clock) -> float:
    backend = candidate.make()
    pictures = np.random.default_rng(0).integers(0, 256, (1, *backend.card.input_hw, 3), np.uint8)
    try:
        ((seconds,),) = quickest_s([backend], [pictures], clock)
    finally:
        backend.close()
    return seconds


def _card(precision: Precision, rows: int, side: int) -> ModelCard:
    return ModelCard(
        name="matrix-products",
        version="1",
        kind="embedder",
        input_hw=(rows, 8),
        outputs={"embedding": (side,)},
        max_batch=1,
        precision=precision,
        synthetic_only=True,
        licence="Apache-2.0",
        digest="",
    )


def _products(precision: Precision, rows: int, side: int) -> bytes:
    """A graph of the house contract that multiplies `PRODUCTS` times by a square matrix."""
    constants: Mapping[str, NDArray[np.generic]] = {
        "inner_axes": np.array([0, 2, 3], np.int64),
        "outer_axes": np.array([1], np.int64),
        "rows_axis": np.array([0], np.int64),
        "spread": np.random.default_rng(1).normal(size=(1, side)).astype(np.float32) / 255,
        "weights": np.random.default_rng(2).normal(size=(side, side)).astype(np.float32) / side**0.5,
        "q_weights": np.random.default_rng(2).integers(-127, 128, (side, side), np.int8),
        "w_scale": np.array(1 / 127 / side**0.5, np.float32),
        "x_scale": np.array(1 / 32, np.float32),
        "zero": np.array(0, np.int8),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "inner_axes"], ["column"], keepdims=0),
        helper.make_node("Unsqueeze", ["column", "outer_axes"], ["tall"]),
        helper.make_node("Mul", ["tall", "spread"], ["x0"]),
    ]
    for step in range(PRODUCTS):
        x, right = f"x{step}", "weights"
        if precision == "int8":
            nodes += [
                helper.make_node("QuantizeLinear", [x, "x_scale", "zero"], [f"q{step}"]),
                helper.make_node("DequantizeLinear", [f"q{step}", "x_scale", "zero"], [f"d{step}"]),
                helper.make_node("DequantizeLinear", ["q_weights", "w_scale", "zero"], [f"w{step}"]),
            ]
            x, right = f"d{step}", f"w{step}"
        nodes.append(helper.make_node("MatMul", [x, right], [f"x{step + 1}"]))
    nodes.append(helper.make_node("ReduceMean", [f"x{PRODUCTS}", "rows_axis"], ["embedding"], keepdims=1))
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, (1, rows, 8, 3))],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, (1, side))],
        [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())
