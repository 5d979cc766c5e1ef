"""What `matcher.events.events` refuses at once, before it reads anything."""

from datetime import datetime

import pytest

from matcher.events import events
from stream.errors import GalleryUnreachable, UsageError


@pytest.mark.parametrize("follow", [True, False])
def test_a_folder_without_a_gallery_is_not_given_one(tmp_path, follow):
    with pytest.raises(GalleryUnreachable, match="no gallery runs in") as none:
        events(tmp_path / "mistyped", site="s", follow=follow)
    assert "follow" not in str(none.value)
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        pytest.param({"after": 3, "group": "g"}, "after=NUMBER says where to begin", id="after and group"),
        pytest.param({"start": datetime(2026, 1, 1)}, "has no time zone", id="naive time"),  # noqa: DTZ001
        pytest.param({"start": "latest", "group": "g"}, "no start=latest", id="latest in a group"),
        pytest.param(
            {"start": "2026-01-01"}, "start='2026-01-01': expected .*a datetime with its time zone", id="text"
        ),
        pytest.param({"kind": "links"}, "kind='links': expected one of new, link, end, merge", id="no kind"),
        pytest.param({"identity": "1a2b3c4d"}, "identity='1a2b3c4d': expected all 32 hexadecimal", id="half a name"),
        pytest.param({"after": -1}, "after=-1 is no number of an event: expected 0 or more", id="negative number"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(wrong, says):
    with pytest.raises(UsageError, match=says):
        events("127.0.0.1:9092", site="s", **wrong)


@pytest.mark.parametrize("where", ["/var/lib/sightline/depot", "broker", "kafka://viewer:secret@broker", ""])
def test_a_string_that_is_no_address_is_refused_with_the_remedy(where):
    said = (
        r"is no address: expected host:port of Kafka, redis://host:port/db, or .* as a Path: events\(Path\(folder\), "
    )
    with pytest.raises(UsageError, match=said) as refused:
        events(where, site="s")
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_group_without_kafka_is_refused():
    with pytest.raises(UsageError, match="groups are Kafka's"):
        events("redis://127.0.0.1", site="s", group="g")
