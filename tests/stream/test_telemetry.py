"""Secrets never reach a log line; lines are structured; metrics are served to this machine alone."""

import io
import json
import logging
import urllib.request
import warnings
from collections.abc import Iterator

import pytest

from stream.errors import SettingsError
from stream.settings import TelemetrySettings
from stream.telemetry import DEAD_LETTERS, Seldom, hide, mask, setup_logging, start_metrics


@pytest.fixture(autouse=True)
def _root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        pytest.param("rtsp://admin:hunter2@10.0.0.1:554/ch1", "rtsp://***@10.0.0.1:554/ch1", id="camera"),
        pytest.param("rtsp://admin:p@ss/w:rd@cam/1 failed", "rtsp://***@cam/1 failed", id="password with signs"),
        pytest.param("redis://:hunter2@h:6379/0", "redis://:***@h:6379/0", id="redis without a user"),
        pytest.param(
            "rediss://u:hunter2@h/0?ssl_ca_certs=ca.pem", "rediss://u:***@h/0?ssl_ca_certs=ca.pem", id="redis"
        ),
        pytest.param('a "http://u:hunter2@h/x.m3u8" b', 'a "http://***@h/x.m3u8" b', id="quoted"),
        pytest.param("http://h/video?user=a&pwd=hunter2&x=1", "http://h/video?user=***&pwd=***&x=***", id="in a query"),
        pytest.param(
            "http://cam:80/v?u=hunter&p=hunter22: h264", "http://cam:80/v?u=***&p=***: h264", id="short names"
        ),
        pytest.param("https://h/x.m3u8?sig=hunter&st=", "https://h/x.m3u8?sig=***&st=***", id="a signature"),
        pytest.param("https://h/x.m3u8?hunter2#hunter", "https://h/x.m3u8?***", id="a query that is a token"),
        pytest.param("https://h/x.m3u8#hunter2", "https://h/x.m3u8#***", id="a fragment"),
        pytest.param("https://hunter2@h/x.m3u8", "https://***@h/x.m3u8", id="a token as user"),
        pytest.param("rtsp://hunter2:@[::1]:554/x", "rtsp://***@[::1]:554/x", id="a token as user, no password"),
        pytest.param("rtps://h/x?sig=hunter2", "rtps://h/x?sig=***", id="a misspelt scheme"),
        pytest.param("http://10.0.0.5:80/v?u=a&w=hunt@er", "http://10.0.0.5:80/v?u=***&w=***", id="an @ in a query"),
        pytest.param("http://u:hunter@h/v?w=hun@ter", "http://***", id="an @ that may be either's"),
        pytest.param("https://h/@a/x.m3u8", "https://h/@a/x.m3u8", id="a path with an @"),
        pytest.param("synthetic://?seed=1&fps=10", "synthetic://?seed=1&fps=10", id="a drawn scene"),
        pytest.param("rtsp://joe@ex.com:hunter2@cam/1", "rtsp://***@cam/1", id="a user with an @"),
        pytest.param("rtsp//u:hunter2@cam/1", "rtsp//u:***@cam/1", id="a mistyped scheme"),
        pytest.param("http://h/v?loginpas=hunter2&x=1", "http://h/v?loginpas=***&x=***", id="a camera maker's query"),
        pytest.param("http://h/v?auth=hunter2", "http://h/v?auth=***", id="auth in a query"),
        pytest.param("sasl_password=hunter2, next", "sasl_password=***, next", id="assigned"),
        pytest.param("{'sasl_plain_password': 'hunter 2'}", "{'sasl_plain_password': \"***\"}", id="dict"),
        pytest.param('{"api_key": "hunter\\"2", "x": 1}', '{"api_key": "***", "x": 1}', id="json"),
        pytest.param(
            "Redis refused the password: check it", "Redis refused the password: check it", id="only the word"
        ),
        pytest.param("rtsp://10.0.0.1:554/a b@c", "rtsp://10.0.0.1:554/a b@c", id="port is no password"),
        pytest.param("127.0.0.1:9092", "127.0.0.1:9092", id="no secret"),
    ],
)
def test_secrets_are_masked_wherever_they_stand(text, masked):
    assert mask(text) == masked
    assert "hunter" not in mask(text)


def test_a_known_secret_is_masked_in_any_text():
    hide("correct horse battery")
    hide("abc")
    assert mask("refused: 'correct horse battery' abc") == "refused: '***' abc"


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_no_way_into_the_log_shows_a_secret(as_json):
    out = io.StringIO()
    setup_logging(json=as_json, stream=out)
    log = logging.getLogger("stream.test")
    url = "rtsp://admin:hunter2@cam/1"
    log.info("message %s", url)
    log.info("field", extra={"url": url, "password": "hunter2"})
    try:
        raise ValueError(url)
    except ValueError:
        log.exception("traceback")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        setup_logging(json=as_json, stream=out)
        warnings.warn(f"warned of {url}", stacklevel=1)
        logging.captureWarnings(False)
    lines = out.getvalue().splitlines()
    assert len(lines) >= 4
    assert "hunter2" not in out.getvalue()
    assert "rtsp://***@cam/1" in out.getvalue()


def test_a_line_is_time_level_name_message_and_fields():
    out = io.StringIO()
    setup_logging(stream=out)
    logging.getLogger("stream.test").warning("topic created", extra={"topic": "yard.frames", "said": "two words"})
    time, rest = out.getvalue().split(" ", 1)
    assert time.endswith("Z")
    assert rest == 'WARNING stream.test: topic created topic=yard.frames said="two words"\n'


def test_a_json_line_has_the_fields_as_they_are():
    out = io.StringIO()
    setup_logging(json=True, stream=out)
    logging.getLogger("stream.test").info("topic created", extra={"topic": "yard.frames", "partitions": 4})
    line = json.loads(out.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info", "logger": "stream.test", "message": "topic created", "topic": "yard.frames", "partitions": 4,
    }  # fmt: skip


def test_the_last_setup_holds_and_nothing_is_said_twice():
    first, second = io.StringIO(), io.StringIO()
    setup_logging(stream=first)
    setup_logging(stream=second, level="warning")
    logging.getLogger("stream.test").info("quiet")
    logging.getLogger("stream.test").warning("loud")
    assert first.getvalue() == ""
    assert second.getvalue().count("loud") == 1
    assert "quiet" not in second.getvalue()


def test_what_happens_a_thousand_times_is_said_at_once_and_then_seldom():
    stream, now = io.StringIO(), 0.0
    setup_logging(stream=stream)
    say, log = Seldom(lambda: now), logging.getLogger("t")
    for second in range(25):
        now = float(second)
        for _ in range(100):
            say(log, "dead letter: %s", "garbage", second=second)
    said = [line.partition("t: ")[2] for line in stream.getvalue().splitlines()]
    assert said == [
        "dead letter: garbage second=0",
        "dead letter: garbage second=10 more_like_it=999",
        "dead letter: garbage second=20 more_like_it=999",
    ]


def test_metrics_are_served_to_this_machine():
    DEAD_LETTERS.labels("yard.frames", "undecodable").inc()
    server = start_metrics(TelemetrySettings(metrics_port=0))
    assert server is not None
    try:
        assert server.url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(server.url, timeout=5) as answer:  # noqa: S310
            page = answer.read().decode()
        assert 'sightline_dead_letters_total{reason="undecodable",topic="yard.frames"}' in page
    finally:
        server.close()


def test_a_taken_port_is_one_line():
    server = start_metrics(TelemetrySettings(metrics_port=0))
    assert server is not None
    try:
        taken = int(server.url.rsplit(":", 1)[1].split("/")[0])
        with pytest.raises(
            SettingsError, match=rf"metrics_port {taken}: cannot listen on 127\.0\.0\.1: Address already"
        ):
            start_metrics(TelemetrySettings(metrics_port=taken))
    finally:
        server.close()


def test_without_a_port_nothing_is_served():
    assert start_metrics(TelemetrySettings()) is None
