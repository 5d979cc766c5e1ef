"""What every gallery promises, over memory, the embedded server, a server elsewhere, and Debian's Redis with TLS."""

import secrets
import threading

import pytest

from matcher.gallery import MemoryGallery
from matcher.matcher import Change, Step
from matcher.merge import Place
from matcher.redis_gallery import RedisGallery
from matcher.server import EmbeddedRedis
from stream.errors import EpochLost, ModelMismatch
from stream.messages import MatchEvent

RETENTION = 60 * 10**9
NOW = 1_800_000_000 * 10**9  # far enough ahead that no server's clock expires it


def event(captured_at=NOW, kind="new"):
    return MatchEvent(
        site="shop", number=0, kind=kind, identity="0" * 32, camera="c1", tracklet="c1/0/0/0",
        first_seen=captured_at, captured_at=captured_at, probability=1.0, model="m",
    )  # fmt: skip


def a_step(*, clock=NOW, changes=None, offsets=None, places=None, events=0):
    held = {key: Change(value, clock + RETENTION) for key, value in (changes or {}).items()}
    return Step(clock, held, offsets or {}, places or {}, tuple(event(clock) for _ in range(events)))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    with EmbeddedRedis(tmp_path_factory.mktemp("state")) as server:
        yield server.url


@pytest.fixture(
    params=["memory", "embedded", "elsewhere", "tls"],
)
def matchers(request):
    """Makes galleries of one fresh site: each call is another matcher of it."""
    site, made = f"shop-{secrets.token_hex(4)}", []

    def another(model="m"):
        if request.param == "memory":
            beside = made[0] if made else None
            gallery = MemoryGallery(site, model=model, retention_ns=RETENTION, beside=beside)
        else:
            if request.param == "embedded":
                url = request.getfixturevalue("embedded")
            elif request.param == "elsewhere":
                url = request.getfixturevalue("redis_server")
            else:
                url = request.getfixturevalue("redis_tls_server").url
            gallery = RedisGallery(url, site, model=model, retention_ns=RETENTION, live=True)
        made.append(gallery)
        return gallery

    yield another
    for gallery in made:
        gallery.release()
        gallery.close()


def test_a_new_site_begins_with_nothing(matchers):
    gallery = matchers()
    snapshot = gallery.acquire()
    assert (dict(snapshot.entities), dict(snapshot.offsets), dict(snapshot.places)) == ({}, {}, {})
    assert (snapshot.topic, snapshot.number) == (None, 0)
    assert gallery.numbers() == (1, 0)
    assert list(gallery.events(0)) == []


def test_the_next_matcher_goes_on_from_everything_that_was_stored(matchers):
    gallery = matchers()
    gallery.acquire()
    gallery.topic = "t1"
    entities = {
        "site": b"clock", "tracklet/c1/0/0/0": b"\x00\xff", "pool/c1/0/0/0": b"v", "identity/7": b"who",
        "exemplar/7/c1/0/0/0": b"looks", "camera/c1": b"s", "ended/c1/c1/0/0/1": b"t", "mean/": b"m",
    }  # fmt: skip
    gallery.commit(
        [a_step(changes=entities, offsets={0: 5, 3: 9}, places={"c1": Place(4, 2), "c2": Place(4, 7, True)})]
    )
    gallery.commit(
        [a_step(changes={"identity/7": b"moved", "camera/c1": None, "exemplar/7/c1/0/0/0": None}, offsets={0: 6})]
    )
    gallery.release()
    snapshot = matchers().acquire()
    expected = entities | {"identity/7": b"moved"}
    del expected["camera/c1"], expected["exemplar/7/c1/0/0/0"]
    assert dict(snapshot.entities) == expected
    assert dict(snapshot.offsets) == {0: 6, 3: 9}
    assert dict(snapshot.places) == {"c1": Place(4, 2), "c2": Place(4, 7, True)}
    assert snapshot.topic == "t1"


def test_the_last_of_several_steps_holds(matchers):
    gallery = matchers()
    gallery.acquire()
    gallery.commit([a_step(changes={"site": b"1", "pool/x": b"1"}), a_step(changes={"site": b"2", "pool/x": None})])
    gallery.release()
    assert dict(matchers().acquire().entities) == {"site": b"2"}


def test_events_are_numbered_without_gaps_across_calls_and_matchers(matchers):
    gallery = matchers()
    gallery.acquire()
    assert [e.number for e in gallery.commit([a_step(events=2), a_step(events=1)])] == [1, 2, 3]
    assert [e.number for e in gallery.commit([a_step(events=1)])] == [4]
    gallery.release()
    other = matchers()
    assert other.acquire().number == 4
    assert [e.number for e in other.commit([a_step(events=2)])] == [5, 6]
    assert [e.number for e in other.events(0)] == [1, 2, 3, 4, 5, 6]
    assert [e.number for e in other.events(4)] == [5, 6]
    assert [e.number for e in other.events(1, limit=2)] == [2, 3]
    assert other.numbers() == (1, 6)


def test_what_each_matches_topic_has_had_is_known_to_the_next_matcher(matchers):
    gallery = matchers()
    gallery.acquire()
    assert gallery.relayed("t1") is None
    for number in (3, 7):
        gallery.note_relayed("t1", number)
    gallery.commit([a_step(events=8)])
    gallery.release()
    other = matchers()
    other.acquire()
    assert (other.relayed("t1"), other.relayed("t2")) == (7, None)


def test_who_waits_for_an_event_gets_it(matchers):
    gallery, reader, got = matchers(), matchers(), []
    gallery.acquire()
    thread = threading.Thread(target=lambda: got.extend(reader.events(0, wait_s=4)))
    thread.start()
    gallery.commit([a_step(events=1)])
    thread.join(10)
    assert [e.number for e in got] == [1]
    assert list(reader.events(1, wait_s=0.02)) == []


def test_events_go_with_their_retention(matchers):
    gallery = matchers()
    gallery.acquire()
    gallery.commit([a_step(events=300)])
    gallery.commit([a_step(clock=NOW + RETENTION // 2, events=2)])
    assert gallery.numbers() == (1, 302)
    for _ in range(3):
        gallery.commit([a_step(clock=NOW + RETENTION, offsets={0: 1})])
    assert gallery.numbers() == (301, 302)
    for _ in range(2):
        gallery.commit([a_step(clock=NOW + 2 * RETENTION, offsets={0: 1})])
    assert gallery.numbers() == (303, 302)
    assert [e.number for e in gallery.commit([a_step(clock=NOW + 2 * RETENTION, events=1)])] == [303]


def test_a_second_matcher_waits_until_the_first_lets_go(matchers):
    first, second, entered = matchers(), matchers(), threading.Event()
    first.acquire()

    def wait():
        second.acquire()
        entered.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not entered.wait(0.2)
    first.release()
    assert entered.wait(10)
    thread.join()
    second.commit([a_step(events=1)])


def test_a_matcher_that_waits_can_be_stopped(matchers):
    matchers().acquire()
    stop = threading.Event()
    stop.set()
    with pytest.raises(EpochLost, match="waiting"):
        matchers().acquire(stop=stop)


def test_who_was_taken_over_stores_nothing_more(matchers):
    first, second = matchers(), matchers()
    first.acquire()
    first.commit([a_step(changes={"site": b"first"}, events=1)])
    assert second.acquire(takeover=True).number == 1
    with pytest.raises(EpochLost, match="taken over"):
        first.commit([a_step(changes={"site": b"lost"}, events=1)])
    first.release()  # lets nobody in: it is not first's any more
    stop = threading.Event()
    stop.set()
    with pytest.raises(EpochLost):
        matchers().acquire(stop=stop)
    assert [e.number for e in second.commit([a_step(events=1)])] == [2]
    second.release()
    assert matchers().acquire().entities["site"] == b"first"


def test_vectors_of_another_model_are_refused_with_the_remedy(matchers):
    gallery = matchers(model="old")
    gallery.acquire()
    gallery.commit([a_step(changes={"exemplar/1/x": b"vector"})])
    gallery.release()
    with pytest.raises(ModelMismatch, match=r"holds vectors of old, this matcher's are of new: .* retention"):
        matchers(model="new").acquire(takeover=True)
    back = matchers(model="old")
    back.acquire(takeover=True)
    back.commit([a_step(changes={"exemplar/1/x": None})])
    back.release()
    matchers(model="new").acquire(takeover=True)


def test_galleries_of_two_sites_do_not_meet(redis_server):
    sites = [
        RedisGallery(redis_server, f"s-{secrets.token_hex(4)}", model="m", retention_ns=RETENTION, live=True)
        for _ in "ab"
    ]
    for gallery in sites:
        gallery.acquire()
        assert [e.number for e in gallery.commit([a_step(changes={"site": b"x"}, events=1)])] == [1]
        assert gallery.numbers() == (1, 1)
        gallery.release()
        gallery.close()
