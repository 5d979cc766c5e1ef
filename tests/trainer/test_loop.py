import numpy as np
import pytest
import torch

from stream.errors import DataError, UsageError
from trainer import checkpoint
from trainer.data import Crops, Scenes
from trainer.loop import train
from trainer.methods.detector import DetectorRecipe, DetectorTask
from trainer.methods.osnet import OSNetRecipe, OSNetTask


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # two spin against each other on a busy machine
    yield
    torch.set_num_threads(before)


def _crops(people=4, pictures=4):
    """People who differ in the colours of their halves."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (people * pictures, 64, 32, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(people), pictures)
    colours = rng.integers(0, 190, (people, 2, 3), dtype=np.uint8)
    images[:, :32] += colours[labels, 0][:, None, None]
    images[:, 32:] += colours[labels, 1][:, None, None]
    return Crops(images, labels, np.tile(np.arange(pictures), people))


def _scenes(count=8):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 90, (count, 64, 96, 3), dtype=np.uint8)
    boxes = np.zeros((count, 1, 4), np.float32)
    for place in range(count):
        x, y = rng.integers(4, 70), rng.integers(2, 20)
        images[place, y : y + 40, x : x + 16] = (250, 120, 60)
        boxes[place, 0] = (x, y, x + 16, y + 40)
    return Scenes(images, boxes, np.ones((count, 1), np.float32))


def _osnet(epochs, **values):
    recipe = OSNetRecipe(epochs=epochs, input_hw=(64, 32), batch_people=4, batch_pictures=4, precision="fp32", **values)
    return OSNetTask(recipe, _crops())


def _detector(epochs, **values):
    recipe = DetectorRecipe(epochs=epochs, input_hw=(64, 96), batch=4, scenes=8, precision="fp32", **values)
    return DetectorTask(recipe, _scenes())


def _losses(task, folder):
    values = []
    train(task, folder, report=lambda p: values.append(p.loss), report_every_s=0)
    return values


@pytest.mark.parametrize("make", [pytest.param(_osnet, id="osnet"), pytest.param(_detector, id="detector")])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(make, tmp_path):
    assert train(make(4), tmp_path / "whole")
    pieces = 0
    while not train(make(4), tmp_path / "pieces", max_minutes=0):
        pieces += 1
    whole, parts = (checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "pieces"))
    assert pieces >= 2
    assert parts.step == whole.step >= 4
    for kind in ("network", "head"):
        for name, value in getattr(whole, kind).items():
            assert torch.equal(value, getattr(parts, kind)[name]), name
    assert torch.equal(whole.generator, parts.generator)
    assert whole.sampler == parts.sampler


def test_osnet_learns_four_people_by_heart(tmp_path):
    losses = _losses(_osnet(30, triplet_weight=0.0), tmp_path)
    assert losses[-1] < 0.5 * losses[0]


def test_the_detector_learns_eight_scenes_by_heart(tmp_path):
    losses = _losses(_detector(35), tmp_path)
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])


def test_a_checkpoint_of_another_recipe_is_not_continued(tmp_path):
    train(_osnet(2), tmp_path)
    with pytest.raises(UsageError, match=r"learning_rate = 0.002, asked is 0.01.*another --output"):
        train(_osnet(2, learning_rate=0.01), tmp_path)


def test_a_longer_schedule_goes_on_from_the_same_place(tmp_path):
    train(_osnet(4), tmp_path, max_minutes=0)
    assert train(_osnet(6), tmp_path)
    assert checkpoint.load(tmp_path / "checkpoint.pt").step == 6


def test_the_rate_rises_and_falls():
    task = _osnet(100, learning_rate=0.01, warmup=0.1)
    places = ((0, 0.0), (5, 0.0), (9, 0.999), (54, 0.999), (99, 1.0))
    rates = [task.learning_rate(epoch, fraction) for epoch, fraction in places]
    assert rates == pytest.approx([0, 0.005, 0.01, 0.005, 0], abs=1e-5)


def test_a_loss_that_is_no_number_ends_the_run_in_one_line(tmp_path):
    task = _osnet(3)
    task.head.weight.data.fill_(float("nan"))
    with pytest.raises(DataError, match=r"the softmax loss is nan at step 0.*smaller learning_rate"):
        train(task, tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut short"),
        pytest.param(lambda data: b"not a checkpoint", id="other bytes"),
        pytest.param(lambda data: b"", id="empty"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path, damage):
    train(_osnet(1), tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="not a checkpoint of this program or is damaged"):
        checkpoint.load(path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"version": 1, "network": _losses}, path)
    with pytest.raises(DataError, match="not a checkpoint"):
        checkpoint.load(path)


def test_weights_must_fit_to_the_last_entry():
    network = _osnet(1).network
    weights = network.state_dict()
    del weights["conv1.conv.weight"]
    with pytest.raises(DataError, match=r"lacks 1 of the network's \d+ entries, first conv1.conv.weight"):
        checkpoint.load_weights(network, weights)
    checkpoint.load_weights(network, weights, skip=("conv1.conv",))
