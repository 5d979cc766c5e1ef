"""What the loop does besides training: it measures, keeps what is best, and ends well whatever happens."""

import os
import signal
import struct
import threading

import numpy as np
import pytest
import torch
from crc32c import crc32c

from stream.errors import TrainingError, UsageError
from tests.trainer.toy import ToyRecipe, ToyTask, crops
from trainer import checkpoint
from trainer.ahead import Ahead
from trainer.events import EventFile
from trainer.loop import train
from trainer.sampler import PKSampler

pytestmark = pytest.mark.usefixtures("one_thread")


def _toy(data=None, *, norm=True, **values):
    return ToyTask(ToyRecipe(**values), data, norm=norm)


def _load(folder, name="checkpoint.pt"):
    return checkpoint.load(folder / name)


def _reports(task, folder, **options):
    told = []
    train(task, folder, report=told.append, report_every_s=0, **options)
    return told


def test_the_loss_falls_and_every_step_is_told_with_its_terms(tmp_path):
    told = _reports(_toy(epochs=40, dropout=0.0), tmp_path)
    assert [now.step for now in told] == list(range(1, len(told) + 1))
    assert [now.epoch for now in told[2:6]] == [0, 0, 1, 1]
    assert told[0].losses.keys() == {"softmax"}
    assert told[-1].losses.keys() == {"softmax", "table"}
    assert told[-1].losses["softmax"] < 0.5 * told[0].losses["softmax"]
    assert told[-1].progress == 1
    assert told[-1].left_s == 0
    assert all(now.pictures_per_s > 0 and 0 <= now.waiting <= 1 for now in told)


def test_a_group_s_factor_and_the_place_in_the_schedule_make_its_rate(tmp_path):
    task = _toy(epochs=2)
    made = []
    make = task.optimiser
    task.optimiser = lambda: made.append(make()) or made[-1]
    told = _reports(task, tmp_path)
    assert [now.learning_rate for now in told] == pytest.approx([0.01 * (1 - place / 16) for place in range(8)])
    assert [group["lr"] for group in made[0].param_groups] == pytest.approx(
        [told[-1].learning_rate, 2 * told[-1].learning_rate]
    )


def test_frozen_layers_stand_still_until_their_epoch(tmp_path):
    task = _toy(epochs=1)
    before = task.network.first.weight.clone()
    train(task, tmp_path)
    assert torch.equal(task.network.first.weight, before)
    task = _toy(epochs=2)
    train(task, tmp_path)
    assert not torch.equal(task.network.first.weight, before)


def test_two_accumulated_batches_move_the_weights_as_one_of_twice_the_size(tmp_path):
    plain = {"dropout": 0.0, "noise": 0.0, "epochs": 1}
    twice = _toy(crops(people=4, pictures=4), norm=False, accumulate=2, **plain)
    train(twice, tmp_path / "twice")
    rows = [row for batch in twice.trained_on for row in batch]
    assert len(rows) == 16

    class OneBatch(PKSampler):
        def order(self, epoch):
            return np.array(rows).reshape(-1, 8)

    once = _toy(crops(people=4, pictures=4), norm=False, **plain)
    once.sampler = OneBatch(crops(pictures=4).people, 2, 2, 1)
    train(once, tmp_path / "once")
    assert _load(tmp_path / "twice").step == _load(tmp_path / "once").step == 2
    for name, value in once.network.state_dict().items():
        assert torch.allclose(value, twice.network.state_dict()[name], atol=1e-6), name


def test_long_gradients_are_shortened(tmp_path):
    free, clipped = _toy(epochs=1), _toy(epochs=1, clip_norm=1e-12)
    for name, task in (("free", free), ("clipped", clipped)):
        task.optimiser = lambda task=task: torch.optim.SGD(
            [*task.network.parameters(), *task.head.parameters()], lr=0.01
        )
        train(task, tmp_path / name)
    start = _toy(epochs=1).network.last.weight
    assert torch.allclose(clipped.network.last.weight, start, atol=1e-9)
    assert not torch.allclose(free.network.last.weight, start, atol=1e-9)


def test_the_best_of_the_epochs_is_kept_by_its_score(tmp_path):
    scores = iter([0.2, 0.7, 0.5])
    modes = []

    def judge(network, device):
        modes.append(network.training)
        return next(scores)

    train(_toy(epochs=6, val_every=2), tmp_path, judge=judge)
    assert modes == [False] * 3
    best = _load(tmp_path, "best.pt")
    assert best.best == {"epoch": 4.0, "mAP": 0.7}
    assert best.step == 16
    rows = _load(tmp_path).history
    assert [row["score/mAP"] for row in rows if "score/mAP" in row] == [0.2, 0.7, 0.5]


def test_without_a_judge_the_lowest_loss_of_the_present_terms_is_best(tmp_path):
    train(_toy(epochs=3), tmp_path)
    best = _load(tmp_path, "best.pt")
    assert best.best.keys() == {"epoch", "softmax", "table"}
    assert best.best["epoch"] == 3


def test_a_loss_that_is_no_number_ends_the_run_and_is_named(tmp_path):
    task = _toy()
    train(_toy(), tmp_path, max_minutes=0)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    task.losses = lambda rows, generator, device: {
        "softmax": torch.tensor(1.0, requires_grad=True),
        "centre": torch.tensor(float("nan"), requires_grad=True),
    }
    with pytest.raises(
        TrainingError, match=r"the loss centre is nan at step 1: take a smaller learning_rate than 0.01"
    ):
        train(task, tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_weights_that_overflowed_are_never_saved(tmp_path):
    task = _toy()
    task.losses = lambda rows, generator, device: {
        "root": (task.network.last.weight - task.network.last.weight).square().sum().sqrt()
    }
    with pytest.raises(TrainingError, match="weights are no longer finite after step 1"):
        train(task, tmp_path, max_minutes=0)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_full_gpu_names_what_to_lower(tmp_path):
    task = _toy(accumulate=2)

    def full(rows, generator, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    task.losses = full
    with pytest.raises(
        TrainingError, match=r"batch_people = 2, batch_pictures = 2.*accumulate = 2.*input_hw = \[8, 4\]"
    ):
        train(task, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupt_saves_and_is_raised_again(number, tmp_path):
    before = signal.getsignal(number)

    def press(progress):
        if progress.step == 2:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        train(_toy(), tmp_path, report=press, report_every_s=0)
    assert _load(tmp_path).step == 3
    assert signal.getsignal(number) is before


def test_a_second_interrupt_does_not_wait_for_the_step(tmp_path):
    task = _toy()

    def press(rows, generator, device):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError

    task.losses = press
    with pytest.raises(KeyboardInterrupt):
        train(task, tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_it_runs_in_a_thread_too(tmp_path):
    done = []
    thread = threading.Thread(target=lambda: done.append(train(_toy(epochs=1), tmp_path)))
    thread.start()
    thread.join()
    assert done == [True]


def test_a_full_disk_leaves_the_previous_checkpoint_as_it_was(tmp_path):
    train(_toy(), tmp_path, max_minutes=0)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.new").symlink_to("/dev/full")
    with pytest.raises(
        TrainingError, match=r"cannot be written \(No space left on device\).*a checkpoint that was there is whole"
    ):
        train(_toy(), tmp_path, max_minutes=0)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not (tmp_path / "checkpoint.new").exists()
    assert train(_toy(), tmp_path)


def test_an_output_that_is_no_folder_is_said_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    task = _toy()
    with pytest.raises(TrainingError, match=r"file.*cannot be made \(.*\): name another --output"):
        train(task, tmp_path / "file")
    assert task.trained_on == []


def test_one_training_at_a_time_writes_into_a_folder(tmp_path):
    refused = []

    def second(progress):
        task = _toy()
        with pytest.raises(UsageError, match=rf"another training writes into {tmp_path} now: .*another --output"):
            train(task, tmp_path)
        refused.append(task.trained_on)

    train(_toy(), tmp_path, report=second, report_every_s=0, max_minutes=0)
    assert refused == [[]]
    assert _load(tmp_path).step == 1
    assert len(list((tmp_path / "log").iterdir())) == 1
    assert train(_toy(), tmp_path)


def test_people_with_fewer_pictures_than_a_batch_shows_are_trained_on(tmp_path):
    task = _toy(crops(people=2, pictures=1), epochs=3)
    assert train(task, tmp_path)
    assert task.trained_on[0] in ([0, 0, 1, 1], [1, 1, 0, 0])


def test_data_of_one_person_is_refused_before_training():
    with pytest.raises(UsageError, match="2 people"):
        _toy(crops(people=1))


def test_the_curves_are_a_picture(tmp_path):
    train(_toy(), tmp_path, judge=lambda network, device: 0.5)
    assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def _records(path):
    """Data of a file in TensorBoard's format, its checksums compared."""
    data, found = path.read_bytes(), []

    def masked(part):
        crc = crc32c(part)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert data[8:12] == masked(data[:8])
        assert data[12 + length : 16 + length] == masked(data[12 : 12 + length])
        found.append(data[12 : 12 + length])
        data = data[16 + length :]
    return found


def test_a_run_leaves_a_log_for_tensorboard(tmp_path):
    train(_toy(), tmp_path)
    (path,) = (tmp_path / "log").iterdir()
    version, *rows = _records(path)
    assert version[9:] == b"\x1a\x0dbrain.Event:2"
    assert len(rows) == 16
    assert b"loss/softmax" in rows[0]
    assert b"loss/table" in rows[-1]
    assert rows[-1][9:11] == b"\x10\x10"  # field 2, the step: 16


def test_a_scalar_is_written_as_protocol_buffers_have_it(tmp_path):
    with EventFile(tmp_path) as log:
        log.write(300, {"a": 1.5})
    event = _records(next(tmp_path.iterdir()))[1]
    # step (field 2) 300; summary (5) of a value (1) with tag (1) "a" and simple_value (2, float) 1.5
    assert event[9:] == b"\x10\xac\x02\x2a\x0a\x0a\x08\x0a\x01a\x15" + struct.pack("<f", 1.5)


def test_rows_that_were_announced_are_read_ahead_and_others_are_right_too():
    read = []

    class Slow:
        def __len__(self):
            return 5

        def __getitem__(self, rows):
            read.append((threading.current_thread().name, rows.tolist()))
            return rows * 10

    pictures = Ahead(Slow())
    pictures.expect(np.array([1, 2]))
    assert pictures[np.array([1, 2])].tolist() == [10, 20]
    pictures.expect(np.array([3]))
    assert pictures[np.array([4])].tolist() == [40]
    assert len(pictures) == 5
    assert pictures.waited_s > 0
    assert read[0][0].startswith("ahead")
    assert (threading.current_thread().name, [4]) in read
