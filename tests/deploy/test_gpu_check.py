"""`make gpu-check` as far as it goes without a GPU: it says so in a line, and its script runs through on the stand-in."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bundle import write_bundle
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
    assert [line.partition(" has cosine")[0] for line in said] == ["gpu-check: tiny-embedder: embedding"] * 3
    report = json.loads((tmp_path / "out" / "gpu-check.json").read_text())
    assert {row["bundle"] for row in report["rows"]} == {"osnet"}
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
