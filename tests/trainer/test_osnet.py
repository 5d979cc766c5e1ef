import pytest
import torch
from torch import nn

from tests.trainer import osnet_small as small
from trainer.methods import osnet
from trainer.methods.osnet import ABLATIONS

pytestmark = pytest.mark.usefixtures("one_thread")


STRUCTURES = [
    pytest.param({}, 2_169_508, id="x1.0"),
    pytest.param({"width": 0.75}, 1_285_754, id="x0.75"),
    pytest.param({"width": 0.5}, 630_034, id="x0.5"),
    pytest.param({"width": 0.25}, 201_864, id="x0.25"),
    pytest.param({"ibn": True}, 2_170_532, id="ibn x1.0"),
    pytest.param(ABLATIONS["full 3x3 convolutions"], 6_869_028, id="full 3x3 convolutions"),
    pytest.param(ABLATIONS["separate gates"], 2_193_616, id="separate gates"),
    pytest.param(ABLATIONS["stream-wise gate"], 2_165_262, id="stream-wise gate"),
    pytest.param(ABLATIONS["fixed gates"], 2_163_776, id="fixed gates"),
    pytest.param(ABLATIONS["addition"], 2_161_472, id="addition"),
    pytest.param(ABLATIONS["concatenation"], 2_874_176, id="concatenation"),
    pytest.param(ABLATIONS["T = 3"], 1_906_596, id="T = 3"),
    pytest.param(ABLATIONS["T = 2"], 1_709_412, id="T = 2"),
    pytest.param(ABLATIONS["T = 1"], 1_569_920, id="T = 1"),
    pytest.param({"depths": (1,)}, 1_577_956, id="T = 1 with a gate"),
    pytest.param({"depths": (1, 1, 1, 1)}, 1_775_140, id="four of depth 1"),
    pytest.param({"depths": (2, 2, 2, 2)}, 2_038_052, id="four of depth 2"),
    pytest.param({"depths": (3, 3, 3, 3)}, 2_300_964, id="four of depth 3"),
    pytest.param({"depths": (4, 4, 4, 4)}, 2_563_876, id="four of depth 4"),
]


@pytest.mark.parametrize(("values", "expected"), STRUCTURES)
def test_parameters_are_counted_to_the_last(values, expected):
    assert small.parameters(small.on_meta(**values)[0]) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({}, 2_554_771, id="x1.0"),
        pytest.param({"width": 0.75}, 1_671_017, id="x0.75"),
        pytest.param({"width": 0.5}, 1_015_297, id="x0.5"),
        pytest.param({"width": 0.25}, 587_127, id="x0.25"),
        pytest.param({"ibn": True}, 2_555_795, id="ibn x1.0"),
    ],
)
def test_parameters_with_a_classifier_are_counted_to_the_last(values, expected):
    assert small.parameters(*small.on_meta(**values)) == expected


@pytest.mark.parametrize(
    ("values", "by_size"),
    [
        pytest.param({}, (978_878_352, 550_748_048, 244_940_688, 61_456_272), id="x1.0"),
        pytest.param({"width": 0.75}, (571_754_536, 321_706_024, 143_099_944, 35_936_296), id="x0.75"),
        pytest.param({"width": 0.5}, (272_901_064, 153_568_200, 68_330_440, 17_187_784), id="x0.5"),
        pytest.param({"width": 0.25}, (82_316_000, 46_332_640, 20_630_240, 5_208_800), id="x0.25"),
        pytest.param({"ibn": True}, (978_878_352,), id="ibn x1.0"),
    ],
)
def test_multiply_adds_are_counted_to_the_last(values, by_size):
    total = 0

    def count(module, inputs, output):
        nonlocal total
        total += output.numel() * (module.weight[0].numel() + (module.bias is not None))

    network = small.on_meta(**values)[0].eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    for size_hw, expected in zip([(256, 128), (192, 96), (128, 64), (64, 32)], by_size, strict=False):
        total = 0
        network(torch.zeros(1, 3, *size_hw, device="meta"))
        assert total == expected


@pytest.mark.parametrize(("ibn", "entries"), [pytest.param(False, 567, id="plain"), pytest.param(True, 568, id="ibn")])
def test_weights_are_named_as_torchreid_names_them(ibn, entries):
    network, head = small.on_meta(ibn=ibn)
    names = network.state_dict().keys() | head.state_dict().keys()
    assert len(names) == entries
    assert names >= {
        "conv1.conv.weight",
        "conv2.0.conv2a.conv1.weight",
        "conv2.0.conv2d.3.conv2.weight",
        "conv2.0.gate.fc1.weight",
        "conv2.0.downsample.bn.weight",
        "conv2.2.0.conv.weight",
        "conv5.bn.running_var",
        "fc.0.weight",
        "fc.1.running_mean",
        "classifier.weight",
    }
    assert ("conv2.1.IN.weight" in names) == ibn
    assert ("conv1.bn.running_mean" in names) != ibn


def test_every_stage_has_the_shape_of_the_table():
    shapes = {}
    network, head = small.on_meta()
    watched = [(name, module) for name, module in network.named_modules() if name.count(".") <= 1]
    for name, module in watched:
        module.register_forward_hook(lambda m, i, out, name=name: shapes.__setitem__(name, tuple(out.shape[1:])))
    logits = head.classifier(network.eval()(torch.zeros(1, 3, 256, 128, device="meta")))
    assert logits.shape == (1, 751)
    expected = {
        "conv1": (64, 128, 64),
        "maxpool": (64, 64, 32),
        "conv2.0": (256, 64, 32),
        "conv2.1": (256, 64, 32),
        "conv2.2": (256, 32, 16),
        "conv3.0": (384, 32, 16),
        "conv3.1": (384, 32, 16),
        "conv3.2": (384, 16, 8),
        "conv4.0": (512, 16, 8),
        "conv4.1": (512, 16, 8),
        "conv5": (512, 16, 8),
        "fc": (512,),
    }
    assert {name: shapes[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        pytest.param(name, count, id=name)
        for name, count in {
            "conv1": 9_536,
            "conv2.0": 86_596,
            "conv2.1": 81_988,
            "conv2.2": 66_048,
            "conv3.0": 265_446,
            "conv3.1": 178_662,
            "conv3.2": 148_224,
            "conv4.0": 493_704,
            "conv4.1": 312_456,
            "conv5": 263_168,
            "fc": 263_680,
        }.items()
    ],
)
def test_every_stage_has_the_parameters_of_the_table(stage, expected):
    assert small.parameters(small.on_meta()[0].get_submodule(stage)) == expected


@pytest.mark.parametrize(
    ("width", "hidden"),
    [pytest.param(1.0, [4, 4, 6, 6, 8, 8], id="x1.0"), pytest.param(0.25, [1, 1, 1, 1, 2, 2], id="x0.25")],
)
def test_gates_narrow_to_a_sixteenth_rounded_down_but_to_one_at_least(width, hidden):
    gates = [m for m in small.on_meta(width=width)[0].modules() if isinstance(m, osnet.ChannelGate)]
    assert [gate.fc1.out_channels for gate in gates] == hidden


def test_a_single_stream_has_nine_light_convolutions_fewer_per_block():
    def count(network):
        return sum(isinstance(module, osnet.LightConv3x3) for module in network.modules())

    assert count(small.on_meta()[0]) - count(small.on_meta(depths=(1,))[0]) == 6 * 9


@pytest.mark.parametrize("width", osnet.WIDTHS)
def test_every_width_gives_512_values_that_are_not_negative(width):
    vectors = small.network(width=width)(torch.randn(2, 3, 64, 32))
    assert vectors.shape == (2, 512)
    assert (vectors >= 0).all()


def test_the_smallest_picture_is_32_by_16():
    assert small.network().featuremaps(torch.zeros(1, 3, 32, 16)).shape == (1, 128, 2, 1)
    assert small.network()(torch.zeros(1, 3, 32, 16)).shape == (1, 512)


def test_weights_begin_as_in_torchreid():
    torch.manual_seed(0)
    network, head = osnet.build(small.recipe(width=1.0), 751)
    conv = network.conv4[1].conv3.conv.weight.detach()
    assert float(conv.std()) == pytest.approx((2 / 512) ** 0.5, rel=0.03)  # by the fan out
    assert float(head.classifier.weight.detach().std()) == pytest.approx(0.01, rel=0.03)
    assert (head.classifier.bias == 0).all()
    assert (network.conv2[0].gate.fc1.bias == 0).all()
    assert (network.fc[1].weight == 1).all()


def test_a_stream_of_t_light_convolutions_sees_2t_plus_1_pixels():
    block = osnet.OSBlock(16, 16).eval()
    for depth, stream in enumerate([block.conv2a, block.conv2b, block.conv2c, block.conv2d], start=1):
        for parameter in stream.parameters():
            nn.init.ones_(parameter)
        impulse = torch.zeros(1, 4, 15, 15)
        impulse[:, :, 7, 7] = 1
        seen = (stream(impulse) - stream(torch.zeros_like(impulse))).abs().sum((0, 1)) > 0
        assert seen.any(0).sum() == seen.any(1).sum() == 2 * depth + 1


def _gate_at(block, value):
    nn.init.zeros_(block.gate.fc2.weight)
    nn.init.constant_(block.gate.fc2.bias, value)


def test_with_the_gate_open_a_block_adds_its_streams():
    gated, plain = osnet.OSBlock(16, 32).eval(), osnet.OSBlock(16, 32, fusion="add").eval()
    plain.load_state_dict({name: value for name, value in gated.state_dict().items() if "gate" not in name})
    _gate_at(gated, 50.0)
    x = torch.randn(2, 16, 8, 4)
    assert torch.allclose(gated(x), plain(x), atol=1e-5)


def test_with_the_gate_shut_a_block_is_its_shortcut_and_a_constant():
    block = osnet.OSBlock(16, 32).eval()
    nn.init.normal_(block.conv3.bn.bias)
    _gate_at(block, -200.0)
    x = torch.randn(2, 16, 8, 4)
    constant = block.conv3.bn(torch.zeros(2, 32, 8, 4))
    assert torch.allclose(block(x), torch.relu(constant + block.downsample(x)), atol=1e-6)


def test_the_shared_gate_gathers_the_gradients_of_all_streams():
    shared, separate = osnet.OSBlock(64, 64), osnet.OSBlock(64, 64, fusion="separate")
    tied = shared.state_dict()
    for name in [name for name in tied if name.startswith("gate.")]:
        for stream in range(4):
            tied[name.replace("gate.", f"gates.{stream}.")] = tied[name]
        del tied[name]
    separate.load_state_dict(tied)
    x = torch.randn(2, 64, 8, 4)
    for block in (shared, separate):
        block(x).square().sum().backward()
    single = [gate.fc1.weight.grad for gate in separate.gates]
    assert torch.allclose(shared.gate.fc1.weight.grad, sum(single), rtol=1e-3, atol=1e-5)
    assert all((grad != 0).any() for grad in single)


def test_a_stream_wise_gate_weighs_all_channels_alike_and_a_fixed_one_all_pictures():
    x = torch.rand(3, 16, 4, 2) + 0.1
    by_stream = osnet.ChannelGate(16, 1)(x) / x
    assert torch.allclose(by_stream, by_stream[:, :1, :1, :1].expand_as(x))
    assert by_stream[:, 0, 0, 0].unique().numel() == 3
    fixed = osnet.FixedGate(16)
    nn.init.normal_(fixed.weight)
    weights = fixed(x) / x
    assert torch.allclose(weights, weights[:1, :, :1, :1].expand_as(x))
    assert weights[0, :, 0, 0].unique().numel() == 16
