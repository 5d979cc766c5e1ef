"""What each of the processes does that test_distributed.py starts with torchrun; what it found goes into OUT/rank<n>.json."""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from stream.errors import TrainingError, UsageError
from tests.trainer.toy import Network, ToyRecipe, ToyTask, crops
from trainer import distributed
from trainer.loop import train
from trainer.validation import crops_judge

PLAIN = {"dropout": 0.0, "noise": 0.0, "epochs": 2}


def plain(folder):
    task = ToyTask(ToyRecipe(**PLAIN), norm=False)
    train(task, folder)
    return task


def cut(folder):
    """Ctrl-C in process 0 alone, which ends both after the same step; then the same again, to the end."""
    told = []

    def press(progress):
        told.append(progress.step)
        if progress.step == 2 and distributed.rank() == 0:
            os.kill(os.getpid(), signal.SIGINT)

    interrupted = False
    try:
        train(ToyTask(ToyRecipe()), folder, report=press, report_every_s=0)
    except KeyboardInterrupt:
        interrupted = True
    torch.distributed.barrier()
    assert train(ToyTask(ToyRecipe()), folder)
    return {"steps": told, "interrupted": interrupted}


def diverged(folder):
    """A loss that is none in process 1 alone."""
    task = ToyTask(ToyRecipe())
    losses = task.losses

    def spoilt(rows, generator, device):
        terms = losses(rows, generator, device)
        return {name: value * (float("nan") if distributed.rank() else 1.0) for name, value in terms.items()}

    task.losses = spoilt
    try:
        train(task, folder)
    except TrainingError as error:
        return str(error)


def too_few(folder):
    recipe = ToyRecipe(batch_people=2, batch_pictures=2)
    try:
        train(ToyTask(recipe, crops(people=2, pictures=2)), folder)
    except UsageError as error:
        return str(error)


def apart(folder):
    """Process 0 goes on, process 1 finds no checkpoint, as on a machine that does not share the folder."""
    train(ToyTask(ToyRecipe()), folder / "0", max_minutes=0)
    own = folder / str(distributed.rank())
    try:
        train(ToyTask(ToyRecipe()), own, max_minutes=0)
    except UsageError as error:
        return str(error)


def main(out):
    with distributed.processes():
        rank = distributed.rank()
        with distributed.first_alone():
            others = [path.name for path in out.glob("prepared*")]
            (out / f"prepared{rank}").write_text("")
        task = plain(out / "plain")
        torch.save(task.network.state_dict(), out / f"weights{rank}.pt")
        assert train(ToyTask(ToyRecipe()), out / "whole")
        torch.manual_seed(3)
        network = Network().eval()
        found = {
            "world": distributed.world(),
            "prepared_before": others,
            "trained_on": task.trained_on,
            "cut": cut(out / "cut"),
            "diverged": diverged(out / "diverged"),
            "too_few": too_few(out / "few"),
            "apart": apart(out / "apart"),
            "gathered": distributed.gathered(torch.tensor([[rank, 10.0]])).tolist(),
            "mAP": crops_judge(crops(people=5, pictures=5), (8, 4))(network, torch.device("cpu")),
        }
        (out / f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
