"""int8 written into a graph: quantised weights and activations of the learned layers, as Q/DQ pairs that runtimes fuse.

Weights are int8 per output channel, activations int8 per tensor, both around zero (zero point 0): what TensorRT asks for. Which
layers bear it is measured, not assumed: `choose`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deploy import backends
from deploy.backends.onnxruntime import run_each
from deploy.gate import LIMITS
from deploy.precision_graph import Graph
from stream.errors import BundleError
from stream.model import ModelCard

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Report = Callable[[int, int, str], None]
"""Hears how many of how many things are done, and what they are."""
Layer = TypeVar("Layer")
"""How a layer is named: its place in a graph, or its weights."""

PICTURES_SEEN = "calibration pictures seen"
TRIALS = "trials of which layers bear it"

LEAST_WORK = 1e-3
"""Layers with a smaller share of the graph's multiplications stay fp32: there is nothing to win (gates on pooled vectors)."""
SAMPLES = 1024
"""Values kept of a tensor per calibration picture."""
CLIPPED = np.linspace(1.0, 0.8, 9)
"""Shares of the largest magnitude that are tried as the end of a tensor's range: down to 0.4, the worst picture was five times as far off."""
ALLOWED = 0.8
"""Of the gate's limit: its pictures are others than those of the calibration."""
GROUPS = 40
"""At most so many groups of layers are tried one by one."""
GROUP_PICTURES = 8


@dataclass(frozen=True, slots=True)
class Values:
    """What calibration saw of a tensor."""

    largest: float
    samples: F32


def layers(graph: Graph) -> list[int]:
    """Places of the layers that may be quantised: those with constant weights and enough work, but the first and the last."""
    work = {
        place: _multiplications(graph, node)
        for place, node in enumerate(graph.nodes)
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in graph.constants and _is_plain(node)
    }
    least = LEAST_WORK * sum(work.values())
    return [place for place, count in work.items() if count >= least and place not in graph.ends()]


def quantised(graph: Graph, places: Sequence[int], scales: Mapping[str, float]) -> bytes:
    """The graph with Q/DQ pairs before the layers at `places`; `scales` by the name of the value that a layer takes."""
    nodes: list[onnx.NodeProto] = []
    new: dict[str, TensorProto] = {}
    chosen, done = set(places), set[str]()

    def constant(name: str, values: NDArray[np.generic]) -> str:
        new[name] = numpy_helper.from_array(values, name)
        return name

    zero = constant("int8/zero", np.zeros((), np.int8))
    for place, old in enumerate(graph.nodes):
        if place not in chosen:
            nodes.append(old)
            continue
        node = onnx.NodeProto()
        node.CopyFrom(old)
        x, weight = old.input[:2]
        if x not in done:
            scale = constant(f"{x}/scale", np.array(scales[x], np.float32))
            nodes.append(helper.make_node("QuantizeLinear", [x, scale, zero], [f"{x}/int8"], name=f"quantize/{x}"))
            pair = [f"{x}/int8", scale, zero]
            nodes.append(helper.make_node("DequantizeLinear", pair, [f"{x}/dequantized"], name=f"dequantize/{x}"))
            done.add(x)
        if weight not in done:
            axis = _output_axis(old, graph.rank(weight))
            values, weight_scales = _quantised_weights(graph.array(weight).astype(np.float32), axis)
            parts = [
                constant(f"{weight}/int8", values),
                constant(f"{weight}/scale", weight_scales),
                constant(f"{weight}/zero", np.zeros(weight_scales.shape, np.int8)),
            ]
            nodes.append(
                helper.make_node(
                    "DequantizeLinear", parts, [f"{weight}/dequantized"], name=f"dequantize/{weight}", axis=axis
                )
            )
            done.add(weight)
        node.input[0], node.input[1] = f"{x}/dequantized", f"{weight}/dequantized"
        nodes.append(node)
    return graph.write(nodes, new.values())


def to_int8(graph: Graph, calibration: U8, report: Report, card: ModelCard | None = None) -> bytes:
    """The graph with as many layers in int8 as the gate bears on the calibration pictures; of `card` see `choose`."""
    places = layers(graph)
    if not places:
        raise BundleError(
            "no layer of this network can be int8 (the first and the last keep fp32, and others' weights must be constants): use fp16 or "
            "keep fp32"
        )
    scales = calibrated_scales(graph, places, calibration, report)
    return quantised(graph, choose(graph, places, scales, calibration, report, card), scales)


def choose(
    graph: Graph,
    places: Sequence[int],
    scales: Mapping[str, float],
    calibration: U8,
    report: Report,
    card: ModelCard | None = None,
) -> list[int]:
    """Those of the layers at `places` that are quantised, see `bearable`; groups are tried on the first calibration pictures alone.

    What counts for a picture is the runtime that int8 harms most, of all that are here if there is a `card`.
    """
    expected = list(run_each(graph.opened(sorted(graph.outputs)), calibration))

    def harm(tried: Sequence[int], pictures: int) -> F32:
        model, shown = quantised(graph, tried, scales), calibration[:pictures]
        found: list[list[float]] = []

        def compare(got: Iterable[Mapping[str, F32]]) -> None:
            found.append([used(have, want) for have, want in zip(got, expected, strict=False)])

        if card is None:
            compare(run_each(model, shown))
        else:
            alone = msgspec.structs.replace(card, precision="int8", max_batch=1)
            backends.in_each(model, alone, lambda runtime: compare(runtime.infer(one[None]) for one in shown))
        worst: F32 = np.array(found, np.float32).max(0)
        return worst

    return bearable(
        places,
        lambda tried: bool(harm(tried, len(calibration)).max() <= ALLOWED),
        lambda group: float(harm(group, GROUP_PICTURES).mean()),
        report,
    )


def bearable(
    layers: Sequence[Layer], fits: Callable[[list[Layer]], bool], harm: Callable[[list[Layer]], float], report: Report
) -> list[Layer]:
    """All of the layers (n >= 1, in the graph's order) where that `fits`, else all but those that hurt the outputs most.

    Groups of consecutive layers are quantised alone and ordered by `harm`, what that does to the outputs; of the least harmful, as
    many are taken as still fit (by bisection). Raises `BundleError` where not even one does.
    """
    parts = np.array_split(np.arange(len(layers)), min(GROUPS, len(layers)))
    groups = [[layers[place] for place in part] for part in parts]
    trials = 1 + len(groups) + len(groups).bit_length()
    if fits(list(layers)):
        report(trials, trials, TRIALS)
        return list(layers)
    harms = []
    for done, group in enumerate(groups):
        report(1 + done, trials, TRIALS)
        harms.append(harm(group))
    order = np.argsort(harms, kind="stable")

    def least(count: int) -> list[Layer]:
        return [layer for place in sorted(order[:count]) for layer in groups[place]]

    few, many = 0, len(groups)  # few groups are fine, many are not
    while many - few > 1:
        report(trials - (many - few).bit_length() + 1, trials, TRIALS)
        middle = (few + many) // 2
        few, many = (middle, many) if fits(least(middle)) else (few, middle)
    if few == 0:
        raise BundleError("no layer of this network can be int8 within the gate's limits: use fp16 or keep fp32")
    report(trials, trials, TRIALS)
    return least(few)


def used(have: Mapping[str, F32], want: Mapping[str, F32]) -> float:
    """How much of the gate's limit for int8 one picture's outputs use up: up to 1 is let through."""
    limits = LIMITS["int8"]
    if "embedding" in want:
        cosine = float((have["embedding"] * want["embedding"]).sum(-1).min())
        return (1 - cosine) / (1 - limits.cosine)
    score = float(np.abs(have["scores"] - want["scores"]).max())
    counts = want["scores"] >= limits.box_score
    box = float(np.abs(have["boxes"] - want["boxes"])[counts].max(initial=0.0))
    return max(score / limits.score, box / limits.box_px)


def calibrated_scales(graph: Graph, places: Sequence[int], calibration: U8, report: Report) -> dict[str, float]:
    """The step of int8 for each value that the layers at `places` take, by its name."""
    names = sorted({graph.nodes[place].input[0] for place in places})
    return {name: _scale(seen) for name, seen in _calibrated(graph, names, calibration, report).items()}


def _calibrated(graph: Graph, names: Sequence[str], calibration: U8, report: Report) -> dict[str, Values]:
    """Magnitude and samples of values over all calibration pictures."""
    largest = dict.fromkeys(names, 0.0)
    samples: dict[str, list[F32]] = {name: [] for name in names}
    for done, seen in enumerate(run_each(graph.opened(names), calibration)):
        report(1 + done, len(calibration), PICTURES_SEEN)
        for name, values in seen.items():
            flat = values.ravel()
            largest[name] = max(largest[name], float(np.abs(flat).max(initial=0.0)))
            # a view would keep all of them: gigabytes
            samples[name].append(flat[:: max(1, len(flat) // SAMPLES)].copy())
    return {name: Values(largest[name], np.concatenate(samples[name])) for name in names}


def _scale(seen: Values) -> float:
    """The step of int8 that gives the samples back with the least squared error."""
    if seen.largest == 0:
        return 1.0
    steps = seen.largest * CLIPPED / 127
    errors = [np.square(np.clip(np.rint(seen.samples / s), -127, 127) * s - seen.samples).mean() for s in steps]
    return float(steps[int(np.argmin(errors))])


def _quantised_weights(weights: F32, axis: int) -> tuple[NDArray[np.int8], F32]:
    """int8 and the step of each slice along `axis`."""
    others = tuple(one for one in range(weights.ndim) if one != axis)
    largest = np.abs(weights).max(others, keepdims=True)
    steps = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.clip(np.rint(weights / steps), -127, 127).astype(np.int8), steps.ravel()


def _output_axis(node: onnx.NodeProto, rank: int) -> int:
    """The axis of a layer's weights that its outputs run along."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if any(one.name == "transB" and one.i for one in node.attribute) else 1
    return rank - 1


def _is_plain(node: onnx.NodeProto) -> bool:
    """Not a Gemm that scales or turns its inputs, which TensorRT does not fuse."""
    unusual = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    return all(helper.get_attribute_value(one) == unusual[one.name] for one in node.attribute if one.name in unusual)


def _multiplications(graph: Graph, node: onnx.NodeProto) -> int:
    """For one picture; axes of open size count as 1."""
    out = graph.shape(node.output[0])
    rows = out[2:] if node.op_type == "Conv" else out[1:-1]
    return int(np.prod(graph.shape(node.input[1]))) * int(np.prod([size or 1 for size in rows]))
