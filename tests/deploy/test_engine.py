"""The engine cache: what fits is loaded, what does not is built again with a line that says why, and nothing else is ever loaded."""

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from deploy import engine
from deploy.engine import PLAN, SIDECAR, Profile, Target
from stream.errors import BundleError, EngineError, UsageError

TARGET = Target(
    model="a" * 64,
    gpu="NVIDIA H100",
    compute_capability="9.0",
    tensorrt="11.4.0",
    driver="580.1, CUDA 13.0",
    profile=Profile(1, 8, 32),
    workspace_mib=2048,
    version_compatible=False,
)


class Builder:
    """Counts its builds; its engine is the number of the build."""

    def __init__(self) -> None:
        self.built = 0

    def __call__(self) -> bytes:
        self.built += 1
        return b"engine %d" % self.built


def obtain(
    cache: Path,
    target: Target = TARGET,
    build: Callable[[], bytes] | None = None,
    prove: Callable[[bytes], None] = lambda plan: None,
    rebuild: bool = False,
) -> tuple[bytes, list[str]]:
    said: list[str] = []
    plan, sidecar = engine.obtain(cache, "tiny", target, build or Builder(), prove, said.append, rebuild=rebuild)
    assert sidecar.target == target
    return plan, said


def changed(**changes: object) -> Target:
    return msgspec.structs.replace(TARGET, **changes)


def test_an_engine_is_built_once_and_read_afterwards(tmp_path: Path) -> None:
    build = Builder()
    first, said = obtain(tmp_path / "engines", build=build)
    assert said == ["tiny: there is no engine for this model, GPU and TensorRT yet: building it, which takes minutes"]
    second, said = obtain(tmp_path / "engines", build=build)
    assert (first, second, build.built, said) == (b"engine 1", b"engine 1", 1, [])


def test_the_sidecar_says_what_the_engine_is(tmp_path: Path) -> None:
    obtain(tmp_path / "engines")
    sidecar = json.loads((tmp_path / "engines" / f"tiny-{TARGET.key}" / SIDECAR).read_text())
    assert sidecar["target"] == {
        "model": "a" * 64,
        "gpu": "NVIDIA H100",
        "compute_capability": "9.0",
        "tensorrt": "11.4.0",
        "driver": "580.1, CUDA 13.0",
        "profile": {"least": 1, "best": 8, "most": 32},
        "workspace_mib": 2048,
        "version_compatible": False,
    }
    assert sidecar["engine_sha256"] == hashlib.sha256(b"engine 1").hexdigest()
    assert sidecar["build_s"] >= 0
    assert sidecar["built_at"].endswith("Z")


@pytest.mark.parametrize(
    ("other", "says"),
    [
        pytest.param(
            changed(gpu="NVIDIA A10", compute_capability="8.6"),
            "was built for NVIDIA H100 (9.0), this is NVIDIA A10 (8.6)",
            id="GPU",
        ),
        pytest.param(changed(tensorrt="11.5.0"), "was built by TensorRT 11.4.0, this is 11.5.0", id="TensorRT"),
        pytest.param(
            changed(tensorrt="11", version_compatible=True),
            "was built by TensorRT 11.4.0, this is 11, version-compatible",
            id="version-compatible",
        ),
        pytest.param(changed(driver="590"), "was built under driver 580.1, CUDA 13.0, this is 590", id="driver"),
        pytest.param(changed(profile=Profile(1, 4, 16)), "batches of 1 to 32 (best 8) in 2048 MiB", id="profile"),
        pytest.param(changed(workspace_mib=512), "asked is batches of 1 to 32 (best 8) in 512 MiB", id="workspace"),
    ],
)
def test_an_engine_of_something_else_is_built_again_and_the_line_says_why(
    tmp_path: Path, other: Target, says: str
) -> None:
    obtain(tmp_path / "engines")
    build = Builder()
    _, said = obtain(tmp_path / "engines", other, build)
    assert build.built == 1
    assert len(said) == 1
    assert says in said[0]
    assert "\n" not in said[0]
    build = Builder()
    obtain(tmp_path / "engines", build=build)
    assert build.built == 0, "the first one is still there"


def test_an_engine_of_another_gpu_in_our_folder_is_not_loaded(tmp_path: Path) -> None:
    obtain(tmp_path / "engines", changed(gpu="NVIDIA A10", compute_capability="8.6"))
    theirs = tmp_path / "engines" / f"tiny-{changed(gpu='NVIDIA A10', compute_capability='8.6').key}"
    theirs.rename(tmp_path / "engines" / f"tiny-{TARGET.key}")  # as if the cache was copied from another machine
    build = Builder()
    _, said = obtain(tmp_path / "engines", build=build)
    assert build.built == 1
    assert "was built for NVIDIA A10 (8.6), this is NVIDIA H100 (9.0)" in said[0]


def cut(folder: Path) -> None:
    (folder / PLAN).write_bytes((folder / PLAN).read_bytes()[:4])


def flip(folder: Path) -> None:
    (folder / PLAN).write_bytes(b"Engine 1")


def lose(folder: Path) -> None:
    (folder / PLAN).unlink()


def spoil(text: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / SIDECAR).write_bytes(text) and None


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(cut, "altered or cut short", id="engine cut short"),
        pytest.param(flip, "altered or cut short", id="engine altered"),
        pytest.param(lose, "cannot be read", id="engine lost"),
        pytest.param(spoil(b""), "is no sidecar of an engine", id="sidecar empty"),
        pytest.param(spoil(b"[" * 30000), "is no sidecar of an engine", id="sidecar nested"),
        pytest.param(spoil(b"\xff{}"), "is no sidecar of an engine", id="sidecar not text"),
        pytest.param(spoil(b" " * 70000), "more than 65536 bytes", id="sidecar too long"),
        pytest.param(lambda folder: (folder / SIDECAR).unlink(), "there is no engine", id="no sidecar"),
    ],
)
def test_a_damaged_engine_is_built_again(tmp_path: Path, damage: Callable[[Path], None], says: str) -> None:
    obtain(tmp_path / "engines")
    damage(tmp_path / "engines" / f"tiny-{TARGET.key}")
    build = Builder()
    plan, said = obtain(tmp_path / "engines", build=build)
    assert (plan, build.built, len(said)) == (b"engine 1", 1, 1)
    assert says in said[0]
    assert obtain(tmp_path / "engines")[1] == []


def test_rebuild_builds_what_is_there(tmp_path: Path) -> None:
    build = Builder()
    obtain(tmp_path / "engines", build=build)
    assert obtain(tmp_path / "engines", build=build, rebuild=True) == (b"engine 2", [])
    assert obtain(tmp_path / "engines")[0] == b"engine 2"


def test_an_engine_that_fails_its_proof_is_not_kept(tmp_path: Path) -> None:
    def refuse(plan: bytes) -> None:
        raise BundleError("embedding has cosine 0.5")

    with pytest.raises(BundleError, match=r"cosine 0\.5"):
        obtain(tmp_path / "engines", prove=refuse)
    build = Builder()
    obtain(tmp_path / "engines", build=build)
    assert build.built == 1


def test_a_write_that_was_cut_short_is_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    obtain(tmp_path / "engines")
    whole = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == SIDECAR:
            raise OSError(28, "No space left on device")
        return whole(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(EngineError, match=r"engines cannot be kept here .No space left on device"):
        obtain(tmp_path / "engines", rebuild=True)
    monkeypatch.undo()
    build = Builder()
    obtain(tmp_path / "engines", build=build)
    assert build.built == 1
    assert not list((tmp_path / "engines").rglob("*.part"))


def test_a_cache_that_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines").chmod(0o777)
    with pytest.raises(EngineError, match=r"others may write here .*an engine is program code"):
        obtain(tmp_path / "engines")


def test_the_cache_is_for_this_user_alone(tmp_path: Path) -> None:
    obtain(tmp_path / "engines")
    assert (tmp_path / "engines").stat().st_mode & 0o777 == 0o700


def test_a_cache_below_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="engines cannot be kept here"):
        obtain(tmp_path / "file" / "engines")


def _build_slowly(cache: Path, number: int) -> None:
    def build() -> bytes:
        (cache.parent / f"built by {number}").write_text("")
        time.sleep(0.3)
        return b"engine of %d" % os.getpid()

    engine.obtain(cache, "tiny", TARGET, build, lambda plan: None, lambda line: None)


def test_two_processes_that_want_the_same_engine_build_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_build_slowly, args=(tmp_path / "engines", number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(list(tmp_path.glob("built by *"))) == 1


def test_the_timing_cache_is_one_gpus_and_one_tensorrts(tmp_path: Path) -> None:
    engine.write_timing(tmp_path, TARGET, b"measured")
    assert engine.read_timing(tmp_path, changed(model="b" * 64, workspace_mib=1)) == b"measured"
    assert engine.read_timing(tmp_path, changed(tensorrt="11.5.0")) == b""
    assert engine.read_timing(tmp_path, changed(gpu="NVIDIA A10")) == b""


@pytest.mark.parametrize(
    "sizes",
    [(0, 1, 4), (2, 1, 4), (1, 5, 4), (1, 4, 64)],
    ids=["zero", "min above opt", "opt above max", "beyond the card"],
)
def test_batch_sizes_out_of_order_are_refused_with_what_is_expected(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match=r"expected 1 <= min <= opt <= max <= 32"):
        Profile(*sizes).check(32)
