"""Two models small enough to be written by hand: what bundles are made of in tests."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from stream.model import LinkRow, Links, ModelCard


def embedder(hw: tuple[int, int] = (16, 8), batch: int | str = "n", size: int = 6) -> bytes:
    """RGB uint8 (n, H, W, 3) -> unit vectors of `size` values: a fixed random projection of the mean colours."""
    weights = np.random.default_rng(0).normal(size=(3, size)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["raw"]),
        helper.make_node("LpNormalization", ["raw"], ["embedding"], axis=1, p=2),
    ]
    return _model(nodes, {"weights": weights}, (batch, *hw, 3), {"embedding": (batch, size)})


def joined(hw: tuple[int, int] = (32, 16), *, quantised: bool) -> bytes:
    """An embedder of three convolutions, of which the second takes what the first gave beside itself; in int8 if it is `quantised`.

    OpenVINO 2026.4 takes 1 for the step of an int8 value that a Concat made, whatever the file says; values here reach about 0.5.
    """
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, (8, 16, 3, 3)).astype(np.int8)
    constants: dict[str, NDArray[np.generic]] = {
        "by": np.array(1 / 255, np.float32),
        "first.weight": (rng.normal(size=(8, 3, 3, 3)) / 10).astype(np.float32),
        "third.weight": (rng.normal(size=(8, 8, 3, 3)) / 10).astype(np.float32),
        "weights": rng.normal(size=(8, 6)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "by"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "first.weight"], ["first"], pads=[1] * 4),
        helper.make_node("Relu", ["first"], ["rectified"]),
        helper.make_node("Concat", ["rectified", "rectified"], ["both"], axis=1),
    ]
    if quantised:
        steps = {"step": np.array(0.01, np.float32), "zero": np.array(0, np.int8)}
        of_weights = {"steps": np.full(8, 0.003, np.float32), "zeros": np.zeros(8, np.int8)}
        constants |= {**steps, **of_weights, "second.int8": weights}
        nodes += [
            helper.make_node("QuantizeLinear", ["both", *steps], ["both.int8"]),
            helper.make_node("DequantizeLinear", ["both.int8", *steps], ["taken"]),
            helper.make_node("DequantizeLinear", ["second.int8", *of_weights], ["second.weight"], axis=0),
        ]
    else:
        constants["second.weight"] = weights * np.float32(0.003)
        nodes.append(helper.make_node("Identity", ["both"], ["taken"]))
    nodes += [
        helper.make_node("Conv", ["taken", "second.weight"], ["second"], pads=[1] * 4),
        helper.make_node("Relu", ["second"], ["again"]),
        helper.make_node("Conv", ["again", "third.weight"], ["third"], pads=[1] * 4),
        helper.make_node("ReduceMean", ["third"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["raw"]),
        helper.make_node("LpNormalization", ["raw"], ["embedding"], axis=1, p=2),
    ]
    return _model(nodes, constants, ("n", *hw, 3), {"embedding": ("n", 6)})


def embedder_card(hw: tuple[int, int] = (16, 8), size: int = 6, max_batch: int = 4) -> ModelCard:
    return ModelCard(
        name="tiny-embedder",
        version="1",
        kind="embedder",
        input_hw=hw,
        outputs={"embedding": (size,)},
        max_batch=max_batch,
        embedding_size=size,
        synthetic_only=True,
        licence="Apache-2.0",
        digest="",
    )


def pictures(n: int, hw: tuple[int, int] = (16, 8), seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, *hw, 3), dtype=np.uint8)


def links(size: int = 6) -> Links:
    row = LinkRow(a=-4.0, b=25.0, same_pairs=200)
    return Links(mean=[0.0] * size, same=row, other=row, fitted_on="nothing: a test")


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[np.generic]],
    input_shape: tuple[int | str, ...],
    outputs: dict[str, tuple[int | str, ...]],
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, input_shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def foreign_embedder(
    hw: tuple[int, int] = (32, 16),
    *,
    channels_first: bool = True,
    batch: int | str = 1,
    mixes: str = "nothing",
    declared: tuple[int | str, ...] | None = None,
) -> bytes:
    """Somebody else's embedder: float pixels in, 12 values out, not normalised.

    `mixes`: "mean" subtracts a mean over all axes, the batch too; "reshape" fixes a batch of 1 in the graph; "sort" ranks the
    images of a batch, which nothing repairs.
    """
    rng = np.random.default_rng(1)
    constants: dict[str, NDArray[np.generic]] = {
        "kernel": rng.normal(size=(12, 3, 4, 4)).astype(np.float32) / 50,
        "to_vector": np.array([1, 12], np.int64),
        "twelve": np.array([12], np.int64),
        "all": np.array([0, 1, 2, 3], np.int64),
    }
    nodes = [helper.make_node("Identity", ["x"], ["planes"])]
    if not channels_first:
        nodes = [helper.make_node("Transpose", ["x"], ["planes"], perm=[0, 3, 1, 2])]
    nodes.append(helper.make_node("Conv", ["planes", "kernel"], ["features"], strides=[4, 4]))
    last = "features"
    if mixes == "mean":
        nodes.append(helper.make_node("ReduceMean", [last], ["mean"], axes=[0, 1, 2, 3], keepdims=1))
        nodes.append(helper.make_node("Sub", [last, "mean"], ["centred"]))
        last = "centred"
    nodes.append(helper.make_node("Abs", [last], ["rectified"]))
    nodes.append(helper.make_node("GlobalAveragePool", ["rectified"], ["pooled"]))
    if mixes == "reshape":
        nodes.append(helper.make_node("Reshape", ["pooled", "to_vector"], ["vector"]))
    else:
        nodes.append(helper.make_node("Flatten", ["pooled"], ["vector"], axis=1))
    if mixes == "sort":
        nodes.append(helper.make_node("Softmax", ["vector"], ["ranked"], axis=0))
        nodes.append(helper.make_node("Add", ["vector", "ranked"], ["out"]))
    else:
        nodes.append(helper.make_node("Identity", ["vector"], ["out"]))
    shape = (batch, 3, *hw) if channels_first else (batch, *hw, 3)
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, declared or (batch, 12))],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())
