"""Where users may do only what docs/kafka.md grants them, every worker works; where they may not, one line says so."""

import contextlib
import re
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from secure_kafka import WORKERS, SecureKafka
from services import wait_for

from deploy.kafka_bus import KafkaBus
from deploy.settings import Settings
from matcher.events import events
from stream.errors import TransportError
from stream.kafka_client import client_config
from stream.messages import Embeddings, Frame, MatchEvent
from stream.transport import Source

pytestmark = pytest.mark.usefixtures("refused_connections")

MANUAL = Path(__file__).parents[2] / "docs" / "kafka.md"
PLACE = {
    "site": "yard",
    "camera": "gate",
    "stream": 0,
    "sequence": 0,
    "captured_at": 0,
    "ingested_at": 0,
    "clock": "file",
}
FRAME = Frame(**PLACE, width=4, height=4, image=b"picture")
EMBEDDINGS = Embeddings(**PLACE, width=4, height=4, status="ok", model="m")
EVENT = MatchEvent(
    site="yard", number=1, kind="new", identity="0" * 32, camera="gate", tracklet="t", first_seen=0, captured_at=0, model="m"
)  # fmt: skip


def granted(base: str, group: str) -> dict[str, list[tuple[str, ResourcePattern]]]:
    """User -> what the manual's table grants: operation and resource."""
    rows = dict(
        re.findall(r"^\| (?:`(?=\w+`))?([\w ]+)`? \| ((?:Read|Write|Describe).*) \|$", MANUAL.read_text(), re.M)
    )
    assert list(rows) == ["every worker", "ingest", "perceive", "match", "a subscriber"]
    rules: dict[str, list[tuple[str, ResourcePattern]]] = {}
    for who, row in rows.items():
        for clause in row.split("; "):
            kind = ResourceType.GROUP if " group " in clause else ResourceType.TOPIC
            operations = re.findall(r"Read|Write|Describe", clause.partition("`")[0])
            names = [
                name.replace("P.", f"{base}.").replace("its group", group) for name in re.findall("`(.+?)`", clause)
            ]
            found = [(op.upper(), ResourcePattern(kind, name)) for op in operations for name in names]
            for user in WORKERS[:3] if who == "every worker" else (who.removeprefix("a "),):
                rules.setdefault(user, []).extend(found)
    return rules


class Site:
    """One site on the secure broker, whose topics its administrator has made."""

    def __init__(self, server: SecureKafka) -> None:
        self.server, self.name = server, f"site-{uuid.uuid4().hex[:8]}"
        self.group = f"{self.name}-readers"
        with self.bus("sightline"):
            pass
        self.base = f"sightline.{self.name}"

    @contextlib.contextmanager
    def bus(self, user: str) -> Iterator[KafkaBus]:
        kafka = self.server.as_user(user)
        settings = Settings.model_validate(
            {"site": {"name": self.name}, "camera": [{"id": "gate", "url": "synthetic://?seed=1"}], "kafka": kafka}
        )
        with contextlib.closing(KafkaBus(settings, kafka, threading.Event())) as bus:
            yield bus

    def grant(self) -> None:
        with contextlib.closing(KafkaAdminClient(**client_config(self.server.as_user()))) as admin:
            admin.create_acls(
                [
                    ACL(f"User:{user}", "*", ACLOperation[operation], ACLPermissionType.ALLOW, resource)
                    for user, rules in granted(self.base, self.group).items()
                    for operation, resource in rules
                ]
            )

    def spoil(self, *topics: str) -> None:
        """Bytes that are no message, from somebody else."""
        producer = KafkaProducer(**client_config(self.server.as_user()), enable_idempotence=False)
        for topic in topics:
            producer.send(f"{self.base}.{topic}", b"garbage", partition=0)
        producer.flush(20)
        producer.close()


def take(source: Source) -> None:
    """Read the one good record behind the bad one, and commit both."""
    with contextlib.closing(source):
        batch = next(batch for batch in source.batches() if batch)
        source.commit(batch)
        assert len(batch) == 1


def test_what_the_manual_grants_each_worker_is_enough(secure_kafka_server: SecureKafka) -> None:
    site = Site(secure_kafka_server)
    site.grant()
    site.spoil("frames", "embeddings", "matches")
    with site.bus("ingest") as bus:
        with contextlib.closing(bus.frames_sink()) as frames:
            frames.send([FRAME])
            frames.flush()
        lags = {"frames": lambda: bus.frames_lag() == {0: 2}, "embeddings": lambda: bus.embeddings_lag() == {0: 1}}
        for topic, measured in lags.items():  # what it was, while the broker has no answer yet
            wait_for(measured, f"the lag of {topic}")
    with site.bus("perceive") as bus:
        take(bus.frames_source())
        with contextlib.closing(bus.embeddings_sink()) as embeddings:
            embeddings.send([EMBEDDINGS])
            embeddings.flush()
        wait_for(lambda: bus.frames_lag() == {0: 0}, "no lag of frames")
    with site.bus("match") as bus:
        take(bus.embeddings_source())
        assert bus.last_number() is None
        with contextlib.closing(bus.matches_sink()) as matches:
            matches.send([EVENT])
            matches.flush()
        assert bus.last_number() == 1
        assert bus.matches_id()
    subscriber = secure_kafka_server.as_user("subscriber")
    for group in (None, site.group):
        with contextlib.closing(events(subscriber, site=site.name, group=group)) as found:
            assert next(found).number == 1


def test_a_user_without_rights_is_told_so_in_one_line(secure_kafka_server: SecureKafka) -> None:
    site, user = Site(secure_kafka_server), "nobody-yet"
    with (
        pytest.raises(TransportError, match=rf'user "{user}" is not allowed to .*docs/kafka.md') as caught,
        site.bus(user),
    ):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("group", [None, "readers"])
@pytest.mark.parametrize("follow", [True, False], ids=["follow", "until now"])
def test_a_subscriber_without_rights_is_told_so_and_not_that_there_is_no_topic(
    secure_kafka_server: SecureKafka, group: str | None, follow: bool
) -> None:
    site, user = Site(secure_kafka_server), "nobody-yet"
    with pytest.raises(TransportError, match=rf'user "{user}" is not allowed to .*docs/kafka.md'):
        next(events(secure_kafka_server.as_user(user), site=site.name, group=group, follow=follow))
