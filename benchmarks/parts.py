"""Where the processor's time goes: each part of ingest and perceive on one core, in milliseconds per second of one camera.

    taskset -c 0 python benchmarks/parts.py [--seed 7001] [--seconds 20] [--camera 0] [--backend auto|onnxruntime|openvino|tensorrt]

The bench scene's clips (1280x720 at 25 fps, sampled at 5), drawn first where they are not. Time of the thread, so other work on the machine
counts only by what it does to the caches. Kafka, Redis, the matcher and messages are not in it.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.backends import load
from deploy.bench import bench_scene
from deploy.bundle import load_bundle
from deploy.play import site
from deploy.settings import Runtime
from detector.detector import _crop
from detector.jpeg import decode
from detector.letterbox import letterbox
from detector.looks import looks_of
from detector.nms import select
from detector.quality import quality
from detector.settings import DetectorSettings
from detector.tracker import Tracker
from ingest import jpeg
from ingest.clock import WallClock
from ingest.decode import open_video
from ingest.sampling import Sampler
from ingest.scene import clips
from ingest.settings import CameraSettings
from reid.embedder import Embedder
from reid.settings import EmbedderSettings
from stream.messages import Detections, Frame

BATCH = 4  # pictures, one of each camera
SPENT: dict[str, float] = defaultdict(float)


@contextmanager
def timed(part: str) -> Iterator[None]:
    begun = time.thread_time()
    yield
    SPENT[part] += time.thread_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7001)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--camera", type=int, default=0)
    parser.add_argument("--backend", choices=["auto", "onnxruntime", "openvino", "tensorrt"], default="auto")
    options = parser.parse_args()
    cameras = site(bench_scene(options.seed), fast=True).camera
    if not 0 <= options.camera < len(cameras):
        parser.error(f"--camera {options.camera}: expected 0 to {len(cameras) - 1}")
    camera = cameras[options.camera]
    frames = list(ingested(camera, options.seconds * 1e9))
    seen = perceived(frames, options.backend)
    for part, spent in SPENT.items():
        print(f"| {part} | {1000 * spent / options.seconds:.1f} |")
    print(f"| sum | {1000 * sum(SPENT.values()) / options.seconds:.1f} |")
    print(f"{len(frames)} frames, {seen} people in them")


def ingested(camera: CameraSettings, until_ns: float) -> Iterator[Frame]:
    """As `ingest.film` and `ingest.frames` do it."""
    sampler = Sampler(0, camera.fps)
    for path, begin_ns in clips(camera):
        with open_video(camera, WallClock(), 10.0, path) as video:
            pictures = video.pictures(lambda: 10.0)
            while True:
                with timed("decode H.264"):
                    picture = next(pictures, None)
                if picture is None:
                    break
                assert picture.time_ns is not None, "clips have times"
                captured = begin_ns + picture.time_ns
                if captured >= until_ns:
                    return
                sequence = sampler.take(captured)
                if sequence is None:
                    continue
                with timed("convert"):
                    image = picture.pixels(camera.width)
                with timed("encode JPEG"):
                    data = jpeg.encode(image)
                yield Frame(
                    site="s", camera=camera.id, stream=0, sequence=sequence, captured_at=captured, ingested_at=0, clock="file",
                    width=image.shape[1], height=image.shape[0], image=data,
                )  # fmt: skip


def perceived(frames: list[Frame], backend: Runtime) -> int:
    """As `detector.detector` and `reid.embedder` do it; how many people were seen, frame by frame."""
    settings = DetectorSettings()
    eyes = load(load_bundle("person-detector", "detector"), backend=backend)
    bundle = load_bundle("osnet-x0.25", "embedder")
    embedder = Embedder(load(bundle, backend=backend), EmbedderSettings(), bundle.links)
    tracker, people = Tracker(settings), 0
    for start in range(0, len(frames), BATCH):
        batch = frames[start : start + BATCH]
        with timed("decode JPEG"):
            images = [image for image in map(decode, batch) if image is not None]
        with timed("letterbox"):
            pixels, scales = letterbox(images, eyes.card.input_hw)
        with timed("detector model"):
            raw = eyes.infer(pixels)
        found = []
        for place, (frame, image) in enumerate(zip(batch, images, strict=True)):
            size_hw = (image.shape[0], image.shape[1])
            with timed("non-maximum suppression"):
                xyxy, scores, _ = select(
                    raw["boxes"][place], raw["scores"][place], scale=scales[place], image_hw=size_hw,
                    min_score=settings.low_score, max_iou=settings.nms_iou,
                )  # fmt: skip
            with timed("looks"):
                crops = [_crop(image, box) for box in xyxy]
                looks = looks_of(crops)
            with timed("tracker"):
                tracked = tracker.step(frame.captured_at / 1e9, xyxy, scores, looks, size_hw)
            with timed("quality"):
                trust = quality(xyxy, crops, size_hw)[tracked.boxes]
            people += len(tracked.boxes)
            found.append(
                Detections(
                    frame=frame, status="ok", xyxy=xyxy[tracked.boxes], scores=scores[tracked.boxes],
                    tracklets=tuple(map(str, tracked.numbers.tolist())), quality=trust, ambiguous=tracked.ambiguous,
                    crops=tuple(crops[k] for k in tracked.boxes.tolist()),
                )
            )  # fmt: skip
        with timed("embedder: choice, crops, model"):
            list(embedder.process(found))
    return people


if __name__ == "__main__":
    main()
