"""The fastest runtime for a bundle on this machine: measured once, kept in the user's cache folder, equal for all workers.

backends/<name>-<key>.json  `Choice`; the key stands for processor, GPU, runtimes and their versions, bundle and threads

Runtimes and precisions differ in the last digits, or the third, so events are the same as long as the choice is. Hence it is not
made again: the first process that has measured has the word, and who measured at the same time takes its choice.
"""

import hashlib
import logging
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import platformdirs
from numpy.typing import NDArray

from deploy import gate, search_people
from deploy.backends import Candidate
from deploy.backends.cuda import device
from deploy.bundle import Bundle
from stream.errors import BundleError, DeviceError, SightlineError
from stream.model import Backend

log = logging.getLogger(__name__)

Clock = Callable[[], float]


ON_PROCESSOR = ("onnxruntime", "openvino")
"""Runtimes that need no GPU."""


class Infers(Protocol):
    """What can be timed."""

    def infer(self, images: NDArray[np.uint8]) -> object:
        """See `stream.model.Backend`."""
        ...


SIZES = (1, 4, 8)
"""Pictures per call that are timed: what a few live cameras bring at a time, of frames as of crops."""
SECONDS = 0.3
"""How long each candidate is timed, in turns with the others."""
MIN_ROUNDS, MAX_ROUNDS = 2, 200
CALLS = 2
"""In a row, per turn: the first one after another runtime finds the caches cold and that one's threads still spinning."""
MIN_GAIN = 1.1
"""A candidate must beat the first one, and those that are more exact than itself, by this factor: below it is noise."""
EXACTNESS: Sequence[gate.Arithmetic] = ("fp32", "fp16", "bf16", "int8")
"""The most exact first: fp16 keeps 11 bits of a number, bf16 8."""
MAX_BYTES = 1 << 16


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored of a measurement."""

    made_for: dict[str, str]
    """What the key stands for."""
    chosen: str
    """Name of a candidate."""
    pictures_per_second: dict[str, float]
    refused: dict[str, str]
    """Candidates that cannot run the model, or do not give its golden outputs, and what was said."""


_lock = threading.Lock()  # workers of a process measure one after another: the second finds what the first has stored
_known: dict[Path, Choice] = {}  # of this process: it keeps its word when the cache is emptied or cannot be written


def fastest(bundle: Bundle, threads: int, candidates: Sequence[Candidate]) -> Candidate:
    """The candidate that this machine's choice names; it is made now, which takes seconds, where there is none yet.

    Raises `SightlineError`, that of the first, where no candidate can run the model.
    """
    choice = choice_of(bundle, threads, candidates)
    speed = choice.pictures_per_second
    first = next(iter(speed))
    remark = f"{speed[choice.chosen] / speed[first]:.1f} times {first} here"
    if choice.chosen == first:
        remark = "the fastest here" if len(speed) > 1 else "the only one that gives the golden outputs here"
    return replace(next(c for c in candidates if c.name == choice.chosen), remark=remark)


def choice_of(bundle: Bundle, threads: int, candidates: Sequence[Candidate]) -> Choice:
    """The stored choice between these candidates, or a new one."""
    made_for = _made_for(bundle, threads, candidates)
    key = hashlib.sha256(msgspec.json.encode(made_for, order="deterministic")).hexdigest()[:20]
    path = platformdirs.user_cache_path("sightline") / "backends" / f"{bundle.card.name}-{key}.json"
    with _lock:
        if path not in _known:
            _known[path] = _stored(path, candidates) or _publish(
                path, _measured(bundle, threads, candidates, made_for), candidates
            )
        return _known[path]


def _made_for(bundle: Bundle, threads: int, candidates: Sequence[Candidate]) -> dict[str, str]:
    return {
        "processor": processor(),
        "gpu": "" if _on_processor(candidates) else gpu(),
        "candidates": ", ".join(f"{c.name} {version_of(c.runtime) or '?'}" for c in candidates),
        "bundle": bundle.card.digest,
        "threads": str(threads),
        "sightline": version_of("sightline") or "?",
    }


def processor() -> str:
    """Model and a digest of its instruction sets, which a cloud's name of a processor says nothing about."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    fields = {name.strip().lower(): value.strip() for name, value in told.items()}
    sets = " ".join(sorted(fields.get("flags", fields.get("features", "")).split()))
    return f"{fields.get('model name', platform.machine())} {hashlib.sha256(sets.encode()).hexdigest()[:12]}"


def gpu() -> str:
    """Name, capability and driver of the GPU; why there is none where there is none."""
    try:
        found = device()
    except DeviceError as error:
        return str(error)
    return f"{found.name} ({found.capability}), driver {found.driver}"


def _on_processor(candidates: Sequence[Candidate]) -> bool:
    return all(candidate.runtime in ON_PROCESSOR for candidate in candidates)


def version_of(package: str) -> str | None:
    """Of an installed package; None where it is not, or was built from source under another name."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _measured(bundle: Bundle, threads: int, candidates: Sequence[Candidate], made_for: dict[str, str]) -> Choice:
    """Time every candidate that passes the gate, in turns, so that whatever else runs slows all of them alike."""
    log.warning(  # commands without a log show warnings alone, and this takes seconds to minutes
        "measuring which runtime is fastest for %s, once per machine and model: %s",
        bundle.card.name,
        ", ".join(c.name for c in candidates),
    )
    refused: dict[str, str] = {}
    first_error: SightlineError | None = None
    passed: dict[str, Backend] = {}
    try:
        for candidate in candidates:
            try:
                passed[candidate.name] = _gated(bundle, candidate)
            except SightlineError as error:
                refused[candidate.name] = str(error)
                first_error = first_error or error
        if not passed:
            raise first_error or ValueError("no candidates")
        rates = pictures_per_second(list(passed.values()), bundle, clock_for(candidates, threads))
    finally:
        for backend in passed.values():
            backend.close()
    speed = dict(zip(passed, rates, strict=True))
    return Choice(made_for=made_for, chosen=taken(speed, candidates), pictures_per_second=speed, refused=refused)


def taken(speed: Mapping[str, float], candidates: Sequence[Candidate]) -> str:
    """Name of the candidate that is worth its loss of exactness; `speed` is of those that passed the gate, in their order."""
    chosen = next(iter(speed))
    for candidate in sorted(candidates, key=lambda each: EXACTNESS.index(each.remainder or each.precision)):
        if speed.get(candidate.name, 0.0) > MIN_GAIN * speed[chosen]:
            chosen = candidate.name
    return chosen


def _gated(bundle: Bundle, candidate: Candidate) -> Backend:
    """The candidate's backend, once it has passed."""
    made = candidate.make()
    try:
        verify(made, bundle, candidate.precision)
    except BaseException:
        made.close()
        raise
    return made


def verify(backend: Backend, bundle: Bundle, precision: gate.Arithmetic) -> None:
    """Raises `BundleError` unless the backend gives the golden outputs within what its precision allows."""
    inputs, expected = bundle.answers()
    if bundle.card.kind != "person-search":
        gate.check(backend, expected, inputs, precision=precision)
        return
    limits = gate.limits_of(precision, bundle.card.min_cosine)
    said = search_people.differ(
        backend.infer(inputs), expected, score=limits.score, box_px=limits.box_px, cosine=limits.cosine
    )
    if said:
        raise BundleError(f"{bundle.card.name}: {said} ({precision})")


def pictures_per_second(
    backends: Sequence[Infers], bundle: Bundle, clock: Clock, sizes: Sequence[int] = SIZES
) -> list[float]:
    """Speed of each over one call of every size that the card takes."""
    golden, _ = bundle.answers()
    batches = [golden[np.arange(size) % len(golden)] for size in sizes if size <= bundle.card.max_batch]
    return [sum(map(len, batches)) / sum(seconds) for seconds in quickest_s(backends, batches, clock)]


def clock_for(candidates: Sequence[Candidate], threads: int) -> Clock:
    """Processor seconds where one thread of it does all the work, which what else runs on the machine changes least; else the wall's."""
    return time.process_time if threads == 1 and _on_processor(candidates) else time.perf_counter


def one_call_ms(backend: Infers, images: NDArray[np.uint8], clock: Clock) -> float:
    """Milliseconds of a call with `images`, the quickest of several."""
    return 1000 * quickest_s([backend], [images], clock)[0][0]


def quickest_s(backends: Sequence[Infers], batches: Sequence[NDArray[np.uint8]], clock: Clock) -> list[list[float]]:
    """Backend by batch, the shortest of its turns; turns alternate, and what else runs only adds to one."""
    times: list[list[list[float]]] = [[[] for _ in batches] for _ in backends]
    for backend in backends:  # the first call of a size is never as fast
        for batch in batches:
            backend.infer(batch)
    until = clock() + SECONDS * len(backends)
    for turn in range(MAX_ROUNDS):
        if turn >= MIN_ROUNDS and clock() > until:
            break
        for backend, of_backend in zip(backends, times, strict=True):
            for batch, of_batch in zip(batches, of_backend, strict=True):
                for _ in range(CALLS):
                    began = clock()
                    backend.infer(batch)
                    of_batch.append(clock() - began)
    return [[min(of_batch) for of_batch in of_backend] for of_backend in times]


def _stored(path: Path, candidates: Sequence[Candidate]) -> Choice | None:
    """What is there, if it can be used."""
    try:
        with path.open("rb") as file:
            choice = msgspec.json.decode(file.read(MAX_BYTES), type=Choice)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    speed = choice.pictures_per_second
    usable = choice.chosen in speed and choice.chosen in {c.name for c in candidates} and min(speed.values()) > 0
    return choice if usable else None


def _publish(path: Path, choice: Choice, candidates: Sequence[Candidate]) -> Choice:
    """Store a choice, whole or not at all, unless another process was first: then that one's holds."""
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            part = Path(file.name)
            file.write(msgspec.json.format(msgspec.json.encode(choice)) + b"\n")
        try:
            os.link(part, path)
        except FileExistsError:
            if theirs := _stored(path, candidates):
                return theirs
            part.replace(path)  # it was damaged
    except OSError as error:
        log.warning(
            "%s: the choice of a backend cannot be kept (%s): it is made again at the next start", path, error.strerror
        )
    finally:
        if part:
            part.unlink(missing_ok=True)
    return choice
