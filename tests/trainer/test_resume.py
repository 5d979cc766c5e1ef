"""A run in pieces is the uninterrupted run, bit for bit."""

import os
import signal
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.errors import DataError, UsageError
from tests.trainer import eprinet_small, magnifiernet_small
from tests.trainer.toy import ToyRecipe, ToyTask, crops
from trainer import checkpoint, resnet_ibn
from trainer.checkpoint import Checkpoint
from trainer.data import Crops, Scenes
from trainer.loop import train
from trainer.methods.detector import DetectorRecipe, DetectorTask
from trainer.methods.mgre import MGReRecipe, MGReTask
from trainer.methods.osnet import OSNetRecipe, OSNetTask

STEPS = 4 * 4
"""Of the toy: four epochs of four batches."""


pytestmark = pytest.mark.usefixtures("one_thread")


def _toy(**values):
    return ToyTask(ToyRecipe(**values))


def _cut(task, folder, step):
    """Press Ctrl-C while the step before `step` is reported: that step is finished, saved, and the last."""

    def press(progress):
        if progress.step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(task, folder, report=press, report_every_s=0)


def _state(folder):
    return checkpoint.load(folder / "checkpoint.pt")


def _flat(value, name=""):
    """Every tensor and number in a nest of them, by its path."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(inner, f"{name}/{key}")
    else:
        yield name, value


def _assert_same(a, b):
    for kind in ("network", "head", "optimiser", "scaler", "sampler", "epoch", "best"):
        have, want = dict(_flat(getattr(a, kind))), dict(_flat(getattr(b, kind)))
        assert have.keys() == want.keys(), kind
        for name, value in want.items():
            same = torch.equal(have[name], value) if isinstance(value, torch.Tensor) else have[name] == value
            assert same, f"{kind}{name}"
    assert (a.step, a.progress) == (b.step, b.progress)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder, threads = tmp_path_factory.mktemp("whole"), torch.get_num_threads()
    torch.set_num_threads(1)  # `one_thread` comes too late for a module's fixture, and two add up in another order
    assert train(_toy(), folder)
    torch.set_num_threads(threads)
    assert _state(folder).step == STEPS
    return folder


@settings(max_examples=8, deadline=None)
@given(cuts=st.sets(st.integers(2, STEPS - 1), min_size=1, max_size=3))
def test_a_run_cut_anywhere_equals_the_whole_one_bit_for_bit(cuts, whole):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = 0
        for cut in sorted(cuts):
            if cut > done + 1:  # a run makes two steps at least before it can be stopped from its own report
                _cut(_toy(), folder, cut)
                done = cut
                assert _state(folder).step == cut
        assert train(_toy(), folder)
        _assert_same(_state(folder), _state(whole))
        best = [checkpoint.load(where / "best.pt") for where in (folder, whole)]
        _assert_same(*best)


def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint(tmp_path, whole):
    class PowerCut(Exception):
        pass

    def kill(progress):
        if progress.step == 6:
            raise PowerCut

    _cut(_toy(), tmp_path, 3)
    with pytest.raises(PowerCut):
        train(_toy(), tmp_path, report=kill, report_every_s=0)
    assert _state(tmp_path).step == 3
    assert train(_toy(), tmp_path)
    _assert_same(_state(tmp_path), _state(whole))


def test_time_that_is_up_ends_a_run_after_a_step_and_the_same_call_goes_on(tmp_path, whole):
    pieces = 1
    while not train(_toy(), tmp_path, max_minutes=0):
        pieces += 1
    assert pieces == STEPS
    _assert_same(_state(tmp_path), _state(whole))


def test_steps_of_several_batches_are_cut_between_steps(tmp_path):
    assert train(_toy(accumulate=2, epochs=6), tmp_path / "whole")
    _cut(_toy(accumulate=2, epochs=6), tmp_path / "cut", 3)
    assert train(_toy(accumulate=2, epochs=6), tmp_path / "cut")
    _assert_same(_state(tmp_path / "cut"), _state(tmp_path / "whole"))


def test_sixteen_bit_floats_go_on_with_their_loss_scale(tmp_path):
    assert train(_toy(precision="fp16"), tmp_path / "whole")
    assert _state(tmp_path / "whole").scaler["scale"] > 1
    _cut(_toy(precision="fp16"), tmp_path / "cut", 4)
    assert train(_toy(precision="fp16"), tmp_path / "cut")
    _assert_same(_state(tmp_path / "cut"), _state(tmp_path / "whole"))


def _osnet():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (16, 48, 32, 3), dtype=np.uint8)
    data = Crops(images, np.repeat(np.arange(4), 4), np.tile(np.arange(4), 4))
    recipe = OSNetRecipe(input_hw=(32, 32), width=0.25, epochs=4, data="folder", precision="fp32")
    return OSNetTask(recipe.model_copy(update={"batch_people": 2, "batch_pictures": 2, "batch": 4}), data)


def _detector():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 90, (4, 64, 64, 3), dtype=np.uint8)
    boxes = np.tile(np.array([[[10, 8, 30, 50]]], np.float32), (4, 1, 1))
    recipe = DetectorRecipe(epochs=4, input_hw=(64, 64), batch=4, precision="fp32")
    return DetectorTask(recipe, Scenes(images, boxes, np.ones((4, 1), np.float32)))


def _eprinet():
    return eprinet_small.task(epochs=4, triplet_epochs=3)  # the cross-entropies join right behind the cut


def _mgre():
    data = magnifiernet_small.crops(parts=False)
    joints = np.random.default_rng(0).random((len(data.images), 17, 3), np.float32)
    recipe = MGReRecipe(
        input_hw=(64, 32),
        batch_people=2,
        batch_pictures=2,
        weights="",
        epochs=4,
        precision="bf16",
        stages=(2,),
        embed_dim=64,
    )
    return MGReTask(recipe, replace(data, joints=joints))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(_osnet, id="osnet"),
        pytest.param(_eprinet, id="eprinet"),
        pytest.param(_mgre, id="mgre, in bf16"),
        pytest.param(_detector, id="detector"),
    ],
)
def test_real_networks_go_on_bit_for_bit(make, tmp_path, monkeypatch):
    monkeypatch.setitem(resnet_ibn._LAYERS, "resnet50-ibn-a", [1, 1, 1, 1])
    assert train(make(), tmp_path / "whole")
    _cut(make(), tmp_path / "cut", 3)
    assert train(make(), tmp_path / "cut")
    _assert_same(_state(tmp_path / "cut"), _state(tmp_path / "whole"))


def test_a_finished_run_is_made_longer_by_more_epochs(tmp_path):
    train(_toy(), tmp_path)
    assert train(_toy(epochs=6), tmp_path)
    assert _state(tmp_path).step == 24
    before = _state(tmp_path)
    assert train(_toy(epochs=6), tmp_path)
    _assert_same(_state(tmp_path), before)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        pytest.param(lambda: _toy(learning_rate=0.02), r"learning_rate = 0.01, asked is 0.02.*another --output", id="recipe"),
        pytest.param(
            lambda: ToyTask(ToyRecipe().model_copy(update={"method": "mgre"})),
            r"method = 'osnet', asked is 'mgre'", id="method",
        ),
        pytest.param(
            lambda: ToyTask(ToyRecipe(), crops(people=5)),
            r"checkpoint\.pt: table is \(4, 6\), expected \(5, 6\): .*another number of people.*another --output", id="number of people",
        ),
        pytest.param(
            lambda: ToyTask(ToyRecipe(), crops(pictures=2)), "more pictures than synthetic holds now", id="fewer pictures"
        ),
    ],
)  # fmt: skip
def test_a_checkpoint_of_something_else_is_not_continued(task, message, tmp_path):
    _cut(_toy(), tmp_path, 2) if "pictures than" not in message else _cut(_toy(), tmp_path, 3)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises((UsageError, DataError), match=message):
        train(task(), tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_data_that_lies_elsewhere_now_does_not_matter(tmp_path):
    _cut(_toy(root="/here"), tmp_path, 3)
    assert train(_toy(root="/there"), tmp_path)


def test_a_run_goes_on_with_as_many_pictures_and_people_alone(tmp_path):
    def task(pictures):
        made = ToyTask(ToyRecipe(), crops(pictures=pictures))
        made.counts = {"pictures": 4 * pictures, "people": 4}
        return made

    _cut(task(5), tmp_path, 3)
    said = r"checkpoint\.pt was trained on 20 pictures, 4 people, synthetic holds 32 pictures, 4 people now: .*another --output"
    with pytest.raises(UsageError, match=said):
        train(task(8), tmp_path)
    path = tmp_path / "checkpoint.pt"
    assert checkpoint.load(path).step == 3
    checkpoint.save(path, replace(checkpoint.load(path), counts={}))  # as before they were counted
    assert train(task(8), tmp_path)


def test_weights_alone_are_no_run_to_go_on_with(tmp_path):
    train(_toy(), tmp_path)
    (tmp_path / "best.pt").rename(tmp_path / "checkpoint.pt")
    with pytest.raises(UsageError, match=r"no run to go on with.*--start"):
        train(_toy(), tmp_path)


def test_the_state_of_another_optimiser_is_refused_in_one_line(tmp_path):
    _cut(_toy(), tmp_path, 3)
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, replace(checkpoint.load(path), optimiser={"state": {}, "param_groups": []}))
    with pytest.raises(DataError, match=r"checkpoint\.pt holds another optimiser's state .*another --output"):
        train(_toy(), tmp_path)


def test_a_run_that_goes_on_keeps_what_its_weights_had_seen(tmp_path):
    task = _toy()
    task.seen = ["market1501"]
    _cut(task, tmp_path, 3)
    train(_toy(), tmp_path)
    for name in ("checkpoint.pt", "best.pt"):
        assert checkpoint.load(tmp_path / name).data_sets == ["market1501", "synthetic"]


def test_a_checkpoint_that_counted_steps_gives_its_weights(tmp_path):
    task = _osnet()
    recipe = '{"method": "osnet", "steps": 20000, "width": 0.25, "input_hw": [128, 64]}'
    content = {
        "version": 1, "recipe": recipe, "progress": 1.0, "step": 9, "network": task.network.state_dict(), "head": {},
        "optimiser": {}, "sampler": {"epoch": 1, "place": 2}, "generator": torch.Generator().get_state(),
    }  # fmt: skip
    torch.save(content, tmp_path / "old.pt")
    saved = checkpoint.load(tmp_path / "old.pt")
    assert isinstance(saved, Checkpoint)
    assert saved.recipe == {"method": "osnet", "width": 0.25, "input_hw": [128, 64]}
    _osnet().network.load_state_dict(saved.network)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut short"),
        pytest.param(lambda data: b"not a checkpoint", id="other bytes"),
        pytest.param(lambda data: b"", id="empty"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path, damage):
    train(_toy(epochs=1), tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="not a checkpoint of this program or is damaged"):
        train(_toy(epochs=1), tmp_path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"version": 2, "network": _flat}, path)
    with pytest.raises(DataError, match="not a checkpoint"):
        checkpoint.load(path)
