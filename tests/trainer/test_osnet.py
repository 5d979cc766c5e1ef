import pytest
import torch
from torch import nn

from stream.errors import UsageError
from trainer.methods import osnet


def _parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("width", "ibn", "expected"),
    [
        pytest.param(1.0, False, 2_169_508, id="x1.0"),
        pytest.param(0.75, False, 1_285_754, id="x0.75"),
        pytest.param(0.5, False, 630_034, id="x0.5"),
        pytest.param(0.25, False, 201_864, id="x0.25"),
        pytest.param(1.0, True, 2_170_532, id="ibn x1.0"),
    ],
)
def test_parameters_are_counted_to_the_last(width, ibn, expected):
    assert _parameters(osnet.build(width, ibn=ibn)) == expected


def test_parameters_with_a_classifier_are_counted_to_the_last():
    assert _parameters(osnet.build(0.25, classes=751)) == 587_127


@pytest.mark.parametrize(
    ("width", "size_hw", "expected"),
    [
        pytest.param(0.25, (256, 128), 82_316_000, id="x0.25 at 256x128"),
        pytest.param(0.25, (128, 64), 20_630_240, id="x0.25 at 128x64"),
        pytest.param(1.0, (64, 32), 61_456_272, id="x1.0 at 64x32"),
    ],
)
def test_multiply_adds_are_counted_to_the_last(width, size_hw, expected):
    total = 0

    def count(module, inputs, output):
        nonlocal total
        fan_in = module.weight[0].numel()
        total += output.numel() * (fan_in + (module.bias is not None))

    network = osnet.build(width).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    network(torch.zeros(1, 3, *size_hw))
    assert total == expected


@pytest.mark.parametrize(("ibn", "entries"), [pytest.param(False, 567, id="plain"), pytest.param(True, 568, id="ibn")])
def test_weights_are_named_as_torchreid_names_them(ibn, entries):
    names = osnet.build(1.0, ibn=ibn, classes=751).state_dict().keys()
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


@pytest.mark.parametrize("width", osnet.WIDTHS)
def test_every_width_gives_512_values_that_are_not_negative(width):
    vectors = osnet.build(width).eval()(torch.randn(2, 3, 64, 32))
    assert vectors.shape == (2, 512)
    assert (vectors >= 0).all()


def test_the_map_before_pooling_has_a_sixteenth_of_the_sides():
    assert osnet.build(0.25).eval().featuremaps(torch.zeros(1, 3, 256, 128)).shape == (1, 128, 16, 8)


def test_a_stream_of_t_light_convolutions_sees_2t_plus_1_pixels():
    block = osnet.OSBlock(16, 16).eval()
    for depth, stream in enumerate([block.conv2a, block.conv2b, block.conv2c, block.conv2d], start=1):
        for parameter in stream.parameters():
            nn.init.ones_(parameter)
        impulse = torch.zeros(1, 4, 15, 15)
        impulse[:, :, 7, 7] = 1
        seen = (stream(impulse) - stream(torch.zeros_like(impulse))).abs().sum((0, 1)) > 0
        assert seen.any(0).sum() == seen.any(1).sum() == 2 * depth + 1


def test_an_open_gate_passes_everything():
    gate = osnet.ChannelGate(16)
    nn.init.zeros_(gate.fc2.weight)
    nn.init.constant_(gate.fc2.bias, 50.0)
    x = torch.randn(2, 16, 5, 3)
    assert torch.allclose(gate(x), x)


def test_one_gate_serves_all_four_streams():
    shared = osnet.OSBlock(16, 16)
    shared(torch.randn(2, 16, 8, 4)).sum().backward()
    assert len([name for name, _ in shared.named_parameters() if "gate" in name]) == 4
    assert shared.gate.fc2.bias.grad is not None


def test_an_unpublished_width_is_refused():
    with pytest.raises(UsageError, match=r"0.3.*expected one of 1.0, 0.75, 0.5, 0.25"):
        osnet.build(0.3)
