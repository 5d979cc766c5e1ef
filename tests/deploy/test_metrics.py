"""What a site counts and measures while it runs: every part of the way has its metric (capture to event: test_outbox)."""

import threading

import pytest
from prometheus_client import REGISTRY

from deploy.settings import load
from deploy.wiring import run_site
from tests.deploy.sites import write_site


def total(name: str) -> float:
    """A metric over all its labels."""
    return sum(
        sample.value for metric in REGISTRY.collect() for sample in metric.samples if sample.name == f"sightline_{name}"
    )


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory, redis_server: str, kafka_server: str) -> dict[str, float]:
    """By how much each metric grew while a site of two files of 2 s ran over Kafka and Redis."""
    site = write_site(tmp_path_factory.mktemp("counted"), frames=50)
    places = {"SIGHTLINE_REDIS__URL": redis_server, "SIGHTLINE_KAFKA__BOOTSTRAP_SERVERS": kafka_server}
    settings = load(site, {**places, "SIGHTLINE_SITE__NAME": "counted"})
    before = {name: total(name) for name in NAMES}
    run_site(settings, threading.Event())
    return {name: total(name) - before[name] for name in NAMES}


NAMES = {
    "frames_decoded_total": 100,
    "frames_sent_total": 20,
    "people_detected_total": 1,
    "crops_embedded_total": 1,
    "match_events_total": 1,
    "batch_size_count": 4,
    "stage_seconds_count": 4,
    "merge_wait_seconds_count": 20,
    "gallery_identities": 1,
}


@pytest.mark.parametrize(("name", "least"), NAMES.items(), ids=NAMES)
def test_a_site_that_runs_counts(counted: dict[str, float], name: str, least: int) -> None:
    assert counted[name] >= least


@pytest.mark.parametrize("name", ["consumer_lag", "queue_depth", "queue_bytes"])
def test_what_is_empty_at_the_end_was_measured(counted: dict[str, float], name: str) -> None:
    assert [s for m in REGISTRY.collect() for s in m.samples if s.name == f"sightline_{name}"]
