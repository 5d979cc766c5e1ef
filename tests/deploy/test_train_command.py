"""`sightline train` and `sightline methods` as people call them, on files."""

import io
import json
import os
import re
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from rich.console import Console

from deploy.cli import status_of
from deploy.methods import command, describe
from deploy.training import Bar, duration, overrides_of
from deploy.training import make_recipe as make_run_recipe
from stream.errors import UsageError
from trainer import checkpoint
from trainer.methods import METHODS, method_module, osnet
from trainer.settings import make_recipe, read_recipe

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """Eight people of one colour each, twice on each of two cameras, in Market-1501's layout."""
    root = tmp_path_factory.mktemp("market")
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (8, 3))
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder).mkdir()
        for person, colour in enumerate(colours, start=1):
            for camera in (1, 2):
                for number in (1, 2):
                    picture = np.clip(colour + rng.integers(-30, 30, (64, 32, 3)), 0, 255).astype(np.uint8)
                    cv2.imwrite(str(root / folder / f"{person:04d}_c{camera}s1_{number:06d}_00.jpg"), picture)
    return root


@pytest.fixture(scope="module")
def prw(tmp_path_factory):
    """Four frames of two cameras, in each the same two people as one bright rectangle each, in PRW's layout."""
    root = tmp_path_factory.mktemp("prw")
    rng = np.random.default_rng(0)
    names = [f"c{camera}s1_{number:06d}" for camera in (1, 2) for number in (1, 2)]
    for folder in ("frames", "annotations"):
        (root / folder).mkdir()
    for place, name in enumerate(names):
        frame = rng.integers(0, 60, (96, 128, 3), dtype=np.uint8)
        boxes = [[1, 10 + 4 * place, 20, 24, 60], [2, 70 + 4 * place, 16, 24, 60]]
        for (_, x, y, w, h), colour in zip(boxes, ((250, 60, 60), (60, 250, 60)), strict=True):
            frame[y : y + h, x : x + w] = colour
        cv2.imwrite(str(root / "frames" / f"{name}.jpg"), frame)
        scipy.io.savemat(root / "annotations" / f"{name}.jpg.mat", {"box_new": np.array(boxes, float)})
    for split in ("train", "test"):
        index = np.array([[name] for name in names], dtype=object)
        scipy.io.savemat(root / f"frame_{split}.mat", {f"img_index_{split}": index})
    (root / "query_info.txt").write_text("1 10 20 24 60 c1s1_000001\r\n2 70 16 24 60 c1s1_000001\r\n")
    return root


def _train(market, folder, *options, method="osnet"):
    small = ["input_hw=[64, 32]", "batch_people=4", "precision=fp32"]
    given = [word for key in small for word in ("--set", key)]
    source = ["--data", "market1501", "--root", str(market), "--output", str(folder / "run"), "--threads", "1"]
    return status_of(["train", method, *source, *given, *options])


OSNET = ("--set", "width=0.25", "--set", "sampler=people", "--set", "optimiser=adamw", "--set", "learning_rate=1e-3")


def test_a_run_in_pieces_says_where_it_is_and_goes_on_elsewhere(market, tmp_path, capsys):
    report = tmp_path / "report.json"
    run = (*OSNET, "--epochs", "2", "--json", str(report))
    here = tmp_path / "[here]"  # as the terminal shows it, not as a colour
    assert _train(market, here, *run, "--max-minutes", "0") == 0
    first = json.loads(report.read_text())
    assert (first["finished"], first["step"]) == (False, 1)
    assert first["losses"].keys() == {"softmax"}
    assert first["pictures_per_s"] > 0
    assert 0 <= first["waiting"] <= 1
    assert checkpoint.load(here / "run").counts == {"pictures": 32, "people": 8}
    said = capsys.readouterr().out
    assert "osnet on market1501 at 64x32, from scratch, 2 epochs, fp32" in said
    assert f"{here}/run/checkpoint.pt: schedule not complete; the same command goes on" in said
    assert "not as published (train people: 8 here, 751 published" in said
    assert re.search(
        r"epoch 1 of 2, step 1: loss ([\d.]+) = softmax \1; [\d.]+ pictures/s, \d+% of the time waiting for data, \d+ min \d+ s left",
        " ".join(said.split()),
    )
    (tmp_path / "there").mkdir()
    (here / "run").rename(tmp_path / "there" / "run")  # another machine
    assert _train(market, tmp_path / "there", *run) == 0
    assert json.loads(report.read_text())["finished"] is True
    assert {path.name for path in (tmp_path / "there" / "run").iterdir()} == {
        "checkpoint.pt", "best.pt", "curves.png", "log",
    }  # fmt: skip
    assert _train(market, tmp_path / "there", *run) == 0
    assert "nothing was left to do" in capsys.readouterr().out


def test_a_checkpoint_begins_another_run(market, tmp_path, capsys):
    assert _train(market, tmp_path / "first", *OSNET, "--epochs", "1") == 0
    folder = str(tmp_path / "first" / "run")
    start = f"{folder}/checkpoint.pt"
    assert _train(market, tmp_path / "second", *OSNET, "--epochs", "1", "--start", folder, "--people", "6") == 0
    assert "the head is new, for it tells other people apart" in capsys.readouterr().out
    third = (*OSNET, "--epochs", "1", "--start", start)
    assert _train(market, tmp_path / "third", *third, "--max-minutes", "0") == 0
    assert "network and head" in capsys.readouterr().out
    capsys.readouterr()
    wide = (*OSNET, "--set", "width=0.5", "--epochs", "1", "--start", start)
    assert _train(market, tmp_path / "wide", *wide) == 1
    said = capsys.readouterr().err
    assert f"{start}: conv1.conv.weight is (16, 3, 7, 7), expected (32, 3, 7, 7): begin with a checkpoint of" in said
    assert said.count("\n") == 1
    (tmp_path / "first" / "run" / "checkpoint.pt").unlink()
    assert _train(market, tmp_path / "third", *third) == 0
    assert "network and head" not in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "third" / "run" / "checkpoint.pt").recipe["start"] == start


def test_what_the_weights_have_seen_goes_with_them_from_run_to_run(market, tmp_path):
    def seen(name):
        return checkpoint.load(tmp_path / name / "run" / "checkpoint.pt").data_sets

    short = (*OSNET, "--epochs", "1", "--max-minutes", "0")
    assert _train(market, tmp_path / "first", *short) == 0
    assert seen("first") == ["market1501"]
    first = tmp_path / "first" / "run" / "checkpoint.pt"
    assert _train(market, tmp_path / "second", *short, "--data", "duke", "--start", str(first)) == 0
    assert seen("second") == ["market1501", "duke"]
    assert _train(market, tmp_path / "third", *short, "--data", "duke", "--weights", str(first.parent)) == 0
    assert seen("third") == ["market1501", "duke"]
    theirs = tmp_path / "osnet_x0_25.pth"
    torch.save(checkpoint.load(first).network, theirs)
    assert _train(market, tmp_path / "fourth", *short, "--data", "duke", "--weights", str(theirs)) == 0
    assert seen("fourth") == ["unknown (weights osnet_x0_25.pth)", "duke"]
    first.unlink()  # going on needs no second look at it
    assert _train(market, tmp_path / "second", *OSNET, "--epochs", "1", "--data", "duke", "--start", str(first)) == 0
    assert seen("second") == ["market1501", "duke"]
    best = checkpoint.load(tmp_path / "second" / "run" / "best.pt")
    assert best.data_sets == ["market1501", "duke"]


def test_what_became_of_somebody_else_s_weights_is_said(market, tmp_path, capsys):
    network, head = osnet.build(osnet.OSNetRecipe(width=0.25), 751)
    theirs = {f"module.{name}": value for name, value in (network.state_dict() | head.state_dict()).items()}
    torch.save({"state_dict": theirs}, tmp_path / "theirs.pth")
    short = (*OSNET, "--epochs", "1", "--max-minutes", "0", "--weights")
    assert _train(market, tmp_path, *short, str(tmp_path / "theirs.pth")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{len(network.state_dict())} matched; 2 skipped (classifier.weight, classifier.bias)" in said
    torch.save({"backbone.weight": torch.zeros(3)}, tmp_path / "others.pth")
    assert _train(market, tmp_path / "second", *short, str(tmp_path / "others.pth")) == 1
    error = capsys.readouterr().err
    assert "none of its 1 entries fits the network" in error
    assert "--from-scratch" in error
    assert error.count("\n") == 1


def test_where_nothing_can_be_written_is_said_before_the_data_are_read(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "checkpoint.pt").mkdir(parents=True)
    data = ["--data", "market1501", "--root", "nowhere"]
    for output, said in (
        (tmp_path / "file", "file is a file; name a folder"),
        (tmp_path / "file" / "run", "file is a file; name a folder"),
        ("/proc/x", "nothing can be written there"),
        (tmp_path / ("x" * 300), "nothing can be written there (File name too long)"),
        (tmp_path / "taken", f"{tmp_path / 'taken' / 'checkpoint.pt'} is a folder; name another --output"),
        ("", "'--output': it is empty; . is the folder you are in"),
    ):
        assert status_of(["train", "osnet", *data, "--output", str(output)]) == 2
        line = capsys.readouterr().err
        assert said in line
        assert line.count("\n") == 1


def test_a_run_of_another_recipe_is_refused_before_the_data_are_read(market, tmp_path, capsys):
    assert _train(market, tmp_path, *OSNET, "--epochs", "1", "--max-minutes", "0") == 0
    capsys.readouterr()
    for changes, said in (
        (["--seed", "9"], "was trained with seed = 1, asked is 9"),
        (["--root", "nowhere"], "nowhere: no such folder"),  # which may differ, so now the data are looked for
    ):
        status = _train(market, tmp_path, *OSNET, "--epochs", "1", "--root", "nowhere", *changes)
        assert status in (1, 2)
        assert said in capsys.readouterr().err


def test_people_held_out_choose_the_best_checkpoint(market, tmp_path):
    assert _train(market, tmp_path, *OSNET, "--epochs", "2", "--set", "val_ids=3", "--set", "val_every=1") == 0
    best = checkpoint.load(tmp_path / "run" / "best.pt")
    assert best.best.keys() == {"epoch", "mAP"}
    assert 0 < best.best["mAP"] <= 1


TINY = {
    "osnet": (*OSNET, "--set", "augment=flip"),
    "eprinet": ("--set", "learning_rate=2e-3", "--set", "warmup_epochs=0"),
    "magnifiernet": ("--set", "sd=false"),
    "mgre": ("--set", "warmup_epochs=0"),
}


@pytest.mark.parametrize("method", TINY)
def test_every_method_learns_a_few_people_by_heart_and_is_scored(method, market, tmp_path, capsys):
    few = ("--people", "4", "--set", "batch_pictures=2", "--from-scratch", "--epochs", "6")
    assert _train(market, tmp_path, *few, *TINY[method], method=method) == 0
    rows = checkpoint.load(tmp_path / "run" / "checkpoint.pt").history
    losses = [sum(value for key, value in row.items() if key.startswith("loss/")) for row in rows]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    ((rank1, rank5, rank10, mean_ap, mean_inp),) = _scored(tmp_path / "run", ["by cosine"], capsys)
    assert 0 < rank1 <= rank5 <= rank10 <= 100
    assert 0 < mean_inp <= mean_ap <= 100


def _scored(run, rows, capsys):
    """The figures of some rows of the tables that `sightline evaluate` prints."""
    assert status_of(["evaluate", str(run), "--threads", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    lines = [next(line for line in said if line.startswith(f"{row}  ")).removeprefix(row) for row in rows]
    return [[float(figure) for figure in line.split()] for line in lines]


def test_person_search_learns_a_few_frames_by_heart_and_is_scored(prw, tmp_path, capsys):
    run = ["--data", "prw", "--root", str(prw), "--output", str(tmp_path / "run"), "--threads", "1", "--epochs", "6"]
    keys = (
        "backbone=googlenet", "input_hw=[96, 128]", "learning_rate=5e-3", "precision=fp32", "queue=4", "rois=8",
        "max_proposals_test=20",
    )  # fmt: skip
    small = [word for key in keys for word in ("--set", key)]
    assert status_of(["train", "person-search", *run, *small, "--from-scratch"]) == 0
    saved = checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    assert saved.counts == {"pictures": 4, "people": 2}
    losses = [sum(value for key, value in row.items() if key.startswith("loss/")) for row in saved.history]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    found, searched = _scored(tmp_path / "run", ["detection", "seqnet"], capsys)
    average_precision, recall, people = found
    assert 0 <= average_precision <= recall <= 100
    assert people == 8
    mean_ap, *top, queries = searched
    assert 0 <= mean_ap <= 100
    assert top == sorted(top)
    assert queries == 2


def test_ctrl_c_saves_and_leaves_with_status_130(market, tmp_path):
    words = ["train", "osnet", "--data", "market1501", "--root", str(market), "--output", str(tmp_path / "run")]
    words += ["--set", "input_hw=[64, 32]", "--set", "batch_people=4", *OSNET, "--epochs", "100000", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from deploy.cli import main; main()", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    best = tmp_path / "run" / "best.pt"
    while not best.exists():  # the first epoch is over
        assert process.poll() is None, process.communicate()[1]
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out.splitlines()[-1].endswith("checkpoint.pt is saved; the same command goes on")
    assert err == "sightline: interrupted\n"
    assert checkpoint.load(tmp_path / "run" / "checkpoint.pt").step >= 1


def test_torchrun_spreads_the_command_and_one_process_speaks(market, tmp_path):
    words = ["train", "osnet", "--data", "market1501", "--root", str(market), "--output", str(tmp_path / "run")]
    words += ["--set", "input_hw=[64, 32]", "--set", "batch_people=2", "--set", "batch_pictures=2", *OSNET]
    words += ["--set", "precision=fp32", "--epochs", "1", "--json", str(tmp_path / "report.json")]
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command = [sys.executable, *run, sys.executable, "-c", "from deploy.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("schedule complete") == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["finished"]
    assert report["step"] == 4  # of an epoch's eight batches each process trains on four
    assert status_of(["evaluate", str(tmp_path / "run"), "--threads", "1"]) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        pytest.param(["evaluate", "no.pt"], 1, "no checkpoint at no.pt", id="nothing to evaluate"),
        pytest.param(["evaluate", "no-such-bundle"], 1, "no bundle is named", id="no such bundle"),
        pytest.param(
            ["export", "no.pt", "--output", "b", "--name", "n"], 1, "no checkpoint at no.pt", id="nothing to export"
        ),
        pytest.param(["resnet"], 2, "expected one of osnet", id="unknown method"),
        pytest.param(["osnet", "--recipe", "no.toml"], 2, "the recipe no.toml cannot be read", id="missing recipe"),
        pytest.param(["mgre", "--recipe", "osnet.toml"], 2, "osnet.toml is a recipe for osnet", id="other method"),
        pytest.param(["osnet", "--recipe", "wrong.toml"], 2, "unknown key epoch: did you mean epochs", id="key in a file"),
        pytest.param(
            ["mgre", "--recipe", "nameless.toml"], 2, 'nameless.toml names no method: add the line method = "mgre"', id="no method"
        ),
        pytest.param(["osnet", "--root", "x"], 2, "root = 'x': data is synthetic, which is drawn", id="root of drawn data"),
        pytest.param(
            ["osnet", "--data", "synthetic-mix", "--set", "root=x"], 2, "name the set that lies there with --data", id="root of the mix"
        ),
        pytest.param(["osnet", "--recipe", "root.toml"], 2, "root = 'x': data is synthetic", id="root in a file, no data"),
        pytest.param(["osnet", "--weights", "."], 1, "weights = '.' is a folder without a checkpoint.pt", id="folder of weights"),
        pytest.param(["osnet", "--set", "widht=1"], 2, "unknown key widht: did you mean width", id="key on the line"),
        pytest.param(["osnet", "--set", "width"], 2, "expected KEY=VALUE", id="key without value"),
        pytest.param(["osnet", "--precision", "fp8"], 2, "precision = 'fp8' is refused", id="precision"),
        pytest.param(
            ["osnet", "--from-scratch", "--weights", "imagenet"], 2, "take one of them", id="weights and from scratch"
        ),
        pytest.param(
            ["osnet", "--from-scratch", "--start", "a.pt"], 2, "--from-scratch and start = 'a.pt': take one of them",
            id="start and from scratch",
        ),
        pytest.param(
            ["osnet", "--set", "method=mgre"], 2, "the method is the command's first word, which is osnet",
            id="another method among the keys",
        ),
        pytest.param(
            ["mgre", "--recipe", "osnet.toml", "--set", "method=mgre"], 2, "the method is the command's first word",
            id="another method's recipe under this one's name",
        ),
        pytest.param(["osnet", "--data", "market1502"], 2, "did you mean market1501", id="unknown data set"),
        pytest.param(["osnet", "--data", "market1501"], 2, "--root", id="no root"),
        pytest.param(["osnet", "--data", "market1501", "--root", "nowhere"], 1, "nowhere", id="missing data"),
        pytest.param(["detector", "--data", "prw"], 2, "synthetic scenes only", id="detector on other data"),
    ],
)  # fmt: skip
def test_wrong_usage_ends_in_one_line(arguments, status, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "osnet.toml").write_text('method = "osnet"\n')
    (tmp_path / "nameless.toml").write_text("")
    (tmp_path / "root.toml").write_text('method = "osnet"\nroot = "x"\n')
    (tmp_path / "wrong.toml").write_text('method = "osnet"\nepoch = 3\n')
    train = [] if arguments[0] in ("evaluate", "export") else ["train", "--output", "run"]
    assert status_of([*train, *arguments]) == status
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_drawn_people_are_trained_on_from_scratch_at_half_size_unless_told_otherwise():
    plain = make_run_recipe("eprinet", None, {})
    assert (plain.input_hw, plain.weights, plain.data) == ((192, 96), "", "synthetic")
    told = make_run_recipe("eprinet", None, {"input_hw": [256, 128], "weights": "imagenet"})
    assert (told.input_hw, told.weights) == ((256, 128), "imagenet")
    real = make_run_recipe("eprinet", None, {"data": "market1501"})
    assert (real.input_hw, real.weights) == ((384, 192), "imagenet")


def test_a_recipe_with_a_folder_is_tried_on_drawn_people(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('method = "osnet"\ndata = "market1501"\nroot = "/data"\n')
    assert make_run_recipe("osnet", path, {"data": "synthetic"}).data == "synthetic"


def test_drawn_scenes_are_searched_at_their_own_size_with_anchors_as_large_as_their_people():
    scenes = make_run_recipe("person-search", None, {"people": 12})
    assert (scenes.input_hw, scenes.anchors, scenes.weights) == ((352, 640), (31, 63, 125), "")
    assert make_run_recipe("person-search", None, {"data": "prw"}).anchors == (128, 256, 512)


def test_settings_are_read_as_toml_and_else_as_text():
    settings = ["input_hw=[64, 32]", "width=0.5", "sfb = ab", 'data="prw"', "mask=false"]
    assert overrides_of({"seed": None, "epochs": 3}, settings, from_scratch=True) == {
        "epochs": 3, "input_hw": [64, 32], "width": 0.5, "sfb": "ab", "data": "prw", "mask": False, "weights": "", "start": "",
    }  # fmt: skip
    with pytest.raises(UsageError, match="such as --set"):
        overrides_of({}, ["=3"], from_scratch=False)


def test_a_terminal_gets_a_bar_and_anything_else_lines():
    shown = {}
    for terminal in (True, False):
        out = io.StringIO()
        with Bar(Console(file=out, force_terminal=terminal, width=100), "training osnet") as bar:
            bar.at(0.25, "loss 3.1, 40 pictures/s")
        shown[terminal] = out.getvalue()
    assert "━" in shown[True]
    assert "loss 3.1, 40 pictures/s" in shown[True]
    assert shown[False] == "training osnet: 25.0% loss 3.1, 40 pictures/s\n"


def test_what_is_left_is_said_in_hours_and_minutes():
    assert [duration(s) for s in (7, 3599, 3600, 100_000)] == ["0 min 07 s", "59 min 59 s", "1 h 00 min", "27 h 46 min"]


@pytest.mark.parametrize("method", METHODS)
def test_the_command_of_every_variant_makes_its_recipe(method):
    import shlex

    for variant, keys in method_module(method).ABLATIONS.items():
        words = shlex.split(command(method, variant, keys))
        settings = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
        made = make_recipe({"method": method, **overrides_of({}, settings, from_scratch=False)}, variant)
        assert made == make_recipe({"method": method, **keys}, variant), variant


@pytest.mark.parametrize(
    ("method", "variant", "embedding", "parameters", "with_people", "multiply_adds"),
    [
        pytest.param("osnet", "x0.25", 512, 201_864, 587_127, 82_314_880, id="osnet"),
        pytest.param("eprinet", "as published", 1280, 5_491_549, 7_414_109, 1_543_970_816, id="eprinet"),
        pytest.param("magnifiernet", "as published", 4096, 37_817_928, 47_062_600, 11_174_281_216, id="magnifiernet"),
        pytest.param("mgre", "as published", 2048, 37_697_308, 39_235_356, 7_894_730_496, id="mgre"),
        pytest.param("person-search", "DenseNet-121", 256, 11_968_695, 11_968_695, 161_117_034_496, id="person search"),
        pytest.param("detector", "as published", None, 1_087_064, 1_087_064, 641_165_824, id="detector"),
    ],
)
def test_parameters_and_multiply_adds_of_methods_are_counted(
    method, variant, embedding, parameters, with_people, multiply_adds, monkeypatch
):
    module = method_module(method)
    kept = {name: keys for name, keys in module.ABLATIONS.items() if name == variant}
    monkeypatch.setattr(module, "ABLATIONS", kept)
    row = describe(method)[-1]
    assert row["variant"] == variant
    counted = [row[key] for key in ("embedding", "parameters", "training_parameters", "multiply_adds")]
    assert counted == [embedding, parameters, with_people, multiply_adds]
    assert row["losses"]
    assert row["paper"]


def test_a_narrow_terminal_gets_every_number_of_a_method_whole_and_no_variant_twice(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    report = tmp_path / "methods.json"
    assert status_of(["methods", "osnet", "--json", str(report)]) == 0
    said = capsys.readouterr().out
    rows = json.loads(report.read_text())
    assert "…" not in said
    assert all(f"{row[key]:,}" in said for row in rows for key in ("parameters", "training_parameters"))
    trained = [row["command"].split(" --output ")[0] for row in rows]
    assert len(set(trained)) == len(trained)


def test_methods_are_listed_on_a_terminal_and_as_data(tmp_path, capsys):
    report = tmp_path / "methods.json"
    assert status_of(["methods", "detector", "--json", str(report)]) == 0
    said = capsys.readouterr().out
    assert "1,087,064" in said
    assert "sightline train detector --data synthetic" in said
    (row,) = json.loads(report.read_text())
    assert row["input_hw"] == [256, 416]
    assert row["losses"] == ["score", "box"]
    assert status_of(["methods", "resnet"]) == 2
    assert "there is no method 'resnet'" in capsys.readouterr().err


@pytest.mark.parametrize("method", METHODS)
def test_the_keys_of_a_method_are_printed_as_the_recipe_file_they_may_stand_in(method, tmp_path, capsys):
    report = tmp_path / "keys.json"
    assert status_of(["methods", method, "--keys", "--json", str(report)]) == 0
    (tmp_path / "own.toml").write_text(capsys.readouterr().out)
    assert read_recipe(tmp_path / "own.toml") == make_recipe({"method": method}, "the method's own values")
    rows = {row["key"]: row for row in json.loads(report.read_text())}
    assert set(rows) == set(method_module(method).RECIPE.model_fields)
    assert rows["epochs"]["meaning"] == "Length of the whole schedule.", (
        "every method has its own value and one meaning"
    )
    assert rows["precision"]["choices"] == ["bf16", "fp16", "fp32"]


def test_the_keys_of_several_methods_would_be_no_recipe(capsys):
    assert status_of(["methods", "--keys"]) == 2
    assert "--keys prints the recipe of one method: name one of osnet," in capsys.readouterr().err
