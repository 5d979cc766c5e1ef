"""Every method's optimiser: fused, which is faster, but where its loss scale may skip a step that it does not bear to miss."""

import numpy as np
import pytest
import torch

from tests.trainer import eprinet_small, magnifiernet_small, osnet_small, person_search_small
from trainer.data import Scenes
from trainer.methods.detector import DetectorRecipe, DetectorTask
from trainer.methods.mgre import MGReRecipe, MGReTask
from trainer.methods.person_search import PersonSearchTask

pytestmark = pytest.mark.usefixtures("one_thread")


def _detector():
    boxes = np.tile(np.array([[[10, 8, 30, 50]]], np.float32), (4, 1, 1))
    scenes = Scenes(np.zeros((4, 64, 64, 3), np.uint8), boxes, np.ones((4, 1), np.float32))
    return DetectorTask(DetectorRecipe(input_hw=(64, 64), batch=4), scenes)


def _mgre():
    return MGReTask(MGReRecipe(input_hw=(64, 32), batch_people=2, batch_pictures=2, weights=""), osnet_small.crops())


def _person_search(**values):
    return PersonSearchTask(person_search_small.recipe(**values), person_search_small.scenes())


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(osnet_small.task, id="osnet"),
        pytest.param(lambda: osnet_small.task(optimiser="amsgrad"), id="osnet, amsgrad"),
        pytest.param(lambda: osnet_small.task(optimiser="adamw"), id="osnet, adamw"),
        pytest.param(eprinet_small.task, id="eprinet"),
        pytest.param(magnifiernet_small.task, id="magnifiernet"),
        pytest.param(_mgre, id="mgre"),
        pytest.param(_person_search, id="person search"),
        pytest.param(_detector, id="detector"),
    ],
)
def test_the_optimiser_of_every_method_is_fused(make):
    assert all(group["fused"] for group in make().optimiser().param_groups)


@pytest.mark.parametrize(
    "make", [pytest.param(magnifiernet_small.task, id="magnifiernet"), pytest.param(_mgre, id="mgre")]
)
def test_those_that_follow_the_strong_baseline_take_its_adam_which_decays_everything(make):
    task = make()
    optimiser = task.optimiser()
    assert type(optimiser) is torch.optim.Adam
    (group,) = optimiser.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"], group["amsgrad"]) == (3.5e-4, (0.9, 0.999), 5e-4, False)
    learnt = {id(p) for part in (task.network, task.head) for p in part.parameters() if p.requires_grad}
    assert {id(p) for p in group["params"]} == learnt


@pytest.mark.parametrize(
    "make", [pytest.param(osnet_small.task, id="osnet"), pytest.param(_person_search, id="person search")]
)
def test_a_first_step_that_the_loss_scale_skips_leaves_a_momentum_of_nothing_behind(make):
    optimiser = make(precision="fp16").optimiser()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.zeros(()))  # makes the scale
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in parameters]

    def step(gradient):
        for p in parameters:
            p.grad = torch.full_like(p, gradient)
        scaler.step(optimiser)
        scaler.update()

    torch.use_deterministic_algorithms(True)  # what nobody has written is NaN then
    try:
        step(torch.inf)
        assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
        step(scaler.get_scale())
    finally:
        torch.use_deterministic_algorithms(False)
    decays = [group["weight_decay"] for group in optimiser.param_groups for _ in group["params"]]
    for p, b, decay in zip(parameters, before, decays, strict=True):
        assert torch.allclose(optimiser.state[p]["momentum_buffer"], 1 + decay * b)
