"""`sightline build`: one line for everything that goes wrong, an engine with its proof where it goes right."""

import importlib.util
import json
import os
import signal
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from deploy import engine
from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bundle import Bundle, write_bundle
from deploy.cli import status_of
from tests.deploy import tiny_models
from tests.deploy.host_gpu import Gpu


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(tmp_path / "tiny", tiny_models.embedder())


def write(folder: Path, model: bytes) -> Bundle:
    card, inputs = tiny_models.embedder_card(), tiny_models.pictures(3)
    golden = {"inputs": inputs} | OnnxRuntimeBackend(model, card).infer(inputs)
    return write_bundle(folder, model, card, golden, tiny_models.links())


def with_a_node_it_does_not_take() -> bytes:
    """A graph that ONNX Runtime runs and TensorRT's parser does not take."""
    model = onnx.load_from_string(tiny_models.embedder())
    first = model.graph.node[0]
    pixels = first.output[0]
    first.output[0] = "cast"
    model.graph.node.insert(
        1, helper.make_node("MeanVarianceNormalization", ["cast"], ["normal"], axes=[1, 2], name="mvn")
    )
    model.graph.node.insert(2, helper.make_node("Bernoulli", ["cast"], ["noise"], name="planted", seed=1.0))
    model.graph.node.insert(3, helper.make_node("Identity", ["cast"], [pixels]))
    model.opset_import[0].version = 15
    return bytes(model.SerializeToString())


def test_an_engine_is_built_proven_and_kept(
    host_gpu: Gpu, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(["build", str(bundle.path), "--max", "2", "--json", str(tmp_path / "b.json")]) == 0
    said = capsys.readouterr().out
    assert "building it, which takes minutes" in said
    assert "batches of 1 to 2 (best 2) for Host GPU (9.0), TensorRT 11.4.0.106" in said
    assert "gives the golden outputs" in said
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["target"]["profile"] == {"least": 1, "best": 2, "most": 2}
    assert Path(report["engine"]).stat().st_size == report["bytes"]
    assert status_of(["build", str(bundle.path), "--max", "2"]) == 0
    assert "building it" not in capsys.readouterr().out
    assert host_gpu.builds == 1
    assert status_of(["build", str(bundle.path), "--max", "2", "--rebuild"]) == 0
    assert host_gpu.builds == 2


def test_after_an_update_of_tensorrt_the_engine_is_built_again(
    host_gpu: Gpu, bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status_of(["build", str(bundle.path)]) == 0
    import tensorrt

    monkeypatch.setattr(tensorrt, "__version__", "11.5.0.1")
    assert status_of(["build", str(bundle.path)]) == 0
    assert "was built by TensorRT 11.4.0.106, this is 11.5.0.1: building it" in capsys.readouterr().out
    assert host_gpu.builds == 2


def test_a_node_that_is_not_listed_is_named_and_the_parser_decides(
    host_gpu: Gpu, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list is older than some parsers."""
    planted = write(tmp_path / "planted", with_a_node_it_does_not_take())
    assert status_of(["build", str(planted.path)]) == 0
    assert "look Bernoulli planted: is not among the operators" in capsys.readouterr().out.replace("\n", " ")
    assert host_gpu.builds == 1
    host_gpu.not_taken.add("Bernoulli")
    assert status_of(["build", str(planted.path), "--rebuild"]) == 1
    said = capsys.readouterr().err
    assert "the parser does not take Bernoulli planted: no importer" in said
    assert said.count("\n") == 1
    assert host_gpu.builds == 1


def test_check_lists_such_nodes_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "planted.onnx"
    path.write_bytes(with_a_node_it_does_not_take())
    assert status_of(["build", str(path), "--check", "--json", str(tmp_path / "c.json")]) == 1
    assert "not taken Bernoulli planted" in capsys.readouterr().out
    report = json.loads((tmp_path / "c.json").read_text())
    assert [one["operator"] for one in report["unsupported"]] == ["Bernoulli"]
    assert status_of(["build", "osnet-x0.25", "--check"]) == 0
    assert "all taken" in capsys.readouterr().out


def test_check_names_an_operator_of_a_foreign_domain_whose_shapes_nobody_declared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load_from_string(tiny_models.embedder())
    first = model.graph.node[0]
    pixels, first.output[0] = first.output[0], "cast"
    model.graph.node.insert(1, helper.make_node("Mosaic", ["cast"], [pixels], domain="com.example", name="planted"))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path)
    assert status_of(["build", str(path), "--check"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "not taken Mosaic planted: is of the domain com.example, whose operators the parser does not know" in said
    assert "1 not taken by the parser's published list" in said


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        pytest.param(["no-such-bundle"], 1, "no bundle is named 'no-such-bundle'", id="no bundle"),
        pytest.param(["model.onnx"], 2, "engines are made of bundles", id="an ONNX file"),
        pytest.param(["missing.onnx", "--check"], 1, "cannot be read", id="no file"),
        pytest.param(
            ["osnet-x0.25", "--max", "4096"], 2, "expected 1 <= min <= opt <= max <= ", id="max beyond the card"
        ),
        pytest.param(["osnet-x0.25", "--min", "0"], 2, "--help", id="min 0"),
    ],
)
def test_what_cannot_be_built_is_one_line(
    host_gpu: Gpu, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, says: str
) -> None:
    assert status_of(["build", *arguments]) == status
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_sizes_are_looked_at_before_the_gpu_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["build", "osnet-x0.25", "--min", "8", "--max", "4"]) == 2
    assert capsys.readouterr().err.startswith("sightline: batch sizes are min 8, opt 4, max 4, expected 1 <= min")


@pytest.mark.skipif(importlib.util.find_spec("pycuda") is not None, reason="pycuda is installed here")
def test_without_pycuda_the_line_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["build", "osnet-x0.25"]) == 1
    assert capsys.readouterr().err == (
        "sightline: TensorRT needs pycuda, which is not installed: pip install -c constraints.txt -e '.[tensorrt]' (docs/tensorrt.md)\n"
    )


@pytest.mark.parametrize(
    ("module", "fault", "says"),
    [
        pytest.param(
            "pycuda.driver", "libcuda.so.1: cannot open shared object file", "there is no NVIDIA driver", id="no driver"
        ),
        pytest.param(
            "tensorrt",
            "libnvinfer.so.11: cannot open shared object file",
            "TensorRT cannot be loaded",
            id="no libnvinfer",
        ),
    ],
)
def test_a_library_that_is_missing_is_named(
    host_gpu: Gpu,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    module: str,
    fault: str,
    says: str,
) -> None:
    place = tmp_path / "broken" / (module.replace(".", "/") + ".py")
    place.parent.mkdir(parents=True)
    place.write_text(f"raise ImportError({fault!r})\n")
    if module != "tensorrt":
        (place.parent / "__init__.py").write_text("")
        monkeypatch.delitem(__import__("sys").modules, "pycuda")
    monkeypatch.delitem(__import__("sys").modules, module)
    monkeypatch.syspath_prepend(tmp_path / "broken")
    assert status_of(["build", "osnet-x0.25"]) == 1
    said = capsys.readouterr().err
    assert says in said
    assert fault in said
    assert said.count("\n") == 1


def test_an_old_tensorrt_is_refused(
    host_gpu: Gpu, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorrt

    monkeypatch.setattr(tensorrt, "__version__", "8.6.1")
    assert status_of(["build", "osnet-x0.25"]) == 1
    assert "TensorRT is 8.6.1, needed is 10 or newer" in capsys.readouterr().err


def test_an_interrupted_build_leaves_nothing(host_gpu: Gpu, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.progress import Progress

    def interrupt(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", interrupt)
        assert status_of(["build", str(bundle.path)]) == 130
    assert host_gpu.builds == 1
    assert {path.name for path in engine.engines().rglob("*") if path.is_file()} == {"lock"}
    assert not host_gpu.live


def test_the_golden_outputs_decide(
    host_gpu: Gpu, tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = dict(bundle.golden())
    golden["embedding"] = np.roll(np.asarray(golden["embedding"]), 1, axis=0)
    wrong = write_bundle(tmp_path / "wrong", bundle.model.read_bytes(), bundle.card, golden, bundle.links)
    assert status_of(["build", str(wrong.path)]) == 1
    assert "tiny-embedder: embedding" in capsys.readouterr().err
