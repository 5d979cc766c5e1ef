import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stream.errors import DataError, UsageError
from stream.model import IMAGENET_MEAN, IMAGENET_STD
from tests.trainer import person_search_small as small
from tests.trainer import trees
from trainer import checkpoint
from trainer.data import NOBODY, UNLABELLED, Crops, Scenes
from trainer.loop import train
from trainer.methods import person_search as ps
from trainer.methods.person_search import PersonSearchRecipe, PersonSearchTask
from trainer.oim import BACKGROUND, UNLABELED
from trainer.scene_batch import read
from trainer.tasks import prepare

BACKBONES = ("googlenet", "resnet50", "densenet121")
CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


# Training


@pytest.mark.parametrize("attention", ["none", "spatial"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_trunk_takes_a_step_and_only_what_may_learn_does(backbone, attention):
    task = PersonSearchTask(small.recipe(backbone=backbone, attention=attention, stem="frozen", rois=4), small.scenes())
    network = task.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    losses = small.losses(task)
    assert tuple(losses) == ps.LOSSES
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    task.optimiser().step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    norms = {
        f"{part}.{name}."
        for part in ("stem", "head")
        for name, module in getattr(network, part).named_modules()
        if isinstance(module, nn.BatchNorm2d)
    }
    moved = {name for name in norms if name + "running_mean" in changed}
    assert moved == {name for name in norms if name.startswith("head.")}
    assert not any(name.startswith("stem.") and name.rpartition(".")[0] + "." in norms for name in changed)
    first = (
        "conv0.weight"
        if backbone == "densenet121"
        else "conv1.conv.weight"
        if backbone == "googlenet"
        else "conv1.weight"
    )
    assert f"stem.{first}" not in changed
    assert any(name.startswith("stem.") for name in changed)
    assert {"score.weight", "box.weight", "identity.weight", "proposals.head.conv.weight"} <= changed
    if attention == "spatial":
        assert {"attention.last.weight", "attention.norm.running_mean"} <= changed


def test_a_frozen_head_keeps_its_norms_but_the_attention_does_not():
    task = PersonSearchTask(small.recipe(head_bn="frozen"), small.scenes())
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    sum(small.losses(task).values()).backward()
    task.optimiser().step()
    after = task.network.state_dict()
    norms = [name for name in before if name.startswith("head.") and ".bn." in name]
    assert norms
    assert all(torch.equal(before[name], after[name]) for name in norms)
    assert not torch.equal(before["attention.norm.running_mean"], after["attention.norm.running_mean"])


@pytest.mark.parametrize(
    ("keys", "frozen"),
    [
        pytest.param({"weights": ""}, False, id="from scratch"),
        pytest.param({"weights": "imagenet"}, True, id="pretrained"),
        pytest.param({"weights": "", "start": "checkpoint.pt"}, True, id="begun with a checkpoint"),
        pytest.param({"weights": "imagenet", "stem": "trained"}, False, id="asked for"),
    ],
)
def test_a_stem_is_frozen_where_it_was_trained_before(keys, frozen):
    assert PersonSearchRecipe(**keys).frozen_stem == frozen
    network = small.meta(backbone="resnet50", **keys).train()
    assert network.stem.bn1.training != frozen
    assert network.stem.conv1.weight.requires_grad != frozen
    assert network.stem.layer1[0].conv1.weight.requires_grad


def test_each_loss_reaches_what_it_should_and_nothing_else():
    task = PersonSearchTask(small.recipe(), small.scenes())
    network = task.network
    nn.init.normal_(network.attention.last.weight, std=0.1)
    task.head.table.copy_(F.normalize(torch.randn(task.head.table.shape)))  # against zeros every gradient is zero
    losses = small.losses(task)
    parts = {
        name: list(getattr(network, name).parameters())
        for name in ("stem", "attention", "head", "identity", "score", "box")
    }
    parts |= {"rpn": list(network.proposals.parameters())}
    every = [(part, p) for part, parameters in parts.items() for p in parameters]
    reached = {}
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, [p for _, p in every], retain_graph=True, allow_unused=True)
        found = zip(every, gradients, strict=True)
        reached[name] = {part for (part, _), g in found if g is not None and g.ne(0).any()}
    assert reached == {
        "rpn_score": {"stem", "rpn"},
        "rpn_box": {"stem", "rpn"},
        "score": {"stem", "attention", "head", "score"},
        "box": {"stem", "attention", "head", "box"},
        "oim": {"stem", "attention", "head", "identity"},
    }


def test_the_box_loss_is_smooth_l1_on_the_people_over_the_number_of_regions():
    # at this overlap only people's own boxes show them, two of eight regions in each of two scenes, and need no move
    task = PersonSearchTask(small.recipe(rois=8, fg_iou=0.99), small.scenes())
    nn.init.zeros_(task.network.box.weight)
    task.network.box.bias.data = torch.tensor([9.0, 9, 9, 9, 0.5, 2, 0, -3])
    each = 0.5 * 0.5**2 + (2 - 0.5) + 0 + (3 - 0.5)  # square below 1, straight beyond
    assert small.losses(task)["box"].item() == pytest.approx(4 * each / 16)


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({"rpn_variant": "caffe"}, id="caffe"),
        pytest.param({"roi_op": "pool", "fg_iou": 0.75, "augment": "full"}, id="the paper's wording"),
        pytest.param({"attention": "both", "attention_scope": "id"}, id="both, identity alone"),
        pytest.param({"spatial_transformer": True}, id="spatial transformer"),
        pytest.param({"queue": 0}, id="no queue"),
        pytest.param({"precision": "bf16"}, id="bf16"),
    ],
)
def test_every_switch_trains(keys):
    task = PersonSearchTask(small.recipe(**keys), small.scenes())
    with torch.autocast("cpu", torch.bfloat16, enabled=keys.get("precision") == "bf16"):
        losses = small.losses(task)
    assert all(torch.isfinite(loss) and loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.network.parameters())


def test_scenes_with_nobody_known_or_nobody_at_all_have_finite_losses():
    task = PersonSearchTask(small.recipe(), small.scenes(((0, 1), (UNLABELLED, NOBODY), (NOBODY, NOBODY))))
    losses = small.losses(task, (1, 2))
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["oim"] == 0
    sum(losses.values()).backward()


def test_people_are_renumbered_in_order_and_the_unlabelled_marked():
    count, labels = ps.relabelled(np.array([[932, 5], [UNLABELLED, 7], [5, NOBODY]]))
    assert count == 3
    assert labels.tolist() == [[2, 0], [UNLABELED, 1], [0, UNLABELED]]


def test_scenes_without_identities_are_refused_in_one_line():
    scenes = small.scenes()
    with pytest.raises(DataError, match="not who"):
        PersonSearchTask(small.recipe(), Scenes(scenes.images, scenes.xyxy, scenes.visible))
    with pytest.raises(DataError, match="nobody in the data has an identity"):
        PersonSearchTask(small.recipe(), small.scenes(((UNLABELLED, NOBODY), (UNLABELLED, NOBODY))))


def test_twenty_steps_in_pieces_end_in_the_same_bits_as_at_once(tmp_path):
    def task():
        return PersonSearchTask(small.recipe(attention="none", batch=1, epochs=5), small.scenes())

    assert train(task(), tmp_path / "whole")
    assert not train(task(), tmp_path / "pieces", max_minutes=0)
    assert train(task(), tmp_path / "pieces")
    whole, pieces = (checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "pieces"))
    assert whole.step == pieces.step == 20
    assert set(whole.head) == {"table", "queue", "place"}
    assert whole.head["table"].norm(dim=1).allclose(torch.ones(3))
    assert whole.head["queue"].any()
    for kind in ("network", "head"):
        for name, value in getattr(whole, kind).items():
            assert torch.equal(value, getattr(pieces, kind)[name]), name


def test_a_data_set_of_crops_is_taken_by_its_name(tmp_path):
    root = trees.market(tmp_path)
    task = prepare(small.recipe(data="market1501", root=str(root), input_hw=(64, 32)), workers=1, report=print).task
    assert set(small.losses(task)) == {"oim"}
    assert len(task.head.table) == 2


def test_crops_are_not_blown_up_to_the_size_of_scenes(tmp_path):
    recipe = small.recipe(data="market1501", root=str(trees.market(tmp_path)), input_hw=(900, 1500))
    with pytest.raises(
        UsageError, match=r"input_hw = \[900, 1500\] is for scenes, and market1501 has crops .* input_hw=\[256,128\]"
    ):
        prepare(recipe, workers=1, report=print)


def test_the_rate_falls_to_a_tenth_after_25_of_50_epochs():
    task = PersonSearchTask(small.recipe(), small.scenes())
    assert task.recipe.epochs == 50
    assert [task.learning_rate(epoch, 0.5) for epoch in (0, 24, 25, 49)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])


def test_biases_learn_twice_as_fast_and_neither_they_nor_norms_decay():
    task = PersonSearchTask(small.recipe(stem="frozen"), small.scenes())
    groups = task.optimiser().param_groups
    where = {id(p): group for group in groups for p in group["params"]}
    network = task.network
    assert [(g["weight_decay"], g.get("factor", 1.0), g["momentum"]) for g in groups] == [
        (5e-4, 1.0, 0.9),
        (0.0, 2.0, 0.9),
        (0.0, 1.0, 0.9),
    ]
    assert where[id(network.identity.weight)] is groups[0]
    assert where[id(network.identity.bias)] is groups[1]
    assert where[id(network.attention.norm.bias)] is groups[2]
    assert len(where) == sum(p.requires_grad for p in network.parameters())


def test_crops_are_one_region_each_and_oim_is_their_only_loss():
    rng = np.random.default_rng(0)
    crops = Crops(rng.integers(0, 255, (4, 80, 40, 3)).astype(np.uint8), np.array([7, 7, 9, 9]), np.zeros(4, np.int64))
    task = PersonSearchTask(small.recipe(input_hw=(64, 32), queue=0, batch=4), crops)
    losses = small.losses(task, (0, 1, 2, 3))
    assert set(losses) == {"oim"}
    assert torch.isfinite(losses["oim"])
    assert task.head.table.norm(dim=1).allclose(torch.ones(2))
    assert small.meta().stem(torch.empty(1, 3, 256, 128, device="meta")).shape == (1, 1024, 16, 8)
    assert small.meta()(torch.empty(2, 3, 256, 128, device="meta")).shape == (2, 256)


# Inference


@pytest.fixture
def finder():
    """A network that is sure everywhere and leaves boxes where the proposals are."""
    torch.manual_seed(0)
    network = ps.embedder(small.recipe(max_proposals_test=40)).eval()
    nn.init.zeros_(network.box.weight)
    network.score.bias.data = torch.tensor([0.0, 3.0])
    return network


def test_search_gives_boxes_in_the_pictures_own_pixels_and_unit_vectors(finder):
    image = np.random.default_rng(0).integers(0, 255, (128, 150, 3)).astype(np.uint8)
    boxes, scores, vectors = finder.search([image, image[:70]])
    assert len(boxes) == len(scores) == len(vectors) == 2
    assert len(boxes[0]) > 1
    assert boxes[0].shape == (len(scores[0]), 4)
    assert vectors[0].shape == (len(scores[0]), 256)
    assert boxes[0].min() >= 0
    assert boxes[0][:, 2].max() <= 150.01
    assert boxes[0][:, 3].max() > 96  # the picture is twice the network's size
    assert boxes[1][:, 3].max() <= 70.01
    assert np.allclose(np.linalg.norm(vectors[0], axis=1), 1, atol=1e-5)
    assert (np.diff(scores[0]) <= 0).all()
    overlap = ps.ops.box_iou(*[torch.from_numpy(boxes[0])] * 2).fill_diagonal_(0)
    assert overlap.max() <= 0.4


def test_a_query_is_described_as_the_gallery_is(finder):
    image = np.random.default_rng(0).integers(0, 255, (100, 150, 3)).astype(np.uint8)
    boxes, _, vectors = finder.search([image])
    (asked,) = finder.embed([image], boxes)
    assert np.allclose(asked, vectors[0], atol=1e-5)


def test_a_picture_alone_is_searched_as_among_others(finder):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (h, 96, 3)).astype(np.uint8) for h in (64, 90)]
    together = finder.search(images)
    alone = finder.search(images[:1])
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(together, alone, strict=True))


def test_nothing_found_and_nothing_asked_are_empty(finder):
    finder.score.bias.data = torch.tensor([9.0, 0.0])
    image = np.zeros((64, 96, 3), np.uint8)
    boxes, scores, vectors = finder.search([image])
    assert boxes[0].shape == (0, 4)
    assert scores[0].shape == (0,)
    assert vectors[0].shape == (0, 256)
    assert finder.embed([image], [np.zeros((0, 4), np.float32)])[0].shape == (0, 256)


def test_a_trained_networks_weights_load_strictly_for_inference():
    task = PersonSearchTask(small.recipe(), small.scenes())
    ps.embedder(task.recipe).load_state_dict(task.network.state_dict(), strict=True)
    assert not any("table" in name or "queue" in name for name in task.network.state_dict())


def test_identity_alone_leaves_boxes_and_scores_to_the_unmasked_map():
    torch.manual_seed(0)
    plain = ps.PersonSearch(small.recipe(attention="none")).eval()
    own = ps.PersonSearch(small.recipe(attention_scope="id")).eval()
    own.load_state_dict(plain.state_dict(), strict=False)
    nn.init.normal_(own.attention.last.weight, std=1e4)
    nn.init.zeros_(own.attention.last.bias)
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    found = [network.search([image], min_score=0.0) for network in (plain, own)]
    assert np.array_equal(found[0][0][0], found[1][0][0])
    assert np.array_equal(found[0][1][0], found[1][1][0])
    assert not np.allclose(found[0][2][0], found[1][2][0], atol=1e-3)


def test_boxes_come_back_from_their_offsets():
    coder = ps.PersonSearch(small.recipe()).coder
    regions = torch.tensor([[10.0, 10, 50, 90], [0, 0, 20, 30]])
    people = torch.tensor([[12.0, 6, 60, 88], [3, 2, 18, 40]])
    offsets = coder.encode_single(people, regions)
    assert torch.allclose(offsets[0, :2], torch.tensor([10 * 6 / 40, 10 * -3 / 80]))
    assert torch.allclose(coder.decode_single(offsets, regions), people, atol=1e-4)
    assert F.smooth_l1_loss(offsets, offsets) == 0


def test_the_second_four_offsets_move_a_proposal_and_the_box_is_found_there(finder):
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    before = finder.search([image], max_iou=1.0)[0][0]
    half = 5 * float(np.log(0.5))
    finder.box.bias.data = torch.tensor([9.0, 9, 9, 9, 0, 0, half, half])  # half as wide and high
    after = finder.search([image], max_iou=1.0)[0][0]
    middle, side = (before[:, :2] + before[:, 2:]) / 2, before[:, 2:] - before[:, :2]
    assert np.allclose(after, np.concatenate([middle - side / 4, middle + side / 4], 1), atol=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_boxes_frame_their_people_in_the_batch(seed):
    task = PersonSearchTask(small.recipe(input_hw=(96, 160)), small.scenes())
    batch, boxes, _ = task._scenes(task._data, np.array([0, 1]), torch.Generator().manual_seed(seed), CPU)
    for planes, box in zip(batch.tensors, boxes, strict=True):
        mean, std = (torch.tensor(of)[:, None, None] for of in (IMAGENET_MEAN, IMAGENET_STD))
        bright = (planes * std + mean).amax(0) > 70 / 255
        for x1, y1, x2, y2 in box.round().int().tolist():
            assert bright[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].all()
            assert not bright[y1:y2, max(0, x1 - 4) : x1 - 1].any()
            assert not bright[y2 + 1 : y2 + 4, x1:x2].any()


def test_a_regions_label_is_its_persons():
    task = PersonSearchTask(small.recipe(), small.scenes())
    batch, boxes, people = task._scenes(task._data, np.array([0, 1, 3]), torch.Generator().manual_seed(0), CPU)
    assert [each.tolist() for each in people] == [[0, 1], [1, UNLABELED], [2]]
    assert all((box[:, 2:] <= torch.tensor([w, h])).all() for box, (h, w) in zip(boxes, batch.image_sizes, strict=True))
    assert read([np.zeros((64, 96, 3), np.uint8)], (64, 96), CPU).tensors.shape == (1, 3, 64, 96)
    assert BACKGROUND not in torch.cat(people)
