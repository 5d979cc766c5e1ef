import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import efficientnet_b0

from tests.trainer import eprinet_small as small
from trainer.methods.eprinet import PixelPyramid, PositionAttention
from trainer.serving import ServedEmbedder

pytestmark = pytest.mark.usefixtures("one_thread")


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


@pytest.mark.parametrize(("branch", "pam", "total", "bare", "millions", "at_384", "at_256"), COSTS)
def test_parameters_are_counted_to_the_last(branch, pam, total, bare, millions, at_384, at_256):
    network, head = small.meta(branch=branch, pam=pam)
    assert small.parameters(network, head) == total
    assert small.parameters(network) == bare
    assert f"{total / 1e6:.2f}" == millions
    assert small.parameters(network, head, trainable=True) == total - 1280  # the neck's shift is frozen


@pytest.mark.parametrize(("branch", "pam", "total", "bare", "millions", "at_384", "at_256"), COSTS)
def test_multiply_adds_are_counted_to_the_last(branch, pam, total, bare, millions, at_384, at_256):
    counted = 0

    def count(module, inputs, output):
        nonlocal counted
        counted += output.numel() * module.weight[0].numel()

    network = small.meta(branch=branch, pam=pam)[0].eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    for size_hw, expected in (((384, 192), at_384), ((256, 128), at_256)):
        counted = 0
        network(torch.zeros(1, 3, *size_hw, device="meta"))
        assert counted == expected


@pytest.mark.parametrize(
    ("pam", "at_384", "at_256"),
    [
        pytest.param("literal", 13_271_040, 2_621_440, id="literal"),
        pytest.param("danet", 10_450_944, 2_064_384, id="danet"),
        pytest.param("fpb", 10_450_944, 2_064_384, id="fpb"),
    ],
)
def test_the_attentions_two_products_are_counted_apart(pam, at_384, at_256):
    network = small.meta(pam=pam)[0].eval()
    for size_hw, expected in (((384, 192), at_384), ((256, 128), at_256)):
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, *size_hw, device="meta"))
        products = {str(each): work for each, work in counter.get_flop_counts()["Global"].items() if "mm" in str(each)}
        assert products == {"aten.bmm": 2 * expected}


@pytest.mark.parametrize(
    ("pam", "total"),
    [
        pytest.param("literal", 6_693_149, id="literal"),
        pytest.param("danet", 6_689_289, id="danet"),
        pytest.param("fpb", 6_689_513, id="fpb"),
    ],
)
def test_a_feature_pooled_from_the_pyramid_needs_a_smaller_classifier(pam, total):
    assert small.parameters(*small.meta(pam=pam, fp_source="P")) == total


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
    assert small.parameters(*small.meta(**keys)) == 7_414_109


def test_the_maps_are_of_the_papers_sizes():
    network = small.meta()[0].eval()
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
    ours, theirs = small.network(), efficientnet_b0()
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
    network = small.network(stochastic_depth=rate) if rate else small.network()
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
        vectors = ServedEmbedder(small.network(**keys))(images)
    assert vectors.shape == (3, size)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)


def test_both_features_weigh_the_same_side_by_side():
    network = small.network(concat=True)
    x = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        out, views = network(x), network.views(x)
    assert torch.equal(out[:, :1280], F.normalize(views.necked))
    assert torch.equal(out[:, 1280:], F.normalize(views.branch))


def test_a_neck_that_judges_the_backbone_is_not_on_the_way_of_the_product():
    network = small.network(ce_b_input="F_b")
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
    network = small.network(pam=pam, gamma=0.5)
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
    network = small.meta(taps=(5, 6, 7), pam="off")[0].eval()
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
    network, baseline = small.network(fuse=fuse, pam="off"), small.network(branch="none", pam="off")
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
    network = small.network(pam="off")
    seen = {}
    network.features[8].register_forward_hook(lambda _, __, out: seen.update(last=out))
    network.expand.register_forward_hook(lambda _, __, out: seen.update(multiplier=out))
    with torch.inference_mode():
        views = network.views(torch.randn(2, 3, 64, 32))
    assert torch.allclose(views.pooled, (seen["last"] * seen["multiplier"]).mean((2, 3)), atol=1e-6)
    assert torch.equal(views.branch, seen["multiplier"].mean((2, 3)))
