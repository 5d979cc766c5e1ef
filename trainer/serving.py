"""A trained network as the stream serves it: RGB uint8 (N, H, W, 3) in, the house outputs of `stream.model` out.

Normalisation, box decoding and unit length are inside, so evaluation, export and serving cannot differ in them.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from stream.errors import UsageError
from stream.model import IMAGENET_MEAN, IMAGENET_STD, Kind
from trainer import checkpoint
from trainer.checkpoint import Checkpoint
from trainer.methods import detector, method_module
from trainer.settings import Recipe, make_recipe

NOT_ITS_RECIPES = "this is not the network of its own recipe: the file was changed, or another Sightline wrote it: train again, or use that one"
"""Of weights that do not fit the network which the recipe beside them describes."""
MAX_BATCH = 64
"""Pictures that `TorchBackend` takes at a time."""


class Served(nn.Module):
    """What both kinds share: pixels to normalised planes."""

    outputs: tuple[str, ...]
    mean: Tensor
    factor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN))
        self.register_buffer("factor", 1 / (255 * torch.tensor(IMAGENET_STD)))

    def planes(self, images: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 -> (N, 3, H, W) float32, normalised."""
        return ((images.float() - self.mean) * self.factor).permute(0, 3, 1, 2)


class ServedEmbedder(Served):
    """`embedding` (N, D), unit length."""

    outputs = ("embedding",)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def takes_joints(self) -> bool:
        """Whether the network is told where a person's joints are (MGRe without joint optimisation)."""
        return bool(getattr(self.network, "takes_joints", False))

    def forward(self, images: Tensor, joints: Tensor | None = None) -> Tensor:
        """See the class; `joints` (N, 17, 3) as in `Crops.joints` for a network that takes them."""
        planes = self.planes(images)
        told: Any = self.network
        return F.normalize(told(planes) if joints is None else told(planes, told.boxes_of(joints)), eps=1e-12)


class ServedDetector(Served):
    """`boxes` (N, A, 4) xyxy in pixels of the input, `scores` (N, A) in [0, 1]."""

    outputs = ("boxes", "scores")
    cells: Tensor

    def __init__(self, network: nn.Module, input_hw: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("cells", detector.centres(input_hw))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        logits, distances = self.network(self.planes(images))
        return detector.to_xyxy(self.cells, distances), torch.sigmoid(logits)


def kind_of(method: str) -> Kind:
    """What a network of the method is to the stream."""
    kinds: dict[str, Kind] = {"detector": "detector", "person-search": "person-search"}
    return kinds.get(method, "embedder")


def network_of(saved: Checkpoint) -> tuple[nn.Module, Recipe]:
    """The inference network of a checkpoint of any method, in eval mode, and its recipe."""
    recipe = make_recipe(saved.recipe, f"the recipe in {saved.file}")
    network: nn.Module = method_module(recipe.method).embedder(recipe)
    checkpoint.load_weights(network, saved.network, saved.file, NOT_ITS_RECIPES)
    return network.eval(), recipe


def served(saved: Checkpoint, input_hw: tuple[int, int] | None = None) -> tuple[Served, tuple[int, int]]:
    """The network of a checkpoint, ready to serve, and its input size (the recipe's unless another is given).

    Person search is served as an embedder of crops here; in scenes `PersonSearch.search` finds and embeds.
    """
    network, recipe = network_of(saved)
    size_hw = input_hw or recipe.input_hw
    if recipe.method == "detector":
        return ServedDetector(network, size_hw).eval(), size_hw
    module = ServedEmbedder(network)
    if module.takes_joints:
        raise UsageError(
            "this network is told where a person's joints are, which the stream does not know: it is only scored"
        )
    return module.eval(), size_hw


class TorchBackend:
    """Runs a served network in torch, in float32: what checkpoints are judged with, and what an export must equal."""

    def __init__(self, module: Served) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._module = module.eval().to(self._device)

    @property
    def takes_joints(self) -> bool:
        """See `ServedEmbedder.takes_joints`."""
        return isinstance(self._module, ServedEmbedder) and self._module.takes_joints

    @torch.inference_mode()
    def infer(
        self, images: NDArray[np.uint8] | NDArray[np.float32], joints: NDArray[np.float32] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """(N, H, W, 3) RGB, N at least 1 -> arrays by output name, N in front; `joints` (N, 17, 3) where they are taken.

        Float32 pixels may lie outside 0 to 255: `deploy.diagnose` looks for what a network was shown by mistake.
        """
        parts: list[tuple[Tensor, ...]] = []
        inputs = (images,) if joints is None else (images, joints)
        # TF32 keeps 10 bits: twice what an export may differ
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for start in range(0, len(images), MAX_BATCH):
                out = self._module(*(torch.from_numpy(x[start : start + MAX_BATCH]).to(self._device) for x in inputs))
                parts.append(out if isinstance(out, tuple) else (out,))
        columns = zip(*parts, strict=True)
        return {name: torch.cat(c).cpu().numpy() for name, c in zip(self._module.outputs, columns, strict=True)}
