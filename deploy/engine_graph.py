"""A bundle's graph in the form that TensorRT's parser takes; what it gives is the same to the bit."""

import onnx
from onnx import TensorProto

SHAPE_READERS = ("Shape", "Size")
"""They read a tensor's shape alone, so a cast of it does as well."""


def taken_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, in which only casts read a UINT8 input: where the graph asks for its shape, the cast is asked instead.

    Torch's exporter takes the batch size from the pixels as they come; to TensorRT a UINT8 input is for casts alone.
    """
    graph = model.graph
    pixels = {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8}
    casts = {node.input[0]: node for node in reversed(graph.node) if node.op_type == "Cast" and node.input[0] in pixels}
    asks = [node for node in graph.node if node.op_type in SHAPE_READERS and node.input[0] in casts]
    if not asks:
        return model
    for node in asks:
        node.input[0] = casts[node.input[0]].output[0]
    first = list(casts.values())
    rest = [node for node in graph.node if not any(node is cast for cast in first)]
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in (*first, *rest)]
    del graph.node[:]
    graph.node.extend(ordered)
    return model
