"""`sightline export BUNDLE --precision ...`: the same model in another precision, or one line that says why not."""

import json
import re
from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnx
import pytest

from deploy import backends, gate
from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.backends.openvino import OpenVinoBackend
from deploy.bundle import SHIPPED, Bundle, load_bundle, write_bundle
from deploy.cli import status_of
from deploy.converting import calibration_pictures
from deploy.precision import convert
from stream.errors import BundleError, DataError
from tests.deploy import tiny_models

EMBEDDER = str(SHIPPED / "osnet-x0.25")


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 64 pictures, half of them in a folder of their own."""
    folder = tmp_path_factory.mktemp("crops")
    (folder / "more").mkdir()
    golden = load_bundle(EMBEDDER).golden()["inputs"]
    for place in range(64):
        moved = np.roll(golden[place % len(golden)], place - 32, 0)
        cv2.imwrite(str(folder / ("more" if place % 2 else "") / f"{place:02}.png"), moved[..., ::-1])
    return folder


def test_a_bundle_is_written_again_in_half_precision(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "half"
    command = ["export", EMBEDDER, "--precision", "fp16", "--calibration", str(crops), "--output", str(output)]
    assert status_of([*command, "--json", str(tmp_path / "said.json")]) == 0
    assert "in fp16 it passed the gate in ONNX Runtime and OpenVINO\n" in capsys.readouterr().out
    before, after = load_bundle(EMBEDDER), load_bundle(output)
    assert after.card.precision == "fp16"
    assert after.card.name == "osnet-x0.25-fp16"
    assert after.card.scores == {}
    assert before.card.digest[:12] in after.card.source
    assert after.links == before.links
    assert np.array_equal(after.golden()["embedding"], before.golden()["embedding"])
    said = json.loads((tmp_path / "said.json").read_text())
    assert said["bytes"] == after.model.stat().st_size < 0.6 * before.model.stat().st_size
    words = {one.key: one.value for one in onnx.load(after.model).metadata_props}
    assert words["precision"] == "fp16"
    assert words["name"] == "osnet-x0.25-fp16"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_without_openvino_onnx_runtime_s_word_is_enough(
    precision: str, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda package: None)  # as in the base install
    _joined(tmp_path / "joined", quantised=False)
    assert status_of(_command(tmp_path, precision, crops)) == 0
    assert f"in {precision} it passed the gate in ONNX Runtime\n" in capsys.readouterr().out
    monkeypatch.undo()
    backends.load(load_bundle(tmp_path / "out")).close()


def test_layers_that_one_runtime_gets_wrong_in_int8_are_kept(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = _joined(tmp_path / "joined", quantised=False)
    pictures = calibration_pictures("embedder", (32, 16), crops)
    inputs, expected = bundle.answers()
    card = msgspec.structs.replace(bundle.card, precision="int8")
    alone = convert(bundle.model.read_bytes(), "int8", pictures)
    assert _int8(onnx.load_from_string(alone)) == {"second.weight", "third.weight"}
    gate.check(OnnxRuntimeBackend(alone, card), expected, inputs)
    with pytest.raises(BundleError, match="embedding has cosine"):
        gate.check(OpenVinoBackend(alone, card), expected, inputs)
    assert status_of(_command(tmp_path, "int8", crops)) == 0
    assert "in int8 it passed the gate in ONNX Runtime and OpenVINO\n" in capsys.readouterr().out
    assert _int8(onnx.load(tmp_path / "out" / "model.onnx")) == {"third.weight"}


def test_what_one_runtime_gets_wrong_is_no_bundle(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The graph is of int8 already and its card does not say so: fp16 leaves that part as it is."""
    _joined(tmp_path / "joined", quantised=True)
    assert status_of(_command(tmp_path, "fp16", crops)) == 1
    said = capsys.readouterr().err
    assert re.match(
        r"sightline: tiny-embedder: embedding has cosine 0\.\d+ to what is expected \(at least 0\.999\)", said
    )
    assert said.endswith(", in OpenVINO, in fp16: nothing was written, keep fp32\n")
    assert not (tmp_path / "out").exists()


def test_a_bundle_whose_model_is_no_graph_is_refused_in_one_line(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = _joined(tmp_path / "joined", quantised=False)
    write_bundle(bundle.path, b"garbage, no onnx", bundle.card, bundle.golden(), bundle.links)
    assert status_of(_command(tmp_path, "fp16", crops)) == 1
    assert (
        "tiny-embedder: the model is no ONNX graph: make the bundle again with `sightline adopt`"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def _joined(folder: Path, *, quantised: bool) -> Bundle:
    """As ONNX Runtime answers."""
    model, inputs = tiny_models.joined(quantised=quantised), tiny_models.pictures(3, (32, 16))
    card = tiny_models.embedder_card((32, 16))
    golden = {"inputs": inputs} | OnnxRuntimeBackend(model, card).infer(inputs)
    return write_bundle(folder, model, card, golden, tiny_models.links())


def _command(folder: Path, precision: str, calibration: Path) -> list[str]:
    source, output = str(folder / "joined"), str(folder / "out")
    return ["export", source, "--precision", precision, "--calibration", str(calibration), "--output", output]


def _int8(model: onnx.ModelProto) -> set[str]:
    """Weights that are int8."""
    stored = [each.name for each in model.graph.initializer]
    return {name.removesuffix("/int8") for name in stored if name.endswith(".weight/int8")}


def test_pictures_of_a_folder_reach_the_network_as_the_stream_s_do(crops: Path) -> None:
    pictures = calibration_pictures("embedder", (128, 64), crops)
    assert pictures.shape == (64, 128, 64, 3)
    golden = load_bundle(EMBEDDER).golden()["inputs"]
    assert any(np.array_equal(pictures[0], one) for one in (np.roll(each, -32, 0) for each in golden))
    assert calibration_pictures("detector", (96, 64), crops).shape == (64, 96, 64, 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--precision", "fp16", "--calibration", "few"], "0 .jpg and .png pictures, at least 64", id="few pictures"),
        pytest.param(["--calibration", "few"], "--calibration is for --precision fp16 and int8", id="fp32 needs no pictures"),
        pytest.param(["--precision", "int8", "--height", "64"], "a bundle has its own", id="another size"),
        pytest.param(["--precision", "int4"], "int4", id="unknown precision"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("few").mkdir()
    assert status_of(["export", EMBEDDER, "--output", "out", *arguments]) in (1, 2)
    assert said in " ".join(capsys.readouterr().err.split())
    assert not Path("out").exists()


def test_what_was_converted_is_not_converted_again(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _written(tmp_path / "half", "fp16", 0)
    command = ["export", str(tmp_path / "half"), "--precision", "int8", "--calibration", str(crops)]
    assert status_of([*command, "--output", str(tmp_path / "out")]) == 2
    assert "is a bundle in fp16 and int8 was asked for: one in fp32 is written again" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize("source", ["osnet-x0.25", EMBEDDER], ids=["by name", "by folder"])
def test_a_bundle_without_a_precision_is_told_what_is_missing(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(["export", source, "--output", str(tmp_path / "out")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "is a bundle in fp32 and fp32 was asked for: one in fp32 is written again with --precision fp16 or int8" in said
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("output", "words", "said"),
    [
        pytest.param("tiny", [], "is tiny itself, which would be lost: name another folder", id="the source"),
        pytest.param("link", [], "is tiny itself, which would be lost", id="the source by another name"),
        pytest.param("file", [], "file is a file; name a folder", id="a file"),
        pytest.param("/proc/x", [], "nothing can be written there", id="no place to write"),
        pytest.param("out", ["--name", "Tiny Half"], "--name Tiny Half: expected small letters", id="name"),
        pytest.param("out", ["--version", "1 b"], "--version 1 b: expected small letters", id="version"),
        pytest.param("out", ["--licence", "MIT"], "a bundle has its own", id="licence"),
    ],
)
def test_what_would_spoil_a_bundle_is_refused_before_the_work(
    output: str,
    words: list[str],
    said: str,
    crops: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = _written(Path("tiny"), "fp32", 0)
    Path("link").symlink_to("tiny")
    Path("file").write_text("")
    command = ["export", "tiny", "--precision", "fp16", "--calibration", str(crops / "nowhere"), "--output", output]
    assert status_of([*command, *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert load_bundle("tiny").card == before.card
    assert not Path("out").exists()


def test_a_file_that_is_no_picture_is_named(crops: Path, tmp_path: Path) -> None:
    for place in range(64):
        (tmp_path / f"{place}.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0\.jpg: is no picture"):
        calibration_pictures("embedder", (128, 64), tmp_path)


def test_a_bundle_is_held_to_the_limits_of_its_precision_when_it_is_loaded(tmp_path: Path) -> None:
    backends.load(_written(tmp_path / "int8", "int8", 0.992)).close()
    for precision, cosine in (("fp16", 0.992), ("fp32", 0.992), ("int8", 0.985)):
        with pytest.raises(BundleError, match="embedding has cosine"):
            backends.load(_written(tmp_path / precision, precision, cosine))


def _written(folder: Path, precision: str, cosine: float) -> Bundle:
    """A bundle whose golden vectors have `cosine` to what its graph gives; 0: exactly those."""
    model, inputs = tiny_models.embedder(), tiny_models.pictures(3)
    card = tiny_models.embedder_card()
    vectors = OnnxRuntimeBackend(model, card).infer(inputs)["embedding"]
    if cosine:
        across = np.random.default_rng(0).normal(size=vectors.shape)
        across -= (across * vectors).sum(1, keepdims=True) * vectors
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        vectors = (cosine * vectors + np.sqrt(1 - cosine**2) * across).astype(np.float32)
    card = msgspec.structs.replace(card, precision=precision)
    return write_bundle(folder, model, card, {"inputs": inputs, "embedding": vectors}, tiny_models.links())
