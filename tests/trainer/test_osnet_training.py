import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from services import unavailable

from stream.errors import DataError, UsageError
from tests.trainer import osnet_small as small
from trainer.methods import osnet
from trainer.methods.osnet import ABLATIONS, FINE_TUNED, OSNetTask
from trainer.settings import make_recipe

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


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


SWITCHES = ("conv", "fusion", "depths", "ibn", "width")
SHAPED = {
    name: {key: value for key, value in row.items() if key in SWITCHES}
    for name, row in ABLATIONS.items()
    if any(key in SWITCHES for key in row) and "weights" not in row
}


@pytest.mark.parametrize("row", SHAPED.values(), ids=SHAPED.keys())
def test_every_row_of_the_ablation_trains_a_step(row):
    task = small.task(**({"width": 0.25} | row))
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
        osnet.embedder(small.recipe(width=0.3))


def test_while_frozen_only_the_classifier_learns():
    task = small.task(freeze_epochs=2, optimiser="amsgrad", learning_rate=1.5e-3)
    network = {name: value.clone() for name, value in task.network.state_dict().items()}
    head = {name: value.clone() for name, value in task.head.state_dict().items()}
    _steps(task, 1, epoch=1)
    assert all(torch.equal(value, network[name]) for name, value in task.network.state_dict().items())
    assert not any(torch.equal(value, head[name]) for name, value in task.head.state_dict().items())
    _steps(task, 1, epoch=2)
    moved = [n for n, value in task.network.state_dict().items() if not torch.equal(value, network[n])]
    assert len(moved) > 0.95 * len(network)  # gates one channel narrow may sleep


def test_the_fine_tuned_recipe_is_amsgrad_in_three_steps():
    task = small.task(**{**FINE_TUNED, "weights": ""})
    optimiser = task.optimiser()
    (group,) = optimiser.param_groups
    assert isinstance(optimiser, torch.optim.Adam)
    assert (group["amsgrad"], group["betas"], group["weight_decay"]) == (True, (0.9, 0.999), 5e-4)
    rates = [task.learning_rate(epoch, 0.5) for epoch in (0, 59, 60, 119, 120, 149)]
    assert rates == pytest.approx([1.5e-3] * 2 + [1.5e-4] * 2 + [1.5e-5] * 2)


def test_amsgrad_steps_as_torchs_own():
    task, other = (small.task(optimiser="amsgrad", learning_rate=1.5e-3, augment="flip") for _ in range(2))
    mine, theirs = ([*each.network.parameters(), *each.head.parameters()] for each in (task, other))
    optimiser = torch.optim.Adam(theirs, lr=1.5e-3, weight_decay=5e-4, amsgrad=True)
    beside = _Beside(task.optimiser(), optimiser, mine, theirs)
    task.optimiser = lambda: beside
    _steps(task, 3)
    for one, two in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)


class _Beside:
    """An optimiser, and another that gets the same gradients: left to themselves they part where a gradient is all rounding."""

    def __init__(self, optimiser, other, mine, theirs):
        self.optimiser, self.other, self.pairs = optimiser, other, list(zip(mine, theirs, strict=True))
        self.param_groups = optimiser.param_groups

    def zero_grad(self):
        self.optimiser.zero_grad()

    def step(self):
        for one, two in self.pairs:
            two.grad = None if one.grad is None else one.grad.clone()
        self.optimiser.step()
        self.other.step()


def test_from_scratch_it_is_sgd_in_four_steps():
    task = small.task()
    (group,) = task.optimiser().param_groups
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, False, 5e-4)
    rates = [task.learning_rate(epoch, 0.0) for epoch in (0, 149, 150, 225, 300, 349)]
    assert rates == pytest.approx([0.065, 0.065, 0.0065, 0.00065, 0.000065, 0.000065])


def test_the_recipe_of_the_model_that_ships_is_still_there():
    drawn = {"softmax": "cosine", "optimiser": "adamw", "schedule": "cosine", "augment": "drawn", "sampler": "people"}
    task = small.task(**drawn, epochs=20, learning_rate=2e-3, warmup=0.02, triplet_weight=0.5, triplet_from=0.15)
    rows, generator = torch.from_numpy(task.sampler.next()), torch.Generator().manual_seed(0)
    assert task.head.state_dict().keys() == {"weight"}
    task.begin_epoch(2)
    assert task.losses(rows, generator, CPU).keys() == {"softmax"}
    task.begin_epoch(3)
    assert task.losses(rows, generator, CPU).keys() == {"softmax", "triplet"}
    assert task.learning_rate(0, 0.2) == pytest.approx(1e-3)
    assert task.learning_rate(19, 0.999) == pytest.approx(0.0, abs=1e-6)


def test_the_softmax_may_join_after_the_contrastive_loss():
    task = small.task(epochs=10, softmax_from=0.2, contrastive_weight=1.0, temperature=0.1)
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
        pytest.param(
            {"triplet_weight": 0.5}, "triplet_weight = 0.5 with sampler = 'shuffle'.*people or sites", id="chance"
        ),
    ],
)
def test_a_recipe_that_cannot_learn_is_refused(values, message):
    with pytest.raises(UsageError, match=message):
        small.task(**values)


@pytest.mark.parametrize("sampler", ["shuffle", "people", "sites"])
def test_one_person_is_nobody_to_tell_apart(sampler):
    with pytest.raises(UsageError, match="nobody to tell apart: training needs pictures of 2 people, got 1"):
        OSNetTask(small.recipe(sampler=sampler), small.crops(people=1))


def test_every_term_is_weighed():
    terms = {}
    for weight in (1.0, 2.0):
        weights = dict.fromkeys(("softmax_weight", "triplet_weight", "contrastive_weight", "centre_weight"), weight)
        task = small.task(**weights, augment="flip", sampler="people")
        task.begin_epoch(0)
        rows = torch.arange(16)
        terms[weight] = task.losses(rows, torch.Generator().manual_seed(0), CPU)
    for name in osnet.LOSSES:
        assert torch.allclose(terms[2.0][name], 2 * terms[1.0][name])


def test_the_softmax_is_label_smoothed_on_the_vector_and_the_triplet_sees_it_as_it_is():
    task = small.task(triplet_weight=1.0, augment="flip", sampler="people")
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
    losses = _steps(small.task(**values), 30)
    assert np.mean(losses[-3:]) < 0.5 * losses[0]


@pytest.mark.parametrize(
    "augment", ["flip", "flip_erase", "flip_crop_patch", "flip_crop_erase", "flip_jitter", "drawn"]
)
def test_every_augmentation_feeds_the_network(augment):
    task = small.task(augment=augment)
    task.begin_epoch(0)
    assert torch.isfinite(task.losses(torch.arange(16), torch.Generator().manual_seed(0), CPU)["softmax"])


def test_a_compiled_network_learns_the_same():
    if shutil.which("g++") is None or not Path(sysconfig.get_path("include"), "Python.h").is_file():
        unavailable("torch compiles networks with g++ and Python's headers: apt-get install g++ python3-dev")
    found = []
    for compiled in (False, True):
        task = small.task(depths=(1,), fusion="add", compile=compiled)
        task.begin_epoch(0)
        loss = task.losses(torch.arange(16), torch.Generator().manual_seed(0), CPU)["softmax"]
        loss.backward()
        found.append((loss.detach(), *(p.grad for p in task.network.parameters())))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("lacks", "message"),
    [
        pytest.param(
            "g++", "torch needs a C\\+\\+ compiler for that, and there is none: apt-get install g", id="compiler"
        ),
        pytest.param("Python.h", "torch needs Python.h for that", id="headers"),
    ],
)
def test_compiling_without_its_tools_is_refused(monkeypatch, tmp_path, lacks, message):
    (tmp_path / "g++").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere" if lacks == "g++" else tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(UsageError, match=message):
        small.task(compile=True)


def test_torchreids_weights_fill_all_but_the_classifier(tmp_path):
    given, head = osnet.build(small.recipe(), 751)
    state = {f"module.{name}": value for name, value in {**given.state_dict(), **head.state_dict()}.items()}
    torch.save({"state_dict": state, "epoch": 250, "rank1": np.float32(0.9)}, tmp_path / "osnet.pth")
    task = small.task()
    matched = task.fill(str(tmp_path / "osnet.pth"))
    assert matched.skipped == ("classifier.weight", "classifier.bias")
    assert matched.missing == ()
    assert all(torch.equal(v, given.state_dict()[name]) for name, v in task.network.state_dict().items())


def test_imagenet_weights_must_be_named_by_file():
    with pytest.raises(DataError, match=r"torchvision has none.*name a file"):
        small.task().fill("imagenet")
