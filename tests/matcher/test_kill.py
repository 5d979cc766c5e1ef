import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from matcher.gallery import MemoryGallery
from matcher.redis_gallery import RedisGallery

from .recorded import write
from .simulation import matcher_for, simulate

KILLS = 20


def matching(records, url):
    command = [sys.executable, str(Path(__file__).with_name("killable.py")), str(records), url]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_matcher_killed_at_20_random_points_loses_no_event_and_says_none_twice(tmp_path, redis_server):
    site = simulate(7, seconds=150)
    records = tmp_path / "embeddings"
    write(records, site.in_order())
    steady, memory = matcher_for(site), MemoryGallery("sim", model="m", retention_ns=10**18)
    memory.acquire()
    memory.commit(list(steady.process(site.in_order())))
    memory.commit(list(steady.finish()))
    expected = memory.events(0, limit=10**6)

    url = redis_server.removesuffix("/0") + "/7"
    rng = random.Random(11)
    most = len(site.in_order()) // 16 // KILLS - 2  # commits per life, so that all 20 end before the input does
    for _ in range(KILLS):
        with matching(records, url) as process:
            for _ in range(rng.randint(0, most)):
                assert process.stdout.readline() == b"stored\n"
                process.stdin.write(b"go on\n")
                process.stdin.flush()
            time.sleep(rng.uniform(0, 0.015))  # anywhere in the next step or its commit
            process.kill()
            assert process.wait() == -signal.SIGKILL
    with matching(records, url) as process:
        process.communicate(timeout=300)
        assert process.returncode == 0

    gallery = RedisGallery(url, "sim", model="m", retention_ns=10**18, live=False)
    events = gallery.events(0, limit=10**6)
    assert [event.number for event in events] == list(range(1, len(expected) + 1))
    # the state came back to the last bit each time, so not even the decisions differ
    assert events == expected
    gallery.close()
