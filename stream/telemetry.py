"""Counters and histograms of every stage, and the log.

Every queue has a length here and every loss a counter with its reason. Secrets never reach a log line: `mask` goes over
every line whole, tracebacks included.
"""

import json as json_
import logging
import math
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO
from urllib.parse import unquote

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from stream.errors import SettingsError
from stream.settings import TelemetrySettings

_MS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)

FRAMES_DECODED = Counter("sightline_frames_decoded", "Frames decoded from a camera", ["camera"])
FRAMES_SENT = Counter("sightline_frames_sent", "Frames that the frames topic has taken", ["camera"])
FRAMES_DROPPED = Counter("sightline_frames_dropped", "Frames lost on purpose, by reason", ["camera", "reason"])
CAMERA_CONNECTED = Gauge("sightline_camera_connected", "1 while a camera delivers frames", ["camera"])
CAMERA_RECONNECTS = Counter("sightline_camera_reconnects", "Connections lost and tried again", ["camera", "reason"])
CLOCK_OFFSET = Gauge("sightline_clock_offset_seconds", "Smallest arrival minus stream time over a minute", ["camera"])
CLOCK_JUMPS = Counter("sightline_clock_jumps", "Jumps of a camera's clock that opened a new stream", ["camera"])
BATCH_SIZE = Histogram("sightline_batch_size", "Messages per batch", ["stage"], buckets=(1, 2, 4, 8, 16, 32, 64, 128))
STAGE_SECONDS = Histogram("sightline_stage_seconds", "Seconds from a batch to its commit", ["stage"], buckets=_MS)
QUEUE_DEPTH = Gauge("sightline_queue_depth", "Messages waiting in a queue", ["queue"])
QUEUE_BYTES = Gauge("sightline_queue_bytes", "Bytes waiting in a queue for a broker, or on their way to it", ["queue"])
CONSUMER_LAG = Gauge("sightline_consumer_lag", "Records not yet read", ["topic", "partition"])
DEAD_LETTERS = Counter("sightline_dead_letters", "Messages that could not be read, by reason", ["topic", "reason"])
DELIVERIES_FAILED = Counter("sightline_deliveries_failed", "Messages that the broker did not take", ["topic"])
REPEATS = Counter("sightline_repeats", "Records seen before and dropped", ["camera"])
LATE = Counter("sightline_late_records", "Records that came after their place in the merge", ["camera"])
FUTURE = Counter("sightline_future_records", "Records dated in the future and dropped", ["camera"])
PEOPLE = Counter("sightline_people_detected", "Tracked detections", ["camera"])
STILL = Counter("sightline_still_boxes", "Weak boxes in which nothing moves, taken for things", ["camera"])
EMBEDDED = Counter("sightline_crops_embedded", "Crops embedded, by reason", ["camera", "reason"])
MERGE_WAIT = Histogram("sightline_merge_wait_seconds", "Wait for slower cameras in the event-time merge", buckets=_MS)
EVENTS = Counter("sightline_match_events", "Match events by kind", ["site", "kind"])
EVENT_SECONDS = Histogram(
    "sightline_capture_to_event_seconds", "Capture of the settling frame to delivery", buckets=_MS
)
TRACKLETS_DROPPED = Counter("sightline_tracklets_dropped", "Tracklets without an identity, by reason", ["reason"])
VECTORS_REFUSED = Counter(
    "sightline_vectors_refused", "Vectors that the matcher cannot use, by reason", ["camera", "reason"]
)
IDENTITIES = Gauge("sightline_gallery_identities", "Identities in the gallery", ["site"])
RECORDS_EXPIRED = Counter(
    "sightline_records_expired", "Records that retention removed before they were read", ["topic", "partition"]
)

_HIDDEN: dict[str, str] = {}
"""What `mask` replaces -> what stands there instead."""
# files and drawn scenes have no secrets, and a Redis's query none that is not named as one
_CAMERA_URL = re.compile(r"(?i)\b(?!(?:file|synthetic|rediss?)://)[a-z][a-z0-9+.-]*://[^\s\"']+(?<![:;,.)])")
_HOST = re.compile(r"(\[[^]/]*\]|[^/:@]*)(:\d*)?(/|$)")
_QUERY_VALUE = re.compile(r"([^&=]*=)[^&]*|[^&]+")
_URL_PASSWORD = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:?//[^\s/:\"']*:)[^\s\"']+@")
_IN_A_QUERY = re.compile(r"(?i)([?&/][\w-]*(?:pass?|auth|key|passcode)=)[^\s&\"']+")
_NAMED = r"[\w-]*(?:password|passwd|pwd|secret|token|api_?key)"
_ASSIGNED = re.compile(rf"(?i)\b({_NAMED}\s?=\s?)(\"[^\"]*\"|'[^']*'|[^\s,;&\"']+)")
_QUOTED = re.compile(rf"(?i)([\"']{_NAMED}[\"']\s?:\s?)(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')")
_STANDARD = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def hide(secret: str) -> None:
    """From now on `mask` replaces this very text wherever it stands. Ignored under 4 characters: it would hide words."""
    if len(secret) >= 4:
        _HIDDEN[secret] = "***"


def hide_url(url: str) -> None:
    """`hide` the password in a url, as it stands there and decoded, whatever signs it is made of.

    Of a network camera's url `mask` shows no more than where it leads, though there be quotes or spaces in it.
    """
    if _CAMERA_URL.match(url):
        _HIDDEN[url] = _shown(url)
    rest = url.partition("//")[2].partition(":")[2]
    for end in (at for at, sign in enumerate(rest) if sign == "@"):
        hide(rest[:end])
        hide(unquote(rest[:end]))


def mask(text: str) -> str:
    """The text without its secrets: passwords in URLs, ``password=``, tokens and keys, and what `hide` was told.

    Of a network camera's url scheme, host, port, path and the names of the query's keys stay: all else may be a token.
    """
    for secret in sorted(_HIDDEN, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN[secret])
    text = _CAMERA_URL.sub(lambda found: _shown(found[0]), text)
    text = _URL_PASSWORD.sub(r"\1***@", text)
    text = _ASSIGNED.sub(r"\1***", _IN_A_QUERY.sub(r"\1***", text))
    return _QUOTED.sub(r'\1"***"', text)


def _shown(url: str) -> str:
    """A camera's url without user, password, and the query's values."""
    scheme, _, rest = url.partition("://")
    place, *query = re.split(r"([?#])", rest, maxsplit=1)
    if not _HOST.match(place):  # user and password stand before it
        if "@" not in place or "@" in "".join(query):  # where do they end? What is taken for the host may be theirs
            return f"{scheme}://***"
        place = f"***@{place.rpartition('@')[2]}"
    if query:
        query[1] = _QUERY_VALUE.sub(r"\1***", query[1])
    return f"{scheme}://{place}{''.join(query)}"


def setup_logging(*, json: bool = False, level: str = "info", stream: TextIO | None = None) -> None:
    """Send every log line to standard error (or `stream`) as ``time LEVEL name: message key=value``, or as JSON.

    Fields come from ``extra``. May be called again; the last call holds. kafka-python's own lines are left out: what they
    say, `stream.kafka` says once and with the remedy.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if json else _Text())
    handler.set_name("sightline")
    root = logging.getLogger()
    for old in [h for h in root.handlers if h.get_name() == "sightline"]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.getLogger("kafka").setLevel(logging.CRITICAL + 1)
    logging.captureWarnings(True)


class Seldom:
    """Warns of what may happen a thousand times a second: at once, then every 10 s at most, with how many were left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._again_at = -math.inf
        self._left_out = 0

    def __call__(self, log: logging.Logger, message: str, *args: object, **fields: object) -> None:
        """`log.warning`, with `fields` as its extra."""
        now = self._clock()
        if now < self._again_at:
            self._left_out += 1
            return
        if self._left_out:
            fields["more_like_it"] = self._left_out
        self._again_at, self._left_out = now + 10.0, 0
        log.warning(message, *args, extra=fields)


class MetricsServer:
    """The Prometheus endpoint of one process."""

    def __init__(self, host: str, port: int) -> None:
        try:
            self._server, self._thread = start_http_server(port, host)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SettingsError(
                f"[telemetry] metrics_port {port}: cannot listen on {host}: {reason}; give each worker a port of its own"
            ) from None
        self.url = f"http://{host}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Stop serving; safe to call twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


def start_metrics(settings: TelemetrySettings) -> MetricsServer | None:
    """Serve the metrics where the settings say so. Raises `SettingsError` when the port is taken."""
    if settings.metrics_port is None:
        return None
    return MetricsServer(settings.metrics_host, settings.metrics_port)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={_plain(value)}" for key, value in _extra(record).items())
        line = f"{_when(record)} {record.levelname} {record.name}: {record.getMessage()}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return mask(line)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {"time": _when(record), "level": record.levelname.lower(), "logger": record.name}
        line["message"] = mask(record.getMessage())
        for key, value in _extra(record).items():
            secret = re.fullmatch(_NAMED, key, re.IGNORECASE)
            line[key] = "***" if secret else value if isinstance(value, int | float) else mask(str(value))
        if record.exc_info:
            line["traceback"] = mask(self.formatException(record.exc_info))
        return json_.dumps(line)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


def _plain(value: object) -> str:
    text = str(value)
    return text if re.fullmatch(r"[^\s\"=]+", text) else json_.dumps(text, ensure_ascii=False)


def _when(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
