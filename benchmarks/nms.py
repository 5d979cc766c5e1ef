"""Where non-maximum suppression costs least: inside the graph or after it, in ONNX Runtime and in OpenVINO.

    python benchmarks/nms.py                                 the shipped detector, 8 drawn scenes
    python benchmarks/nms.py runs/search/checkpoint.pt       and a person search: its last suppression inside and after

A way's time is the median over all rounds of one thread's processor time for one scene, all ways in turn in one run; each way ends with the
same boxes in numpy, which is checked. A person search has a second suppression between its two halves (among up to 6,000
proposals, whose survivors the rest of the network looks at), which cannot come after the graph. It is not timed by itself.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import openvino
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torchvision import ops

from deploy.backends.onnxruntime import open_session
from deploy.bundle import load_bundle
from deploy.export import to_graph
from deploy.export_search import SearchDetect, served_hw
from detector.boxes import Boxes
from detector.letterbox import letterbox
from detector.nms import MAX_CANDIDATES, select, suppress
from detector.settings import DetectorSettings
from stream.errors import SightlineError
from trainer import checkpoint, drawn
from trainer.methods.person_search import MAX_IOU, PersonSearch
from trainer.serving import network_of

U8 = NDArray[np.uint8]
Run = Callable[[U8], list[NDArray[np.float32]]]
SCENES, ROUNDS = 8, 15


def runtimes(model: bytes) -> dict[str, Run]:
    """A graph in both runtimes, one thread each; a picture in, outputs in the graph's order."""
    session = open_session(model, "the graph", threads=1)
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    graph = openvino.Core().read_model(model)
    graph.reshape({0: [1, *(axis.get_length() for axis in graph.input().partial_shape[1:])]})  # as the backend fixes it
    request = openvino.Core().compile_model(graph, "CPU", options).create_infer_request()
    taken = session.get_inputs()[0].name

    def by_openvino(image: U8) -> list[NDArray[np.float32]]:
        return [np.array(values) for values in request.infer(image).values()]

    return {"ONNX Runtime": lambda image: session.run(None, {taken: image}), "OpenVINO": by_openvino}


def suppressing(model: bytes, min_score: float, max_iou: float) -> bytes:
    """A detector's graph with ONNX's own NonMaxSuppression behind it: boxes, scores and (n, 3) places of those that stay."""
    graph = onnx.load_model_from_string(model)
    limits = {"most": np.int64(MAX_CANDIDATES), "overlap": np.float32(max_iou), "least": np.float32(min_score)}
    graph.graph.initializer.extend(numpy_helper.from_array(np.array([value]), name) for name, value in limits.items())
    graph.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
    graph.graph.node.append(helper.make_node("Unsqueeze", ["scores", "axis"], ["per_class"]))
    graph.graph.node.append(helper.make_node("NonMaxSuppression", ["boxes", "per_class", *limits], ["kept"]))
    graph.graph.output.append(helper.make_tensor_value_info("kept", TensorProto.INT64, [None, 3]))
    onnx.checker.check_model(graph, full_check=True)
    return bytes(graph.SerializeToString())


class WithoutLast(SearchDetect):
    """`search_detect` that gives all its boxes, of which some show the same person."""

    def _suppressed(self, boxes: Tensor, scores: Tensor, counts: Tensor, max_iou: float) -> tuple[Tensor, Tensor]:
        if max_iou != MAX_IOU:
            return super()._suppressed(boxes, scores, counts, max_iou)
        return torch.arange(len(boxes)), counts


def of_detector(scenes: Sequence[U8]) -> dict[str, Callable[[int], Boxes]]:
    """Ways to the boxes of scene i of the shipped detector."""
    bundle, settings = load_bundle("person-detector"), DetectorSettings()
    low, overlap = settings.low_score, settings.nms_iou
    pictures = [letterbox([scene], bundle.card.input_hw)[0] for scene in scenes]
    plain = bundle.model.read_bytes()
    ways: dict[str, Callable[[int], Boxes]] = {}
    for name, run in runtimes(plain).items():

        def after(place: int, run: Run = run) -> Boxes:
            boxes, scores = (values[0] for values in run(pictures[place]))
            return select(boxes, scores, scale=1, image_hw=bundle.card.input_hw, min_score=low, max_iou=overlap)[0]

        ways[f"detector, {name}, after the graph"] = after
    for name, run in runtimes(suppressing(plain, low, overlap)).items():

        def inside(place: int, run: Run = run) -> Boxes:
            boxes, _, kept = run(pictures[place])
            places = kept[:, 2].astype(int)
            return clipped(boxes[0][places[places >= 0]], bundle.card.input_hw)

        ways[f"detector, {name}, inside"] = inside
    return ways


def of_search(saved: Path, scenes: Sequence[U8]) -> dict[str, Callable[[int], Boxes]]:
    """Ways to the boxes of scene i of a person search, of any score."""
    network, recipe = network_of(checkpoint.load(saved))
    if not isinstance(network, PersonSearch):
        raise SystemExit(f"nms: {saved} is of {recipe.method}, expected a person search")
    size_hw = served_hw(network.recipe)
    pictures = [letterbox([scene], size_hw)[0] for scene in scenes]
    example = {"images": torch.zeros(1, *size_hw, 3, dtype=torch.uint8)}
    ways: dict[str, Callable[[int], Boxes]] = {}
    for name, run in runtimes(to_graph(SearchDetect(network, size_hw).eval(), example, None)).items():

        def inside(place: int, run: Run = run) -> Boxes:
            boxes, scores, _ = (values[0] for values in run(pictures[place]))
            return np.asarray(boxes[scores > 0], np.float32)

        ways[f"person search, {name}, inside"] = inside
    for name, run in runtimes(to_graph(WithoutLast(network, size_hw).eval(), example, None)).items():

        def after(place: int, run: Run = run) -> Boxes:
            boxes, scores, vectors = (values[0] for values in run(pictures[place]))
            order = np.argsort(-scores, kind="stable")
            order = order[scores[order] > 0]
            kept = order[suppress(boxes[order], MAX_IOU)]
            _ = np.ascontiguousarray(vectors[kept])
            return np.asarray(boxes[kept], np.float32)

        ways[f"person search, {name}, after the graph"] = after
    return ways


def clipped(xyxy: Boxes, size_hw: tuple[int, int]) -> Boxes:
    """As `select` leaves them: inside the picture, two pixels at least."""
    xyxy = np.clip(xyxy, 0, np.array([size_hw[1], size_hw[0]] * 2, np.float32))
    return xyxy[(xyxy[:, 2] - xyxy[:, 0] >= 2) & (xyxy[:, 3] - xyxy[:, 1] >= 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("search", nargs="?", type=Path, help="checkpoint.pt of a person search")
    given = parser.parse_args()
    torch.set_num_threads(1)
    scenes = drawn.golden_pictures("scenes", SCENES)
    try:
        ways = of_detector(scenes) | (of_search(given.search, scenes) if given.search else {})
    except SightlineError as error:
        raise SystemExit(f"nms: {error}") from error
    found = {name: [way(place) for place in range(SCENES)] for name, way in ways.items()}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for place in range(SCENES):
            for name, way in ways.items():
                began = time.process_time()
                way(place)
                spent[name].append(1000 * (time.process_time() - began))
    made = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "openvino", "torch"))
    print(f"{platform.processor() or platform.machine()}, {made}, load average {os.getloadavg()[0]:.1f}")
    for name, boxes in found.items():
        like = found[next(each for each in found if each.split(",")[0] == name.split(",")[0])]
        same = np.mean([alike(have, want) for have, want in zip(boxes, like, strict=True)])
        people = np.mean([len(each) for each in boxes])
        print(
            f"{name:44} {np.median(spent[name]):8.2f} ms, {people:5.1f} boxes a scene, {same:4.0%} as in the first way"
        )


def alike(have: Boxes, want: Boxes) -> float:
    """Share of boxes of the one that the other has within half a pixel."""
    if not len(have) or not len(want):
        return float(len(have) == len(want))
    overlap = ops.box_iou(torch.from_numpy(have), torch.from_numpy(want)).argmax(1).numpy()
    return float((np.abs(have - want[overlap]).max(1) <= 0.5).mean())


if __name__ == "__main__":
    main()
