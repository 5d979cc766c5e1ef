"""Everything of the TensorRT path that needs a GPU: engines of the shipped bundles and of every method are built, proven, and timed.

    make gpu-check

Methods have random weights: whether TensorRT takes and computes their graphs does not depend on them. Ends with status 0 and a table for
benchmarks/results.md where all is well, with status 1 and a line for each model and precision that is not; the others are measured.
A precision that a model does not bear, which is found before TensorRT is asked, is said and no fault.
"""

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np

from deploy import backends, precision
from deploy.backends import cuda, tensorrt_api
from deploy.backends.pixels import fit_of, scaled
from deploy.backends.trt import TensorRTBackend, plan_of
from deploy.bench_networks import NETWORKS, random_bundle
from deploy.bundle import SHIPPED, Bundle, load_bundle, write_bundle
from deploy.engine import Profile
from stream.errors import BundleError, SightlineError
from stream.model import Backend, Precision
from trainer import drawn
from trainer.settings import Recipe

SECONDS = 2.0
FRAME_HW = (720, 1280)
PEOPLE_HW = ((60, 25), (400, 170))  # smallest and largest person in a 720p picture


class NotConverted(SightlineError):
    """A model does not bear a precision, which says nothing about TensorRT."""


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--json", type=Path, metavar="PATH", help="also write the table as data")
    given = options.parse_args()
    try:
        gpu = cuda.device()
        version = tensorrt_api.version()
    except SightlineError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 1
    print(f"{gpu.name} (compute capability {gpu.capability}), driver {gpu.driver}, TensorRT {version}\n")
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, make in subjects(Path(folder)):
                try:
                    rows += measured(make())
                except NotConverted as error:
                    print(f"gpu-check: {name} is not tried: {error}", file=sys.stderr)
                except Exception as error:  # of whatever kind: much of this runs for the first time, and the others are worth knowing too
                    failed.append(f"{name}: {told(error)}")
                    print(f"gpu-check: {failed[-1]}", file=sys.stderr)
    finally:
        show(rows)
        if given.json:
            given.json.parent.mkdir(parents=True, exist_ok=True)
            report = {"gpu": gpu.name, "driver": gpu.driver, "tensorrt": version, "rows": rows, "failed": failed}
            given.json.write_text(json.dumps(report, indent=2))
    return 1 if failed else 0


def told(error: Exception) -> str:
    """An error in one line: one of ours as it is, any other with its kind and place."""
    said = " ".join(str(error).split())
    if isinstance(error, SightlineError):
        return said
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {said} ({place.filename}:{place.lineno})"


def subjects(folder: Path) -> Iterator[tuple[str, Callable[[], Bundle]]]:
    """Names, and what makes their bundles: the shipped ones in every precision, then a network of each method in fp32."""
    for card in sorted(SHIPPED.glob("*/card.json")):
        shipped = card.parent
        yield f"{shipped.name} as shipped", partial(load_bundle, shipped)
        for kind in get_args(Precision)[1:]:
            yield f"{shipped.name} {kind}", partial(converted, shipped, kind, folder / f"{shipped.name}-{kind}")
    for name, recipe in NETWORKS.items():
        yield f"{name} with random weights", partial(made, name, recipe, folder / name)


def made(name: str, recipe: Recipe, folder: Path) -> Bundle:
    return random_bundle(name, recipe, folder)[0]


def converted(shipped: Path, kind: Precision, folder: Path) -> Bundle:
    """A shipped bundle with its graph in another precision. Raises `NotConverted` where it does not bear it."""
    bundle = load_bundle(shipped)
    shown = "crops" if bundle.card.kind == "embedder" else "scenes"
    calibration = drawn.training_pictures(shown, precision.LEAST_PICTURES)
    images = scaled(calibration, bundle.card.input_hw, fit_of(bundle.card.kind))
    try:
        graph = precision.convert(bundle.model.read_bytes(), kind, images)
    except BundleError as error:
        raise NotConverted(str(error)) from error
    card = msgspec.structs.replace(bundle.card, precision=kind)
    return write_bundle(folder, graph, card, bundle.golden(), bundle.links)


def measured(bundle: Bundle) -> list[dict[str, Any]]:
    """Build, prove, time; a row per batch size."""
    card, began = bundle.card, time.perf_counter()
    most = card.max_batch
    # raises unless it gives the golden outputs
    plan, sidecar = plan_of(bundle, profile=Profile(1, most, most), say=print, rebuild=True)
    built_s = time.perf_counter() - began
    images = np.random.default_rng(0).integers(0, 256, (4 * most, *card.input_hw, 3), dtype=np.uint8)
    rows = []
    with closing(TensorRTBackend(bundle, plan)) as backend, closing(backends.load(bundle)) as on_cpu:
        for n in sorted({1, most, 4 * most}):
            few = min(n, most, 4)  # what a processor's thread takes is in proportion
            ms, cpu_ms = timed(backend, images[:n]), timed(on_cpu, images[:few]) * n / few
            rows.append(
                {
                    "bundle": card.name,
                    "precision": card.precision,
                    "batch": n,
                    "ms": round(ms, 3),
                    "images_per_s": round(1000 * n / ms),
                    "onnxruntime_cpu_ms": round(cpu_ms, 2),
                    "build_s": sidecar.build_s,
                }
            )
        pictures = scaled_alike(backend) if bundle.links or card.kind == "detector" else "not tried on random weights"
        print(f"{card.name} {card.precision}: built and proven in {built_s:.0f} s; pictures: {pictures}")
    check_side_by_side(bundle, plan, images[:3])
    return rows


def scaled_alike(backend: TensorRTBackend) -> str:
    """The kernel's pictures give what the CPU's give, and how long each takes."""
    card, rng = backend.card, np.random.default_rng(1)
    fit = fit_of(card.kind)
    people = rng.integers(PEOPLE_HW[0], np.array(PEOPLE_HW[1]) + 1, (16, 2))
    sizes_hw = [FRAME_HW] * 4 if fit == "letterbox" else people.tolist()
    pictures = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes_hw]

    def by_cpu() -> dict[str, np.ndarray]:
        return backend.infer(scaled(pictures, card.input_hw, fit))

    have, want = backend.infer_pictures(pictures, fit), by_cpu()
    if "embedding" in want:
        cosine = float((have["embedding"] * want["embedding"]).sum(1).min())
        if cosine < 0.999:
            raise SightlineError(
                f"{card.name}: pictures scaled on the GPU give vectors at cosine {cosine:.5f} to the CPU's"
            )
    elif float(np.abs(have["scores"] - want["scores"]).max()) > 0.02:
        raise SightlineError(f"{card.name}: pictures scaled on the GPU give other scores than those scaled on the CPU")
    on_gpu, on_cpu = median_ms(lambda: backend.infer_pictures(pictures, fit)), median_ms(by_cpu)
    return f"{len(pictures)} scaled on the GPU {on_gpu:.2f} ms, on the CPU {on_cpu:.2f} ms, inference included"


def check_side_by_side(bundle: Bundle, plan: bytes, images: np.ndarray) -> None:
    """Two engines in a process give the same to the bit, and closing one leaves the other as it was."""
    with closing(TensorRTBackend(bundle, plan)) as one, closing(TensorRTBackend(bundle, plan)) as two:
        first, second = one.infer(images), two.infer(images)
        one.close()
        third = two.infer(images)
    for name, values in first.items():
        if not (np.array_equal(values, second[name]) and np.array_equal(values, third[name])):
            raise SightlineError(f"{bundle.card.name}: two engines of one plan do not give the same {name}")


def timed(backend: Backend, images: np.ndarray) -> float:
    """Milliseconds of one `infer`, copies in and out included."""
    return median_ms(lambda: backend.infer(images))


def median_ms(work: Callable[[], object]) -> float:
    for _ in range(3):
        work()
    took: list[float] = []
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until or len(took) < 5:
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return 1000 * float(np.median(took))


def show(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    print(
        "\n| bundle | precision | batch | ms | images/s | ONNX Runtime, CPU, 1 thread, ms | build, s |\n|---|---|---|---|---|---|---|"
    )
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


if __name__ == "__main__":
    sys.exit(main())
