import json

import cv2
import numpy as np
import onnx
import pytest
import scipy.io
import torch
from torch import nn

from deploy import engine_build, engine_check, export_search, search_people
from deploy.bundle import load_bundle, write_bundle
from deploy.cli import status_of
from deploy.export import OPSET, Described
from deploy.export_search import SearchDetect
from deploy.searcher import Searcher
from stream.errors import BundleError, UsageError
from tests.deploy.scenes import labelled_scenes
from trainer import checkpoint
from trainer.checkpoint import Checkpoint
from trainer.methods.person_search import MAX_IOU, PersonSearch, PersonSearchRecipe
from trainer.scene_batch import collate, resized

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE_HW = (64, 96)
MOST = 12


def _network(**values):
    """Finds some people anywhere, with boxes that are not the proposals."""
    torch.manual_seed(0)
    small = {"backbone": "googlenet", "weights": "", "input_hw": SIZE_HW, "anchor_sizes": (225, 450, 900)}
    network = PersonSearch(PersonSearchRecipe(**(small | {"max_proposals_test": MOST} | values))).eval()
    nn.init.normal_(network.score.weight, std=3.0)
    nn.init.normal_(network.box.weight, std=1.0)
    return network


def _scenes(count=2):
    return np.random.default_rng(0).integers(0, 255, (count, *SIZE_HW, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({}, id="default"),
        pytest.param({"attention": "both", "attention_scope": "id"}, id="identity alone"),
        pytest.param({"rpn_variant": "caffe"}, id="caffe"),
        pytest.param({"attention_place": "stem", "spatial_transformer": True}, id="mask on the stem"),
    ],
)
@torch.inference_mode()
def test_arrays_of_fixed_length_hold_what_a_search_finds_and_then_zeros(keys):
    network = _network(**keys)
    detect = SearchDetect(network, SIZE_HW).eval()
    counts = []
    for scene in _scenes(3):
        boxes, scores, vectors = detect(torch.from_numpy(scene[None]))
        batch = collate([resized(scene, SIZE_HW, torch.device("cpu"))], [(1.0, 1.0)])
        wanted = network.found(batch, 0.0, MAX_IOU)
        count = len(wanted[1])
        for have, want in zip((boxes, scores, vectors), wanted, strict=True):
            assert have.shape == (1, MOST, *want.shape[1:])
            assert torch.allclose(have[0, :count], want, atol=1e-4)
            assert have[0, count:].eq(0).all()
        counts.append(count)
    assert min(counts) > 0
    assert min(counts) < MOST


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Exporting takes seconds, so it is done once."""
    folder, network = tmp_path_factory.mktemp("search"), _network()
    saved = Checkpoint(network.recipe.model_dump(mode="json"), 1.0, 1, network.state_dict())
    checkpoint.save(folder / "checkpoint.pt", saved)
    described = Described("tiny", "1", "made by a test", ("noise",), {}, synthetic_only=True, licence="MIT")
    shares = []
    made = export_search.export_person_search(
        folder / "checkpoint.pt", folder / "bundle", described, _scenes(), scenes=labelled_scenes(SIZE_HW),
        fitted_on="noise", report=shares.append,
    )  # fmt: skip
    assert shares == sorted(shares)
    return made


def test_a_person_search_is_a_bundle_of_two_graphs_that_share_their_weights(bundle):
    read = load_bundle(bundle.path, "person-search")
    card = read.card
    assert (card.input_hw, card.max_batch, card.embedding_size) == (SIZE_HW, 1, 256)
    assert (card.licence, card.data_sets) == ("MIT", ("noise",))
    assert card.outputs == {"boxes": (MOST, 4), "scores": (MOST,), "embedding": (MOST, 256)}
    assert read.links is not None
    assert (len(read.links.mean), read.links.fitted_on) == (256, "noise")
    assert card.digests.keys() == {"golden.npz", "links.json", "query.onnx"}
    onnx.checker.check_model(read.query, full_check=True)
    detect, query = (onnx.load(path, load_external_data=False) for path in (read.model, read.query))
    assert [output.name for output in detect.graph.output] == ["boxes", "scores", "embedding"]
    assert [put.name for put in query.graph.input] == ["images", "boxes"]
    assert {"NonMaxSuppression", "RoiAlign"} <= {node.op_type for node in detect.graph.node}
    assert "NonMaxSuppression" not in {node.op_type for node in query.graph.node}
    weights = sum(p.numel() for p in _network().parameters())
    assert read.model.stat().st_size < 1.05 * 4 * weights
    assert read.query.stat().st_size < 0.05 * 4 * weights


@pytest.mark.parametrize(
    ("name", "kept", "takes"),
    [
        pytest.param(
            "model.onnx", {"stem", "proposals", "head", "attention", "score", "box", "identity"}, "", id="detect"
        ),
        pytest.param(
            "query.onnx",
            {"stem", "head", "attention", "identity"},
            ", boxes float32 (n, 4) xyxy in its pixels",
            id="query",
        ),
    ],
)
def test_of_the_training_no_table_nor_queue_remains_and_each_graph_is_clean(name, kept, takes, bundle):
    graph = onnx.load(bundle.path / name)
    own = {each.name for each in graph.graph.initializer if each.name.startswith("network.")}
    assert {each.split(".")[1] for each in own} == kept
    others = [each for each in graph.graph.initializer if each.name not in own]
    anchors = 4 * 6 * 9  # cells, and shapes in each
    assert max(int(np.prod(each.dims)) for each in others) <= 4 * anchors  # their sides
    onnx.checker.check_model(graph, full_check=True)
    onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True, data_prop=True)
    assert [(each.domain, each.version) for each in graph.opset_import] == [("", OPSET)]
    said = {each.key: each.value for each in graph.metadata_props}
    assert (said["name"], said["kind"], said["precision"], said["opset"]) == ("tiny", "person-search", "fp32", "18")
    assert said["input"] == f"RGB uint8 (1, 64, 96, 3){takes}"
    assert said["preprocessing"].startswith("inside the graph: ")
    assert engine_check.check(engine_build.prepared(bundle.path / name)).unsupported == ()


def test_a_bundle_finds_and_describes_in_frames_of_any_size_as_the_network_does(bundle):
    searcher, network = Searcher(bundle), _network()
    (scene,) = _scenes(1)
    large = scene.repeat(2, 0).repeat(2, 1)  # letterboxed to the same pixels
    (boxes,), (scores,), (vectors,) = searcher.search([large], 0.5)
    batch = collate([resized(scene, SIZE_HW, torch.device("cpu"))], [(1.0, 1.0)])
    with torch.inference_mode():
        wanted = [each.numpy() for each in network.found(batch, 0.5, MAX_IOU)]
    assert len(scores) == len(wanted[1]) > 0
    np.testing.assert_allclose(boxes, 2 * wanted[0], atol=1)
    np.testing.assert_allclose(scores, wanted[1], atol=1e-4)
    np.testing.assert_allclose(vectors, wanted[2], atol=1e-4)
    (described,) = searcher.embed([large], [boxes[:2]])
    np.testing.assert_allclose(described, network.embed([scene], [boxes[:2] / 2])[0], atol=1e-4)
    assert searcher.embed([large], [boxes[:0]])[0].shape == (0, 256)
    searcher.close()


def test_a_bundle_is_scored_as_its_checkpoint_is(bundle, tmp_path):
    frames = _prw(tmp_path / "prw")
    report = tmp_path / "scores.json"
    models = [str(bundle.path.parent / "checkpoint.pt"), str(bundle.path)]
    words = ["--data", "prw", "--root", str(frames), "--threads", "1", "--json", str(report)]
    assert status_of(["evaluate", *models, *words]) == 0
    in_torch, served = (model["scores"] for model in json.loads(report.read_text())["models"])
    assert {"prw/detection/AP", "prw/seqnet/mAP", "prw/seqnet/top1"} <= served.keys()
    assert served == pytest.approx(in_torch, abs=0.02)


def _prw(root):
    """Four frames of two cameras in PRW's layout, as large as the network takes them, and two people in each."""
    rng = np.random.default_rng(0)
    names = [f"c{camera}s1_{number:06d}" for camera in (1, 2) for number in (1, 2)]
    for folder in ("frames", "annotations"):
        (root / folder).mkdir(parents=True)
    for name in names:
        cv2.imwrite(str(root / "frames" / f"{name}.jpg"), rng.integers(0, 255, (*SIZE_HW, 3), dtype=np.uint8))
        boxes = [[1, 4, 4, 20, 50], [2, 50, 6, 24, 52]]
        scipy.io.savemat(root / "annotations" / f"{name}.jpg.mat", {"box_new": np.array(boxes, float)})
    for split in ("train", "test"):
        index = np.array([[name] for name in names], dtype=object)
        scipy.io.savemat(root / f"frame_{split}.mat", {f"img_index_{split}": index})
    (root / "query_info.txt").write_text("1 4 4 20 50 c1s1_000001\r\n2 50 6 24 52 c1s1_000001\r\n")
    return root


def test_graphs_that_answer_otherwise_than_torch_are_refused(bundle):
    searcher, network, scenes = Searcher(bundle), _network(), _scenes()
    boxes = bundle.golden()["query_boxes"]
    expected, described = export_search.in_torch(network, SIZE_HW, scenes, boxes)
    graphs = searcher.backend, searcher.query
    export_search.check(*graphs, scenes, expected, boxes, described)
    with pytest.raises(BundleError, match="vectors of given boxes have cosine -1"):
        export_search.check(*graphs, scenes, expected, boxes, -described)
    turned = expected | {"embedding": -expected["embedding"]}
    with pytest.raises(
        BundleError, match=r"do not answer as torch does: (\d+) of \1 people differ.*nothing was written"
    ):
        export_search.check(*graphs, scenes, turned, boxes, described)
    nobody = expected | {"scores": 0 * expected["scores"]}
    with pytest.raises(BundleError, match=r"gives no box in 2 scenes.*train it longer"):
        export_search.check(*graphs, scenes, nobody, boxes, described)
    searcher.close()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"boxes": 3.0}, id="a box elsewhere"),
        pytest.param({"scores": -0.3}, id="another score"),
        pytest.param({"boxes": np.nan}, id="not a number"),
    ],
)
def test_people_are_the_same_by_where_they_stand_not_by_their_place_in_the_list(change):
    rng = np.random.default_rng(0)
    xyxy = np.array([[[0, 0, 20, 60], [40, 0, 60, 60], [80, 0, 99, 60], [0, 0, 0, 0]]], np.float32)
    vectors = rng.normal(size=(1, 4, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    one = {"boxes": xyxy, "scores": np.array([[0.9, 0.8, 0.7, 0.0]], np.float32), "embedding": vectors}
    limits = {"score": 0.01, "box_px": 0.5, "cosine": 0.999}
    order = [2, 0, 1, 3]
    other = {name: values[:, order] for name, values in one.items()}
    assert search_people.differ(one, other, **limits) is None
    for name, by in change.items():
        other[name] = other[name].copy()
        other[name][0, 1] += by
    assert search_people.differ(one, other, **limits) is not None


def test_a_size_that_is_no_multiple_of_32_is_refused():
    with pytest.raises(UsageError, match="60x96, expected multiples of 32"):
        export_search.to_graphs(_network(), (60, 96))


def test_roi_pooling_is_not_exported():
    with pytest.raises(UsageError, match='train with roi_op = "align"'):
        export_search.to_graphs(_network(roi_op="pool"), SIZE_HW)


@pytest.mark.parametrize(
    ("input_hw", "served"),
    [
        pytest.param((900, 1500), (864, 1504), id="the paper's"),
        pytest.param((448, 736), (416, 736), id="a trial's"),
        pytest.param((64, 96), (64, 96), id="small"),
    ],
)
def test_cameras_are_served_as_large_as_they_were_trained_on(input_hw, served):
    assert export_search.served_hw(PersonSearchRecipe(input_hw=input_hw)) == served


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    for place, scene in enumerate(np.tile(_scenes(2), (32, 1, 1, 1))):
        cv2.imwrite(str(folder / f"{place}.png"), scene)
    return folder


def test_a_person_search_is_written_again_in_half_precision(bundle, calibration, tmp_path, capsys):
    command = ["export", str(bundle.path), "--precision", "fp16", "--calibration", str(calibration)]
    assert status_of([*command, "--output", str(tmp_path / "half")]) == 0
    assert "in fp16 it passed the gate in ONNX Runtime and OpenVINO\n" in capsys.readouterr().out
    half = load_bundle(tmp_path / "half")
    assert half.card.precision == "fp16"
    assert half.model.stat().st_size < 0.6 * bundle.model.stat().st_size
    assert half.query.stat().st_size < 0.1 * half.model.stat().st_size
    for path in (half.model, half.query):
        words = {each.key: each.value for each in onnx.load(path, load_external_data=False).metadata_props}
        assert (words["name"], words["precision"]) == ("tiny-fp16", "fp16")
        assert words["preprocessing"].startswith("inside the graph: ")
    boxes = np.array([[10, 5, 40, 60]], np.float32)
    # a query graph that half precision changed too much is no bundle, though serving would take it
    arrays = dict(bundle.golden())
    told = arrays["query_embedding"].astype(np.float32)
    aside = np.roll(told, 1, -1) - (np.roll(told, 1, -1) * told).sum(-1, keepdims=True) * told
    told = told + 0.06 * aside / np.linalg.norm(aside, axis=-1, keepdims=True)
    arrays["query_embedding"] = told / np.linalg.norm(told, axis=-1, keepdims=True)
    model, query = bundle.model.read_bytes(), bundle.query.read_bytes()
    other = write_bundle(tmp_path / "other", model, bundle.card, arrays, bundle.links, query)
    command[1] = str(other.path)
    assert status_of([*command, "--output", str(tmp_path / "worse")]) == 1
    assert "vectors of given boxes have cosine 0.998" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "worse").exists()
    (vectors,), (expected,) = (Searcher(each).embed(_scenes(1), [boxes]) for each in (half, bundle))
    assert (vectors * expected).sum(1) > 0.999


def test_a_query_graph_that_is_none_is_said_in_one_line(bundle, calibration, tmp_path, capsys):
    model = bundle.model.read_bytes()
    broken = write_bundle(tmp_path / "broken", model, bundle.card, bundle.golden(), bundle.links, b"no graph")
    command = ["export", str(broken.path), "--precision", "fp16", "--calibration", str(calibration)]
    assert status_of([*command, "--output", str(tmp_path / "half")]) == 1
    said = capsys.readouterr().err
    assert "query.onnx is no ONNX graph: make the bundle again with `sightline export`" in " ".join(said.split())
    assert not (tmp_path / "half").exists()


def test_a_checkpoint_in_another_precision_is_two_commands(bundle, tmp_path, capsys):
    command = [
        "export",
        str(bundle.path.parent / "checkpoint.pt"),
        "--output",
        str(tmp_path / "made"),
        "--name",
        "tiny",
    ]
    assert status_of([*command, "--precision", "int8"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "leave --precision out, then `sightline export" in said
    assert "--precision int8 --output DIR`" in said
    assert not (tmp_path / "made").exists()
