import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stream.errors import UsageError
from trainer.losses import (
    CentreLoss,
    CosineSoftmax,
    batch_hard_triplet,
    pair_iou,
    quality_focal,
    smoothed_cross_entropy,
    supervised_contrastive,
)

TOY_A = ([[0, 0], [1, 0], [3, 0], [3, 2]], [0, 0, 1, 1])
TOY_B = ([[0, 0], [2, 0], [1, 0], [1, 1]], [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("toy", "margin", "expected"),
    [
        pytest.param(TOY_A, 0.3, 0.075, id="apart, hard margin"),
        pytest.param(TOY_A, None, 0.373928, id="apart, soft margin"),
        pytest.param(TOY_B, 0.3, 0.725, id="mixed, hard margin"),
        pytest.param(TOY_B, None, 0.956751, id="mixed, soft margin"),
    ],
)
def test_the_triplet_gives_the_values_worked_by_hand(toy, margin, expected):
    features, labels = toy
    loss = batch_hard_triplet(torch.tensor(features, dtype=torch.float32), torch.tensor(labels), margin)
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_a_triplet_of_one_person_is_refused():
    with pytest.raises(UsageError, match="two people"):
        batch_hard_triplet(torch.randn(4, 8), torch.zeros(4, dtype=torch.int64))


def test_a_triplet_of_identical_vectors_has_finite_gradients():
    features = torch.zeros(4, 8, requires_grad=True)
    batch_hard_triplet(features, torch.tensor([0, 0, 1, 1])).backward()
    assert torch.isfinite(features.grad).all()


def test_smoothed_cross_entropy_gives_the_values_worked_by_hand():
    logits, labels = torch.tensor([[2.0, 0, 0, 0]]), torch.tensor([0])
    assert float(smoothed_cross_entropy(logits, labels, 0.0)) == pytest.approx(0.340753, abs=1e-6)
    assert float(smoothed_cross_entropy(logits, labels, 0.1)) == pytest.approx(0.490753, abs=1e-6)


def test_smoothed_cross_entropy_is_torchs():
    logits, labels = torch.randn(6, 9), torch.arange(6)
    assert torch.allclose(
        smoothed_cross_entropy(logits, labels), F.cross_entropy(logits, labels, label_smoothing=0.1), atol=1e-6
    )


def test_the_cosine_softmax_does_not_see_lengths():
    head = CosineSoftmax(8, 5)
    features, labels = torch.randn(4, 8), torch.tensor([0, 1, 2, 3])
    plain = head(features, labels)
    assert torch.allclose(plain, head(features * 7, labels), atol=1e-5)
    with torch.no_grad():
        head.weight *= torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]])
    assert torch.allclose(plain, head(features, labels), atol=1e-5)


def test_box_overlaps_are_those_worked_by_hand():
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1]])
    b = torch.tensor([[1.0, 0, 3, 2], [2, 2, 3, 3]])
    iou, giou = pair_iou(a, b)
    assert iou.tolist() == pytest.approx([1 / 3, 0])
    assert giou.tolist() == pytest.approx([1 / 3, -7 / 9])


def test_quality_focal_is_least_where_the_score_is_the_target():
    target = torch.full((3,), 0.7)
    logits = torch.tensor([0.0, float(torch.logit(torch.tensor(0.7))), 3.0])
    losses = quality_focal(logits, target)
    assert losses[1] == losses.min() == pytest.approx(0, abs=1e-6)


def test_losses_are_full_floats_inside_autocast():
    torch.manual_seed(0)
    features, labels = 30 + torch.randn(8, 64), torch.arange(8) // 2
    head = CosineSoftmax(64, 4)
    plain = batch_hard_triplet(features, labels), head(features, labels)
    with torch.autocast("cpu", torch.bfloat16):
        inside = batch_hard_triplet(features, labels), head(features, labels)
        logits = F.linear(features, head.weight)
        assert logits.dtype == torch.bfloat16
        assert smoothed_cross_entropy(logits, labels).dtype == torch.float32
    assert all(a.dtype == torch.float32 and torch.equal(a, b) for a, b in zip(inside, plain, strict=True))


def test_losses_of_half_floats_are_full_floats():
    """As autocast hands them over: 16 bits went in, and no more are lost on the way."""
    torch.manual_seed(0)
    features, labels = (30 + torch.randn(8, 64)).bfloat16(), torch.arange(8) // 2
    centres = CentreLoss(64, 4).eval()
    for loss in (batch_hard_triplet, supervised_contrastive, CosineSoftmax(64, 4), centres):
        plain = loss(features.float(), labels)
        with torch.autocast("cpu", torch.bfloat16):
            inside = loss(features, labels)
        assert inside.dtype == torch.float32
        assert torch.equal(inside, plain)


def test_the_anchor_itself_changes_nothing():
    torch.manual_seed(0)
    features, labels = torch.randn(6, 4), torch.tensor([0, 0, 0, 1, 1, 1])
    distance = torch.cdist(features, features)
    same = labels[:, None] == labels[None]
    others = same & ~torch.eye(6, dtype=torch.bool)
    hardest = distance.where(others, torch.tensor(0.0)).amax(1) - distance.where(~same, torch.tensor(9e9)).amin(1)
    assert torch.allclose(batch_hard_triplet(features, labels), F.relu(0.3 + hardest).mean(), atol=1e-5)


def test_the_centre_loss_is_the_mean_squared_distance():
    loss = CentreLoss(2, 3).eval()
    loss.centres.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]]))
    before = loss.centres.clone()
    value = loss(torch.tensor([[3.0, 4.0], [1.0, 2.0]]), torch.tensor([0, 1]))
    assert float(value) == pytest.approx((25 + 1) / 2)
    assert torch.equal(loss.centres, before)  # they follow in training alone


def test_centres_move_as_gradient_descent_on_the_unweighted_loss_moves_them():
    torch.manual_seed(0)
    loss = CentreLoss(4, 3, rate=0.5)
    centres = loss.centres.clone().requires_grad_()
    optimiser = torch.optim.SGD([centres], lr=0.5)
    for _ in range(3):
        features, labels = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 1, 0])
        (features - centres[labels]).square().sum(1).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        loss(features, labels)
    assert torch.allclose(loss.centres, centres.detach(), atol=1e-6)
    assert "centres" in loss.state_dict()  # so a resumed run has them


def test_the_contrastive_loss_is_the_value_worked_by_hand():
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0], [0.0, 1.0]])
    value = supervised_contrastive(features, torch.tensor([0, 0, 0, 1]), temperature=1.0)
    e = np.e  # anchors 1 and 3: cosines 0 and 1 to their own, 0 to the other person; anchor 2: 0 and 0 to its own, 1 to the other
    first = -(np.log(1 / (e + 2)) + np.log(e / (e + 2))) / 2
    second = -np.log(1 / (e + 2))
    assert float(value) == pytest.approx((2 * first + second) / 3, abs=1e-6)


def test_the_contrastive_loss_of_strangers_alone_is_nothing_and_harmless():
    features = torch.randn(4, 8, requires_grad=True)
    loss = supervised_contrastive(features, torch.arange(4))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.isfinite(features.grad).all()
