"""Networks of the training methods with random weights, as bundles: what `sightline bench models --methods` measures."""

from pathlib import Path

import numpy as np
import torch

from deploy import gate
from deploy.bundle import Bundle, write_bundle
from deploy.export import MAX_BATCH, chooses, to_onnx
from deploy.export_search import SearchDetect, served_hw, to_graphs
from stream.model import ModelCard
from trainer import checkpoint
from trainer.checkpoint import Checkpoint
from trainer.methods import method_module
from trainer.methods.detector import DetectorRecipe
from trainer.methods.eprinet import EPRINetRecipe
from trainer.methods.magnifiernet import MagnifierNetRecipe
from trainer.methods.mgre import MGReRecipe
from trainer.methods.osnet import OSNetRecipe
from trainer.methods.person_search import PersonSearch, PersonSearchRecipe
from trainer.serving import Served, ServedDetector, ServedEmbedder, TorchBackend, kind_of
from trainer.settings import Recipe

NETWORKS: dict[str, Recipe] = {
    "osnet-x0.25-128x64": OSNetRecipe(width=0.25, input_hw=(128, 64)),  # as the shipped one
    "osnet-x0.25": OSNetRecipe(width=0.25),
    "osnet-x1.0": OSNetRecipe(),
    "eprinet": EPRINetRecipe(),
    "magnifiernet": MagnifierNetRecipe(),
    "mgre": MGReRecipe(),
    "person-search": PersonSearchRecipe(),
    "detector": DetectorRecipe(),
}
GOLDEN = 2
CHECKPOINT = "checkpoint.pt"
"""Beside the bundle, of what torch serves too: all but a person search."""


def random_bundle(name: str, recipe: Recipe, folder: Path) -> tuple[Bundle, TorchBackend]:
    """The method's network as a bundle in `folder`, without link rows, beside its checkpoint; and the same network in torch."""
    torch.manual_seed(0)
    network = method_module(recipe.method).embedder(recipe).eval()
    size_hw, kind = recipe.input_hw, kind_of(recipe.method)
    module: Served
    query: bytes | None = None
    if isinstance(recipe, PersonSearchRecipe) and isinstance(network, PersonSearch):
        size_hw = served_hw(recipe)
        module = SearchDetect(network, size_hw)
        model, query = to_graphs(network, size_hw)
    else:
        module = ServedDetector(network, size_hw) if kind == "detector" else ServedEmbedder(network)
        model = to_onnx(module.eval(), size_hw)
    in_torch = TorchBackend(module)
    golden = np.random.default_rng(0).integers(0, 256, (GOLDEN, *size_hw, 3), np.uint8)
    expected = [in_torch.infer(picture[None]) for picture in golden]
    outputs = {key: np.concatenate([one[key] for one in expected]) for key in expected[0]}
    card = ModelCard(
        name=name,
        version="0",
        kind=kind,
        input_hw=size_hw,
        outputs={key: values.shape[1:] for key, values in outputs.items()},
        max_batch=MAX_BATCH.get(kind, 1),  # a person search takes one scene
        embedding_size=outputs["embedding"].shape[-1] if "embedding" in outputs else None,
        min_cosine=gate.HARD_CHOICES_MIN_COSINE if chooses(model) else None,
        synthetic_only=True,
        licence="Apache-2.0",
        source="random weights",
        digest="0" * 64,  # write_bundle fills it in
    )
    bundle = write_bundle(folder, model, card, {"inputs": golden, **outputs}, query=query)
    if query is None:
        saved = Checkpoint(recipe.model_dump(mode="json"), 1.0, 0, network.state_dict())
        checkpoint.save(folder / CHECKPOINT, saved)
    return bundle, in_torch
