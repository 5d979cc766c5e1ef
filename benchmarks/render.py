"""How fast the synthetic site is drawn and encoded: frames per second of one core's CPU time.

    python benchmarks/render.py            drawing with encoding, at two sizes
    python benchmarks/render.py --demo     also the default demo's 2,400 frames by one worker process, from an empty cache

The goals: 40 frames/s/core at 640x360 and 12 at 1280x720 with 6 people in view; first pictures of four cameras after 15 s.
"""

import argparse
import os
import tempfile
import time

import cv2
import numpy as np

from ingest.synthetic.clip import plan, render_ahead, segments
from ingest.synthetic.scene import SceneSettings
from ingest.synthetic.truth import truth


def drawn(width: int, height: int, fps: float) -> tuple[float, float, float]:
    """Frames per second of CPU time, people per frame, and CPU seconds until a camera can begin."""
    settings = SceneSettings(
        seed=11, people=14, cameras=2, seconds=12.0, width=width, height=height, fps=fps, crowd=4.0
    )
    frames, people, spent, begin = 0, 0, 0.0, 0.0
    for camera in range(settings.cameras):
        clip = segments(settings, camera)
        started = time.process_time()
        next(clip)  # draws the standing scene too
        begin = time.process_time() - started
        started = time.process_time()
        frames += sum(segment.frames for segment in clip)
        spent += time.process_time() - started
    known = truth(settings)
    people = sum(int((camera.visible > 0.05).sum()) for camera in known.cameras)
    return frames / spent, people / (settings.cameras * settings.frames()), begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", action="store_true")
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SIGHTLINE_CACHE"] = cache
        for _ in segments(SceneSettings(people=2, cameras=1, seconds=0.5, width=320, height=180), 0):
            pass  # compiles, or loads what was compiled
        print("| size | people per frame | frames/s/core | CPU s until the first segment |")
        print("|---|---|---|---|")
        for width, height, fps in ((640, 360, 10.0), (1280, 720, 25.0)):
            speed, people, begin = drawn(width, height, fps)
            print(f"| {width}x{height} | {people:.1f} | {speed:.0f} | {begin:.1f} |")
        if asked.demo:
            settings = SceneSettings(seed=1)
            started = time.monotonic()
            with render_ahead(settings, workers=1) as renderer:
                renderer.wait(until_s=0.0)
                first = time.monotonic() - started
                renderer.wait()
            whole = time.monotonic() - started
            size = sum(s.path.stat().st_size for camera in range(4) for s in plan(settings, camera))
            print(f"\ndemo, one worker: first segments of all cameras after {first:.1f} s, all {4 * settings.frames()} frames "
                  f"after {whole:.1f} s, {size / 1e6:.0f} MB; load of the machine {np.round(os.getloadavg()[0], 1)}")  # fmt: skip


if __name__ == "__main__":
    main()
