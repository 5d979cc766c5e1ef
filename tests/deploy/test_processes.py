"""One site file as separate processes over a real Kafka and a real Redis, as an operator runs a site: started, killed, stopped."""

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.errors import CoordinatorNotAvailableError
from services import RedisServer, valkey_binary, wait_for

from stream.codec import EMBEDDINGS
from stream.kafka import KafkaSource
from stream.messages import CameraState, Embeddings
from stream.settings import KafkaSettings
from tests.deploy.sites import write_site
from tests.deploy.workers import Worker, end, json_lines, sightline

Start = Callable[..., Worker]
FRAMES = 1500  # of 25 per second, 300 analysed per camera: seconds of work, so that kills meet workers at it
WAIT_S = 120  # for what takes 10 s on two cores that have nothing else to do

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts workers and sees to it that none is left."""
    workers: list[Worker] = []

    def begin(*arguments: str) -> Worker:
        workers.append(Worker(*arguments, folder=tmp_path))
        return workers[-1]

    yield begin
    end(workers)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_site(folder, frames=FRAMES)
    return folder


@pytest.fixture
def site(clips: Path, kafka_server: str, redis_server: str) -> Path:
    """A site of two files with a name of its own."""
    name = f"site-{uuid.uuid4().hex[:8]}"
    path = clips / f"{name}.toml"
    services = f'[kafka]\nbootstrap_servers = "{kafka_server}"\n[redis]\nurl = "{redis_server}"\n'
    path.write_text((clips / "site.toml").read_text().replace('"depot"', f'"{name}"') + services)
    return path


def told(events: Path, enough: int) -> bool:
    return len(json_lines(events)) >= enough


def serving(worker: Worker) -> bool:
    """Whether it ends with status 0 when told to: one that is still importing was interrupted."""
    return " starts: " in worker.log


def settled(events: Path) -> bool:
    """Whether everybody who was seen has left again: at the end, and wherever all cameras are empty for a while."""
    kinds = Counter(event["kind"] for event in json_lines(events))
    return kinds["end"] > 0 and kinds["end"] == kinds["new"] + kinds["link"]


def shared_out(site: Path, kafka_server: str, workers: int) -> bool:
    """Whether so many perceive workers have shared out the cameras. One that joins later takes over in mid-stream."""
    group = f"sightline.{site.stem}.perceive"
    with closing(KafkaAdminClient(bootstrap_servers=kafka_server)) as admin:
        try:
            found = admin.describe_groups([group])[group]
        except CoordinatorNotAvailableError:  # nobody has ever been in a group on this broker
            return False
        return bool(found["group_state"] == "Stable" and len(found["members"]) == workers)


def decisions(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(e["number"], e["kind"], e["identity"], e["tracklet"], e["captured_at"], e["probability"]) for e in events]


def embeddings_of(site: Path, kafka_server: str) -> list[Embeddings | CameraState]:
    settings = KafkaSettings(bootstrap_servers=kafka_server)
    topic = f"sightline.{site.stem}.embeddings"
    source: KafkaSource[Embeddings | CameraState] = KafkaSource(settings, topic, None, EMBEDDINGS, partitions=[0, 1])
    try:
        ends = source.ends([0, 1])
        found = []
        for batch in source.batches():
            found += [record.message for record in batch]
            if all(source.position()[partition] >= last for partition, last in ends.items()):
                return found
    finally:
        source.close()
    raise AssertionError("the source ended by itself")


def embedded(site: Path, kafka_server: str) -> bool:
    """Whether all 300 analysed frames of both cameras have their record."""
    records = embeddings_of(site, kafka_server)
    places = {(r.camera, r.stream, r.sequence) for r in records if isinstance(r, Embeddings)}
    return Counter(camera for camera, _, _ in places) == {"north": 300, "south": 300}


def test_one_site_file_runs_as_processes_with_the_events_of_a_single_one(
    site: Path, clips: Path, kafka_server: str, start: Start, tmp_path: Path
) -> None:
    alone, apart = tmp_path / "alone.jsonl", tmp_path / "apart.jsonl"
    (clips / "alone.toml").write_text(site.read_text().partition("[kafka]")[0])
    done = sightline("run", str(clips / "alone.toml"), "--events", str(alone), folder=tmp_path)
    assert done.returncode == 0, done.stderr

    workers = [start("perceive", str(site)), start("perceive", str(site)), start("match", str(site))]
    wait_for(partial(shared_out, site, kafka_server, 2), f"two perceive workers:\n{workers[0].log}", WAIT_S)
    ingest = start("ingest", str(site))
    assert ingest.wait(WAIT_S) == 0, ingest.log
    reader = start("events", str(site), "--follow", "--json", str(apart))
    wait_for(lambda: len(json_lines(apart)) == len(json_lines(alone)), f"all events:\n{workers[-1].log}", WAIT_S)
    assert decisions(json_lines(apart)) == decisions(json_lines(alone))

    for worker in [*workers, reader]:
        assert worker.terminate() == 0, worker.log
    for worker in [*workers, reader, ingest]:
        assert "Traceback" not in worker.log
        assert "ERROR" not in worker.log

    again = sightline("ingest", str(site), folder=tmp_path)
    assert again.returncode == 0
    assert "camera north: all 300 frames were seen before: give this camera another start" in again.stderr


def test_workers_killed_and_restarted_lose_nothing_and_double_nothing(
    site: Path, kafka_server: str, start: Start, tmp_path: Path
) -> None:
    events = tmp_path / "events.jsonl"
    perceive, match = start("perceive", str(site)), start("match", str(site))
    ingest, reader = start("ingest", str(site)), start("events", str(site), "--follow", "--json", str(events))
    killed = []
    for enough in (4, 24):
        wait_for(partial(told, events, enough), f"{enough} events:\n{match.log}", WAIT_S)
        match.kill()
        perceive.kill()
        killed.append(len(json_lines(events)))
        perceive, match = start("perceive", str(site)), start("match", str(site))
    assert ingest.wait(WAIT_S) == 0, ingest.log
    wait_for(partial(embedded, site, kafka_server), f"600 frames:\n{perceive.log}", WAIT_S)
    wait_for(partial(settled, events), f"the end:\n{match.log}", WAIT_S)

    records = embeddings_of(site, kafka_server)
    assert {r.camera for r in records if isinstance(r, CameraState)} == {"north", "south"}

    seen = json_lines(events)
    assert len(seen) > killed[0], "killed after the end"  # the second time all may have come in one go
    assert [event["number"] for event in seen] == list(range(1, len(seen) + 1))
    said = [(event["kind"] == "end", event["tracklet"]) for event in seen]
    assert len(set(said)) == len(said)
    for worker in (perceive, match):  # all may have been done before these two had loaded
        wait_for(partial(serving, worker), f"{worker.name} starts", WAIT_S)
    for worker in (perceive, match, reader):
        assert worker.terminate() == 0, worker.log


def test_a_redis_that_goes_away_is_waited_for(clips: Path, kafka_server: str, start: Start, tmp_path: Path) -> None:
    name, events = f"site-{uuid.uuid4().hex[:8]}", tmp_path / "events.jsonl"
    server = RedisServer(valkey_binary(), tmp_path)
    server.start()
    site = clips / f"{name}.toml"
    services = f'[kafka]\nbootstrap_servers = "{kafka_server}"\n[redis]\nurl = "{server.url}"\n'
    site.write_text((clips / "site.toml").read_text().replace('"depot"', f'"{name}"') + services)
    try:
        perceive, match = start("perceive", str(site)), start("match", str(site))
        start("ingest", str(site))
        start("events", str(site), "--follow", "--json", str(events))
        wait_for(partial(told, events, 4), f"events:\n{match.log}", WAIT_S)
        server.kill()
        wait_for(lambda: "waiting: no Redis answers" in match.log, "a warning", WAIT_S)
        server.start()
        wait_for(partial(settled, events), f"the end:\n{match.log}", WAIT_S)
        assert [event["number"] for event in json_lines(events)] == list(range(1, len(json_lines(events)) + 1))
        assert perceive.terminate() == 0
        assert match.terminate() == 0
    finally:
        server.kill()
