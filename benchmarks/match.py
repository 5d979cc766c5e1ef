"""What linking costs: the policy with 10,000 known people, and storing its steps on the embedded gallery.

    python benchmarks/match.py [--identities 10000] [--cameras 16] [--records 4000]

Each camera sees 4 people at 5 fps, who come and go together; a visit lasts 10 s; a crop in the first 5 frames, then every 2 s. Prints milliseconds per
record: of the processor for the policy, of the wall clock for the gallery.
"""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from matcher.entities import Exemplar, Identity
from matcher.matcher import Matcher
from matcher.redis_gallery import RedisGallery
from matcher.rules import Calibration, Rules
from matcher.server import EmbeddedRedis
from matcher.state import State
from stream.messages import Embeddings, Person
from stream.model import LinkRow, Links
from stream.transport import Record

SIZE, FPS, VISIT, BATCH = 512, 5, 50, 16
START = 1_800_000_000 * 10**9


def unit(rng: np.random.Generator) -> NDArray[np.float64]:
    vector = rng.normal(size=SIZE)
    return vector / np.linalg.norm(vector)


def known(rules: Rules, identities: int, cameras: int, rng: np.random.Generator) -> State:
    state = State(rules)
    for index in range(identities):
        camera, at = f"c{index % cameras}", START - int(rng.uniform(0, 3600) * 1e9)
        state.identities[index] = Identity(index, f"before/{index}", at)
        state.exemplars[index] = {}
        vector = unit(rng).astype(np.float32)
        state.put_exemplar(index, Exemplar(f"before/{index}", camera, vector, 4.0, at))
        state.sight(state.identities[index], camera, at, (0.5, 0.9))
    state.site.next_index, state.site.first = identities, START - 3600 * 10**9
    return state


def visits(cameras: int, records: int, rng: np.random.Generator, state: State) -> list[Record[Embeddings]]:
    out: list[Record[Embeddings]] = []
    shown: dict[int, list[NDArray[np.float64]]] = {}
    for n in range(records):
        camera, frame = n % cameras, n // cameras
        visit, age = divmod(frame + camera * VISIT // cameras, VISIT)
        if camera not in shown or age == 0:  # half of them have been here before
            known_to = [
                state.exemplars[int(i)][f"before/{int(i)}"].vector for i in rng.integers(len(state.exemplars), size=4)
            ]
            shown[camera] = [k + 0.5 * unit(rng) if rng.random() < 0.5 else unit(rng) for k in known_to]
        seen = []
        for slot, who in enumerate(shown[camera]):
            crop = who + 0.5 * unit(rng)
            vector = (crop / np.linalg.norm(crop)).astype("<f2").tobytes() if age < 5 or age % 10 == 0 else None
            box = (100.0 * slot, 50.0, 100.0 * slot + 60, 250.0)
            name = f"c{camera}/{START}/0/{4 * visit + slot}"
            seen.append(Person(xyxy=box, score=0.9, tracklet=name, quality=0.7, vector=vector))
        at = START + int((frame + camera / cameras) * 1e9 / FPS)
        message = Embeddings(
            site="bench", camera=f"c{camera}", stream=START, sequence=frame, captured_at=at, ingested_at=at, clock="file",
            width=640, height=360, status="ok", model="m", people=tuple(seen),
        )  # fmt: skip
        out.append(Record(message, camera, frame))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", type=int, default=10_000)
    parser.add_argument("--cameras", type=int, default=16)
    parser.add_argument("--records", type=int, default=4000)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    row = LinkRow(a=-4.57, b=25.45, same_pairs=1000)
    links = Links(mean=[0.0] * SIZE, same=row, other=row, fitted_on="random vectors")
    rules = Rules(Calibration(links), given.cameras, max_identities=max(10_000, given.identities))
    state = known(rules, given.identities, given.cameras, rng)
    records = visits(given.cameras, given.records, rng, state)
    names = [f"c{n}" for n in range(given.cameras)]
    matcher = Matcher("bench", names, state, key=b"k" * 32, model="m", live=False)
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder)) as server:
        gallery = RedisGallery(server.url, "bench", model="m", retention_ns=rules.retention_ns, live=False)
        gallery.acquire()
        policy_s, commit_s, links_made, worst_s = 0.0, 0.0, 0, 0.0
        for start in range(0, len(records), BATCH):
            began = time.process_time()
            steps = list(matcher.process(records[start : start + BATCH]))
            decided, stored = time.process_time(), -time.perf_counter()
            events = gallery.commit(steps)
            stored += time.perf_counter()
            if start:  # the first commit stores 10,000 people
                policy_s, commit_s = policy_s + decided - began, commit_s + stored
                worst_s = max(worst_s, decided - began)
            links_made += sum(event.kind == "link" for event in events)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*.aof"))
        print(f"{platform.processor() or platform.machine()}, {given.identities} identities, {given.cameras} cameras")
        print(
            f"policy   {1e3 * policy_s / len(records):.3f} ms per record (worst batch of {BATCH}: {1e3 * worst_s:.1f} ms)"
        )
        print(
            f"gallery  {1e3 * commit_s / len(records):.3f} ms per record, {1e3 * commit_s / (len(records) / BATCH):.2f} ms per commit"
        )
        print(f"{links_made} links, {size / 1e6:.1f} MB of commands")
        began = time.perf_counter()
        entities = gallery.acquire(takeover=True).entities
        print(f"restart  {time.perf_counter() - began:.2f} s to read {len(entities)} entities")
        gallery.close()


if __name__ == "__main__":
    main()
