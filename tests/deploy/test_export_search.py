import numpy as np
import onnx
import pytest
import torch
from torch import nn

from deploy import export_search
from deploy.export_search import SearchDetect
from stream.errors import BundleError, UsageError
from trainer.methods.person_search import MAX_IOU, MIN_SCORE, PersonSearch, PersonSearchRecipe
from trainer.scene_batch import collate, resized

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
        wanted = network.found(batch, MIN_SCORE, MAX_IOU)
        count = len(wanted[1])
        for have, want in zip((boxes, scores, vectors), wanted, strict=True):
            assert have.shape == (1, MOST, *want.shape[1:])
            assert torch.allclose(have[0, :count], want, atol=1e-4)
            assert have[0, count:].eq(0).all()
        counts.append(count)
    assert min(counts) > 0
    assert max(counts) < MOST


def test_both_graphs_answer_in_onnx_runtime_as_torch_does():
    network = _network()
    graphs = export_search.export_search(network, SIZE_HW, _scenes())  # raises where they do not
    detect, query = (onnx.load_from_string(graph) for graph in graphs)
    assert [output.name for output in detect.graph.output] == ["boxes", "scores", "embedding"]
    assert [put.name for put in query.graph.input] == ["images", "boxes"]
    assert {"NonMaxSuppression", "RoiAlign"} <= {node.op_type for node in detect.graph.node}
    for graph in (detect, query):
        assert not any("table" in each.name or "queue" in each.name for each in graph.graph.initializer)
        assert sum(np.prod(each.dims) for each in graph.graph.initializer) < 1.05 * sum(
            p.numel() for p in network.parameters()
        )
    with torch.no_grad():
        network.identity.weight.neg_()
    with pytest.raises(BundleError, match=r"embedding of the exported graph differs from torch's by"):
        export_search._check(network, graphs, _scenes(1))


def test_a_size_that_is_no_multiple_of_32_is_refused():
    with pytest.raises(UsageError, match="60x96, expected multiples of 32"):
        export_search.export_search(_network(), (60, 96), _scenes())


def test_roi_pooling_is_not_exported():
    with pytest.raises(UsageError, match='train with roi_op = "align"'):
        export_search.export_search(_network(roi_op="pool"), SIZE_HW, _scenes())
