"""Rewriting somebody else's ONNX graph to the house contract of `stream.model`, with `onnx` alone.

Three steps, each a function: open the batch axis and undo what mixes images (`open_batch`), put pixels in front
(`take_pixels`), put boxes or unit vectors behind (`give_boxes`, `give_embedding`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper, shape_inference

from deploy.bundle import OLDEST_OPSET
from deploy.precision_graph import LAYERS, lift_constants
from stream.errors import AdoptError
from stream.model import MAX_SIDE_PX, MIN_SIDE_PX, Precision

Colour = Literal["rgb", "bgr"]
BoxFormat = Literal["yolox-grid", "cxcywh", "xyxy"]
REDUCTIONS = {
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "ReduceMin",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceProd",
}
STRIDES = (8, 16, 32)  # YOLOX, all sizes
BATCH = "n"
PREFIX = "theirs/"  # before every name of the adopted graph, so that ours never clash


@dataclass(frozen=True, slots=True)
class Layout:
    """What the one input of a graph takes."""

    name: str
    channels_first: bool
    size_hw: tuple[int, int]
    element: int
    """onnx.TensorProto.DataType."""
    fixed_batch: bool


def parse(data: bytes, where: str) -> onnx.ModelProto:
    """Bytes -> model, its names prefixed so that ours never clash, its functions inlined, since not every runtime knows them.

    Raises `AdoptError` where it is no usable ONNX.
    """
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError, and what its C++ side makes of deep nesting
        raise AdoptError(f"{where}: is no ONNX file; expected one as exported by the model's project") from error
    if not model.graph.node or not model.graph.output:
        raise AdoptError(f"{where}: is no ONNX file, or one without a graph; expected one as exported by its project")
    if any(one.data_location == TensorProto.EXTERNAL for one in model.graph.initializer):
        raise AdoptError(
            f"{where}: keeps its weights in other files; save it as a single file: python -c "
            f'\'import onnx; onnx.save(onnx.load("{Path(where).name}"), "single.onnx")\''
        )
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise AdoptError(f"{where}: is of opset {opset}, at least {OLDEST_OPSET} is needed; export it again")
    known = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in known]
    del model.graph.input[:]
    model.graph.input.extend(inputs)  # old exporters list weights as inputs too
    model.ir_version = max(model.ir_version, 4)  # and before 4 they had to
    if model.functions:
        try:
            model = inliner.inline_local_functions(model)
        except Exception as error:  # its C++ side has several
            raise AdoptError(
                f"{where}: its local functions do not fit together ({str(error)[:200]}); export it again"
            ) from error
    lift_constants(model)
    _prefix(model.graph)
    return model


def _prefix(graph: onnx.GraphProto) -> None:
    """Every name of a graph and of the graphs in its nodes, which see the names around them."""
    del graph.quantization_annotation[:]  # names tensors too, and nobody reads it
    for one in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        one.name = PREFIX + one.name
    for sparse in graph.sparse_initializer:
        sparse.values.name = PREFIX + sparse.values.name
    for node in graph.node:
        node.input[:] = [name and PREFIX + name for name in node.input]
        node.output[:] = [name and PREFIX + name for name in node.output]
        node.name = node.name and PREFIX + node.name
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                _prefix(inner)


def layout_of(model: onnx.ModelProto, where: str, input_hw: tuple[int, int] | None = None) -> Layout:
    """Read the input's layout off its shape; `input_hw` where the graph leaves the size open. Raises `AdoptError`."""
    if len(model.graph.input) != 1:
        names = ", ".join(one.name.removeprefix(PREFIX) for one in model.graph.input)
        raise AdoptError(
            f"{where}: takes {names or 'no input'}, expected one input, the picture; export it without the rest"
        )
    value = model.graph.input[0]
    shape = _shape(value)
    takes = f"{where}: takes {said(shape)}"
    if len(shape) != 4:
        raise AdoptError(f"{takes}, expected pictures: (batch, 3, height, width) or (batch, height, width, 3)")
    channels_first = shape[1] == 3
    if not channels_first and shape[3] != 3:
        raise AdoptError(f"{takes}, expected 3 colours on axis 1 or 3")
    h, w = shape[2:4] if channels_first else shape[1:3]
    if input_hw is not None:
        if (h or input_hw[0], w or input_hw[1]) != input_hw:
            raise AdoptError(f"{takes}, which is not the {input_hw[0]}x{input_hw[1]} asked for")
        h, w = input_hw
    if h is None or w is None:
        raise AdoptError(f"{takes}; the size is open: give it with --input-hw HEIGHTxWIDTH")
    if not (MIN_SIDE_PX <= h <= MAX_SIDE_PX and MIN_SIDE_PX <= w <= MAX_SIDE_PX):
        raise AdoptError(f"{takes}, expected sides of {MIN_SIDE_PX} to {MAX_SIDE_PX} pixels")
    if shape[0] not in (None, 1):
        raise AdoptError(f"{takes}: a fixed batch of {shape[0]}; export it with a batch of 1 or an open one")
    element = value.type.tensor_type.elem_type
    if element not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8):
        raise AdoptError(f"{takes} of {TensorProto.DataType.Name(element)}, expected float32, float16 or uint8")
    return Layout(value.name, channels_first, (h, w), element, shape[0] == 1)


def open_batch(model: onnx.ModelProto, layout: Layout) -> list[str]:
    """Open a batch axis of 1 in place, and undo what was only right for one image. Returns what was repaired, in words.

    A reduction over axis 0 of size 1 changes nothing for one image and mixes images in a batch: the axis is taken out. A
    reshape to a fixed first axis of 1 gets an open one. Whether that was all is for the caller to measure.
    """
    shapes = {one.name: _shape(one) for one in _inferred(model, layout)}
    constants = _constants(model)
    reduced = reshaped = 0
    for place, node in enumerate(model.graph.node):
        shape = shapes.get(node.input[0]) if node.input else None
        if node.op_type in REDUCTIONS and shape and shape[0] == 1:
            reduced += _keep_images_apart(model, node, len(shape), constants, place)
        elif node.op_type == "Reshape" and node.input[1] in constants:
            to = shapes.get(node.output[0])
            if shape and to and shape[0] == 1 and None not in to:
                _add(model, f"sightline/shape/{place}", np.array([-1, *to[1:]], np.int64))
                reshaped += list(constants[node.input[1]][:1]) == [1]
                node.input[1] = f"sightline/shape/{place}"
    _set_batch(model, BATCH)
    del model.graph.value_info[:]
    repaired = [f"{reduced} reductions no longer mix the images of a batch"] if reduced else []
    return repaired + ([f"{reshaped} reshapes take any batch"] if reshaped else [])


def pin_batch(model: onnx.ModelProto) -> list[str]:
    """Say that one image is taken at a time; repairs nothing."""
    _set_batch(model, 1)
    del model.graph.value_info[:]
    return []


def declared_shape(model: onnx.ModelProto, output: str) -> list[int | None]:
    """What the graph says about one of its outputs; empty where it says nothing."""
    return next(_shape(one) for one in model.graph.output if one.name == output)


def take_pixels(
    model: onnx.ModelProto,
    layout: Layout,
    *,
    colour: Colour,
    scale: float,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> None:
    """Put ``images`` (n, H, W, 3) RGB uint8 in front: colour order, (pixel * scale - mean) / std, layout. In place.

    `mean` and `std` are in the graph's own colour order.
    """
    theirs = model.graph.input[0]
    batch = theirs.type.tensor_type.shape.dim[0]
    steps: list[onnx.NodeProto] = []

    def then(op: str, constant: NDArray[np.generic] | None = None, **attributes: Any) -> None:
        source = steps[-1].output[0] if steps else "images"
        names = [source]
        if constant is not None:
            names.append(f"sightline/in/{len(steps)}")
            _add(model, names[-1], constant)
        steps.append(helper.make_node(op, names, [f"sightline/pixels/{len(steps)}"], **attributes))

    then("Cast", to=TensorProto.FLOAT)
    if colour == "bgr":
        then("Gather", np.array([2, 1, 0], np.int64), axis=3)
    factor, shift = scale / np.array(std, np.float32), -np.array(mean, np.float32) / np.array(std, np.float32)
    if not np.all(factor == 1):
        then("Mul", factor.astype(np.float32))
    if np.any(shift):
        then("Add", shift.astype(np.float32))
    if layout.channels_first:
        then("Transpose", perm=[0, 3, 1, 2])
    then("Cast", to=layout.element)
    steps[-1].output[0] = layout.name
    size = batch.dim_param or batch.dim_value
    new = helper.make_tensor_value_info("images", TensorProto.UINT8, [size, *layout.size_hw, 3])
    nodes = [*steps, *model.graph.node]
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(nodes)
    model.graph.input.append(new)


def give_embedding(model: onnx.ModelProto, output: str, size: int) -> None:
    """Put ``embedding`` (n, D), unit norm, behind an output (n, D) or (n, D, 1, 1). In place."""
    nodes = [
        helper.make_node("Cast", [output], ["sightline/out/float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["sightline/out/float"], ["sightline/out/flat"], axis=1),
        helper.make_node("LpNormalization", ["sightline/out/flat"], ["embedding"], axis=1, p=2),
    ]
    _finish(model, nodes, {"embedding": (size,)})


def give_boxes(
    model: onnx.ModelProto,
    output: str,
    anchors: int,
    *,
    size_hw: tuple[int, int],
    boxes: BoxFormat,
    objectness: bool,
    person: int,
) -> None:
    """Put ``boxes`` (n, A, 4) xyxy and ``scores`` (n, A) behind an output (n, A, 4 [+ 1] + classes). In place.

    ``yolox-grid``: centre and log size relative to the cells of strides 8, 16 and 32 (YOLOX, arXiv 2107.08430, section 2.1).
    """
    nodes: list[onnx.NodeProto] = []

    def then(name: str, op: str, *inputs: str | NDArray[np.generic], **attributes: Any) -> str:
        names = []
        for one in inputs:
            if isinstance(one, str):
                names.append(one)
            else:
                names.append(f"sightline/out/{len(nodes)}/{len(names)}")
                _add(model, names[-1], one)
        nodes.append(helper.make_node(op, names, [name], **attributes))
        return name

    raw = then("sightline/raw", "Cast", output, to=TensorProto.FLOAT)
    first = then("sightline/first", "Gather", raw, np.array([0, 1], np.int64), axis=2)
    second = then("sightline/second", "Gather", raw, np.array([2, 3], np.int64), axis=2)
    if boxes == "yolox-grid":
        cells, strides = _grid(size_hw)
        moved = then("sightline/moved", "Add", first, cells)
        first = then("sightline/centre", "Mul", moved, strides)
        grown = then("sightline/grown", "Exp", second)
        second = then("sightline/size", "Mul", grown, strides)
    if boxes != "xyxy":
        half = then("sightline/half", "Mul", second, np.array(0.5, np.float32))
        centre = first
        first = then("sightline/top_left", "Sub", centre, half)
        second = then("sightline/bottom_right", "Add", centre, half)
    then("boxes", "Concat", first, second, axis=2)
    score = then("sightline/class", "Gather", raw, np.array(4 + objectness + person, np.int64), axis=2)
    if objectness:
        score = then(
            "sightline/both", "Mul", then("sightline/object", "Gather", raw, np.array(4, np.int64), axis=2), score
        )
    then("scores", "Identity", score)
    _finish(model, nodes, {"boxes": (anchors, 4), "scores": (anchors,)})


def anchors_of(size_hw: tuple[int, int]) -> int:
    """How many cells YOLOX has for a picture of this size."""
    return sum((size_hw[0] // stride) * (size_hw[1] // stride) for stride in STRIDES)


def _grid(size_hw: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cell corners (1, A, 2) as x, y, and strides (1, A, 1), row by row, finest level first."""
    cells, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: size_hw[0] // stride, : size_hw[1] // stride]
        cells.append(np.stack([x, y], -1).reshape(-1, 2))
        strides.append(np.full((cells[-1].shape[0], 1), stride))
    return np.concatenate(cells)[None].astype(np.float32), np.concatenate(strides)[None].astype(np.float32)


def _keep_images_apart(
    model: onnx.ModelProto, node: onnx.NodeProto, rank: int, constants: dict[str, NDArray[np.generic]], place: int
) -> bool:
    """Take axis 0 out of a reduction that keeps its dimensions; True where it was in."""
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    if attributes.get("keepdims", 1) != 1 or attributes.get("noop_with_empty_axes", 0):
        return False
    given = len(node.input) > 1 and node.input[1] != ""
    if given and node.input[1] not in constants:
        return False
    axes = constants[node.input[1]].tolist() if given else list(attributes.get("axes", range(rank)))
    kept = [axis for axis in axes if axis % rank != 0]
    if len(kept) == len(axes) or not kept:
        return False
    if given:
        _add(model, f"sightline/axes/{place}", np.array(kept, np.int64))
        node.input[1] = f"sightline/axes/{place}"
    else:
        others = [one for one in node.attribute if one.name != "axes"]
        del node.attribute[:]
        node.attribute.extend([*others, helper.make_attribute("axes", kept)])
    return True


def precision_of(model: onnx.ModelProto, layout: Layout) -> Precision:
    """What a graph computes in: int8 where it rounds its values to that, fp16 where a learned layer takes them."""
    if any(node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") for node in model.graph.node):
        return "int8"
    kinds = {one.name: one.type.tensor_type.elem_type for one in _inferred(model, layout)}
    kinds |= {one.name: one.data_type for one in model.graph.initializer}
    taken = {kinds.get(name) for node in model.graph.node if node.op_type in LAYERS for name in node.input}
    return "fp16" if TensorProto.FLOAT16 in taken else "fp32"


def _inferred(model: onnx.ModelProto, layout: Layout) -> list[onnx.ValueInfoProto]:
    """Types and shapes of all values for one image."""
    single = onnx.ModelProto()
    single.CopyFrom(model)
    _set_batch(single, 1)
    h, w = layout.size_hw
    for dim, size in zip(
        single.graph.input[0].type.tensor_type.shape.dim,
        (1, 3, h, w) if layout.channels_first else (1, h, w, 3),
        strict=True,
    ):
        dim.dim_value = size
    del single.graph.value_info[:]
    try:
        inferred = shape_inference.infer_shapes(single, data_prop=True)
    except shape_inference.InferenceError:  # nothing is known then, so nothing is repaired, and the batch test decides
        return []
    return [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]


def _constants(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    """Small integer constants."""
    return {
        one.name: numpy_helper.to_array(one)
        for one in model.graph.initializer
        if one.data_type == TensorProto.INT64 and len(one.dims) <= 1
    }


def _finish(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], outputs: dict[str, tuple[int, ...]]) -> None:
    """Append nodes and make `outputs` the graph's only ones."""
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    size = batch.dim_param or batch.dim_value
    model.graph.node.extend(nodes)
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, *shape]) for name, shape in outputs.items()
    )


def _set_batch(model: onnx.ModelProto, batch: int | str) -> None:
    for value in (*model.graph.input, *model.graph.output):
        dim = value.type.tensor_type.shape.dim
        if len(dim) == 0:
            continue
        if isinstance(batch, int):
            dim[0].dim_value = batch
        else:
            dim[0].dim_param = batch


def _add(model: onnx.ModelProto, name: str, array: NDArray[np.generic]) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))


def _shape(value: onnx.ValueInfoProto) -> list[int | None]:
    """Sizes; None where open."""
    return [
        one.dim_value if one.HasField("dim_value") and one.dim_value > 0 else None
        for one in value.type.tensor_type.shape.dim
    ]


def said(shape: Sequence[int | None]) -> str:
    """A shape in words."""
    return "(" + ", ".join("?" if one is None else str(one) for one in shape) + ")"
