"""Other people's ONNX models become bundles that answer as the originals did, or are refused in one line."""

from pathlib import Path

import av
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from deploy import adopt_graph, backends, precision
from deploy.adopt import PRESETS, Recipe, adopt, check_pictures
from deploy.backends import auto
from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bundle import Bundle, load_bundle
from detector.letterbox import letterbox
from reid.crops import to_batch
from stream.errors import AdoptError, BundleError
from tests.deploy import tiny_models

EMBEDDER = Recipe(kind="embedder", licence="Apache-2.0")


def adopted(data: bytes, folder: Path, recipe: Recipe = EMBEDDER, **options: object) -> Bundle:
    return adopt(data, recipe, folder, name="theirs", where="theirs.onnx", **options).bundle  # type: ignore[arg-type]


def original(data: bytes, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the untouched graph gives, one image at a time."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: pixels[k : k + 1]})[0] for k in range(len(pixels))])


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("mixes", ["nothing", "mean", "reshape", "sort"])
@pytest.mark.parametrize("channels_first", [True, False], ids=["NCHW", "NHWC"])
def test_an_embedder_answers_in_a_batch_as_its_original_did_alone(
    tmp_path: Path, mixes: str, channels_first: bool
) -> None:
    data = tiny_models.foreign_embedder(mixes=mixes, channels_first=channels_first)
    bundle = adopted(data, tmp_path)
    pictures = tiny_models.pictures(5, (32, 16))
    pixels = pictures.astype(np.float32)
    expected = unit(original(data, pixels.transpose(0, 3, 1, 2) if channels_first else pixels))
    vectors = backends.load(load_bundle(tmp_path)).infer(pictures)["embedding"]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert bundle.card.max_batch == (1 if mixes == "sort" else 32)


def test_weights_that_are_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(tiny_models.foreign_embedder())
    model.ir_version = 3
    model.graph.input.append(onnx.helper.make_tensor_value_info("kernel", onnx.TensorProto.FLOAT, [12, 3, 4, 4]))
    for one in ("to_vector", "twelve", "all"):
        size = len(onnx.numpy_helper.to_array(next(i for i in model.graph.initializer if i.name == one)))
        model.graph.input.append(onnx.helper.make_tensor_value_info(one, onnx.TensorProto.INT64, [size]))
    data = model.SerializeToString()
    assert adopted(data, tmp_path).card.embedding_size == 12


@pytest.mark.parametrize("element", ["FLOAT16", "UINT8"])
def test_graphs_that_take_other_numbers_get_them(tmp_path: Path, element: str) -> None:
    """Half precision as some GPUs' exports have it, or pixels as they are."""
    model = onnx.load_model_from_string(tiny_models.foreign_embedder())
    model.graph.input[0].type.tensor_type.elem_type = getattr(onnx.TensorProto, element)
    model.graph.node[0].CopyFrom(onnx.helper.make_node("Cast", ["x"], ["planes"], to=onnx.TensorProto.FLOAT))
    adopted(model.SerializeToString(), tmp_path / "other")
    adopted(tiny_models.foreign_embedder(), tmp_path / "float")
    pictures = tiny_models.pictures(3, (32, 16))
    left, right = (
        backends.load(load_bundle(tmp_path / name)).infer(pictures)["embedding"] for name in ("other", "float")
    )
    np.testing.assert_allclose(left, right, atol=1e-3)


def test_what_mixes_images_would_be_wrong_without_the_repair() -> None:
    """The control of the test above: only opening the batch axis runs, and is wrong."""
    model = onnx.load_model_from_string(tiny_models.foreign_embedder(mixes="mean"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "n"
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = check_pictures((32, 16)).astype(np.float32).transpose(0, 3, 1, 2)
    together = unit(session.run(None, {"x": pixels})[0])
    alone = unit(np.concatenate([session.run(None, {"x": pixels[k : k + 1]})[0] for k in range(len(pixels))]))
    assert (together * alone).sum(1).min() < 0.995


def network(
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[np.generic]],
    shape: tuple[int | str, ...],
    *,
    opset: int = 17,
    functions: tuple[onnx.FunctionProto, ...] = (),
) -> bytes:
    """Somebody else's graph: ``x`` to ``out``, of any shape."""
    graph = onnx.helper.make_graph(
        nodes,
        "theirs",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("com.example", 1)]
    return bytes(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions).SerializeToString()
    )


KERNEL = np.random.default_rng(2).normal(size=(12, 3, 4, 4)).astype(np.float32) / 50
node = onnx.helper.make_node


def with_a_branch() -> bytes:
    """As torch exports a squeeze: both branches see a constant and a value of the graph around them."""

    def branch(one: onnx.NodeProto) -> onnx.GraphProto:
        out = onnx.helper.make_tensor_value_info(one.output[0], onnx.TensorProto.FLOAT, None)
        return onnx.helper.make_graph([one], one.op_type, [], [out])

    choice = {
        "then_branch": branch(node("Squeeze", ["pooled", "axes"], ["squeezed"])),
        "else_branch": branch(node("Identity", ["pooled"], ["whole"])),
    }
    nodes = [
        node("Conv", ["x", "kernel"], ["features"]),
        node("GlobalMaxPool", ["features"], ["pooled"]),
        node("If", ["condition"], ["out"], **choice),
    ]
    constants = {"kernel": KERNEL, "axes": np.array([2, 3]), "condition": np.array(True)}
    return network(nodes, constants, (1, 3, 32, 16))


def with_a_loop() -> bytes:
    body = onnx.helper.make_graph(
        [node("Identity", ["goes_on"], ["still"]), node("Mul", ["value", "half"], ["halved"])],
        "body",
        [
            onnx.helper.make_tensor_value_info("turn", onnx.TensorProto.INT64, []),
            onnx.helper.make_tensor_value_info("goes_on", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("value", onnx.TensorProto.FLOAT, None),
        ],
        [
            onnx.helper.make_tensor_value_info("still", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("halved", onnx.TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        node("Conv", ["x", "kernel"], ["features"]),
        node("GlobalMaxPool", ["features"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Loop", ["turns", "begins", "flat"], ["out"], body=body),
    ]
    constants = {"kernel": KERNEL, "half": np.float32(0.5), "turns": np.array(2), "begins": np.array(True)}
    return network(nodes, constants, (1, 3, 32, 16))


def with_a_function() -> bytes:
    """As torch's newer exporter writes what ONNX has no operator for."""
    inside = [node("Erf", ["a"], ["e"]), node("Mul", ["a", "e"], ["b"])]
    mine = onnx.helper.make_function("com.example", "Mine", ["a"], ["b"], inside, [onnx.helper.make_opsetid("", 17)])
    nodes = [
        node("Conv", ["x", "kernel"], ["features"]),
        node("Mine", ["features"], ["bent"], domain="com.example"),
        node("GlobalAveragePool", ["bent"], ["out"]),
    ]
    return network(nodes, {"kernel": KERNEL}, (1, 3, 32, 16), functions=(mine,))


def with_shapes_in_constant_nodes() -> bytes:
    nodes = [
        node("Conv", ["x", "kernel"], ["features"]),
        node("GlobalMaxPool", ["features"], ["pooled"]),
        node("Constant", [], ["to"], value_ints=[1, 12]),
        node("Reshape", ["pooled", "to"], ["out"]),
    ]
    return network(nodes, {"kernel": KERNEL}, (1, 3, 32, 16))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(with_a_branch(), id="branch"),
        pytest.param(with_a_loop(), id="loop"),
        pytest.param(with_a_function(), id="function"),
        pytest.param(with_shapes_in_constant_nodes(), id="shapes in constant nodes"),
    ],
)
def test_graphs_with_parts_of_their_own_are_taken_in_batches_and_by_every_runtime(tmp_path: Path, data: bytes) -> None:
    assert adopted(data, tmp_path).card.max_batch == 32
    bundle, pictures = load_bundle(tmp_path), tiny_models.pictures(5, (32, 16))
    pixels = pictures.astype(np.float32).transpose(0, 3, 1, 2)
    expected = unit(original(data, pixels).reshape(5, 12))
    for runtime in ("onnxruntime", "openvino"):
        np.testing.assert_allclose(
            backends.load(bundle, backend=runtime).infer(pictures)["embedding"], expected, atol=0.01
        )


def half(data: bytes) -> bytes:
    """The graph with weights, input and output in half precision."""
    model = onnx.load_model_from_string(data)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return bytes(model.SerializeToString())


def quantised() -> bytes:
    """Q/DQ pairs around a layer, as quantisers write them."""
    nodes = [
        node("QuantizeLinear", ["x", "step", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
        node("Conv", ["d", "kernel"], ["features"]),
        node("GlobalMaxPool", ["features"], ["out"]),
    ]
    return network(nodes, {"kernel": KERNEL, "step": np.float32(2), "zero": np.int8(0)}, ("n", 3, 32, 16))


@pytest.mark.parametrize(
    ("data", "computes_in"),
    [
        pytest.param(half(tiny_models.foreign_embedder()), "fp16", id="half precision"),
        pytest.param(quantised(), "int8", id="Q/DQ"),
        pytest.param(tiny_models.foreign_embedder(), "fp32", id="single precision"),
    ],
)
def test_the_card_says_what_a_graph_computes_in_so_every_runtime_is_held_to_that(
    tmp_path: Path, data: bytes, computes_in: str
) -> None:
    assert adopted(data, tmp_path).card.precision == computes_in
    bundle = load_bundle(tmp_path)
    for candidate in backends.candidates(bundle, 1, "openvino"):
        assert candidate.precision == computes_in or computes_in == "fp32"
        auto.verify(candidate.make(), bundle, candidate.precision)


def test_a_norm_whose_numbers_stand_behind_an_identity_can_be_converted(tmp_path: Path) -> None:
    """Torch's older exporter stores equal tensors once."""
    nodes = [
        node("Identity", ["ones"], ["variance"]),
        node("Conv", ["x", "kernel"], ["features"]),
        node("BatchNormalization", ["features", "ones", "zeros", "zeros", "variance"], ["normal"]),
        node("GlobalAveragePool", ["normal"], ["out"]),
    ]
    ones = np.ones(12, np.float32)
    adopted(network(nodes, {"kernel": KERNEL, "ones": ones, "zeros": 0 * ones}, (1, 3, 32, 16)), tmp_path)
    bundle = load_bundle(tmp_path)
    made = precision.convert(bundle.model.read_bytes(), "fp16", tiny_models.pictures(64, (32, 16)))
    left, right = (
        OnnxRuntimeBackend(model, bundle.card).infer(tiny_models.pictures(3, (32, 16)))["embedding"]
        for model in (made, bundle.model)
    )
    np.testing.assert_allclose(left, right, atol=1e-2)
    with pytest.raises(BundleError, match="no layer of this network can be int8"):
        precision.convert(bundle.model.read_bytes(), "int8", tiny_models.pictures(64, (32, 16)))


def boxes_from(rest: list[onnx.NodeProto], values: int, **constants: NDArray[np.generic]) -> bytes:
    """A detector of 64 cells: `rest` makes ``out`` of ``raw`` (n, 64, values)."""
    rng = np.random.default_rng(3)
    nodes = [
        node("Conv", ["x", "wide"], ["map"], strides=[8, 8]),
        node("Reshape", ["map", "to"], ["columns"]),
        node("Transpose", ["columns"], ["raw"], perm=[0, 2, 1]),
    ]
    constants["wide"] = rng.normal(size=(values, 3, 8, 8)).astype(np.float32) / 20
    constants["to"] = np.array([0, values, 64])
    return network([*nodes, *rest], constants, ("n", 3, 64, 64))


PARTS = {"parts": np.array([4, 1])}
SCORED = [node("Split", ["raw", "parts"], ["boxes", "logit"], axis=2), node("Sigmoid", ["logit"], ["score"])]
CHOSEN = [
    *SCORED,
    node("Transpose", ["score"], ["scores"], perm=[0, 2, 1]),
    node("NonMaxSuppression", ["boxes", "scores", "most", "iou", "least"], ["kept"]),
    node("Gather", ["kept", "place"], ["places"], axis=1),
    node("Concat", ["boxes", "score"], ["all"], axis=2),
    node("Gather", ["all", "places"], ["out"], axis=1),
]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(
            boxes_from(
                CHOSEN,
                5,
                **PARTS,
                most=np.array([20]),
                iou=np.array([0.5], np.float32),
                least=np.array([0.5], np.float32),
                place=np.array(2),
            ),
            r"returns \(1, 0, 5\) for one picture and \(1, \d+, 5\) for another: a choice of boxes is inside",
            id="suppression inside",
        ),
        pytest.param(
            boxes_from(
                [
                    node("Split", ["raw", "parts"], ["boxes", "logit", "kind"], axis=2),
                    node("Sigmoid", ["logit"], ["score"]),
                    node("Abs", ["kind"], ["positive"]),
                    node("Floor", ["positive"], ["class"]),
                    node("Concat", ["boxes", "score", "class"], ["out"], axis=2),
                ],
                6,
                parts=np.array([4, 1, 1]),
            ),
            r"value 6 of a box is a whole number up to \d+, its class it seems",
            id="class number",
        ),
        pytest.param(
            boxes_from([node("Sigmoid", ["raw"], ["out"])], 5),
            r"boxes reach to [01]\.\d+, shares of the picture it seems; expected pixels of the input, 64x64",
            id="boxes in shares of the picture",
        ),
        pytest.param(
            boxes_from([node("Transpose", ["raw"], ["out"], perm=[0, 2, 1])], 5),
            r"scores run from .*; it returns \(1, 5, 64\), values before boxes it seems",
            id="values before boxes",
        ),
    ],
)
def test_a_detector_that_returns_something_else_is_refused_with_what_it_looks_like(
    tmp_path: Path, data: bytes, said: str
) -> None:
    with pytest.raises(AdoptError, match=said):
        adopted(data, tmp_path, Recipe(kind="detector", licence="MIT"))
    assert not list(tmp_path.iterdir())


def test_a_file_of_a_newer_onnx_is_refused_with_the_reason(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(tiny_models.foreign_embedder())
    model.ir_version = 99
    with pytest.raises(AdoptError, match=r"ONNX Runtime cannot load it \(.* : Unsupported model IR version: 99, "):
        adopted(model.SerializeToString(), tmp_path)


def test_inputs_beside_the_picture_are_named(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(tiny_models.foreign_embedder())
    model.graph.input.append(onnx.helper.make_tensor_value_info("camera", onnx.TensorProto.FLOAT, [1]))
    with pytest.raises(AdoptError, match="takes x, camera, expected one input"):
        adopted(model.SerializeToString(), tmp_path)


def test_weights_in_another_file_are_refused_with_the_way_to_one_file(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(tiny_models.foreign_embedder())
    onnx.save(model, tmp_path / "theirs.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(
        AdoptError, match=r"single file: python -c 'import onnx; onnx.save\(onnx.load\(\"theirs.onnx\"\)"
    ):
        adopted((tmp_path / "theirs.onnx").read_bytes(), tmp_path / "out")


def test_colour_order_scale_mean_and_std_are_inside_the_graph(tmp_path: Path) -> None:
    recipe = Recipe(
        kind="embedder", colour="bgr", scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), licence="MIT"
    )
    data = tiny_models.foreign_embedder()
    adopted(data, tmp_path, recipe)
    pictures = tiny_models.pictures(4, (32, 16))
    pixels = (pictures[..., ::-1] / 255 - recipe.mean) / recipe.std
    expected = unit(original(data, pixels.astype(np.float32).transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(backends.load(load_bundle(tmp_path)).infer(pictures)["embedding"], expected, atol=1e-4)


def test_links_are_fitted_through_the_bundles_own_backend_and_the_card_says_what_it_is(tmp_path: Path) -> None:
    asked = []

    def fit(backend: object) -> object:
        asked.append(backend)
        return tiny_models.links(12)

    bundle = adopted(tiny_models.foreign_embedder(), tmp_path, licence="CC-BY-4.0", fit=fit)
    assert isinstance(asked[0], OnnxRuntimeBackend)
    assert load_bundle(tmp_path).links == tiny_models.links(12)
    assert (bundle.card.licence, bundle.card.synthetic_only, bundle.card.embedding_size) == ("CC-BY-4.0", False, 12)


@pytest.mark.parametrize(
    ("data", "recipe", "said"),
    [
        pytest.param(b"", EMBEDDER, "is no ONNX file", id="nothing"),
        pytest.param(b"PK\x03\x04 a zip", EMBEDDER, "is no ONNX file", id="not ONNX"),
        pytest.param(tiny_models.foreign_embedder()[:300], EMBEDDER, "is no ONNX file", id="truncated"),
        pytest.param(
            tiny_models.foreign_embedder(declared=(1, 13)), EMBEDDER, r"declares an output \(1, 13\) and returns \(1, 12\)",
            id="output of another shape than declared",
        ),
        pytest.param(
            tiny_models.foreign_embedder(), PRESETS["yolox"], r"returns \(1, 12\), expected \(1, boxes,", id="no detector"
        ),
        pytest.param(tiny_models.foreign_embedder(batch=4), EMBEDDER, "a fixed batch of 4", id="fixed batch"),
        pytest.param(tiny_models.foreign_embedder((4, 4)), EMBEDDER, "sides of 8 to 4096", id="tiny input"),
        pytest.param(tiny_models.foreign_embedder(), Recipe(kind="embedder"), "under which licence", id="no licence"),
        pytest.param(
            tiny_models.foreign_embedder(), Recipe(kind="embedder", mean=(1e6, 1e6, 1e6), licence="MIT"), "is this its preset",
            id="pixels drowned",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_adopted_is_refused_in_one_line_and_leaves_nothing(
    tmp_path: Path, data: bytes, recipe: Recipe, said: str
) -> None:
    with pytest.raises(AdoptError, match=said) as raised:
        adopted(data, tmp_path / "bundle", recipe)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "bundle").exists()


def test_yolox_boxes_are_decoded_as_its_authors_do() -> None:
    """Three cells by hand: (offset + cell) * stride is the centre, exp(size) * stride the size; score = object * class."""
    anchors = adopt_graph.anchors_of((64, 96))
    assert anchors == 8 * 12 + 4 * 6 + 2 * 3
    raw = np.zeros((1, anchors, 7), np.float32)
    raw[0, 0] = [0.5, 0.25, 0, np.log(2), 0.5, 0.8, 0.1]  # stride 8, cell (0, 0)
    raw[0, 13] = [0, 0, 0, 0, 0.5, 0.1, 0.6]  # stride 8, cell (1, 1): x = 1, y = 1
    raw[0, 96 + 7] = [0.5, 0.5, np.log(3), 0, 1, 1, 0]  # stride 16, cell x = 1, y = 1
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["x"], ["theirs/out"])],
            "raw",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", anchors, 7])],
            [],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 13)],
        ir_version=8,
    )
    adopt_graph.give_boxes(
        model, "theirs/out", anchors, size_hw=(64, 96), boxes="yolox-grid", objectness=True, person=0
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    boxes, scores = session.run(["boxes", "scores"], {"x": raw})
    np.testing.assert_allclose(boxes[0, 0], [0, -6, 8, 10], atol=1e-4)
    np.testing.assert_allclose(boxes[0, 13], [4, 4, 12, 12], atol=1e-4)
    np.testing.assert_allclose(boxes[0, 96 + 7], [0, 16, 48, 32], atol=1e-4)
    np.testing.assert_allclose(scores[0, [0, 13, 96 + 7]], [0.4, 0.05, 1], atol=1e-6)


@pytest.fixture(scope="module")
def frames(assets: Path) -> list[NDArray[np.uint8]]:
    """Six pictures of the real clip with one, two, three and no people in them."""
    wanted = {40, 200, 230, 300, 370, 540}
    with av.open(str(assets / "people-detection.264")) as clip:
        return [frame.to_ndarray(format="rgb24") for k, frame in enumerate(clip.decode(video=0)) if k in wanted]


def test_yolox_on_real_frames_is_the_same_alone_and_in_a_batch_and_as_the_original(
    assets: Path, frames: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    data = (assets / "yolox_nano_416.onnx").read_bytes()
    bundle = adopted(data, tmp_path, PRESETS["yolox"])
    assert (bundle.card.max_batch, bundle.card.input_hw, bundle.card.licence) == (8, (416, 416), "Apache-2.0")
    pictures, _ = letterbox(frames, (416, 416))
    backend = backends.load(bundle)
    together = backend.infer(pictures)
    for k in range(len(pictures)):
        for name, array in backend.infer(pictures[k : k + 1]).items():
            np.testing.assert_allclose(array[0], together[name][k], rtol=1e-5, atol=1e-5)
    raw = original(data, pictures[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32))
    np.testing.assert_allclose(together["scores"], raw[..., 4] * raw[..., 5], atol=1e-5)
    stride = np.repeat([8, 16, 32], [52 * 52, 26 * 26, 13 * 13])
    np.testing.assert_allclose(
        together["boxes"][..., 2] - together["boxes"][..., 0], np.exp(raw[..., 2]) * stride, rtol=1e-3, atol=1e-3
    )
    assert [int((scores > 0.5).any()) for scores in together["scores"]] == [1, 1, 1, 0, 1, 1]


def test_retail_0287_on_real_crops_is_repaired_and_the_same_alone_and_in_a_batch(
    assets: Path, frames: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    data = (assets / "person-reidentification-retail-0287.onnx").read_bytes()
    result = adopt(data, PRESETS["omz-reid"], tmp_path, name="retail-0287", where="retail-0287.onnx")
    assert result.notes[0] == "28 reductions no longer mix the images of a batch"
    assert (result.bundle.card.max_batch, result.bundle.card.embedding_size) == (32, 256)
    crops = [image[60:320, x : x + 130] for image in frames for x in (0, 200, 400, 600)]
    pictures = to_batch(crops, (256, 128))
    together = backends.load(result.bundle).infer(pictures)["embedding"]
    expected = unit(original(data, pictures[..., ::-1].astype(np.float32)))
    np.testing.assert_allclose((together * expected).sum(1), 1, atol=1e-5)
    assert np.abs(together - expected).max() < 1e-4
