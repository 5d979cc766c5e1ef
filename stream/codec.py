"""Messages <-> bytes, with a schema version in the envelope.

Inner topics: the bytes ``S L major minor``, then msgpack. Match events and dead letters, which others read too: JSON with a
``schema`` field ``"major.minor"``. A newer minor version may bring more fields, which are ignored; another major version is
refused. Whatever bytes come in, the answer is a valid message or a `MessageError`; size is checked before anything is parsed.
"""

import functools
import math
import time
from typing import Any, TypeVar

import msgspec

from stream.errors import MessageError
from stream.messages import CameraState, DeadLetter, Embeddings, Frame, Inner, MatchEvent, Person
from stream.telemetry import DEAD_LETTERS as DEAD_LETTERS_TOTAL

M = TypeVar("M")

SCHEMA = (1, 0)
MAX_BYTES: dict[type, int] = {
    Frame: 16 << 20,
    Embeddings: 4 << 20,  # 1,024 people with 512 float16 each are 1.2 MB
    CameraState: 4 << 10,
    MatchEvent: 64 << 10,
    DeadLetter: 128 << 10,  # a match event in base64, and where it lay
}

FRAMES: tuple[type[Frame | CameraState], ...] = (Frame, CameraState)
"""What the frames topic carries; likewise below."""
EMBEDDINGS: tuple[type[Embeddings | CameraState], ...] = (Embeddings, CameraState)
MATCHES: tuple[type[MatchEvent], ...] = (MatchEvent,)
DEAD_LETTERS: tuple[type[DeadLetter], ...] = (DeadLetter,)

_MAGIC = b"SL"
_HEADER = _MAGIC + bytes(SCHEMA)
_JSON_OPENING = b'{"schema":"%d.%d",' % SCHEMA
_pack = msgspec.msgpack.Encoder()
_to_json = msgspec.json.Encoder()


class _Schema(msgspec.Struct):
    schema: str


_read_schema = msgspec.json.Decoder(_Schema)


def encode(message: Inner | MatchEvent | DeadLetter) -> bytes:
    """The bytes that travel, and that the memory transport keeps too."""
    if isinstance(message, MatchEvent | DeadLetter):
        return _JSON_OPENING + _to_json.encode(message)[1:]
    return _HEADER + _pack.encode(message)


def decode(data: bytes, kinds: tuple[type[M], ...]) -> M:
    """One of `kinds`, valid in every field. Raises `MessageError`, with the reason, for anything else."""
    limit = size_limit(kinds)
    if len(data) > limit:
        raise MessageError(f"{len(data):,} bytes where at most {limit:,} are expected")
    try:
        if kinds in (MATCHES, DEAD_LETTERS):
            major, _, minor = _read_schema.decode(data).schema.partition(".")
            _check_version(major, minor)
        else:
            if data[:2] != _MAGIC or len(data) < len(_HEADER):
                raise MessageError("the envelope is missing: not written by Sightline")
            _check_version(str(data[2]), str(data[3]))
            data = memoryview(data)[len(_HEADER) :]  # type: ignore[assignment]  # no copy of the image
        message: M = _decoder(kinds).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"no {_names(kinds)}: {_short(error)}") from None
    if isinstance(message, Embeddings):
        for person in message.people:
            _check_person(person)
    return message


def size_limit(kinds: tuple[type, ...]) -> int:
    """Bytes that a message of a topic may have."""
    return max(MAX_BYTES[kind] for kind in kinds)


def match_event_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a match event as it is published."""
    (schema,), components = msgspec.json.schema_components([MatchEvent], ref_template="#/$defs/{name}")
    event = components.pop("MatchEvent")
    assert schema == {"$ref": "#/$defs/MatchEvent"}  # noqa: S101  # what the pop above relies on
    version = {
        "type": "string",
        "pattern": rf"^{SCHEMA[0]}\.[0-9]+$",
        "description": "Version of this schema, major.minor",
    }
    event["properties"]["type"]["description"] = "What kind of message this is"
    for described in (event, *components.values()):
        described["description"] = " ".join(described["description"].split())  # a docstring's lines
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **event,
        "properties": {"schema": version, **event["properties"]},
        "required": ["schema", *event["required"]],
        "$defs": components,
    }


def dead_letter(
    topic: str, partition: int, offset: int, reason: str, payload: bytes | None, kinds: tuple[type, ...]
) -> DeadLetter:
    """What is remembered of bytes that could not be read, counted. The bytes themselves stay with it for matches alone."""
    DEAD_LETTERS_TOTAL.labels(topic, "undecodable").inc()
    kept = payload if kinds == MATCHES and payload is not None and len(payload) <= size_limit(MATCHES) else None
    now = time.time_ns()
    return DeadLetter(topic=topic, partition=partition, offset=offset, captured_at=now, reason=reason, payload=kept)


@functools.cache
def _decoder(kinds: tuple[type, ...]) -> Any:
    union: Any = kinds[0]
    for kind in kinds[1:]:
        union |= kind
    if kinds in (MATCHES, DEAD_LETTERS):
        return msgspec.json.Decoder(union)
    return msgspec.msgpack.Decoder(union)


def _check_version(major: str, minor: str) -> None:
    if not (major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit()):
        raise MessageError(f"schema version {_printable(f'{major[:8]}.{minor[:8]}')} is no version")
    if major != str(SCHEMA[0]):
        raise MessageError(f"schema version {major[:8]}.{minor[:8]}, this Sightline reads {SCHEMA[0]}.x: update it")


def _check_person(person: Person) -> None:
    x1, y1, x2, y2 = person.xyxy
    if not (math.isfinite(x1 + y1 + x2 + y2) and x1 < x2 and y1 < y2):
        raise MessageError(f"a person's box is not x1 < x2, y1 < y2: {person.xyxy}")
    if not math.isfinite(person.score + person.quality):
        raise MessageError("a person's score or quality is not a number")
    if person.vector is not None and (not person.vector or len(person.vector) % 2):
        raise MessageError(f"a vector of {len(person.vector)} bytes is not float16")


def _names(kinds: tuple[type, ...]) -> str:
    return " or ".join(kind.__name__ for kind in kinds)


def _short(error: Exception) -> str:
    """On one line whatever the bytes were: some of these errors quote them."""
    return _printable(str(error)[:200]) or type(error).__name__


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in text)
