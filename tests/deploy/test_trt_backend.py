"""The TensorRT runtime on a stand-in for the GPU: what is queued when, who waits for whom, and what every failure says."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from deploy import backends
from deploy.backends import Candidate, auto, cuda
from deploy.backends.cuda import explained
from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.backends.trt import TensorRTBackend, overlapped, plan_of
from deploy.bundle import SHIPPED, Bundle, load_bundle, write_bundle
from deploy.engine import Profile
from detector.letterbox import infer_letterboxed, letterbox
from reid.crops import embed, to_batch
from stream.errors import BundleError, DeviceError, DeviceLost, EngineError, UsageError
from tests.deploy import host_gpu as host_gpu_module
from tests.deploy import tiny_models
from tests.deploy.host_gpu import Gpu
from tests.deploy.test_bundle import write


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(tmp_path / "tiny")


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 11])
def test_any_number_of_pictures_gives_what_the_cpu_gives(host_gpu: Gpu, bundle: Bundle, n: int) -> None:
    images = tiny_models.pictures(n)
    backend = TensorRTBackend(bundle)
    want = OnnxRuntimeBackend(bundle.model, bundle.card).infer(images)["embedding"]
    np.testing.assert_array_equal(backend.infer(images)["embedding"], want)
    np.testing.assert_array_equal(backend.infer(images)["embedding"], want)
    backend.close()


def test_the_next_batch_is_copied_while_one_is_computed(host_gpu: Gpu, bundle: Bundle) -> None:
    backend = TensorRTBackend(bundle)
    host_gpu.log.clear()
    backend.infer(tiny_models.pictures(12))  # three batches of 4
    first, second = sorted({line.rsplit(" ", 1)[1] for line in host_gpu.log}, key=int)
    steps = ["copy in", "compute of 4", "copy out"]
    queued = [[f"{step} queued on {stream}" for step in steps] for stream in (first, second, first)]
    done = [[f"{step} done on {stream}" for step in steps] for stream in (first, second, first)]
    assert host_gpu.log == [*queued[0], *queued[1], *done[0], *queued[2], *done[1], *done[2]]
    backend.close()


@pytest.mark.parametrize("version_compatible", [False, True])
def test_the_builder_is_told_the_workspace_and_that_fp32_is_fp32(
    host_gpu: Gpu, bundle: Bundle, version_compatible: bool
) -> None:
    plan, _ = plan_of(bundle, workspace_mib=64, version_compatible=version_compatible)
    told = json.loads(plan.partition(b"\n")[0])
    assert told["workspace"] == 64 << 20
    assert told["flags"] == (["VERSION_COMPATIBLE"] if version_compatible else [])  # and no TF32


def test_engines_live_side_by_side_and_any_thread_may_use_them(host_gpu: Gpu, bundle: Bundle) -> None:
    one, two = TensorRTBackend(bundle), TensorRTBackend(bundle)
    images = tiny_models.pictures(7)
    want = one.infer(images)["embedding"]
    got: list[Any] = []
    worker = threading.Thread(target=lambda: (got.append(two.infer(images)["embedding"]), two.close()))
    worker.start()
    worker.join()
    np.testing.assert_array_equal(got[0], want)
    np.testing.assert_array_equal(one.infer(images)["embedding"], want)
    one.close()
    assert not host_gpu.live


@pytest.mark.parametrize(
    "images", [tiny_models.pictures(2).astype(np.float32), tiny_models.pictures(2)[:, 1:]], ids=["dtype", "size"]
)
def test_pictures_that_do_not_fit_are_refused(host_gpu: Gpu, bundle: Bundle, images: Any) -> None:
    backend = TensorRTBackend(bundle)
    with pytest.raises(ValueError, match=r"^tiny-embedder takes \(N, 16, 8, 3\) uint8, got [^\n]*$"):
        backend.infer(images)
    backend.close()


def test_a_profile_that_begins_above_one_still_takes_one(host_gpu: Gpu, bundle: Bundle) -> None:
    plan, _ = plan_of(bundle, profile=Profile(2, 3, 3))
    backend = TensorRTBackend(bundle, plan)
    images = tiny_models.pictures(7)  # 3, 3 and 1
    want = OnnxRuntimeBackend(bundle.model, bundle.card).infer(images)["embedding"]
    np.testing.assert_array_equal(backend.infer(images)["embedding"], want)
    backend.close()


def test_pictures_of_any_size_are_scaled_on_the_gpu(host_gpu: Gpu, bundle: Bundle) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (int(h), int(w), 3), dtype=np.uint8) for h, w in rng.integers(4, 60, (9, 2))]
    backend = TensorRTBackend(bundle)
    for fit, scaled in (("stretch", to_batch(pictures, (16, 8))), ("letterbox", letterbox(pictures, (16, 8))[0])):
        got = backend.infer_pictures(pictures, fit)["embedding"]
        assert (got * backend.infer(scaled)["embedding"]).sum(1).min() > 0.9999
    assert backend.infer_pictures([], "stretch")["embedding"].shape == (0, 6)
    assert any(line.startswith("kernel") for line in host_gpu.log)
    backend.close()
    assert not host_gpu.live


def test_stages_hand_their_pictures_to_the_gpu_as_they_are(host_gpu: Gpu, bundle: Bundle) -> None:
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 256, (90, 160, 3), dtype=np.uint8)
    crops = [frame[5:60, 20:50], frame[10:20, 100:140], frame[30:80, 3:9]]
    backend, on_cpu = TensorRTBackend(bundle), OnnxRuntimeBackend(bundle.model, bundle.card)
    assert (embed(backend, crops) * embed(on_cpu, crops)).sum(1).min() > 0.9999
    (have, scales), (want, expected) = (
        infer_letterboxed(backend, [frame, frame[:50]]),
        infer_letterboxed(on_cpu, [frame, frame[:50]]),
    )
    assert (have["embedding"] * want["embedding"]).sum(1).min() > 0.9999
    np.testing.assert_array_equal(scales, expected)
    assert sum(line.startswith("kernel done") for line in host_gpu.log) == 2
    backend.close()


@pytest.mark.parametrize(
    ("has_nvcc", "fails", "said"),
    [
        pytest.param(False, {}, "nvcc is not on the PATH", id="no nvcc"),
        pytest.param(
            True, {"cuModuleLoad": "device kernel image is invalid"}, "the GPU does not load it", id="of another GPU"
        ),
    ],
)
def test_without_the_kernel_pictures_are_scaled_on_the_cpu(
    host_gpu: Gpu, bundle: Bundle, caplog: pytest.LogCaptureFixture, has_nvcc: bool, fails: dict[str, str], said: str
) -> None:
    host_gpu.has_nvcc, host_gpu.fails = has_nvcc, fails
    pictures = [np.full((40, 30, 3), 9, np.uint8), tiny_models.pictures(1, (20, 50))[0]]
    backend = TensorRTBackend(bundle)
    assert said in caplog.text
    want = backend.infer(to_batch(pictures, (16, 8)))["embedding"]
    np.testing.assert_array_equal(backend.infer_pictures(pictures, "stretch")["embedding"], want)
    backend.close()


def test_a_site_that_names_tensorrt_gets_it(host_gpu: Gpu, bundle: Bundle) -> None:
    served = backends.load(bundle, backend="tensorrt")
    assert isinstance(served, TensorRTBackend)
    served.close()
    host_gpu.fails["cuMemAlloc"] = "out of memory"
    with pytest.raises(DeviceError, match="memory is full"):
        backends.load(bundle, backend="tensorrt")


def test_a_second_backend_takes_the_engine_from_the_cache(host_gpu: Gpu, bundle: Bundle) -> None:
    TensorRTBackend(bundle).close()
    TensorRTBackend(bundle).close()
    assert host_gpu.builds == 1


def test_the_stream_takes_the_engine_that_was_built_last_whatever_its_batch_sizes(
    host_gpu: Gpu, bundle: Bundle
) -> None:
    plan_of(bundle, profile=Profile(1, 2, 2), version_compatible=True)
    host_gpu.log.clear()
    backend = TensorRTBackend(bundle)
    backend.infer(tiny_models.pictures(4))
    assert [line.split(" queued")[0] for line in host_gpu.log if line.startswith("compute") and "queued" in line] == [
        "compute of 2"
    ] * 2
    assert host_gpu.builds == 1
    backend.close()


def test_a_version_compatible_engine_of_a_newer_tensorrt_is_built_again(
    host_gpu: Gpu, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import tensorrt

    plan_of(bundle, version_compatible=True)
    monkeypatch.setattr(tensorrt, "__version__", "11.3.0.1")
    backend = TensorRTBackend(bundle)
    assert backend.infer(tiny_models.pictures(2))["embedding"].shape == (2, 6)
    assert host_gpu.builds == 2
    assert "damaged or of another GPU or TensorRT" in caplog.text
    backend.close()
    TensorRTBackend(bundle).close()
    assert host_gpu.builds == 2


def test_an_engine_that_finds_no_memory_is_not_built_again(host_gpu: Gpu, bundle: Bundle) -> None:
    plan_of(bundle)
    host_gpu.fails["deserialize"] = "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"
    with pytest.raises(DeviceError, match="the GPU's memory is full"):
        TensorRTBackend(bundle)
    assert host_gpu.builds == 1


def test_the_fastest_runtime_is_found_again_on_another_gpu(host_gpu: Gpu, bundle: Bundle) -> None:
    candidates = [
        Candidate("onnxruntime", "fp32", lambda: OnnxRuntimeBackend(bundle.model, bundle.card)),
        Candidate("tensorrt", "fp32", lambda: TensorRTBackend(bundle)),
    ]
    first = auto.choice_of(bundle, 1, candidates)
    host_gpu.name = "Another GPU"
    cuda.device.cache_clear()
    second = auto.choice_of(bundle, 1, candidates)
    assert ["Host GPU" in first.made_for["gpu"], "Another GPU" in second.made_for["gpu"]] == [True, True]
    assert host_gpu.builds == 2
    assert auto.choice_of(bundle, 1, candidates[:1]).made_for["gpu"] == ""


def test_a_second_build_starts_from_what_the_first_measured(host_gpu: Gpu, bundle: Bundle) -> None:
    first, _ = plan_of(bundle)
    second, _ = plan_of(bundle, rebuild=True)
    assert (b'"timing": 0' in first, b'"timing": 8' in second) == (True, True)


def test_an_engine_that_answers_wrongly_is_not_kept(host_gpu: Gpu, bundle: Bundle, tmp_path: Path) -> None:
    golden = {name: values.copy() for name, values in bundle.golden().items()}
    golden["embedding"] = golden["embedding"][::-1].copy()
    wrong = write_bundle(tmp_path / "wrong", bundle.model.read_bytes(), bundle.card, golden, bundle.links)
    with pytest.raises(BundleError, match="tiny-embedder"):
        plan_of(wrong)
    assert not list((tmp_path / "cache").rglob("sidecar.json"))
    assert not host_gpu.live


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_build(host_gpu: Gpu, bundle: Bundle, number: signal.Signals) -> None:
    told: list[int] = []

    def interrupted(phase: str, done: int, total: int) -> None:
        told.append(done)
        if done == 2:
            os.kill(os.getpid(), number)
        if done >= 2:
            time.sleep(0.01)

    host_gpu.steps = 1000
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        plan_of(bundle, progress=interrupted)
    assert 3 <= len(told) < 900  # without it 1002
    assert signal.getsignal(number) is before


def test_an_engine_is_built_in_any_thread(host_gpu: Gpu, bundle: Bundle) -> None:
    worker = threading.Thread(target=plan_of, args=(bundle,))
    worker.start()
    worker.join()
    TensorRTBackend(bundle).close()
    assert host_gpu.builds == 1


def test_progress_is_that_of_the_outermost_phase(host_gpu: Gpu, bundle: Bundle) -> None:
    told: list[tuple[str, int, int]] = []
    plan_of(bundle, progress=lambda *one: told.append(one))
    assert told == [("Building", 0, 3), ("Building", 1, 3), ("Building", 2, 3), ("Building", 3, 3), ("Building", 3, 3)]


def test_the_shipped_embedder_is_taken_though_its_graph_asks_for_the_shape_of_uint8(host_gpu: Gpu) -> None:
    shipped = load_bundle(SHIPPED / "osnet-x0.25")
    images = shipped.golden()["inputs"][:2].astype(np.uint8)
    backend = TensorRTBackend(shipped)
    assert (backend.infer(images)["embedding"] * shipped.golden()["embedding"][:2]).sum(1).min() > 0.9999
    backend.close()


@pytest.mark.parametrize(
    ("call", "said", "error", "match"),
    [
        pytest.param("cuInit", "no CUDA-capable device is detected", DeviceError, "no GPU can be seen", id="no GPU"),
        pytest.param("cuMemAlloc", "out of memory", DeviceError, "memory is full", id="memory"),
        pytest.param(
            "Builder",
            "CUDA initialization failure with error: 35. Please check your CUDA installation",
            DeviceError,
            "driver is too old for this CUDA",
            id="driver too old",
        ),
        pytest.param(
            "build",
            "Error Code 10: Could not find any implementation",
            DeviceError,
            "built no engine: .*Error Code 10",
            id="no tactic",
        ),
    ],
)
def test_what_fails_at_start_is_one_line(
    host_gpu: Gpu, bundle: Bundle, call: str, said: str, error: type[Exception], match: str
) -> None:
    host_gpu.fails[call] = said
    with pytest.raises(error, match=match) as caught:
        TensorRTBackend(bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        pytest.param("cuStreamSynchronize", "an illegal memory access was encountered", id="illegal access"),
        pytest.param("cuLaunchKernel", "unspecified launch failure", id="launch failure"),
        pytest.param("cuMemcpyHtoDAsync", "uncorrectable ECC error encountered", id="ECC"),
        pytest.param("cuStreamSynchronize", "unknown error", id="unplugged"),
    ],
)
def test_a_gpu_that_is_lost_in_mid_work_is_noticed(host_gpu: Gpu, bundle: Bundle, call: str, said: str) -> None:
    backend = TensorRTBackend(bundle)
    host_gpu.fails[call] = said
    with pytest.raises(DeviceLost, match=r"tiny-embedder on Host GPU: the GPU failed .*start the process again"):
        backend.infer(tiny_models.pictures(5))
    host_gpu.fails["cuMemFree"] = said
    backend.close()  # nothing can be freed, and nothing is raised


def test_a_damaged_engine_at_hand_is_refused(host_gpu: Gpu, bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"damaged or of another GPU or TensorRT.*magic tag"):
        TensorRTBackend(bundle, b"no engine")


def test_an_engine_of_another_model_is_refused(host_gpu: Gpu, bundle: Bundle, tmp_path: Path) -> None:
    plan, _ = plan_of(bundle)
    card = tiny_models.embedder_card(size=7)
    model = tiny_models.embedder(size=7)
    inputs = tiny_models.pictures(2)
    golden = {"inputs": inputs} | OnnxRuntimeBackend(model, card).infer(inputs)
    other = write_bundle(tmp_path / "other", model, card, golden, tiny_models.links(7))
    with pytest.raises(EngineError, match=r"the engine's embedding is .* its card says"):
        TensorRTBackend(other, plan)


def test_an_output_that_the_card_does_not_name_is_refused(host_gpu: Gpu, bundle: Bundle, tmp_path: Path) -> None:
    """TensorRT would compute it without a place to put it."""
    model = onnx.load_from_string(bundle.model.read_bytes())
    model.graph.output.append(onnx.helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, ("n", 3)))
    more = write_bundle(tmp_path / "more", model.SerializeToString(), bundle.card, bundle.golden(), bundle.links)
    with pytest.raises(
        EngineError, match=r"the engine's tensors are images, .*mean, its card says one input, and embedding"
    ):
        TensorRTBackend(more)


def of_unseen_size(bundle: Bundle, folder: Path) -> Bundle:
    """As many values as before, by a node that lets nobody see it beforehand: as NonMaxSuppression in a person search."""
    model = onnx.load_from_string(bundle.model.read_bytes())
    last = model.graph.node[-1]
    last.output[0] = "whole"
    model.graph.node.append(onnx.helper.make_node("Compress", ["whole", "all"], ["embedding"], axis=1))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(6, bool), "all"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "unseen"
    return write_bundle(folder, model.SerializeToString(), bundle.card, bundle.golden(), bundle.links)


def test_an_output_whose_size_tensorrt_does_not_see_has_room_for_the_most_that_it_may_write(
    host_gpu: Gpu, bundle: Bundle, tmp_path: Path
) -> None:
    images = tiny_models.pictures(7)
    backend = TensorRTBackend(of_unseen_size(bundle, tmp_path / "unseen"))
    want = OnnxRuntimeBackend(bundle.model, bundle.card).infer(images)["embedding"]
    np.testing.assert_array_equal(backend.infer(images)["embedding"], want)
    backend.close()


def test_an_output_that_turns_out_to_be_of_another_size_is_refused(
    host_gpu: Gpu, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen = of_unseen_size(bundle, tmp_path / "unseen")
    monkeypatch.setattr(host_gpu_module.ExecutionContext, "get_tensor_shape", lambda self, name: (self.shape[0], 5))
    with pytest.raises(EngineError, match=r"the engine's embedding is \(4, 5\), its card says \(4, 6\)"):
        TensorRTBackend(unseen)
    assert not host_gpu.live


def test_a_profile_beyond_the_card_is_refused_before_anything_is_built(host_gpu: Gpu, bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="max 64"):
        plan_of(bundle, profile=Profile(1, 1, 64))
    assert host_gpu.builds == 0


@pytest.mark.parametrize(
    ("said", "kind", "match"),
    [
        pytest.param(
            "cuInit failed: system has unsupported display driver / cuda driver combination",
            DeviceError,
            "driver is too old",
            id="803",
        ),
        pytest.param(
            "cuModuleLoad failed: the provided PTX was compiled with an unsupported toolchain.",
            DeviceError,
            "driver is too old",
            id="222",
        ),
        pytest.param("cuInit failed: no device", DeviceError, "no GPU can be seen", id="pycuda's own words"),
        pytest.param("cuStreamSynchronize failed: unknown", DeviceLost, "the GPU failed", id="999"),
        pytest.param("cuMemFree failed: context is destroyed", DeviceLost, "the GPU failed", id="709"),
        pytest.param(
            "[defaultAllocator.cpp::allocate] Requested amount of GPU memory could not be allocated: out of memory",
            DeviceError,
            "full",
            id="TensorRT's",
        ),
        pytest.param("something\nnew\n", DeviceError, "doing: something new", id="what nobody knows"),
        pytest.param("", DeviceError, "no reason given", id="nothing"),
    ],
)
def test_what_cuda_says_is_one_line_with_a_remedy(said: str, kind: type[Exception], match: str) -> None:
    error = explained(said, "doing")
    assert type(error) is kind
    assert match in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("parts", [0, 1, 2, 5])
def test_a_part_begins_before_the_one_before_it_is_finished(parts: int) -> None:
    seen: list[tuple[str, str, int]] = []

    def begin(slot: str, part: int) -> None:
        seen.append(("begin", slot, part))

    def finish(slot: str, part: int) -> None:
        seen.append(("finish", slot, part))

    overlapped(range(parts), ["a", "b"], begin, finish)
    assert [part for what, _, part in seen if what == "finish"] == list(range(parts))
    assert all(slot == "ab"[part % 2] for _, slot, part in seen)
    for part in range(parts - 1):
        assert seen.index(("begin", "ab"[(part + 1) % 2], part + 1)) < seen.index(("finish", "ab"[part % 2], part))
    for part in range(2, parts):
        slot = "ab"[part % 2]
        assert seen.index(("finish", slot, part - 2)) < seen.index(("begin", slot, part))
