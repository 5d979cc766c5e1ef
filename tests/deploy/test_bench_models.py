"""`sightline bench models`: what is measured, what is counted, and how it is written."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy import bench_models, bench_networks
from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bench_models import EAGER, EVERY, Row, draw, table
from deploy.bench_peak import multiply_adds
from deploy.bundle import Bundle, load_bundle, write_bundle
from deploy.cli import status_of
from deploy.precision_graph import Graph
from stream.errors import BundleError
from tests.deploy import tiny_models
from trainer.methods.osnet import OSNetRecipe


def bundle_at(folder: Path, *, right: bool = True, graph: bytes | None = None) -> Path:
    """In the bundle is `graph` in place of the model, if any."""
    model, inputs = tiny_models.embedder(), tiny_models.pictures(3)
    card = msgspec.structs.replace(tiny_models.embedder_card(), name=folder.name)
    golden = {"inputs": inputs} | OnnxRuntimeBackend(model, card).infer(inputs if right else 255 - inputs)
    return write_bundle(folder, graph or model, card, golden, tiny_models.links()).path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine does at most takes seconds to measure, and is another test's."""
    monkeypatch.setattr(bench_models, "peaks", lambda threads: {"fp32": 1e11})


def test_every_backend_is_measured_and_one_that_answers_wrongly_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    good, bad = bundle_at(tmp_path / "good"), bundle_at(tmp_path / "bad", right=False)
    report, picture = tmp_path / "models.json", tmp_path / "models.png"
    command = ["bench", "models", str(good), str(bad), "--json", str(report), "--picture", str(picture)]
    assert status_of(command) == 0
    found = json.loads(report.read_text())
    measured = [row for row in found["rows"] if row["pictures_per_second"]]
    refused = [row for row in found["rows"] if row["refused"]]
    assert len(measured) == len(refused) >= 2
    assert {row["backend"] for row in measured} == {row["backend"] for row in refused} >= {"onnxruntime fp32"}
    for row in measured:
        assert row["batch"] == 4  # the card's, not the 8 that were asked for
        assert row["ms_per_batch"] == pytest.approx(4000 / row["pictures_per_second"], rel=0.02, abs=0.01)
        share = row["gmacs_per_second"] / found["peak_gmacs_per_second"][row["precision"]]
        assert row["of_peak"] == pytest.approx(share, abs=1e-3)
        assert 0 <= row["of_peak"] < 1
    assert all("embedding has cosine" in row["refused"] for row in refused)
    assert found["peak_gmacs_per_second"]["fp32"] > 1
    assert picture.read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "torch eager" not in said, "nobody said which network the bundles are of"
    assert "…" not in said, "a narrow terminal gets every number whole"
    assert all(f"{row['pictures_per_second']:.1f}" in said for row in measured)


@pytest.mark.usefixtures("quick")
def test_a_bundle_that_cannot_be_measured_is_a_row_and_the_others_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed, garbage, good = bundle_at(tmp_path / "mixed"), tmp_path / "garbage", bundle_at(tmp_path / "good")
    bundle_at(garbage, graph=b"garbage, no onnx")
    other = write_bundle(
        tmp_path / "other", tiny_models.embedder() + b"\x0a\x00", load_bundle(mixed).card, load_bundle(mixed).golden()
    )
    card = json.loads((mixed / "card.json").read_text())
    card["digests"]["golden.npz"] = other.card.digests["golden.npz"]
    (mixed / "card.json").write_text(json.dumps(card))
    (mixed / "golden.npz").write_bytes((other.path / "golden.npz").read_bytes())
    report, picture = tmp_path / "models.json", tmp_path / "models.png"
    command = ["bench", "models", *map(str, (mixed, garbage, good)), "--json", str(report), "--picture", str(picture)]
    assert status_of(command) == 0
    by_model: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(report.read_text())["rows"]:
        by_model.setdefault(row["model"], []).append(row)
    (refused,) = by_model["mixed"]
    assert refused["backend"] == EVERY
    assert f"{mixed / 'golden.npz'}: golden outputs of another model" in refused["refused"]
    assert all(row["refused"] for row in by_model["garbage"])
    assert all(row["pictures_per_second"] for row in by_model["good"])
    assert picture.exists()
    said = capsys.readouterr()
    assert f"mixed in {EVERY} is refused: {mixed / 'golden.npz'}" in said.out
    assert "garbage in onnxruntime fp32 is refused: " in said.out
    assert said.err == ""


@pytest.mark.usefixtures("quick")
def test_where_no_bundle_is_named_one_that_is_damaged_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, damaged = bundle_at(tmp_path / "good"), bundle_at(tmp_path / "damaged")
    with (damaged / "model.onnx").open("ab") as file:
        file.write(b"more")
    monkeypatch.setattr(bench_models, "names", lambda: [str(damaged), str(good)])
    report = tmp_path / "models.json"
    assert status_of(["bench", "models", "--json", str(report)]) == 0
    first, *others = json.loads(report.read_text())["rows"]
    assert (first["model"], first["backend"]) == (str(damaged), EVERY)
    assert "altered or damaged" in first["refused"]
    assert {row["model"] for row in others if row["pictures_per_second"]} == {"good"}


def test_bundles_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [str(bundle_at(tmp_path / place / "alike")) for place in ("first", "second")]
    own = str(bundle_at(tmp_path / "own"))
    subjects = bench_models.of_bundles([*paths, own], 1, [])
    assert [subject.name for subject in subjects] == [*paths, "own"]


@pytest.mark.usefixtures("quick", "one_thread")
def test_networks_of_the_methods_are_proved_and_measured_beside_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second network is the first again, its golden outputs turned round: no runtime gives those."""
    recipe = OSNetRecipe(width=0.25, input_hw=(64, 32), depths=(1,), fusion="add")

    def write(folder: Path, model: bytes, card: Any, golden: dict[str, Any], **more: Any) -> Bundle:
        if folder.name == "wrong":
            golden = golden | {"embedding": -golden["embedding"]}
        return really_write(folder, model, card, golden, **more)

    really_write = bench_networks.write_bundle
    monkeypatch.setattr(bench_networks, "NETWORKS", {"right": recipe, "wrong": recipe})
    monkeypatch.setattr(bench_networks, "write_bundle", write)
    report = tmp_path / "methods.json"
    assert status_of(["bench", "models", "--methods", "--batch", "2", "--json", str(report)]) == 0
    rows = json.loads(report.read_text())["rows"]
    right, wrong = ([row for row in rows if row["model"] == model] for model in ("right", "wrong"))
    (eager,) = [row for row in right if row["backend"] == EAGER]
    assert {"onnxruntime fp32", EAGER} <= {row["backend"] for row in right}
    for row in right:
        assert not row["refused"]
        assert row["batch"] == 2
        assert row["ms_per_batch"] == pytest.approx(2000 / row["pictures_per_second"], rel=0.02, abs=0.01)
        assert row["gmacs_per_second"] > 0
        assert row["times_torch"] == pytest.approx(
            row["pictures_per_second"] / eager["pictures_per_second"], rel=1e-3, abs=0.006
        )
    assert eager["times_torch"] == 1
    assert [row["backend"] for row in wrong if not row["refused"]] == [EAGER]
    assert all("embedding has cosine -" in row["refused"] for row in wrong if row["refused"])
    assert {row["backend"] for row in wrong} == {row["backend"] for row in right}
    assert "x torch eager" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--methods", "osnet-x0.25"], "leave the bundles out", id="methods and bundles"),
        pytest.param(["no-such-bundle"], "no bundle is named 'no-such-bundle'", id="unknown bundle"),
        pytest.param(["--picture", "/no/such/folder/a.png"], "does not exist", id="no folder for the picture"),
        pytest.param(["--picture", "a.foo"], "--picture a.foo: a PNG is drawn there", id="no name of a PNG"),
        pytest.param(["--picture", "a"], "give a name that ends in .png", id="no suffix"),
        pytest.param(["--batch", "0"], "--batch", id="no pictures"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["bench", "models", *arguments]) != 0
    told, error = capsys.readouterr()
    assert said in error
    assert error.count("\n") == 1
    assert told == "", "nothing was measured"


def test_multiply_adds_are_those_counted_by_hand() -> None:
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["maps"], strides=[2, 2], pads=[1, 1, 1, 1], group=2),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix"], ["gemm"]),
        helper.make_node("MatMul", ["gemm", "square"], ["out"]),
    ]
    constants = {
        "kernel": np.zeros((8, 2, 3, 3), np.float32),
        "matrix": np.zeros((8, 5), np.float32),
        "square": np.zeros((5, 5), np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "counted",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ("n", 4, 16, 8))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ("n", 5))],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    convolution = 8 * 4 * (8 * 2 * 3 * 3)  # a map of 8 x 4, a kernel of 3 x 3 over 2 of the channels for each of 8
    assert multiply_adds(model.SerializeToString()) == convolution + 8 * 5 + 5 * 5


@pytest.mark.parametrize("model", [b"garbage, no onnx", tiny_models.embedder()[:-5]], ids=["garbage", "cut short"])
def test_bytes_that_are_no_graph_have_no_multiply_adds_and_say_so(model: bytes) -> None:
    assert multiply_adds(model) is None
    with pytest.raises(BundleError, match=r"^the model is no ONNX graph: make the bundle again with"):
        Graph(model)


def test_the_shipped_embedder_has_a_quarter_of_the_papers_multiply_adds() -> None:
    """82 million are published for OSNet x0.25 at 256x128; ours takes 128x64."""
    assert multiply_adds(load_bundle("osnet-x0.25").model.read_bytes()) == pytest.approx(82e6 / 4, rel=0.02)


def test_beside_torch_every_row_says_how_many_times_torch_it_is() -> None:
    rows = [
        Row(model="a", backend="openvino bf16", batch=8, pictures_per_second=75.0, ms_per_batch=1.0, memory_mb=1.0, times_torch=7.5),
        Row(model="a", backend="torch eager fp32", batch=8, pictures_per_second=10.0, ms_per_batch=8.0, memory_mb=1.0, times_torch=1.0),
    ]  # fmt: skip
    last = table(rows).columns[-1]
    assert (last.header, list(last.cells)) == ("x torch eager", ["7.5", "1.0"])


def test_rows_that_were_refused_are_not_drawn(tmp_path: Path) -> None:
    rows = [
        Row(model="a", backend="onnxruntime fp32", batch=8, pictures_per_second=100.0),
        Row(model="a", backend="openvino bf16", batch=8, refused="not equal"),
    ]
    draw(rows, tmp_path / "rows.png")
    assert (tmp_path / "rows.png").stat().st_size > 1000
