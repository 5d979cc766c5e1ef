import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stream.errors import SettingsError
from tests.trainer import magnifiernet_small as small
from trainer.methods import magnifiernet as m
from trainer.settings import make_recipe

ALL = [0, 1, 2, 3, 4, 5, 6, 7]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def task():
    return small.trained()


@pytest.fixture
def batch():
    return small.batch()


def _parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


# counts, shapes, cost


@pytest.mark.parametrize(
    ("keys", "whole", "alone"),
    [
        pytest.param({}, 47_062_600, 37_817_928, id="gru, no bias"),
        pytest.param({"classifier_bias": True}, 47_070_861, 37_817_928, id="gru"),
        pytest.param({"classifier_bias": True, "sfb": "lstm"}, 49_170_061, 39_917_128, id="lstm, as the code"),
    ],
)
def test_parameters_are_counted_to_the_last(keys, whole, alone):
    with torch.device("meta"):
        recipe = m.MagnifierNetRecipe(**keys)
        assert _parameters(*m.build(recipe, 751)) == whole
        assert _parameters(m.embedder(recipe)) == alone


def test_each_part_has_the_parameters_of_the_authors_code():
    with torch.device("meta"):
        network, head = m.build(m.MagnifierNetRecipe(sfb="lstm", classifier_bias=True), 751)
    counts = {
        "trunk": _parameters(network.trunk),
        "global neck": _parameters(network.neck),
        "mask head": _parameters(network.mask),
        "sab": _parameters(network.sab),
        "bottleneck": _parameters(network.sab.bottleneck),
        "sfb": _parameters(network.sfb, head.region_necks),
        "lstm": _parameters(network.sfb.recurrent),
        "global classifier": _parameters(head.whole),
        "sab classifier": _parameters(head.sab),
        "sfb classifier": _parameters(head.sfb),
        "region classifiers": _parameters(head.regions),
    }
    assert counts == {
        "trunk": 23_508_032,
        "global neck": 4_096,
        "mask head": 4_721_160,
        "sab": 2_167_808,
        "bottleneck": 1_117_184,
        "sfb": 9_532_416,
        "lstm": 8_396_800,
        "global classifier": 1_538_799,
        "sab classifier": 769_775,
        "sfb classifier": 769_775,
        "region classifiers": 6_158_200,
    }


def test_shapes_at_full_size():
    with torch.device("meta"):
        recipe = m.MagnifierNetRecipe()
        network = m.embedder(recipe).eval()
        shallow, deep = network.maps(torch.empty(2, 3, *recipe.input_hw))
        ids = network.mask(deep)
        regions = network.sfb.pool(shallow, m.region_masks(ids.argmax(1), "bilinear"))
        fused, own = network.sfb.fuse(regions)
        assert shallow.shape == (2, 1024, 24, 12)
        assert deep.shape == (2, 2048, 24, 12)
        assert ids.shape == (2, 8, 48, 24)
        assert regions.shape == own.shape == (2, 8, 1024)
        assert fused.shape == network.sab(shallow).shape == (2, 1024)
        assert network(torch.empty(2, 3, *recipe.input_hw)).shape == (2, 4096)


def test_multiply_adds_at_full_size():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = m.embedder(m.MagnifierNetRecipe()).eval()
        network(torch.empty(1, 3, 384, 192))
    total = counter.get_total_flops() / 2
    trunk = sum(counter.get_flop_counts()["MagnifierNet.trunk"].values()) / 2
    deconv = sum(counter.get_flop_counts()["MagnifierNet.mask.deconv"].values()) / 2
    recurrent = 8 * 2 * 3 * 1024 * 1024  # steps, input and state, gates
    assert trunk == pytest.approx(9.12e9, rel=1e-3)
    assert deconv == pytest.approx(1.359e9, rel=1e-3)
    assert total == pytest.approx(11.17e9, rel=1e-3)
    assert total - deconv - recurrent == pytest.approx(9.765e9, rel=1e-3)


# switches

WIDTHS = {"G": 2048, "G + M": 2048, "G + M + SAB": 3072, "G + M + SFB": 3072}


@pytest.mark.parametrize("row", m.ABLATIONS)
def test_every_row_builds_and_says_its_embedding_size(row):
    with torch.device("meta"):
        network, _ = m.build(m.MagnifierNetRecipe(**m.ABLATIONS[row]), 10)
        assert network.eval()(torch.empty(2, 3, *small.HW)).shape == (2, WIDTHS.get(row, 4096))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        pytest.param({"khat": 3}, "expected 2, 4 or 6", id="odd khat"),
        pytest.param({"khat": 1}, "expected 2, 4 or 6", id="khat 1"),
        pytest.param({"khat": 7, "sab_strategy": "random_torso"}, "expected 2, 4 or 6", id="khat 7"),
        pytest.param({"mask": False}, "needs mask = true", id="fusion without masks"),
        pytest.param({"sfb": "none"}, "set sd = false", id="diversity without fusion"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        small.recipe(**keys)
    with pytest.raises(SettingsError, match=words):
        make_recipe({"method": "magnifiernet", **keys}, "the command line")


# masks


@pytest.mark.parametrize("resize", ["bilinear", "nearest"])
def test_the_masks_part_every_pixel_among_the_regions(resize):
    ids = torch.randint(0, 8, (3, 16, 8), generator=torch.Generator().manual_seed(1))
    masks = m.region_masks(ids, resize)
    assert masks.shape == (3, 8, 8, 4)
    assert torch.equal(masks.sum(1), torch.ones(3, 8, 4))
    y = torch.rand(3, 1, 8, 4)
    parted = (masks * y).sum(1, keepdim=True)
    assert torch.allclose(parted, y, rtol=1e-6, atol=0)
    if resize == "nearest":
        assert torch.equal(parted, y)


def test_bilinear_masks_are_interpolated_one_hot_labels():
    ids = torch.randint(0, 8, (2, 48, 24), generator=torch.Generator().manual_seed(1))
    one_hot = F.one_hot(ids, 8).permute(0, 3, 1, 2).float()
    masks = m.region_masks(ids, "bilinear")
    assert torch.equal(masks, F.interpolate(one_hot, size=(24, 12), mode="bilinear", align_corners=False))
    assert torch.equal(masks, one_hot.unflatten(2, (24, 2)).unflatten(4, (12, 2)).mean((3, 5)))
    assert set(masks.unique().tolist()) <= {0, 0.25, 0.5, 0.75, 1}


def test_nearest_masks_take_every_second_label():
    ids = torch.randint(0, 8, (2, 48, 24), generator=torch.Generator().manual_seed(1))
    small = F.interpolate(ids[:, None].float(), size=(24, 12))[:, 0].long()
    assert torch.equal(m.region_masks(ids, "nearest"), F.one_hot(small, 8).permute(0, 3, 1, 2).float())


def test_a_region_that_fills_the_picture_is_the_whole_maximum_and_the_others_are_nothing(task):
    shallow = torch.rand(2, 1024, 4, 2)
    branch = task.network.sfb.eval()
    pooled = branch.pool(shallow, m.region_masks(torch.full((2, 8, 4), 3), "bilinear"))
    whole = branch.bottleneck(shallow).amax((2, 3))
    branch.train()
    assert torch.equal(pooled[:, 3], whole)
    assert (pooled[:, [0, 1, 2, 4, 5, 6, 7]] == 0).all()


# what is wiped


def _draws(strategy, khat, count=600):
    generator = torch.Generator().manual_seed(3)
    return [m.erased_regions(strategy, khat, generator) for _ in range(count)]


@pytest.mark.parametrize(
    ("khat", "upper", "lower"),
    [pytest.param(2, 3, 2, id="2"), pytest.param(4, 2, 1, id="4"), pytest.param(6, 1, 0, id="6")],
)
def test_random_torso_wipes_as_many_above_and_below_as_leave_half_of_khat(khat, upper, lower):
    for erased in _draws("random_torso", khat, 50):
        assert len(set(erased)) == len(erased)
        assert len([k for k in erased if k in (1, 2, 3, 4)]) == upper
        assert len([k for k in erased if k in (5, 6, 7)]) == lower


@pytest.mark.parametrize("khat", range(1, 8))
def test_random_baseline_wipes_body_regions_until_khat_are_left(khat):
    for erased in _draws("random_baseline", khat, 50):
        assert len(set(erased)) == len(erased) == 7 - khat
        assert set(erased) <= set(range(1, 8))


def test_with_khat_4_one_lower_region_is_wiped_in_a_third_of_the_batches():
    share = np.mean([5 in erased for erased in _draws("random_torso", 4)])
    assert share == pytest.approx(1 / 3, abs=0.06)
    share = np.mean([2 in erased for erased in _draws("random_torso", 4)])
    assert share == pytest.approx(1 / 2, abs=0.06)


def test_wiped_pixels_are_zero_mixed_ones_are_scaled_and_the_others_stay():
    ids = torch.zeros(2, 4, 4, dtype=torch.int64)
    ids[:, :2] = 5  # the upper half
    ids[:, 2, 2] = 5  # one of four labels of the lower right pixel
    keep = m.kept_share(m.region_masks(ids, "bilinear"), [5, 1])
    x = torch.rand(2, 16, 2, 2)
    wiped = x * keep
    assert (wiped[:, :, 0] == 0).all()
    assert torch.equal(wiped[:, :, 1, 0], x[:, :, 1, 0])
    assert torch.equal(wiped[:, :, 1, 1], x[:, :, 1, 1] * 0.75)
    hard = m.kept_share(m.region_masks(ids, "nearest"), [5, 1])
    assert torch.equal(hard[0, 0], torch.tensor([[0.0, 0.0], [1.0, 0.0]]))


def test_the_background_is_never_wiped():
    everything = m.erased_regions("random_baseline", 1, torch.Generator().manual_seed(0))
    masks = m.region_masks(torch.zeros(1, 8, 4, dtype=torch.int64), "bilinear")
    assert (m.kept_share(masks, everything) == 1).all()


def test_keeping_all_seven_regions_is_the_plain_branch(task, batch):
    (erased,) = _draws("random_baseline", 7, 1)
    keep = m.kept_share(m.region_masks(batch["ids"], "bilinear"), erased)
    shallow = torch.rand(4, 1024, 4, 2)
    branch = task.network.sab.eval()
    assert torch.equal(branch(shallow, keep), branch(shallow))
    branch.train()


def test_in_test_nothing_is_wiped_and_all_branches_stand_side_by_side(task, batch):
    network = task.network.eval()
    with torch.no_grad():
        shallow, deep = network.maps(batch["x"])
        regions = network.sfb.pool(shallow, m.region_masks(batch["ids"], "bilinear"))
        expected = [
            network.neck(deep.mean((2, 3))),
            network.sab.neck(network.sab.reduce(network.sab.bottleneck(shallow).amax((2, 3)))),
            network.sfb.neck(network.sfb.fuse(regions)[0]),
        ]
        out = network(batch["x"], batch["ids"])
        found = network(batch["x"])
        own = network(batch["x"], network.mask(deep).argmax(1))
    network.train()
    assert torch.allclose(out, torch.cat(expected, 1))
    assert torch.equal(found, own)
    assert F.normalize(found).norm(dim=1).tolist() == pytest.approx([1] * 4)


# pixels without labels


def test_where_no_label_is_nothing_is_wiped_and_no_mask_is_taught(batch):
    ids = batch["ids"].clone()
    ids[1] = m.UNLABELLED
    ids[2, :4] = m.UNLABELLED
    keep = m.kept_share(m.region_masks(ids, "bilinear"), ALL[1:])
    assert (keep[1] == 1).all()
    assert (keep[2, 0, :2] == 1).all()
    assert (keep[2, 0, 2:] == 0).all()
    assert (keep[0, 0, 1:] == 0).all()

    logits = torch.randn(4, 8, 8, 4, requires_grad=True)
    m.mask_loss(logits, ids).backward()
    assert (logits.grad[1] == 0).all()
    assert (logits.grad[2, :, :4] == 0).all()
    assert (logits.grad[2, :, 4:] != 0).all()
    assert (logits.grad[0] != 0).all()


# the recurrent cell


def test_the_recurrent_cell_equals_eight_single_steps():
    torch.manual_seed(0)
    branch = m.FusionBranch("gru")
    cell = nn.GRUCell(1024, 1024)
    cell.load_state_dict({name.removesuffix("_l0"): w for name, w in branch.recurrent.state_dict().items()})
    x = torch.rand(3, 8, 1024)
    with torch.no_grad():
        state = torch.zeros(3, 1024)
        for k in range(8):
            state = cell(x[:, k], state)
        fused, own = branch.fuse(x)
        turned, _ = branch.fuse(x.flip(1))
        silent, _ = branch.fuse(torch.zeros(3, 8, 1024))
        single, _ = branch.fuse(x[:1])
    assert torch.allclose(fused, state, atol=1e-6)
    assert torch.equal(own, x)
    assert not torch.allclose(turned, fused, atol=1e-3)  # the order of the regions matters
    assert torch.equal(silent[0], silent[1])
    assert torch.allclose(single, fused[:1], atol=1e-6)  # a batch of one is a batch


def test_the_ablation_branch_sets_reduced_regions_side_by_side():
    with torch.device("meta"):
        assert _parameters(m.FusionBranch("ab").reduce) == 8 * 1024 * 128
    branch = m.FusionBranch("ab")
    x = torch.rand(2, 8, 1024)
    fused, own = branch.fuse(x)
    assert own.shape == (2, 8, 128)
    assert torch.allclose(own[:, 3], x[:, 3] @ branch.reduce[3].weight.T, atol=1e-6)
    assert torch.equal(fused, own.reshape(2, 1024))


# losses


def test_the_mask_loss_is_a_mean_over_regions_of_means_over_pixels():
    logits = torch.zeros(1, 8, 1, 4)
    logits[0, 0, 0, :3] = 1
    ids = torch.tensor([[[0, 0, 0, 1]]])
    assert float(m.mask_loss(logits, ids)) == pytest.approx(1.676725, abs=1e-6)
    assert float(F.cross_entropy(logits, ids)) == pytest.approx(1.475367, abs=1e-6)


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        pytest.param([(1, 0), (1, 1), (0, 2)], 0.471405, id="three directions"),
        pytest.param([(1, 2), (1, 2), (1, 2)], 1.0, id="identical"),
        pytest.param([(3, 0, 0), (0, 1, 0), (0, 0, 2)], 0.0, id="orthogonal"),
        pytest.param([(1, 0), (0, 0), (1, 0)], 1 / 3, id="an empty one stays in the count"),
    ],
)
def test_semantic_diversity_is_the_mean_cosine_of_pairs(vectors, expected):
    regions = torch.tensor([vectors, vectors], dtype=torch.float32)
    assert float(m.semantic_diversity(regions)) == pytest.approx(expected, abs=1e-6)


def test_orthogonal_regions_still_have_a_gradient():
    regions = torch.tensor([[[3.0, 0.0], [0.0, 2.0]]], requires_grad=True)
    m.semantic_diversity(regions).backward()
    assert regions.grad[0].tolist() == [pytest.approx([0, 1 / 3]), pytest.approx([1 / 2, 0])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_an_empty_region_leaves_value_and_gradient_finite_in_any_precision(dtype):
    y = torch.rand(4, 8, 6, dtype=dtype)
    y[:, 3] = 0
    y.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = m.semantic_diversity(y)
    value.backward()
    full = y.detach().float()
    pairs = [F.cosine_similarity(full[:, i], full[:, j]) for i in ALL for j in ALL if i < j and 3 not in (i, j)]
    assert value.dtype == torch.float32
    assert float(value.detach()) == pytest.approx(float(torch.stack(pairs).sum() / (4 * 28)), rel=1e-4)
    assert y.grad.isfinite().all()
    assert (y.grad[:, 3] == 0).all()
