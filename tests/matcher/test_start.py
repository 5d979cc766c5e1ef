import secrets
import threading
from contextlib import closing

import msgspec
import pytest

from matcher.gallery import MemoryGallery
from matcher.start import start
from stream.codec import EMBEDDINGS
from stream.errors import EpochLost, OffsetGone
from stream.kafka import KafkaSink, KafkaSource, TopicSpec, ensure_topics
from stream.memory import MemoryTopic
from stream.settings import KafkaSettings
from stream.stage import as_records, run
from stream.transport import Record

from .recorded import Recorded, write
from .simulation import rules_for, simulate


@pytest.fixture
def site(tmp_path):
    made = simulate(4, people=8, seconds=30)
    write(tmp_path / "records", made.in_order())
    return made


def begin(gallery, source, site, **options):
    given = {"lasting": True} | options
    return start(
        gallery, source if callable(source) else lambda: source, rules_for(site), site="sim", cameras=site.cameras,
        key=b"k" * 32, model="m", live=False, lateness_s=0.3, **given,
    )  # fmt: skip


def play(started, stop=None):
    run(started.source, started.matcher, started.sink, prepare=as_records, name="match", stop=stop)
    started.sink.close()


def gallery(beside=None):
    return MemoryGallery("sim", model="m", retention_ns=10**18, beside=beside)


def through_memory(site, made):
    topic = MemoryTopic("embeddings", EMBEDDINGS, 4, capacity_records=1000)
    sink = topic.sink(lambda message: site.cameras.index(message.camera))
    source = topic.source("match")
    sink.send(record.message for record in site.in_order())
    topic.close_input()
    started = begin(made, source, site, lasting=False)
    play(started)
    return started


def test_a_matcher_goes_on_from_the_offsets_of_the_gallery(site, tmp_path):
    whole, halved = gallery(), gallery()
    play(begin(whole, Recorded(tmp_path / "records"), site))
    half = Recorded(tmp_path / "records")
    half._records = half._records[:300]
    started = begin(halved, half, site)
    started.matcher.finish = lambda: ()  # stopped, not ended
    play(started)
    assert 0 < len(halved.events(0, limit=1000)) < len(whole.events(0, limit=1000))
    play(begin(gallery(halved), Recorded(tmp_path / "records"), site))
    assert halved.events(0, limit=1000) == whole.events(0, limit=1000)


def test_the_source_is_opened_after_the_site_was_acquired(site, tmp_path):
    first = gallery()
    first.acquire()
    opened, stop = [], threading.Event()

    def open_source():
        opened.append(True)
        return Recorded(tmp_path / "records")

    stop.set()
    with pytest.raises(EpochLost):
        begin(gallery(first), open_source, site, stop=stop)
    assert not opened
    begin(gallery(first), open_source, site, takeover=True)
    assert opened


def test_records_that_retention_took_stop_the_matcher_with_the_remedy(site, tmp_path, caplog):
    made = gallery()
    half = Recorded(tmp_path / "records")
    half._records = half._records[:300]
    started = begin(made, half, site)
    started.matcher.finish = lambda: ()
    play(started)
    with pytest.raises(OffsetGone, match=r"offsets before 140 are gone: .*--skip-lost"):
        begin(gallery(made), Recorded(tmp_path / "records", first=140), site)
    begin(gallery(made), Recorded(tmp_path / "records", first=140), site, skip_lost=True)
    assert "going on with what it holds now" in caplog.text


def test_a_topic_that_was_made_anew_stops_the_matcher_with_the_remedy(site, tmp_path):
    made = gallery()
    play(begin(made, Recorded(tmp_path / "records"), site))
    anew = Recorded(tmp_path / "records")
    anew.topic_id = lambda: "another"
    with pytest.raises(OffsetGone, match=r"made anew .* \(it was recorded, is another\): .*--skip-lost"):
        begin(gallery(made), anew, site)
    play(begin(gallery(made), anew, site, skip_lost=True))


def test_a_camera_taken_out_of_the_site_file_does_not_keep_the_matcher_from_going_on(site, kafka_server, caplog):
    settings = KafkaSettings(bootstrap_servers=kafka_server)
    spec = TopicSpec(f"sim-{secrets.token_hex(4)}.embeddings", 4, 600)
    ensure_topics(settings, [spec])
    with closing(KafkaSink(settings, spec, lambda message: site.cameras.index(message.camera))) as sink:
        sink.send(record.message for record in site.in_order())
    made, partitions = gallery(), len(site.cameras)

    def source():
        return KafkaSource(settings, spec.name, None, EMBEDDINGS, partitions=range(partitions))

    first = begin(made, source, site)
    ends = first.source.ends(range(4))
    for batch in first.source.batches():
        first.sink.send(first.matcher.process(batch))
        first.sink.flush()
        if first.source.drained(ends):
            break
    first.source.close()
    first.sink.close()
    partitions -= 1
    with caplog.at_level("INFO"):
        again = begin(gallery(made), source, site)
    assert again.source.position() == {partition: ends[partition] for partition in range(3)}
    assert "partition 3 of the embeddings topic is not read any more" in caplog.text
    again.source.close()


def test_who_could_not_start_lets_the_next_one_in(site, tmp_path):
    made = gallery()

    def fail():
        raise OSError("no topic")

    with pytest.raises(OSError, match="no topic"):
        begin(made, fail, site)
    play(begin(gallery(made), Recorded(tmp_path / "records"), site))


def test_files_that_ended_in_an_earlier_process_are_waited_for_again(site):
    made = gallery()
    through_memory(site, made)
    source = MemoryTopic("embeddings", EMBEDDINGS, 4).source("match")
    matcher = begin(gallery(made), source, site, lasting=False).matcher
    record = site.records[0][0]
    again = msgspec.structs.replace(record.message, stream=record.message.stream + 1)  # the file has another start
    assert all(not step.places for step in matcher.process([Record(again, 0, 0)]))
    assert [set(step.places) for step in matcher.finish()] == [{site.cameras[0]}]


def test_a_file_played_again_into_the_same_gallery_says_nothing_and_is_reported(site):
    made = gallery()
    assert through_memory(site, made).matcher.repeated() == {}
    said = list(made.events(0, limit=1000))
    assert said
    again = through_memory(site, gallery(made))
    assert made.events(0, limit=1000) == said
    assert again.matcher.repeated() == dict.fromkeys(site.cameras, 150)
