"""An ONNX graph as the conversions of `deploy.precision` see it: who makes and takes each value, its type and shape, and where
the learned layers begin and end. Batch normalisation is folded away first.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference, version_converter
from onnx.reference import ReferenceEvaluator

from stream.errors import BundleError

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "GRU"}
"""What multiplies by many: a network's time is spent in these."""

OLDEST_OPSET = 13
"""The first in which int8 weights have a range per channel; graphs of adopted models may be older and are brought there."""
MOVERS = {"Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}


class Graph:
    """A model with its constants as initializers, those that are cut and joined from others too (a GRU's weights are reordered in the
    graph); `update` after its nodes were changed.

    Raises `BundleError` for bytes that are no ONNX graph, for a graph with branches or loops, whose insides would need the same
    treatment, and for one whose types are not known.
    """

    def __init__(self, model: bytes) -> None:
        try:
            read = onnx.load_model_from_string(model)
        except Exception as error:  # protobuf's DecodeError, and what its C++ side makes of deep nesting
            raise BundleError(
                "the model is no ONNX graph: make the bundle again with `sightline adopt` or `sightline export`"
            ) from error
        self.model = _at_least(OLDEST_OPSET, read)
        lift_constants(self.model)
        self.update()
        if self._join_constants():
            self.update()

    def update(self) -> None:
        """Find out again who makes and takes what."""
        graph = self.model.graph
        del graph.value_info[:]
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.constants: dict[str, TensorProto] = {one.name: one for one in graph.initializer}
        self.inputs: set[str] = {one.name for one in graph.input}
        self.outputs: set[str] = {one.name for one in graph.output}
        self.maker: dict[str, int] = {
            name: place for place, node in enumerate(self.nodes) for name in node.output if name
        }
        self.takers: dict[str, list[int]] = defaultdict(list)
        for place, node in enumerate(self.nodes):
            if any(one.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for one in node.attribute):
                raise BundleError(f"{said(node)} holds a graph of its own: its precision cannot be changed, keep fp32")
            for name in filter(None, node.input):
                self.takers[name].append(place)
        try:
            inferred = shape_inference.infer_shapes(self.model, data_prop=True).graph
        except shape_inference.InferenceError as error:
            raise BundleError(
                f"the shapes of the graph's values do not fit together ({str(error).splitlines()[0][:200]}): its precision cannot be "
                "changed, keep fp32"
            ) from error
        values = (*inferred.value_info, *inferred.input, *inferred.output)
        self._types = {one.name: one.type.tensor_type for one in values}

    def is_float(self, name: str) -> bool:
        """Whether a value or constant is float32."""
        if name in self.constants:
            return bool(self.constants[name].data_type == TensorProto.FLOAT)
        if name not in self._types:
            raise BundleError(f"the type of {name!r} is unknown: the graph's precision cannot be changed, keep fp32")
        return bool(self._types[name].elem_type == TensorProto.FLOAT)

    def rank(self, name: str) -> int:
        """How many axes a value has."""
        return len(self.shape(name))

    def shape(self, name: str) -> tuple[int, ...]:
        """Sizes of a value, 0 where open."""
        if name in self.constants:
            return tuple(self.constants[name].dims)
        if name not in self._types or not self._types[name].HasField("shape"):
            raise BundleError(f"the shape of {name!r} is unknown: the graph's precision cannot be changed, keep fp32")
        return tuple(int(dim.dim_value) for dim in self._types[name].shape.dim)

    def array(self, name: str) -> NDArray[np.generic]:
        """A constant's values."""
        return np.asarray(numpy_helper.to_array(self.constants[name]))

    def between_layers(self) -> set[int]:
        """Places of the learned layers, and of all that stands behind one and before another."""
        both = self._behind_layers() & self._before_layers()
        return both | {place for place, node in enumerate(self.nodes) if node.op_type in LAYERS}

    def ends(self) -> set[int]:
        """Places of the first and the last learned layers: no other stands before them, or behind."""
        inner = self._behind_layers() & self._before_layers()
        return {place for place, node in enumerate(self.nodes) if node.op_type in LAYERS} - inner

    def _behind_layers(self) -> set[int]:
        reached: set[str] = set()
        places = set()
        for place, node in enumerate(self.nodes):  # makers stand before takers
            if any(name in reached for name in node.input):
                places.add(place)
            if node.op_type in LAYERS or place in places:
                reached.update(node.output)
        return places

    def _before_layers(self) -> set[int]:
        wanted: set[str] = set()
        places = set()
        for place, node in reversed(list(enumerate(self.nodes))):
            if any(name in wanted for name in node.output):
                places.add(place)
            if node.op_type in LAYERS or place in places:
                wanted.update(node.input)
        return places

    def _join_constants(self) -> bool:
        """Do now what only moves constants about; whether there was any."""
        opsets = {one.domain: one.version for one in self.model.opset_import}
        left = []
        for node in self.nodes:
            names = [name for name in node.input if name]
            moved = node.op_type in MOVERS and bool(names) and all(name in self.constants for name in names)
            if not moved or self.outputs.intersection(node.output):
                left.append(node)
                continue
            run = ReferenceEvaluator(node, opsets=opsets)
            values = run.run(list(node.output), {name: self.array(name) for name in names})
            for name, value in zip(node.output, values, strict=True):
                self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        if len(left) == len(self.nodes):
            return False
        self.model = onnx.load_model_from_string(self.write(left, ()))
        return True

    def opened(self, names: Sequence[str]) -> bytes:
        """The model with float32 values in its middle as its outputs."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.output[:]
        model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
        return bytes(model.SerializeToString())

    def write(self, nodes: Sequence[onnx.NodeProto], new: Iterable[TensorProto]) -> bytes:
        """The model with other nodes and additional constants, those nobody takes left out; checked."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input} | self.outputs
        constants = {one.name: one for one in (*self.constants.values(), *new)}
        graph.initializer.extend(one for name, one in constants.items() if name in used)
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())


def said(node: onnx.NodeProto) -> str:
    """A node in words: its operator, and its name or what it makes."""
    return f"{node.op_type} {node.name or node.output[0]!r}"


def fold_norms(graph: Graph) -> None:
    """Batch normalisation into the convolution before it, else into a multiplication and an addition. In place.

    Four runs of one network may share a convolution's weights; where what follows differs, each gets its own.
    """
    nodes: list[onnx.NodeProto] = []
    new: dict[str, TensorProto] = {}
    made: dict[str, int] = {}
    for node in graph.nodes:
        # one with computed parameters (cast from half precision, say) stays as it is
        if node.op_type != "BatchNormalization" or not all(name in graph.constants for name in node.input[1:]):
            made |= {name: len(nodes) for name in node.output}
            nodes.append(node)
            continue
        x, *names = node.input
        gamma, beta, mean, variance = (graph.array(name).astype(np.float64) for name in names)
        epsilon = next((one.f for one in node.attribute if one.name == "epsilon"), 1e-5)
        factor = gamma / np.sqrt(variance + epsilon)
        shift = beta - mean * factor
        before = nodes[made[x]] if x in made else None
        if (
            before is not None
            and before.op_type == "Conv"
            and len(graph.takers[x]) == 1
            and x not in graph.outputs
            and all(name in graph.constants for name in before.input[1:])
        ):
            weight = graph.array(before.input[1]).astype(np.float64)
            bias = graph.array(before.input[2]).astype(np.float64) if len(before.input) > 2 else 0.0
            folded = onnx.NodeProto()
            folded.CopyFrom(before)
            owner = "/".join((before.input[1], *names))
            del folded.input[1:]
            scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
            folded.input.append(_add(new, f"{owner}/weight", scaled))
            folded.input.append(_add(new, f"{owner}/bias", bias * factor + shift))
            folded.output[0] = node.output[0]
            nodes[made[x]] = folded
            made[node.output[0]] = made[x]
            continue
        axes = (-1, *[1] * max(graph.rank(x) - 2, 0))  # (C, 1, 1) for planes, (C,) for vectors
        by = _add(new, f"{node.output[0]}/factor", factor.reshape(axes))
        plus = _add(new, f"{node.output[0]}/shift", shift.reshape(axes))
        scaled_name = f"{node.output[0]}/scaled"
        nodes.append(helper.make_node("Mul", [x, by], [scaled_name]))
        nodes.append(helper.make_node("Add", [scaled_name, plus], [node.output[0]]))
        made[node.output[0]] = len(nodes) - 1
    graph.model = onnx.load_model_from_string(graph.write(nodes, new.values()))
    graph.update()


def _add(constants: dict[str, TensorProto], name: str, values: NDArray[np.float64]) -> str:
    constants[name] = numpy_helper.from_array(values.astype(np.float32), name)
    return name


def _at_least(opset: int, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in this opset, if it is of an older one."""
    if all(one.version >= opset for one in model.opset_import if one.domain in ("", "ai.onnx")):
        return model
    try:
        return version_converter.convert_version(model, opset)
    except RuntimeError as error:  # of its C++ side
        raise BundleError(
            f"the graph cannot be brought to opset {opset} ({error}): keep fp32, or export it anew"
        ) from error


def lift_constants(model: onnx.ModelProto) -> None:
    """Constant nodes to initializers, in place."""
    kept = []
    for node in model.graph.node:
        value = _value_of(node) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
            continue
        value.name = node.output[0]
        model.graph.initializer.append(value)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _value_of(constant: onnx.NodeProto) -> TensorProto | None:
    """Of a Constant node; None of strings and what is sparse."""
    if len(constant.attribute) != 1:  # no runtime takes it
        return None
    given = constant.attribute[0]
    if given.name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(given.t)
        return tensor
    kind = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}.get(
        given.name
    )
    return None if kind is None else numpy_helper.from_array(np.array(helper.get_attribute_value(given), kind))
