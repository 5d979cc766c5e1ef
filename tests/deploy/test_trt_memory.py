"""Memory of the TensorRT runtime, on a stand-in for the GPU: allocated once, freed in order, and nothing left behind where it is full."""

from pathlib import Path

import numpy as np
import pytest

from deploy.backends import Candidate, auto
from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.backends.trt import TensorRTBackend
from deploy.bundle import Bundle
from stream.errors import DeviceError
from tests.deploy import host_gpu as host_gpu_module
from tests.deploy import tiny_models
from tests.deploy.host_gpu import Gpu
from tests.deploy.test_bundle import write


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(tmp_path / "tiny")


def test_buffers_are_allocated_once_and_all_freed(host_gpu: Gpu, bundle: Bundle) -> None:
    backend = TensorRTBackend(bundle)
    held = set(host_gpu.live)
    for n in (1, 4, 9):
        backend.infer(tiny_models.pictures(n))
    assert set(host_gpu.live) == held
    backend.close()
    backend.close()
    assert not host_gpu.live
    with pytest.raises(ValueError, match="closed"):
        backend.infer(tiny_models.pictures(1))


def test_contexts_go_first_then_memory_and_streams_then_the_engine_then_its_runtime(
    host_gpu: Gpu, bundle: Bundle
) -> None:
    backend = TensorRTBackend(bundle)
    backend.infer(tiny_models.pictures(5))
    backend.infer_pictures([tiny_models.pictures(1)[0]] * 5, "stretch")
    host_gpu.gone.clear()
    backend.close()
    slot = ["context", *["memory"] * 4, "stream"]  # input, output, jobs, pictures of any size
    assert host_gpu.gone == [*slot, *slot, "engine", "runtime"]


def tiny_bytes(host_gpu: Gpu, bundle: Bundle) -> int:
    """Device memory that a backend holds."""
    backend = TensorRTBackend(bundle)
    held = sum(array.nbytes for array in host_gpu.live.values())
    backend.close()
    return held


def test_a_backend_that_finds_no_memory_for_its_second_slot_lets_go_of_all_in_order(
    host_gpu: Gpu, bundle: Bundle
) -> None:
    host_gpu.room = tiny_bytes(host_gpu, bundle) - 1
    host_gpu.gone.clear()
    with pytest.raises(DeviceError, match="memory is full") as caught:
        TensorRTBackend(bundle)
    # kept, with the variables of the calls that failed: all is gone all the same
    assert caught.value.__traceback__
    second, first = ["context", "memory", "memory", "stream"], ["context", *["memory"] * 3, "stream"]
    assert host_gpu.gone == [*second, *first, "engine", "runtime"]
    assert not host_gpu.live


def test_a_runtime_that_fails_keeps_no_memory_while_the_others_are_measured(
    host_gpu: Gpu, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "SECONDS", 0.0)
    host_gpu.room = tiny_bytes(host_gpu, bundle) - 1
    host_gpu.gone.clear()

    def on_cpu() -> OnnxRuntimeBackend:
        assert host_gpu.gone[-2:] == ["engine", "runtime"]
        return OnnxRuntimeBackend(bundle.model, bundle.card)

    candidates = [
        Candidate("tensorrt", "fp32", lambda: TensorRTBackend(bundle)),
        Candidate("onnxruntime", "fp32", on_cpu),
    ]
    assert "memory is full" in auto.choice_of(bundle, 1, candidates).refused[candidates[0].name]


def test_a_slot_without_memory_for_its_pictures_does_not_go_on_with_what_it_freed(
    host_gpu: Gpu, bundle: Bundle
) -> None:
    small, large = ([np.full((side, side, 3), 50 * place, np.uint8) for place in range(4)] for side in (20, 400))
    backend = TensorRTBackend(bundle)
    want = backend.infer_pictures(small, "stretch")["embedding"]
    host_gpu.room = sum(array.nbytes for array in host_gpu.live.values())
    with pytest.raises(DeviceError, match="memory is full"):
        backend.infer_pictures(large, "stretch")
    np.testing.assert_array_equal(backend.infer_pictures(small, "stretch")["embedding"], want)
    host_gpu.room = 1 << 40
    assert backend.infer_pictures(large, "stretch")["embedding"].shape == want.shape
    backend.close()
    assert not host_gpu.live


@pytest.mark.parametrize("again", [False, True], ids=["closed at once", "used again"])
def test_work_that_is_queued_when_a_batch_fails_is_waited_for(host_gpu: Gpu, bundle: Bundle, again: bool) -> None:
    small, large = ([np.full((side, side, 3), 99, np.uint8)] * 4 for side in (20, 400))
    backend = TensorRTBackend(bundle)
    backend.infer_pictures([*small, *small], "stretch")
    host_gpu.room = sum(array.nbytes for array in host_gpu.live.values())
    with pytest.raises(DeviceError, match="memory is full"):
        backend.infer_pictures([*small, *large], "stretch")  # the first four are queued on the other slot
    host_gpu.room = 1 << 40
    if again:
        assert backend.infer_pictures(large, "stretch")["embedding"].shape == (4, 6)
    backend.close()
    assert not host_gpu.live


def test_memory_that_cannot_be_freed_does_not_keep_the_rest(
    host_gpu: Gpu, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backend = TensorRTBackend(bundle)
    first, free = next(iter(host_gpu.live)), host_gpu_module.Allocation.free

    def refuse(memory: host_gpu_module.Allocation) -> None:
        if memory.address == first:
            raise host_gpu_module.LogicError("cuMemFree failed: invalid argument")
        free(memory)

    monkeypatch.setattr(host_gpu_module.Allocation, "free", refuse)
    host_gpu.gone.clear()
    backend.close()
    assert list(host_gpu.live) == [first]
    assert "invalid argument" in caplog.text
    assert host_gpu.gone == [
        "context",
        *["memory"] * 2,
        "stream",
        "context",
        *["memory"] * 3,
        "stream",
        "engine",
        "runtime",
    ]
