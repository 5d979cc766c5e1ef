import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stream.errors import DataError, UsageError
from trainer.data import Crops
from trainer.methods import osnet
from trainer.methods.osnet import ABLATIONS, FINE_TUNED, OSNetRecipe, OSNetTask
from trainer.serving import ServedEmbedder
from trainer.settings import make_recipe

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def _recipe(**values):
    return OSNetRecipe(**({"input_hw": (64, 32), "width": 0.25, "precision": "fp32"} | values))


def _network(**values):
    torch.manual_seed(0)
    return osnet.embedder(_recipe(**values)).eval()


def _crops(people=4, pictures=4):
    """People who differ in the colours of their halves."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (people * pictures, 64, 32, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(people), pictures)
    colours = rng.integers(0, 190, (people, 2, 3), dtype=np.uint8)
    images[:, :32] += colours[labels, 0][:, None, None]
    images[:, 32:] += colours[labels, 1][:, None, None]
    return Crops(images, labels, np.tile(np.arange(pictures), people))


def _task(**values):
    return OSNetTask(_recipe(**({"batch_people": 4, "batch_pictures": 4} | values)), _crops())


def _steps(task, count, epoch=0):
    """Train as the loop does; the loss of every step."""
    generator, optimiser, losses = torch.Generator().manual_seed(0), task.optimiser(), []
    task.network.train()
    task.head.train()
    task.begin_epoch(epoch)
    for group in optimiser.param_groups:
        group["lr"] = task.learning_rate(epoch, 0.0)
    for _ in range(count):
        loss = sum(task.losses(torch.from_numpy(task.sampler.next()), generator, CPU).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def _on_meta(**values):
    with torch.device("meta"):
        return osnet.build(OSNetRecipe(**values), 751)


def _parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


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
    assert _parameters(_on_meta(**values)[0]) == expected


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
    assert _parameters(*_on_meta(**values)) == expected


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

    network = _on_meta(**values)[0].eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    for size_hw, expected in zip([(256, 128), (192, 96), (128, 64), (64, 32)], by_size, strict=False):
        total = 0
        network(torch.zeros(1, 3, *size_hw, device="meta"))
        assert total == expected


@pytest.mark.parametrize(("ibn", "entries"), [pytest.param(False, 567, id="plain"), pytest.param(True, 568, id="ibn")])
def test_weights_are_named_as_torchreid_names_them(ibn, entries):
    network, head = _on_meta(ibn=ibn)
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
    network, head = _on_meta()
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
    assert _parameters(_on_meta()[0].get_submodule(stage)) == expected


@pytest.mark.parametrize(
    ("width", "hidden"),
    [pytest.param(1.0, [4, 4, 6, 6, 8, 8], id="x1.0"), pytest.param(0.25, [1, 1, 1, 1, 2, 2], id="x0.25")],
)
def test_gates_narrow_to_a_sixteenth_rounded_down_but_to_one_at_least(width, hidden):
    gates = [m for m in _on_meta(width=width)[0].modules() if isinstance(m, osnet.ChannelGate)]
    assert [gate.fc1.out_channels for gate in gates] == hidden


def test_a_single_stream_has_nine_light_convolutions_fewer_per_block():
    def count(network):
        return sum(isinstance(module, osnet.LightConv3x3) for module in network.modules())

    assert count(_on_meta()[0]) - count(_on_meta(depths=(1,))[0]) == 6 * 9


@pytest.mark.parametrize("width", osnet.WIDTHS)
def test_every_width_gives_512_values_that_are_not_negative(width):
    vectors = _network(width=width)(torch.randn(2, 3, 64, 32))
    assert vectors.shape == (2, 512)
    assert (vectors >= 0).all()


def test_the_smallest_picture_is_32_by_16():
    assert _network().featuremaps(torch.zeros(1, 3, 32, 16)).shape == (1, 128, 2, 1)
    assert _network()(torch.zeros(1, 3, 32, 16)).shape == (1, 512)


def test_weights_begin_as_in_torchreid():
    torch.manual_seed(0)
    network, head = osnet.build(_recipe(width=1.0), 751)
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


SWITCHES = ("conv", "fusion", "depths", "ibn", "width")
SHAPED = {
    name: {key: value for key, value in row.items() if key in SWITCHES}
    for name, row in ABLATIONS.items()
    if any(key in SWITCHES for key in row) and "weights" not in row
}


def _in_onnx(module, example, folder):
    """`module` in ONNX Runtime, and the file."""
    path = folder / "model.onnx"
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    torch.onnx.export(module, (example,), dynamo=True, dynamic_shapes=shapes, verbose=False).save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {session.get_inputs()[0].name: x.numpy()})[0], path


@pytest.mark.parametrize("row", SHAPED.values(), ids=SHAPED.keys())
def test_every_row_of_the_ablation_trains_a_step(row):
    task = _task(**({"width": 0.25} | row))
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    assert np.isfinite(_steps(task, 1)).all()
    after = task.network.state_dict()
    still = [n for n in after if after[n].is_floating_point() and torch.equal(after[n], before[n])]
    assert [name for name in still if ".fc1." not in name] == []  # a gate one channel narrow may sleep at first
    vectors = task.network.eval()(torch.randn(2, 3, 64, 32))
    assert vectors.shape == (2, 512)


def test_every_row_is_a_recipe():
    for row in ABLATIONS.values():
        make_recipe({"method": "osnet", **row}, "row")


def test_an_unpublished_width_is_refused():
    with pytest.raises(UsageError, match=r"0.3.*expected one of 1.0, 0.75, 0.5, 0.25"):
        osnet.embedder(_recipe(width=0.3))


def test_while_frozen_only_the_classifier_learns():
    task = _task(freeze_epochs=2, optimiser="amsgrad", learning_rate=1.5e-3)
    network = {name: value.clone() for name, value in task.network.state_dict().items()}
    head = {name: value.clone() for name, value in task.head.state_dict().items()}
    _steps(task, 1, epoch=1)
    assert all(torch.equal(value, network[name]) for name, value in task.network.state_dict().items())
    assert not any(torch.equal(value, head[name]) for name, value in task.head.state_dict().items())
    _steps(task, 1, epoch=2)
    moved = [n for n, value in task.network.state_dict().items() if not torch.equal(value, network[n])]
    assert len(moved) > 0.95 * len(network)  # gates one channel narrow may sleep


def test_the_fine_tuned_recipe_is_amsgrad_in_three_steps():
    task = _task(**{**FINE_TUNED, "weights": ""})
    optimiser = task.optimiser()
    (group,) = optimiser.param_groups
    assert isinstance(optimiser, torch.optim.Adam)
    assert (group["amsgrad"], group["betas"], group["weight_decay"]) == (True, (0.9, 0.999), 5e-4)
    rates = [task.learning_rate(epoch, 0.5) for epoch in (0, 59, 60, 119, 120, 149)]
    assert rates == pytest.approx([1.5e-3] * 2 + [1.5e-4] * 2 + [1.5e-5] * 2)


def test_amsgrad_steps_as_torchs_own():
    task, other = (_task(optimiser="amsgrad", learning_rate=1.5e-3, augment="flip") for _ in range(2))
    other.optimiser = lambda: torch.optim.Adam(
        [*other.network.parameters(), *other.head.parameters()], lr=1.5e-3, weight_decay=5e-4, amsgrad=True
    )
    assert _steps(task, 3) == pytest.approx(_steps(other, 3), rel=1e-4)


def test_from_scratch_it_is_sgd_in_four_steps():
    task = _task()
    (group,) = task.optimiser().param_groups
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, False, 5e-4)
    rates = [task.learning_rate(epoch, 0.0) for epoch in (0, 149, 150, 225, 300, 349)]
    assert rates == pytest.approx([0.065, 0.065, 0.0065, 0.00065, 0.000065, 0.000065])


def test_the_recipe_of_the_model_that_ships_is_still_there():
    drawn = {"softmax": "cosine", "optimiser": "adamw", "schedule": "cosine", "augment": "drawn", "sampler": "people"}
    task = _task(**drawn, epochs=20, learning_rate=2e-3, warmup=0.02, triplet_weight=0.5, triplet_from=0.15)
    rows, generator = torch.from_numpy(task.sampler.next()), torch.Generator().manual_seed(0)
    assert task.head.state_dict().keys() == {"weight"}
    task.begin_epoch(2)
    assert task.losses(rows, generator, CPU).keys() == {"softmax"}
    task.begin_epoch(3)
    assert task.losses(rows, generator, CPU).keys() == {"softmax", "triplet"}
    assert task.learning_rate(0, 0.2) == pytest.approx(1e-3)
    assert task.learning_rate(19, 0.999) == pytest.approx(0.0, abs=1e-6)


def test_the_softmax_may_join_after_the_contrastive_loss():
    task = _task(epochs=10, softmax_from=0.2, contrastive_weight=1.0, temperature=0.1, calm=True)
    assert (task.network.conv3[1].conv3.bn.weight == 0).all()
    found = []
    for epoch in (1, 2):
        task.begin_epoch(epoch)
        found.append(set(task.losses(torch.arange(16), torch.Generator().manual_seed(0), CPU)))
    assert found == [{"contrastive"}, {"contrastive", "softmax"}]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"softmax_from": 0.5}, "nothing is learnt in the first epoch", id="all join later"),
        pytest.param(
            {"softmax_weight": 0.0, "triplet_weight": 1.0, "freeze_epochs": 2},
            "trains the classifier alone",
            id="frozen without softmax",
        ),
    ],
)
def test_a_recipe_that_learns_nothing_at_first_is_refused(values, message):
    with pytest.raises(UsageError, match=message):
        _task(**values)


def test_every_term_is_weighed():
    terms = {}
    for weight in (1.0, 2.0):
        weights = dict.fromkeys(("softmax_weight", "triplet_weight", "contrastive_weight", "centre_weight"), weight)
        task = _task(**weights, augment="flip")
        task.begin_epoch(0)
        rows = torch.arange(16)
        terms[weight] = task.losses(rows, torch.Generator().manual_seed(0), CPU)
    for name in osnet.LOSSES:
        assert torch.allclose(terms[2.0][name], 2 * terms[1.0][name])


def test_the_softmax_is_label_smoothed_on_the_vector_and_the_triplet_sees_it_as_it_is():
    task = _task(triplet_weight=1.0, augment="flip")
    task.begin_epoch(0)
    seen = []
    task.network.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    terms = task.losses(torch.arange(16), torch.Generator().manual_seed(0), CPU)
    labels = torch.arange(16) // 4
    expected = F.cross_entropy(task.head.classifier(seen[0]), labels, label_smoothing=0.1)
    assert torch.allclose(terms["softmax"], expected, atol=1e-6)
    distance = torch.cdist(seen[0], seen[0])
    same = labels[:, None] == labels[None]
    hardest = distance.where(same, torch.tensor(0.0)).amax(1) - distance.where(~same, torch.tensor(9e9)).amin(1)
    assert torch.allclose(terms["triplet"], F.relu(0.3 + hardest).mean(), atol=1e-4)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"augment": "flip", "learning_rate": 0.03}, id="from scratch"),
        pytest.param(
            {"softmax": "cosine", "optimiser": "adamw", "schedule": "cosine", "augment": "drawn", "sampler": "people"}
            | {"learning_rate": 2e-3, "epochs": 1000},
            id="as it ships",
        ),
    ],
)
def test_four_people_are_learnt_by_heart(values):
    losses = _steps(_task(**values), 30)
    assert np.mean(losses[-3:]) < 0.5 * losses[0]


@pytest.mark.parametrize(
    "augment", ["flip", "flip_erase", "flip_crop_patch", "flip_crop_erase", "flip_jitter", "drawn"]
)
def test_every_augmentation_feeds_the_network(augment):
    task = _task(augment=augment)
    task.begin_epoch(0)
    assert torch.isfinite(task.losses(torch.arange(16), torch.Generator().manual_seed(0), CPU)["softmax"])


def test_torchreids_weights_fill_all_but_the_classifier(tmp_path):
    given, head = osnet.build(_recipe(), 751)
    state = {f"module.{name}": value for name, value in {**given.state_dict(), **head.state_dict()}.items()}
    torch.save({"state_dict": state, "epoch": 250, "rank1": np.float32(0.9)}, tmp_path / "osnet.pth")
    task = _task(weights=str(tmp_path / "osnet.pth"))
    assert task.matched.skipped == ("classifier.weight", "classifier.bias")
    assert task.matched.missing == ()
    assert all(torch.equal(v, given.state_dict()[name]) for name, v in task.network.state_dict().items())


def test_imagenet_weights_must_be_named_by_file():
    with pytest.raises(DataError, match=r"torchvision has none.*name a file"):
        _task(weights="imagenet")


def test_in_onnx_it_is_the_same_network_with_one_gate_per_block(tmp_path):
    served = ServedEmbedder(_network(width=1.0)).eval()  # tests/deploy/test_export.py exports x0.25
    run, path = _in_onnx(served, torch.zeros(2, 64, 32, 3, dtype=torch.uint8), tmp_path)
    for batch in (1, 4, 5):
        pixels = torch.randint(0, 256, (batch, 64, 32, 3), dtype=torch.uint8)
        with torch.inference_mode():
            expected = served(pixels).numpy()
        found = run(pixels)
        assert found.shape == (batch, 512)
        assert np.abs(found - expected).max() <= 1e-4
        assert (found * expected).sum(1).min() >= 0.9999
    weights = onnx.load(path).graph.initializer
    assert sum(np.prod(w.dims) for w in weights) < 1.02 * sum(v.numel() for v in served.network.state_dict().values())
    gates = {tuple(gate.fc2.weight.shape) for gate in served.network.modules() if isinstance(gate, osnet.ChannelGate)}
    assert sum(tuple(w.dims) in gates for w in weights) == 6


class _AllBlocks(nn.Module):
    """One block of every kind, side by side."""

    def __init__(self):
        super().__init__()
        kinds = [{"fusion": fusion} for fusion in ("separate", "stream", "fixed", "add", "concat")]
        kinds += [{"conv": "full"}, {"instance_norm": True}]
        self.blocks = nn.ModuleList(osnet.OSBlock(16, 16, depths=(1, 2), **kind) for kind in kinds)

    def forward(self, x):
        return torch.cat([block(x) for block in self.blocks], 1)


def test_every_kind_of_block_exports(tmp_path):
    torch.manual_seed(0)
    blocks = _AllBlocks().eval()
    run, _ = _in_onnx(blocks, torch.randn(2, 16, 8, 4), tmp_path)
    x = torch.randn(4, 16, 8, 4)
    with torch.inference_mode():
        assert np.abs(run(x) - blocks(x).numpy()).max() <= 1e-4
