import pytest
import torch
import torch.nn.functional as F
from torchvision import ops

from stream.errors import DataError
from trainer.oim import BACKGROUND, UNLABELED
from trainer.proposals import ProposalHead, proposal_network, sample_regions
from trainer.scene_batch import SceneBatch

BOXES = torch.tensor([[10.0, 10, 40, 70], [60, 10, 90, 70]])
LABELS = torch.tensor([4, UNLABELED])


def _batch(height=96, width=128, scale=1.0):
    return SceneBatch(torch.zeros(1, 3, height, width), [(height, width)], [(scale, scale)])


def test_two_logits_and_a_softmax_are_one_logit():
    head = ProposalHead(32, 2)
    torch.nn.init.normal_(head.score.weight)
    x = torch.randn(1, 32, 3, 4)
    (logits,), (offsets,) = head([x])
    assert logits.shape == (1, 9, 3, 4)
    assert offsets.shape == (1, 36, 3, 4)
    pairs = head.score(torch.relu(head.conv(x))).view(1, 2, -1)  # background, person
    target = torch.randint(2, (1, 108))
    wanted = F.cross_entropy(pairs, target)
    assert torch.allclose(F.binary_cross_entropy_with_logits(logits.view(1, -1), target.float()), wanted, atol=1e-6)


def test_boxes_are_computed_in_single_precision_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        (logits,), (offsets,) = ProposalHead(32, 1)([torch.randn(1, 32, 3, 4)])
    assert logits.dtype == offsets.dtype == torch.float32


@pytest.mark.parametrize(
    ("variant", "judged"),
    [pytest.param("torchvision", True, id="torchvision"), pytest.param("caffe", False, id="caffe")],
)
def test_anchors_across_the_border_are_judged_by_torchvision_alone(variant, judged):
    network = proposal_network(32, variant, (16, 32, 64), 10)
    network._batch = _batch()
    anchors = torch.tensor([[-5.0, 60, 25, 90], [10, 10, 40, 70], [100, 40, 129, 80], [70, 30, 100, 60]])
    (labels,), (boxes,) = network.assign_targets_to_anchors([anchors], [{"boxes": BOXES[:1]}])
    assert labels.tolist() == [0.0 if judged else -1.0, 1, 0.0 if judged else -1.0, 0]
    assert boxes[1].tolist() == BOXES[0].tolist()
    assert boxes[0].tolist() == (BOXES[0] if judged else anchors[0]).tolist()


def test_a_scene_that_holds_no_anchor_is_refused_in_one_line():
    network = proposal_network(32, "caffe", (128, 256, 512), 10).train()
    with pytest.raises(DataError, match=r"no anchor lies inside a scene of 96x128.*anchor_sizes"):
        network(_batch(), {"stem": torch.randn(1, 32, 6, 8)}, [{"boxes": BOXES}])


@pytest.mark.parametrize(
    ("variant", "scale", "kept"),
    [
        pytest.param("torchvision", 1.0, 3, id="torchvision"),
        pytest.param("caffe", 1.0, 2, id="caffe"),
        pytest.param("caffe", 2.0, 1, id="caffe, scaled up"),
    ],
)
def test_tiny_proposals_are_dropped_by_caffe_alone(variant, scale, kept):
    network = proposal_network(32, variant, (16, 32, 64), 10).eval()
    network._batch = _batch(scale=scale)
    boxes = torch.tensor([[[0.0, 0, 15, 40], [20, 0, 40, 40], [50, 10, 90, 90]]])
    (found,), _ = network.filter_proposals(boxes, torch.zeros(3, 1), [(96, 128)], [3])
    assert len(found) == kept


@pytest.mark.parametrize("variant", ["torchvision", "caffe"])
def test_proposals_lie_inside_the_picture_and_overlap_at_most_by_0_7(variant):
    network = proposal_network(32, variant, (16, 32, 64), 10).eval()
    (found,), losses = network(_batch(), {"stem": torch.randn(1, 32, 6, 8)})
    assert 0 < len(found) <= 10
    assert not losses
    assert found.min() >= 0
    assert (found.amax(0)[2:] <= torch.tensor([128.0, 96])).all()
    assert ops.box_iou(found, found).fill_diagonal_(0).max() <= 0.7


@pytest.mark.parametrize("fg_iou", [0.5, 0.75])
def test_a_region_is_somebody_nobody_or_neither(fg_iou):
    proposals = torch.tensor(
        [
            [10.0, 10, 40, 50],  # two thirds of the first person
            [60, 12, 90, 70],  # nearly all of the second
            [12, 40, 40, 70],  # less than half
            [100, 80, 120, 95],
        ]
    )
    regions, labels, truth = sample_regions(proposals, BOXES, LABELS, 24, fg_iou)
    shown = {tuple(region.tolist()): label for region, label in zip(regions, labels.tolist(), strict=True)}
    wanted = {tuple(box): label for box, label in zip(BOXES.tolist(), LABELS.tolist(), strict=True)}  # appended
    wanted |= {tuple(proposals[1].tolist()): UNLABELED}
    wanted |= {tuple(proposals[2].tolist()): BACKGROUND, tuple(proposals[3].tolist()): BACKGROUND}
    if fg_iou == 0.5:
        wanted[tuple(proposals[0].tolist())] = 4
    assert shown == wanted
    owner = {4: BOXES[0], UNLABELED: BOXES[1]}
    for region, label, box in zip(regions, labels.tolist(), truth, strict=True):
        assert torch.equal(box, owner.get(label, region))


def test_at_most_a_quarter_of_the_regions_shows_people():
    crowd = BOXES[:1] + torch.randn(50, 4)
    nobody = torch.rand(100, 4) * 4 + torch.tensor([100.0, 80, 110, 90])
    regions, labels, _ = sample_regions(torch.cat([crowd, nobody]), BOXES[:1], LABELS[:1], 32, 0.5)
    assert len(regions) == 32
    assert (labels == 4).sum() == 8


def test_a_picture_without_people_is_all_background():
    regions, labels, truth = sample_regions(BOXES, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 8, 0.5)
    assert labels.tolist() == [BACKGROUND] * 2
    assert torch.equal(truth, regions)
