"""What `sightline evaluate` can be given: a training run, a checkpoint or a bundle, each opened as the same thing."""

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from deploy import backends
from deploy.bundle import load_bundle
from deploy.searcher import Searcher
from deploy.settings import Runtime
from stream.errors import DataError, UsageError
from stream.model import Kind
from trainer import checkpoint
from trainer.datasets.table import MIX, REID, SEARCH, SYNTHETIC
from trainer.evaluate import PLAIN, Infers
from trainer.searching import Searches
from trainer.serving import Served, ServedEmbedder, TorchBackend, kind_of, network_of, served


@dataclass(frozen=True, slots=True)
class DataSet:
    """Pictures to be scored on."""

    name: str
    """Of `trainer.datasets.table`."""
    root: str = ""
    people: int = 0
    """Synthetic: the size that a training of so many people is judged at, 0: the full one."""
    by_folder: bool = False
    """Named by its folder alone."""

    @property
    def label(self) -> str:
        """Begins the names of its scores."""
        return Path(self.root).resolve().name if self.by_folder or self.name == "folder" else self.name


@dataclass(frozen=True, slots=True)
class Model:
    """Anything that can be scored."""

    name: str
    kind: Kind
    input_hw: tuple[int, int]
    infers: Infers
    """Of a person search: crops to vectors, of its bundle scenes to people."""
    searches: Searches | None
    """Of a person search."""
    home: DataSet
    """What it was trained on, and is scored on unless something else is asked for."""
    trained_on: str


def open_model(name: str, threads: int, backend: Runtime | None = None) -> Model:
    """A training's output folder (its last checkpoint), a checkpoint.pt, else a bundle by name or folder.

    A bundle is run by `backend`, or in ONNX Runtime: of "tensorrt" its engine, which is built if it is not there.
    """
    path = checkpoint.file_of(Path(name))
    if path.suffix == ".pt":
        if backend is not None:
            raise UsageError(
                f"--backend {backend}: {name} is a checkpoint, which torch runs; it is bundles that have runtimes"
            )
        return _checkpoint(name, path)
    if backend == "torch":
        raise DataError(
            f"--backend torch: torch runs the checkpoint that a bundle was exported from: score that in place of {name}"
        )
    if path.name != name and not path.exists():
        raise DataError(
            f"{name}: not there; name a training's output folder, a checkpoint.pt, or a bundle by name or folder"
        )
    if path.is_dir() and not (path / "card.json").is_file():
        raise DataError(f"{name} holds neither a checkpoint.pt of `sightline train` nor the card.json of a bundle")
    bundle = load_bundle(name)
    card = bundle.card
    trained_on = ", ".join(card.data_sets) or "unknown"
    if card.kind == "person-search":
        searcher = Searcher(bundle, threads, backend or "onnxruntime")
        return Model(name, card.kind, card.input_hw, searcher.backend, searcher, DataSet(SYNTHETIC), trained_on)
    home = DataSet(SYNTHETIC if card.kind == "detector" else MIX)
    infers = backends.load(bundle, threads, backend or "onnxruntime")
    return Model(name, card.kind, card.input_hw, infers, None, home, trained_on)


class _PlainToo(Served):
    """OSNet's vectors of unit length and as they are: torchreid's zoo compares the latter."""

    outputs = ("embedding", PLAIN)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, H, W, 3) uint8 -> (N, D) twice."""
        plain = self.network(self.planes(images))
        return F.normalize(plain, eps=1e-12), plain


def _checkpoint(name: str, path: Path) -> Model:
    saved = checkpoint.load(path)
    network, recipe = network_of(saved)
    kind = kind_of(recipe.method)
    module: Served = ServedEmbedder(network)
    if kind == "detector":
        module = served(saved)[0]
    elif recipe.method == "osnet":
        module = _PlainToo(network)
    backend = TorchBackend(module)  # moves the network to the GPU, if there is one
    home = data_set(recipe.data, recipe.root, recipe.people)
    searches: Searches | None = network if kind == "person-search" else None  # type: ignore[assignment]
    return Model(name, kind, recipe.input_hw, backend, searches, home, ", ".join(saved.data_sets))


def data_set(name: str, root: str = "", people: int = 0) -> DataSet:
    """By its name, or by its folder if that is in Market-1501's layout."""
    if name in (SYNTHETIC, MIX):
        return DataSet(name, "", people)
    if name not in REID and name not in SEARCH and Path(name).is_dir():
        return DataSet("market1501", name, people, by_folder=True)
    return DataSet(name, root, people)
