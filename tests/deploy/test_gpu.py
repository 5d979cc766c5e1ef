"""TensorRT, and torch's recorded graphs, on a real GPU. Skipped where there is none; `make gpu-check` runs it, and so far nobody has."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from deploy import search_people
from deploy.backends import cuda, tensorrt_api
from deploy.backends.auto import verify
from deploy.backends.pixels import Resizer, jobs_of, pack
from deploy.backends.trt import TensorRTBackend, plan_of
from deploy.bundle import SHIPPED, Bundle, load_bundle
from deploy.cli import status_of
from deploy.engine import Profile
from detector.letterbox import letterbox
from reid.crops import to_batch
from stream.errors import EngineError, SightlineError
from tests.deploy import host_kernel, tiny_models, tiny_search

if TYPE_CHECKING:
    from deploy.backends.torch import TorchPrecision


def _why_not() -> str:
    try:
        cuda.driver()
        tensorrt_api.version()
    except SightlineError as error:
        return str(error)
    return ""


WHY_NOT = _why_not()
pytestmark = [pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT), pytest.mark.timeout(1800)]
NAMES = sorted(card.parent.name for card in SHIPPED.glob("*/card.json"))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The engines of these tests are nobody else's: workers take what was built last."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(params=NAMES)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return load_bundle(SHIPPED / request.param)


@pytest.fixture
def backend(bundle: Bundle) -> Iterator[TensorRTBackend]:
    """With the engine of this machine's cache, built and proven by the first test that asks."""
    made = TensorRTBackend(bundle)
    yield made
    made.close()


def pictures(backend: TensorRTBackend, n: int) -> NDArray[np.uint8]:
    golden = load_bundle(backend.card.name).golden()["inputs"].astype(np.uint8)
    return golden[np.arange(n) % len(golden)]


def assert_alike(have: dict[str, Any], want: dict[str, Any]) -> None:
    """Rounding apart: kernels differ with the batch's size."""
    for name, values in want.items():
        np.testing.assert_allclose(have[name], values, atol=0.05 if name == "boxes" else 1e-4)


def test_any_number_of_pictures_is_split_and_each_equals_itself_alone(backend: TensorRTBackend) -> None:
    most = backend.card.max_batch
    for n in (0, 1, 3, most, 2 * most + 1):
        images = pictures(backend, n)
        together = backend.infer(images)
        assert all(values.shape == (n, *backend.card.outputs[name]) for name, values in together.items())
        for place in {0, n // 2, n - 1} if n else ():
            alone = backend.infer(images[place : place + 1])
            assert_alike(
                {name: values[place] for name, values in together.items()}, {k: v[0] for k, v in alone.items()}
            )


def test_the_kernel_gives_on_the_gpu_what_the_hosts_compiler_makes_of_it_to_the_bit() -> None:
    gpu, rng = cuda.device(), np.random.default_rng(0)
    images = [rng.integers(0, 256, (int(h), int(w), 3), dtype=np.uint8) for h, w in rng.integers(1, 700, (20, 2))]
    for fit, input_hw, on_cpu in (
        ("stretch", (256, 128), to_batch(images, (256, 128))),
        ("letterbox", (384, 640), letterbox(images, (384, 640))[0]),
    ):
        jobs, size = jobs_of([(image.shape[0], image.shape[1]) for image in images], input_hw, fit)
        flat, batch = np.empty(size, np.uint8), np.empty((len(images), *input_hw, 3), np.uint8)
        pack(images, flat)
        with gpu.current("the kernel's test") as driver:
            stream = driver.Stream()
            memory = [driver.mem_alloc(array.nbytes) for array in (flat, jobs, batch)]
            driver.memcpy_htod_async(memory[0], flat, stream)
            driver.memcpy_htod_async(memory[1], jobs, stream)
            Resizer()(*memory, (len(images), *input_hw), stream)
            driver.memcpy_dtoh_async(batch, memory[2], stream)
            stream.synchronize()
            for one in memory:
                one.free()
        np.testing.assert_array_equal(batch, host_kernel.fitted(images, input_hw, fit))
        assert int(np.abs(batch.astype(int) - on_cpu).max()) <= 1


def test_pictures_scaled_on_the_gpu_give_what_those_scaled_on_the_cpu_give(backend: TensorRTBackend) -> None:
    rng = np.random.default_rng(2)
    if backend.card.kind == "detector":
        images = [rng.integers(0, 256, (720, 1280, 3), dtype=np.uint8) for _ in range(3)]
        have, want = (
            backend.infer_pictures(images, "letterbox"),
            backend.infer(letterbox(images, backend.card.input_hw)[0]),
        )
        assert float(np.abs(have["scores"] - want["scores"]).max()) < 0.02
    else:
        images = [rng.integers(0, 256, (int(h), int(w), 3), dtype=np.uint8) for h, w in rng.integers(30, 400, (40, 2))]
        have, want = backend.infer_pictures(images, "stretch"), backend.infer(to_batch(images, backend.card.input_hw))
        assert float((have["embedding"] * want["embedding"]).sum(1).min()) > 0.999


def test_engines_live_side_by_side_and_any_thread_may_use_them(bundle: Bundle, backend: TensorRTBackend) -> None:
    images, other = pictures(backend, 5), TensorRTBackend(bundle)
    want = backend.infer(images)
    got: list[dict[str, Any]] = []
    workers = [threading.Thread(target=lambda one=one: got.append(one.infer(images))) for one in (backend, other)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for have in got:
        assert_alike(have, want)
    other.close()
    assert_alike(backend.infer(images), want)


SERVE = """
import sys, numpy as np
from deploy import gate
from deploy.backends.trt import TensorRTBackend
from deploy.bundle import load_bundle
bundle = load_bundle(sys.argv[1])
backend = TensorRTBackend(bundle)
inputs, answers = bundle.answers()
limits = gate.limits_of(bundle.card.precision, bundle.card.min_cosine)
places = np.tile(np.arange(len(inputs)), 8)
want = {name: values[places] for name, values in answers.items()}
for _ in range(50):
    if said := gate.differs(backend.infer(inputs[places]), want, limits):
        sys.exit(said)
backend.close()
"""
"""A worker that ends with status 1, and says why, where it does not get a bundle's golden answers every time."""


def test_several_processes_share_the_gpu(bundle: Bundle, backend: TensorRTBackend) -> None:
    command = [sys.executable, "-c", SERVE, str(bundle.path)]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    while any(worker.poll() is None for worker in workers):
        verify(backend, bundle, bundle.card.precision)
    for worker in workers:
        _, said = worker.communicate(timeout=600)
        assert worker.returncode == 0, said


def test_closing_gives_the_memory_back(bundle: Bundle) -> None:
    def free() -> int:
        with cuda.device().current("counting memory") as driver:
            return int(driver.mem_get_info()[0])

    TensorRTBackend(bundle).close()  # what libraries keep for the process is there now
    before = free()
    for _ in range(3):
        backend = TensorRTBackend(bundle)
        backend.infer(pictures(backend, 3))
        backend.close()
    assert before - free() < 32 << 20


def test_an_engine_that_is_cut_short_is_refused_in_one_line(bundle: Bundle) -> None:
    plan, _ = plan_of(bundle)
    with pytest.raises(EngineError, match="damaged or of another GPU or TensorRT") as caught:
        TensorRTBackend(bundle, plan[: len(plan) // 2])
    assert "\n" not in str(caught.value)


def test_a_version_compatible_engine_with_few_batch_sizes_serves_too() -> None:
    bundle = load_bundle("osnet-x0.25")
    plan, sidecar = plan_of(bundle, profile=Profile(2, 3, 3), version_compatible=True)
    assert "." not in sidecar.target.tensorrt
    backend = TensorRTBackend(bundle, plan)
    golden = bundle.golden()
    vectors = backend.infer(golden["inputs"].astype(np.uint8))["embedding"]
    assert float((vectors * golden["embedding"]).sum(1).min()) > 0.9999
    backend.close()


def test_an_engine_that_is_built_with_what_an_earlier_build_measured_answers_alike() -> None:
    bundle = load_bundle("osnet-x0.25")
    profile = Profile(1, bundle.card.max_batch, bundle.card.max_batch)
    plan_of(bundle, profile=profile)
    plan, _ = plan_of(bundle, profile=profile, rebuild=True)
    backend = TensorRTBackend(bundle, plan)
    golden = bundle.golden()
    vectors = backend.infer(golden["inputs"].astype(np.uint8))["embedding"]
    assert float((vectors * golden["embedding"]).sum(1).min()) > 0.9999
    backend.close()


@pytest.mark.parametrize("method", ["osnet", "eprinet", "magnifiernet", "mgre"])
@pytest.mark.parametrize(("precision", "cosine"), [("fp32", 0.9995), ("fp16", 0.999), ("bf16", 0.998)])
def test_torchs_recorded_graphs_give_what_torch_gives_on_the_processor(
    tmp_path: Path, method: str, precision: "TorchPrecision", cosine: float
) -> None:
    import torch

    from deploy.backends.torch import TorchRuntime
    from trainer import checkpoint, serving
    from trainer.methods import method_module
    from trainer.settings import make_recipe

    size_hw = (128, 64)
    recipe = make_recipe({"method": method, "input_hw": size_hw}, "this test")
    torch.manual_seed(0)
    path = tmp_path / "checkpoint.pt"
    weights = method_module(method).embedder(recipe).state_dict()
    checkpoint.save(path, checkpoint.Checkpoint(recipe.model_dump(mode="json"), 1.0, 1, weights))
    images = tiny_models.pictures(19, size_hw)
    with torch.inference_mode():
        want = serving.served(checkpoint.load(path))[0](torch.from_numpy(images)).numpy()
    size = want.shape[1]
    card = msgspec.structs.replace(
        tiny_models.embedder_card(size_hw, size, max_batch=8), outputs={"embedding": (size,)}, embedding_size=size
    )
    beside = TensorRTBackend(load_bundle("osnet-x0.25"))  # both use the process's primary context
    runtime = TorchRuntime(path, card, precision=precision)
    for _ in range(2):
        assert float((runtime.infer(images)["embedding"] * want).sum(1).min()) > cosine
    runtime.close()
    assert beside.infer(pictures(beside, 2))["embedding"].shape == (2, 512)
    beside.close()


@pytest.mark.parametrize(
    "recipe", [{"method": "osnet", "width": 0.25}, {"method": "detector"}], ids=["osnet", "detector"]
)
def test_a_checkpoint_is_exported_where_torch_sees_a_gpu(tmp_path: Path, recipe: dict[str, object]) -> None:
    import torch

    from trainer import checkpoint
    from trainer.methods import method_module
    from trainer.settings import make_recipe

    made = make_recipe({**recipe, "input_hw": (128, 64)}, "this test")
    torch.manual_seed(0)
    weights = method_module(made.method).embedder(made).state_dict()
    saved, output = tmp_path / "checkpoint.pt", tmp_path / "bundle"
    checkpoint.save(saved, checkpoint.Checkpoint(made.model_dump(mode="json"), 1.0, 1, weights))
    assert status_of(["export", str(saved), "--output", str(output), "--name", f"random-{made.method}"]) == 0
    TensorRTBackend(load_bundle(output)).close()  # which gave what torch gave


def test_a_person_search_that_was_trained_finds_whom_torch_finds(tmp_path: Path) -> None:
    """Its choices between regions are sure, so a wrong one is a fault of NonMaxSuppression, TopK or RoiAlign in TensorRT."""
    bundle = tiny_search.write(tmp_path / "tiny", tiny_search.trained(), tiny_search.pictures(8, seed=0))
    inputs, want = bundle.answers()
    assert (want["scores"] > 0.5).sum() >= len(inputs)
    backend = TensorRTBackend(bundle)
    said = search_people.differ(backend.infer(inputs), want, score=1e-3, box_px=0.5, cosine=0.999)
    backend.close()
    assert said is None
