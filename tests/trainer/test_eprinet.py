from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import efficientnet_b0

from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.export import to_onnx
from deploy.gate import check
from stream.errors import SettingsError
from stream.model import ModelCard
from trainer.augment import normalise
from trainer.data import Crops
from trainer.losses import batch_hard_triplet
from trainer.methods import eprinet
from trainer.methods.eprinet import ABLATIONS, EPRINetRecipe, EPRINetTask, PixelPyramid, PositionAttention
from trainer.serving import ServedEmbedder, TorchBackend
from trainer.settings import make_recipe

ROWS = {name: keys for name, keys in ABLATIONS.items() if name == "EPRI-Net" or name.startswith("baseline")}
BRANCHES = ("none", "fpb", "pfpb")
PAMS = ("off", "literal", "danet", "fpb")
CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def _parameters(*modules, trainable=False):
    return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad or not trainable)


def _meta(**keys):
    with torch.device("meta"):
        return eprinet.build(EPRINetRecipe(**keys), 751)


def _network(gamma=0.0, **keys):
    """In eval mode, its norms with the statistics of some pictures: with untrained ones the vectors fade to 1e-14."""
    torch.manual_seed(0)
    recipe = EPRINetRecipe(**{"input_hw": (64, 32), **keys})
    network = eprinet.embedder(recipe)
    if network.pam is not None:
        nn.init.constant_(network.pam.gamma, gamma)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean of all batches, of which there is one
    with torch.no_grad():
        network(torch.randn(8, 3, *recipe.input_hw))
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


def _task(people=4, pictures=2, size_hw=(64, 32), epoch=None, **keys):
    """People who differ in the colours of their halves."""
    rng = np.random.default_rng(0)
    height, width = (side * 5 // 4 for side in size_hw)
    images = rng.integers(0, 60, (people * pictures, height, width, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(people), pictures)
    colours = rng.integers(0, 190, (people, 2, 3), dtype=np.uint8)
    images[:, : height // 2] += colours[labels, 0][:, None, None]
    images[:, height // 2 :] += colours[labels, 1][:, None, None]
    keys = {"weights": "", "precision": "fp32", **keys}
    recipe = EPRINetRecipe(input_hw=size_hw, batch_people=people, batch_pictures=pictures, **keys)
    task = EPRINetTask(recipe, Crops(images, labels, np.tile(np.arange(pictures), people)))
    task.network.train()
    if epoch is not None:
        task.begin_epoch(epoch)
    return task


def _losses(task):
    return task.losses(torch.from_numpy(task.sampler.order(0)[0]), torch.Generator().manual_seed(0), CPU)


def _heads(task):
    """Everything that only the cross-entropies train."""
    parts = {"cb": task.head.cb, "neck": task.network.neck}
    if task.head.cs is not None:
        parts["cs"] = task.head.cs
    return {name: part.weight for name, part in parts.items()}


# structure and cost


COSTS = [  # branch, pam, parameters, without classifiers, the paper's millions, MACs at 384x192, at 256x128
    pytest.param("none", "off", 4_971_388, 4_010_108, "4.97", 1_119_666_176, 497_977_856, id="baseline"),
    pytest.param("fpb", "off", 6_556_348, 5_450_876, "6.56", 1_533_722_624, 682_002_944, id="FPB"),
    pytest.param("pfpb", "off", 7_394_428, 5_471_868, "7.39", 1_538_441_216, 684_100_096, id="PFPB"),
    pytest.param("none", "literal", 4_991_069, 4_029_789, "4.99", 1_125_195_776, 500_435_456, id="PAM literal"),
    pytest.param("none", "danet", 4_987_209, 4_025_929, "4.99", 1_124_182_016, 499_984_896, id="PAM danet"),
    pytest.param("none", "fpb", 4_987_433, 4_026_153, "4.99", 1_124_182_016, 499_984_896, id="PAM fpb"),
    pytest.param("pfpb", "literal", 7_414_109, 5_491_549, "7.41", 1_543_970_816, 686_557_696, id="EPRI-Net literal"),
    pytest.param("pfpb", "danet", 7_410_249, 5_487_689, "7.41", 1_542_957_056, 686_107_136, id="EPRI-Net danet"),
    pytest.param("pfpb", "fpb", 7_410_473, 5_487_913, "7.41", 1_542_957_056, 686_107_136, id="EPRI-Net fpb"),
]


@pytest.mark.parametrize(("branch", "pam", "total", "bare", "millions", "large", "small"), COSTS)
def test_parameters_are_counted_to_the_last(branch, pam, total, bare, millions, large, small):
    network, head = _meta(branch=branch, pam=pam)
    assert _parameters(network, head) == total
    assert _parameters(network) == bare
    assert f"{total / 1e6:.2f}" == millions
    assert _parameters(network, head, trainable=True) == total - 1280  # the neck's shift is frozen


@pytest.mark.parametrize(("branch", "pam", "total", "bare", "millions", "large", "small"), COSTS)
def test_multiply_adds_are_counted_to_the_last(branch, pam, total, bare, millions, large, small):
    counted = 0

    def count(module, inputs, output):
        nonlocal counted
        counted += output.numel() * module.weight[0].numel()

    network = _meta(branch=branch, pam=pam)[0].eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    for size_hw, expected in (((384, 192), large), ((256, 128), small)):
        counted = 0
        network(torch.zeros(1, 3, *size_hw, device="meta"))
        assert counted == expected


@pytest.mark.parametrize(
    ("pam", "total"),
    [
        pytest.param("literal", 6_693_149, id="literal"),
        pytest.param("danet", 6_689_289, id="danet"),
        pytest.param("fpb", 6_689_513, id="fpb"),
    ],
)
def test_a_feature_pooled_from_the_pyramid_needs_a_smaller_classifier(pam, total):
    assert _parameters(*_meta(pam=pam, fp_source="P")) == total


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({"fuse": "mul_sigmoid"}, id="mul_sigmoid"),
        pytest.param({"fuse": "one_plus"}, id="one_plus"),
        pytest.param({"ce_b_input": "F_b"}, id="cross-entropy on the backbone"),
        pytest.param({"tri_input": "product"}, id="triplet on the product"),
        pytest.param({"concat": True}, id="concat"),
    ],
)
def test_options_that_only_wire_differently_cost_nothing(keys):
    assert _parameters(*_meta(**keys)) == 7_414_109


def test_the_maps_are_of_the_papers_sizes():
    network = _meta()[0].eval()
    shapes = {}
    parts = {f"stage {i}": stage for i, stage in enumerate(network.features)}
    for name, part in {**parts, "P": network.branch, "G": network.expand}.items():
        part.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: tuple(out.shape[1:])}))
    network(torch.zeros(2, 3, 384, 192, device="meta"))
    assert shapes == {
        "stage 0": (32, 192, 96),
        "stage 1": (16, 192, 96),
        "stage 2": (24, 96, 48),
        "stage 3": (40, 48, 24),
        "stage 4": (80, 24, 12),
        "stage 5": (112, 24, 12),
        "stage 6": (192, 24, 12),
        "stage 7": (320, 24, 12),
        "stage 8": (1280, 24, 12),
        "P": (320, 24, 12),
        "G": (1280, 24, 12),
    }
    network(torch.zeros(2, 3, 256, 128, device="meta"))
    assert shapes["P"] == (320, 16, 8)


def test_only_one_stride_differs_from_torchvision_and_its_weights_fit_strictly():
    ours, theirs = _network(), efficientnet_b0()
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.SiLU)
    differing = [
        name
        for (name, a), (other, b) in zip(ours.features.named_modules(), theirs.features.named_modules(), strict=True)
        if name != other or (isinstance(a, kinds) and repr(a) != repr(b))
    ]
    assert differing == ["6.0.block.1.0"]
    assert ours.features[6][0].block[1][0].stride == (1, 1)
    assert theirs.features[6][0].block[1][0].stride == (2, 2)
    weights = {name: value for name, value in theirs.state_dict().items() if name.startswith("features.")}
    ours.features.load_state_dict({name.removeprefix("features."): value for name, value in weights.items()})
    assert {name for name in ours.state_dict() if name.startswith("features.")} == weights.keys()


@pytest.mark.parametrize("rate", [pytest.param(0.0, id="off by default"), pytest.param(0.2, id="torchvision's own")])
def test_stochastic_depth_is_off_unless_asked_for(rate):
    network = _network(stochastic_depth=rate) if rate else _network()
    assert network.features[7][0].stochastic_depth.p == pytest.approx(rate * 15 / 16)


@pytest.mark.parametrize(
    ("keys", "size"),
    [
        pytest.param({"branch": "none"}, 1280, id="baseline"),
        pytest.param({"branch": "fpb"}, 1280 + 192, id="FPB"),
        pytest.param({}, 1280, id="EPRI-Net"),
        pytest.param({"concat": True}, 2560, id="both features"),
        pytest.param({"concat": True, "fp_source": "P"}, 1600, id="both, the second from the pyramid"),
        pytest.param({"ce_b_input": "F_b"}, 1280, id="the product without a neck"),
    ],
)
def test_the_embedding_is_of_unit_length(keys, size):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), dtype=np.uint8))
    with torch.inference_mode():
        vectors = ServedEmbedder(_network(**keys))(images)
    assert vectors.shape == (3, size)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)


def test_both_features_weigh_the_same_side_by_side():
    network = _network(concat=True)
    x = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        out, views = network(x), network.views(x)
    assert torch.equal(out[:, :1280], F.normalize(views.necked))
    assert torch.equal(out[:, 1280:], F.normalize(views.branch))


def test_a_neck_that_judges_the_backbone_is_not_on_the_way_of_the_product():
    network = _network(ce_b_input="F_b")
    x = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        before, views = network(x), network.views(x)
        network.neck.running_mean += 1
        assert torch.equal(network(x), before)
        assert torch.equal(before, views.pooled)


# position attention


def _attention(form, gamma=0.0):
    torch.manual_seed(0)
    pam = PositionAttention(80 if form == "literal" else 112, form)
    nn.init.constant_(pam.gamma, gamma)
    return pam, torch.randn(2, 80 if form == "literal" else 112, 4, 3)


FORMS = pytest.mark.parametrize("form", ["literal", "danet", "fpb"])


@FORMS
@pytest.mark.parametrize("training", [pytest.param(True, id="training"), pytest.param(False, id="eval")])
def test_attention_begins_as_nothing(form, training):
    pam, x = _attention(form)
    assert torch.equal(pam.train(training)(x), x)


@FORMS
def test_every_row_of_the_attention_sums_to_one(form):
    pam, x = _attention(form)
    rows = pam.eval().attention(x)
    assert rows.shape == (2, 12, 12)
    assert torch.allclose(rows.sum(2), torch.ones(2, 12))
    assert rows.std() > 1e-3


@FORMS
def test_pixels_in_another_order_come_out_in_that_order(form):
    pam, x = _attention(form, gamma=0.7)
    pam.eval()
    order = torch.randperm(12)
    moved = x.flatten(2)[:, :, order].view_as(x)
    assert torch.allclose(pam(moved).flatten(2), pam(x).flatten(2)[:, :, order], atol=1e-5)
    assert not torch.allclose(pam(x), x, atol=1e-2)


@FORMS
def test_at_first_only_gamma_learns(form):
    pam, x = _attention(form)
    (pam(x) * torch.randn_like(x)).sum().backward()
    assert pam.gamma.grad.abs().item() > 0
    for part in (pam.query, pam.key, pam.value):
        assert all(p.grad.count_nonzero() == 0 for p in part.parameters())


def test_the_literal_attention_has_maps_of_full_width_that_are_not_negative():
    pam, x = _attention("literal")
    for part in (pam.query, pam.key, pam.value):
        out = part(x)
        assert out.shape == x.shape
        assert out.min() == 0 < out.max()


@pytest.mark.parametrize("form", ["danet", "fpb"])
def test_the_attention_is_danets_pixel_by_pixel(form):
    """x_j + gamma * sum_i s_ji v_i with s_j the softmax over i of q_j . k_i: section 3.2 of DANet, in float64 and in loops."""
    pam, x = _attention(form, gamma=0.7)
    with torch.no_grad():
        out = pam.eval()(x)
        assert pam.query(x).shape[1] == pam.key(x).shape[1] == 14
        q, k, v = (part(x).flatten(2).double().numpy() for part in (pam.query, pam.key, pam.value))
    expected = np.zeros_like(v)
    for picture in range(len(x)):
        for j in range(12):
            weights = np.exp([q[picture, :, j] @ k[picture, :, i] for i in range(12)])
            expected[picture, :, j] = sum(w * v[picture, :, i] for i, w in enumerate(weights / weights.sum()))
    added = 0.7 * expected
    if form == "fpb":
        added /= np.sqrt(1 + pam.norm.eps)
    assert np.abs(out.flatten(2).numpy() - (x.flatten(2).numpy() + added)).max() <= 1e-5


@pytest.mark.parametrize(("pam", "stage"), [("literal", 4), ("danet", 5), ("fpb", 5)])
def test_the_attention_stands_before_the_tap(pam, stage):
    network = _network(pam=pam, gamma=0.5)
    seen = {}
    network.features[stage].register_forward_hook(lambda _, __, out: seen.update(stage=out.clone()))
    network.pam.register_forward_hook(lambda _, __, out: seen.update(pam=out.clone()))
    network.branch.lateral[stage - 4].register_forward_pre_hook(lambda _, inputs: seen.update(tap=inputs[0].clone()))
    with torch.inference_mode():
        network(torch.randn(1, 3, 64, 32))
    assert torch.equal(seen["tap"], seen["pam"])
    assert not torch.equal(seen["tap"], seen["stage"])


# pyramid and fusion


def _pyramid():
    torch.manual_seed(0)
    return PixelPyramid((80, 112, 192)).eval(), [torch.randn(2, c, 4, 3) for c in (80, 112, 192)]


def test_without_its_six_filters_the_pyramid_is_its_last_residual():
    pyramid, maps = _pyramid()
    assert len(pyramid.down) + len(pyramid.up) == 6
    for block in (*pyramid.down, *pyramid.up):
        nn.init.zeros_(block[1].weight)
    assert torch.equal(pyramid(*maps), pyramid.residual[2](pyramid.lateral[2](maps[2])))


@pytest.mark.parametrize("level", [pytest.param(0, id="c4"), pytest.param(1, id="c5"), pytest.param(2, id="c6")])
def test_every_level_reaches_the_pyramids_end(level):
    pyramid, maps = _pyramid()
    whole = pyramid(*maps)
    assert whole.shape == (2, 320, 4, 3)
    maps[level] = torch.zeros_like(maps[level])
    assert (pyramid(*maps) - whole).abs().max() > 1e-2


def test_the_pyramid_is_wired_down_and_up_as_written():
    pyramid, maps = _pyramid()
    a = [*reversed(pyramid.down), *pyramid.up]
    (ls, lm, ld), (rs, rm, rd) = [block(x) for block, x in zip(pyramid.lateral, maps, strict=True)], pyramid.residual
    td = a[0](ld)
    tm = a[1](lm + td)
    ts = a[2](ls + tm)
    bs = a[3](ts) + rs(ls)
    bm = a[4](tm + bs) + rm(lm)
    assert torch.equal(pyramid(*maps), a[5](td + bm) + rd(ld))


def test_a_pixel_of_the_pyramid_sees_that_pixel_alone():
    pyramid, maps = _pyramid()
    whole = pyramid(*maps)
    for x in maps:
        x[:, :, 1, 2] += 1
    moved = ((pyramid(*maps) - whole).abs().amax((0, 1)) > 1e-6).nonzero().tolist()
    assert moved == [[1, 2]]


def test_taps_choose_the_stages():
    network = _meta(taps=(5, 6, 7), pam="off")[0].eval()
    assert [block[0].in_channels for block in network.branch.lateral] == [112, 192, 320]
    assert network(torch.zeros(1, 3, 64, 32, device="meta")).shape == (1, 1280)


def _constant_pyramid(network, value):
    """P is the same everywhere, so that G is `value` everywhere."""
    for block in (network.branch.up[2], network.branch.residual[2]):
        nn.init.zeros_(block[1].weight)
        nn.init.zeros_(block[1].bias)
    nn.init.constant_(network.branch.up[2][1].bias, 1.0)
    nn.init.constant_(network.expand.weight, value / (320 * F.silu(torch.tensor(1.0)).item()))


@pytest.mark.parametrize(
    ("fuse", "multiplier"),
    [
        pytest.param("mul", 1.0, id="mul"),
        pytest.param("mul_sigmoid", 50.0, id="mul_sigmoid"),
        pytest.param("one_plus", 0.0, id="one_plus"),
    ],
)
def test_a_multiplier_of_one_leaves_the_baselines_embedding(fuse, multiplier):
    network, baseline = _network(fuse=fuse, pam="off"), _network(branch="none", pam="off")
    baseline.load_state_dict(
        {name: value for name, value in network.state_dict().items() if name in baseline.state_dict()}
    )
    x = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        expected = baseline(x)
        assert not torch.allclose(network(x), expected, atol=1e-2)
        _constant_pyramid(network, multiplier)
        assert torch.allclose(network(x), expected, rtol=1e-4, atol=1e-5)


def test_the_multiplier_works_pixel_by_pixel():
    network = _network(pam="off")
    seen = {}
    network.features[8].register_forward_hook(lambda _, __, out: seen.update(last=out))
    network.expand.register_forward_hook(lambda _, __, out: seen.update(multiplier=out))
    with torch.inference_mode():
        views = network.views(torch.randn(2, 3, 64, 32))
    assert torch.allclose(views.pooled, (seen["last"] * seen["multiplier"]).mean((2, 3)), atol=1e-6)
    assert torch.equal(views.branch, seen["multiplier"].mean((2, 3)))


# losses


@pytest.mark.parametrize("pam", PAMS)
@pytest.mark.parametrize("branch", BRANCHES)
def test_for_ten_epochs_the_cross_entropies_do_not_exist(branch, pam):
    task = _task(branch=branch, pam=pam, learning_rate=0.01)
    optimiser = task.optimiser()
    before = {name: weight.detach().clone() for name, weight in _heads(task).items()}
    first_layer = task.network.features[0][0].weight.detach().clone()
    task.begin_epoch(9)
    terms = _losses(task)
    assert terms.keys() == {"triplet"}
    terms["triplet"].backward()
    assert all(weight.grad is None for weight in _heads(task).values())
    optimiser.step()
    assert all(torch.equal(weight, before[name]) for name, weight in _heads(task).items())
    assert not torch.equal(task.network.features[0][0].weight, first_layer)

    task.begin_epoch(10)
    terms = _losses(task)
    assert terms.keys() == {"ce_b", "triplet"} | ({"ce_s"} if branch != "none" else set())
    optimiser.zero_grad(set_to_none=True)
    sum(terms.values()).backward()
    assert all(weight.grad.count_nonzero() > 0 for weight in _heads(task).values())
    optimiser.step()
    assert not any(torch.equal(weight, before[name]) for name, weight in _heads(task).items())


def _reached(task, term):
    """Names of the parts that one loss term teaches."""
    for parameter in (*task.network.parameters(), *task.head.parameters()):
        parameter.grad = None
    _losses(task)[term].backward()
    parts = {
        "backbone": task.network.features,
        "pyramid": task.network.branch,
        "G": task.network.expand,
        "neck": task.network.neck,
        "cb": task.head.cb,
        "cs": task.head.cs,
    }
    return {name for name, part in parts.items() if any(p.grad is not None and p.grad.any() for p in part.parameters())}


@pytest.mark.parametrize(
    ("keys", "term", "parts"),
    [
        pytest.param({}, "ce_b", {"cb", "neck", "G", "pyramid", "backbone"}, id="on the embedding"),
        pytest.param({}, "ce_s", {"cs", "G", "pyramid", "backbone"}, id="on the branch"),
        pytest.param({}, "triplet", {"G", "pyramid", "backbone"}, id="triplet"),
        pytest.param({"ce_b_input": "F_b"}, "ce_b", {"cb", "neck", "backbone"}, id="on the backbone's own map"),
        pytest.param(
            {"ce_b_input": "F_b"}, "triplet", {"G", "pyramid", "backbone"}, id="triplet, still on the product"
        ),
        pytest.param({"fp_source": "P"}, "ce_s", {"cs", "pyramid", "backbone"}, id="on the pyramid's map"),
        pytest.param({"tri_input": "product"}, "triplet", {"G", "pyramid", "backbone"}, id="triplet of the product"),
    ],
)
def test_a_term_reaches_its_own_parts_and_no_others(keys, term, parts):
    assert _reached(_task(epoch=10, pam="off", **keys), term) == parts


@pytest.mark.parametrize(
    ("keys", "size", "weight"),
    [
        pytest.param({"branch": "none"}, 1280, 1.0, id="baseline"),
        pytest.param({"branch": "fpb"}, 1472, 6.375, id="FPB"),
        pytest.param({}, 2560, 6.375, id="EPRI-Net"),
        pytest.param({"fp_source": "P"}, 1600, 6.375, id="feature from the pyramid"),
        pytest.param({"tri_input": "product"}, 1280, 6.375, id="product"),
    ],
)
def test_the_triplet_compares_unit_vectors_under_lambda(keys, size, weight, monkeypatch):
    compared = []

    def triplet(features, labels):
        compared.append((features.detach(), batch_hard_triplet(features, labels)))
        return compared[0][1]

    monkeypatch.setattr(eprinet, "batch_hard_triplet", triplet)
    value = _losses(_task(epoch=0, pam="off", **keys))["triplet"]
    [(features, plain)] = compared
    length = 1.0 if size == 1280 else 2**0.5
    assert features.shape == (8, size)
    assert torch.allclose(features.norm(dim=1), torch.full((8,), length), atol=1e-5)
    assert torch.equal(value, weight * plain)


def test_doubling_lambda_adds_exactly_one_weighted_triplet():
    one, two = (_losses(_task(epoch=10, triplet_weight=value)) for value in (3.0, 6.0))
    assert torch.equal(one["ce_b"], two["ce_b"])
    assert torch.equal(one["ce_s"], two["ce_s"])
    assert torch.equal(two["triplet"], 2 * one["triplet"])
    assert one["triplet"] > 0


@pytest.mark.parametrize(("key", "term"), [("alpha", "ce_b"), ("beta", "ce_s")])
def test_a_weight_of_zero_takes_the_term_away(key, term):
    terms = _losses(_task(epoch=10, **{key: 0.0}))
    assert terms.keys() == {"ce_b", "ce_s", "triplet"} - {term}


def test_terms_of_a_whole_batch_are_those_that_are_promised():
    assert _losses(_task(epoch=10)).keys() == set(eprinet.LOSSES)


# schedule and recipe


@pytest.mark.parametrize(
    ("keys", "peak"),
    [
        pytest.param({}, 3.5e-5, id="as printed"),
        pytest.param(ABLATIONS["EPRI-Net, fpb_lr"], 3.5e-4, id="fpb_lr"),
    ],
)
def test_the_rate_rises_over_twenty_epochs_and_falls_at_sixty_and_ninety(keys, peak):
    task = SimpleNamespace(recipe=EPRINetRecipe(**keys))
    rates = [EPRINetTask.learning_rate(task, epoch, 0.5) for epoch in (0, 1, 19, 20, 59, 60, 89, 90, 119)]
    b = peak / 10
    assert rates == pytest.approx([b, b * (1 + 9 / 19), 10 * b, 10 * b, 10 * b, b, b, 0.1 * b, 0.1 * b], rel=1e-9)


def test_the_papers_settings_are_the_defaults():
    recipe = EPRINetRecipe()
    assert (recipe.input_hw, recipe.epochs, recipe.weight_decay) == ((384, 192), 120, 1.625e-4)
    assert (recipe.batch_people, recipe.batch_pictures, recipe.weights) == (16, 4, "imagenet")
    groups = _task().optimiser().param_groups
    assert {(group["betas"], group["weight_decay"], group["amsgrad"]) for group in groups} == {
        ((0.9, 0.999), 1.625e-4, False)
    }


def test_new_layers_begin_as_they_should():
    torch.manual_seed(0)
    network, head = eprinet.build(EPRINetRecipe(), 751)
    for layer in (head.cb, head.cs):
        assert layer.bias is None
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.01)
    fan_out = network.expand.weight.shape[0]
    assert network.expand.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.01)
    for depthwise in (network.features[6][0].block[1][0], network.features[7][0].block[1][0]):
        assert depthwise.weight.std().item() == pytest.approx((2 / depthwise.kernel_size[0] ** 2) ** 0.5, rel=0.05)
    assert network.pam.gamma.item() == 0
    assert not network.neck.bias.requires_grad


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        pytest.param({"branch": "none", "fuse": "one_plus"}, 'fuse = "one_plus" needs branch = "pfpb"', id="fuse"),
        pytest.param({"branch": "fpb", "ce_b_input": "F_b"}, 'ce_b_input = "F_b" needs branch', id="ce_b_input"),
        pytest.param({"branch": "none", "concat": True}, "concat needs a branch", id="concat"),
        pytest.param({"tri_input": "product", "fp_source": "P"}, "1280 values with 1280", id="product of two widths"),
        pytest.param({"taps": (3, 4, 5)}, "three rising stages of 4 to 7", id="a tap of another size"),
        pytest.param({"taps": (5, 4, 6)}, "three rising stages of 4 to 7", id="taps out of order"),
        pytest.param({"triplet_weight": 0}, "leaves no loss", id="no loss in the first epochs"),
    ],
)
def test_options_that_do_not_fit_are_refused(keys, said):
    with pytest.raises(SettingsError, match=f"^the command line: .*{said}"):
        make_recipe({"method": "eprinet", **keys}, "the command line")


def test_a_training_begins_with_torchvisions_weights_whose_classifier_is_left_out(tmp_path):
    torch.manual_seed(5)
    theirs = efficientnet_b0().state_dict()
    torch.save(theirs, tmp_path / "b0.pth")
    task = _task(weights=str(tmp_path / "b0.pth"))
    assert task.matched.skipped == ("classifier.1.weight", "classifier.1.bias")
    ours = task.network.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items() if name.startswith("features."))
    assert not any(name.startswith("features.") for name in task.matched.missing)


# learning and serving


def test_sixteen_pictures_are_learnt_by_heart():
    task = _task(pictures=4, size_hw=(128, 64), epoch=10, learning_rate=1e-3)
    optimiser = task.optimiser()
    generator = torch.Generator().manual_seed(0)
    totals = []
    for _ in range(20):
        terms = task.losses(torch.from_numpy(task.sampler.next()), generator, CPU)
        total = sum(terms.values())
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        optimiser.step()
        totals.append(total.item())
    assert np.mean(totals[-4:]) < 0.7 * np.mean(totals[:4])
    task.network.eval()
    pictures = torch.from_numpy(task._images).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        vectors = F.normalize(task.network(normalise(F.interpolate(pictures, (128, 64)))))
    nearest = (vectors @ vectors.T).fill_diagonal_(-1).argmax(1)
    assert (task._labels[nearest] == task._labels).mean() > 0.9  # with the running statistics too


@pytest.mark.parametrize(("branch", "pam"), [("none", "danet"), ("fpb", "fpb"), ("pfpb", "off")])
def test_a_network_of_any_parts_can_be_traced_for_export_with_any_batch(branch, pam):
    with torch.device("meta"):
        network = eprinet.embedder(EPRINetRecipe(branch=branch, pam=pam)).eval()
        program = torch.export.export(
            network, (torch.zeros(2, 3, 64, 32),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
        )
        assert program.module()(torch.zeros(5, 3, 64, 32)).shape == (5, 1472 if branch == "fpb" else 1280)


def test_the_graph_for_serving_passes_the_gate_of_exports_and_has_no_classifier():
    module = ServedEmbedder(_network(gamma=0.5, input_hw=(384, 192))).eval()
    golden = np.random.default_rng(0).integers(0, 256, (4, 384, 192, 3), dtype=np.uint8)
    expected = TorchBackend(module).infer(golden)
    card = ModelCard(
        name="eprinet", version="1", kind="embedder", input_hw=(384, 192), outputs={"embedding": (1280,)}, max_batch=4,
        embedding_size=1280, synthetic_only=True, licence="Apache-2.0", digest="0" * 64,
    )  # fmt: skip
    data = to_onnx(module, (384, 192))
    check(OnnxRuntimeBackend(data, card), expected, golden)  # each alone, in a batch of 3 and of 4
    cosines = expected["embedding"] @ expected["embedding"].T
    assert (cosines[~np.eye(4, dtype=bool)] < 0.99).all()  # else the gate would not notice a mixture
    sizes = [tuple(value.dims) for value in onnx.load_from_string(data).graph.initializer]
    assert sum(int(np.prod(dims)) for dims in sizes) < _parameters(module.network)
