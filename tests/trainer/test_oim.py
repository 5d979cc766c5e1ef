import math
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trainer.oim import BACKGROUND, OIM, UNLABELED


def _reference(table, queue, place, vectors, labels, scale):
    """Loss, gradient, table, queue, place: one region after the other, in float64."""
    table, queue = table.copy(), queue.copy()
    rows = np.concatenate([table, queue])
    known = [i for i, label in enumerate(labels) if label >= 0]
    loss, gradient = 0.0, np.zeros_like(vectors)
    for i in known:
        e = np.exp(scale * rows @ vectors[i])
        p = e / e.sum()
        loss -= math.log(p[labels[i]]) / len(known)
        p[labels[i]] -= 1
        gradient[i] = scale * p @ rows / len(known)
    for vector, label in zip(vectors, labels, strict=True):
        if label >= 0:
            table[label] = 0.5 * table[label] + 0.5 * vector
            table[label] /= np.linalg.norm(table[label])
        elif label == UNLABELED and len(queue):
            queue[place] = vector
            place = (place + 1) % len(queue)
    return loss, gradient, table, queue, place


def _toy():
    oim = OIM(2, 2, 2)
    oim.table.copy_(torch.eye(2))
    oim.queue.copy_(torch.tensor([[0.0, 0], [-1, 0]]))
    return oim, torch.tensor([[0.6, 0.8], [1, 0], [0, 1]], requires_grad=True)


def test_the_worked_example():
    oim, vectors = _toy()
    loss = oim(vectors, torch.tensor([1, UNLABELED, BACKGROUND]))
    loss.backward()
    assert loss.item() == pytest.approx(0.127224, abs=1e-6)
    assert torch.allclose(vectors.grad, torch.tensor([[1.19167, -1.19464], [0, 0], [0, 0]]), atol=1e-5)
    assert torch.allclose(oim.table, torch.tensor([[1, 0], [0.316228, 0.948683]]), atol=1e-6)
    assert oim.queue.tolist() == [[1, 0], [-1, 0]]
    assert oim.place.item() == 1


def test_two_hundred_regions_and_three_batches_agree_with_a_plain_reference():
    rng = np.random.default_rng(0)
    oim = OIM(20, 16, 30)
    table, queue, place = np.zeros((20, 16)), np.zeros((30, 16)), 0
    for _ in range(3):
        vectors = rng.normal(size=(200, 16))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        labels = rng.choice([BACKGROUND, UNLABELED, *range(20)], 200)
        given = torch.tensor(vectors, dtype=torch.float32, requires_grad=True)
        loss = oim(given, torch.from_numpy(labels))
        loss.backward()
        wanted, gradient, table, queue, place = _reference(table, queue, place, vectors, labels, 10)
        assert loss.item() == pytest.approx(wanted, abs=1e-5)
        assert np.allclose(given.grad, gradient, atol=1e-6)
        assert np.allclose(oim.table, table, atol=1e-6)
        assert np.allclose(oim.queue, queue, atol=1e-6)
        assert oim.place.item() == place


def test_the_newest_strangers_stay_when_more_come_than_the_queue_holds():
    oim = OIM(1, 1, 3)
    oim(torch.arange(1.0, 6.0)[:, None], torch.full((5,), UNLABELED))
    assert oim.queue[:, 0].tolist() == [4, 5, 3]
    assert oim.place.item() == 2
    oim(torch.tensor([[6.0], [7.0]]), torch.full((2,), UNLABELED))
    assert oim.queue[:, 0].tolist() == [7, 5, 6]
    assert oim.place.item() == 1


def test_an_empty_queue_is_allowed():
    oim = OIM(3, 4, 0)
    loss = oim(F.normalize(torch.ones(2, 4)), torch.tensor([1, UNLABELED]))
    assert loss.item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("label", [pytest.param(UNLABELED, id="strangers"), pytest.param(BACKGROUND, id="background")])
def test_a_batch_without_anybody_known_costs_nothing_and_has_a_gradient(label):
    vectors = F.normalize(torch.randn(3, 4)).requires_grad_()
    loss = OIM(2, 4, 2)(vectors, torch.full((3,), label))
    loss.backward()
    assert loss.item() == 0
    assert vectors.grad.eq(0).all()


def test_table_and_queue_take_no_gradient_and_are_all_that_a_checkpoint_holds():
    oim = OIM(2, 4, 3)
    assert not list(oim.parameters())
    assert {name: tuple(value.shape) for name, value in oim.state_dict().items()} == {
        "table": (2, 4),
        "queue": (3, 4),
        "place": (),
    }


@pytest.mark.parametrize(
    ("label", "changes"),
    [
        pytest.param(1, {"loss", "table"}, id="another person"),
        pytest.param(UNLABELED, {"loss", "table", "queue", "place"}, id="a stranger"),
        pytest.param(BACKGROUND, {"loss", "table"}, id="background"),
    ],
)
def test_the_label_of_one_region_changes_only_what_it_should(label, changes):
    vectors = F.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    start = F.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(1)))
    states = []
    for third in (0, label):
        oim = OIM(2, 4, 3)
        oim.table.copy_(start[:2])
        oim.queue.copy_(start[2:])
        loss = oim(vectors, torch.tensor([0, UNLABELED, third]))
        states.append({"loss": loss, **oim.state_dict()})
    before, after = states
    assert {name for name in before if not torch.equal(before[name], after[name])} == changes


def test_from_stranger_to_background_only_the_queue_changes():
    oims = [OIM(2, 4, 3), OIM(2, 4, 3)]
    vectors = F.normalize(torch.randn(2, 4))
    losses = [oim(vectors, torch.tensor([0, label])) for oim, label in zip(oims, (UNLABELED, BACKGROUND), strict=True)]
    assert torch.equal(*losses)
    assert torch.equal(oims[0].table, oims[1].table)
    assert not torch.equal(oims[0].queue, oims[1].queue)


def test_nothing_is_written_in_eval_mode():
    oim = OIM(2, 4, 3).eval()
    oim(F.normalize(torch.randn(2, 4)), torch.tensor([0, UNLABELED]))
    assert all(value.eq(0).all() for value in oim.state_dict().values())


def test_it_is_computed_in_single_precision_under_autocast():
    oim, vectors = _toy()
    with torch.autocast("cpu", torch.bfloat16):
        loss = oim(vectors, torch.tensor([1, UNLABELED, BACKGROUND]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.127224, abs=1e-6)


def test_half_floats_are_taken_as_full_ones():
    oims = OIM(2, 3, 2), OIM(2, 3, 2)
    torch.manual_seed(0)
    vectors, labels = F.normalize(torch.randn(5, 3)).bfloat16(), torch.tensor([0, 1, UNLABELED, BACKGROUND, 1])
    losses = []
    for oim, given in zip(oims, (vectors, vectors.float()), strict=True):
        for _ in range(2):  # the second time with something in table and queue
            with torch.autocast("cpu", torch.bfloat16):
                losses.append(oim(given, labels))
    assert losses[1].dtype == torch.float32
    assert torch.equal(losses[1], losses[3])
    assert torch.equal(oims[0].table, oims[1].table)


TWO_PROCESSES = """
import os, torch
from trainer import distributed
from trainer.oim import OIM

with distributed.processes():
    mine = slice(0, 1) if distributed.rank() == 0 else slice(1, 5)  # not as many regions in each
    torch.manual_seed(0)
    oim = OIM(2, 3, 2)
    oim(torch.randn(5, 3)[mine], torch.tensor([1, 1, -1, -2, 0])[mine])
    torch.save(oim.state_dict(), f"rank{distributed.rank()}.pt")
"""


def test_all_processes_write_the_regions_of_all_in_the_order_of_ranks(tmp_path):
    torch.manual_seed(0)
    alone = OIM(2, 3, 2)
    alone(torch.randn(5, 3), torch.tensor([1, 1, UNLABELED, BACKGROUND, 0]))
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES], cwd=tmp_path, env=os.environ | common | {"RANK": str(rank)}
        )
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=240) for process in both] == [0, 0]
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert all(torch.equal(found[name], value) for name, value in alone.state_dict().items())


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
