"""From nothing to match events, three commands per method: train, export, run. Tiny, and real: what was trained is what runs.

An untrained network links nobody well, so nothing is asked of the figures but that they are there.
"""

import json

import pytest

from deploy import links
from deploy.bundle import load_bundle
from deploy.cli import status_of
from trainer import checkpoint, stays, tracklets

DEMO = ["demo", "--headless", "--fast", "--seed", "11", "--people", "5", "--cameras", "2", "--seconds", "8"]
DEMO += ["--size", "320x180", "--camera-fps", "5"]
PEOPLE = ("--data", "synthetic", "--people", "4", "--epochs", "1", "--threads", "1", "--set", "precision=fp32")
CROPS = ("--set", "input_hw=[64, 32]", "--set", "batch_people=4", "--set", "batch_pictures=2")
TINY = {
    "osnet": ("--set", "width=0.25"),
    "eprinet": (),
    "magnifiernet": (),
    "mgre": (),
}
SEARCH = ("backbone=googlenet", "input_hw=[96, 192]", "rois=8", "queue=8", "learning_rate=1e-4", "max_proposals_test=4")
SEARCH += ("anchor_sizes=[500, 600, 700]",)
"""A dozen batches teach nobody to find people: it gives a few large regions a score of about a half, and those are followed."""
UNSURE = [word for name in ("new_score", "high_score", "low_score") for word in ("--default", f"{name}=0.05")]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def _small(tmp_path_factory):
    """Drawings are shared by all methods; link rows are fitted on one small site, so on fewer pairs than a model needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGHTLINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("SIGHTLINE_COMPUTE__BACKEND", "onnxruntime")
        patch.setattr(links, "LEAST_PAIRS", 1)
        for module in (tracklets, stays):
            for name, value in {"SITES": 1, "PEOPLE": 6, "SECONDS": 60.0}.items():
                patch.setattr(module, name, value)
        yield


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Method -> its bundle, made by the first test that asks for it."""
    root, made = tmp_path_factory.mktemp("methods"), {}

    def bundle(method):
        if method not in made:
            run, folder = root / f"{method}-run", root / method
            keys = [word for key in SEARCH for word in ("--set", key)] if method == "person-search" else CROPS
            tiny = [*PEOPLE, *keys, *TINY.get(method, ())]
            assert status_of(["train", method, *tiny, "--output", str(run)]) == 0
            export = ["export", str(run / "checkpoint.pt"), "--output", str(folder), "--name", f"my-{method}"]
            assert status_of([*export, *(UNSURE if method == "person-search" else [])]) == 0
            made[method] = run / "checkpoint.pt", folder
        return made[method]

    return bundle


@pytest.mark.parametrize("method", [*TINY, "person-search"])
def test_what_was_trained_runs_in_the_stream_to_scored_match_events(method, bundles, tmp_path):
    saved, folder = bundles(method)
    role = "--detector" if method == "person-search" else "--embedder"
    report = tmp_path / "report"
    assert status_of([*DEMO, role, str(folder), "--report", str(report)]) == 0
    card = load_bundle(folder).card
    assert checkpoint.load(saved).recipe["method"] == method
    events = [json.loads(line) for line in (report / "events.jsonl").read_text().splitlines()]
    assert {"new", "end"} <= {event["kind"] for event in events}
    assert {event["model"] for event in events} == {card.id}
    assert card.name == f"my-{method}"
    figures = json.loads((report / "report.json").read_text())
    kinds = [event["kind"] for event in events]
    assert figures["identities"] == kinds.count("new") - kinds.count("merge") > 0
    assert 0 <= figures["idf1"] <= 1
    assert figures["frames_dropped"] == 0
