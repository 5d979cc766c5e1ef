"""One checkpoint out of several."""

import shutil
from dataclasses import replace

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
    embedder(TINY).load_state_dict(mean)


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


def test_what_the_mean_has_seen_is_what_each_has_seen(tmp_path):
    paths = []
    for name, sets in (("a", ["market1501", "synthetic"]), ("b", ["synthetic", "duke"])):
        made = Checkpoint(TINY.model_dump(mode="json"), 1.0, 7, embedder(TINY).state_dict(), data_sets=sets)
        paths.append(tmp_path / f"{name}.pt")
        checkpoint.save(paths[-1], made)
    assert status_of(["average", *map(str, paths), "--output", str(tmp_path / "mean.pt")]) == 0
    assert checkpoint.load(tmp_path / "mean.pt").data_sets == ["market1501", "synthetic", "duke"]


def test_a_run_is_not_overwritten_and_a_mean_is_made_anew(runs, tmp_path, capsys):
    one, other = (tmp_path / name for name in ("one.pt", "other.pt"))
    for path in (one, other):
        shutil.copy(runs / path.name, path)
    mean, run, best = (tmp_path / name for name in ("mean.pt", "checkpoint.pt", "best.pt"))
    of = ["average", str(one), str(other), "--output"]
    content = checkpoint.load(one)
    checkpoint.save(
        run, replace(content, optimiser={"state": {}, "param_groups": []}, sampler={"epoch": 1, "place": 0})
    )
    checkpoint.save(best, replace(content, best={"epoch": 3.0, "mAP": 0.5}))
    (tmp_path / "link.pt").symlink_to(one)
    for taken in (one, tmp_path / "link.pt", run, best):
        before = taken.read_bytes()
        assert status_of([*of, str(taken)]) == 2
        assert "holds what a training wrote, or is read here itself: name another file" in capsys.readouterr().err
        assert taken.read_bytes() == before
    assert status_of([*of, str(mean)]) == status_of([*of, str(mean)]) == 0


def test_a_folder_for_the_mean_is_said_with_the_file_to_name(runs, tmp_path, capsys):
    words = ["average", str(runs / "one.pt"), str(runs / "other.pt"), "--output", str(tmp_path)]
    assert status_of(words) == 2
    assert f"is a folder: name a file, such as {tmp_path / 'mean.pt'}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert not tmp_path.with_suffix(".new").exists()


def test_one_checkpoint_has_no_mean(runs, tmp_path, capsys):
    assert status_of(["average", str(runs / "one.pt"), "--output", str(tmp_path / "m.pt")]) == 2
    assert "name two or more" in capsys.readouterr().err
