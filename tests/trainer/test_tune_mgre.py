"""benchmarks/tune_mgre.py, as docs/methods/mgre.md says to call it."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import torch

from tests.trainer import trees
from trainer import checkpoint, resnet_ibn
from trainer.datasets import load_reid
from trainer.evaluate import score_embedder, split
from trainer.methods import mgre
from trainer.serving import TorchBackend, served

ROOT = Path(__file__).parents[2]


def test_the_documented_command_is_understood(tmp_path):
    text = (ROOT / "docs" / "methods" / "mgre.md").read_text()
    (script, arguments) = re.search(r"`python (benchmarks/tune_mgre\.py) ([^`]+)`", text).groups()
    given = arguments.replace("RUN", str(tmp_path)).split()
    done = subprocess.run([sys.executable, script, *given], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stderr.startswith(f"tune_mgre: no checkpoint at {tmp_path}/checkpoint.pt"), (
        "as far as it gets without a run"
    )
    assert done.stderr.count("\n") == 1


def test_the_new_checkpoint_scores_what_was_printed_and_differs_in_the_weights_alone(
    tmp_path, monkeypatch, capsys, one_thread
):
    for backbone in resnet_ibn._LAYERS:
        monkeypatch.setitem(resnet_ibn._LAYERS, backbone, [1, 1, 1, 1])
    spec = importlib.util.spec_from_file_location("tune_mgre", ROOT / "benchmarks" / "tune_mgre.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    root = trees.market(tmp_path / "market")
    for person in (3, 4, 5, 6, 8, 9):  # eight people to learn from, of whom seven are held out
        for camera, number in ((1, 1), (1, 2), (2, 1), (2, 2)):
            name = f"{person:04d}_c{camera}s1_{number:06d}_00.jpg"
            trees.picture(root / "bounding_box_train" / name, person, camera + 2 * number)
    recipe = mgre.MGReRecipe(
        weights="", data="market1501", root=str(root), val_ids=7, input_hw=(64, 32), embed_dim=64,
        stage_weights=(1, 0.05, 0.05, 0.05),
    )  # fmt: skip
    torch.manual_seed(1)
    first = checkpoint.Checkpoint(recipe.model_dump(mode="json"), 1.0, 3, mgre.embedder(recipe).state_dict())
    checkpoint.save(tmp_path / "checkpoint.pt", first)
    script.tune(tmp_path / "checkpoint.pt", None, tmp_path / "tuned.pt")

    tuned = checkpoint.load(tmp_path / "tuned.pt")
    assert {key for key, value in tuned.recipe.items() if value != first.recipe[key]} == {"stage_weights"}
    assert all(torch.equal(value, first.network[name]) for name, value in tuned.network.items())
    held_out = load_reid("market1501", root, (64, 32), seed=recipe.seed, val_ids=7).validation
    query, gallery = split(held_out)
    scores = [score_embedder(TorchBackend(served(each)[0]), query, gallery, (64, 32)) for each in (first, tuned)]
    before, after = (score.ranking.mean_ap for score in scores)
    assert after > before
    assert capsys.readouterr().out.splitlines() == [
        f"stage_weights (1.0, 0.05, 0.05, 0.05): mAP {before:.4f} on 7 people held out",
        f"stage_weights {tuple(tuned.recipe['stage_weights'])}: mAP {after:.4f}",
    ]
