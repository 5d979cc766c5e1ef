import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy import engine_check, gate, precision
from deploy.backends.onnxruntime import OnnxRuntimeBackend, run_each
from deploy.bundle import SHIPPED, load_bundle
from deploy.engine_graph import taken_form
from deploy.precision_half import HALF
from stream.errors import BundleError, UsageError
from stream.model import ModelCard

ROOT = Path(__file__).parents[2]
SIZE_HW = (32, 16)


def _pictures(count=64, size_hw=SIZE_HW, seed=0):
    """Soft blobs of colour: noise has no features, and quantising it is harder than any photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3)).astype(np.float32)
    rows, columns = (np.linspace(0, 3, size) for size in size_hw)
    down, across = rows.astype(int).clip(max=2), columns.astype(int).clip(max=2)
    y, x = (rows - down)[None, :, None, None], (columns - across)[None, None, :, None]
    upper = coarse[:, down][:, :, across] * (1 - x) + coarse[:, down][:, :, across + 1] * x
    lower = coarse[:, down + 1][:, :, across] * (1 - x) + coarse[:, down + 1][:, :, across + 1] * x
    return (upper * (1 - y) + lower * y).round().astype(np.uint8)


class _Tiny:
    """A graph under construction: pixels to planes, then what a test adds, then unit vectors."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.constants = {}
        self.nodes = [
            helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["float", self.constant("by", np.array(1 / 255, np.float32))], ["scaled"]),
            helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        ]
        self.last, self.channels = "planes", 3

    def constant(self, name, values):
        self.constants[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def conv(self, name, channels, gain=1.0):
        weights = self.rng.normal(size=(channels, self.channels, 3, 3)).astype(np.float32)
        weights *= gain * np.sqrt(2 / (9 * self.channels))
        names = [
            self.last,
            self.constant(f"{name}.weight", weights),
            self.constant(f"{name}.bias", np.zeros(channels, np.float32)),
        ]
        self.nodes.append(helper.make_node("Conv", names, [name], pads=[1] * 4, name=name))
        self.nodes.append(helper.make_node("Relu", [name], [f"{name}.relu"]))
        self.last, self.channels = f"{name}.relu", channels
        return self

    def then(self, op, *constants, **attributes):
        name = f"{op}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [self.last, *constants], [name], **attributes))
        self.last = name
        return self

    def done(self, size=8):
        axes = self.constant("axes", np.array([2, 3]))
        self.then("ReduceMean", axes, keepdims=0)
        weights = self.rng.normal(size=(self.channels, size)).astype(np.float32)
        self.then("MatMul", self.constant("head.weight", weights))
        self.nodes.append(helper.make_node("LpNormalization", [self.last], ["embedding"], axis=1, p=2))
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ("n", *SIZE_HW, 3))],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ("n", size))],
            list(self.constants.values()),
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def _plain():
    return _Tiny().conv("first", 8).conv("second", 8).conv("third", 8).conv("fourth", 8).done()


def _kinds(model):
    """Element type by value name, of everything in a graph."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model), strict_mode=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {one.name: one.type.tensor_type.elem_type for one in values} | {
        one.name: one.data_type for one in inferred.initializer
    }


def _cosine(have, want):
    return min(float((a["embedding"] * b["embedding"]).sum()) for a, b in zip(have, want, strict=True))


@pytest.fixture(scope="module")
def shipped():
    """The embedder that ships, and pictures like its golden ones: shifted and lit otherwise."""
    bundle = load_bundle(SHIPPED / "osnet-x0.25")
    golden = bundle.golden()["inputs"]
    rng = np.random.default_rng(0)
    moved = [
        np.roll(golden[i % len(golden)], rng.integers(-16, 16, 2), (0, 1)) * rng.uniform(0.6, 1.2) for i in range(64)
    ]
    return bundle, np.clip(moved, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_the_shipped_embedder_passes_the_gate(shipped, kind):
    bundle, pictures = shipped
    model = precision.convert(bundle.model.read_bytes(), kind, pictures)
    golden = bundle.golden()
    backend = OnnxRuntimeBackend(model, bundle.card)
    gate.check(backend, {"embedding": golden["embedding"]}, golden["inputs"], precision=kind)
    assert len(model) < 0.7 * bundle.model.stat().st_size
    assert engine_check.check(taken_form(onnx.load_model_from_string(model))).unsupported == ()


def test_pictures_and_outputs_keep_their_types_and_a_conversion_gives_the_same_bytes_again():
    for kind in ("fp16", "int8"):
        model = precision.convert(_plain(), kind, _pictures())
        kinds = _kinds(model)
        assert kinds["images"] == TensorProto.UINT8
        assert kinds["embedding"] == TensorProto.FLOAT
        assert precision.convert(_plain(), kind, _pictures()) == model
    assert precision.convert(_plain(), "fp32", _pictures(1)) == _plain()


def test_in_fp16_the_learned_layers_are_half_precision_and_nothing_outside_the_list_is():
    chain = _Tiny().conv("first", 8)
    chain.then("Softmax", axis=1).conv("second", 8)
    chain.then(
        "InstanceNormalization",
        chain.constant("g", np.ones(8, np.float32)),
        chain.constant("b", np.zeros(8, np.float32)),
    )
    chain.conv("third", 8).then("Exp").conv("fourth", 8, gain=0.1)
    model = onnx.load_model_from_string(precision.convert(chain.done(), "fp16", _pictures()))
    kinds = _kinds(model.SerializeToString())
    for node in model.graph.node:
        if node.op_type == "Cast":
            continue
        floats = [kinds[name] for name in (*node.input, *node.output) if kinds[name] in (1, 10)]
        if node.op_type == "Conv":
            assert set(floats) == {TensorProto.FLOAT16}
        elif node.op_type not in HALF or node.output[0] in ("scaled", "planes"):
            assert set(floats) == {TensorProto.FLOAT}, node.op_type
    assert {"Softmax", "InstanceNormalization", "Exp", "ReduceMean", "LpNormalization"}.isdisjoint(HALF)


def test_what_chooses_or_takes_coordinates_is_computed_in_fp32_since_the_last_layer():
    chain = _Tiny().conv("first", 8).conv("second", 8)
    chain.then("Add", chain.constant("offset", np.array(900.25, np.float32)))
    scores = chain.last
    chain.then("Abs").then("ArgMax", axis=1, keepdims=1).then("Cast", to=TensorProto.FLOAT)
    chain.then("Mul", scores).conv("third", 4).conv("fourth", 4)
    chain.channels = 4
    chain.nodes[-4].input[1] = chain.constant("third.weight", np.ones((4, 8, 3, 3), np.float32) / 72)
    kinds = _kinds(precision.convert(chain.done(), "fp16", _pictures()))
    assert kinds["second"] == TensorProto.FLOAT16
    assert kinds[scores] == TensorProto.FLOAT
    assert kinds["third"] == TensorProto.FLOAT16


def test_weights_beyond_half_precision_are_refused_by_name():
    model = _Tiny().conv("first", 8).conv("second", 8, gain=3e5).conv("third", 8, gain=1e-5).done()
    with pytest.raises(BundleError, match=r"'second.weight' of Conv 'second' reach .*65504.*keep fp32"):
        precision.convert(model, "fp16", _pictures())


def test_what_makes_or_takes_values_near_the_end_of_half_precision_stays_fp32():
    chain = _Tiny().conv("first", 8).conv("second", 8, 300).conv("third", 8, 300).conv("fourth", 8, 1e-2)
    model = chain.conv("fifth", 8).done()
    converted = precision.convert(model, "fp16", _pictures())
    kinds = _kinds(converted)
    assert kinds["second"] == kinds["fifth"] == TensorProto.FLOAT16
    assert kinds["third"] == kinds["fourth"] == TensorProto.FLOAT
    assert _cosine(run_each(converted, _pictures(8, seed=1)), run_each(model, _pictures(8, seed=1))) > 0.999


def test_an_addition_that_keeps_a_divisor_from_zero_stays_fp32():
    chain = _Tiny().conv("first", 8).conv("second", 8)
    chain.then("Add", chain.constant("eps", np.array(1e-12, np.float32))).then("Sqrt").conv("third", 8)
    kinds = _kinds(precision.convert(chain.done(), "fp16", _pictures()))
    assert kinds["eps"] == TensorProto.FLOAT


def test_squares_stay_fp32():
    chain = _Tiny().conv("first", 8).conv("second", 8)
    before = chain.last
    chain.then("Mul", before)
    square = chain.last
    kinds = _kinds(precision.convert(chain.conv("third", 8).done(), "fp16", _pictures()))
    assert kinds[before] == TensorProto.FLOAT16
    assert kinds[square] == TensorProto.FLOAT


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_a_graph_of_an_old_opset_is_brought_to_the_one_that_int8_needs(kind):
    old = onnx.load_model_from_string(_Tiny().conv("first", 8).conv("second", 8).conv("third", 8).done())
    old.opset_import[0].version = 11
    mean = next(node for node in old.graph.node if node.op_type == "ReduceMean")
    del mean.input[1]
    mean.attribute.append(helper.make_attribute("axes", [2, 3]))
    converted = precision.convert(old.SerializeToString(), kind, _pictures())
    assert onnx.load_model_from_string(converted).opset_import[0].version == 13
    before, after = (run_each(each, _pictures(8, seed=1)) for each in (old.SerializeToString(), converted))
    assert _cosine(after, before) > 0.99


def test_batch_normalisation_is_folded_where_a_convolution_precedes_and_multiplied_elsewhere():
    chain = _Tiny().conv("first", 8).conv("second", 8)
    chain.nodes.pop()
    chain.last = "second"
    chain.then(
        "BatchNormalization", *(chain.constant(n, np.abs(chain.rng.normal(size=8)).astype(np.float32)) for n in "gbmv")
    )
    chain.then("Relu")
    chain.then("BatchNormalization", *"gbmv").conv("third", 8)
    model = chain.done()
    for kind in ("fp16", "int8"):
        converted = precision.convert(model, kind, _pictures())
        counts = [node.op_type for node in onnx.load_model_from_string(converted).graph.node]
        assert "BatchNormalization" not in counts
        assert counts.count("Conv") == 3
        assert counts.count("Add") == 1
        assert _cosine(run_each(converted, _pictures(8, seed=1)), run_each(model, _pictures(8, seed=1))) > 0.99


def test_weights_that_a_graph_turns_are_turned_once_and_converted():
    chain = _Tiny().conv("first", 8).conv("second", 8)
    weights = chain.constant("weights", chain.rng.normal(size=(8, 8)).astype(np.float32))
    chain.nodes.append(helper.make_node("Transpose", [weights], ["turned"], perm=[1, 0]))
    chain.then("Transpose", perm=[0, 2, 3, 1]).then("MatMul", "turned").then("Transpose", perm=[0, 3, 1, 2])
    model = chain.conv("third", 8).done()
    for kind, name in (("fp16", "turned/fp16"), ("int8", "turned/dequantized")):
        converted = precision.convert(model, kind, _pictures())
        product = next(n for n in onnx.load_model_from_string(converted).graph.node if n.op_type == "MatMul")
        assert product.input[1] == name
        assert "weights" not in _kinds(converted)
        assert _cosine(run_each(converted, _pictures(8, seed=1)), run_each(model, _pictures(8, seed=1))) > 0.99


def test_int8_is_symmetric_everywhere_per_channel_for_weights_and_keeps_the_first_and_last_layers():
    model = onnx.load_model_from_string(precision.convert(_plain(), "int8", _pictures()))
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    assert not any(node.op_type.startswith("QLinear") or node.op_type.endswith("Integer") for node in model.graph.node)
    for node in pairs:
        assert constants[node.input[2]].dtype == np.int8
        assert not constants[node.input[2]].any()
    for node in model.graph.node:
        if node.op_type == "Conv":
            both = [made[name].op_type if name in made else "constant" for name in node.input[:2]]
            inner = node.output[0] in ("second", "third", "fourth")
            assert (both == ["DequantizeLinear"] * 2) == inner
            if inner:
                weights = made[node.input[1]]
                assert constants[weights.input[0]].dtype == np.int8
                assert constants[weights.input[1]].shape == (8,)
        if node.op_type == "MatMul":
            assert node.input[1] in constants
            assert constants[node.input[1]].dtype == np.float32


def test_a_layer_that_int8_would_ruin_is_found_and_kept():
    """One channel is a thousand times larger than the others and weighs a thousandth: int8 takes the others for zero."""
    chain = _Tiny().conv("first", 8).conv("second", 8).conv("third", 8).conv("fourth", 8).conv("fifth", 8)
    chain.constants["third.weight"].CopyFrom(_scaled(chain.constants["third.weight"], 1e3, (0,)))
    chain.constants["fourth.weight"].CopyFrom(_scaled(chain.constants["fourth.weight"], 1e-3, (slice(None), 0)))
    trials = []
    converted = precision.convert(chain.done(), "int8", _pictures(), lambda *told: trials.append(told))
    left = {node.input[1] for node in onnx.load_model_from_string(converted).graph.node if node.op_type == "Conv"}
    assert "fourth.weight" in left
    assert {"second.weight/dequantized", "third.weight/dequantized", "fifth.weight/dequantized"} <= left
    pictures = len(_pictures())
    assert trials[:pictures] == [(1 + done, pictures, "calibration pictures seen") for done in range(pictures)]
    tried = [done for done, _, _ in trials[pictures:]]
    assert tried == sorted(tried)
    assert tried[-1] == trials[-1][1]
    assert trials[-1][2] == "trials of which layers bear it"


def _scaled(tensor, factor, place):
    values = numpy_helper.to_array(tensor).copy()
    values[place] *= factor
    return numpy_helper.from_array(values, tensor.name)


def test_calibration_keeps_samples_of_a_large_picture_s_values_not_all_of_them():
    """64 pictures whose one value has 8 MiB are half a gigabyte."""
    program = """
import resource
from deploy import precision
from tests.deploy import test_precision as here

here.SIZE_HW = (256, 128)
model, pictures = here._Tiny().conv("first", 64).conv("second", 8).conv("third", 8).done(), here._pictures(size_hw=here.SIZE_HW)
precision.convert(model, "fp16", pictures)  # what the runtime itself wants
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
precision.convert(model, "int8", pictures)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 256


def test_too_few_calibration_pictures_are_refused():
    with pytest.raises(UsageError, match="63 calibration pictures, at least 64"):
        precision.convert(_plain(), "int8", _pictures(63))


def test_a_detector_s_boxes_are_decoded_in_fp32():
    bundle = load_bundle(SHIPPED / "person-detector")
    golden = bundle.golden()
    pictures = np.repeat(golden["inputs"], 16, 0)
    model = precision.convert(bundle.model.read_bytes(), "fp16", pictures)
    assert _kinds(model)["boxes"] == TensorProto.FLOAT
    halves = {node.op_type for node in onnx.load_model_from_string(model).graph.node} & {"Exp", "Resize"}
    assert halves == {"Exp", "Resize"}
    card: ModelCard = bundle.card
    want = {name: golden[name] for name in card.outputs}
    gate.check(OnnxRuntimeBackend(model, card), want, golden["inputs"], precision="fp16")


def test_the_shipped_detector_passes_the_gate_in_int8():
    bundle = load_bundle(SHIPPED / "person-detector")
    golden = bundle.golden()
    model = precision.convert(bundle.model.read_bytes(), "int8", np.repeat(golden["inputs"], 16, 0))
    want = {name: golden[name] for name in bundle.card.outputs}
    gate.check(OnnxRuntimeBackend(model, bundle.card), want, golden["inputs"], precision="int8")
    assert len(model) < 0.6 * bundle.model.stat().st_size
    assert engine_check.check(taken_form(onnx.load_model_from_string(model))).unsupported == ()
