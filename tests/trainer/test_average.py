"""One checkpoint out of several."""

import pytest
import torch

from deploy.cli import status_of
from trainer import checkpoint
from trainer.checkpoint import Checkpoint
from trainer.methods.detector import DetectorRecipe, PersonDetector
from trainer.methods.osnet import OSNetRecipe, embedder

TINY = OSNetRecipe(width=0.25, input_hw=(64, 32))


def saved(path, recipe, network):
    checkpoint.save(
        path, Checkpoint(recipe=recipe.model_dump(mode="json"), progress=1.0, step=7, network=network.state_dict())
    )
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("one", "other")):
        torch.manual_seed(seed)
        saved(folder / f"{name}.pt", TINY, embedder(TINY))
    return folder


def test_every_weight_is_the_mean_and_the_result_loads_as_any_other(runs, tmp_path):
    output = tmp_path / "new" / "mean.pt"
    assert status_of(["average", str(runs / "one.pt"), str(runs / "other.pt"), "--output", str(output)]) == 0
    one, other, mean = (checkpoint.load(path).network for path in (runs / "one.pt", runs / "other.pt", output))
    assert all(
        torch.allclose(mean[name], (one[name] + other[name]) / 2) for name in one if one[name].is_floating_point()
    )
    assert not torch.allclose(mean["conv1.conv.weight"], one["conv1.conv.weight"])
    checkpoint.load_weights(embedder(TINY), mean)


def test_another_method_or_size_has_no_mean(runs, tmp_path, capsys):
    wide = OSNetRecipe(width=0.5, input_hw=(64, 32))
    strangers = (
        (saved(tmp_path / "wide.pt", wide, embedder(wide)), "another size"),
        (saved(tmp_path / "detector.pt", DetectorRecipe(), PersonDetector()), "is of detector"),
    )
    for stranger, why in strangers:
        assert status_of(["average", str(runs / "one.pt"), str(stranger), "--output", str(tmp_path / "m.pt")]) == 1
        assert why in capsys.readouterr().err
    assert not (tmp_path / "m.pt").exists()


def test_one_checkpoint_has_no_mean(runs, tmp_path, capsys):
    assert status_of(["average", str(runs / "one.pt"), "--output", str(tmp_path / "m.pt")]) == 2
    assert "name two or more" in capsys.readouterr().err
