"""Engines on disk: what an engine was built for, where it lies, and that no other is ever loaded.

An engine is program code for one GPU, one TensorRT and one driver. So it is never shipped and never taken from elsewhere: it lies
in a cache of this user, in a folder named by all that it depends on, beside a sidecar that says the same and its SHA-256. What does
not fit is built again, with one line that says why.

engines/<name>-<key>/engine.plan   what TensorRT loads
engines/<name>-<key>/sidecar.json  `Sidecar`, written last
engines/timing-<key>.cache         how long kernels took, for the next build on this GPU
"""

import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import platformdirs

from stream.errors import EngineError, UsageError

PLAN, SIDECAR = "engine.plan", "sidecar.json"
MAX_BYTES = {PLAN: 4 << 30, SIDECAR: 1 << 16, "timing": 1 << 28}
WORKSPACE_MIB = 2048
"""What TensorRT may use beside an engine while it tries kernels; the shipped models have 1 to 10 MB of weights."""

Say = Callable[[str], None]


class Profile(msgspec.Struct, frozen=True):
    """Batch sizes that an engine serves: from `least` to `most`, fastest at `best`."""

    least: int
    best: int
    most: int

    def check(self, max_batch: int) -> None:
        """Raises `UsageError` where the sizes are out of order or beyond what the card allows."""
        if not 1 <= self.least <= self.best <= self.most <= max_batch:
            raise UsageError(
                f"batch sizes are min {self.least}, opt {self.best}, max {self.most}, expected 1 <= min <= opt <= max <= "
                f"{max_batch}, which is the most that the bundle's card allows"
            )


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """All that an engine depends on. Engines of equal targets are interchangeable."""

    model: str
    """SHA-256 of model.onnx."""
    gpu: str
    compute_capability: str
    tensorrt: str
    """Its version; of a version-compatible engine the major version alone."""
    driver: str
    profile: Profile
    workspace_mib: int
    version_compatible: bool

    @property
    def key(self) -> str:
        """20 digits that differ where anything differs."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:20]


class Sidecar(msgspec.Struct, frozen=True, kw_only=True):
    """``sidecar.json``: what the engine beside it is."""

    target: Target
    engine_sha256: str
    build_s: float
    built_at: str
    """UTC, for people."""


def engines() -> Path:
    """The cache folder."""
    return platformdirs.user_cache_path("sightline") / "engines"


def obtain(
    cache: Path,
    name: str,
    target: Target,
    build: Callable[[], bytes],
    prove: Callable[[bytes], None],
    say: Say,
    *,
    rebuild: bool = False,
) -> tuple[bytes, Sidecar]:
    """The engine of `target`: the one in the cache, else what `build` gives, once `prove` has raised nothing for it.

    Two processes that want the same one build it once. Raises `EngineError` where the cache cannot be trusted or written, and what
    `build` and `prove` raise.
    """
    _make_private(cache)
    folder = cache / f"{name}-{target.key}"
    _make_private(folder)
    with _alone(folder, say):
        if not rebuild:
            try:
                return read(folder, target)
            except EngineError as why_not:
                say(f"{name}: {_other_engine(cache, target) or why_not}: building it, which takes minutes")
        began = time.perf_counter()
        plan = build()
        took_s = time.perf_counter() - began
        prove(plan)
        sidecar = Sidecar(
            target=target,
            engine_sha256=hashlib.sha256(plan).hexdigest(),
            build_s=round(took_s, 1),
            built_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        _write(folder, plan, sidecar)
    return plan, sidecar


def newest(cache: Path, target: Target) -> Target | None:
    """Of the engines that serve where `target` does, for any batch sizes, the one that was built last; None where there is none."""
    found = [
        sidecar
        for sidecar in _sidecars(cache)
        if (have := sidecar.target).model == target.model
        and (have.gpu, have.compute_capability, have.driver) == (target.gpu, target.compute_capability, target.driver)
        and have.tensorrt == (target.tensorrt.partition(".")[0] if have.version_compatible else target.tensorrt)
    ]
    return max(found, key=lambda sidecar: sidecar.built_at).target if found else None


def read(folder: Path, target: Target) -> tuple[bytes, Sidecar]:
    """The engine of a folder. Raises `EngineError`, which says why, where there is none, it is not whole, or it is of another target."""
    if not (folder / SIDECAR).exists():
        raise EngineError("there is no engine for this model, GPU and TensorRT yet")
    sidecar = _read_sidecar(folder)
    if said := difference(sidecar.target, target):
        raise EngineError(f"{folder}: the engine there {said}")
    plan = _read(folder / PLAN, MAX_BYTES[PLAN])
    digest = hashlib.sha256(plan).hexdigest()
    if digest != sidecar.engine_sha256:
        raise EngineError(
            f"{folder / PLAN}: altered or cut short: its SHA-256 begins {digest[:12]}, its sidecar says {sidecar.engine_sha256[:12]}"
        )
    return plan, sidecar


def difference(have: Target, want: Target) -> str | None:
    """In what an engine's target differs from the one that is wanted, in words; None where it does not."""
    if have.model != want.model:
        return f"is of another model ({have.model[:12]}, this is {want.model[:12]})"
    if (have.gpu, have.compute_capability) != (want.gpu, want.compute_capability):
        return f"was built for {have.gpu} ({have.compute_capability}), this is {want.gpu} ({want.compute_capability})"
    if (have.version_compatible, have.tensorrt) != (want.version_compatible, want.tensorrt):
        return f"was built by TensorRT {_version(have)}, this is {_version(want)}"
    if have.driver != want.driver:
        return f"was built under driver {have.driver}, this is {want.driver}"
    if (have.profile, have.workspace_mib) != (want.profile, want.workspace_mib):
        return f"was built for {_sizes(have)}, asked is {_sizes(want)}"
    return None


def read_timing(cache: Path, target: Target) -> bytes:
    """What earlier builds on this GPU measured; nothing where there is none."""
    path = _timing(cache, target)
    try:
        return _read(path, MAX_BYTES["timing"])
    except EngineError:
        return b""


def write_timing(cache: Path, target: Target, data: bytes) -> None:
    """Keep it for the next build. Raises `EngineError` where it cannot be written."""
    with _said(cache):
        _replace(_timing(cache, target), data)


def _timing(cache: Path, target: Target) -> Path:
    of = "\n".join((target.gpu, target.compute_capability, target.tensorrt, target.driver))
    return cache / f"timing-{hashlib.sha256(of.encode()).hexdigest()[:20]}.cache"


def _other_engine(cache: Path, target: Target) -> str | None:
    """How the newest other engine of the same model differs, if there is one."""
    found = [one for one in _sidecars(cache) if one.target.model == target.model and one.target != target]
    if not found:
        return None
    last = max(found, key=lambda sidecar: sidecar.built_at)
    return f"the engine of {last.built_at} {difference(last.target, target)}"


def _sidecars(cache: Path) -> Iterator[Sidecar]:
    """All that can be read."""
    for path in cache.glob(f"*/{SIDECAR}"):
        with suppress(EngineError):
            yield _read_sidecar(path.parent)


def _version(target: Target) -> str:
    return f"{target.tensorrt}, version-compatible" if target.version_compatible else target.tensorrt


def _sizes(target: Target) -> str:
    profile = target.profile
    return (
        f"batches of {profile.least} to {profile.most} (best {profile.best}) in {target.workspace_mib} MiB of workspace"
    )


def _read_sidecar(folder: Path) -> Sidecar:
    data = _read(folder / SIDECAR, MAX_BYTES[SIDECAR])
    try:
        return msgspec.json.decode(data, type=Sidecar)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise EngineError(f"{folder / SIDECAR}: is no sidecar of an engine ({error})") from error


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > limit:
        raise EngineError(f"{path}: more than {limit} bytes, which no such file has")
    return data


def _write(folder: Path, plan: bytes, sidecar: Sidecar) -> None:
    """The sidecar goes first when an engine is replaced and is written last, so a write that was cut short is no engine."""
    with _said(folder):
        (folder / SIDECAR).unlink(missing_ok=True)
        _replace(folder / PLAN, plan)
        _replace(folder / SIDECAR, msgspec.json.format(msgspec.json.encode(sidecar)) + b"\n")


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _make_private(folder: Path) -> None:
    """Make a folder that only this user may write; `EngineError` where it is anybody else's: an engine is program code."""
    with _said(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EngineError(
            f"{folder}: others may write here (owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o}), and an engine is program "
            "code: remove the folder, or make it yours and chmod 700"
        )


@contextmanager
def _alone(folder: Path, say: Say) -> Iterator[None]:
    """Until its end no other process builds in this folder; the lock goes with the process that holds it."""
    with _said(folder):
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{folder.name}: another process is building this engine: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _said(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EngineError(
            f"{folder}: engines cannot be kept here ({error.strerror}): free space, or set XDG_CACHE_HOME"
        ) from error
