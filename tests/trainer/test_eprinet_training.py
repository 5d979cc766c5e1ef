from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.models import efficientnet_b0

from stream.errors import SettingsError
from tests.trainer import eprinet_small as small
from trainer.augment import normalise
from trainer.losses import batch_hard_triplet
from trainer.methods import eprinet
from trainer.methods.eprinet import ABLATIONS, EPRINetRecipe, EPRINetTask
from trainer.settings import make_recipe

BRANCHES = ("none", "fpb", "pfpb")
PAMS = ("off", "literal", "danet", "fpb")
CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def _heads(task):
    """Everything that only the cross-entropies train."""
    parts = {"cb": task.head.cb, "neck": task.network.neck}
    if task.head.cs is not None:
        parts["cs"] = task.head.cs
    return {name: part.weight for name, part in parts.items()}


# losses


@pytest.mark.parametrize("pam", PAMS)
@pytest.mark.parametrize("branch", BRANCHES)
def test_for_ten_epochs_the_cross_entropies_do_not_exist(branch, pam):
    task = small.task(branch=branch, pam=pam, learning_rate=0.01)
    optimiser = task.optimiser()
    before = {name: weight.detach().clone() for name, weight in _heads(task).items()}
    first_layer = task.network.features[0][0].weight.detach().clone()
    task.begin_epoch(9)
    terms = small.losses(task)
    assert terms.keys() == {"triplet"}
    terms["triplet"].backward()
    assert all(weight.grad is None for weight in _heads(task).values())
    optimiser.step()
    assert all(torch.equal(weight, before[name]) for name, weight in _heads(task).items())
    assert not torch.equal(task.network.features[0][0].weight, first_layer)

    task.begin_epoch(10)
    terms = small.losses(task)
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
    small.losses(task)[term].backward()
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
    assert _reached(small.task(epoch=10, pam="off", **keys), term) == parts


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
    value = small.losses(small.task(epoch=0, pam="off", **keys))["triplet"]
    [(features, plain)] = compared
    length = 1.0 if size == 1280 else 2**0.5
    assert features.shape == (8, size)
    assert torch.allclose(features.norm(dim=1), torch.full((8,), length), atol=1e-5)
    assert torch.equal(value, weight * plain)


def test_doubling_lambda_adds_exactly_one_weighted_triplet():
    one, two = (small.losses(small.task(epoch=10, triplet_weight=value)) for value in (3.0, 6.0))
    assert torch.equal(one["ce_b"], two["ce_b"])
    assert torch.equal(one["ce_s"], two["ce_s"])
    assert torch.equal(two["triplet"], 2 * one["triplet"])
    assert one["triplet"] > 0


@pytest.mark.parametrize(("key", "term"), [("alpha", "ce_b"), ("beta", "ce_s")])
def test_a_weight_of_zero_takes_the_term_away(key, term):
    terms = small.losses(small.task(epoch=10, **{key: 0.0}))
    assert terms.keys() == {"ce_b", "ce_s", "triplet"} - {term}


def test_terms_of_a_whole_batch_are_those_that_are_promised():
    assert small.losses(small.task(epoch=10)).keys() == set(eprinet.LOSSES)


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
    groups = small.task().optimiser().param_groups
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
    task = small.task()
    matched = task.fill(str(tmp_path / "b0.pth"))
    assert matched.skipped == ("classifier.1.weight", "classifier.1.bias")
    ours = task.network.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items() if name.startswith("features."))
    assert not any(name.startswith("features.") for name in matched.missing)


# learning and serving


def test_sixteen_pictures_are_learnt_by_heart():
    task = small.task(pictures=4, size_hw=(128, 64), epoch=10, learning_rate=1e-3)
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
