"""Every method's losses on a GPU, which is pretended: no tensor is left behind on the CPU, and the numbers are the CPU's."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.trainer import eprinet_small, magnifiernet_small, osnet_small, person_search_small
from tests.trainer.pretended_cuda import CPU, Pretended, pretended_cuda
from trainer import resnet_ibn
from trainer.data import Scenes
from trainer.methods.detector import DetectorRecipe, DetectorTask
from trainer.methods.mgre import MGReRecipe, MGReTask
from trainer.methods.osnet import OSNetTask
from trainer.methods.person_search import PersonSearchTask

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = torch.arange(4)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Trunks with one block in each stage."""
    monkeypatch.setitem(resnet_ibn._LAYERS, "resnet50-ibn-a", [1, 1, 1, 1])


def _osnet(**keys):
    recipe = {"batch_people": 2, "batch_pictures": 2} | keys
    return lambda: OSNetTask(osnet_small.recipe(**recipe), osnet_small.crops(people=2, pictures=2))


def _mgre(*, joints=True, **keys):
    def make():
        crops = magnifiernet_small.crops(parts=False)
        if joints:
            crops = replace(crops, joints=np.random.default_rng(0).random((4, 17, 3), np.float32))
        small = {"input_hw": (64, 32), "batch_people": 2, "batch_pictures": 2, "weights": "", "precision": "fp32"}
        return MGReTask(MGReRecipe(**small | keys), crops)

    return make


def _detector():
    images = np.random.default_rng(0).integers(0, 90, (4, 64, 64, 3), dtype=np.uint8)
    boxes = np.tile(np.array([[[10, 8, 30, 50]]], np.float32), (4, 1, 1))
    recipe = DetectorRecipe(input_hw=(64, 64), batch=4, precision="fp32")
    return DetectorTask(recipe, Scenes(images, boxes, np.ones((4, 1), np.float32)))


def _person_search(**keys):
    return lambda: PersonSearchTask(person_search_small.recipe(**keys), person_search_small.scenes())


def _losses(task, device):
    task.network.to(device, memory_format=torch.channels_last).train()
    task.head.to(device).train()
    task.begin_epoch(0)
    torch.manual_seed(0)
    return task.losses(ROWS, torch.Generator().manual_seed(0), device)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(_osnet(), id="osnet"),
        pytest.param(_osnet(augment="flip_jitter", ibn=True), id="osnet, jitter and IBN"),
        pytest.param(_osnet(augment="flip_crop_erase", sampler="people", triplet_weight=1.0), id="osnet, triplet"),
        pytest.param(
            _osnet(augment="drawn", softmax="cosine", contrastive_weight=1.0, centre_weight=5e-4), id="osnet, drawn people"
        ),
        pytest.param(lambda: eprinet_small.task(people=2, triplet_epochs=0), id="eprinet"),
        pytest.param(lambda: magnifiernet_small.task(stage2_from=0), id="magnifiernet"),
        pytest.param(lambda: magnifiernet_small.task(parts=False), id="magnifiernet, no labels"),
        pytest.param(_mgre(), id="mgre"),
        pytest.param(_mgre(joints=False), id="mgre, no joints"),
        pytest.param(_mgre(stages=()), id="mgre, baseline"),
        pytest.param(_mgre(regions="joints"), id="mgre, regions of joints"),
        pytest.param(_mgre(regions="loss"), id="mgre, regions in the loss alone"),
        pytest.param(_mgre(pad_crop=True, regions="whole"), id="mgre, whole maps"),
        pytest.param(_detector, id="detector"),
        pytest.param(_person_search(), id="person search"),
        pytest.param(
            _person_search(rpn_variant="caffe", spatial_transformer=True, augment="full", attention="both", roi_op="pool"),
            id="person search, all switches",
        ),
    ],
)  # fmt: skip
def test_a_method_reaches_its_losses_on_a_gpu(make):
    expected = _losses(make(), CPU)
    with pretended_cuda() as cuda:
        found = _losses(make(), cuda)
    assert all(isinstance(loss, Pretended) for loss in found.values())
    assert {name: loss.held.item() for name, loss in found.items()} == pytest.approx(
        {name: loss.item() for name, loss in expected.items()}, rel=1e-3
    )


def test_the_pretended_gpu_refuses_what_a_gpu_refuses():
    with pretended_cuda() as cuda:
        there = torch.ones(3, device=cuda)
        assert (there * torch.tensor(2.0)).tolist() == [2, 2, 2]
        assert there.to("cpu").numpy().tolist() == [1, 1, 1]
        with pytest.raises(RuntimeError, match=r"add.Tensor takes tensors of cuda and one of the cpu, of shape \(3,\)"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="takes tensors of cuda and one of the cpu"):
            torch.stack([there, torch.ones(3)])
        with pytest.raises(RuntimeError, match="not supported"):
            there.numpy()
