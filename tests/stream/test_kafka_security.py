"""TLS, passwords and client certificates against a real broker that takes nothing else."""

import contextlib
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from secure_kafka import PASSWORD, SecureKafka
from services import certificates

from stream.codec import FRAMES
from stream.errors import TransportError
from stream.kafka import KafkaSink, KafkaSource, TopicSpec, ensure_topics, topic_id
from stream.kafka_client import client_config
from stream.messages import Frame
from stream.settings import KafkaSettings

pytestmark = pytest.mark.usefixtures("refused_connections")

FRAME = Frame(
    site="yard", camera="gate", stream=0, sequence=7, captured_at=0, ingested_at=0, clock="file", width=4, height=4,
    image=b"picture",
)  # fmt: skip


@pytest.fixture
def spec() -> TopicSpec:
    return TopicSpec(f"yard-{uuid.uuid4().hex[:8]}", 1, 600)


@pytest.mark.parametrize(
    "who",
    [
        pytest.param(lambda server: server.as_user(mechanism="PLAIN"), id="password, PLAIN"),
        pytest.param(lambda server: server.as_user(mechanism="SCRAM-SHA-256"), id="password, SCRAM-SHA-256"),
        pytest.param(lambda server: server.as_user(mechanism="SCRAM-SHA-512"), id="password, SCRAM-SHA-512"),
        pytest.param(lambda server: server.with_certificate(), id="client certificate, its key encrypted"),
    ],
)
def test_whoever_proves_who_they_are_writes_reads_and_commits(
    secure_kafka_server: SecureKafka, spec: TopicSpec, who: Callable[[SecureKafka], KafkaSettings]
) -> None:
    settings = who(secure_kafka_server)
    with contextlib.closing(KafkaSink(settings, spec, lambda _: 0)) as sink:
        sink.send([FRAME])
        sink.flush()
    with contextlib.closing(KafkaSource(settings, spec.name, f"{spec.name}-g", FRAMES)) as source:
        deadline = time.monotonic() + 30
        batch = next(batch for batch in source.batches() if batch or time.monotonic() > deadline)
        assert [record.message for record in batch] == [FRAME]
        source.commit(batch)


@pytest.mark.parametrize(
    ("mechanism", "wrong"),
    [
        pytest.param("PLAIN", {"sasl_password": "wrong-password"}, id="PLAIN, password"),
        pytest.param("SCRAM-SHA-256", {"sasl_username": "nobody"}, id="SCRAM-SHA-256, user"),
        pytest.param("SCRAM-SHA-512", {"sasl_password": "wrong-password"}, id="SCRAM-SHA-512, password"),
    ],
)
def test_a_wrong_password_or_user_is_one_line_without_the_password(
    secure_kafka_server: SecureKafka, spec: TopicSpec, mechanism: str, wrong: dict[str, str]
) -> None:
    settings = secure_kafka_server.as_user(mechanism=mechanism, **wrong)
    with pytest.raises(TransportError, match=r"refused \[kafka\] sasl_username or sasl_password") as caught:
        ensure_topics(settings, [spec])
    shown = str(caught.value) + repr(settings)
    assert "wrong-password" not in shown
    assert PASSWORD not in shown


def test_who_may_not_see_a_topic_is_not_told_that_there_is_none(
    secure_kafka_server: SecureKafka, spec: TopicSpec
) -> None:
    ensure_topics(secure_kafka_server.as_user(), [spec])
    with pytest.raises(TransportError, match='user "nobody-yet" is not allowed to'):
        topic_id(secure_kafka_server.as_user("nobody-yet"), spec.name)


def test_who_may_not_see_what_a_topic_is_set_to_is_told_nothing_of_it(
    secure_kafka_server: SecureKafka, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"yard-{uuid.uuid4().hex[:8]}"
    ensure_topics(secure_kafka_server.as_user(), [TopicSpec(name, 1, 600)])
    asked = [TopicSpec(name, 1, 60)]
    with contextlib.closing(KafkaAdminClient(**client_config(secure_kafka_server.as_user()))) as admin:
        topics = [ResourcePattern(ResourceType.TOPIC, topic) for topic in (name, f"{name}.dead")]
        user = "User:nobody-yet"
        admin.create_acls([ACL(user, "*", ACLOperation.DESCRIBE, ACLPermissionType.ALLOW, topic) for topic in topics])
        ensure_topics(secure_kafka_server.as_user("nobody-yet"), asked)
        assert "retention.ms" not in caplog.text
    ensure_topics(secure_kafka_server.as_user(), asked)
    assert f"topic {name} has retention.ms 600000, the site asks for 60000" in caplog.text


def test_a_broker_nobody_vouches_for_is_one_line(secure_kafka_server: SecureKafka, spec: TopicSpec) -> None:
    settings = secure_kafka_server.as_user(ssl_cafile=None)
    with pytest.raises(TransportError, match=r"is not vouched for .*CERTIFICATE_VERIFY_FAILED.*\[kafka\] ssl_cafile"):
        ensure_topics(settings, [spec])


def test_a_client_without_a_certificate_is_one_line(secure_kafka_server: SecureKafka, spec: TopicSpec) -> None:
    settings = secure_kafka_server.with_certificate(ssl_certfile=None, ssl_keyfile=None, ssl_password=None)
    with pytest.raises(TransportError, match=r"refused this client's certificate .*check \[kafka\] ssl_certfile"):
        ensure_topics(settings, [spec])


def test_a_client_whose_certificate_the_broker_does_not_know_is_one_line(
    secure_kafka_server: SecureKafka, spec: TopicSpec, tmp_path: Path
) -> None:
    certificate, key = certificates(tmp_path, "stranger")
    settings = secure_kafka_server.with_certificate(ssl_certfile=certificate, ssl_keyfile=key, ssl_password=None)
    with pytest.raises(TransportError, match=r"refused this client's certificate .*check \[kafka\] ssl_certfile"):
        ensure_topics(settings, [spec])


@pytest.mark.parametrize("password", ["wrong-password", None], ids=["wrong", "none"])
def test_a_key_whose_password_is_wrong_is_one_line_and_asks_nobody(
    secure_kafka_server: SecureKafka, spec: TopicSpec, password: str | None
) -> None:
    settings = secure_kafka_server.with_certificate(ssl_password=password)
    with pytest.raises(
        TransportError, match=r"ssl_keyfile .*client.encrypted.key cannot be used .*ssl_password"
    ) as caught:
        ensure_topics(settings, [spec])
    assert "wrong-password" not in str(caught.value)


def test_an_authority_that_is_no_certificate_is_one_line(spec: TopicSpec, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    settings = KafkaSettings(bootstrap_servers="127.0.0.1:9", security_protocol="SSL", ssl_cafile=tmp_path / "ca.pem")
    with pytest.raises(TransportError, match=r"\[kafka\] ssl_cafile: .*ca.pem cannot be used .*give PEM"):
        KafkaSink(settings, spec, lambda _: 0)


def test_a_missing_certificate_file_is_named(spec: TopicSpec) -> None:
    settings = KafkaSettings(
        bootstrap_servers="127.0.0.1:9", security_protocol="SSL", ssl_cafile=Path("/nowhere/ca.pem")
    )
    with pytest.raises(TransportError, match=r"\[kafka\] ssl_cafile: no such file: /nowhere/ca.pem"):
        KafkaSink(settings, spec, lambda _: 0)
