"""Any bytes end in a valid message or a MessageError."""

import json
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import codec
from stream.codec import DEAD_LETTERS, EMBEDDINGS, FRAMES, MATCHES, decode, encode, match_event_schema
from stream.errors import MessageError
from stream.messages import CameraState, DeadLetter, Embeddings, Evidence, Frame, MatchEvent, Person, Reason, RunnerUp

KINDS = [FRAMES, EMBEDDINGS, MATCHES, DEAD_LETTERS]
SCHEMA_FILE = Path(__file__).parents[2] / "docs" / "match-event.schema.json"

FRAME = Frame(
    site="yard", camera="gate", stream=5, sequence=3, captured_at=7, ingested_at=9, clock="rtcp", width=64, height=48,
    image=b"\xff\xd8 picture",
)  # fmt: skip
STATE = CameraState(site="yard", camera="gate", stream=5, captured_at=7, ingested_at=9, state="idle")
PERSON = Person(xyxy=(1, 2, 3, 4.5), score=0.5, tracklet="gate/5/3/0", quality=1, vector=b"\x00\x3c" * 8)
EMBEDDED = Embeddings(
    site="yard", camera="gate", stream=5, sequence=3, captured_at=7, ingested_at=9, clock="file", width=64, height=48,
    status="ok", model="osnet-1-abc", people=(PERSON,),
)  # fmt: skip
EVENT = MatchEvent(
    site="yard", number=1, kind="link", identity="0f" * 16, camera="gate", previous_camera="hall", tracklet="gate/5/3/0",
    first_seen=5, captured_at=7, probability=0.97, model="osnet-1-abc",
    evidence=Evidence(
        reason="sure", similarity=0.8, gap_s=4.5, exemplars=("hall/1/2/0",),
        runner_up=RunnerUp(identity="1f" * 16, similarity=0.4, log_odds=-2.5, same_person=0.1),
    ),
)  # fmt: skip
LETTER = DeadLetter(topic="yard.frames", partition=2, offset=11, captured_at=5, reason="no Frame")
MESSAGES = [
    pytest.param(FRAME, FRAMES, id="frame"),
    pytest.param(STATE, FRAMES, id="state beside frames"),
    pytest.param(STATE, EMBEDDINGS, id="state beside embeddings"),
    pytest.param(EMBEDDED, EMBEDDINGS, id="embeddings"),
    pytest.param(EVENT, MATCHES, id="event"),
    pytest.param(LETTER, DEAD_LETTERS, id="dead letter"),
]


@pytest.mark.parametrize(("message", "kinds"), MESSAGES)
def test_a_message_survives_the_way(message, kinds):
    assert decode(encode(message), kinds) == message


@given(st.binary(max_size=400), st.sampled_from(KINDS), st.sampled_from([b"", b"SL\x01\x00", b'{"schema":"1.0",']))
def test_any_bytes_end_in_a_message_or_a_message_error(data, kinds, opening):
    try:
        message = decode(opening + data, kinds)
    except MessageError:
        return
    assert isinstance(message, kinds)


@given(st.data(), st.sampled_from(MESSAGES))
def test_a_flipped_byte_ends_in_a_message_or_a_message_error(data, row):
    message, kinds = row.values
    written = bytearray(encode(message))
    written[data.draw(st.integers(0, len(written) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = decode(bytes(written), kinds)
    except MessageError:
        return
    assert isinstance(read, kinds)


def _packed(**fields: object) -> bytes:
    return b"SL\x01\x00" + msgspec.msgpack.encode({**msgspec.to_builtins(EMBEDDED, builtin_types=(bytes,)), **fields})


def _person(**fields: object) -> list[dict[str, object]]:
    return [{**msgspec.to_builtins(PERSON, builtin_types=(bytes,)), **fields}]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", "envelope", id="nothing"),
        pytest.param(b"\x00" * 64, "envelope", id="zeros"),
        pytest.param(b"SL\x01", "envelope", id="cut envelope"),
        pytest.param(encode(EMBEDDED)[:-3], "truncated", id="cut message"),
        pytest.param(encode(EMBEDDED) + b"\x00", "trailing", id="longer than it says"),
        pytest.param(encode(FRAME), "frame", id="message of another topic"),
        pytest.param(b"SL\x01\x00\x82\xa1x" + b"\x91" * 100_000, "recursion", id="nested without end"),
        pytest.param(_packed(camera="../gate"), "camera", id="name with a path in it"),
        pytest.param(_packed(captured_at=-1), "captured_at", id="before the epoch"),
        pytest.param(_packed(captured_at=2**63), "captured_at", id="beyond 64 bits"),
        pytest.param(_packed(people=_person() * 1025), "people", id="more people than a frame holds"),
        pytest.param(_packed(people=_person(score=float("nan"))), "score", id="score that is no number"),
        pytest.param(_packed(people=_person(xyxy=(3, 2, 1, 4))), "box", id="box from right to left"),
        pytest.param(_packed(people=_person(xyxy=(0, 0, float("inf"), 4))), "box", id="box without end"),
        pytest.param(_packed(people=_person(vector=b"\x00" * 3)), "float16", id="half a float16"),
        pytest.param(b"\x00" * (50 << 20), "at most", id="50 MB"),
    ],
)
def test_bad_embeddings_are_refused_with_the_reason(data, says):
    with pytest.raises(MessageError, match=says):
        decode(data, EMBEDDINGS)


@pytest.mark.parametrize(
    ("data", "kinds"),
    [
        pytest.param(_packed(type="x\nERROR forged \x1b[31m"), EMBEDDINGS, id="an inner message"),
        pytest.param(b'{"schema":"9\\n9.1"}', MATCHES, id="an event's version"),
    ],
)
def test_the_reason_is_one_line_whatever_the_bytes_are(data, kinds):
    with pytest.raises(MessageError) as caught:
        decode(data, kinds)
    assert str(caught.value).isprintable(), "it is logged, and kept with the dead letter"


def test_a_newer_minor_version_with_more_fields_is_read():
    newer = bytearray(_packed(weather="rain"))
    newer[3] = 7
    assert decode(bytes(newer), EMBEDDINGS) == EMBEDDED
    event = {"schema": "1.7", "mood": "calm", **msgspec.to_builtins(EVENT)}
    assert decode(json.dumps(event).encode(), MATCHES) == EVENT


def test_another_major_version_is_refused_with_the_remedy():
    other = bytearray(encode(FRAME))
    other[2] = 2
    with pytest.raises(MessageError, match=r"schema version 2\.0, this Sightline reads 1\.x: update it"):
        decode(bytes(other), FRAMES)
    with pytest.raises(MessageError, match=r"schema version 2\.0"):
        decode(encode(EVENT).replace(b'"1.0"', b'"2.0"'), MATCHES)


@pytest.mark.parametrize("schema", ["", "1", "1.x", "one.zero", "-1.0", "1.0.0"])
def test_an_event_without_a_version_is_refused(schema):
    with pytest.raises(MessageError):
        decode(encode(EVENT).replace(b'"1.0"', json.dumps(schema).encode()), MATCHES)


def test_an_event_is_json_that_anybody_reads():
    event = json.loads(encode(EVENT))
    assert event["schema"] == "1.0"
    assert event["kind"] == "link"
    assert event["evidence"]["runner_up"]["log_odds"] == -2.5


def test_the_published_schema_is_current():
    current = json.dumps(match_event_schema(), indent=2) + "\n"
    assert SCHEMA_FILE.read_text() == current, (
        "write it again: python -c 'import json; from stream.codec import match_event_schema; "
        f"print(json.dumps(match_event_schema(), indent=2))' > {SCHEMA_FILE.name}"
    )


def test_the_published_schema_names_every_field_of_an_event():
    event = json.loads(encode(EVENT))
    schema = match_event_schema()
    assert set(event) == set(schema["properties"])
    assert set(event["evidence"]) == set(schema["$defs"]["Evidence"]["properties"])
    assert set(schema["required"]) <= set(event)


def test_the_published_schema_explains_every_field_and_every_reason():
    schema = match_event_schema()
    parts = {"MatchEvent": schema, **schema["$defs"]}
    said = {
        f"{part}.{name}": field.get("description", "")
        for part in parts
        for name, field in parts[part]["properties"].items()
    }
    assert [name for name, words in said.items() if not words] == []
    assert not [name for name, words in said.items() if "\n" in words or "  " in words]
    for reason in get_args(Reason):
        assert f"`{reason}`" in said["Evidence.reason"]
    for name in ("MatchEvent.captured_at", "MatchEvent.first_seen"):
        assert "nanoseconds since 1970-01-01T00:00:00 UTC" in said[name]
    assert "negative when two cameras overlap" in said["Evidence.gap_s"]


def test_every_topic_bounds_its_messages():
    assert codec.size_limit(FRAMES) == 16 << 20
    assert codec.size_limit(EMBEDDINGS) < codec.size_limit(FRAMES)
    assert codec.size_limit(MATCHES) < 1 << 20
