"""`make gpu-check` as far as it goes without a GPU: it says so in a line, and its script runs through on the stand-in."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bundle import Bundle, load_bundle, write_bundle
from stream.errors import BundleError
from tests.deploy import tiny_models
from tests.deploy.host_gpu import Gpu
from trainer.methods.osnet import OSNetRecipe

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, with a tiny model in place of the shipped ones and no patience for timing."""
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, card, inputs = tiny_models.embedder(), tiny_models.embedder_card(), tiny_models.pictures(3)
    golden = {"inputs": inputs} | OnnxRuntimeBackend(model, card).infer(inputs)
    write_bundle(tmp_path / "shipped" / "tiny", model, card, golden, tiny_models.links())
    monkeypatch.setattr(module, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(module, "NETWORKS", {"osnet": OSNetRecipe(width=0.25, input_hw=(64, 32))})
    monkeypatch.setattr(module, "SECONDS", 0.0)
    # tiny_models has no learned layers to convert, so the precisions are the same graph; test_precision.py converts
    monkeypatch.setattr(module.precision, "convert", lambda graph, kind, pixels: graph)
    monkeypatch.setattr(module.drawn, "training_pictures", lambda kind, count: list(tiny_models.pictures(4, (30, 20))))
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--json", str(tmp_path / "out" / "gpu-check.json")])
    return module


def test_engines_are_built_proven_and_timed(
    host_gpu: Gpu, script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main() == 0
    said = capsys.readouterr().out
    assert "Host GPU (compute capability 9.0)" in said
    assert "| bundle | precision | batch | ms | images/s |" in said
    report = json.loads((tmp_path / "out" / "gpu-check.json").read_text())
    assert [(row["precision"], row["batch"]) for row in report["rows"]] == [
        *((kind, n) for kind in ("fp32", "fp16", "int8") for n in (1, 4, 16)),
        *(("fp32", n) for n in (1, 32, 128)),
    ]
    assert not host_gpu.live


def test_a_model_that_answers_wrongly_is_status_1_and_the_others_are_measured(
    host_gpu: Gpu, script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, card, inputs = tiny_models.embedder(), tiny_models.embedder_card(), tiny_models.pictures(3)
    golden = {"inputs": inputs, "embedding": np.roll(OnnxRuntimeBackend(model, card).infer(inputs)["embedding"], 1, 0)}
    write_bundle(tmp_path / "shipped" / "tiny", model, card, golden, tiny_models.links())
    assert script.main() == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" has cosine")[0] for line in said] == [
        f"gpu-check: tiny {kind}: tiny-embedder: embedding" for kind in ("as shipped", "fp16", "int8")
    ]
    report = json.loads((tmp_path / "out" / "gpu-check.json").read_text())
    assert {row["bundle"] for row in report["rows"]} == {"osnet"}
    assert [f"gpu-check: {line}" for line in report["failed"]] == said
    assert not host_gpu.live


def measured(tmp_path: Path) -> list[str]:
    rows = json.loads((tmp_path / "out" / "gpu-check.json").read_text())["rows"]
    return list(dict.fromkeys(f"{row['bundle']} {row['precision']}" for row in rows))


def test_a_precision_that_a_model_does_not_bear_is_said_and_no_fault(
    host_gpu: Gpu,
    script: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(graph: bytes, kind: str, pixels: object) -> bytes:
        if kind == "fp16":
            raise BundleError("no layer of this network can be fp16: keep the graph as it is")
        return graph

    monkeypatch.setattr(script.precision, "convert", refuse)
    monkeypatch.setattr(script, "NETWORKS", {})
    assert script.main() == 0
    assert capsys.readouterr().err == (
        "gpu-check: tiny fp16 is not tried: no layer of this network can be fp16: keep the graph as it is\n"
    )
    assert measured(tmp_path) == ["tiny-embedder fp32", "tiny-embedder int8"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        pytest.param(BundleError("drawn\nwrongly"), "drawn wrongly", id="ours"),
        pytest.param(
            TypeError("set_shape(): incompatible function arguments.\nThe following are supported:"),
            f"TypeError: set_shape(): incompatible function arguments. The following are supported: ({__file__}:",
            id="an API that is another than was read",
        ),
    ],
)
def test_what_fails_before_or_in_tensorrt_is_a_line_and_the_others_are_measured(
    host_gpu: Gpu,
    script: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    said: str,
) -> None:
    prove, tiny = script.plan_of, load_bundle(tmp_path / "shipped" / "tiny")

    def fail_for_the_first(name: str, recipe: object, folder: Path) -> object:
        if name == "first":
            raise error
        card = msgspec.structs.replace(tiny.card, name=name)
        return write_bundle(folder, tiny.model.read_bytes(), card, tiny.golden(), tiny.links), None

    def fail_for_int8(bundle: Bundle, **options: object) -> object:
        if bundle.card.precision == "int8":
            raise error
        return prove(bundle, **options)

    monkeypatch.setattr(script, "NETWORKS", dict.fromkeys(["first", "second"]))
    monkeypatch.setattr(script, "random_bundle", fail_for_the_first)
    monkeypatch.setattr(script, "plan_of", fail_for_int8)
    assert script.main() == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line[: line.index(said)] for line in lines] == [
        "gpu-check: tiny int8: ",
        "gpu-check: first with random weights: ",
    ]
    assert measured(tmp_path) == ["tiny-embedder fp32", "tiny-embedder fp16", "second fp32"]
    assert not host_gpu.live


@pytest.mark.skipif(importlib.util.find_spec("pycuda") is not None, reason="pycuda is installed here")
def test_without_a_gpu_the_script_ends_with_one_line_and_status_1() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gpu-check: TensorRT needs pycuda, which is not installed")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there may be a GPU here")
def test_without_a_gpu_make_says_so_before_it_installs_anything() -> None:
    done = subprocess.run(
        ["make", "-s", "gpu-check"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert done.stdout == "gpu-check: no NVIDIA GPU can be seen (nvidia-smi -L): run it on a machine with one\n"


@pytest.mark.parametrize("tests", [0, 1])
@pytest.mark.parametrize("script_status", [0, 1])
def test_make_runs_the_tests_and_the_script_and_fails_where_either_does(
    tmp_path: Path, tests: int, script_status: int
) -> None:
    """In a folder of its own, where every command is a stub that says its name."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    status = {"pytest": tests, "python": script_status}
    for name in ("nvidia-smi", "nvcc", ".venv/bin/pip", ".venv/bin/pytest", ".venv/bin/python"):
        stub = tmp_path / name
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text(f"#!/bin/sh\necho {stub.name} $1\nexit {status.get(stub.name, 0)}\n")
        stub.chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    done = subprocess.run(
        ["make", "-s", "gpu-check"],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines()[-2:] == ["pytest tests/deploy/test_gpu.py", "python benchmarks/gpu_check.py"]
    assert (done.returncode != 0) == bool(tests or script_status), done.stderr
