"""What a commit leaves on the server beside the entities: the outbox's end, the format, the lease, and many of them."""

import secrets
import threading
import time

import pytest

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


def a_step(changes: dict[str, bytes] | None = None, events: int = 0) -> Step:
    now = int(time.time()) * SECOND
    held = {key: Change(value, now + 60 * SECOND) for key, value in (changes or {}).items()}
    return Step(now, held, {0: 1}, {}, tuple(event(now) for _ in range(events)))


@pytest.fixture
def another(redis_server):
    """Makes matchers' galleries of one live site."""
    site, made = f"s-{secrets.token_hex(4)}", []

    def make():
        made.append(RedisGallery(redis_server, site, model="m", retention_ns=60 * SECOND, live=True))
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


def test_what_is_stored_says_its_format_so_that_another_version_can_refuse_it(another):
    gallery = another()
    gallery.acquire()
    gallery.commit([a_step()])
    assert gallery._client.hget(gallery._meta, "format") == b"1"


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
