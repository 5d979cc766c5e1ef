"""Sections are strict, and what belongs together is given together."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from stream.settings import KafkaSettings, RedisSettings, Section, TelemetrySettings


@pytest.mark.parametrize(
    "servers", ["broker:9092", "10.0.0.1:9092,10.0.0.2:9092", "[::1]:9092", "kafka-0.kafka.svc:9092"]
)
def test_servers_are_hosts_with_ports(servers):
    assert KafkaSettings(bootstrap_servers=servers).bootstrap_servers == servers


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        pytest.param({"bootstrap_servers": "broker"}, "bootstrap_servers", id="no port"),
        pytest.param({"bootstrap_servers": "kafka://broker:9092"}, "bootstrap_servers", id="a URL"),
        pytest.param({"bootstrap_server": "broker:9092"}, "bootstrap_server\n  Extra", id="unknown key"),
        pytest.param({"security_protocol": "SASL_SSL"}, "needs sasl_mechanism", id="SASL without a user"),
        pytest.param({"sasl_username": "u"}, "use SASL_SSL", id="a user without SASL"),
        pytest.param({"ssl_cafile": "/ca.pem"}, "use SSL or SASL_SSL", id="an authority without TLS"),
        pytest.param(
            {"security_protocol": "SSL", "ssl_certfile": "/c.pem"}, "go together", id="half a client certificate"
        ),
        pytest.param({"buffer_mib": 0}, "buffer_mib", id="no buffer"),
        pytest.param({"prefix": "a b"}, "prefix", id="prefix that is no topic name"),
    ],
)
def test_kafka_settings_that_do_not_fit_are_refused(fields, says):
    with pytest.raises(ValidationError, match=says):
        KafkaSettings(**{"bootstrap_servers": "broker:9092", **fields})


def test_passwords_are_in_no_repr():
    kafka = KafkaSettings(
        bootstrap_servers="b:1", security_protocol="SASL_SSL", sasl_mechanism="PLAIN", sasl_username="u",
        sasl_password="hunter2",
    )  # fmt: skip
    assert "hunter2" not in repr(kafka) + str(kafka) + repr(RedisSettings(url="redis://u:hunter2@h:1/0"))


@pytest.mark.parametrize("url", ["http://h", "localhost:6379", ""])
def test_a_redis_url_is_one(url):
    with pytest.raises(ValidationError):
        RedisSettings(url=url)


class Numbers(Section):
    plain: int = 0
    optional: float | None = None
    bounded: Annotated[float, Field(ge=0)] | None = None
    words: Literal["paper"] | float = "paper"
    switch: bool | None = None
    several: tuple[int, ...] = ()


@pytest.mark.parametrize("field", ["plain", "optional", "bounded", "words"])
def test_true_is_no_number(field):
    with pytest.raises(ValidationError, match="expected a number"):
        Numbers(**{field: True})


def test_true_is_a_switch_and_no_list():
    assert Numbers(switch=True).switch is True
    with pytest.raises(ValidationError, match="valid tuple"):
        Numbers(several=True)


def test_true_is_no_port():
    with pytest.raises(ValidationError, match="expected a number"):
        TelemetrySettings(metrics_port=True)


def test_sections_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        TelemetrySettings().log_level = "debug"
