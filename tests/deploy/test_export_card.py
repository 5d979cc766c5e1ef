"""What an export says of a model on its card: a name that a card may have, what the weights have seen, and under which licence."""

from pathlib import Path

import cv2
import onnx
import pytest
import torch

from deploy.bundle import load_bundle
from deploy.cli import status_of
from deploy.exporting import seen_on_card
from tests.deploy import tiny_models
from tests.deploy.test_bundle import write
from trainer import checkpoint
from trainer.checkpoint import Checkpoint
from trainer.methods.detector import DetectorRecipe, PersonDetector

pytestmark = pytest.mark.usefixtures("one_thread")

DRAWN = "synthetic: drawn people of ingest.synthetic"
SMALL = ("--name", "tiny", "--height", "64", "--width", "96")


def _saved(folder: Path, data_sets: list[str]) -> Path:
    recipe = DetectorRecipe(input_hw=(64, 96), start="runs/detector/checkpoint.pt").model_dump(mode="json")
    torch.manual_seed(0)
    checkpoint.save(folder / "run.pt", Checkpoint(recipe, 1.0, 1, PersonDetector().state_dict(), data_sets=data_sets))
    return folder / "run.pt"


@pytest.mark.parametrize(
    ("data_sets", "asked", "on_card", "licence"),
    [
        pytest.param(["synthetic"], "", (DRAWN,), "Apache-2.0", id="drawn"),
        pytest.param(["synthetic-mix", "synthetic"], "", (DRAWN,), "Apache-2.0", id="drawn, then drawn"),
        pytest.param(["synthetic"], "MIT", (DRAWN,), "MIT", id="drawn, with a licence"),
        pytest.param(
            ["market1501", "synthetic"], "", (DRAWN, "market1501"), "unknown: see the terms of market1501",
            id="real, then drawn",
        ),
        pytest.param(
            ["imagenet (weights of torchvision)", "market1501"], "CC-BY-NC-4.0",
            ("imagenet (weights of torchvision)", "market1501"), "CC-BY-NC-4.0", id="real, with a licence",
        ),
    ],
)  # fmt: skip
def test_all_that_the_weights_have_seen_is_named_and_no_licence_claimed_for_others_pictures(
    data_sets: list[str], asked: str, on_card: tuple[str, ...], licence: str
) -> None:
    assert seen_on_card(data_sets, asked) == (on_card, licence)


@pytest.mark.parametrize(
    ("data_sets", "words", "on_card", "licence"),
    [
        pytest.param([], ["--licence", "MIT"], (DRAWN,), "MIT", id="of before data sets were told, with a licence"),
        pytest.param(
            ["unknown (weights x.pth)", "synthetic"], [], (DRAWN, "unknown (weights x.pth)"),
            "unknown: see the terms of unknown (weights x.pth)", id="somebody's weights, then drawn",
        ),
    ],
)  # fmt: skip
def test_what_a_checkpoint_has_seen_stands_on_the_card_and_in_the_graph(
    data_sets: list[str],
    words: list[str],
    on_card: tuple[str, ...],
    licence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["export", str(_saved(tmp_path, data_sets)), "--output", str(tmp_path / "b"), *SMALL, *words]
    assert status_of(command) == 0
    card = load_bundle(tmp_path / "b").card
    assert card.data_sets == on_card
    assert card.synthetic_only is (on_card == (DRAWN,))
    assert card.licence == licence
    metadata = {one.key: one.value for one in onnx.load(tmp_path / "b" / "model.onnx").metadata_props}
    assert metadata["licence"] == licence
    said = " ".join(capsys.readouterr().out.split())
    assert "in fp32 it passed the gate in ONNX Runtime and OpenVINO " in said
    assert (f"licence: {licence}; once you know it, say it with --licence" in said) is licence.startswith("unknown")


def test_a_checkpoint_in_another_precision_passes_the_gate_of_that_in_every_runtime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scenes").mkdir()
    for place, scene in enumerate(tiny_models.pictures(64, (64, 96))):
        cv2.imwrite(str(tmp_path / "scenes" / f"{place}.png"), scene)
    _saved(tmp_path, []).rename(tmp_path / "checkpoint.pt")  # and a run's folder stands for it
    command = ["export", str(tmp_path), "--output", str(tmp_path / "b"), *SMALL, "--precision", "fp16"]
    assert status_of([*command, "--calibration", str(tmp_path / "scenes")]) == 0
    assert "in fp16 it passed the gate in ONNX Runtime and OpenVINO\n" in capsys.readouterr().out
    assert load_bundle(tmp_path / "b").card.precision == "fp16"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["--name", "Market OSNet"], "--name Market OSNet: expected small letters, digits", id="name"),
        pytest.param(["--name", "x" * 65], "at most 64, like my-osnet", id="long name"),
        pytest.param(["--name", "tiny", "--version", "1 beta"], "--version 1 beta: expected small letters", id="version"),
    ],
)  # fmt: skip
def test_a_name_that_no_card_may_have_is_refused_and_the_bundle_that_was_there_stays(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = write(tmp_path / "b")
    before = {path.name: path.read_bytes() for path in there.path.iterdir()}
    assert status_of(["export", "no.pt", "--output", str(there.path), *words]) == 2  # before the checkpoint is read
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert {path.name: path.read_bytes() for path in there.path.iterdir()} == before


@pytest.mark.parametrize(
    ("height", "width", "said"),
    [
        pytest.param("100", "64", "the input is 100x64, expected multiples of 32 up to 4096", id="no multiple"),
        pytest.param("64", "8192", "the input is 64x8192, expected multiples of 32 up to 4096", id="too wide"),
    ],
)
def test_a_size_that_no_bundle_may_have_is_refused_before_the_work(
    height: str,
    width: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deploy.exporting.export", lambda *_, **__: pytest.fail("it was exported"))
    command = ["export", str(_saved(tmp_path, [])), "--output", str(tmp_path / "b"), "--name", "tiny"]
    assert status_of([*command, "--height", height, "--width", width]) == 2
    assert said in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = _saved(tmp_path, [])
    (tmp_path / "file").write_text("")
    for output, said in (
        (str(tmp_path / "file"), "is a file; name a folder"),
        ("/proc/x", "nothing can be written"),
        ("", "it is empty"),
    ):
        assert status_of(["export", str(saved), "--output", output, *SMALL]) == 2
        assert said in capsys.readouterr().err
