"""Checkpoint -> bundle: an ONNX graph that takes pixels, its card, its golden set, its link rows.

Nothing is written before the graph gave the same answers as torch, at batch 1, at an odd batch and at the largest, and each
picture alone the same as among others.
"""

import io
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from deploy import backends, gate, metadata
from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bundle import Bundle, load_bundle, write_bundle
from deploy.converting import Conversion, proved
from deploy.thresholds import check_defaults
from stream.cores import usable_cores
from stream.errors import BundleError, UsageError
from stream.model import IMAGENET_MEAN, IMAGENET_STD, Backend, Kind, Links, ModelCard
from trainer import checkpoint
from trainer.serving import Served, ServedDetector, TorchBackend, served

U8 = NDArray[np.uint8]

OPSET = 18
MAX_BATCH = {"detector": 8, "embedder": 32}
WENT_WRONG = "its training went wrong; export an earlier checkpoint, or train again"


@dataclass(frozen=True, slots=True)
class Described:
    """What an export says on the card beside what it finds out itself."""

    name: str
    version: str
    source: str
    """The commands that made it and where it was trained."""
    data_sets: tuple[str, ...]
    scores: Mapping[str, float]
    synthetic_only: bool
    licence: str
    defaults: Mapping[str, float] = field(default_factory=dict)
    """Thresholds of its own, see `deploy.thresholds`."""


def export(
    saved: Path,
    folder: Path,
    described: Described,
    golden: U8,
    *,
    fit: Callable[[Backend], Links] | None = None,
    input_hw: tuple[int, int] | None = None,
    conversion: Conversion | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Bundle:
    """Write the bundle of checkpoint `saved` into `folder`; `golden` (n, H, W, 3) are pictures it answers for later.

    `fit` makes an embedder's link rows; without it the bundle has none, and no matcher takes it. The graph is float32 unless
    `conversion` says otherwise. `say` hears in which runtimes it passed. Raises `BundleError` where the graph and torch disagree, and where the network itself gives nothing sound.
    """
    module, size_hw = served(checkpoint.load(saved), input_hw)
    if golden.shape[1:] != (*size_hw, 3) or golden.dtype != np.uint8 or len(golden) < 2:
        raise UsageError(
            f"golden pictures are (n >= 2, {size_hw[0]}, {size_hw[1]}, 3) uint8, got {golden.shape} {golden.dtype}"
        )
    kind: Kind = "detector" if isinstance(module, ServedDetector) else "embedder"
    check_defaults(described.name, kind, described.defaults)
    model = to_onnx(module, size_hw)  # before torch takes the network to a GPU
    in_torch = TorchBackend(module)
    expected = in_torch.infer(golden)
    # beside themselves: finite, and vectors of unit length
    if said := gate.differs(expected, expected, gate.LIMITS["fp32"]):
        raise BundleError(f"{saved}: in torch already {said}: {WENT_WRONG}")
    card = ModelCard(
        name=described.name,
        version=described.version,
        kind=kind,
        input_hw=size_hw,
        outputs={name: values.shape[1:] for name, values in expected.items()},
        max_batch=MAX_BATCH[kind],
        embedding_size=expected["embedding"].shape[1] if kind == "embedder" else None,
        min_cosine=gate.HARD_CHOICES_MIN_COSINE if chooses(model) else None,
        synthetic_only=described.synthetic_only,
        data_sets=described.data_sets,
        scores=dict(described.scores),
        defaults=dict(described.defaults),
        licence=described.licence,
        source=described.source,
        digest="0" * 64,  # write_bundle fills it in
    )
    passed = backends.in_each(model, card, lambda each: gate.check(each, expected, golden, reference=in_torch.infer))
    if conversion is not None:  # a fault of the export is told apart from what a precision does
        model, card, passed = proved(model, card, expected, golden, conversion)
    say(f"in {card.precision} it passed the gate in {passed}")
    rows = None
    if fit is not None and kind == "embedder":
        with closing(OnnxRuntimeBackend(model, card, threads=usable_cores())) as quick:  # thousands of crops
            rows = fit(quick)
    model, card = metadata.filled(model, card, metadata.normalised(1 / 255, IMAGENET_MEAN, IMAGENET_STD))
    write_bundle(folder, model, card, {"inputs": golden, **expected}, rows)
    bundle = load_bundle(folder)
    backends.load(bundle).close()  # as whoever serves it will
    return bundle


def to_onnx(module: Served, size_hw: tuple[int, int]) -> bytes:
    """The served network as a graph of dynamic batch."""
    batch = torch.export.Dim("batch", min=1)
    return to_graph(module, {"images": torch.zeros(2, *size_hw, 3, dtype=torch.uint8)}, {"images": {0: batch}})


def to_graph(module: Served, inputs: Mapping[str, Tensor], dynamic_shapes: dict[str, Any] | None) -> bytes:
    """A served network as a graph, by examples of its inputs in their order; `dynamic_shapes` as torch.onnx.export has them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=list(module.outputs),
            opset_version=OPSET,
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )
    return without_notes(program)


def without_notes(program: torch.onnx.ONNXProgram | None) -> bytes:
    """What torch exported as a checked file, without the exporter's notes (they hold paths of this machine)."""
    if program is None:
        raise BundleError("torch exported no graph: use the versions of torch and onnxscript in constraints.txt")
    model = onnx.load_from_string(program.model_proto.SerializeToString())
    model.producer_name, model.producer_version, model.doc_string = "sightline", "", ""
    del model.metadata_props[:]
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
    del graph.value_info[:]
    del model.functions[:]
    onnx.checker.check_model(model, full_check=True)
    data = io.BytesIO()
    onnx.save_model(model, data)
    return data.getvalue()


def chooses(model: bytes) -> bool:
    """Whether the graph makes hard choices, which rounding can turn."""
    return any(node.op_type == "ArgMax" for node in onnx.load_from_string(model).graph.node)
