"""The whole stream against the truth, beside a linker that looks at colours alone, over the five held-out scenes.

    python benchmarks/end_to_end.py demo          four cameras 640x360 at 10 fps, 16 people, 60 s
    python benchmarks/end_to_end.py bench         four cameras 1280x720 at 25 fps, 24 people, 90 s

Both sampled at 5 fps and played in real time. The colour linker gets the same tracklets (the stream's own), their crops, and
the threshold that scores best on the very scene it is judged on; both are judged by deploy/score.py. Prints markdown.
"""

import argparse
import threading
from collections import defaultdict

import numpy as np
from colour_linker import Tracklet, describe, link
from rich.console import Console

from deploy.bench import SEEDS, bench_scene
from deploy.demo import drawn
from deploy.play import against_truth, figures, judge, place, play, site
from deploy.score import Linking, Score, TrueBoxes, score
from ingest.synthetic.scene import SceneSettings
from ingest.synthetic.truth import pictures
from stream.cores import usable_cores
from stream.messages import Embeddings

MOST_CROPS = 12  # per tracklet, spread over its time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", choices=["demo", "bench"])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--fast", action="store_true", help="as fast as the machine can: no latency figures")
    asked = parser.parse_args()
    console = Console(stderr=True)
    columns = ("idf1", "link_precision", "link_recall", "mota", "frames_dropped", "p95 ms", "CPU ms", "colour idf1")
    print(f"| seed | {' | '.join(columns)} | colour precision |")
    print("|---" * (len(columns) + 2) + "|")
    rows = []
    for seed in asked.seeds:
        scene = bench_scene(seed) if asked.scene == "bench" else SceneSettings(seed=seed)
        with drawn(scene, console, workers=usable_cores(), ahead=False):
            played = play(site(scene, fast=asked.fast), threading.Event())
        frames = against_truth(scene, played.records)
        found = figures(scene, played, judge(frames, played.events), fast=asked.fast, workers=1)
        colour = colours(scene, frames)
        latency = (found["latency_ms"] or {"p95": float("nan")})["p95"]
        row = [found[name] or 0.0 for name in columns[:5]]
        row += [latency, found["cpu_ms_per_camera_second"], colour.idf1, colour.link_precision or 0.0]
        rows.append(row)
        print(f"| {seed} | {' | '.join(f'{value:.3f}' for value in row)} |", flush=True)
    low_is_good = np.array([False] * 4 + [True] * 3 + [False] * 2)
    values = np.array(rows)
    worst = np.where(low_is_good, values.max(0), values.min(0))
    print(f"| mean | {' | '.join(f'{value:.3f}' for value in values.mean(0))} |")
    print(f"| worst | {' | '.join(f'{value:.3f}' for value in worst)} |")


def colours(scene: SceneSettings, frames: list[tuple[Embeddings, TrueBoxes]]) -> Score:
    """The colour linker's best score on the stream's own tracklets."""
    boxes = defaultdict(list)
    for record, _ in frames:
        camera, frame = place(scene, record)
        for person in record.people:
            boxes[person.tracklet].append((camera, frame, person.xyxy, record.captured_at / 1e9))
    wanted = defaultdict(list)
    for name, seen in boxes.items():
        for index in np.unique(np.linspace(0, len(seen) - 1, MOST_CROPS).astype(int)):
            camera, frame, xyxy, _ = seen[index]
            wanted[camera, frame].append((name, xyxy))
    crops = defaultdict(list)
    for camera in range(scene.cameras):
        for frame, picture in pictures(scene, camera):
            for name, (x1, y1, x2, y2) in wanted.get((camera, frame), ()):
                crops[name].append(picture[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1].copy())
    order = sorted(boxes, key=lambda name: (boxes[name][0][3], name))
    tracklets = [Tracklet(name.split("/")[0], boxes[name][0][3], boxes[name][-1][3], crops[name]) for name in order]
    vectors = [describe(tracklet.crops) for tracklet in tracklets]
    tried = []
    for threshold in np.arange(0.3, 1.0, 0.04):
        identities = {name: str(who) for name, who in zip(order, link(tracklets, threshold, vectors), strict=True)}
        latest: dict[str, str] = {}
        links = []
        for name in order:
            if identities[name] in latest:
                links.append((name, latest[identities[name]]))
            latest[identities[name]] = name
        tried.append(score(frames, Linking(identities, links)))
    return max(tried, key=lambda judged: judged.idf1)


if __name__ == "__main__":
    main()
