"""Linking on drawn scenes, offline: what the stream saw of each is kept, and linked again in seconds with other rules or models.

    python benchmarks/linking.py [--seeds 1 2 3] [--bench] [--wrong] [--truth] [--set SECTION.KEY=VALUE ...]
    python benchmarks/linking.py --set rules.tau_s=20                   a number of matcher/rules.py, times in nanoseconds
    python benchmarks/linking.py --set detector.still_s=0 reid.bundle=runs/mine/bundle      a key of a site file

The numbers of matcher/rules.py were chosen so, on the scenes that are taken here unless told otherwise. The held-out scenes are
judged by benchmarks/end_to_end.py alone. `--wrong` prints each wrong link, `--truth` lets the truth name every tracklet. Prints markdown.
"""

import argparse
import hashlib
import threading
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from deploy.bench import SEEDS, bench_scene
from deploy.demo import drawn
from deploy.models import detector_of, embedder_of
from deploy.play import against_truth, judge, play, site
from deploy.score import Linking, majority_truth, score
from deploy.settings import Settings
from deploy.thresholds import with_defaults
from detector.settings import DetectorSettings
from ingest.synthetic.clip import scene_folder
from ingest.synthetic.scene import SceneSettings
from matcher.matcher import Matcher
from matcher.rules import Calibration, Rules
from matcher.settings import MatcherSettings
from matcher.state import State
from reid.settings import EmbedderSettings
from stream.cores import usable_cores
from stream.messages import CameraState, Embeddings, MatchEvent
from stream.settings import Section
from stream.transport import Record

DEVELOPMENT = (1, 2, 3, 4, 11, 12, 13, 14, 15, 16, *range(21, 29), 7001, 7004)
COLUMNS = ("idf1", "link_precision", "link_recall", "links", "transitions", "identities", "tracklet_purity", "mota")
SECTIONS: dict[str, type[Section]] = {
    "detector": DetectorSettings,
    "reid": EmbedderSettings,
    "matcher": MatcherSettings,
}
NUMBERS = [each.name for each in fields(Rules)[4:]]
"""Of matcher/rules.py; what comes before is the site's."""
ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--bench", action="store_true", help="bench scenes instead of the demo's")
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--wrong", action="store_true", help="say of each wrong link whom its tracklets show")
    parser.add_argument("--truth", action="store_true", help="the truth names the tracklets")
    asked = parser.parse_args()
    held_out = set(SEEDS) if asked.bench else set(SEEDS) - set(DEVELOPMENT)
    seeds = asked.seeds or [seed for seed in DEVELOPMENT if seed not in held_out]
    if held := held_out & set(seeds):
        parser.error(f"{held} are held out: benchmarks/end_to_end.py judges them")
    scenes = [bench_scene(seed) if asked.bench else SceneSettings(seed=seed) for seed in seeds]
    said = defaultdict[str, dict[str, str]](dict)
    for each in asked.set:
        place, _, value = each.partition("=")
        section, _, key = place.partition(".")
        known = NUMBERS if section == "rules" else SECTIONS[section].model_fields if section in SECTIONS else ()
        if key not in known:
            there = f"rules ({', '.join(NUMBERS)}), {', '.join(SECTIONS)}"
            parser.error(f"--set {each}: there is no {place}, there are keys of {there}")
        said[section][key] = value
    try:
        settings_for(scenes[0], said)
        numbers_of(said)
    except ValueError as error:  # pydantic's too
        parser.error(f"--set: {error}")
    for scene in scenes:
        seen(scene, said)
    print(f"| seed | {' | '.join(COLUMNS)} |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    rows = []
    with ProcessPoolExecutor(usable_cores()) as pool:
        for scene, (row, wrong) in zip(
            scenes, pool.map(partial(judged, said=said, truth=asked.truth), scenes), strict=True
        ):
            rows.append(row)
            print(f"| {scene.seed} | {' | '.join(f'{value:.3f}' for value in row)} |", flush=True)
            if asked.wrong:
                print("\n".join(wrong))
    print(f"| mean | {' | '.join(f'{value:.3f}' for value in np.mean(rows, axis=0))} |")
    print(f"| worst | {' | '.join(f'{value:.3f}' for value in np.min(rows, axis=0))} |")


def settings_for(scene: SceneSettings, said: dict[str, dict[str, str]]) -> Settings:
    """The scene's site file with what was said of it."""
    found = site(scene, fast=True)
    for section, kind in SECTIONS.items():
        if section in said:
            found = found.model_copy(update={section: kind.model_validate_strings(said[section])})
    return found


def numbers_of(said: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Those of matcher/rules.py that were said."""
    return {key: float(value) if "." in value else int(value) for key, value in said.get("rules", {}).items()}


def seen(scene: SceneSettings, said: dict[str, dict[str, str]]) -> list[Embeddings]:
    """Every record of the scene, from the cache if the same code and models have seen it before."""
    settings = settings_for(scene, said)
    models = [find(settings.detector, settings.reid).card.id for find in (detector_of, embedder_of)]
    sources = sorted(path for part in ("detector", "reid") for path in (ROOT / part).glob("*.py"))
    key = hashlib.sha256(repr([models, settings.detector, settings.reid]).encode())
    for path in sources:
        key.update(path.read_bytes())
    kept = scene_folder(scene).parent.parent / "linking" / f"{scene.key}-{key.hexdigest()[:12]}.msgpack"
    if kept.exists():
        return msgspec.msgpack.decode(kept.read_bytes(), type=list[Embeddings])
    with drawn(scene, Console(stderr=True), workers=usable_cores(), ahead=False):
        records = list(play(settings, threading.Event()).records)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(msgspec.msgpack.encode(records))
    return records


def judged(scene: SceneSettings, said: dict[str, dict[str, str]], truth: bool) -> tuple[list[float], list[str]]:
    """The figures of `COLUMNS`, and a line for each wrong link."""
    records = seen(scene, said)
    frames = against_truth(scene, records)
    shows = majority_truth(frames)
    if truth:
        names = {tracklet: str(person) for tracklet, person in shows.items()}
        return [float(getattr(score(frames, Linking(names, [])), name) or 0) for name in COLUMNS], []
    events = linked(scene, records, said)
    start = min(record.captured_at for record in records)
    wrong = []
    links = Linking.of(events).links
    for a, b in links:
        if shows.get(a, -1) != shows.get(b, -2):
            event = next(e for e in events if a == e.tracklet and e.kind != "end")
            card = event.evidence
            wrong.append(
                f"    {(event.captured_at - start) / 1e9:5.1f} s {a} shows {shows.get(a, 'nobody')}, {b} shows {shows.get(b, 'nobody')}:"
                f" {event.kind}, p {event.probability:.3f}, {card}"
            )
    found = judge(frames, events)
    return [float(getattr(found, name) or 0) for name in COLUMNS], wrong


def linked(scene: SceneSettings, records: list[Embeddings], said: dict[str, dict[str, str]]) -> list[MatchEvent]:
    """The events that the matcher makes of the records."""
    settings = settings_for(scene, said)
    bundle = embedder_of(settings.detector, settings.reid)
    assert bundle.links is not None, "an embedder has them"
    matching = with_defaults(settings.matcher, bundle.card)
    rules = Rules(
        Calibration(bundle.links),
        scene.cameras,
        settings.site.retention.gallery_s * 10**9,
        matching.false_links,
        **numbers_of(said),
    )
    cameras = [camera.id for camera in settings.camera]
    matcher = Matcher("linking", cameras, State(rules), key=b"linking", model=bundle.card.id, live=False)
    last = {record.camera: record for record in records}
    ends = [
        CameraState(
            site=r.site, camera=r.camera, stream=r.stream, captured_at=r.captured_at, ingested_at=0, state="end"
        )
        for r in last.values()
    ]
    messages: list[Embeddings | CameraState] = [*records, *ends]
    batch = [Record(message, cameras.index(message.camera), n) for n, message in enumerate(messages)]
    steps = [*matcher.process(batch), *matcher.finish()]
    return [msgspec.structs.replace(e, number=n) for n, e in enumerate((e for s in steps for e in s.events), start=1)]


if __name__ == "__main__":
    main()
