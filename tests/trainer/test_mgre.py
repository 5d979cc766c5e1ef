import re
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deploy.export import OPSET, without_notes
from reid.crops import to_batch
from stream.errors import DataError, SettingsError, UsageError
from trainer import checkpoint, resnet_ibn
from trainer.augment import normalise
from trainer.data import Crops
from trainer.evaluate import embed
from trainer.methods import mgre
from trainer.methods.mgre import MGRe, MGReRecipe, MGReTask
from trainer.metrics import rank
from trainer.regions import REGIONS, given_boxes, prior_boxes
from trainer.serving import ServedEmbedder, TorchBackend, network_of, served
from trainer.settings import make_recipe

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small_and_steady(monkeypatch, one_thread):
    """Trunks with one block in each stage: a quarter of the work, every connection. One thread, one seed."""
    for blocks in (resnet_ibn._LAYERS, resnet_ibn.BLOCKS):
        for name in blocks:
            monkeypatch.setitem(blocks, name, [1, 1, 1, 1])
    torch.manual_seed(0)


def _recipe(**keys):
    return MGReRecipe(**({"input_hw": (64, 32), "batch_people": 2, "batch_pictures": 2, "weights": ""} | keys))


def _joints(count):
    """A person who stands upright in the middle, every joint seen, the anatomical left side on the picture's right."""
    one = np.zeros((17, 3), np.float32)
    one[:, 2] = 0.9
    one[:, 0] = [0.5] + [0.5 + side * x for x in (0.03, 0.06, 0.15, 0.2, 0.22, 0.1, 0.1, 0.12) for side in (1, -1)]
    one[:, 1] = [0.1, 0.08, 0.08, 0.1, 0.1, *np.repeat([0.22, 0.36, 0.5, 0.52, 0.72, 0.93], 2)]
    return np.repeat(one[None], count, 0)


def _crops(people=2, pictures=2, *, joints=True):
    """People who differ in the colours of their halves."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (people * pictures, 80, 40, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(people), pictures)
    colours = rng.integers(0, 190, (people, 2, 3), dtype=np.uint8)
    images[:, :40] += colours[labels, 0][:, None, None]
    images[:, 40:] += colours[labels, 1][:, None, None]
    return Crops(images, labels, np.tile(np.arange(pictures), people), _joints(len(images)) if joints else None)


def _task(data=None, **keys):
    return MGReTask(_recipe(**keys), data or _crops())


def _losses(task, rows=(0, 1, 2, 3), seed=0):
    return task.stage_losses(torch.tensor(rows), torch.Generator().manual_seed(seed), CPU)


def _gradients(loss, module):
    """Names of the module's parameters that the loss moves."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, [p for _, p in named], retain_graph=True, allow_unused=True)
    return {name for (name, _), g in zip(named, found, strict=True) if g is not None and bool(g.abs().max() > 0)}


def _stir(task):
    """Locators that look at their maps, as they do after the first steps."""
    for module in (task.network, task.head):
        for locator in module.locators.values():
            nn.init.normal_(locator.out.weight, std=1e-3)


# what moves what


def test_the_first_boxes_are_the_expected_places():
    network = MGRe(_recipe()).eval()
    described = network.describe(torch.randn(2, 3, 64, 32))
    for stage, regions in REGIONS.items():
        assert torch.allclose(described.boxes[stage], prior_boxes(regions).expand(2, -1, -1), atol=1e-6)


def test_at_first_the_location_loss_moves_only_the_last_layer():
    task = _task()
    losses = _losses(task)
    location = losses["location", 1] + losses["location", 2] + losses["location", 3]
    last = {f"locators.{stage}.out.{kind}" for stage in (1, 2, 3) for kind in ("weight", "bias")}
    assert _gradients(location, task.network) == last


def test_at_first_the_identity_loss_moves_the_last_layer_of_its_locator_and_nothing_before_it():
    task = _task()
    moved = {name for name in _gradients(_losses(task)["identity", 1], task.network) if name.startswith("locators")}
    assert moved == {"locators.1.out.weight", "locators.1.out.bias"}


@pytest.mark.parametrize(
    ("keys", "stage", "layers"),
    [
        pytest.param({}, 1, {1, 2, 3, 4}, id="stage 1 guided"),
        pytest.param({}, 2, {1, 2, 3, 4}, id="stage 2 guided"),
        pytest.param({}, 3, {1, 2, 3}, id="stage 3"),
        pytest.param({"loc_input": "raw"}, 1, {1}, id="stage 1 raw"),
        pytest.param({"loc_input": "raw"}, 2, {1, 2}, id="stage 2 raw"),
        pytest.param({"regions": "loss"}, 2, {1, 2}, id="stage 2 of the baseline"),
    ],
)
def test_the_location_loss_teaches_the_trunk_as_far_as_its_map_depends_on_it(keys, stage, layers):
    task = _task(**keys)
    _stir(task)
    loss = _losses(task)["location", stage]
    moved = _gradients(loss, task.network)
    assert {int(name[len("trunk.layer")]) for name in moved if name.startswith("trunk.layer")} == layers
    locators = task.head.locators if keys.get("regions") == "loss" else task.network.locators
    assert len(_gradients(loss, locators[str(stage)])) == 7
    guided = {name for name in moved if name.startswith("guides")}
    assert guided == ({f"guides.{stage}.weight"} if not keys and stage < 3 else set())


@pytest.mark.parametrize(
    ("detach", "parameters"), [pytest.param(False, 7, id="joint"), pytest.param(True, 0, id="detached")]
)
def test_the_identity_loss_moves_the_locator_unless_its_boxes_are_detached(detach, parameters):
    task = _task(detach_loc=detach)
    _stir(task)
    assert len(_gradients(_losses(task)["identity", 1], task.network.locators["1"])) == parameters


def test_triplets_compare_vectors_before_the_norm_and_identities_are_told_behind_it():
    task = _task(margin=100.0)  # so that every triplet counts
    for (kind, stage), loss in _losses(task).items():
        moved, neck = _gradients(loss, task.network), f"stages.{stage}.neck.weight"
        assert {name for name in moved if ".neck." in name} == ({neck} if kind == "identity" else set())
        assert kind == "location" or f"stages.{stage}.embed.weight" in moved


# the recipe


@pytest.mark.parametrize("row", ["MGRe", *mgre.ABLATIONS])
def test_each_row_trains_a_step(row):
    task = _task(**mgre.ABLATIONS.get(row, {}))
    losses = _losses(task)
    total = sum(losses.values())
    assert total.dtype == torch.float32
    assert torch.isfinite(total)
    optimiser = task.optimiser()
    before = {name: p.clone() for name, p in task.network.named_parameters()}
    total.backward()
    optimiser.step()
    after = dict(task.network.named_parameters())
    still = {name for name, p in before.items() if torch.equal(p, after[name])}
    frozen = {name for name, p in after.items() if not p.requires_grad}
    assert frozen == {name for name in after if name.endswith("neck.bias")}
    assert {name for name in still - frozen if not name.startswith("locators")} == set()


def test_all_eleven_losses_are_there_and_lam_weighs_those_of_the_first_three_stages():
    losses = [_losses(_task(lam=lam, erase_p=0.0)) for lam in (1.0, 0.5)]
    assert set(losses[0]) == {(kind, stage) for kind in mgre.LOSSES for stage in (1, 2, 3, 4)} - {("location", 4)}
    for name in losses[0]:
        factor = 1.0 if name[1] == 4 else 0.5
        assert losses[1][name].item() == pytest.approx(factor * losses[0][name].item(), rel=1e-5), name


def test_pictures_without_joints_train_by_identity_alone():
    losses = _losses(_task(_crops(joints=False)))
    assert [losses["location", stage].item() for stage in (1, 2, 3)] == [0.0, 0.0, 0.0]
    assert torch.isfinite(sum(losses.values()))


@pytest.mark.parametrize(
    ("keys", "without", "note"),
    [
        pytest.param(
            {}, 4, "0 of 4 training pictures have the joints of a region; for the others identities", id="none"
        ),
        pytest.param({}, 1, "3 of 4 training pictures .* identities alone teach", id="all but one"),
        pytest.param({"regions": "joints"}, 1, "3 of 4 .* expected places stand in", id="boxes from joints"),
    ],
)
def test_missing_joints_are_said_once(keys, without, note):
    data = _crops()
    data.joints[:without] = np.nan
    notes = _task(data, **keys).notes
    assert len(notes) == 1
    assert re.search(note, notes[0])


@pytest.mark.parametrize(
    ("keys", "joints"),
    [
        pytest.param({}, True, id="all there"),
        pytest.param({"stages": ()}, False, id="baseline"),
        pytest.param({"regions": "whole"}, False, id="whole maps"),
    ],
)
def test_joints_that_are_there_or_not_needed_are_not_spoken_of(keys, joints):
    assert not _task(_crops(joints=joints), **keys).notes


def test_half_precision_of_the_network_leaves_boxes_and_losses_in_full():
    task = _task()
    with torch.autocast("cpu", torch.bfloat16):
        described = task.network.describe(torch.randn(2, 3, 64, 32))
        losses = _losses(task)
    assert described.pooled[4].dtype == torch.bfloat16
    for stage, regions in REGIONS.items():
        assert torch.allclose(described.boxes[stage], prior_boxes(regions).expand(2, -1, -1), atol=1e-6)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert torch.isfinite(sum(losses.values()))


def test_a_few_people_are_learnt_by_heart():
    task = _task(_crops(3, 4), batch_people=3, batch_pictures=4, erase_p=0.0)
    _stir(task)
    optimiser = task.optimiser()
    history = []
    for step in range(8):
        losses = task.losses(torch.arange(12), torch.Generator().manual_seed(step), CPU)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
        history.append({name: value.item() for name, value in losses.items()})
    for kind in ("identity", "location"):
        assert history[-1][kind] < 0.7 * history[0][kind], kind
    assert set(history[0]) == set(mgre.LOSSES)


def test_the_rate_rises_for_ten_epochs_and_falls_to_three_tenths_at_each_milestone():
    task = _task()
    expected = {
        1: 3.815e-5,
        9: 3.1535e-4,
        10: 3.5e-4,
        119: 3.5e-4,
        120: 1.05e-4,
        150: 3.15e-5,
        180: 9.45e-6,
        210: 2.835e-6,
    }
    assert {e: task.learning_rate(e - 1, 0.5) for e in expected} == pytest.approx(expected)


def test_the_rates_other_reading_is_a_key():
    assert _task(lr_gamma=0.7).learning_rate(119, 0.0) == pytest.approx(0.7 * 3.5e-4)


def test_weights_that_are_not_there_are_asked_for_in_one_line():
    recipe = MGReRecipe(batch_people=2)
    task = MGReTask(recipe, _crops())
    with pytest.raises(DataError, match=r"resnet50_ibn_a-d9d0bb7b.pth.*no such file.*--from-scratch"):
        task.fill(recipe.weights)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        pytest.param({"stages": (2, 1)}, r"stages are \(2, 1\), expected some of 1, 2, 3 in this order", id="order"),
        pytest.param({"stages": (4,)}, "stages", id="a fourth stage"),
        pytest.param({"embed_dim": 2047}, "multiple of 4", id="no quarter"),
        pytest.param({"backbone": "resnet18"}, "backbone", id="unknown trunk"),
    ],
)
def test_a_recipe_that_cannot_be_built_is_refused_in_one_line(keys, message):
    with pytest.raises(SettingsError, match=message):
        make_recipe({"method": "mgre", **keys}, "recipe.toml")


# the embedding


@pytest.mark.parametrize(
    ("concat", "expected"),
    [pytest.param(False, [3 + 6, -1 + 0], id="sum"), pytest.param(True, [3, -1, 6, 0], id="side by side")],
)
def test_a_map_becomes_its_mean_and_its_maximum(concat, expected):
    stage = mgre.Stage(2, (), len(expected), extract=False, concat=concat).eval()
    nn.init.eye_(stage.embed.weight)
    pooled, _ = stage(torch.tensor([[[[1.0, 2], [3, 6]], [[0, 0], [0, -4]]]]), None)
    assert pooled.tolist() == [expected]


def test_every_embedding_has_the_same_length():
    vectors = mgre.embedder(_recipe()).eval()(torch.randn(3, 3, 64, 32))
    assert vectors.shape == (3, 2048)
    assert torch.allclose(vectors.norm(dim=1), torch.tensor(1.2258), atol=1e-4)


def _pair(keys, other):
    """Two networks of the same weights."""
    first = MGRe(_recipe(**keys)).eval()
    second = MGRe(_recipe(**other)).eval()
    second.load_state_dict(first.state_dict())
    return first, second


def test_stages_of_weight_zero_leave_the_last_ones_vector():
    network = MGRe(_recipe(stage_weights=(0, 0, 0, 1))).eval()
    x = torch.randn(2, 3, 64, 32)
    vectors = network(x)
    assert not vectors[:, :1536].any()
    assert torch.allclose(vectors[:, 1536:], F.normalize(network.describe(x).necked[4]), atol=1e-6)


def test_a_common_factor_of_the_weights_changes_no_ranking():
    pair = _pair({"stage_weights": (0.35, 0.5, 0.7, 0.8)}, {"stage_weights": (0.7, 1.0, 1.4, 1.6)})
    x = torch.randn(6, 3, 64, 32)
    orders = [torch.cdist(v, v).argsort(1) for v in (network(x) for network in pair)]
    assert torch.equal(*orders)


def test_channels_before_size_gives_the_same_embedding():
    slow, fast = _pair({}, {"fast_guidance": True})
    x = torch.randn(2, 3, 64, 32)
    assert torch.allclose(slow(x), fast(x), atol=1e-5)


def test_without_joint_optimisation_the_joints_say_where_regions_are():
    network = MGRe(_recipe(regions="joints")).eval()
    x = torch.randn(2, 3, 64, 32)
    boxes = given_boxes(torch.from_numpy(_joints(2)), 0.3)
    unknown = given_boxes(torch.full((2, 17, 3), torch.nan), 0.3)
    assert torch.allclose(network(x, unknown), network(x), atol=1e-6)
    moved = (network(x, boxes) - network(x)).abs().reshape(2, 4, 512).amax((0, 2))
    assert (moved[:3] > 1e-3).all()
    assert moved[3] == 0


def test_without_joint_optimisation_pictures_are_scored_with_their_joints_and_nothing_is_exported():
    task = _task(regions="joints")
    crops = _crops()
    saved = checkpoint.Checkpoint(task.recipe.model_dump(mode="json"), 0.0, 0, task.network.state_dict())
    backend = TorchBackend(ServedEmbedder(network_of(saved)[0]))
    batch = to_batch(list(crops.images), (64, 32))
    planes = normalise(torch.from_numpy(batch).permute(0, 3, 1, 2) / 255)
    expected = F.normalize(task.network.eval()(planes, given_boxes(torch.from_numpy(crops.joints), 0.3)))
    assert np.allclose(embed(backend, crops, (64, 32)), expected.detach().numpy(), atol=1e-4)
    with pytest.raises(DataError, match=r"told where a person's joints are.*annotate --every-split"):
        embed(backend, _crops(joints=False), (64, 32))
    with pytest.raises(UsageError, match="joints are, which the stream does not know"):
        served(saved)
    with pytest.raises(DataError, match="regions = 'joints', but these pictures have none"):
        _task(_crops(joints=False), regions="joints")


def test_a_trained_network_is_served_without_its_head():
    task = _task()
    alone = mgre.embedder(task.recipe)
    alone.load_state_dict(task.network.state_dict())
    x = torch.randn(2, 3, 64, 32)
    assert torch.equal(alone.eval()(x), task.network.eval()(x))


def test_the_weights_are_tuned_on_people_held_out():
    rng = np.random.default_rng(0)
    people = np.arange(40) % 20
    vectors = rng.normal(size=(40, 3, 8)).astype(np.float32)  # stages 2 and 3 are noise
    vectors[:, 2] = rng.normal(size=(20, 8))[people] + rng.normal(size=(40, 8))
    cameras = np.arange(40) // 20

    def mean_ap(found):
        return rank(found[:20], people[:20], cameras[:20], found[20:], people[20:], cameras[20:]).mean_ap

    recipe = _recipe(stages=(2, 3))
    weights, best = mgre.tune_weights(recipe, vectors.reshape(40, 24), mean_ap)
    assert weights[0] == recipe.stage_weights[0]
    assert max(weights[1:3]) < weights[3]
    scale = np.array(weights[1:], np.float32)[:, None]
    unit = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    assert mean_ap((scale * unit).reshape(40, 24)) == pytest.approx(best)
    assert best > mean_ap((np.array(recipe.stage_weights[1:], np.float32)[:, None] * unit).reshape(40, 24))


def _for_export(**keys):
    """A network whose regions depend on the picture."""
    network = MGRe(_recipe(**keys)).eval()
    for locator in network.locators.values():
        nn.init.normal_(locator.out.weight, std=1e-2)
    return network


def _session(graph):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _same(got, expected):
    assert np.abs(got - expected).max() <= 1e-4
    assert ((got * expected).sum(1) >= 0.9999).all()


def test_without_joint_optimisation_boxes_are_a_second_input_of_the_graph():
    network = _for_export(regions="joints", features="last", stages=(2,), pool="concat", fe4=True)
    boxes = given_boxes(torch.from_numpy(_joints(4)), 0.3)
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 3, 64, 32), boxes[:2]),
            dynamo=True,
            input_names=["pictures", "boxes"],
            opset_version=OPSET,
            dynamic_shapes=({0: batch}, {0: batch}),
            verbose=False,
        )
    session = _session(without_notes(program))
    for count in (1, 4):
        pictures = torch.randn(count, 3, 64, 32)
        with torch.inference_mode():
            expected = F.normalize(network(pictures, boxes[:count])).numpy()
        got = session.run(None, {"pictures": pictures.numpy(), "boxes": boxes[:count].numpy()})[0]
        _same(got / np.linalg.norm(got, axis=1, keepdims=True), expected)
