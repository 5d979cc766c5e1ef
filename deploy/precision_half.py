"""fp16 written into a graph: the learned layers and what lies between them in half precision, and islands of fp32."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploy.precision_graph import LAYERS, Graph, said
from stream.errors import BundleError

HALF = LAYERS | {
    *("Relu", "LeakyRelu", "PRelu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh"),  # bounded by what goes in, or by 1
    *("Add", "Sub", "Mul", "Neg", "Abs", "Max", "Min", "Clip", "Where"),
    *("MaxPool", "AveragePool", "GlobalMaxPool", "ReduceMax"),
    *(
        "Concat",
        "Split",
        "Slice",
        "Gather",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Expand",
        "Tile",
    ),
    *("Pad", "Identity", "DepthToSpace", "SpaceToDepth"),
}
"""Operators that may run in half precision. All others keep fp32: sums over many values (softmax, means, variances, norms, where
half precision loses digits and overflows), roots, quotients, powers and exponentials, and what runtimes lack in half precision
(resizing, sampling, regions, comparing, suppression)."""
CHOOSERS: Mapping[str, tuple[int, ...]] = {
    "NonMaxSuppression": (0, 1),
    "TopK": (0,),
    "RoiAlign": (1,),
    "GridSample": (1,),
    "ArgMax": (0,),
    "ArgMin": (0,),
    "Greater": (0, 1),
    "GreaterOrEqual": (0, 1),
    "Less": (0, 1),
    "LessOrEqual": (0, 1),
}
"""Operators that take coordinates, or choose by these inputs: a rounded coordinate of 1,000 pixels is half a pixel off. What is
computed for them since the last learned layer stays fp32."""
LARGEST = 65504.0
SMALLEST = 6.1e-5
"""Below, half precision loses digits: constants that small are there to keep a divisor from zero."""
ROOM = 8
"""Values may grow this much beyond those of the calibration pictures before they overflow."""


def candidates(graph: Graph) -> set[int]:
    """Places of the nodes that could run in half precision, their values permitting."""
    places = {
        place
        for place in graph.between_layers()
        if graph.nodes[place].op_type in HALF and any(map(graph.is_float, filter(None, graph.nodes[place].output)))
    }
    places -= _for_choosers(graph)
    places -= {place for place in places if _is_square(graph.nodes[place])}
    return {place for place in places if _constants_fit(graph, graph.nodes[place])}


def to_half(graph: Graph, places: set[int], largest: Mapping[str, float]) -> bytes:
    """The graph with the nodes at `places` in fp16 but for those that take or make values too large for it.

    `largest` is each value's magnitude over the calibration pictures. Inputs and outputs of the graph keep their types.
    """
    fits = {
        place
        for place in places
        if all(
            largest.get(name, 0) * ROOM <= LARGEST for name in (*graph.nodes[place].input, *graph.nodes[place].output)
        )
    }
    return _cast(graph, _without_lonely(graph, fits))


def _for_choosers(graph: Graph) -> set[int]:
    """Places of what computes the inputs of choosers, back to the learned layers."""
    wanted: set[str] = set()
    places = set()
    for place, node in reversed(list(enumerate(graph.nodes))):
        if any(name in wanted for name in node.output) and node.op_type not in LAYERS:
            places.add(place)
            wanted.update(node.input)
        wanted.update(node.input[slot] for slot in CHOOSERS.get(node.op_type, ()) if slot < len(node.input))
    return places


def _is_square(node: onnx.NodeProto) -> bool:
    """A value times itself: the beginning of a variance, and beyond half precision from 256 on."""
    return node.op_type == "Mul" and node.input[0] == node.input[1]


def _constants_fit(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node's constants are in half precision's range; a learned layer's weights must be, else `BundleError`."""
    for name in node.input:
        if name not in graph.constants or not graph.is_float(name):
            continue
        magnitudes = np.abs(graph.array(name))
        top = float(magnitudes[np.isfinite(magnitudes)].max(initial=0.0))
        if top > LARGEST and node.op_type in LAYERS:
            raise BundleError(
                f"weights {name!r} of {said(node)} reach {top:.3g} and half precision ends at {LARGEST:.0f}: keep fp32, or train "
                "with weight decay"
            )
        if top > LARGEST or 0 < top < SMALLEST:
            return False
    return True


def _without_lonely(graph: Graph, places: set[int]) -> set[int]:
    """Without nodes that have fp32 on every side: casting back and forth for one of them wins nothing."""
    while True:
        lonely = set()
        for place in places:
            node = graph.nodes[place]
            if node.op_type in LAYERS:
                continue
            makers = {graph.maker[name] for name in node.input if name in graph.maker and graph.is_float(name)}
            takers = {taker for name in node.output for taker in graph.takers[name]}
            if not (makers | takers) & places:
                lonely.add(place)
        if not lonely:
            return places
        places = places - lonely


def _cast(graph: Graph, places: set[int]) -> bytes:
    """Half precision at `places`, each value cast once where the kinds of its maker and taker differ."""
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, TensorProto] = {}
    half: set[str] = set()  # values made in half precision
    casts: set[str] = set()

    def cast(name: str, to: str, kind: int) -> str:
        if to not in casts:
            nodes.append(helper.make_node("Cast", [name], [to], name=f"cast/{to}", to=kind))
            casts.add(to)
        return to

    for place, old in enumerate(graph.nodes):
        node = onnx.NodeProto()
        node.CopyFrom(old)
        wants_half = place in places
        for slot, name in enumerate(old.input):
            if not name or not graph.is_float(name):
                continue
            if wants_half and name in graph.constants:
                node.input[slot] = f"{name}/fp16"
                if node.input[slot] not in constants:
                    values = graph.array(name).astype(np.float16)
                    constants[node.input[slot]] = numpy_helper.from_array(values, node.input[slot])
            elif wants_half and name not in half:
                node.input[slot] = cast(name, f"{name}/fp16", TensorProto.FLOAT16)
            elif not wants_half and name in half:
                node.input[slot] = cast(name, f"{name}/fp32", TensorProto.FLOAT)
        nodes.append(node)
        if wants_half:
            half.update(name for name in old.output if name)
    for name in graph.outputs & half:  # the outputs' own names are kept for fp32
        for node in nodes:
            for names in (node.input, node.output):
                for slot, one in enumerate(names):
                    if one == name:
                        names[slot] = f"{name}/half"
        nodes.append(helper.make_node("Cast", [f"{name}/half"], [name], name=f"cast/{name}", to=TensorProto.FLOAT))
    return graph.write(nodes, constants.values())
