"""A matcher process for the kill tests: python killable.py RECORDS URL.

Prints a line per commit and waits for one before it goes on; at the end of its input it goes on by itself.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # tests/

from matcher.redis_gallery import RedisGallery
from matcher.start import start
from stream.messages import MatchEvent
from stream.stage import as_records, run

from recorded import Recorded  # isort: skip
from simulation import Simulation, rules_for  # isort: skip


class Gallery(RedisGallery):
    def commit(self, steps: Sequence[object]) -> Sequence[MatchEvent]:
        events = super().commit(steps)
        sys.stdout.write("stored\n")
        sys.stdout.flush()
        sys.stdin.readline()
        return events


def main(records: str, url: str) -> None:
    site = Simulation([f"c{n}" for n in range(4)])
    rules = rules_for(site)
    gallery = Gallery(url, "sim", model="m", retention_ns=rules.retention_ns, live=False)
    started = start(
        gallery, lambda: Recorded(Path(records)), rules, site="sim", cameras=site.cameras, key=b"k" * 32,
        model="m", live=False, lateness_s=0.3, lasting=True, takeover=True,
    )  # fmt: skip
    run(started.source, started.matcher, started.sink, prepare=as_records, name="match")
    gallery.release()


if __name__ == "__main__":
    main(*sys.argv[1:])
