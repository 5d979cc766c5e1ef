"""`sightline export BUNDLE --precision int8` of a person search that finds people, trained for seconds."""

import copy

import cv2
import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from deploy import engine_check, gate, search_people
from deploy.bundle import load_bundle, write_bundle
from deploy.cli import status_of
from deploy.engine_graph import taken_form
from deploy.export_search import to_graphs
from deploy.precision import convert_search
from deploy.precision_search import answers
from deploy.searcher import Searcher
from stream.errors import BundleError
from tests.deploy import tiny_search

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = 16
"""Scenes: one person in whom two regions are as good as equal is fewer than one in twenty."""
LIMITS = gate.LIMITS["int8"]
KEPT = ("stem.0.0", "proposals.head.score", "proposals.head.box", "score", "box", "identity", "attention.last")


@pytest.fixture(scope="module")
def network():
    torch.set_num_threads(1)
    return tiny_search.trained()


@pytest.fixture(scope="module")
def bundle(network, tmp_path_factory):
    return tiny_search.write(tmp_path_factory.mktemp("search") / "fp32", network, tiny_search.pictures(GOLDEN, seed=77))


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    """A folder of scenes that are not the golden ones."""
    folder = tmp_path_factory.mktemp("scenes")
    for place, scene in enumerate(tiny_search.pictures(64, seed=5)):
        cv2.imwrite(str(folder / f"{place:02}.png"), scene[..., ::-1])
    return folder


@pytest.fixture(scope="module")
def converted(bundle, calibration, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    assert status_of(_command(bundle.path, calibration, folder)) == 0
    return load_bundle(folder)


def _command(source, calibration, output):
    return ["export", str(source), "--precision", "int8", "--calibration", str(calibration), "--output", str(output)]


def _quantised(graph):
    """Names of the weights that are int8, and of those of learned layers that are not."""
    named = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    taken = {node.input[1] for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    return {named[name].removesuffix("/int8") for name in taken if name in named}, taken - named.keys()


def test_both_graphs_are_int8_in_the_same_layers_and_share_the_weights(bundle, converted):
    assert converted.card.precision == "int8"
    assert converted.card.name == "tiny-int8"
    assert converted.links == bundle.links
    detect, query = (onnx.load(each).graph for each in (converted.model, converted.query))
    (found, kept), (described, others) = _quantised(detect), _quantised(query)
    assert {"network.head.0.0.weight", "network.head.1.0.weight", "network.stem.3.0.weight"} <= described
    assert described == {name for name in found if ".proposals." not in name}
    assert {f"network.{name}.weight" for name in KEPT} == kept
    assert others <= kept
    ranges = []
    for graph in (detect, query):
        constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        weights = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
        steps = {
            node.output[0]: constants[node.input[1]].item()
            for node in graph.node
            if node.op_type == "DequantizeLinear" and constants[node.input[1]].ndim == 0
        }
        ranges.append(
            {
                weights[node.input[1]]: steps[node.input[0]]
                for node in graph.node
                if node.op_type == "Conv" and node.input[1] in weights
            }
        )
    assert ranges[1].items() <= ranges[0].items()
    assert converted.model.stat().st_size < 0.5 * bundle.model.stat().st_size
    stored = onnx.load(converted.query, load_external_data=False).graph.initializer
    assert not any(len(each.raw_data) >= 1024 for each in stored)  # but for scales, weights lie in the other file
    for each in (converted.model, converted.query):
        assert engine_check.check(taken_form(onnx.load(each))).unsupported == ()


def test_in_scenes_it_never_saw_it_finds_and_describes_whom_the_float32_model_finds(bundle, converted):
    unseen = tiny_search.scenes(GOLDEN, seed=123)
    both = [
        answers(onnx.load(each.model).SerializeToString(), np.stack(list(unseen.images)))
        for each in (converted, bundle)
    ]
    assert (both[1]["scores"] >= 0.5).sum() >= GOLDEN  # else a gate for people would be no gate
    assert search_people.differ(*both, score=LIMITS.score, box_px=LIMITS.box_px, cosine=LIMITS.cosine) is None
    assert not np.array_equal(both[0]["scores"], both[1]["scores"])
    searchers = [Searcher(each) for each in (converted, bundle)]
    boxes = list(unseen.xyxy)
    (have, want) = (np.concatenate(each.embed(list(unseen.images), boxes)) for each in searchers)
    assert LIMITS.cosine <= (have * want).sum(1).min() < 0.999999
    for each in searchers:
        each.close()


@torch.no_grad()
def test_a_layer_that_int8_would_ruin_is_found_and_kept_in_both_graphs(network, bundle):
    """One channel is a thousand times larger than the others and weighs a thousandth: int8 takes the others for zero."""
    uneven = copy.deepcopy(network)
    norm, layer = uneven.head[0][1], uneven.head[1][0]
    channel = int(norm.running_var.argmax())
    norm.weight[channel] *= 1e3
    norm.bias[channel] *= 1e3
    layer.weight[:, channel] *= 1e-3
    trials = []
    graphs = convert_search(
        *to_graphs(uneven, tiny_search.SIZE_HW), bundle.card, "int8", tiny_search.pictures(64, seed=5),
        lambda *told: trials.append(told),
    )  # fmt: skip
    for graph in graphs:
        found, kept = _quantised(onnx.load_from_string(graph).graph)
        assert "network.head.1.0.weight" in kept
        assert "network.stem.2.0.weight" in found
    assert trials[:64] == [(1 + done, 64, "calibration pictures seen") for done in range(64)]
    tried = [done for done, _, _ in trials[64:]]
    assert tried == sorted(tried)
    assert tried[-1] == trials[-1][1]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("boxes", "people differ, by up to", id="found elsewhere"),
        pytest.param("embedding", "people differ", id="found and described otherwise"),
        pytest.param("query_embedding", "vectors of given boxes have cosine 0.98", id="described otherwise"),
    ],
)
def test_graphs_that_int8_changed_too_much_are_no_bundle(name, said, bundle, calibration, tmp_path, capsys):
    arrays = dict(bundle.golden())
    arrays[name] = arrays[name] + 8 if name == "boxes" else _turned(arrays[name], 0.18)
    model, query = bundle.model.read_bytes(), bundle.query.read_bytes()
    other = write_bundle(tmp_path / "other", model, bundle.card, arrays, bundle.links, query)
    assert status_of(_command(tmp_path / "other", calibration, tmp_path / "no")) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert said in told
    assert "in int8: nothing was written, take fp16 or keep fp32" in told
    assert not (tmp_path / "no").exists()
    assert other.path.exists()


def _turned(vectors, by):
    """Unit vectors at a cosine of about 1 - by² / 2; zeros stay."""
    vectors = vectors.astype(np.float32)
    aside = np.roll(vectors, 1, -1) - (np.roll(vectors, 1, -1) * vectors).sum(-1, keepdims=True) * vectors
    turned = vectors + by * aside / np.maximum(np.linalg.norm(aside, axis=-1, keepdims=True), 1e-12)
    return turned / np.maximum(np.linalg.norm(turned, axis=-1, keepdims=True), 1e-12)


@pytest.mark.parametrize(("precision", "loads"), [("fp32", False), ("int8", True)])
def test_a_bundle_is_held_to_the_limits_of_its_precision_when_it_is_loaded(precision, loads, bundle, tmp_path):
    arrays = dict(bundle.golden())
    arrays |= {name: _turned(arrays[name], 0.12) for name in ("embedding", "query_embedding")}  # cosine 0.993
    card = msgspec.structs.replace(bundle.card, precision=precision)
    model, query = bundle.model.read_bytes(), bundle.query.read_bytes()
    other = write_bundle(tmp_path / "other", model, card, arrays, bundle.links, query)
    if loads:
        Searcher(other).close()
    else:
        with pytest.raises(BundleError, match="does not give the bundle's golden outputs"):
            Searcher(other)


def test_scenes_in_which_nobody_is_found_are_told(bundle):
    blind = tiny_search.TinySearch().eval()
    torch.nn.init.zeros_(blind.score.weight)
    blind.score.bias.data = torch.tensor([9.0, -9.0])
    with pytest.raises(
        BundleError, match=r"nobody is found in 32 calibration scenes .*\(--calibration\), or train it longer"
    ):
        convert_search(*to_graphs(blind, tiny_search.SIZE_HW), bundle.card, "int8", tiny_search.pictures(64, seed=5))
