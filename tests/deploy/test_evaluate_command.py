import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from clips import write_clip

from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bundle import write_bundle
from deploy.cli import status_of
from deploy.exporting import card_scores
from stream.errors import DataError
from tests.deploy import tiny_models
from trainer import checkpoint
from trainer.checkpoint import Checkpoint
from trainer.methods import method_module
from trainer.settings import make_recipe

pytestmark = pytest.mark.usefixtures("one_thread")


def _market(root, cameras=(1, 2, 3)):
    """Six people of one colour each, once in query and once in the gallery on every camera, and a distractor."""
    colours = np.random.default_rng(0).integers(0, 255, (7, 3))
    rng = np.random.default_rng(1)
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder).mkdir(parents=True)
        for person in range(0 if folder == "bounding_box_test" else 1, 7):
            for camera in cameras:
                picture = np.clip(colours[person] + rng.integers(-30, 30, (48, 24, 3)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(root / folder / f"{person:04d}_c{camera}s1_000001_00.jpg"), picture)
    return root


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return _market(tmp_path_factory.mktemp("market"))


def _run(folder, method, **keys):
    """A training's output folder whose network was never trained."""
    recipe = make_recipe({"method": method, "weights": "", **keys}, "a test")
    torch.manual_seed(0)
    network = method_module(method).embedder(recipe)
    saved = Checkpoint(recipe.model_dump(mode="json"), 1.0, 1, network.state_dict())
    folder.mkdir(exist_ok=True)
    checkpoint.save(folder / "checkpoint.pt", saved)
    return folder


@pytest.fixture(scope="module")
def osnet(tmp_path_factory, market):
    return _run(
        tmp_path_factory.mktemp("run"), "osnet", width=0.25, input_hw=[64, 32], data="market1501", root=str(market)
    )


def _scores(tmp_path, *arguments):
    path = tmp_path / "scores.json"
    assert status_of(["evaluate", *map(str, arguments), "--threads", "1", "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_a_training_is_scored_on_what_it_was_trained_on_in_all_the_field_s_figures(osnet, market, tmp_path, capsys):
    pictures = tmp_path / "[pictures]"  # as the terminal shows it, not as a colour
    scores = _scores(tmp_path, osnet, "--rerank", "--pictures", pictures)
    for way in ("", "_camera_means_removed", "_euclidean", "_reranked"):
        figures = [scores[f"market1501/{name}{way}"] for name in ("rank1", "rank5", "rank10", "mAP", "mINP")]
        assert all(0 <= value <= 1 for value in figures)
        assert figures[0] <= figures[1] <= figures[2]
    pairs = scores["camera_pairs"]["market1501"]
    assert {(pair["query_camera"], pair["gallery_camera"]) for pair in pairs} == {
        (a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a != b
    }
    said = capsys.readouterr().out
    assert "18 queries" in said
    assert "21 gallery pictures" in said
    assert "re-ranked" in said
    assert "not as published" in said
    assert f"{pictures}/cmc-market1501.png: CMC curves" in said
    assert {path.name for path in pictures.iterdir()} == {"ranked-market1501.png", "cmc-market1501.png"}
    card = card_scores([tmp_path / "scores.json"])
    assert card["market1501/mAP"] == round(scores["market1501/mAP"], 4)
    assert "camera_pairs" not in card
    # checkpoint and folder are the same model, and a set's name and its folder the same pictures
    again = _scores(tmp_path, osnet / "checkpoint.pt", "--data", market)
    assert again[f"{market.name}/mAP"] == scores["market1501/mAP"]
    assert "not as published" not in capsys.readouterr().out  # named by their folder, they are the user's own


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A bundle that tells people apart by their mean colour."""
    bundle, golden = tmp_path_factory.mktemp("colours"), tiny_models.pictures(2)
    model, card = tiny_models.embedder(), tiny_models.embedder_card()
    expected = OnnxRuntimeBackend(model, card).infer(golden)["embedding"]
    write_bundle(bundle, model, card, {"inputs": golden, "embedding": expected}, tiny_models.links())
    return bundle


def test_colours_find_their_people_and_erasing_is_told(colours, tmp_path, market, capsys):
    scores = _scores(tmp_path, colours, "--data", "market1501", "--root", market)
    assert scores["market1501/rank1"] > 0.8
    erased = _scores(tmp_path, colours, "--data", "market1501", "--root", market, "--erase", "1")
    assert erased["market1501/mAP"] < scores["market1501/mAP"]
    assert "erased with probability 1.0" in capsys.readouterr().out


def test_a_bundle_is_scored_in_the_runtime_that_is_asked_for(colours, market, tmp_path, capsys):
    sets = ("--data", "market1501", "--root", market)
    plain = _scores(tmp_path, colours, *sets)
    other = _scores(tmp_path, colours, *sets, "--backend", "openvino")
    figures = [name for name in plain if name != "camera_pairs"]
    assert {name: other[name] for name in figures} == pytest.approx({name: plain[name] for name in figures}, abs=0.02)
    assert status_of(["evaluate", str(colours), *map(str, sets), "--backend", "torch"]) == 1
    assert "torch runs the checkpoint that a bundle was exported from" in capsys.readouterr().err  # it was really asked


def test_an_embedder_is_compared_with_another_on_footage(colours, tmp_path, capsys):
    # the red square of the clip is person 1, the grey wall is person 2
    clip = write_clip(tmp_path / "clip.mp4", frames=40)
    lines = ["frame,x1,y1,x2,y2,person"]
    for frame in (0, 19, 39):
        lines += [f"{frame},{frame * 4},120,{frame * 4 + 40},180,1", f"{frame},250,190,290,240,2"]
    (tmp_path / "people.csv").write_text("\n".join(lines))
    film = ("--video", clip, "--reference", colours, "--people", tmp_path / "people.csv")
    scores = _scores(tmp_path, colours, *film)
    assert scores["clip.mp4/rank1"] == scores["clip.mp4/separation"] == 1
    assert scores[f"agreement_clip.mp4/{colours}/spearman"] == pytest.approx(1)
    assert status_of(["evaluate", str(colours), *map(str, film), "--backend", "torch"]) == 1
    assert "torch runs the checkpoint that a bundle was exported from" in capsys.readouterr().err  # there too


def test_models_trained_on_one_set_are_tabled_on_others(osnet, market, tmp_path, capsys):
    other = _market(tmp_path / "elsewhere", cameras=(1, 2))
    there = _run(tmp_path / "second", "osnet", width=0.25, input_hw=[64, 32], data="duke", root=str(other))
    sets = ("--data", "market1501", "--root", market, "--data", "duke", "--root", other)
    result = _scores(tmp_path, osnet, there, *sets)
    assert [one["trained_on"] for one in result["models"]] == ["market1501", "duke"]
    for one in result["models"]:
        assert {"market1501/rank1", "duke/rank1"} <= one["scores"].keys()
    with pytest.raises(DataError, match="of one model"):
        card_scores([tmp_path / "scores.json"])
    table = capsys.readouterr().out
    assert "trained on" in table
    assert "withdrawn by its owners" in table


def test_every_model_has_pictures_of_its_own(osnet, market, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b", "more/a"):
        shutil.copytree(osnet, folder)
    shutil.copy(osnet / "checkpoint.pt", "a/best.pt")
    pictures = tmp_path / "pictures"
    models = ("a/checkpoint.pt", "b/checkpoint.pt", "a/best.pt", "more/a", "b/../b")
    _scores(tmp_path, *models, "--pictures", pictures)
    begin = ("a", "b", "a-2", "a-3", "b-2")
    assert {path.name for path in pictures.iterdir()} == {
        f"{kind}-{name}-market1501.png" for kind in ("ranked", "cmc") for name in begin
    }


def test_what_a_model_began_with_is_named_with_what_it_was_trained_on(market, tmp_path, capsys):
    run = _run(tmp_path / "run", "osnet", width=0.25, input_hw=[64, 32], data="market1501", root=str(market))
    saved = checkpoint.load(run / "checkpoint.pt")
    checkpoint.save(run / "checkpoint.pt", replace(saved, data_sets=["msmt17", "market1501"]))
    _scores(tmp_path, run)
    assert "trained on msmt17, market1501" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["eprinet", "magnifiernet", "mgre"])
def test_a_checkpoint_of_any_method_is_scored(method, market, tmp_path):
    run = _run(tmp_path / "run", method, input_hw=[64, 32], data="market1501", root=str(market))
    assert 0 <= _scores(tmp_path, run)["market1501/mAP"] <= 1


def test_one_camera_only_says_that_nothing_is_left(osnet, tmp_path, capsys):
    root = _market(tmp_path / "one", cameras=(1,))
    assert status_of(["evaluate", str(osnet), "--data", "market1501", "--root", str(root), "--threads", "1"]) == 1
    said = capsys.readouterr().err
    assert "all pictures are of one camera" in said
    assert "nothing is left" in said
    assert len(said.splitlines()) == 1


@pytest.fixture(scope="module")
def prw(tmp_path_factory):
    """Four test frames of two cameras with two people each, one of them named twice; train is the same."""
    root = tmp_path_factory.mktemp("prw")
    for folder in ("frames", "annotations"):
        (root / folder).mkdir()
    names = [f"c{camera}s1_{number:06d}" for camera in (1, 2) for number in (1, 2)]
    rng = np.random.default_rng(0)
    for name in names:
        cv2.imwrite(str(root / "frames" / f"{name}.jpg"), rng.integers(0, 255, (72, 128, 3), dtype=np.uint8))
        boxes = np.array([[1, 10, 10, 20, 50], [2, 60, 12, 20, 50], [-2, 100, 12, 20, 50]], float)
        scipy.io.savemat(root / "annotations" / f"{name}.jpg.mat", {"box_new": boxes})
    for split in ("train", "test"):
        index = np.array([[name] for name in names], dtype=object)
        scipy.io.savemat(root / f"frame_{split}.mat", {f"img_index_{split}": index})
    (root / "query_info.txt").write_text("1 10 10 20 50 c1s1_000001\r\n2 60 12 20 50 c2s1_000001\r\n")
    return root


def test_a_person_search_is_scored_by_every_protocol(prw, tmp_path, capsys):
    run = _run(
        tmp_path / "run", "person-search", backbone="googlenet", input_hw=[64, 128], data="prw", root=str(prw),
        max_proposals_test=30, anchor_sizes=[16, 32, 64],
    )  # fmt: skip
    scores = _scores(tmp_path, run, "--pictures", tmp_path / "pictures")
    for rule in ("", "_iou75"):
        assert 0 <= scores[f"prw/detection{rule}/AP"] <= scores[f"prw/detection{rule}/recall"] <= 1
        for gallery in ("seqnet", "cross_cam"):
            assert 0 <= scores[f"prw/{gallery}{rule}/mAP"] <= 1
    assert 0 <= scores["prw/original/mAP"] <= 1
    said = capsys.readouterr().out
    assert "2 queries (0 without an answer left out), 4 frames" in said
    assert "cross_cam_iou75" in said
    assert (tmp_path / "pictures" / "ranked-prw.png").is_file()


def test_a_person_search_trained_on_crops_is_scored_on_crops_and_told_apart(market, tmp_path, capsys):
    run = _run(
        tmp_path / "run", "person-search", backbone="googlenet", input_hw=[64, 32], data="market1501", root=str(market)
    )
    assert 0 <= _scores(tmp_path, run)["market1501/mAP"] <= 1
    assert "these figures are no search's" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        pytest.param(["--data", "market1501"], 2, "market1501 needs its folder: give one --root", id="no root"),
        pytest.param(["--data", "synthetic", "--root", "x"], 2, "no --data left", id="root of nothing"),
        pytest.param(["--root", "nowhere"], 1, "nowhere: no such folder", id="its own set elsewhere"),
        pytest.param(["--root", "x", "--root", "y"], 2, "one --root for it", id="two roots for its own set"),
        pytest.param(["--data", "markt1501"], 2, "did you mean market1501", id="unknown set"),
        pytest.param(["--data", "market1501", "--root", "nowhere"], 1, "no such folder", id="missing folder"),
        pytest.param(["--data", "prw", "--root", "x"], 2, "is one of whole scenes", id="scenes for an embedder"),
        pytest.param(
            ["--data", "duke", "--root", "x", "--data", "duke", "--root", "y"], 2, "two sets are called duke",
            id="the same name twice",
        ),
        pytest.param(["--video", "a.mp4", "--data", "duke"], 2, "one model and no --data", id="video and data"),
        pytest.param(["--video", "a.mp4"], 2, "--video needs --reference", id="video alone"),
        pytest.param(["--erase", "2"], 2, "erase", id="impossible share"),
        pytest.param(["--backend", "openvino"], 2, "is a checkpoint, which torch runs", id="a checkpoint's runtime"),
        pytest.param(["--backend", "onyx"], 2, "'onyx' is not one of", id="no such runtime"),
    ],
)  # fmt: skip
def test_wrong_usage_ends_in_one_line(arguments, status, message, osnet, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert status_of(["evaluate", str(osnet), *arguments]) == status
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_a_folder_that_is_no_model_is_said(tmp_path, capsys):
    assert status_of(["evaluate", str(tmp_path)]) == 1
    assert "neither a checkpoint.pt" in capsys.readouterr().err
    assert status_of(["evaluate", str(tmp_path / "later")]) == 1
    assert "later: not there; name a training's output folder, a checkpoint.pt, or" in capsys.readouterr().err


def test_a_folder_for_pictures_that_cannot_be_made_is_said_before_the_work(osnet, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    assert status_of(["evaluate", str(osnet), "--pictures", str(Path(tmp_path / "taken" / "in"))]) == 2
    assert "no folder can be made there" in capsys.readouterr().err
