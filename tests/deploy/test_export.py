import copy
import dataclasses
from functools import partial

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from deploy import backends, diagnose, engine_check
from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bundle import load_bundle
from deploy.engine_graph import taken_form
from deploy.export import OPSET, Described, export, to_onnx
from deploy.gate import check
from deploy.links import camera_means, fit_links
from deploy.metadata import filled
from stream.errors import BundleError, DataError
from stream.model import IMAGENET_MEAN, IMAGENET_STD, ModelCard
from trainer import checkpoint
from trainer.checkpoint import Checkpoint
from trainer.methods import detector, osnet
from trainer.methods.detector import DetectorRecipe
from trainer.methods.osnet import OSNetRecipe
from trainer.serving import ServedEmbedder, TorchBackend, served
from trainer.tracklets import LabelledTracklet

SIZE_HW = (64, 32)
OSNET = OSNetRecipe(width=0.25, input_hw=SIZE_HW)
DESCRIBED = Described(
    "tiny", "1", "made by a test", ("noise",), {"noise/rank1": 0.5}, synthetic_only=True, licence="Apache-2.0"
)


pytestmark = pytest.mark.usefixtures("one_thread")


def _golden(size_hw=SIZE_HW):
    return np.random.default_rng(1).integers(0, 256, (4, *size_hw, 3), dtype=np.uint8)


def _tracklets(people=150, seed=0):
    """Sites of thirty people, everybody twice on each of two cameras, in a colour of their own that the second camera shifts."""
    rng = np.random.default_rng(seed)
    found = []
    for person in range(people):
        colours = rng.integers(30, 190, (2, 3))
        for camera in (0, 1):
            for _ in range(2):
                crops = []
                for _ in range(1):
                    crop = rng.integers(0, 25, (40, 16, 3)) + 30 * camera
                    crop[:20] += colours[0]
                    crop[20:] += colours[1]
                    crops.append(crop.astype(np.uint8))
                found.append(LabelledTracklet(person // 30, person, camera, crops))
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of two untrained networks."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, recipe, network in (
        ("osnet", OSNET, osnet.embedder(OSNET)),
        ("detector", DetectorRecipe(input_hw=(64, 96)), detector.PersonDetector()),
    ):
        checkpoint.save(
            folder / f"{name}.pt",
            Checkpoint(recipe=recipe.model_dump(mode="json"), progress=1.0, step=1, network=network.state_dict()),
        )
    return folder


@pytest.fixture(scope="module")
def bundle(saved, tmp_path_factory):
    """The embedder's bundle: exporting takes seconds, so it is done once."""
    folder = tmp_path_factory.mktemp("bundle")
    return export(
        saved / "osnet.pt",
        folder,
        DESCRIBED,
        _golden(),
        fit=partial(fit_links, tracklets=_tracklets(), fitted_on="noise"),
    )


@pytest.fixture(scope="module")
def backend(bundle):
    return backends.load(bundle)


@pytest.fixture(scope="module")
def in_torch(saved):
    network = osnet.embedder(OSNET)
    network.load_state_dict(checkpoint.load(saved / "osnet.pt").network)
    return TorchBackend(ServedEmbedder(network))


def test_a_network_that_torch_takes_to_a_gpu_is_exported_all_the_same(saved, monkeypatch, tmp_path):
    """The exporter's examples are on the CPU; in place of the GPU a device without numbers."""

    class Away(TorchBackend):
        def __init__(self, module):
            super().__init__(copy.deepcopy(module))
            module.to("meta")

    monkeypatch.setattr("deploy.export.TorchBackend", Away)
    assert export(saved / "osnet.pt", tmp_path, DESCRIBED, _golden()).card.embedding_size == 512


@pytest.mark.parametrize("name", ["osnet", "detector"])
def test_a_threshold_that_the_kind_has_not_is_refused_before_the_work(name, saved, monkeypatch, tmp_path):
    monkeypatch.setattr("deploy.export.to_onnx", lambda *_: pytest.fail("it was exported"))
    asked = dataclasses.replace(DESCRIBED, defaults={"bogus": 2.0})
    golden = _golden() if name == "osnet" else np.zeros((2, 64, 96, 3), np.uint8)
    with pytest.raises(BundleError, match=r"bogus is no threshold of this (embedder|detector); known: "):
        export(saved / f"{name}.pt", tmp_path, asked, golden)


def _card():
    return ModelCard(
        name="tiny", version="1", kind="embedder", input_hw=SIZE_HW, outputs={"embedding": (512,)}, max_batch=8,
        embedding_size=512, synthetic_only=True, licence="Apache-2.0", digest="0" * 64,
    )  # fmt: skip


def test_an_exported_embedder_is_a_bundle_that_answers_as_torch_did(bundle, backend, in_torch):
    read = load_bundle(bundle.path, "embedder")
    assert read.card.input_hw == SIZE_HW
    assert read.card.embedding_size == 512
    assert read.links is not None
    assert read.links.fitted_on == "noise"
    assert len(read.links.mean) == 512
    pictures = np.random.default_rng(2).integers(0, 256, (5, *SIZE_HW, 3), dtype=np.uint8)
    vectors = backend.infer(pictures)["embedding"]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.abs(vectors - in_torch.infer(pictures)["embedding"]).max() < 1e-4


def test_what_a_graph_must_equal_is_not_rounded_by_a_gpu():
    class Asked(torch.nn.Module):
        def forward(self, planes):
            rounds.append(torch.backends.cudnn.allow_tf32)
            return planes.mean((2, 3))

    rounds = []
    assert torch.backends.cudnn.allow_tf32  # as torch has it
    TorchBackend(ServedEmbedder(Asked())).infer(_golden())
    assert rounds == [False]
    assert torch.backends.cudnn.allow_tf32


def test_an_exported_detector_may_take_another_input_size(saved, tmp_path):
    bundle = export(saved / "detector.pt", tmp_path / "b", DESCRIBED, _golden((96, 128)), input_hw=(96, 128))
    cells = 12 * 16 + 6 * 8 + 3 * 4
    assert bundle.card.outputs == {"boxes": (cells, 4), "scores": (cells,)}
    out = backends.load(bundle).infer(_golden((96, 128)))
    assert (out["scores"] >= 0).all()
    assert (out["scores"] <= 1).all()
    assert (out["boxes"][..., 2:] > out["boxes"][..., :2]).all()


def test_a_detector_s_graph_is_its_network_alone_and_of_operators_that_tensorrt_lists(saved):
    module, size_hw = served(checkpoint.load(saved / "detector.pt"))
    data = to_onnx(module, size_hw)
    model = onnx.load_from_string(data)
    weights = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    own = {name for name in weights if name.startswith("network.")}
    assert {name.split(".")[1] for name in own} == {
        "stem", "stage8", "stage16", "stage32", "lateral", "smooth", "down", "head", "score", "box", "head_score", "head_box",
    }  # fmt: skip
    cells = 8 * 12 + 4 * 6 + 2 * 3
    assert max(weights[name].size for name in weights.keys() - own) == cells  # their middles, across and down
    varied = [weights[name].tobytes() for name in own if weights[name].size > 64 and np.ptp(weights[name]) > 0]
    assert len(varied) == len(set(varied)) > 20
    stored = sum(values.nbytes for values in weights.values())
    assert stored < 1.01 * sum(values.nbytes for values in module.state_dict().values())
    assert len(data) < stored + 100_000
    assert "NonMaxSuppression" not in {node.op_type for node in model.graph.node}  # its thresholds are a site's to set
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)]
    assert engine_check.check(taken_form(model)).unsupported == ()


def test_nothing_of_this_machine_is_written_into_the_graph(bundle):
    model = bundle.model.read_bytes()
    assert b".py" not in model
    assert b"/" + b"work" not in model


def test_a_graph_that_answers_otherwise_than_torch_is_refused(bundle, in_torch):
    model = onnx.load(bundle.model)
    weights = next(i for i in model.graph.initializer if i.name.endswith("conv5.conv.weight") or "conv5" in i.name)
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * 1.05 + 0.01, weights.name))
    with pytest.raises(BundleError, match=r"embedding .* for pictures alone \(fp32\): looks like other weights"):
        check(OnnxRuntimeBackend(model.SerializeToString(), _card()), in_torch.infer(_golden()), _golden())


def test_a_graph_that_mixes_the_pictures_of_a_batch_is_refused(bundle, in_torch):
    model = onnx.load(bundle.model)
    output = model.graph.output[0].name
    last = next(node for node in model.graph.node if output in node.output)
    last.output[0] = "own"
    axes = numpy_helper.from_array(np.array([0], np.int64), "axes")
    model.graph.initializer.append(axes)
    model.graph.node.append(helper.make_node("ReduceMean", ["own", "axes"], ["batch_mean"], keepdims=1))
    model.graph.node.append(helper.make_node("Add", ["own", "batch_mean"], ["double"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    model.graph.node.append(helper.make_node("Mul", ["double", "half"], [output]))
    with pytest.raises(BundleError, match=r"in a batch of 3 .* mixes the pictures of a batch"):
        check(OnnxRuntimeBackend(model.SerializeToString(), _card()), in_torch.infer(_golden()), _golden())


def test_a_higher_similarity_is_better_evidence_in_both_rows(backend):
    links = fit_links(backend, _tracklets(seed=3), fitted_on="colours")
    for row in (links.same, links.other):
        assert row.b > 0
        assert row.a < 0
        assert row.same_pairs >= 200 or row is links.same


def test_too_few_people_are_refused_with_what_is_needed(backend):
    with pytest.raises(DataError, match=r"same-person pairs for the row .* at least 200"):
        fit_links(backend, _tracklets(people=5), fitted_on="colours")


def test_links_are_the_same_whenever_they_are_fitted(backend):
    first, second = (fit_links(backend, _tracklets(seed=3), fitted_on="x") for _ in range(2))
    assert msgspec.json.encode(first) == msgspec.json.encode(second)


def test_a_camera_that_saw_nobody_has_the_site_s_mean_and_one_that_saw_many_its_own():
    pooled = np.array([[1.0, 0]] * 300 + [[0.0, 1]])
    cameras = np.array([0] * 300 + [1])
    means = camera_means(pooled, cameras, np.array([0.0, 0.0]))
    assert means[0] == pytest.approx([1, 0], abs=0.02)
    site = (np.array([300.0, 1.0])) / 304
    assert means[1] == pytest.approx((3 * site + [0, 1]) / 4)


def test_the_normalisation_that_a_diagnosis_tries_is_that_of_training():
    assert pytest.approx(255 * np.array(IMAGENET_MEAN)) == diagnose.MEAN
    assert pytest.approx(255 * np.array(IMAGENET_STD)) == diagnose.DEVIATION


def test_the_graph_says_in_its_metadata_what_it_is(bundle):
    model = onnx.load(bundle.model)
    said = {each.key: each.value for each in model.metadata_props}
    assert said.pop("made_by").startswith("sightline ")
    assert said == {
        "name": "tiny", "version": "1", "kind": "embedder", "precision": "fp32", "opset": "18", "licence": "Apache-2.0",
        "input": "RGB uint8 (N, 64, 32, 3)",
        "preprocessing": "inside the graph: (x * 0.00392157 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225), RGB",
    }  # fmt: skip
    assert bundle.card.opset == 18
    assert model.producer_name == "sightline"
    assert not model.graph.value_info
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def test_metadata_written_again_replaces_what_was_there_and_moves_no_weight(bundle):
    before = bundle.model.read_bytes()
    card = msgspec.structs.replace(bundle.card, name="again")
    after, noted = filled(before, card)
    said = {each.key: each.value for each in onnx.load_from_string(after).metadata_props}
    assert said["name"] == "again"
    assert said["preprocessing"].startswith("inside the graph: (x * 0.00392157")
    assert noted.opset == 18
    weight = max(onnx.load_from_string(before).graph.initializer, key=lambda each: len(each.raw_data)).raw_data
    assert after.index(weight) == before.index(weight)
