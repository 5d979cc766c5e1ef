"""What TensorRT's parser does not take of a graph, found without TensorRT and without a GPU.

The list of what it takes is data: `tensorrt_operators.toml`. A finding is no proof that a build fails, and none is no proof that it
succeeds: only the parser itself knows. But it says in a second which node to look at.
"""

import functools
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, inliner, numpy_helper

from deploy.bundle import MAX_BYTES, MODEL
from stream.errors import EngineError

LIST = Path(__file__).parent / "tensorrt_operators.toml"
TYPES: dict[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP32",  # TensorRT makes it one, clamped
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.INT64: "INT64",
    TensorProto.INT32: "INT32",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT4: "INT4",
    TensorProto.BOOL: "BOOL",
}
DOMAINS = ("", "ai.onnx")
"""Of ONNX's own operators; the parser knows no others."""
MAKERS = ("Cast", "CastLike", "Constant", "ConstantOfShape")
"""Their output's type counts; of all others the first input's."""

SCALERS = ("QuantizeLinear", "DequantizeLinear")
"""The list's types are their input's; what they give is of another, which the zero point says."""


class Unsupported(msgspec.Struct, frozen=True):
    """A node that TensorRT's parser is not known to take."""

    node: str
    operator: str
    why: str

    def __str__(self) -> str:
        return f"{self.operator} {self.node}: {self.why}"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in a graph."""

    opset: int
    nodes: int
    tensorrt: str
    """Version of TensorRT whose list was used."""
    unsupported: tuple[Unsupported, ...]
    notes: dict[str, str]
    """Operator -> a condition that the graph alone does not tell."""


class _Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    attributes: dict[str, list[str | int]] = {}
    without: list[str] = []
    ranks: list[int] = []
    outputs: int | None = None
    constant: list[int] = []
    zero: list[int] = []
    below: dict[str, int] | None = None
    note: str = ""


class _Takes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    types: list[str]
    operators: list[str]


class _List(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tensorrt: str
    opsets: tuple[int, int]
    takes: list[_Takes]
    conditions: dict[str, _Conditions]

    def types(self) -> dict[str, list[str]]:
        """Operator -> the types that it is taken for."""
        return {operator: group.types for group in self.takes for operator in group.operators}


@functools.cache
def published() -> _List:
    """The list as it stands in the file."""
    return msgspec.convert(tomllib.loads(LIST.read_text(encoding="utf-8")), _List)


def read(path: Path) -> onnx.ModelProto:
    """The graph of an ONNX file, with the weights of its side files, its functions inlined. Raises `EngineError` where it is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror})") from error
    if size > MAX_BYTES[MODEL]:
        raise EngineError(f"{path}: more than {MAX_BYTES[MODEL]} bytes, which no model here has")
    try:
        model = onnx.load(path)
        # the checker asks for shapes that files leave out, and of what a foreign node gives none can be inferred
        if not _has_foreign(model):
            onnx.checker.check_model(onnx.shape_inference.infer_shapes(model))
        return inliner.inline_local_functions(model) if model.functions else model
    except Exception as error:  # of protobuf and of onnx, without a common base but this
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise EngineError(f"{path}: is no ONNX graph ({said[0][:200]})") from error


def _has_foreign(model: onnx.ModelProto) -> bool:
    """Whether a node is neither one of ONNX's own operators nor a function of the file: `check` names it."""
    functions = {(function.domain, function.name) for function in model.functions}
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    for node in nodes:
        nodes += (inner for graph in _subgraphs(node) for inner in graph.node)
    return any(node.domain not in DOMAINS and (node.domain, node.op_type) not in functions for node in nodes)


def check(model: onnx.ModelProto) -> Report:
    """Every node of a graph without local functions, those of subgraphs too."""
    opset = next((one.version for one in model.opset_import if one.domain in DOMAINS), 0)
    known = published()
    smallest, largest = known.opsets
    found = []
    if not smallest <= opset <= largest:
        found.append(
            Unsupported("of the graph", "opset", f"{opset}, expected {smallest} to {largest}: export it again")
        )
    visited = list(_visit(_Graph.of(_with_types(model).graph, None)))
    found += [Unsupported(_name(node), node.op_type, why) for node, why in visited if why]
    used = {node.op_type for node, _ in visited}
    notes = {name: rule.note for name, rule in sorted(known.conditions.items()) if rule.note and name in used}
    return Report(
        opset=opset,
        nodes=len(visited),
        tensorrt=known.tensorrt,
        unsupported=tuple(found),
        notes=notes,
    )


def _with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the types of its tensors, as far as they can be inferred."""
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # an operator that onnx does not know, of a newer opset: the graph is checked without types
        return model


class _Graph(msgspec.Struct, frozen=True):
    """A graph with what is known of its tensors, those of the graphs around it included."""

    nodes: list[Any]
    types: dict[str, str]
    ranks: dict[str, int]
    constants: dict[str, NDArray[np.generic]]
    inputs: frozenset[str]
    outputs: frozenset[str]

    @classmethod
    def of(cls, graph: onnx.GraphProto, outer: "_Graph | None") -> "_Graph":
        types = dict(outer.types) if outer else {}
        ranks = dict(outer.ranks) if outer else {}
        constants = dict(outer.constants) if outer else {}
        for value in (*graph.input, *graph.value_info, *graph.output):
            tensor = value.type.tensor_type
            if tensor.elem_type:
                types[value.name] = _type(tensor.elem_type)
            if tensor.HasField("shape"):
                ranks[value.name] = len(tensor.shape.dim)
        for tensor in graph.initializer:
            types[tensor.name], ranks[tensor.name] = _type(tensor.data_type), len(tensor.dims)
            constants[tensor.name] = numpy_helper.to_array(tensor)
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            elif node.op_type == "Constant" and node.attribute:
                constants[node.output[0]] = np.asarray(onnx.helper.get_attribute_value(node.attribute[0]))
        initial = {tensor.name for tensor in graph.initializer}
        return cls(
            nodes=list(graph.node),
            types=types,
            ranks=ranks,
            constants=constants,
            inputs=frozenset(value.name for value in graph.input) - initial,
            outputs=frozenset(value.name for value in graph.output),
        )


def _visit(graph: _Graph) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Each node, and why it is not taken ("" where it is)."""
    for node in graph.nodes:
        yield node, _why_not(node, graph)
        for inner in _subgraphs(node):
            yield from _visit(_Graph.of(inner, graph))


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type in (attribute.GRAPH, attribute.GRAPHS):
            yield from (attribute.g, *attribute.graphs)


def _why_not(node: onnx.NodeProto, graph: _Graph) -> str:
    return _unknown(node) or _wrong_uint8(node, graph) or _wrong_type(node, graph) or _broken_condition(node, graph)


def _unknown(node: onnx.NodeProto) -> str:
    if node.domain not in DOMAINS:
        return f"is of the domain {node.domain}, whose operators the parser does not know"
    if node.op_type not in published().types():
        return "is not among the operators that the parser takes"
    return ""


def _wrong_uint8(node: onnx.NodeProto, graph: _Graph) -> str:
    for name in node.input:
        if graph.types.get(name) == "UINT8" and not (node.op_type in MAKERS and name in graph.inputs):
            return f"reads {name} as UINT8, which is for the graph's inputs and outputs only: cast it first"
    for name in node.output:
        if graph.types.get(name) == "UINT8" and name not in graph.outputs:
            return f"gives {name} as UINT8, which is for the graph's inputs and outputs only"
    return ""


def _wrong_type(node: onnx.NodeProto, graph: _Graph) -> str:
    takes = published().types()[node.op_type]
    for name in _counted(node):
        kind = graph.types.get(name)
        if kind is not None and kind not in takes:
            return f"{name} is {kind}, taken are {', '.join(takes)}"
    return ""


def _counted(node: onnx.NodeProto) -> list[str]:
    """The tensors whose type decides: the first input and all that the operator's schema gives the same type or its output's."""
    if node.op_type in MAKERS:
        return [*node.output[:1]]
    if node.op_type in SCALERS or not onnx.defs.has(node.op_type):
        return [*node.input[:1]]
    schema = onnx.defs.get_schema(node.op_type)
    deciding = {schema.inputs[0].type_str} | {one.type_str for one in schema.outputs[:1]} if schema.inputs else set()
    variable = {constraint.type_param_str for constraint in schema.type_constraints}
    places = [min(place, len(schema.inputs) - 1) for place in range(len(node.input))]  # the last one may be repeated
    return [
        name
        for name, place in zip(node.input, places, strict=True)
        if name and schema.inputs[place].type_str in deciding & variable
    ]


def _broken_condition(node: onnx.NodeProto, graph: _Graph) -> str:
    rule = published().conditions.get(node.op_type)
    if rule is None:
        return ""
    for attribute in node.attribute:
        if attribute.name in rule.without:
            return f"has the attribute {attribute.name}, which is not taken"
        if allowed := rule.attributes.get(attribute.name):
            values = [onnx.helper.get_attribute_value(attribute)]
            values = [*values[0]] if isinstance(values[0], list | tuple) else values
            values = [value.decode() if isinstance(value, bytes) else value for value in values]
            if wrong := [value for value in values if value not in allowed]:
                return f"has {attribute.name} {wrong[0]}, taken are {', '.join(map(str, allowed))}"
    rank = graph.ranks.get(node.input[0]) if node.input else None
    if rule.ranks and rank is not None and rank not in rule.ranks:
        return f"{node.input[0]} has {rank} dimensions, taken are {', '.join(map(str, rule.ranks))}"
    if rule.outputs is not None and any(node.output[rule.outputs :]):
        return f"gives more than {rule.outputs} output, which is not taken"
    return _broken_input(node, graph, rule)


def _broken_input(node: onnx.NodeProto, graph: _Graph, rule: _Conditions) -> str:
    given = {place: name for place, name in enumerate(node.input) if name}
    for place in (*rule.constant, *rule.zero):
        if place in given and given[place] not in graph.constants:
            return f"{given[place]} must be a constant"
    for place in rule.zero:
        if place in given and np.any(graph.constants[given[place]] != 0):
            return f"{given[place]} must be 0"
    if rule.below and (name := given.get(rule.below["input"])) in graph.constants:
        largest = int(graph.constants[name].max())
        if largest >= rule.below["value"]:
            return f"{name} is {largest}, it must be less than {rule.below['value']}"
    return ""


def _type(number: int) -> str:
    return TYPES.get(number) or str(TensorProto.DataType.Name(number))


def _name(node: onnx.NodeProto) -> str:
    return str(node.name or next(iter(node.output), "?"))
