"""Which runtime a site gets: what is measured and kept, what is refused, and with which words."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from deploy import backends
from deploy.backends import auto
from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.backends.openvino import OpenVinoBackend, precisions
from deploy.bundle import Bundle, load_bundle, write_bundle
from deploy.cli import status_of
from deploy.gate import Arithmetic
from deploy.models import say_backends
from deploy.settings import Runtime, load
from deploy.wiring import run_site
from stream.errors import BundleError, DeviceError, SettingsError
from stream.messages import MatchEvent
from stream.model import Backend
from tests.deploy import tiny_models
from tests.deploy.sites import write_site

NO_DRIVER = not backends.KERNEL_MODULE.exists()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody has measured anything here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sightline" / "backends"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    model, card, inputs = tiny_models.embedder(), tiny_models.embedder_card(), tiny_models.pictures(3)
    golden = {"inputs": inputs} | OnnxRuntimeBackend(model, card).infer(inputs)
    return write_bundle(tmp_path / "tiny", model, card, golden, tiny_models.links())


def stored(cache: Path) -> dict[str, object]:
    (path,) = cache.iterdir()
    return dict(json.loads(path.read_text()))


def test_one_candidate_is_taken_without_measuring(bundle: Bundle, cache: Path) -> None:
    chosen = backends.choose(bundle, 1, "onnxruntime")
    assert (chosen.name, chosen.remark) == ("onnxruntime fp32", "")
    assert not cache.exists()


def test_candidates_are_every_precision_of_what_is_installed(bundle: Bundle) -> None:
    names = [candidate.name for candidate in backends.candidates(bundle, 1, "auto")]
    assert names[0] == "onnxruntime fp32"
    assert names[1:4] == [f"openvino {precision}" for precision in precisions()]


def test_a_choice_is_measured_once_kept_and_taken_again(
    bundle: Bundle, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = backends.choose(bundle, 1, "auto")
    kept = stored(cache)
    auto._known.clear()  # as in a new process
    again = backends.choose(bundle, 1, "auto")
    assert again.name == first.name == kept["chosen"]
    assert again.remark == first.remark
    assert caplog.text.count("measuring which runtime is fastest for") == 1
    assert set(kept["pictures_per_second"]) | set(kept["refused"]) == {  # type: ignore[call-overload]
        candidate.name for candidate in backends.candidates(bundle, 1, "auto")
    }


def test_who_measured_at_the_same_time_takes_the_choice_that_was_first(bundle: Bundle, cache: Path) -> None:
    found = backends.candidates(bundle, 1, "auto")
    mine = auto.choice_of(bundle, 1, found)
    (path,) = cache.iterdir()
    last = found[-1].name
    theirs = msgspec.structs.replace(mine, chosen=last, pictures_per_second={found[0].name: 1.0, last: 9.0})
    path.write_bytes(msgspec.json.encode(theirs))
    assert auto._publish(path, mine, found).chosen == last
    assert [file.name for file in cache.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"chosen": "onnxru', id="cut short"),
        pytest.param(b"\xff\xfe" * 100, id="noise"),
        pytest.param(
            b'{"made_for": {}, "chosen": "abacus", "pictures_per_second": {"abacus": 1.0}, "refused": {}}',
            id="a runtime that is not there",
        ),
        pytest.param(
            b'{"made_for": {}, "chosen": "openvino fp32", "pictures_per_second": {"openvino fp32": 0}, "refused": {}}',
            id="no speed",
        ),
    ],
)
def test_a_damaged_choice_is_made_again(bundle: Bundle, cache: Path, content: bytes) -> None:
    chosen = backends.choose(bundle, 1, "openvino")
    (path,) = cache.iterdir()
    path.write_bytes(content)
    auto._known.clear()
    assert backends.choose(bundle, 1, "openvino").runtime == chosen.runtime
    assert stored(cache)["chosen"] in {candidate.name for candidate in backends.candidates(bundle, 1, "openvino")}


def test_a_choice_that_cannot_be_kept_holds_for_this_process_and_is_said(
    bundle: Bundle, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    names = {backends.choose(bundle, 1, "auto").name for _ in range(3)}
    assert len(names) == 1
    assert caplog.text.count("cannot be kept") == 1


def test_another_model_threads_or_candidates_are_measured_for_themselves(bundle: Bundle, cache: Path) -> None:
    backends.choose(bundle, 1, "auto")
    backends.choose(bundle, 2, "auto")
    backends.choose(bundle, 1, "openvino")
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize(
    ("speed", "chosen"),
    [
        pytest.param({"onnxruntime fp32": 55, "openvino fp32": 57}, "onnxruntime fp32", id="noise"),
        pytest.param({"onnxruntime fp32": 55, "openvino bf16": 86, "openvino fp16": 82}, "openvino fp16", id="fp16"),
        pytest.param({"onnxruntime fp32": 55, "openvino bf16": 99, "openvino fp16": 82}, "openvino bf16", id="bf16"),
        pytest.param({"onnxruntime fp32": 55, "openvino fp32": 80, "openvino fp16": 85}, "openvino fp32", id="fp32"),
        pytest.param({"openvino bf16": 99}, "openvino bf16", id="the only one that passed"),
    ],
)
def test_what_is_less_exact_must_be_a_tenth_faster(speed: dict[str, float], chosen: str) -> None:
    def make() -> Backend:
        raise NotImplementedError

    kinds: list[tuple[Runtime, Arithmetic]] = [
        ("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "fp16"),
    ]  # fmt: skip
    assert auto.taken(speed, [backends.Candidate(runtime, precision, make) for runtime, precision in kinds]) == chosen


def test_what_does_not_give_the_golden_outputs_is_not_chosen(bundle: Bundle, cache: Path) -> None:
    turned = msgspec.structs.replace(bundle.card, name="turned")
    golden = {"inputs": tiny_models.pictures(3)} | OnnxRuntimeBackend(tiny_models.embedder(), turned).infer(
        255 - tiny_models.pictures(3)
    )
    wrong = write_bundle(bundle.path.parent / "turned", tiny_models.embedder(), turned, golden, tiny_models.links())
    with pytest.raises(BundleError, match=r"^turned: embedding has cosine"):
        backends.choose(wrong, 1, "auto")
    assert not cache.exists()


def test_processes_that_start_together_choose_alike(bundle: Bundle) -> None:
    code = (
        "from pathlib import Path; from deploy import backends; from deploy.bundle import load_bundle;"
        f"print(backends.choose(load_bundle(Path({str(bundle.path)!r})), 1, 'openvino').name)"
    )
    together = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(2)
    ]
    assert len({process.communicate(timeout=120)[0] for process in together}) == 1


def test_a_site_hears_what_was_chosen_before_its_cameras_are_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site = write_site(tmp_path, cameras=("north",), frames=2)
    say_backends(load(site, {}))
    said = [record.message for record in caplog.records if "measuring" not in record.message]
    assert [line.split(":")[0] for line in said] == ["red-square", "tiny-embedder"]
    assert all("here" in line for line in said)
    caplog.clear()
    say_backends(load(site, {"SIGHTLINE_COMPUTE__BACKEND": "onnxruntime"}))
    assert not caplog.records


CTRL_C = """
import ctypes, os, signal, sys, time
from deploy.backends.openvino import OpenVinoBackend
from deploy.bundle import load_bundle
bundle = load_bundle("osnet-x0.25")
held = [OpenVinoBackend(bundle.model, bundle.card) for _ in range(2)]
for one in held:  # not in the order that OpenVINO would need
    one.close()
del held, one
blocks = [bytearray(1 << 20) for _ in range(64)]  # takes the memory that was freed
stack = (ctypes.c_size_t * 3)()
ctypes.CDLL(None).sigaltstack(None, stack)
print("stack", stack[0], flush=True)
os.kill(os.getpid(), signal.SIGINT)
time.sleep(5)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are Linux's affair here")
def test_ctrl_c_after_two_models_were_freed_is_no_crash() -> None:
    """Where a processor has AMX, OpenVINO leaves the thread a signal stack that is no more."""
    done = subprocess.run([sys.executable, "-c", CTRL_C], capture_output=True, text=True, timeout=60, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert done.stdout == "stack 0\n"


def test_a_site_gives_the_same_events_with_one_worker_and_with_two(tmp_path: Path) -> None:
    site = write_site(tmp_path, frames=60)
    settings = load(site, {"SIGHTLINE_COMPUTE__BACKEND": "openvino"})
    runs = []
    for workers in (1, 2):
        events: list[MatchEvent] = []
        run_site(settings, threading.Event(), workers=workers, state=tmp_path / f"state {workers}", told=events.append)
        runs.append([msgspec.structs.asdict(event) for event in events])
    assert runs[0]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        pytest.param("torch", "torch runs the checkpoint that a bundle was exported from: name it", id="no checkpoint"),
        pytest.param(
            "tensorrt",
            "not installed: pip install|no NVIDIA driver|no GPU|driver is too old",
            id="no TensorRT or no GPU",
            marks=pytest.mark.skipif(not NO_DRIVER, reason="this machine has an NVIDIA driver"),
        ),
    ],
)
def test_a_backend_that_cannot_run_is_refused_in_one_line(bundle: Bundle, backend: str, said: str) -> None:
    with pytest.raises((DeviceError, BundleError), match=said) as refused:
        backends.load(bundle, 1, backend)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("backend", "extra"), [("openvino", "openvino"), ("torch", "train"), ("tensorrt", "tensorrt")])
def test_a_backend_that_is_not_installed_names_the_extra(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, backend: str, extra: str
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda package: None)  # as in the base install
    with pytest.raises(
        DeviceError, match=rf"""backend = "{backend}": .* pip install -c constraints.txt -e '\.\[{extra}\]'"""
    ):
        backends.load(bundle, 1, backend)  # type: ignore[arg-type]
    assert [candidate.name for candidate in backends.candidates(bundle, 1, "auto")] == ["onnxruntime fp32"]


def test_a_backend_that_does_not_exist_is_refused_with_those_that_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIGHTLINE_COMPUTE__BACKEND")
    path = tmp_path / "site.toml"
    path.write_text(
        '[site]\nname = "s"\n[[camera]]\nid = "a"\nurl = "synthetic://?seed=1"\n[compute]\nbackend = "cuda"\n'
    )
    with pytest.raises(
        SettingsError, match=r'line 7: \[compute\] backend = cuda: .*"auto", "onnxruntime"'.replace('"', "'")
    ):
        load(path, {})
    assert status_of(["plan", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_importing_openvino_leaves_its_telemetry_out() -> None:
    code = "import deploy.backends.openvino, sys; print(sys.modules['openvino_telemetry'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "None"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        pytest.param(
            b"noise" * 20, r"tiny-embedder: OpenVINO cannot load it \(Unable to read the model", id="no model"
        ),
        pytest.param(tiny_models.embedder()[:200], "tiny-embedder: OpenVINO cannot load it", id="cut short"),
        pytest.param(tiny_models.embedder(hw=(32, 8)), r"takes u8 \[\?,32,8,3\], its card says u8", id="another size"),
        pytest.param(tiny_models.embedder(size=5), r"output embedding has shape \[\?,5\]", id="another length"),
    ],
)
def test_a_graph_that_is_not_the_cards_is_refused_by_openvino_in_one_line(model: bytes, said: str) -> None:
    with pytest.raises(BundleError, match=said) as refused:
        OpenVinoBackend(model, tiny_models.embedder_card())
    assert "\n" not in str(refused.value)


def test_a_precision_that_the_processor_lacks_is_refused() -> None:
    with pytest.raises(BundleError, match="does not compute in fp4, OpenVINO says; it has fp32"):
        OpenVinoBackend(tiny_models.embedder(), tiny_models.embedder_card(), precision="fp4")  # type: ignore[arg-type]


def test_openvino_uses_every_size_of_the_shipped_embedder() -> None:
    found = load_bundle("osnet-x0.25")
    backend = OpenVinoBackend(found.model, found.card)
    assert list(backend.sizes) == [16, 8, 4, 2, 1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path, Path]:
    """A bundle, the checkpoint that it answers like, and one of other weights."""
    import torch

    from trainer import checkpoint
    from trainer.methods import osnet
    from trainer.serving import ServedEmbedder, TorchBackend

    folder = tmp_path_factory.mktemp("trained")
    recipe = osnet.OSNetRecipe(width=0.25, input_hw=(64, 32))
    inputs = tiny_models.pictures(2, (64, 32))
    for name, seed in (("mine", 0), ("other", 1)):
        torch.manual_seed(seed)
        network = osnet.embedder(recipe).eval()
        saved = checkpoint.Checkpoint(recipe.model_dump(mode="json"), 1.0, 1, network.state_dict())
        checkpoint.save(folder / f"{name}.pt", saved)
        if name == "mine":
            golden = TorchBackend(ServedEmbedder(network)).infer(inputs)
    card = msgspec.structs.replace(
        tiny_models.embedder_card((64, 32)), outputs={"embedding": (512,)}, embedding_size=512
    )
    bundle = write_bundle(folder / "bundle", b"a graph, which torch does not read", card, {"inputs": inputs, **golden})
    return bundle, folder / "mine.pt", folder / "other.pt"


def test_torch_gives_the_golden_outputs_and_says_that_it_runs_on_the_processor(
    trained: tuple[Bundle, Path, Path], caplog: pytest.LogCaptureFixture, one_thread: None
) -> None:
    bundle, mine, _ = trained
    backend = backends.load(bundle, 1, "torch", mine)
    assert backend.infer(tiny_models.pictures(9, (64, 32)))["embedding"].shape == (9, 512)
    if NO_DRIVER:
        assert "torch runs on the processor, where onnxruntime is faster: no GPU can be seen" in caplog.text


def test_the_checkpoint_of_another_model_is_named(trained: tuple[Bundle, Path, Path], one_thread: None) -> None:
    bundle, _, other = trained
    with pytest.raises(BundleError) as refused:
        backends.load(bundle, 1, "torch", other)
    said = str(refused.value)
    assert said.startswith(f"{other}: not the checkpoint that {bundle.path} was exported from: embedding has cosine 0.")
    assert said.endswith("; name the checkpoint that this bundle was exported from")


def test_a_checkpoint_whose_vectors_are_longer_is_named(
    trained: tuple[Bundle, Path, Path], tmp_path: Path, one_thread: None
) -> None:
    golden = {"inputs": tiny_models.pictures(2, (64, 32)), "embedding": np.eye(2, 6, dtype=np.float32)}
    short = write_bundle(tmp_path / "short", b"a graph", tiny_models.embedder_card((64, 32)), golden)
    with pytest.raises(BundleError) as refused:
        backends.load(short, 1, "torch", trained[1])
    assert str(refused.value) == (
        f"{trained[1]}: its network gives embedding of (512,), tiny-embedder of (6,): "
        "name the checkpoint that this bundle was exported from"
    )


def test_torch_refuses_a_bundle_of_another_kind(trained: tuple[Bundle, Path, Path]) -> None:
    with pytest.raises(BundleError, match="its network gives embedding, person-detector gives boxes, scores"):
        backends.load(load_bundle("person-detector"), 1, "torch", trained[1])


def test_torch_says_that_a_driver_is_too_old() -> None:
    from deploy.backends.torch import reason_of

    said = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"
    assert reason_of([said]) == "the NVIDIA driver is too old for this torch: update the driver"


def test_pictures_per_second_counts_only_sizes_that_the_card_takes(bundle: Bundle) -> None:
    counted: list[int] = []

    class Counting(OnnxRuntimeBackend):
        def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
            counted.append(len(images))
            return super().infer(images)

    (rate,) = auto.pictures_per_second([Counting(bundle.model, bundle.card)], bundle, time.process_time)
    assert set(counted) == {1, 4}
    assert rate > 0
