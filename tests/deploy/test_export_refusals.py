"""What export, adopt and bundles refuse: one line each that says what to do, and nothing is written."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from deploy import metadata
from deploy.adopt import Recipe, adopt
from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bundle import load_bundle, write_bundle
from deploy.cli import status_of
from deploy.export import Described, export, to_onnx
from stream.errors import AdoptError, BundleError, UsageError
from tests.deploy import tiny_models
from tests.deploy.test_bundle import write
from trainer import checkpoint
from trainer.checkpoint import Checkpoint
from trainer.methods import osnet
from trainer.methods.osnet import OSNetRecipe
from trainer.methods.person_search import PersonSearch, PersonSearchRecipe
from trainer.serving import ServedEmbedder

RECIPE = OSNetRecipe(width=0.25, input_hw=(64, 32), depths=(1,), fusion="add")
SEARCH = PersonSearchRecipe(
    backbone="googlenet", weights="", input_hw=(64, 96), anchor_sizes=(225, 450, 900), max_proposals_test=4
)

pytestmark = pytest.mark.usefixtures("one_thread")


def _saved(folder: Path, weights: float = 1.0, **recipe: object) -> Path:
    """An untrained network's checkpoint; `weights` multiplies its last layer's."""
    network = osnet.embedder(RECIPE).state_dict()
    network["fc.0.weight"] *= weights
    values = RECIPE.model_dump(mode="json") | recipe
    checkpoint.save(folder / "run.pt", Checkpoint(recipe=values, progress=1.0, step=1, network=network))
    return folder / "run.pt"


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        pytest.param(
            {"method": "resnext"},
            "run.pt was trained with another Sightline, which can export it: method is 'resnext', expected one of osnet, eprinet",
            id="unknown method",
        ),
        pytest.param({"widht": 1.0}, "unknown key widht: did you mean width?", id="unknown key"),
        pytest.param(
            {"width": 0.5},
            "run.pt: conv1.conv.weight is (16, 3, 7, 7), expected (32, 3, 7, 7): this is not the network of its own recipe: the "
            "file was changed, or another Sightline wrote it: train again, or use that one",
            id="layers of other sizes",
        ),
        pytest.param(
            {"depths": (2,)}, "run.pt: lacks 84 of its network's 205 weights, first ", id="layers that are missing"
        ),
    ],
)
def test_a_checkpoint_that_nothing_here_can_serve_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: dict[str, object], said: str
) -> None:
    output = tmp_path / "bundle"
    assert status_of(["export", str(_saved(tmp_path, **recipe)), "--output", str(output), "--name", "x"]) in (1, 2)
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert not output.exists()


def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _saved(tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    assert status_of(["export", str(path), "--output", str(tmp_path / "b"), "--name", "x"]) == 1
    assert "is not a checkpoint of this program or is damaged" in capsys.readouterr().err


def _person_search(folder: Path, weights: float = 1.0, **recipe: object) -> Path:
    """The same of a person search, whose classifier is awake so that it finds somebody."""
    torch.manual_seed(0)
    network = PersonSearch(SEARCH)
    nn.init.normal_(network.score.weight, std=3.0)
    state = network.state_dict()
    state["identity.weight"] *= weights
    saved = Checkpoint(SEARCH.model_dump(mode="json") | recipe, 1.0, 1, state)
    checkpoint.save(folder / "run.pt", saved)
    return folder / "run.pt"


def test_a_person_search_of_another_recipe_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(_person_search(tmp_path, roiz=8)), "--output", str(tmp_path / "b"), "--name", "x"]
    assert status_of(command) == 2
    line = capsys.readouterr().err
    assert (
        "run.pt was trained with another Sightline, which can export it: unknown key roiz: did you mean rois?" in line
    )
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("make", "weights", "said"),
    [
        pytest.param(_saved, np.nan, "embedding is not finite", id="diverged"),
        pytest.param(_saved, 0.0, "embedding's length is off by 1", id="all zeros"),
        pytest.param(_person_search, np.nan, "embedding is not finite", id="a diverged person search"),
    ],
)
def test_a_training_that_went_wrong_is_no_bundle_and_no_fault_of_the_export(
    make: Callable[[Path, float], Path], weights: float, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = make(tmp_path, weights)
    assert status_of(["export", str(saved), "--output", str(tmp_path / "b"), "--name", "x"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"run.pt: in torch already {said}" in line
    assert line.endswith("its training went wrong; export an earlier checkpoint, or train again")
    assert not (tmp_path / "b").exists()


def test_a_graph_that_is_not_the_network_s_becomes_no_bundle_and_the_one_that_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stale graph: the exporter is handed another network than the one that torch runs."""
    saved, there = _saved(tmp_path), write(tmp_path / "b")
    before = {path.name: path.read_bytes() for path in there.path.iterdir()}
    torch.manual_seed(1)
    other = ServedEmbedder(osnet.embedder(RECIPE)).eval()
    monkeypatch.setattr("deploy.export.to_onnx", lambda module, size_hw: to_onnx(other, size_hw))
    assert status_of(["export", str(saved), "--output", str(there.path), "--name", "x"]) == 1
    line = capsys.readouterr().err
    assert "for pictures alone (fp32): looks like other weights or a part left out: a stale graph" in line
    assert line.count("\n") == 1
    assert {path.name: path.read_bytes() for path in there.path.iterdir()} == before


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        pytest.param((4, 32, 32, 3), np.uint8, id="another size"),
        pytest.param((4, 64, 32, 3), np.float32, id="floats"),
        pytest.param((4, 3, 64, 32), np.uint8, id="planes first"),
        pytest.param((1, 64, 32, 3), np.uint8, id="one picture"),
        pytest.param((0, 64, 32, 3), np.uint8, id="none"),
    ],
)
def test_golden_pictures_that_are_none_are_refused(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    described = Described("x", "1", "", (), {}, synthetic_only=True, licence="MIT")
    with pytest.raises(
        UsageError, match=rf"golden pictures are .*64, 32, 3\) uint8, got \({shape[0]}, .* {dtype.__name__}"
    ):
        export(_saved(tmp_path), tmp_path / "b", described, np.zeros(shape, dtype))
    assert not (tmp_path / "b").exists()


def _of_opset(model: bytes, opset: int) -> bytes:
    graph = onnx.load_model_from_string(model)
    graph.opset_import[0].version = opset
    return bytes(graph.SerializeToString())


def test_a_model_of_an_opset_that_is_too_old_is_not_adopted(tmp_path: Path) -> None:
    theirs = _of_opset(tiny_models.foreign_embedder(), 8)
    with pytest.raises(AdoptError, match=r"theirs\.onnx: is of opset 8, at least 9 is needed; export it again"):
        adopt(theirs, Recipe(kind="embedder", licence="MIT"), tmp_path, name="x", where="theirs.onnx")


def test_a_bundle_of_an_opset_that_is_too_old_is_refused(tmp_path: Path) -> None:
    inputs, card = tiny_models.pictures(2), tiny_models.embedder_card()
    outputs = OnnxRuntimeBackend(tiny_models.embedder(), card).infer(inputs)
    model, card = metadata.filled(tiny_models.embedder(), card)
    write_bundle(tmp_path, model, card, {"inputs": inputs, **outputs}, tiny_models.links())
    assert load_bundle(tmp_path).card.opset == 13
    said = json.loads((tmp_path / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps(said | {"opset": 8}))
    with pytest.raises(
        BundleError, match=r"card\.json: a graph of opset 8, at least 9 is read; export the model again"
    ):
        load_bundle(tmp_path)


def test_a_graph_that_names_no_opset_gets_no_metadata() -> None:
    graph = onnx.load_model_from_string(tiny_models.embedder())
    del graph.opset_import[:]
    with pytest.raises(BundleError, match="names no opset; export it again"):
        metadata.filled(graph.SerializeToString(), tiny_models.embedder_card())
