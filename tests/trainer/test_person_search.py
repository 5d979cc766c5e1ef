import pytest
import torch
from torch import nn
from torchvision import models

from tests.trainer import person_search_small as small
from trainer.attention import SpatialTransformer
from trainer.methods import person_search as ps
from trainer.methods.person_search import PersonSearchRecipe, PersonSearchTask

BACKBONES = ("googlenet", "resnet50", "densenet121")


pytestmark = pytest.mark.usefixtures("one_thread")


def _count(module):
    return sum(p.numel() for p in module.parameters())


def _multiply_adds(module, *inputs):
    total = 0

    def count(layer, _, output):
        nonlocal total
        total += output.numel() * layer.weight[0].numel()

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    module(*inputs)
    for handle in handles:
        handle.remove()
    return total / 1e9


# Structure, counted on the meta device


@pytest.mark.parametrize(
    ("backbone", "total", "caffe", "stem", "head", "rpn"),
    [
        pytest.param("densenet121", 11_968_695, 11_973_312, 4_267_392, 2_686_464, 4_742_189, id="densenet121"),
        pytest.param("resnet50", 28_795_255, 28_799_872, 8_543_296, 14_964_736, 4_742_189, id="resnet50"),
        pytest.param("googlenet", 9_730_007, 9_734_624, 3_273_920, 2_325_984, 3_857_453, id="googlenet"),
    ],
)
def test_parameters_are_counted_to_the_last(backbone, total, caffe, stem, head, rpn):
    network = small.meta(backbone=backbone, attention="none")
    assert [_count(m) for m in (network, network.stem, network.head, network.proposals)] == [total, stem, head, rpn]
    assert _count(small.meta(backbone=backbone, attention="none", rpn_variant="caffe")) == caffe
    assert _count(small.meta(backbone=backbone)) == total + (43_421 if backbone == "googlenet" else 65_729)


@pytest.mark.parametrize(
    ("kind", "wide", "narrow"),
    [
        pytest.param("none", 0, 0, id="none"),
        pytest.param("spatial", 65_729, 43_421, id="spatial"),
        pytest.param("channel", 132_160, 87_412, id="channel"),
        pytest.param("both", 197_889, 130_833, id="both"),
    ],
)
def test_attention_is_counted_to_the_last(kind, wide, narrow):
    assert [_count(ps.attention(kind, channels)) for channels in (1024, 832)] == [wide, narrow]


@pytest.mark.parametrize(
    ("backbone", "channels", "size", "stem", "rpn", "head"),
    [
        pytest.param("densenet121", 1024, 1024, 70.5, 25.0, 0.207, id="densenet121"),
        pytest.param("resnet50", 1024, 2048, 88.0, 25.0, 0.809, id="resnet50"),
        pytest.param("googlenet", 832, 1024, 37.2, 20.3, 0.114, id="googlenet"),
    ],
)
def test_shapes_and_multiply_adds_at_896x1504(backbone, channels, size, stem, rpn, head):
    network = small.meta(backbone=backbone)
    scene, region = torch.empty(1, 3, 896, 1504, device="meta"), torch.empty(2, channels, 14, 14, device="meta")
    assert network.stem(scene).shape == (1, channels, 56, 94)
    assert network.head(region).shape == (2, size, 7, 7)
    assert _multiply_adds(network.stem, scene) == pytest.approx(stem, abs=0.051)
    maps = [torch.empty(1, channels, 56, 94, device="meta")]
    assert _multiply_adds(network.proposals.head, maps) == pytest.approx(rpn, abs=0.051)
    assert _multiply_adds(network.head, region) / 2 == pytest.approx(head, abs=6e-4)
    if channels == 1024:
        assert _multiply_adds(network.attention, region) / 2 == pytest.approx(0.013, abs=6e-4)


def test_densenet_is_cut_at_a_sixteenth_with_1024_channels():
    network, shapes = small.meta(), []
    x = torch.empty(1, 3, 896, 1504, device="meta")
    for name, layer in network.stem.named_children():
        x = layer(x)
        if not name.startswith(("norm", "relu")):
            shapes.append((name, *x.shape[1:]))
    assert shapes == [
        ("conv0", 64, 448, 752),
        ("pool0", 64, 224, 376),
        ("denseblock1", 256, 224, 376),
        ("transition1", 128, 112, 188),
        ("denseblock2", 512, 112, 188),
        ("transition2", 256, 56, 94),
        ("denseblock3", 1024, 56, 94),
    ]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_nine_anchors_stand_on_every_cell_of_a_padded_scene(backbone):
    network = small.meta(backbone=backbone)
    scene = torch.empty(1, 3, 928, 1504, device="meta")
    maps = torch.zeros(1, 1, *network.stem(scene).shape[2:])
    batch = type("Batch", (), {"tensors": torch.zeros(1, 1, 928, 1504), "image_sizes": [(900, 1500)]})
    (anchors,) = network.proposals.anchor_generator(batch, [maps])
    assert len(anchors) == 49_068 == 9 * 928 * 1504 / 256
    sides = anchors[:9, 2:] - anchors[:9, :2]
    assert torch.allclose(sides.prod(1), torch.tensor([128.0, 256, 512]).square().repeat(3), rtol=0.02)
    assert torch.allclose(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1, 2]).repeat_interleave(3), rtol=0.02)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert (centres[9] - centres[0]).tolist() == [16, 0]
    assert (centres[-9] - centres[0]).tolist() == [1488, 912]


def test_anchors_shrink_with_the_scene():
    assert PersonSearchRecipe().anchors == (128, 256, 512)
    assert (
        PersonSearchRecipe(input_hw=(450, 750)).anchors == small.recipe(input_hw=(256, 384)).anchors == (64, 128, 256)
    )


def test_googlenet_takes_pictures_as_torchvisions_does():
    x = torch.randn(2, 3, 8, 8)
    whole = models.googlenet(aux_logits=False, init_weights=False, transform_input=True)
    assert torch.allclose(ps.InputMap()(x), whole._transform_input(x), atol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_stem_and_head_together_are_torchvisions_classifier(backbone, tmp_path):
    torch.manual_seed(0)
    make = {"googlenet": {"aux_logits": False, "init_weights": False, "transform_input": True}}.get(backbone, {})
    whole = getattr(models, backbone)(**make).eval()
    features = whole.features if backbone == "densenet121" else whole
    with torch.no_grad():
        next(features.parameters()).mul_(2)  # not what a fresh one would be
    torch.save({f"module.{name}": value for name, value in whole.state_dict().items()}, tmp_path / "weights.pth")
    network = ps.PersonSearch(small.recipe(backbone=backbone))
    matched = ps.begin_with(network, backbone, str(tmp_path / "weights.pth"))
    assert not matched.missing
    assert all(name.startswith(("fc.", "classifier.")) for name in matched.skipped)
    taken = {}
    (whole.avgpool if backbone != "densenet121" else whole.classifier).register_forward_pre_hook(
        lambda _, inputs: taken.update(x=inputs[0])
    )
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        whole(x)
        map_ = network.eval().head(network.stem(x))
    mine = map_.mean((2, 3)) if backbone == "densenet121" else map_
    assert torch.allclose(mine, taken["x"], atol=1e-4, rtol=1e-4)


def test_names_in_torchvisions_densenet_file_are_older_than_its_code(tmp_path):
    old = {
        "features.denseblock1.denselayer1.norm.1.weight": torch.full((64,), 3.0),
        "features.norm0.weight": torch.ones(64),
    }
    torch.save(old, tmp_path / "weights.pth")
    network = ps.PersonSearch(small.recipe(backbone="densenet121"))
    assert len(ps.begin_with(network, "densenet121", str(tmp_path / "weights.pth")).matched) == 2
    assert network.stem.denseblock1.denselayer1.norm1.weight.eq(3).all()


# Attention


@pytest.mark.parametrize("kind", ["spatial", "channel"])
def test_a_mask_lies_between_0_and_1_and_begins_at_0_982(kind):
    x = torch.randn(3, 32, 14, 14)
    module = ps.attention(kind, 32)
    mask = module.mask(x)
    assert mask.shape == ((3, 1, 14, 14) if kind == "spatial" else (3, 32, 1, 1))
    assert torch.allclose(mask, torch.full_like(mask, 0.98201), atol=1e-4)
    nn.init.normal_(module.last.weight)
    mask = module.mask(x)
    assert 0 < mask.min() < mask.max() < 1


@pytest.mark.parametrize("kind", ["spatial", "channel", "both"])
def test_an_open_mask_is_no_mask(kind):
    x = torch.randn(3, 32, 14, 14)
    module = ps.attention(kind, 32)
    for part in module if kind == "both" else [module]:
        nn.init.constant_(part.last.bias, 100.0)
    assert torch.equal(module(x), x)


def test_without_attention_it_is_the_network_that_has_none():
    plain = ps.PersonSearch(small.recipe(attention="none")).eval()
    masked = ps.PersonSearch(small.recipe(attention="spatial")).eval()
    masked.load_state_dict(plain.state_dict(), strict=False)
    nn.init.constant_(masked.attention.last.bias, 100.0)
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.allclose(plain(x), masked(x), atol=1e-6)


def test_at_first_only_the_last_convolution_of_the_attention_learns():
    task = PersonSearchTask(small.recipe(), small.scenes())
    sum(small.losses(task).values()).backward()
    attention = task.network.attention
    assert attention.last.weight.grad.ne(0).any()
    for still in (attention.narrow.weight, attention.norm.weight, attention.norm.bias):
        assert still.grad.eq(0).all()


@pytest.mark.parametrize("place", ["roi", "stem"])
@pytest.mark.parametrize(
    ("scope", "reached"),
    [
        pytest.param("shared", {"score", "box", "oim"}, id="shared"),
        pytest.param("id", {"oim"}, id="identity alone"),
    ],
)
def test_which_losses_reach_the_attention(scope, place, reached):
    task = PersonSearchTask(small.recipe(attention_scope=scope, attention_place=place), small.scenes())
    nn.init.normal_(task.network.attention.last.weight, std=0.1)
    nn.init.normal_(task.head.table)  # against zeros, the identity has no gradient
    losses = small.losses(task)
    mine = list(task.network.attention.parameters())
    hit = {
        name
        for name, loss in losses.items()
        if any(
            g is not None and g.ne(0).any()
            for g in torch.autograd.grad(loss, mine, retain_graph=True, allow_unused=True)
        )
    }
    assert hit == reached | ({"rpn_score", "rpn_box"} if (scope, place) == ("shared", "stem") else set())


@pytest.mark.parametrize("sixteen_bits", [False, True])
def test_a_spatial_transformer_begins_as_the_identity_and_learns(sixteen_bits):
    module = SpatialTransformer(64)
    x = torch.randn(2, 64, 14, 14)
    with torch.autocast("cpu", torch.bfloat16, enabled=sixteen_bits):
        out = module(x)
    assert torch.allclose(out, x, atol=1e-5)
    (out * torch.randn(2, 64, 14, 14)).sum().backward()
    assert module.last.weight.grad.ne(0).any()
