"""What a precision costs and wins: accuracy on drawn test people, distance from fp32, file size and speed, all in one run.

    python benchmarks/precision.py osnet-x0.25 person-detector
    python benchmarks/precision.py runs/eprinet/checkpoint.pt --people 50 --json precision.json
    python benchmarks/precision.py my/search

A model is a bundle (name or folder, fp32) or a checkpoint.pt, of a person search a bundle. Each is converted as `sightline export
--precision` does, calibrated on drawn pictures of the training's side, and scored in ONNX Runtime on test people that no training saw: the
first of those that `sightline evaluate` draws, of a person search the frames that go with a training on `--people`. Pictures per second are
those of one processor core, by processor time in batches of 8 (a person search takes one scene), the best of some rounds that all
runtimes and precisions take in turn, so that other work on the machine counts little.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console

from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bundle import Bundle, load_bundle
from deploy.converting import U8, calibration_pictures, convert_bundle
from deploy.precision import convert
from deploy.searcher import Searcher
from stream.errors import BundleError, SightlineError
from stream.model import Backend, Kind, ModelCard, Precision
from trainer import drawn, evaluate
from trainer.datasets import load_search
from trainer.searching import galleries, score_searcher

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
BATCH = 8


@dataclass
class Row:
    """One model in one precision."""

    model: str
    precision: Precision
    int8_layers: str
    scores: dict[str, float]
    cosine_mean: float
    """To fp32, over all test pictures, of a person search over its queries; of a detector's scores, NaN."""
    cosine_least: float
    megabytes: float
    pictures_per_s: dict[str, float] = field(default_factory=dict)


def opened(name: str) -> tuple[bytes, ModelCard]:
    """The float32 graph and card of a bundle, or of a checkpoint's network."""
    if not name.endswith(".pt"):
        bundle = load_bundle(name)
        if bundle.card.precision != "fp32":
            raise SystemExit(f"precision: {name} is {bundle.card.precision}: name one of fp32")
        return bundle.model.read_bytes(), bundle.card
    from deploy.export import MAX_BATCH, to_onnx
    from trainer import checkpoint
    from trainer.serving import ServedDetector, TorchBackend, served

    saved = checkpoint.load(Path(name))
    module, size_hw = served(saved)
    kind: Kind = "detector" if isinstance(module, ServedDetector) else "embedder"
    model = to_onnx(module, size_hw)  # before torch takes the network to a GPU
    out = TorchBackend(module).infer(np.zeros((1, *size_hw, 3), np.uint8))
    card = ModelCard(
        name=str(saved.recipe["method"]), version="1", kind=kind, input_hw=size_hw, max_batch=MAX_BATCH[kind], digest="0" * 64,
        outputs={one: values.shape[1:] for one, values in out.items()}, synthetic_only=True, licence="Apache-2.0",
        embedding_size=out["embedding"].shape[1] if "embedding" in out else None,
    )  # fmt: skip
    return model, card


def runtimes(model: bytes, card: ModelCard, openvino: bool) -> dict[str, Backend]:
    """Every runtime and arithmetic there is on this CPU."""
    found: dict[str, Backend] = {"onnxruntime": OnnxRuntimeBackend(model, card, threads=1)}
    if not openvino:
        return found
    try:
        from deploy.backends.openvino import OpenVinoBackend, precisions
    except ImportError:
        return found
    for arithmetic in precisions():
        found[f"openvino {arithmetic}"] = OpenVinoBackend(model, card, 1, arithmetic)
    return found


def layers(model: bytes) -> str:
    """How many learned layers take int8, of how many."""
    import onnx

    nodes = onnx.load_model_from_string(model).graph.node
    learned = [node for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
    return f"{sum(node.input[1].endswith('/dequantized') for node in learned)} of {len(learned)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--scenes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-openvino", action="store_true", help="saves gigabytes with large models")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows: list[Row] = []
    try:
        for name in given.models:
            rows += measured(name, given.people, given.scenes, given.rounds, not given.no_openvino)
    except SightlineError as error:
        raise SystemExit(f"precision: {error}") from error
    print(table(rows))
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


def measured(name: str, people: int, scenes: int, rounds: int, openvino: bool) -> list[Row]:
    model, card = opened(name)
    if card.kind == "person-search":
        return searched(load_bundle(name), people, rounds, openvino)
    calibration = calibration_pictures(card.kind, card.input_hw, None)
    graphs = {precision: convert(model, precision, calibration, card=card) for precision in PRECISIONS}
    sessions: dict[Precision, dict[str, Backend]] = {}
    rows, vectors = [], {}
    for precision, graph in graphs.items():
        sessions[precision] = runtimes(graph, msgspec.structs.replace(card, precision=precision), openvino)
        runtime = sessions[precision]["onnxruntime"]
        if card.kind == "detector":
            pictures = drawn.test_scenes(1, evaluate.silent)["scenes"].take(np.arange(scenes))
            boxes = evaluate.score_detector(runtime, pictures, card.input_hw)
            scores, vectors[precision] = {"AP50": boxes.average_precision}, np.full((1, 1), np.nan)
        else:
            crops = drawn.test_crops(1, evaluate.silent)["people"]
            query, gallery = evaluate.split(
                crops.take(np.flatnonzero(crops.people <= np.unique(crops.people)[people - 1]))
            )
            found = evaluate.score_embedder(runtime, query, gallery, card.input_hw)
            scores = {"mAP": found.ranking.mean_ap, "rank1": found.ranking.at(1)}
            vectors[precision] = np.concatenate([found.query_vectors, found.gallery_vectors])
        cosines = (vectors[precision] * vectors["fp32"]).sum(1)
        rows.append(
            Row(
                card.name,
                precision,
                layers(graph),
                scores,
                float(cosines.mean()),
                float(cosines.min()),
                len(graph) / 1e6,
            )
        )
        print(f"{card.name} {precision}: {scores}, load average {os.getloadavg()[0]:.1f}", flush=True)
    clock(rows, sessions, calibration[:BATCH], rounds)
    return rows


def searched(bundle: Bundle, people: int, rounds: int, openvino: bool) -> list[Row]:
    """Of a person search, both of whose graphs are converted; what it finds is scored as `sightline evaluate` does."""
    scenes = load_search("synthetic", people=people, train=False)
    sessions: dict[Precision, dict[str, Backend]] = {}
    rows: list[Row] = []
    expected = np.zeros((0, 0), np.float32)
    for precision in PRECISIONS:
        with tempfile.TemporaryDirectory() as folder:
            made = bundle
            if precision != "fp32":
                try:
                    convert_bundle(
                        str(bundle.path), Path(folder, "made"), precision, None, "", "", Console(stderr=True)
                    )
                except BundleError as error:
                    print(f"{bundle.card.name} {precision} has no row: {error}", flush=True)
                    continue
                made = load_bundle(Path(folder, "made"))
            model = made.model.read_bytes()
            searcher = Searcher(made)
            found = score_searcher(searcher, scenes)
            searcher.close()
        sessions[precision] = runtimes(model, made.card, openvino)
        first = found.search[galleries(scenes)[0]][""]
        boxes = found.found[""]
        expected = found.vectors if precision == "fp32" else expected
        cosines = (found.vectors * expected).sum(1)
        scores = {"AP": boxes.average_precision, "recall": boxes.recall, "mAP": first.mean_ap, "top1": first.top[1]}
        rows.append(
            Row(
                bundle.card.name,
                precision,
                layers(model),
                scores,
                float(cosines.mean()),
                float(cosines.min()),
                len(model) / 1e6,
            )
        )
        print(f"{bundle.card.name} {precision}: {scores}, load average {os.getloadavg()[0]:.1f}", flush=True)
    clock(rows, sessions, bundle.answers()[0][:1], rounds)
    return rows


def clock(rows: list[Row], sessions: dict[Precision, dict[str, Backend]], batch: U8, rounds: int) -> None:
    """Fill in the pictures per second."""
    best: dict[tuple[int, str], float] = {}
    for _ in range(rounds + 1):  # the first warms up
        for place, row in enumerate(rows):
            for which, runtime in sessions[row.precision].items():
                began = time.process_time()
                runtime.infer(batch)
                took = time.process_time() - began
                best[place, which] = min(best.get((place, which), np.inf), took)
    for (place, which), took in best.items():
        rows[place].pictures_per_s[which] = len(batch) / took


def table(rows: list[Row]) -> str:
    which = list(dict.fromkeys(one for row in rows for one in row.pictures_per_s))
    head = ["model", "precision", "layers in int8", "accuracy", "cosine to fp32, mean / least", "MB", *which]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for row in rows:
        accuracy = ", ".join(f"{key} {value:.4f}" for key, value in row.scores.items())
        cosine = "-" if np.isnan(row.cosine_mean) else f"{row.cosine_mean:.5f} / {row.cosine_least:.5f}"
        speeds = [f"{row.pictures_per_s[one]:.0f}" if one in row.pictures_per_s else "-" for one in which]
        lines.append(
            " | ".join([row.model, row.precision, row.int8_layers, accuracy, cosine, f"{row.megabytes:.2f}", *speeds])
        )
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    main()
