"""What a run leaves behind for people and programs."""

from pathlib import Path

import numpy as np

from deploy.report import write_report
from deploy.score import TrueBoxes
from stream.codec import MATCHES, decode
from stream.messages import Embeddings, Evidence, MatchEvent


def test_the_events_of_a_report_are_those_that_subscribers_get(tmp_path: Path) -> None:
    events = [
        MatchEvent(
            site="s", number=number, kind="new", identity="0" * 32, camera="hall", tracklet=f"t{number}", first_seen=0,
            captured_at=number, probability=1.0, evidence=Evidence(reason="stranger"), model="m",
        )
        for number in (1, 2)
    ]  # fmt: skip
    empty = Embeddings(
        site="s", camera="hall", stream=0, sequence=0, captured_at=0, ingested_at=0, clock="file", width=4, height=4,
        status="ok", model="m",
    )  # fmt: skip
    nobody = TrueBoxes(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    write_report(tmp_path, {}, events, [(empty, nobody)], {}, lambda _: np.zeros((4, 4, 3), np.uint8))
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert [decode(line, MATCHES) for line in lines] == events
