"""What a graph says of itself in its own metadata, for who meets the file without its card."""

from collections.abc import Sequence
from importlib.metadata import version

import msgspec
import onnx

from stream.errors import BundleError
from stream.model import ModelCard


def filled(model: bytes, card: ModelCard, preprocessing: str = "") -> tuple[bytes, ModelCard]:
    """The graph with name, version, precision and more of its card in its metadata, and the card with the graph's opset.

    `preprocessing` says what the graph does to its pixels; without it what the graph said before stands. Nothing in front of the
    metadata moves, so weights keep their place in the file.
    """
    theirs = onnx.load_model_from_string(model)
    opset = next((one.version for one in theirs.opset_import if one.domain in ("", "ai.onnx")), 0)
    if not opset:
        raise BundleError(f"{card.name}: a graph that names no opset; export it again")
    words = {one.key: one.value for one in theirs.metadata_props} | {
        "name": card.name,
        "version": card.version,
        "kind": card.kind,
        "precision": card.precision,
        "opset": str(opset),
        "input": _takes(theirs.graph, card),
        "licence": card.licence,
        "made_by": f"sightline {version('sightline')}",
    }
    if preprocessing:
        words["preprocessing"] = preprocessing
    if theirs.metadata_props:
        del theirs.metadata_props[:]
        model = theirs.SerializeToString()
    added = onnx.ModelProto()
    for key, value in words.items():
        added.metadata_props.add(key=key, value=value)
    # a protobuf message is merged with one that is written behind it
    return model + added.SerializeToString(), msgspec.structs.replace(card, opset=opset)


def _takes(graph: onnx.GraphProto, card: ModelCard) -> str:
    """Its inputs in words; the second graph of a person search is asked about boxes."""
    boxes = ", boxes float32 (n, 4) xyxy in its pixels" if any(one.name == "boxes" for one in graph.input) else ""
    return f"RGB uint8 ({'N' if card.max_batch > 1 else 1}, {card.input_hw[0]}, {card.input_hw[1]}, 3){boxes}"


def normalised(scale: float, mean: Sequence[float], std: Sequence[float], colours: str = "RGB") -> str:
    """The usual preprocessing in words."""
    means, deviations = (", ".join(f"{value:.6g}" for value in values) for values in (mean, std))
    return f"inside the graph: (x * {scale:.6g} - ({means})) / ({deviations}), {colours}"
