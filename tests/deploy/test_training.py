import json

import cv2
import numpy as np
import pytest
import torch

from deploy.cli import status_of


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """24 people of one colour each, twice on each of two cameras, in Market-1501's layout."""
    root = tmp_path_factory.mktemp("market")
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (24, 3))
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder).mkdir()
        for person, colour in enumerate(colours, start=1):
            for camera in (1, 2):
                for number in (1, 2):
                    picture = np.clip(colour + rng.integers(-30, 30, (64, 32, 3)), 0, 255).astype(np.uint8)
                    cv2.imwrite(str(root / folder / f"{person:04d}_c{camera}s1_{number:06d}_00.jpg"), picture)
    return root


RECIPE = """
method = "osnet"
input_hw = [64, 32]
batch_people = 4
steps = 2
precision = "fp32"
"""


def _train(market, folder, *options):
    (folder / "recipe.toml").write_text(RECIPE)
    given = ["--recipe", str(folder / "recipe.toml"), "--data", str(market), "--output", str(folder / "run")]
    return status_of(["train", "osnet", *given, "--threads", "1", *options])


def test_a_folder_of_labelled_crops_is_trained_on_in_pieces_and_judged(market, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert _train(market, tmp_path, "--max-minutes", "0", "--json", str(report)) == 0
    assert json.loads(report.read_text())["finished"] is False
    assert _train(market, tmp_path, "--json", str(report)) == 0
    said = json.loads(report.read_text())
    assert said["finished"] is True
    assert said["step"] == 2
    checkpoint = str(tmp_path / "run" / "checkpoint.pt")
    assert status_of(["evaluate", checkpoint, "--data", str(market), "--threads", "1", "--json", str(report)]) == 0
    scores = json.loads(report.read_text())
    assert 0 <= scores[f"{market.name}/rank1"] <= 1
    assert "rank1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        pytest.param(["train", "resnet", "--output", "run"], 2, "expected one of osnet, detector", id="unknown method"),
        pytest.param(
            ["train", "osnet", "--recipe", "no.toml", "--output", "run"], 2, "the recipe no.toml cannot be read",
            id="missing recipe",
        ),
        pytest.param(
            ["train", "detector", "--recipe", "osnet.toml", "--output", "run"], 2, "osnet.toml is a recipe for osnet",
            id="recipe of another method",
        ),
        pytest.param(
            ["train", "osnet", "--recipe", "wrong.toml", "--output", "run"], 2, "unknown key stepz: did you mean steps",
            id="unknown key",
        ),
        pytest.param(["train", "osnet", "--data", "nowhere", "--output", "run"], 1, "is missing", id="missing data"),
        pytest.param(
            ["train", "detector", "--data", "nowhere", "--output", "run"], 2, "synthetic scenes only",
            id="detector on crops",
        ),
        pytest.param(["evaluate", "no.pt"], 1, "no checkpoint at no.pt", id="missing checkpoint"),
        pytest.param(["evaluate", "no-such-bundle"], 1, "no bundle is named", id="missing bundle"),
        pytest.param(
            ["export", "no.pt", "--output", "b", "--name", "n"], 1, "no checkpoint at no.pt", id="nothing to export"
        ),
    ],
)  # fmt: skip
def test_wrong_usage_ends_in_one_line(arguments, status, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "osnet.toml").write_text('method = "osnet"\n')
    (tmp_path / "wrong.toml").write_text('method = "osnet"\nstepz = 3\n')
    assert status_of(arguments) == status
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
