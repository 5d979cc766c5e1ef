"""Small sites that run in seconds: clips of a red square on grey, and two hand-written models that know it for a person."""

from pathlib import Path

import msgspec
import numpy as np
from clips import write_clip
from onnx import TensorProto, helper, numpy_helper

from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bundle import write_bundle
from stream.model import ModelCard
from tests.deploy import tiny_models

HW = (120, 160)


def red_square_detector() -> bytes:
    """RGB uint8 (n, 120, 160, 3) -> the box around everything that is red, with a score of 0.9, else 0."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Split", ["pixels"], ["r", "g", "b"], axis=3, num_outputs=3),
        helper.make_node("Sub", ["r", "g"], ["redness"]),
        helper.make_node("Squeeze", ["redness", "last"], ["red_map"]),
        helper.make_node("Greater", ["red_map", "limit"], ["red"]),
        helper.make_node("Cast", ["red"], ["mask"], to=TensorProto.FLOAT),
    ]
    for name in ("x", "y"):
        nodes += [
            helper.make_node("ReduceMax", ["mask", f"{name}_over"], [f"{name}_any"], keepdims=0),
            helper.make_node("Greater", [f"{name}_any", "half"], [f"{name}_set"]),
            helper.make_node("Where", [f"{name}_set", f"{name}_places", "far"], [f"{name}_low"]),
            helper.make_node("Where", [f"{name}_set", f"{name}_ends", "none"], [f"{name}_high"]),
            helper.make_node("ReduceMin", [f"{name}_low", "first"], [f"{name}1"], keepdims=1),
            helper.make_node("ReduceMax", [f"{name}_high", "first"], [f"{name}2"], keepdims=1),
        ]
    nodes += [
        helper.make_node("Concat", ["x1", "y1", "x2", "y2"], ["flat"], axis=1),
        helper.make_node("Unsqueeze", ["flat", "first"], ["boxes"]),
        helper.make_node("ReduceMax", ["mask", "both"], ["found"], keepdims=0),
        helper.make_node("Mul", ["found", "sure"], ["sureness"]),
        helper.make_node("Unsqueeze", ["sureness", "first"], ["scores"]),
    ]
    height, width = HW
    constants: dict[str, np.ndarray] = {
        "last": np.array([3], np.int64),
        "first": np.array([1], np.int64),
        "both": np.array([1, 2], np.int64),
        "x_over": np.array([1], np.int64),
        "y_over": np.array([2], np.int64),
        "limit": np.array(60, np.float32),
        "half": np.array(0.5, np.float32),
        "far": np.array(1e3, np.float32),
        "none": np.array(0, np.float32),
        "sure": np.array(0.9, np.float32),
        "x_places": np.arange(width, dtype=np.float32),
        "x_ends": np.arange(1, width + 1, dtype=np.float32),
        "y_places": np.arange(height, dtype=np.float32),
        "y_ends": np.arange(1, height + 1, dtype=np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "red-square",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ("n", height, width, 3))],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ("n", 1, 4)),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ("n", 1)),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


def write_bundles(folder: Path, *, synthetic_only: bool = False, links: bool = True) -> None:
    """``red-square`` and ``mean-colour``, bundles like any other, into `folder`; `synthetic_only` is what the first one says,
    `links` what the second one has."""
    card = ModelCard(
        name="red-square",
        version="1",
        kind="detector",
        input_hw=HW,
        outputs={"boxes": (1, 4), "scores": (1,)},
        max_batch=16,
        synthetic_only=synthetic_only,
        licence="Apache-2.0",
        digest="",
    )
    inputs = tiny_models.pictures(2, HW)
    inputs[1, 30:60, 50:70] = (220, 30, 30)
    _write(folder / "red-square", red_square_detector(), card, inputs, links=False)
    card = msgspec.structs.replace(tiny_models.embedder_card(), synthetic_only=False)
    _write(folder / "mean-colour", tiny_models.embedder(), card, tiny_models.pictures(2), links=links)


def _write(folder: Path, model: bytes, card: ModelCard, inputs: np.ndarray, *, links: bool) -> None:
    backend = OnnxRuntimeBackend(model, card, 1)
    golden = {"inputs": inputs, **backend.infer(inputs)}
    backend.close()
    write_bundle(folder, model, card, golden, tiny_models.links() if links else None)


def write_site(folder: Path, extra: str = "", cameras: tuple[str, ...] = ("north", "south"), frames: int = 250) -> Path:
    """A site of files in `folder`, its bundles and clips beside it. `extra` is more TOML."""
    write_bundles(folder)
    text = '[site]\nname = "depot"\nkey = "0123456789abcdef"\n'
    for place, camera in enumerate(cameras):
        write_clip(folder / f"{camera}.mp4", frames=frames, first=35 * place)
        text += f'[[camera]]\nid = "{camera}"\nurl = "{camera}.mp4"\n'
    text += '[detector]\nbundle = "./red-square"\n[reid]\nbundle = "./mean-colour"\n'
    path = folder / "site.toml"
    path.write_text(text + extra)
    return path
