"""How fast the tracker is on one core, and how often it mixes people up.

    python benchmarks/track.py [--people 20] [--fps 5] [--seconds 120] [--seeds 4]

Mixed: tracklets of which more than a tenth is somebody else. Pieces: tracklets per person and minute in sight.
"""

import argparse
import time
from collections import Counter, defaultdict

from detector.settings import DetectorSettings
from detector.tracker import Tracker
from tests.detector.crowd import SIZE_HW, walk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--fps", type=float, default=5)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    if options.people < 1:
        parser.error(f"--people {options.people}: expected 1 or more")
    busy, frames, boxes, named = 0.0, 0, 0, 0
    truths: defaultdict[tuple[int, int], Counter[int]] = defaultdict(Counter)
    for seed in range(options.seeds):
        tracker = Tracker(DetectorSettings())
        for seen in walk(seed, options.people, options.seconds, options.fps):
            begun = time.process_time()
            tracked = tracker.step(seen.now_s, seen.xyxy, seen.scores, seen.looks, SIZE_HW)
            busy += time.process_time() - begun
            frames += 1
            boxes += len(seen.xyxy)
            named += len(tracked.boxes)
            for number, box in zip(tracked.numbers.tolist(), tracked.boxes.tolist(), strict=True):
                truths[seed, number][int(seen.people[box])] += 1
    if not truths:
        parser.error("the tracker named nobody: give it more --seconds or --seeds")
    mixed = [who for who in truths.values() if max(who.values()) < 0.9 * who.total()]
    wrong = sum(who.total() - max(who.values()) for who in truths.values())
    print(f"{frames / busy:.0f} frames/s on one core at {boxes / frames:.1f} boxes per frame")
    print(
        f"{len(mixed)} of {len(truths)} tracklets mixed ({len(mixed) / len(truths):.1%}), {wrong / named:.2%} of boxes wrong"
    )
    print(
        f"{len(truths) / (boxes / options.fps / 60):.1f} pieces per person and minute, {named / boxes:.1%} of boxes named"
    )


if __name__ == "__main__":
    main()
