"""`sightline bench`: the stream on this machine, in real time, on scenes that are drawn beforehand."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from prometheus_client import REGISTRY
from rich.console import Console
from rich.table import Table

from deploy.demo import drawn, score_table, too_slow
from deploy.play import against_truth, figures, judge, play, site
from deploy.view import View
from ingest.synthetic.scene import SceneSettings
from stream.cores import usable_cores

SEEDS = range(7001, 7006)
"""Scenes of these seeds are for measuring alone: no training and no fit of link rows reads them."""
MEANS = ("idf1", "link_precision", "link_recall", "mota", "frames_dropped", "cpu_ms_per_camera_second")


def bench_scene(seed: int, seconds: float = 90.0) -> SceneSettings:
    """Four cameras of 1280x720 at 25 fps, 24 people."""
    return SceneSettings(seed=seed, people=24, seconds=seconds, width=1280, height=720, fps=25.0)


def run_bench(scenes: Sequence[SceneSettings], console: Console) -> dict[str, Any]:
    """Play every scene in real time, print what it cost and how it was judged, and return it all."""
    runs = []
    for scene in scenes:
        settings = site(scene, fast=False, name=f"bench-{scene.seed}")
        before = _stage_seconds()
        title = f"{scene.cameras} cameras {scene.width}x{scene.height}, {scene.people} people, seed {scene.seed}"
        with (
            drawn(scene, console, workers=usable_cores(), ahead=False),
            View([camera.id for camera in settings.camera], console, title, scene.seconds) as view,
        ):
            played = play(settings, threading.Event(), view=view)
        frames = against_truth(scene, played.records)
        found = figures(scene, played, judge(frames, played.events), fast=False, workers=1)
        found["stages"] = {
            stage: {name: round(value - before.get(stage, {}).get(name, 0.0), 3) for name, value in values.items()}
            for stage, values in _stage_seconds().items()
        }
        runs.append(found)
        console.print(score_table(found), stage_table(found["stages"], scene.seconds))
        if hint := too_slow(found):
            console.print(hint)
    if len(runs) > 1:
        console.print(mean_table(runs))
    return {"runs": runs}


def stage_table(stages: Mapping[str, Mapping[str, float]], seconds: float) -> Table:
    """How busy each stage's loop was: from a batch to its commit, waiting for the disk and the other stages included."""
    table = Table("stage", "batches", "ms per batch", "busy", title="stages", title_justify="left")
    for stage, values in sorted(stages.items()):
        each = 1000 * values["seconds"] / max(1.0, values["batches"])
        table.add_row(stage, f"{values['batches']:.0f}", f"{each:.1f}", f"{100 * values['seconds'] / seconds:.0f} %")
    return table


def mean_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """Mean and worst over the scenes."""
    table = Table("figure", "mean", "worst", title=f"{len(runs)} scenes", title_justify="left")
    rows = {name: [float(run[name] or 0.0) for run in runs] for name in MEANS}
    rows["latency p95 ms"] = [float((run["latency_ms"] or {"p95": float("nan")})["p95"]) for run in runs]
    for name, values in rows.items():
        smaller_is_better = name in ("frames_dropped", "cpu_ms_per_camera_second", "latency p95 ms")
        worst = max(values) if smaller_is_better else min(values)
        table.add_row(name, f"{np.mean(values):.3f}", f"{worst:.3f}")
    return table


def _stage_seconds() -> dict[str, dict[str, float]]:
    """Stage -> seconds in its loop and batches so far, of this process."""
    found: dict[str, dict[str, float]] = {}
    for metric in REGISTRY.collect():
        if metric.name == "sightline_stage_seconds":
            for sample in metric.samples:
                key = {"_sum": "seconds", "_count": "batches"}.get(sample.name.removeprefix(metric.name))
                if key:
                    found.setdefault(sample.labels["stage"], {})[key] = sample.value
    return found
