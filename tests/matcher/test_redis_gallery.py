"""What only a server can get wrong: expiry by its own clock, leases, answers that are lost, what is written where."""

import re
import secrets
import threading
import time

import pytest
import redis
from services import RedisServer, valkey_binary

from matcher.gallery_sink import GallerySink
from matcher.merge import Place
from matcher.overview import overview
from matcher.redis_client import connect
from matcher.redis_gallery import RedisGallery
from matcher.state import restore
from stream.errors import (
    DeliveryFailed,
    EpochLost,
    GalleryError,
    GalleryUnreachable,
    ModelMismatch,
)

from .simulation import matcher_for, simulate
from .sites import rules
from .steps import SECOND, a_step


@pytest.fixture
def gallery(redis_server):
    made = RedisGallery(redis_server, f"s-{secrets.token_hex(4)}", model="m", retention_ns=60 * SECOND, live=True)
    yield made
    made.close()


def keys_of(gallery):
    return {key.decode().removeprefix(gallery._prefix): key for key in gallery._client.keys(f"{gallery._prefix}*")}


def test_on_a_live_site_every_key_that_tells_of_anybody_expires_on_the_server(gallery):
    gallery.acquire()
    gallery.commit([a_step(changes={"site": b"1", "identity/1": b"who", "exemplar/1/t": b"v", "pool/t": b"v"})])
    left = {name: gallery._client.pttl(key) for name, key in keys_of(gallery).items()}
    assert set(left) == {"meta", "lease", "state", "index", "identity/1", "exemplar/1/t"}
    assert left.pop("meta") == -1
    assert 0 < left.pop("lease") <= 10_000
    assert all(50_000 < ms <= 61_000 for ms in left.values()), left


def test_on_a_site_of_files_nothing_expires_by_the_wall_clock(redis_server):
    gallery = RedisGallery(redis_server, f"s-{secrets.token_hex(4)}", model="m", retention_ns=SECOND, live=False)
    gallery.acquire()
    old = 946_684_800 * SECOND  # the year 2000
    gallery.commit([a_step(old, {"site": b"1", "identity/1": b"who", "exemplar/1/t": b"v", "pool/t": b"v"})])
    assert {name for name, key in keys_of(gallery).items() if gallery._client.pttl(key) != -1} == {"lease"}
    assert set(gallery.acquire(takeover=True).entities) == {"site", "identity/1", "exemplar/1/t", "pool/t"}
    gallery.close()


def test_what_the_server_expired_is_forgotten_by_the_index(gallery):
    gallery.acquire()
    gallery.commit([a_step(changes={"exemplar/1/t": b"v", "exemplar/1/u": b"v"})])
    gallery._client.delete(gallery._prefix + "exemplar/1/t")
    assert set(gallery.acquire(takeover=True).entities) == {"exemplar/1/u"}
    assert gallery._client.scard(gallery._index) == 1


def test_a_day_of_a_site_leaves_nothing_of_anybody_once_its_retention_is_over(redis_server):
    site = simulate(1, people=6, seconds=40)
    gallery = RedisGallery(
        redis_server, f"s-{secrets.token_hex(4)}", model="m", retention_ns=86400 * SECOND, live=False
    )
    gallery.acquire()
    matcher = matcher_for(site)
    gallery.commit(list(matcher.process(site.in_order())))
    held = set(gallery.acquire(takeover=True).entities)
    assert any(key.startswith("exemplar/") for key in held)
    assert "mean/c0" in held
    last = site.records[0][-1].message
    later = type(last)(
        **{f: getattr(last, f) for f in last.__struct_fields__} | {"captured_at": last.captured_at + 86401 * SECOND}
    )
    gallery.commit(list(matcher.process([type(site.records[0][0])(later, 0, 10**6)])))
    assert set(keys_of(gallery)) <= {"meta", "lease", "state", "events"}, (
        "no key of anybody, nor the name of one in the index"
    )
    held = set(gallery.acquire(takeover=True).entities)
    assert held <= {"site", "arrivals"} | {f"camera/c{n}" for n in range(4)}
    assert gallery._client.xlen(gallery._events) == 0
    gallery.close()


def test_the_same_steps_sent_again_after_a_lost_answer_are_stored_once(gallery, monkeypatch):
    site = simulate(2, people=4, seconds=10)
    steps = list(matcher_for(site).process(site.in_order()))
    gallery.acquire()
    script = gallery._commit_script

    def lose_the_answer(keys, arguments):
        script(keys, arguments)
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(gallery, "_commit_script", lose_the_answer)
    with pytest.raises(GalleryUnreachable):
        gallery.commit(steps)
    monkeypatch.setattr(gallery, "_commit_script", script)
    events = gallery.commit(steps)
    assert [e.number for e in events] == list(range(1, len(events) + 1))
    assert list(gallery.events(0)) == events


def test_what_comes_after_a_renewal_whose_answer_was_lost_is_stored(gallery, monkeypatch):
    monkeypatch.setattr("matcher.redis_gallery.RENEW_S", 0)
    gallery.acquire()
    script = gallery._commit_script

    def lose_the_answer(keys, arguments):
        script(keys, arguments)
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(gallery, "_commit_script", lose_the_answer)
    with pytest.raises(GalleryUnreachable):
        gallery.commit([])
    monkeypatch.setattr(gallery, "_commit_script", script)
    gallery.commit([a_step(changes={"site": b"1"})])
    assert dict(gallery.acquire(takeover=True).entities) == {"site": b"1"}


def test_the_lease_runs_out_by_itself_and_then_the_waiting_matcher_enters(redis_server, monkeypatch, caplog):
    monkeypatch.setattr("matcher.redis_gallery.LEASE_S", 0.6)
    site = f"s-{secrets.token_hex(4)}"
    first, second = (RedisGallery(redis_server, site, model="m", retention_ns=SECOND, live=True) for _ in "ab")
    first.acquire()
    began = time.monotonic()
    second.acquire()
    assert 0.4 < time.monotonic() - began < 5
    assert f"site {site} has a matcher, {first._owner}: waiting" in caplog.text
    with pytest.raises(EpochLost, match="taken over by"):
        first.commit([a_step()])


def test_a_matcher_with_nothing_to_store_keeps_its_lease(redis_server, monkeypatch):
    monkeypatch.setattr("matcher.redis_gallery.LEASE_S", 0.5)
    monkeypatch.setattr("matcher.redis_gallery.RENEW_S", 0.1)
    site = f"s-{secrets.token_hex(4)}"
    first, second = (RedisGallery(redis_server, site, model="m", retention_ns=SECOND, live=True) for _ in "ab")
    first.acquire()
    sink, stop, entered = GallerySink(first), threading.Event(), []

    def wait():
        try:
            second.acquire(stop=stop)
            entered.append(True)
        except EpochLost:
            pass

    thread = threading.Thread(target=wait)
    thread.start()
    for _ in range(15):
        sink.flush()
        time.sleep(0.1)
    stop.set()
    thread.join(10)
    assert not entered
    first.commit([a_step()])


def test_a_gallery_that_goes_away_is_waited_for_and_loses_nothing(tmp_path):
    server = RedisServer(valkey_binary(), tmp_path)
    server.start()
    gallery = RedisGallery(server.url, "s", model="m", retention_ns=60 * SECOND, live=True)
    gallery.acquire()
    sink = GallerySink(gallery)
    sink.send([a_step(changes={"site": b"1"}, offset=1)])
    sink.flush()
    server.kill()
    sink.send([a_step(changes={"site": b"2"}, offset=2)])
    with pytest.raises(DeliveryFailed, match="no Redis answers at redis://127"):
        sink.flush()
    server.start()
    sink.flush()
    snapshot = gallery.acquire(takeover=True)
    assert dict(snapshot.entities) == {"site": b"2"}
    assert dict(snapshot.offsets) == {0: 2}
    gallery.close()
    server.kill()


def test_a_gallery_of_another_version_is_refused(gallery):
    gallery.acquire()
    gallery.commit([a_step()])
    gallery._client.hset(gallery._meta, "format", 2)
    with pytest.raises(GalleryError, match=r"format 2, this one reads 1\): go on with an empty gallery"):
        gallery.acquire()


@pytest.mark.parametrize(
    ("key", "data"),
    [
        pytest.param("pool/t", b"\xc1", id="no msgpack"),
        pytest.param("identity/1", b"\x93\x01\x02\x03", id="wrong fields"),
        pytest.param("pool/t", b"\x91\xc4\x03abc", id="half a vector"),
        pytest.param("unheard-of/1", b"\x01", id="unknown kind"),
    ],
)
def test_a_gallery_that_cannot_be_read_is_one_line(key, data):
    with pytest.raises(GalleryError, match=f"the gallery holds '{key}', which cannot be read .* empty gallery"):
        restore(rules(), {key: data})


def test_an_overview_says_who_matches_and_how_far(gallery, redis_server):
    site = gallery._site
    nothing = overview(redis_server, site)
    assert (nothing.holder, nothing.epoch, nothing.number, nothing.identities, nothing.model) == (None, 0, 0, 0, None)
    gallery.acquire()
    gallery.commit([a_step(changes={"identity/1": b"who", "identity/2": b"who", "exemplar/1/t": b"v"})])
    found = overview(redis_server, site)
    assert (found.holder, found.epoch, found.identities, found.model) == (gallery._owner, 1, 2, "m")
    assert dict(found.places) == {"c": Place(0, 1)}


def test_a_full_server_takes_nothing_of_a_commit_and_all_of_it_later(tmp_path):
    server = RedisServer(valkey_binary(), tmp_path)
    server.start()
    gallery, admin = RedisGallery(server.url, "s", model="m", retention_ns=60 * SECOND, live=True), connect(server.url)
    gallery.acquire()
    gallery.commit([a_step(changes={"site": b"1"}, offset=1)])
    admin.config_set("maxmemory", 1)
    step = a_step(changes={"site": b"2", "identity/1": b"who"}, offset=2)
    with pytest.raises(GalleryUnreachable, match="full"):
        gallery.commit([step])
    admin.config_set("maxmemory", 0)
    assert dict(gallery.acquire(takeover=True).entities) == {"site": b"1"}
    gallery.commit([step])
    assert dict(gallery.acquire(takeover=True).offsets) == {0: 2}
    gallery.close()
    admin.close()
    server.kill()


def test_a_call_that_the_network_kept_back_undoes_nothing(gallery):
    gallery.acquire()
    script, calls = gallery._commit_script, []
    gallery._commit_script = lambda keys, arguments: calls.append((keys, arguments)) or script(keys, arguments)
    gallery.commit([a_step(changes={"site": b"1"}, offset=1)])
    gallery.commit([a_step(changes={"site": b"2"}, offset=2)])
    assert script(*calls[0]) == 1
    snapshot = gallery.acquire()
    assert (dict(snapshot.entities), dict(snapshot.offsets)) == ({"site": b"2"}, {0: 2})


def test_who_cannot_go_on_stops_nobody_who_can(redis_server):
    site = f"s-{secrets.token_hex(4)}"
    good, other = (
        RedisGallery(redis_server, site, model=model, retention_ns=60 * SECOND, live=True) for model in ("m", "new")
    )
    good.acquire()
    good.commit([a_step(changes={"exemplar/1/t": b"vector"})])
    for takeover in (False, True):
        with pytest.raises(ModelMismatch, match="holds vectors of m, this matcher's are of new"):
            other.acquire(takeover=takeover)
    good.commit([a_step(changes={"exemplar/1/t": None})])
    good.release()
    other.acquire()
    for made in (good, other):
        made.close()


def test_who_finds_that_it_cannot_go_on_lets_the_next_one_in(redis_server):
    site = f"s-{secrets.token_hex(4)}"
    good, other, checked, may_go_on = (
        RedisGallery(redis_server, site, model="m", retention_ns=60 * SECOND, live=True),
        RedisGallery(redis_server, site, model="new", retention_ns=60 * SECOND, live=True),
        threading.Event(),
        threading.Event(),
    )
    caught, script = [], other._acquire_script

    def acquire_later(*arguments):
        checked.set()
        may_go_on.wait(10)
        return script(*arguments)

    other._acquire_script = acquire_later

    def wait():
        try:
            other.acquire()
        except ModelMismatch as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    checked.wait(10)
    good.acquire()
    good.commit([a_step(changes={"exemplar/1/t": b"vector"})])  # after the other one looked
    good.release()
    may_go_on.set()
    thread.join(10)
    assert len(caught) == 1
    assert overview(redis_server, site).holder is None
    for made in (good, other):
        made.close()


@pytest.mark.parametrize("next_one", [False, True], ids=["nobody came since", "another matcher began anew"])
def test_a_gallery_that_was_emptied_is_not_taken_for_a_takeover(redis_server, next_one):
    site = f"s-{secrets.token_hex(4)}"
    first, second = (RedisGallery(redis_server, site, model="m", retention_ns=SECOND, live=True) for _ in "ab")
    first.acquire()
    first.commit([a_step()])
    first._client.delete(*keys_of(first).values())
    if next_one:
        second.acquire()
    says = (
        f"taken over by {second._owner}"
        if next_one
        else f"the gallery of site {site} at .* has lost what was stored: Redis"
    )
    with pytest.raises(GalleryError, match=re.escape(says) if next_one else says) as caught:
        first.commit([a_step()])
    assert isinstance(caught.value, EpochLost) == next_one
    for made in (first, second):
        made.close()


@pytest.mark.parametrize("steps", [[a_step(offset=4)], []], ids=["with something to store", "with nothing"])
@pytest.mark.parametrize("lost", [1, 2])
def test_nothing_is_stored_on_top_of_a_gallery_that_went_back(gallery, lost, steps):
    gallery.acquire()
    for offset in (1, 2, 3):
        gallery.commit([a_step(offset=offset)])
    gallery._client.hset(gallery._meta, "commit", 3 - lost)  # as after a crash without its last writes
    gallery._renewed_s = 0.0
    with pytest.raises(GalleryError, match=r"has lost what was stored: .*start the matcher again"):
        gallery.commit(steps)
    assert dict(gallery.acquire().offsets) == {0: 3}
    gallery.commit([a_step(offset=5)])
    assert dict(gallery.acquire().offsets) == {0: 5}
