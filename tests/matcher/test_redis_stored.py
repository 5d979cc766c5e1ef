"""What a commit leaves on the server beside the entities: the outbox's end, the format, the lease, and many of them."""

import secrets
import threading
import time

import pytest
from services import RedisServer, valkey_binary

from matcher.matcher import Change, Step
from matcher.redis_gallery import RedisGallery
from stream.errors import EpochLost
from stream.messages import MatchEvent

SECOND = 10**9


def event(captured_at: int) -> MatchEvent:
    return MatchEvent(
        site="s", number=0, kind="new", identity="0" * 32, camera="c", tracklet="t", first_seen=captured_at,
        captured_at=captured_at, probability=1.0, model="m",
    )  # fmt: skip


def a_step(changes: dict[str, bytes] | None = None, events: int = 0, later_s: int = 0) -> Step:
    now = (int(time.time()) + later_s) * SECOND
    held = {key: Change(value, now + 60 * SECOND) for key, value in (changes or {}).items()}
    return Step(now, held, {0: 1}, {}, tuple(event(now) for _ in range(events)))


@pytest.fixture
def another(redis_server):
    """Makes matchers' galleries of one live site."""
    site, made = f"s-{secrets.token_hex(4)}", []

    def make(retention_s=60):
        made.append(RedisGallery(redis_server, site, model="m", retention_ns=retention_s * SECOND, live=True))
        return made[-1]

    yield make
    for gallery in made:
        gallery.release()
        gallery.close()


def test_on_a_live_site_what_was_said_expires_on_the_server_should_no_matcher_come_back(another):
    gallery = another()
    gallery.acquire()
    gallery.commit([a_step(events=1)])
    assert 50_000 < gallery._client.pttl(gallery._events) <= 61_000


def test_what_has_no_expiry_of_its_own_expires_with_the_sites_retention(another):
    gallery = another(retention_s=600)
    gallery.acquire()
    gallery.commit([a_step({"site": b"1"}, events=1)])
    for key in (gallery._events, gallery._state):
        assert 590_000 < gallery._client.pttl(key) <= 601_000


def test_steps_that_are_stored_together_are_as_late_as_the_last_of_them(another):
    gallery = another()
    gallery.acquire()
    gallery.commit([a_step(events=1)])
    gallery.commit([a_step(), a_step(later_s=62)])
    assert gallery.numbers() == (2, 1), "retention took the event of a minute ago"


def test_what_is_stored_says_its_format_so_that_another_version_can_refuse_it(another):
    gallery = another()
    gallery.acquire()
    gallery.commit([a_step()])
    assert gallery._client.hget(gallery._meta, "format") == b"1"


def test_who_waits_for_events_gets_no_more_at_once_than_asked_for(another):
    gallery = another()
    gallery.acquire()
    gallery.commit([a_step(events=5)])
    assert [event.number for event in gallery.events(1, limit=2, wait_s=1)] == [2, 3]


def test_a_site_exists_once_a_matcher_had_it(another):
    gallery = another()
    assert not gallery.exists()
    gallery.acquire()
    assert gallery.exists()


def test_what_one_matches_topic_has_had_says_nothing_of_another(another):
    gallery = another()
    gallery.acquire()
    gallery.note_relayed("t1", 3)
    gallery.note_relayed("t2", 8)
    assert (gallery.relayed("t1"), gallery.relayed("t2")) == (3, 8)


def test_a_takeover_does_not_wait(another):
    stop = threading.Event()
    stop.set()
    another().acquire()
    another().acquire(takeover=True, stop=stop)


def test_who_held_a_gallery_before_it_was_emptied_takes_nobodys_lease_away(another):
    first, second, stop = another(), another(), threading.Event()
    first.acquire()
    first._client.delete(*first._client.keys(f"{first._prefix}*"))
    second.acquire()  # whose epoch has the same number now
    first.release()
    stop.set()
    with pytest.raises(EpochLost, match="stopped while waiting"):
        another().acquire(stop=stop)


def test_a_lease_that_cannot_be_given_back_runs_out_by_itself(tmp_path):
    server = RedisServer(valkey_binary(), tmp_path)
    server.start()
    gallery = RedisGallery(server.url, "s", model="m", retention_ns=SECOND, live=True)
    gallery.acquire()
    server.kill()
    gallery.release()
    gallery.close()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("wait_s", [0.0004, 0.01])
def test_the_shortest_wait_for_an_event_ends_though_none_comes(another, wait_s):
    assert list(another().events(0, wait_s=wait_s)) == []


def test_thousands_of_people_are_known_to_the_next_matcher(another):
    gallery = another()
    gallery.acquire()
    people = {f"identity/{n}": str(n).encode() for n in range(1200)}
    gallery.commit([a_step(people)])
    gallery._client.delete(*(gallery._prefix + f"identity/{n}" for n in range(600)))  # the server's clock took these
    gallery.release()
    assert dict(another().acquire().entities) == {key: people[key] for key in list(people)[600:]}
    assert gallery._client.scard(gallery._index) == 600


def test_for_whom_a_matcher_waits_is_said_once(another, monkeypatch, caplog):
    monkeypatch.setattr("matcher.redis_gallery.POLL_S", 0.02)
    first, second, stop = another(), another(), threading.Event()
    first.acquire()
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(EpochLost, match="stopped while waiting"):
        second.acquire(stop=stop)
    assert caplog.text.count("waiting until its lease") == 1
