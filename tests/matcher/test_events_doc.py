"""docs/events.md keeps its word: its consumer runs as it stands there, every field, kind and reason is explained."""

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from services import wait_for

from stream.messages import EventKind, MatchEvent, Reason

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "events.md").read_text()


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """The page's consumer, in a file."""
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "__main__" in block)
    path = tmp_path_factory.mktemp("page") / "consumer.py"
    path.write_text(code)
    return path


class Consumer:
    """The program, its database, and the last words of its log."""

    def __init__(self, program: Path, folder: Path, where: str, site: str) -> None:
        self.database, self.log = folder / "people.db", folder / "log"
        self._command = [sys.executable, "-W", "ignore", str(program), where, site, str(self.database)]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Until kill -9."""
        with self.log.open("a") as log:
            process = subprocess.Popen(self._command, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)})
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def ask(self, query: str) -> list[tuple]:
        with contextlib.closing(sqlite3.connect(self.database)) as db:
            return db.execute(query).fetchall()

    def until(self, number: int) -> None:
        """Wait for it to have done this event."""

        def done() -> bool:
            with contextlib.suppress(sqlite3.OperationalError):  # the tables are not made yet
                return self.ask("SELECT number FROM last") == [(number,)]
            return False

        wait_for(done, f"event {number} is done; it said {self.log.read_text()[-500:]}", 60)


@pytest.fixture
def consumer(program, tmp_path, place, site) -> Consumer:
    return Consumer(program, tmp_path, place.where, site)


def event(number: int, kind: EventKind, who: str, tracklet: str = "", merged: str | None = None) -> MatchEvent:
    return MatchEvent(
        site="s", number=number, kind=kind, identity=who * 32, merged=merged and merged * 32, camera=f"c{number}",
        tracklet=tracklet or f"t{number}", first_seen=number * 10, captured_at=number * 10 + 5, model="m",
    )  # fmt: skip


def test_the_consumer_goes_on_where_it_was_killed_and_follows_chains_of_merges(place, consumer):
    place.say([event(1, "new", "a"), event(2, "new", "b"), event(3, "new", "c"), event(4, "end", "c", "t3")])
    with consumer.running():
        consumer.until(4)
    place.say([event(5, "merge", "b", "t3", merged="c"), event(6, "merge", "a", "t2", merged="b")])
    place.say([event(7, "link", "a"), event(8, "end", "a", "t2")])
    with consumer.running():
        consumer.until(8)
    a, b, c = ("a" * 32, "b" * 32, "c" * 32)
    assert consumer.ask("SELECT * FROM stays ORDER BY tracklet") == [
        ("t1", a, "c1", 10, None),
        ("t2", a, "c2", 20, 85),
        ("t3", a, "c3", 30, 45),
        ("t7", a, "c7", 70, None),
    ]
    assert sorted(consumer.ask("SELECT * FROM names")) == [(b, a), (c, a)]


def test_the_consumer_goes_on_behind_what_is_gone(place, consumer):
    place.say([event(1, "new", "a"), event(2, "new", "b"), event(3, "end", "b", "t2")])
    with consumer.running():
        consumer.until(3)
    place.say([event(4, "end", "a", "t1"), event(5, "new", "c")])
    place.forget()
    place.say([event(6, "new", "d"), event(7, "new", "e")])
    with consumer.running():
        consumer.until(7)
    assert "events 4 to 5 are gone" in consumer.log.read_text()
    stays = consumer.ask("SELECT tracklet, until FROM stays ORDER BY tracklet")
    assert stays == [("t1", 10), ("t2", 35), ("t6", None), ("t7", None)], "nobody is left in the room for ever"


def test_the_consumer_begins_anew_with_a_site_whose_numbers_do(place, consumer):
    place.say([event(1, "new", "a")])
    with consumer.running():
        consumer.until(1)
    with contextlib.closing(sqlite3.connect(consumer.database)) as db, db:
        db.execute("UPDATE last SET number = 1200")
    with consumer.running():
        consumer.until(1)
    assert "its numbers began anew" in consumer.log.read_text()


def test_the_page_has_every_field_kind_and_reason():
    schema = json.loads((ROOT / "docs" / "match-event.schema.json").read_text())
    fields = [*schema["properties"], *(field for part in schema["$defs"].values() for field in part["properties"])]
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| ")]
    named = {name for row in rows for cell in (row[1], row[-2]) for name in re.findall(r"`([a-z_]+)`", cell)}
    assert set(fields) <= named
    assert {*get_args(EventKind), *get_args(Reason)} <= {
        name for row in rows for name in re.findall(r"`([a-z]+)`", str(row))
    }
