"""Online instance matching: the identity loss of person search.

Xiao et al., Joint Detection and Identification Feature Learning for Person Search, CVPR 2017, section 3.3. Every labelled person has
a row in a table, the mean direction of what was seen of them; people nobody labelled pass through a circular queue. A region is told
apart from all of both: a softmax over cosines. Neither has a gradient; both are written after they were read.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer import distributed

UNLABELED = -1
"""Label of a region that shows a person without an identity."""
BACKGROUND = -2
"""Label of a region that shows nobody in particular."""
MOMENTUM = 0.5
"""Share of a table row that stays when its person is seen again."""


class OIM(nn.Module):
    """Table (people, size) and queue (queue, size) of unit vectors, zeros at the start, and the queue's next place.

    All three are buffers, so a checkpoint holds them and a resumed run goes on with the same bits.
    """

    table: Tensor
    queue: Tensor
    place: Tensor

    def __init__(self, people: int, size: int, queue: int, temperature: float = 0.1) -> None:
        super().__init__()
        self._temperature = temperature
        self.register_buffer("table", torch.zeros(people, size))
        self.register_buffer("queue", torch.zeros(queue, size))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def forward(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """(n, size) unit vectors and (n,) int64 labels: 0 to people - 1, `UNLABELED` or `BACKGROUND` -> mean loss, fp32.

        Mean of -log p over the labelled regions, 0 where a batch has none (CVPR 2017, equations 2 and 4). Rows still zero count
        exp(0) = 1 each, as in the authors' code. In training mode the vectors are then written into table and queue; of several
        processes all their vectors, in the order of ranks, so that table and queue stay the same everywhere.
        """
        vectors = vectors.float()
        with torch.autocast(vectors.device.type, enabled=False):
            rows = torch.cat([self.table, self.queue])  # a copy: what is written below must not change this gradient
            logits = vectors @ rows.T / self._temperature
        labelled = labels >= 0
        loss = F.cross_entropy(logits[labelled], labels[labelled], reduction="sum") / labelled.sum().clamp_min(1)
        if self.training:
            people = labels != BACKGROUND
            self._write(_of_all_ranks(vectors.detach()[people]), _of_all_ranks(labels[people]))
        return loss

    def _write(self, vectors: Tensor, labels: Tensor) -> None:
        """One region after the other: several of one person add up, the newest of the unlabelled overwrite the oldest."""
        for vector, label in zip(vectors, labels.tolist(), strict=True):
            if label >= 0:
                self.table[label] = F.normalize(
                    MOMENTUM * self.table[label] + (1 - MOMENTUM) * vector, dim=0, eps=1e-12
                )
        strangers = vectors[labels == UNLABELED]
        size = len(self.queue)
        if size:
            places = (self.place + torch.arange(len(strangers), device=labels.device)) % size
            self.queue[places[-size:]] = strangers[-size:]
            self.place.copy_((self.place + len(strangers)) % size)


def _of_all_ranks(rows: Tensor) -> Tensor:
    """(n, ...), n of any size on each process -> the rows of all processes, in the order of ranks."""
    if distributed.world() == 1:
        return rows
    counts = distributed.gathered(torch.tensor([len(rows)], device=rows.device)).tolist()
    padded = torch.cat([rows, rows.new_zeros(max(counts) - len(rows), *rows.shape[1:])])
    parts = distributed.gathered(padded).view(len(counts), max(counts), *rows.shape[1:])
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
