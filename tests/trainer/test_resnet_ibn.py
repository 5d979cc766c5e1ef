import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stream.errors import DataError
from trainer import resnest
from trainer.resnet_ibn import ResNetTrunk

PAPER_GFLOPS = {"resnet101": 6.50, "resnet152": 8.95, "resnest101": 7.87, "resnest200": 12.61, "resnest269": 18.06}


def _gmacs(backbone):
    with FlopCounterMode(display=False) as counter:
        ResNetTrunk(backbone).eval()(torch.zeros(1, 3, 256, 128))
    return counter.get_total_flops() / 2e9


def test_the_counter_agrees_with_the_papers_figures_for_other_trunks():
    with torch.device("meta"):
        cost = {name: _gmacs(name) for name in PAPER_GFLOPS}
    assert cost == {name: pytest.approx(value, rel=0.008) for name, value in PAPER_GFLOPS.items()}
    assert cost["resnet101"] == pytest.approx(6.50, abs=0.03)


def test_maps_shrink_to_a_sixteenth_and_stay_there():
    with torch.device("meta"):
        maps = ResNetTrunk()(torch.zeros(2, 3, 256, 128))
    assert [tuple(m.shape) for m in maps] == [(2, 256, 64, 32), (2, 512, 32, 16), (2, 1024, 16, 8), (2, 2048, 16, 8)]


@pytest.mark.parametrize(
    ("backbone", "published"),
    [
        pytest.param("resnest101", 48_275_016, id="ResNeSt-101"),
        pytest.param("resnest200", 70_201_544, id="ResNeSt-200"),
        pytest.param("resnest269", 110_929_480, id="ResNeSt-269"),
    ],
)
def test_a_resnest_with_a_classifier_has_the_published_parameters(backbone, published):
    with torch.device("meta"):
        trunk = ResNetTrunk(backbone)
    assert sum(p.numel() for p in trunk.parameters()) + 2049 * 1000 == published


def test_splits_of_equal_weight_are_averaged():
    mixer = resnest.SplitAttention(8).eval()
    nn.init.zeros_(mixer.fc2.weight)
    nn.init.zeros_(mixer.fc2.bias)
    x = torch.randn(2, 8, 5, 3)
    halves = torch.relu(mixer.bn0(mixer.conv(x))).chunk(2, 1)
    assert torch.allclose(mixer(x), (halves[0] + halves[1]) / 2, atol=1e-6)


def test_the_last_stage_of_a_resnest_keeps_its_size_too():
    with torch.device("meta"):
        maps = ResNetTrunk("resnest101").eval()(torch.zeros(2, 3, 256, 128))
    assert [tuple(m.shape) for m in maps] == [(2, 256, 64, 32), (2, 512, 32, 16), (2, 1024, 16, 8), (2, 2048, 16, 8)]


def test_half_of_the_channels_lose_the_pictures_contrast_and_tint():
    norm = ResNetTrunk().layer1[0].bn1.eval()
    x = torch.randn(2, 64, 6, 5)
    plain, tinted = norm(x), norm(3 * x + 2)
    assert torch.allclose(plain[:, :32], tinted[:, :32], atol=1e-4)
    assert not torch.allclose(plain[:, 32:], tinted[:, 32:], atol=0.1)


def test_the_last_stage_has_plain_norms_only():
    with torch.device("meta"):
        trunk = ResNetTrunk()
    mixed = [name for name, module in trunk.named_modules() if isinstance(module, nn.InstanceNorm2d)]
    assert len(mixed) == 3 + 4 + 6
    assert all(name.endswith("bn1.IN") and not name.startswith("layer4") for name in mixed)


def _released():
    """A state dict with the names and shapes of the IBN-Net authors' release, wrapped as DataParallel saves it."""
    entries = {"conv1.weight": (64, 3, 7, 7), **_norm("bn1", 64), "fc.weight": (1000, 2048), "fc.bias": (1000,)}
    inputs = 64
    for layer, (blocks, planes) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            half = planes // 2
            if layer < 4:
                entries |= {f"{name}.bn1.IN.weight": (half,), f"{name}.bn1.IN.bias": (half,)} | _norm(
                    f"{name}.bn1.BN", half
                )
            else:
                entries |= _norm(f"{name}.bn1", planes)
            entries |= {
                f"{name}.conv1.weight": (planes, inputs, 1, 1),
                f"{name}.conv2.weight": (planes, planes, 3, 3),
                f"{name}.conv3.weight": (4 * planes, planes, 1, 1),
                **_norm(f"{name}.bn2", planes),
                **_norm(f"{name}.bn3", 4 * planes),
            }
            if block == 0:
                entries |= {
                    f"{name}.downsample.0.weight": (4 * planes, inputs, 1, 1),
                    **_norm(f"{name}.downsample.1", 4 * planes),
                }
            inputs = 4 * planes
    return {f"module.{name}": torch.rand(shape) for name, shape in entries.items()}


def _norm(name, channels):
    return {f"{name}.{kind}": (channels,) for kind in ("weight", "bias", "running_mean", "running_var")}


def test_the_authors_weights_fill_every_convolution_and_norm(tmp_path):
    released = _released()
    path = tmp_path / "resnet50_ibn_a-d9d0bb7b.pth"
    torch.save(released, path)
    trunk = ResNetTrunk()
    matched = trunk.fill(str(path))
    assert matched.skipped == ("fc.weight", "fc.bias")
    assert all(name.endswith("num_batches_tracked") for name in matched.missing)
    assert sum(released[f"module.{name}"].numel() for name, _ in trunk.named_parameters()) == 23_508_032
    assert torch.equal(trunk.layer3[5].bn1.IN.weight, released["module.layer3.5.bn1.IN.weight"])
    assert torch.equal(trunk.layer4[0].downsample[0].weight, released["module.layer4.0.downsample.0.weight"])


def test_torchvision_has_no_weights_with_ibn_and_says_what_to_do():
    with pytest.raises(DataError, match=r"torchvision has none for this network.*name a file.*--from-scratch"):
        ResNetTrunk().fill("imagenet")
