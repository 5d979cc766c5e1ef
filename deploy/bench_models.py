"""`sightline bench models`: every bundle in every runtime that this machine has, beside torch eager and the machine's own peak."""

import ctypes
import gc
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from deploy import backends
from deploy.backends import auto
from deploy.bench_peak import multiply_adds, peaks
from deploy.bundle import Bundle, load_bundle, names
from deploy.gate import Arithmetic
from stream.errors import BundleError, SightlineError

EAGER = "torch eager fp32"
EVERY = "every runtime"
"""In place of a backend's name, of a model that none can be asked for."""
PACKAGES = ("onnxruntime", "openvino", "tensorrt", "torch")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One model in one runtime."""

    model: str
    backend: str
    batch: int
    pictures_per_second: float | None = None
    """None where it was refused."""
    ms_per_batch: float | None = None
    memory_mb: float | None = None
    """By how much the process grew when it was loaded and first run; a GPU's own memory is not in it."""
    precision: Arithmetic | None = None
    """What the processor computes in; None on a GPU, whose peak is not known, and where it was refused."""
    gmacs_per_second: float | None = None
    """10^9 multiply-adds."""
    of_peak: float | None = None
    """Share of the multiply-adds per second that this precision reaches at most here."""
    times_torch: float | None = None
    refused: str = ""
    """Why it cannot be used: an error, or golden outputs that it does not give."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to be measured."""

    name: str
    bundle: Bundle
    in_torch: auto.Infers | None
    """The same network in torch, as it is trained."""
    checkpoint: Path | None = None
    """What torch's recorded graphs are made of on a GPU."""


def bench_models(asked: Sequence[str], *, methods: bool, batch: int, threads: int, console: Console) -> dict[str, Any]:
    """Measure bundles by name or folder, those that ship and the user's own where none is `asked` for, or one of each method with
    random weights; print it, and return it. A bundle that cannot be measured is a row that says why.

    Raises `BundleError`, before anything is measured, where one that was asked for cannot be loaded.
    """
    rows: list[Row] = []
    bundles = [] if methods else of_bundles(asked, batch, rows)
    console.print(f"measuring what {threads} thread(s) do at most")
    at_first = peaks(threads)
    with tempfile.TemporaryDirectory() as folder:
        for subject in of_methods(Path(folder), console) if methods else bundles:
            console.print(f"{subject.name}: compiling and measuring")
            try:
                rows += measure(subject, batch, threads)
            except SightlineError as error:
                rows.append(Row(model=subject.name, backend=EVERY, batch=batch, refused=str(error)))
    at_last = peaks(threads)  # what else a machine does comes and goes
    found = {name: round(max(at_first[name], at_last[name]) / 1e9, 1) for name in at_first}
    rows = [_with_share(row, found) for row in rows]
    for model in dict.fromkeys(row.model for row in rows):
        console.print(table([row for row in rows if row.model == model]))
    for row in rows:
        if row.refused:
            console.print(f"{row.model} in {row.backend} is refused: {row.refused}")
    peak = ", ".join(f"{name} {rate:g}" for name, rate in found.items())
    console.print(f"At most, in 10^9 multiply-adds per second: {peak}. Load of the machine: {os.getloadavg()[0]:.1f}.")
    return {
        "threads": threads,
        "load": os.getloadavg(),
        "processor": auto.processor(),
        "versions": {name: said for name in PACKAGES if (said := auto.version_of(name))},
        "peak_gmacs_per_second": found,
        "rows": rows,
    }


def of_bundles(asked: Sequence[str], batch: int, rows: list[Row]) -> list[Subject]:
    """By name or folder, or all that have a name where none is asked for; of those each that cannot be loaded is added to `rows`.

    Bundles whose cards have one name go by what they were asked for with.
    """
    found: dict[str, Bundle] = {}
    for name in asked or names():
        try:
            found[name] = load_bundle(name)
        except BundleError as error:
            if asked:
                raise
            rows.append(Row(model=name, backend=EVERY, batch=batch, refused=str(error)))
    alike = Counter(bundle.card.name for bundle in found.values())
    return [
        Subject(bundle.card.name if alike[bundle.card.name] == 1 else name, bundle, None)
        for name, bundle in found.items()
    ]


def of_methods(folder: Path, console: Console) -> Iterator[Subject]:
    """A network of each method at its own input size. Speed asks for no training, so weights are random."""
    from deploy.bench_networks import CHECKPOINT, NETWORKS, random_bundle

    for name, recipe in NETWORKS.items():
        console.print(f"{name}: exporting")
        bundle, in_torch = random_bundle(name, recipe, folder / name)
        checkpoint = bundle.path / CHECKPOINT
        yield Subject(name, bundle, in_torch, checkpoint if checkpoint.exists() else None)


def measure(subject: Subject, batch: int, threads: int) -> list[Row]:
    """The model in every runtime that can be had here, timed in turns. Raises `BundleError` where its golden outputs cannot be read."""
    bundle, card = subject.bundle, subject.bundle.card
    bundle.answers()  # without them no runtime can be judged: said once, not of each
    size = min(batch, card.max_batch)
    candidates = backends.candidates(bundle, threads, "auto", subject.checkpoint)
    held: list[tuple[str, Arithmetic | None, auto.Infers, float]] = []  # None: on a GPU, whose peak is not known
    rows = []
    with ExitStack() as loaded:
        for candidate in candidates:
            try:
                made, memory_mb = _grown(candidate.make, bundle, size)
                loaded.callback(made.close)
                auto.verify(made, bundle, candidate.precision)
                here = candidate.runtime in auto.ON_PROCESSOR
                held.append((candidate.name, candidate.precision if here else None, made, memory_mb))
            except SightlineError as error:
                rows.append(Row(model=subject.name, backend=candidate.name, batch=size, refused=str(error)))
        if subject.in_torch is not None:
            import torch

            eager = subject.in_torch
            _, memory_mb = _grown(lambda: eager, bundle, size)
            held.append((EAGER, None if torch.cuda.is_available() else "fp32", eager, memory_mb))
        clock = auto.clock_for(candidates, threads)
        rates = auto.pictures_per_second([each for _, _, each, _ in held], bundle, clock, sizes=(size,))
    macs = multiply_adds(bundle.model.read_bytes())
    by_torch = rates[-1] if subject.in_torch is not None else None
    done = [
        Row(
            model=subject.name,
            backend=name,
            batch=size,
            pictures_per_second=round(rate, 2),
            ms_per_batch=round(1000 * size / rate, 2),
            memory_mb=round(memory_mb, 1),
            precision=precision,
            gmacs_per_second=round(macs * rate / 1e9, 1) if macs else None,
            times_torch=round(rate / by_torch, 2) if by_torch else None,
        )
        for (name, precision, _, memory_mb), rate in zip(held, rates, strict=True)
    ]
    return done + rows


def _with_share(row: Row, peak: Mapping[Arithmetic, float]) -> Row:
    most = peak.get(row.precision) if row.precision is not None else None
    if most is None or row.gmacs_per_second is None:
        return row
    return msgspec.structs.replace(row, of_peak=round(row.gmacs_per_second / most, 3))


def table(rows: Sequence[Row]) -> Table:
    """One model's rows as people read them; 80 columns hold them."""
    title = f"{rows[0].model}, pictures per call: {rows[0].batch}"
    made = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), header_style="dim"
    )
    made.add_column("backend", min_width=18)  # tables of several models stand below one another
    beside_torch = any(row.times_torch is not None for row in rows)  # of a bundle alone torch has no network
    for name in ("pictures/s", "ms per call", "memory, MB", "of peak", *(["x torch eager"] if beside_torch else [])):
        made.add_column(name, justify="right", min_width=len(name))
    for row in rows:
        if row.pictures_per_second is None:
            made.add_row(row.backend, "refused")
            continue
        share = f"{100 * row.of_peak:.0f} %" if row.of_peak is not None else ""
        times = [f"{row.times_torch:.1f}"] if row.times_torch is not None else []
        speed = (f"{row.pictures_per_second:.1f}", f"{row.ms_per_batch:.2f}", f"{row.memory_mb:.0f}")
        made.add_row(row.backend, *speed, share, *times)
    return made


def draw(rows: Sequence[Row], path: Path) -> None:
    """Bars of pictures per second, one group per model, on a logarithmic axis: networks differ a hundredfold."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.pictures_per_second]
    names = sorted({row.backend for row in shown})
    figure = Figure(figsize=(9, 1.5 + 0.28 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(shown):
        axes.barh(place, row.pictures_per_second or 0.0, color=f"C{names.index(row.backend)}")
        axes.text(row.pictures_per_second or 0.0, place, f" {row.pictures_per_second:.1f}", va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [f"{row.model}, {row.backend}" for row in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("pictures per second")
    axes.margins(x=0.15, y=0.01)
    figure.savefig(path, dpi=120)


def _grown(make: Callable[[], Any], bundle: Bundle, size: int) -> tuple[Any, float]:
    """What was made, and by how many MB the process grew for it and its first call."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc keeps what was freed; other C libraries have no such call
        ctypes.CDLL(None).malloc_trim(0)
    before = _resident_mb()
    made = make()
    golden, _ = bundle.answers()
    made.infer(golden[np.arange(size) % len(golden)])
    return made, max(0.0, _resident_mb() - before)


def _resident_mb() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
