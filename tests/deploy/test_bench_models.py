"""`sightline bench models`: what is measured, what is counted, and how it is written."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bench_models import Row, draw, table
from deploy.bench_peak import multiply_adds
from deploy.bundle import load_bundle, write_bundle
from deploy.cli import status_of
from tests.deploy import tiny_models


def bundle_at(folder: Path, *, right: bool = True) -> Path:
    model, card, inputs = tiny_models.embedder(), tiny_models.embedder_card(), tiny_models.pictures(3)
    golden = {"inputs": inputs} | OnnxRuntimeBackend(model, card).infer(inputs if right else 255 - inputs)
    return write_bundle(folder, model, card, golden, tiny_models.links()).path


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--methods", "osnet-x0.25"], "leave the bundles out", id="methods and bundles"),
        pytest.param(["no-such-bundle"], "no bundle is named 'no-such-bundle'", id="unknown bundle"),
        pytest.param(["--picture", "/no/such/folder/a.png"], "does not exist", id="no folder for the picture"),
        pytest.param(["--batch", "0"], "--batch", id="no pictures"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["bench", "models", *arguments]) != 0
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


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
