import io
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tests.trainer import magnifiernet_small as small
from trainer import checkpoint
from trainer.loop import train
from trainer.methods import magnifiernet as m

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def task():
    return small.trained()


@pytest.fixture
def batch():
    return small.batch()


def _gradients(task, term):
    """Which named parameters a term reaches with a gradient other than 0."""
    for part in (task.network, task.head):
        part.zero_grad(set_to_none=True)
    term.backward()
    return {name for name, p in task.network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


# a step

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
    task = small.task(**{"stage2_from": 0} | m.ABLATIONS[row])
    task.begin_epoch(0)
    terms = task.losses(torch.arange(4), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert terms.keys() == TERMS[row]
    sum(terms.values()).backward()
    learned = [p for part in (task.network, task.head) for p in part.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learned)
    before = learned[0].detach().clone()
    task.optimiser().step()
    assert not torch.equal(before, learned[0])


def test_the_weights_of_the_terms_are_those_of_the_authors_code(task, batch):
    with torch.no_grad():
        terms = task.branch_losses(**batch)
        plain = m.MagnifierNetTask.branch_losses
        task.recipe = small.recipe(use_beta=False, region_weight=1.0, mask_weight=1.0, stage2_from=1)
        bare = plain(task, **batch)
        task.recipe = small.recipe(stage2_from=1)
    keep = m.kept_share(m.region_masks(batch["ids"], "bilinear"), batch["erased"]).mean()
    assert 0.5 < float(keep.sigmoid()) < 0.731
    for name in ("sab_id", "sab_triplet"):
        assert torch.allclose(terms[name], keep.sigmoid() * bare[name])
    assert torch.allclose(terms["mask"], 2 * bare["mask"])
    # the eight stripes are of one size, so all regions weigh the same
    assert torch.allclose(terms["regions"], 0.0125 * torch.tensor(1 / 8).sigmoid() * bare["regions"])
    assert torch.equal(terms["global_id"], bare["global_id"])


# pictures without labels


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
    task = small.task(parts=False, sd=False, sfb="ab")
    assert "no picture of synthetic has part labels" in caplog.text
    terms = task.losses(torch.arange(4), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert terms["mask"] == 0
    sum(terms.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.network.parameters())


def test_pictures_with_and_without_labels_train_together():
    crops = small.crops()
    crops.parts[1] = m.UNLABELLED
    task = m.MagnifierNetTask(small.recipe(sd=False, sfb="ab"), crops)
    terms = task.losses(torch.arange(4), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert float(terms["mask"].detach()) == pytest.approx(2 * np.log(8), rel=1e-3)
    assert all(term.isfinite() for term in terms.values())


# what is wiped


def test_the_same_regions_are_wiped_from_every_picture_of_a_batch():
    crops = small.crops()
    crops.parts[:] = 2  # torsos everywhere: wiped from half of the batches
    task = m.MagnifierNetTask(small.recipe(sfb="none", sd=False), crops)
    kept = []
    task.network.sab.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[1].amin((1, 2, 3)).tolist()))
    for seed in range(5):
        with torch.no_grad():
            task.losses(torch.arange(4), torch.Generator().manual_seed(seed), torch.device("cpu"))
    assert all(len(set(pictures)) == 1 for pictures in kept)
    assert {pictures[0] for pictures in kept} == {0, 1}


# what each term reaches


def test_the_mask_loss_reaches_the_mask_head_and_the_whole_trunk_but_no_branch(task, batch):
    reached = _gradients(task, task.branch_losses(**batch)["mask"])
    assert {"mask.conv.bias", "mask.deconv.weight", "trunk.conv1.weight"} <= reached
    assert any(name.startswith("trunk.layer3") for name in reached)
    assert any(name.startswith("trunk.layer4") for name in reached)
    assert not any(name.startswith(("sab.", "sfb.", "neck.")) for name in reached)


def test_triplets_compare_vectors_before_the_norms_and_people_are_told_behind_them(task, batch):
    terms = task.branch_losses(**batch)
    necks = {"global": task.network.neck, "sab": task.network.sab.neck, "sfb": task.network.sfb.neck}
    for branch, neck in necks.items():
        told, compared = (
            torch.autograd.grad(terms[f"{branch}_{kind}"], neck.weight, retain_graph=True, allow_unused=True)[0]
            for kind in ("id", "triplet")
        )
        assert told is not None, branch
        assert told.any(), branch
        assert compared is None, branch


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
        task.recipe = small.recipe(stage2_from=1, sd_weight=0.01)
        task.begin_epoch(1)
        heavier = task.branch_losses(**batch)
        task.begin_epoch(0)
        again = task.branch_losses(**batch)
        task.recipe = small.recipe(stage2_from=1)
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
        return small.task(sab=False, sfb="ab", epochs=2, stage2_from=1)

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
    recipe = small.recipe(batch_people=4, input_hw=(128, 64), sd=False, learning_rate=1e-3)
    task = m.MagnifierNetTask(recipe, small.crops(people=4))
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


def _session(graph):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


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
