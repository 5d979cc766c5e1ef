"""What `sightline build` does: the check of the graph, the engine, its proof, and what is said of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from deploy import engine, engine_build, engine_check
from deploy.backends.trt import plan_of
from deploy.bundle import MODEL, load_bundle
from deploy.engine import PLAN, Profile
from stream.errors import UsageError


def check(given: str, console: Console) -> tuple[dict[str, Any], bool]:
    """Say what TensorRT's parser does not take of a bundle or an ONNX file. Returns it as data, and whether all is taken."""
    path = Path(given) if given.endswith(".onnx") else load_bundle(given).path / MODEL
    report = engine_check.check(engine_build.prepared(path))
    for one in report.unsupported:
        console.print(f"[red]not taken[/] {escape(str(one))}", markup=True)
    for operator, note in report.notes.items():
        console.print(f"[yellow]look[/] {operator}: {escape(note)}", markup=True)
    verdict = f"{len(report.unsupported)} not taken" if report.unsupported else "all taken"
    console.print(
        f"{path}: opset {report.opset}, {report.nodes} nodes, {verdict} by the parser's published list (TensorRT {report.tensorrt})"
    )
    return {"file": str(path), **msgspec.to_builtins(report)}, not report.unsupported


def build(
    given: str,
    sizes: tuple[int, int | None, int | None],
    workspace_mib: int,
    version_compatible: bool,
    rebuild: bool,
    console: Console,
) -> dict[str, Any]:
    """Have the bundle's engine in the cache, proven, and say what it is."""
    if given.endswith(".onnx"):
        raise UsageError(
            f"{given}: engines are made of bundles, which say what the model must answer; --check takes ONNX files"
        )
    bundle = load_bundle(given)
    profile = _profile(sizes, bundle.card.max_batch)
    profile.check(bundle.card.max_batch)  # before anything is asked of the GPU
    report = engine_check.check(engine_build.prepared(bundle.model))
    for one in report.unsupported:
        console.print(
            f"[yellow]look[/] {escape(str(one))}: so says the list of TensorRT {report.tensorrt}; the parser decides",
            markup=True,
        )
    with _shown(console) as (say, progress):
        plan, sidecar = plan_of(
            bundle,
            profile=profile,
            workspace_mib=workspace_mib,
            version_compatible=version_compatible,
            rebuild=rebuild,
            say=say,
            progress=progress,
        )
    target = sidecar.target
    path = engine.engines() / f"{bundle.card.name}-{target.key}" / PLAN
    console.print(
        f"{bundle.card.id}: batches of {target.profile.least} to {target.profile.most} (best {target.profile.best}) for {target.gpu} "
        f"({target.compute_capability}), TensorRT {target.tensorrt}, driver {target.driver}; built {sidecar.built_at} in "
        f"{sidecar.build_s:.0f} s, gives the golden outputs"
    )
    console.print(str(path))
    return {"bundle": str(bundle.path), "engine": str(path), "bytes": len(plan), **msgspec.to_builtins(sidecar)}


def _profile(sizes: tuple[int, int | None, int | None], max_batch: int) -> Profile:
    """Sizes that are not given: as large as the card allows."""
    least, best, most = sizes
    most = max_batch if most is None else most
    return Profile(least, most if best is None else best, most)


@contextmanager
def _shown(console: Console) -> Iterator[tuple[engine.Say, engine_build.Progress]]:
    """Progress bars on a terminal; elsewhere a line per phase."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def progress(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
                if not console.is_terminal:
                    console.print(f"{phase}: {total} steps")
            bars.update(tasks[phase], completed=done)

        yield console.print, progress
