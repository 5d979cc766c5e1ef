import io
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from deploy.export import to_onnx
from stream.errors import SettingsError
from trainer import checkpoint
from trainer.data import Crops
from trainer.loop import train
from trainer.methods import magnifiernet as m
from trainer.serving import ServedEmbedder, TorchBackend
from trainer.settings import make_recipe

HW = (64, 32)
ALL = [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # two spin against each other on a busy machine
    yield
    torch.set_num_threads(before)


def _recipe(**keys):
    small = {"input_hw": HW, "batch_people": 2, "batch_pictures": 2, "precision": "fp32", "weights": ""}
    return m.MagnifierNetRecipe(**small | keys)


def _crops(people=2, pictures=2, parts=True):
    """People of two colours each, with the eight regions as stripes from top to bottom."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (people * pictures, 80, 40, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(people), pictures)
    colours = rng.integers(0, 190, (people, 2, 3), dtype=np.uint8)
    images[:, :40] += colours[labels, 0][:, None, None]
    images[:, 40:] += colours[labels, 1][:, None, None]
    stripes = np.broadcast_to(np.repeat(np.arange(8, dtype=np.uint8), 10)[:, None], (len(images), 80, 40)).copy()
    return Crops(images, labels, np.tile(np.arange(pictures), people), parts=stripes if parts else None)


def _task(parts=True, **keys):
    return m.MagnifierNetTask(_recipe(**keys), _crops(parts=parts))


@pytest.fixture(scope="module")
def task():
    """The full model, in training."""
    torch.set_num_threads(1)
    task = _task(stage2_from=1)
    task.network.train()
    task.head.train()
    return task


@pytest.fixture
def batch():
    """Four normalised pictures of two people, all labelled with stripes of one region per row."""
    torch.manual_seed(0)
    ids = torch.arange(8)[:, None].expand(4, 8, 4)
    return {
        "x": torch.randn(4, 3, *HW),
        "people": torch.tensor([0, 0, 1, 1]),
        "ids": ids,
        "erased": [1, 2, 5],
    }


def _parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def _gradients(task, term):
    """Which named parameters a term reaches with a gradient other than 0."""
    for part in (task.network, task.head):
        part.zero_grad(set_to_none=True)
    term.backward()
    return {name for name, p in task.network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


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
        assert network.eval()(torch.empty(2, 3, *HW)).shape == (2, WIDTHS.get(row, 4096))


TERMS = {
    "G": {"global_id", "global_triplet"},
    "G + M": {"global_id", "global_triplet", "mask"},
    "G + M + SAB": {"global_id", "global_triplet", "mask", "sab_id", "sab_triplet"},
    "G + M + SFB": {"global_id", "global_triplet", "mask", "sfb_id", "sfb_triplet", "regions"},
    "MagnifierNet": set(m.LOSSES),
    "AB in place of SFB": set(m.LOSSES) - {"sd"},
    "as the authors' code": set(m.LOSSES) - {"sab_triplet"},
}


@pytest.mark.parametrize("row", TERMS)
def test_every_structure_trains_a_step(row):
    task = _task(**{"stage2_from": 0} | m.ABLATIONS[row])
    task.begin_epoch(0)
    terms = task.losses(torch.arange(4), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert terms.keys() == TERMS[row]
    sum(terms.values()).backward()
    learned = [p for part in (task.network, task.head) for p in part.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learned)
    before = learned[0].detach().clone()
    task.optimiser().step()
    assert not torch.equal(before, learned[0])


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
        _recipe(**keys)
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
    assert torch.equal(keep[0], keep[1])  # the same regions in the whole batch
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


def test_the_regions_of_an_unlabelled_picture_are_the_mask_heads_own(task, batch):
    with torch.no_grad():
        _, deep = task.network.maps(batch["x"])
        found = task.network.mask(deep).argmax(1)
        told = task.branch_losses(**batch | {"ids": found})
        guessed = task.branch_losses(**batch | {"ids": torch.full_like(found, m.UNLABELLED)})
    for name in ("sfb_id", "sfb_triplet", "regions"):
        assert torch.equal(told[name], guessed[name]), name
    assert guessed["mask"] == 0


def test_a_data_set_without_any_labels_trains_and_says_so(caplog):
    task = _task(parts=False, sd=False, sfb="ab")
    assert "no picture of synthetic has part labels" in caplog.text
    terms = task.losses(torch.arange(4), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert terms["mask"] == 0
    sum(terms.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.network.parameters())


def test_pictures_with_and_without_labels_train_together():
    crops = _crops()
    crops.parts[1] = m.UNLABELLED
    task = m.MagnifierNetTask(_recipe(sd=False, sfb="ab"), crops)
    terms = task.losses(torch.arange(4), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert float(terms["mask"].detach()) == pytest.approx(2 * np.log(8), rel=1e-3)
    assert all(term.isfinite() for term in terms.values())


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


def test_the_weights_of_the_terms_are_those_of_the_authors_code(task, batch):
    with torch.no_grad():
        terms = task.branch_losses(**batch)
        plain = m.MagnifierNetTask.branch_losses
        task.recipe = _recipe(use_beta=False, region_weight=1.0, mask_weight=1.0, stage2_from=1)
        bare = plain(task, **batch)
        task.recipe = _recipe(stage2_from=1)
    keep = m.kept_share(m.region_masks(batch["ids"], "bilinear"), batch["erased"]).mean()
    assert 0.5 < float(keep.sigmoid()) < 0.731
    for name in ("sab_id", "sab_triplet"):
        assert torch.allclose(terms[name], keep.sigmoid() * bare[name])
    assert torch.allclose(terms["mask"], 2 * bare["mask"])
    # the eight stripes are of one size, so all regions weigh the same
    assert torch.allclose(terms["regions"], 0.0125 * torch.tensor(1 / 8).sigmoid() * bare["regions"])
    assert torch.equal(terms["global_id"], bare["global_id"])


# what each term reaches


def test_the_mask_loss_reaches_the_mask_head_and_the_whole_trunk_but_no_branch(task, batch):
    reached = _gradients(task, task.branch_losses(**batch)["mask"])
    assert {"mask.conv.bias", "mask.deconv.weight", "trunk.conv1.weight"} <= reached
    assert any(name.startswith("trunk.layer3") for name in reached)
    assert any(name.startswith("trunk.layer4") for name in reached)
    assert not any(name.startswith(("sab.", "sfb.", "neck.")) for name in reached)


def test_the_adversarial_triplet_reaches_layer_3_but_not_layer_4(task, batch):
    reached = _gradients(task, task.branch_losses(**batch)["sab_triplet"])
    assert {"sab.reduce.weight", "sab.bottleneck.conv1.weight"} <= reached
    assert any(name.startswith("trunk.layer3") for name in reached)
    assert not any(name.startswith(("trunk.layer4", "mask.", "sfb.", "sab.neck")) for name in reached)


def test_the_regions_own_loss_reaches_layer_3_and_the_bottleneck_but_not_the_recurrent_cell(task, batch):
    reached = _gradients(task, task.branch_losses(**batch)["regions"])
    assert "sfb.bottleneck.conv3.weight" in reached
    assert any(name.startswith("trunk.layer3") for name in reached)
    assert not any(name.startswith(("sfb.recurrent", "trunk.layer4", "mask.", "sab.")) for name in reached)


def test_the_fused_vector_reaches_the_recurrent_cell_but_not_the_masks(task, batch):
    unlabelled = torch.full_like(batch["ids"], m.UNLABELLED)  # so that the masks are the mask head's own
    terms = task.branch_losses(**batch | {"ids": unlabelled})
    reached = _gradients(task, terms["sfb_id"] + terms["sfb_triplet"])
    assert {"sfb.recurrent.weight_ih_l0", "sfb.recurrent.weight_hh_l0", "sfb.bottleneck.conv1.weight"} <= reached
    assert not any(name.startswith(("mask.", "trunk.layer4", "sab.")) for name in reached)


def test_semantic_diversity_reaches_the_trunk_through_the_fusion_branch(task, batch):
    task.begin_epoch(1)
    terms = task.branch_losses(**batch)
    task.begin_epoch(0)
    reached = _gradients(task, terms["sd"])
    assert "sfb.bottleneck.conv1.weight" in reached
    assert any(name.startswith("trunk.layer3") for name in reached)
    assert not any(name.startswith(("sfb.recurrent", "trunk.layer4", "sab.")) for name in reached)


# two stages


def test_semantic_diversity_joins_in_the_second_stage_with_its_weight(task, batch):
    task.begin_epoch(0)
    with torch.no_grad():
        first = task.branch_losses(**batch)
        task.begin_epoch(1)
        second = task.branch_losses(**batch)
        task.recipe = _recipe(stage2_from=1, sd_weight=0.01)
        task.begin_epoch(1)
        heavier = task.branch_losses(**batch)
        task.begin_epoch(0)
        again = task.branch_losses(**batch)
        task.recipe = _recipe(stage2_from=1)
    assert "sd" not in first
    assert torch.allclose(heavier["sd"], 5 * second["sd"])
    assert all(torch.equal(first[name], again[name]) for name in first)  # before, gamma changes nothing


def _rates(epochs, **keys):
    task = object.__new__(m.MagnifierNetTask)
    task.recipe = m.MagnifierNetRecipe(**keys)
    return [task.learning_rate(epoch, 0.5) for epoch in epochs]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        pytest.param({}, [1e-3] * 3, id="paper"),
        pytest.param({"stage2_lr": "code"}, [3.5e-6] * 3, id="code, Market-1501"),
        pytest.param({"stage2_lr": "code", "milestones": (40,)}, [3.5e-5] * 3, id="code, CUHK03"),
        pytest.param({"stage2_lr": 2e-4}, [2e-4] * 3, id="a number"),
        pytest.param({"sd": False}, [3.5e-6] * 3, id="one stage"),
    ],
)
def test_the_rate_of_the_second_stage_is_constant(keys, expected):
    assert _rates([460, 461, 499], **keys) == pytest.approx(expected)


def test_the_rate_of_the_first_stage_is_the_strong_baselines_counted_from_one():
    rates = _rates([0, 8, 9, 38, 39, 68, 69, 459])
    assert rates == pytest.approx([3.815e-5, 3.1535e-4, 3.5e-4, 3.5e-4, 3.5e-5, 3.5e-5, 3.5e-6, 3.5e-6])


def test_a_run_that_stopped_between_the_stages_goes_on_bit_for_bit(tmp_path):
    def task():
        return _task(sab=False, sfb="ab", epochs=2, stage2_from=1)

    assert train(task(), tmp_path / "whole")
    assert not train(task(), tmp_path / "pieces", max_minutes=0)
    assert train(task(), tmp_path / "pieces")
    whole, pieces = (checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "pieces"))
    for kind in ("network", "head"):
        for name, value in getattr(whole, kind).items():
            assert torch.equal(value, getattr(pieces, kind)[name]), name
    for number, state in whole.optimiser["state"].items():
        assert torch.equal(state["exp_avg_sq"], pieces.optimiser["state"][number]["exp_avg_sq"])
    assert whole.optimiser["param_groups"][0]["lr"] == 1e-3


def test_the_weights_begin_as_the_authors_code_begins(task):
    network, head = task.network, task.head
    assert float(network.mask.deconv.weight.detach().std()) == pytest.approx(1e-3, rel=0.02)
    assert (network.mask.conv.bias == 0).all()
    assert float(head.whole.weight.detach().std()) == pytest.approx(1e-3, rel=0.1)
    necks = [network.neck, network.sab.neck, network.sfb.neck, *head.region_necks]
    assert len(necks) == 11
    assert all((neck.bias == 0).all() and not neck.bias.requires_grad for neck in necks)


def test_magnifiernet_learns_four_people_by_heart():
    recipe = _recipe(batch_people=4, input_hw=(128, 64), sd=False, learning_rate=1e-3)
    task = m.MagnifierNetTask(recipe, _crops(people=4))
    optimiser = task.optimiser()
    generator = torch.Generator().manual_seed(0)
    totals, masks = [], []
    for _ in range(6):
        terms = task.losses(torch.arange(8), generator, torch.device("cpu"))
        optimiser.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        optimiser.step()
        totals.append(float(sum(terms.values()).detach()))
        masks.append(float(terms["mask"].detach()))
    assert min(totals[-3:]) < 0.8 * totals[0]
    assert masks[0] == pytest.approx(2 * np.log(8), rel=1e-3)  # the mask head begins undecided
    assert min(masks[-3:]) < 0.95 * masks[0]


# the graph that is served


def _decided(recipe):
    """An embedder whose mask head is sure of itself: an untrained one's logits are almost equal."""
    torch.manual_seed(0)
    network = m.embedder(recipe).eval()
    with torch.no_grad():
        network.mask.deconv.weight *= 100
        network.mask.conv.weight *= 1000
    return network


def _session(graph):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def test_the_exported_graph_finds_the_regions_itself_and_answers_as_torch_does():
    served = ServedEmbedder(_decided(_recipe())).eval()
    graph = to_onnx(served, HW)
    operators = [node.op_type for node in onnx.load_from_string(graph).graph.node]
    assert operators.count("GRU") == operators.count("ArgMax") == operators.count("AveragePool") == 1
    session, backend = _session(graph), TorchBackend(served)
    for count in (1, 4):
        images = np.random.default_rng(count).integers(0, 256, (count, *HW, 3), dtype=np.uint8)
        (vectors,) = session.run(None, {"images": images})
        expected = backend.infer(images)["embedding"]
        assert vectors.shape == (count, 4096)
        assert (vectors * expected).sum(1).min() >= 0.9995  # a pixel between two regions may fall to either
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


class _Told(nn.Module):
    """The fusion branch with the regions as an input, as a debugging graph would have them; the other forms than above."""

    def __init__(self):
        super().__init__()
        self.branch = m.FusionBranch("lstm")

    def forward(self, shallow, ids):
        return self.branch.fuse(self.branch.pool(shallow, m.region_masks(ids, "nearest")))[0]


def test_told_the_regions_the_exported_branch_equals_torch():
    torch.manual_seed(0)
    module, batch = _Told().eval(), torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        program = torch.onnx.export(
            module, (torch.rand(2, 1024, 4, 2), torch.zeros(2, 8, 4, dtype=torch.int64)), dynamo=True, verbose=False,
            opset_version=18, input_names=["shallow", "ids"], dynamic_shapes={"shallow": {0: batch}, "ids": {0: batch}},
        )  # fmt: skip
    graph = io.BytesIO()
    onnx.save_model(program.model_proto, graph)
    session = _session(graph.getvalue())
    for count in (1, 4):
        shallow, ids = torch.rand(count, 1024, 4, 2), torch.randint(0, 8, (count, 8, 4))
        (fused,) = session.run(None, {"shallow": shallow.numpy(), "ids": ids.numpy()})
        with torch.no_grad():
            assert np.abs(fused - module(shallow, ids).numpy()).max() < 1e-5
