"""Crops of 256x128 and detector scenes of 416x256 drawn per second on one core.

Run: .venv/bin/python benchmarks/crops.py
"""

import time

import numpy as np

from ingest.synthetic.crops import draw_crops
from ingest.synthetic.detector_scenes import draw_scene


def main() -> None:
    draw_crops(0, range(1), per_person=1)  # compile
    start = time.process_time()
    crops = draw_crops(1, range(50), per_person=16)
    print(f"crops 256x128: {len(crops.images) / (time.process_time() - start):.0f} per second and core")
    rng = np.random.default_rng(1)
    for _ in range(200):
        draw_scene(rng)  # the pool of people is drawn once
    start = time.process_time()
    for _ in range(100):
        draw_scene(rng)
    print(f"scenes 416x256: {(time.process_time() - start) * 10:.1f} ms each on one core")


if __name__ == "__main__":
    main()
