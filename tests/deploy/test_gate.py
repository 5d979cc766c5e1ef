"""Export faults seeded into a real graph and a real bundle: each is refused, and the message says what it looks like."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deploy import backends, gate
from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bundle import Bundle, load_bundle, write_bundle
from stream.errors import BundleError
from stream.model import ModelCard

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
REAL = "osnet-x0.25"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(REAL)


@pytest.fixture(scope="module")
def card(bundle: Bundle) -> ModelCard:
    return bundle.card


@pytest.fixture(scope="module")
def golden(bundle: Bundle) -> dict[str, NDArray[np.generic]]:
    return bundle.golden()


@pytest.fixture(scope="module")
def reference(bundle: Bundle) -> Callable[[F32], dict[str, F32]]:
    """The true network for pixels that are no bytes: the same graph without its first step, as an export has it in torch."""
    import onnxruntime

    model = onnx.load(bundle.model)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda pixels: dict(zip(["embedding"], session.run(["embedding"], {"images": pixels}), strict=True))


class Graph:
    """The real graph, to be edited."""

    def __init__(self, path: Path) -> None:
        self.model = onnx.load(path)
        self.graph = self.model.graph

    def node(self, op_type: str) -> onnx.NodeProto:
        return next(node for node in self.graph.node if node.op_type == op_type)

    def constant(self, name: str, values: object, kind: type = np.float32) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.array(values, kind), name))
        return name

    def insert(self, after: str, *nodes: onnx.NodeProto) -> None:
        """Nodes behind the tensor `after`; whoever read it reads the last one's output."""
        place = next(n for n, node in enumerate(self.graph.node) if after in node.output)
        for node in self.graph.node:
            for k, name in enumerate(node.input):
                if name == after:
                    node.input[k] = nodes[-1].output[0]
        for k, node in enumerate(nodes):
            self.graph.node.insert(place + 1 + k, node)

    def weight(self, name: str, change: Callable[[F32], F32]) -> None:
        tensor = next(one for one in self.graph.initializer if one.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(numpy_helper.to_array(tensor)), np.float32), name))

    def weight_as(self, name: str, values: object, kind: type) -> None:
        tensor = next(one for one in self.graph.initializer if one.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.array(values, kind), name))

    def bypass(self, op_type: str) -> None:
        """Whoever reads the first node of this kind reads its input instead."""
        node = self.node(op_type)
        for other in self.graph.node:
            for k, name in enumerate(other.input):
                if name == node.output[0]:
                    other.input[k] = node.input[0]


def swapped(g: Graph) -> None:
    order = g.constant("order", [2, 1, 0], np.int64)
    cast = g.node("Cast").output[0]
    g.insert(cast, helper.make_node("Gather", [cast, order], ["bgr"], axis=3))


def twice(g: Graph) -> None:
    done, mean, factor = g.node("Mul").output[0], g.node("Sub").input[1], g.node("Mul").input[1]
    g.insert(
        done, helper.make_node("Sub", [done, mean], ["again0"]), helper.make_node("Mul", ["again0", factor], ["again1"])
    )


def never(g: Graph) -> None:
    g.bypass("Sub")
    g.bypass("Mul")


def without_mean(g: Graph) -> None:
    g.weight(g.node("Sub").input[1], np.zeros_like)
    g.weight(g.node("Mul").input[1], lambda x: np.full_like(x, 1 / 255))


def without_scale(g: Graph) -> None:
    g.weight(g.node("Sub").input[1], lambda x: x / 255)
    g.weight(g.node("Mul").input[1], lambda x: x * 255)


def planes(g: Graph) -> None:
    """Pixels taken as if planes came first."""
    shape = g.constant("planes_first", [-1, 3, 128, 64], np.int64)
    node = g.node("Transpose")
    back = helper.make_node("Reshape", [node.input[0], shape], [node.output[0]])
    node.CopyFrom(back)


def scaled_away(g: Graph) -> None:
    g.weight(g.node("Mul").input[1], lambda x: x / 5000)


def together(g: Graph) -> None:
    """A picture alone is as it should be; of several the vectors are drawn towards their mean, as by a reduction over axis 0."""
    axis, share = g.constant("first_axis", [0], np.int64), g.constant("share", 0.95)
    pooled = next(node.input[0] for node in g.graph.node if node.op_type == "Gemm")
    g.insert(
        pooled,
        helper.make_node("ReduceMean", [pooled, axis], ["batch_mean"], keepdims=1),
        helper.make_node("Sub", [pooled, "batch_mean"], ["own"]),
        helper.make_node("Mul", ["own", share], ["less"]),
        helper.make_node("Add", ["less", "batch_mean"], ["mixed"]),
    )


def by_fours(g: Graph) -> None:
    """A picture gets what the fourth one before it should get, in batches of more than four."""
    axis, zero = g.constant("batch_axis", [0], np.int64), g.constant("begin", [0], np.int64)
    last, end = g.constant("last_four", [-4], np.int64), g.constant("end", [np.iinfo(np.int64).max], np.int64)
    pooled = next(node.input[0] for node in g.graph.node if node.op_type == "Gemm")
    g.insert(
        pooled,
        helper.make_node("Slice", [pooled, last, end, axis], ["moved_up"]),
        helper.make_node("Slice", [pooled, zero, last, axis], ["moved_down"]),
        helper.make_node("Concat", ["moved_up", "moved_down"], ["moved"], axis=0),
    )


def without_norm(g: Graph) -> None:
    node = g.node("Div")
    node.CopyFrom(helper.make_node("Identity", [node.input[0]], ["embedding"]))


def norm_of_sums(g: Graph) -> None:
    g.node("ReduceL2").op_type = "ReduceL1"


def norm_over_the_batch(g: Graph) -> None:
    g.weight_as(g.node("ReduceL2").input[1], [0], np.int64)


def without_half(g: Graph) -> None:
    """Half of the vector stays zero, as where one of several branches is left out."""
    gemm = g.node("Gemm")
    for name in gemm.input[1:3]:
        g.weight(name, lambda x: np.where(np.arange(512).reshape(-1, *[1] * (x.ndim - 1)) < 256, x, 0))


def older(g: Graph) -> None:
    """Weights of another day: everything a little different."""
    rng = np.random.default_rng(0)
    for node in g.graph.node:
        if node.op_type == "Conv":
            g.weight(node.input[1], lambda x: x * rng.normal(1, 0.05, x.shape))


def without_stream(g: Graph) -> None:
    """One of a block's four streams is left out of the sum."""
    g.bypass("Add")


def in_half_precision(g: Graph) -> None:
    """A map that exceeds 65504, in float16 for a moment."""
    map_ = g.node("MaxPool").output[0]
    large, small = g.constant("large", 1e5), g.constant("small", 1e-5)
    g.insert(
        map_,
        helper.make_node("Mul", [map_, large], ["large_map"]),
        helper.make_node("Cast", ["large_map"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["single"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["single", small], ["back"]),
    )


FAULTS = [
    pytest.param(swapped, "looks like .*red and blue swapped", id="red and blue"),
    pytest.param(twice, "looks like .*normalised pixels that are normalised again", id="double normalisation"),
    pytest.param(never, "looks like .*missing normalisation", id="no normalisation"),
    pytest.param(without_mean, "looks like .*missing mean and standard deviation", id="no mean"),
    pytest.param(without_scale, "looks like .*missing scale", id="no scale"),
    pytest.param(planes, "looks like .*wrong layout .NHWC read as NCHW.", id="layout"),
    pytest.param(scaled_away, "looks like .*scaled away: all pictures get nearly the same answer", id="scaled away"),
    pytest.param(together, "in a batch of 3 .* looks like a graph that mixes the pictures of a batch", id="mixing"),
    pytest.param(
        by_fours, "in a batch of 32 .* looks like a graph that mixes the pictures of a batch", id="mixing by fours"
    ),
    pytest.param(without_norm, "looks like .*wrong or missing L2 norm: directions are right", id="no L2 norm"),
    pytest.param(norm_of_sums, "looks like .*wrong or missing L2 norm: directions are right", id="L1 for L2"),
    pytest.param(norm_over_the_batch, r"looks like .*wrong L2 norm .over another axis.", id="L2 over the batch"),
    pytest.param(
        without_half, "looks like .*branch that was dropped .* values 25[0-9] to 51[01] of 512 do not", id="branch"
    ),
    pytest.param(older, "looks like other weights or a part left out: a stale graph", id="stale weights"),
    pytest.param(without_stream, "looks like other weights or a part left out", id="stream"),
    pytest.param(in_half_precision, "not finite.* looks like .*overflow in half precision", id="overflow"),
]


@pytest.mark.parametrize(("fault", "named"), FAULTS)
def test_a_graph_with_a_fault_is_refused_and_the_fault_is_named(
    bundle: Bundle,
    golden: dict[str, NDArray[np.generic]],
    reference: Callable[[F32], dict[str, F32]],
    fault: Callable[[Graph], None],
    named: str,
) -> None:
    graph = Graph(bundle.model)
    fault(graph)
    backend = OnnxRuntimeBackend(graph.model.SerializeToString(), bundle.card)
    precision = "fp16" if fault is in_half_precision else "fp32"
    expected, pictures = {"embedding": golden["embedding"].astype(np.float32)}, golden["inputs"].astype(np.uint8)
    with pytest.raises(BundleError, match=named):
        gate.check(backend, expected, pictures, precision=precision, reference=reference)


def test_without_the_true_network_what_the_pictures_themselves_can_show_is_named(
    bundle: Bundle, golden: dict[str, NDArray[np.generic]]
) -> None:
    expected, pictures = {"embedding": golden["embedding"].astype(np.float32)}, golden["inputs"].astype(np.uint8)
    for fault, named in ((swapped, "red and blue swapped"), (scaled_away, "scaled away")):
        graph = Graph(bundle.model)
        fault(graph)
        with pytest.raises(BundleError, match=f"looks like .*{named}"):
            gate.check(OnnxRuntimeBackend(graph.model.SerializeToString(), bundle.card), expected, pictures)


def test_the_graph_as_it_was_exported_passes_at_every_batch_size(
    bundle: Bundle, golden: dict[str, NDArray[np.generic]]
) -> None:
    backend = _Counting(OnnxRuntimeBackend(bundle.model, bundle.card))
    gate.check(backend, {"embedding": golden["embedding"].astype(np.float32)}, golden["inputs"].astype(np.uint8))
    assert set(backend.sizes) == {1, 3, bundle.card.max_batch}


class _Counting:
    """A backend that remembers what it was asked."""

    def __init__(self, inner: OnnxRuntimeBackend) -> None:
        self.inner, self.card, self.sizes = inner, inner.card, list[int]()

    def infer(self, images: U8) -> dict[str, F32]:
        self.sizes.append(len(images))
        return self.inner.infer(images)

    def close(self) -> None:
        self.inner.close()


def test_a_detector_that_finds_less_or_elsewhere_is_refused() -> None:
    want = {
        "boxes": np.array([[[10, 10, 50, 90], [0, 0, 4, 4]]], np.float32),
        "scores": np.array([[0.9, 0.01]], np.float32),
    }
    moved = want | {"boxes": want["boxes"] + np.float32(3)}
    assert gate.differs(moved, want, gate.limits_of("fp32")) == "boxes differs by 3 (at most 0.05)"
    assert gate.differs(moved, want, gate.limits_of("fp16")) == "boxes differs by 3 (at most 1.5)"
    assert gate.differs(want | {"scores": want["scores"] / 2}, want, gate.limits_of("int8")) is not None
    elsewhere = want["boxes"].copy()
    elsewhere[0, 1] += 40  # of a box that nobody looks at
    assert gate.differs(want | {"boxes": elsewhere}, want, gate.limits_of("bf16")) is None
    assert gate.differs(want, want, gate.limits_of("fp32")) is None


def turned(cosine: float) -> F32:
    """A unit vector at this cosine to the first axis, behind one that is right."""
    return np.array([[1, 0], [cosine, np.sqrt(1 - cosine**2)]], np.float32)


@pytest.mark.parametrize(
    ("precision", "least"), [("fp32", 0.9999), ("fp16", 0.999), ("bf16", 0.999), ("int8", 0.99), ("fp32", 0.9995)]
)
def test_no_vector_may_turn_further_than_its_precision_allows(precision: gate.Arithmetic, least: float) -> None:
    want, limits = {"embedding": turned(1.0)}, gate.limits_of(precision, least)
    said = gate.differs({"embedding": turned(least - 2e-5)}, want, limits)
    assert said is not None
    assert "to what is expected (at least" in said
    within = gate.differs({"embedding": turned(least + 2e-5)}, want, limits)
    assert within is None or "embedding differs by" in within  # single values of fp32 are looked at more closely still


def test_in_fp32_no_value_of_a_vector_may_differ() -> None:
    want = {"embedding": turned(1.0)}
    have = {"embedding": want["embedding"] + np.array([0, 3e-4], np.float32)}
    assert gate.differs(have, want, gate.limits_of("fp32")) == "embedding differs by 0.0003 (at most 0.0001)"
    assert gate.differs(have, want, gate.limits_of("bf16")) is None


@pytest.mark.parametrize("length", [0.998, 1.002])
def test_a_vector_that_is_no_unit_vector_is_refused_in_every_precision(length: float) -> None:
    want, have = {"embedding": turned(1.0)}, {"embedding": turned(1.0) * np.float32(length)}
    for limits in gate.LIMITS.values():
        assert "embedding's length is off by 0.002" in str(gate.differs(have, want, limits))


def test_a_runtime_is_held_to_what_it_computes_in_whatever_its_graph_says(
    bundle: Bundle, golden: dict[str, NDArray[np.generic]]
) -> None:
    class Rounded(_Counting):
        def infer(self, images: U8) -> dict[str, F32]:
            return {"embedding": np.round(super().infer(images)["embedding"] * 2000) / 2000}

    backend = Rounded(OnnxRuntimeBackend(bundle.model, bundle.card))
    expected, pictures = {"embedding": golden["embedding"].astype(np.float32)}, golden["inputs"].astype(np.uint8)
    gate.check(backend, expected, pictures, precision="bf16")
    with pytest.raises(BundleError, match=r"alone \(fp32\)"):
        gate.check(backend, expected, pictures)


def test_a_card_may_ask_for_less_in_its_own_precision_and_never_for_more_than_the_table() -> None:
    assert gate.limits_of("fp32", 0.9995).cosine == 0.9995
    assert gate.limits_of("fp32", 0.9995).value == np.inf
    assert gate.limits_of("int8", 0.9995) == gate.LIMITS["int8"]


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "copied"))


def edited(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | changes))


def test_a_digest_with_a_flipped_digit_is_told_from_a_changed_file(copy: Path, card: ModelCard) -> None:
    edited(copy, digest=("1" if card.digest[0] == "0" else "0") + card.digest[1:])
    with pytest.raises(BundleError, match=r"model\.onnx: altered or damaged: .* looks like an altered card"):
        load_bundle(copy)
    edited(copy, digest=card.digest)
    data = bytearray((copy / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "model.onnx").write_bytes(data)
    with pytest.raises(BundleError, match="looks like another file, or single bytes that changed"):
        load_bundle(copy)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "links.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_file_that_was_cut_short_is_said_to_be(copy: Path, name: str, share: float) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BundleError, match=rf"{name}: altered or damaged: .* looks like a file that was cut short"):
        load_bundle(copy)


def test_golden_outputs_of_another_model_are_said_to_be(bundle: Bundle, tmp_path: Path) -> None:
    golden = bundle.golden()
    mine = write_bundle(tmp_path / "mine", bundle.model.read_bytes(), bundle.card, golden, bundle.links)
    graph = Graph(bundle.model)
    older(graph)
    write_bundle(tmp_path / "other", graph.model.SerializeToString(), bundle.card, golden, bundle.links)
    shutil.copy(tmp_path / "other" / "golden.npz", mine.path / "golden.npz")
    with pytest.raises(BundleError, match=r"golden\.npz: altered or damaged"):
        load_bundle(mine.path)
    digest = hashlib.sha256((mine.path / "golden.npz").read_bytes()).hexdigest()
    edited(
        mine.path, digests=mine.card.digests | {"golden.npz": digest}
    )  # as somebody who puts bundles together by hand
    with pytest.raises(BundleError, match=r"golden\.npz: golden outputs of another model"):
        backends.load(load_bundle(mine.path))


@pytest.mark.parametrize(
    "shape", [(3, 128, 64), (64, 128, 3), (256, 128, 3)], ids=["NCHW", "sides swapped", "other size"]
)
def test_a_graph_that_takes_another_size_is_refused_with_both(bundle: Bundle, shape: tuple[int, int, int]) -> None:
    graph = Graph(bundle.model)
    for dim, size in zip(graph.graph.input[0].type.tensor_type.shape.dim[1:], shape, strict=True):
        dim.dim_value = size
    if shape[0] == 3:
        pixels = graph.node("Cast").output[0]
        graph.insert(pixels, helper.make_node("Transpose", [pixels], ["planes_last"], perm=[0, 2, 3, 1]))
    with pytest.raises(BundleError) as refused:
        OnnxRuntimeBackend(graph.model.SerializeToString(), bundle.card)
    takes = f"takes [('uint8', {', '.join(map(str, shape))})] after the batch axis"
    assert f"{takes}, its card says [('uint8', 128, 64, 3)]" in str(refused.value)
