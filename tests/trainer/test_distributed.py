"""Two processes, started by torchrun and joined over gloo, train as one."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stream.errors import UsageError
from tests.trainer.toy import Network, ToyRecipe, ToyTask, crops
from tests.trainer.two_processes import PLAIN
from trainer import checkpoint, distributed
from trainer.loop import train
from trainer.validation import crops_judge

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [str(Path(__file__).with_name("two_processes.py")), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *run, *script], env=environment, capture_output=True, timeout=250)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return folder


def _found(out):
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_move_the_weights_as_one_with_two_batches_a_step(out, tmp_path):
    alone = ToyTask(ToyRecipe(**PLAIN, accumulate=2), norm=False)
    train(alone, tmp_path)
    for rank in (0, 1):
        weights = torch.load(out / f"weights{rank}.pt", weights_only=True)
        for name, value in alone.network.state_dict().items():
            assert torch.allclose(value, weights[name], atol=1e-6), name
    first, second = _found(out)
    assert first["world"] == 2
    assert [batch for pair in zip(first["trained_on"], second["trained_on"], strict=True) for batch in pair] == (
        alone.trained_on
    )


def test_a_cut_in_one_process_stops_both_and_the_rest_is_as_if_it_had_not_been(out):
    first, second = (found["cut"] for found in _found(out))
    assert first["steps"] == second["steps"] == [1, 2, 3]
    assert first["interrupted"]
    whole, cut = (checkpoint.load(out / name / "checkpoint.pt") for name in ("whole", "cut"))
    assert whole.step == cut.step == 8
    for kind in ("network", "head"):
        for name, value in getattr(whole, kind).items():
            assert torch.equal(value, getattr(cut, kind)[name]), name


def test_a_loss_that_is_none_in_one_process_ends_both(out):
    assert all("the loss softmax is nan at step 0" in found["diverged"] for found in _found(out))
    assert not (out / "diverged" / "checkpoint.pt").exists()


def test_an_epoch_too_short_for_the_processes_is_refused(out):
    assert all("1 batches for 2 processes" in found["too_few"] for found in _found(out))


def test_processes_that_do_not_find_the_same_checkpoint_are_refused(out):
    for rank, found in enumerate(_found(out)):
        expected = rf"apart/{rank}/checkpoint\.pt is not the same.*steps \[1, 0\].* an --output that all of them share"
        assert re.search(expected, str(found["apart"]))


def test_vectors_of_all_processes_come_together_in_order_and_score_as_in_one(out):
    torch.manual_seed(3)
    alone = crops_judge(crops(people=5, pictures=5), (8, 4))(Network().eval(), torch.device("cpu"))
    assert 0 < alone < 1
    for found in _found(out):
        assert found["gathered"] == [[0, 10], [1, 10]]
        assert found["mAP"] == pytest.approx(alone, abs=1e-6)


def test_the_first_process_prepares_alone(out):
    assert [found["prepared_before"] for found in _found(out)] == [[], ["prepared0"]]


FIRST_FAILS = """
from stream.errors import DataError, SightlineError
from trainer import distributed

try:
    with distributed.processes(), distributed.first_alone():
        raise DataError("no such folder")
except SightlineError as error:
    print(f"{type(error).__name__}: {error}")
"""


def test_where_the_first_process_fails_the_others_say_whom_to_ask():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_FAILS],
            env=os.environ | common | {"RANK": str(rank), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    first, second = (process.communicate(timeout=240)[0] for process in both)
    assert first == "DataError: no such folder\n"
    assert second.startswith("TrainingError: process 1 no longer reaches the others: one of them has ended")


def test_alone_everything_stays_as_it_is():
    assert (distributed.rank(), distributed.world()) == (0, 1)
    values = torch.ones(2, requires_grad=True)
    assert distributed.mean(values) is values
    assert not distributed.gathered(values).requires_grad


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.device() == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(UsageError, match="started 5 processes or more and torch sees 2 GPUs: take --nproc-per-node 2"):
        distributed.device()
