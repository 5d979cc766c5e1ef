import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainer.augment import Augment
from trainer.regions import REGIONS, Locator, _max_cells, given_boxes, joint_boxes, location_loss, prior_boxes, sample

HEAD, LEFT, RIGHT, LEGS = range(4)


@pytest.fixture(autouse=True)
def _one_seed():
    torch.manual_seed(0)


def _standing(count):
    """A person who stands upright in the middle, every joint seen, the anatomical left side on the picture's right."""
    one = np.zeros((17, 3), np.float32)
    one[:, 2] = 0.9
    one[:, 0] = [0.5] + [0.5 + side * x for x in (0.03, 0.06, 0.15, 0.2, 0.22, 0.1, 0.1, 0.12) for side in (1, -1)]
    one[:, 1] = [0.1, 0.08, 0.08, 0.1, 0.1, *np.repeat([0.22, 0.36, 0.5, 0.52, 0.72, 0.93], 2)]
    return np.repeat(one[None], count, 0)


def test_the_first_head_is_the_maps_own_window_a_third_of_a_cell_further_down():
    x = torch.randn(1, 3, 64, 32)
    head = sample(x, prior_boxes(REGIONS[1])[HEAD : HEAD + 1], (8, 8))  # rows 1 1/3 to 9 1/3, columns 12 to 20
    window = x[:, :, 1:10, 12:20]
    assert torch.allclose(head, 2 / 3 * window[:, :, :8] + 1 / 3 * window[:, :, 1:], atol=1e-5)


def test_the_first_body_is_the_whole_map():
    x = torch.randn(2, 3, 16, 8)
    assert torch.allclose(sample(x, prior_boxes(REGIONS[3]).expand(2, -1), (16, 8)), x, atol=2e-6)


WHOLE = torch.tensor([[0.5, 0.5, 1.0, 1.0]])


def test_the_whole_map_made_smaller_is_plain_interpolation():
    x = torch.randn(1, 4, 16, 8)
    small = F.interpolate(x, (6, 5), mode="bilinear", align_corners=False)
    assert torch.allclose(sample(x, WHOLE, (6, 5)), small, atol=1e-5)


def test_a_box_of_whole_cells_is_an_exact_slice():
    x = torch.randn(1, 4, 16, 8)
    box = torch.tensor([[3.5 / 8, 7 / 16, 3 / 8, 6 / 16]])  # columns 2 to 5, rows 4 to 10
    assert torch.allclose(sample(x, box, (6, 3)), x[:, :, 4:10, 2:5], atol=2e-6)


def test_a_box_made_smaller_is_its_slice_interpolated():
    x = torch.randn(1, 4, 16, 8)
    box = torch.tensor([[4 / 8, 8 / 16, 4 / 8, 12 / 16]])  # columns 2 to 6, rows 2 to 14
    small = F.interpolate(x[:, :, 2:14, 2:6], (6, 2), mode="bilinear", align_corners=False)
    assert torch.allclose(sample(x, box, (6, 2)), small, atol=1e-5)


def test_made_larger_the_map_fades_to_zero_at_its_border():
    x = torch.ones(1, 1, 12, 8)
    large = sample(x, WHOLE, (24, 16))[0, 0]
    assert torch.allclose(large[1:-1, 1:-1], torch.ones(22, 14))
    assert torch.allclose(large[0, 1:-1], torch.full((14,), 0.75))


def test_outside_of_the_map_is_zero():
    assert not sample(torch.ones(1, 1, 8, 8), torch.tensor([[1.6, 0.5, 0.2, 0.2]]), (4, 4)).any()


@pytest.mark.parametrize(
    ("axis", "place", "sign"),
    [
        pytest.param(3, 0, 1.0, id="further right on a ramp to the right"),
        pytest.param(2, 1, 1.0, id="further down on a ramp downwards"),
    ],
)
def test_moving_a_box_up_a_ramp_raises_what_it_holds(axis, place, sign):
    ramp = torch.arange(16.0).view([1, 1, -1, 1] if axis == 2 else [1, 1, 1, -1]).expand(1, 1, 16, 16)
    box = torch.tensor([[0.5, 0.5, 0.25, 0.25]], requires_grad=True)
    gradient = torch.autograd.grad(sample(ramp, box, (4, 4)).mean(), box)[0][0]
    assert gradient[place] * sign == pytest.approx(16.0, rel=1e-4)  # one picture is sixteen cells, each one higher
    assert gradient[1 - place] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(("axis", "place"), [pytest.param(3, 2, id="wider"), pytest.param(2, 3, id="higher")])
def test_a_larger_box_on_a_ramp_moves_its_far_edge_up_and_its_near_edge_down(axis, place):
    ramp = torch.arange(16.0).view([1, 1, -1, 1] if axis == 2 else [1, 1, 1, -1]).expand(1, 1, 16, 16)
    box = torch.tensor([[0.5, 0.5, 0.25, 0.25]], requires_grad=True)
    held = sample(ramp, box, (4, 4)).mean((0, 1, 5 - axis))  # along the ramp
    near, far = (torch.autograd.grad(held[i], box, retain_graph=True)[0][0, place] for i in (0, -1))
    assert near == pytest.approx(-6.0, rel=1e-4)  # 3/8 of a side from the middle, times sixteen cells
    assert far == pytest.approx(6.0, rel=1e-4)


@pytest.mark.parametrize(
    "size_hw", [(64, 32), (16, 8), (8, 4), (4, 2), (12, 6), (9, 5)], ids=lambda hw: f"{hw[0]}x{hw[1]}"
)
def test_a_map_of_any_size_is_pooled_to_the_same_cells(size_hw):
    x = torch.randn(2, 3, *size_hw)
    assert torch.equal(_max_cells(x, (8, 4)), F.adaptive_max_pool2d(x, (8, 4)))


def test_sides_of_a_box_stay_within_reason():
    locator = Locator(8, REGIONS[3]).eval()
    for bias, expected in ((99.0, 2.0), (-99.0, 0.05)):
        nn.init.constant_(locator.out.bias, bias)
        assert torch.allclose(locator(torch.zeros(1, 8, 4, 2))[..., 2:], torch.tensor(expected))


# the location loss


def _box(x1, y1, x2, y2):
    return torch.tensor([[(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]])[None]


def _body(*points, score=0.9):
    joints = torch.zeros(1, 17, 3)
    for place, (x, y) in enumerate(points):
        joints[0, place] = torch.tensor([x, y, score])
    return joints


def _body_loss(box, joints):
    return float(location_loss(box, *joint_boxes(joints, REGIONS[3], 0.3)))


def test_the_worked_example_costs_0_005():
    joints = _body((0.25, 0.10), (0.75, 0.90))
    assert _body_loss(_box(0.2, 0.1, 0.8, 0.9), joints) == pytest.approx(0.005, abs=1e-6)


def test_the_joints_box_with_its_margin_costs_nothing():
    assert _body_loss(_box(0.2, 0.05, 0.8, 0.95), _body((0.25, 0.10), (0.75, 0.90))) == pytest.approx(0.0, abs=1e-9)


def test_a_joint_that_is_not_seen_moves_no_target():
    joints = _body((0.25, 0.10), (0.75, 0.90))
    joints[0, 2] = torch.tensor([5.0, -3.0, 0.3])  # a score of exactly the threshold is not above it
    assert _body_loss(_box(0.2, 0.05, 0.8, 0.95), joints) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    "joints",
    [
        pytest.param(torch.full((1, 17, 3), torch.nan), id="no annotation"),
        pytest.param(_body((0.2, 0.2), (0.6, 0.6), score=0.05), id="all hidden"),
        pytest.param(_body((0.2, 0.2)), id="one joint only"),
    ],
)
def test_a_picture_without_enough_joints_costs_nothing_and_teaches_nothing(joints):
    box = _box(0.1, 0.1, 0.3, 0.3).requires_grad_()
    loss = location_loss(box, *joint_boxes(joints, REGIONS[3], 0.3))
    loss.backward()
    assert loss == 0
    assert not box.grad.any()


def test_one_picture_with_joints_among_four_counts_whole():
    joints = torch.full((4, 17, 3), torch.nan)
    joints[2] = _body((0.25, 0.10), (0.75, 0.90))[0]
    assert _body_loss(_box(0.2, 0.1, 0.8, 0.9).expand(4, -1, -1), joints) == pytest.approx(0.005, abs=1e-6)


def test_a_target_may_reach_beyond_the_picture():
    targets, valid = joint_boxes(_body((0.01, 0.02), (0.99, 1.0)), REGIONS[3], 0.3)
    assert valid.all()
    assert torch.allclose(targets[0, 0], torch.tensor([-0.04, -0.03, 1.04, 1.05]))


def test_regions_of_a_stage_are_added_up():
    joints = torch.from_numpy(_standing(1))
    targets, valid = joint_boxes(joints, REGIONS[2], 0.3)
    boxes = prior_boxes(REGIONS[2])[None]
    apart = [location_loss(boxes[:, [r]], targets[:, [r]], valid[:, [r]]) for r in range(2)]
    assert location_loss(boxes, targets, valid) == pytest.approx(float(sum(apart)))
    assert min(apart) > 0


def test_a_mirror_swaps_the_torsos_halves_and_leaves_the_loss_of_mirrored_boxes():
    joints = torch.from_numpy(_standing(1))
    joints[..., 0] += 0.07 * joints[..., 1]  # nobody is symmetric
    pictures = torch.zeros(1, 64, 32, 3, dtype=torch.uint8)
    mirrored = Augment((64, 32), flip_p=1.0)(pictures, torch.Generator().manual_seed(0), joints=joints).joints
    before, valid = joint_boxes(joints, REGIONS[1], 0.3)
    after, _ = joint_boxes(mirrored, REGIONS[1], 0.3)
    reflected = torch.stack([1 - before[..., 2], before[..., 1], 1 - before[..., 0], before[..., 3]], -1)
    swapped = reflected[:, [HEAD, RIGHT, LEFT, LEGS]]
    assert torch.allclose(after, swapped, atol=1e-6)
    assert not torch.allclose(after[:, LEFT], reflected[:, LEFT], atol=0.05)
    boxes = torch.rand(1, 4, 4) + 0.1
    turned = boxes[:, [HEAD, RIGHT, LEFT, LEGS]]
    turned = torch.cat([1 - turned[..., :1], turned[..., 1:]], -1)
    assert location_loss(turned, after, valid) == pytest.approx(float(location_loss(boxes, before, valid)), rel=1e-5)


def test_boxes_from_joints_have_their_margin():
    boxes = given_boxes(_body((0.25, 0.10), (0.75, 0.90)), 0.3)
    assert torch.allclose(boxes[0, 6], torch.tensor([0.5, 0.5, 0.6, 0.9]), atol=1e-6)
