"""MagnifierNet's graph with the regions handed in: without the hard choices there is nothing that rounding could turn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deploy.backends.onnxruntime import open_session
from deploy.export import to_graph
from tests.trainer import magnifiernet_small as small
from trainer.methods import magnifiernet
from trainer.serving import Served

pytestmark = pytest.mark.usefixtures("one_thread")


class Told(Served):
    """`embedding` (N, 4096) of pictures (N, H, W, 3) and their regions (N, H/8, W/8) int64."""

    outputs = ("embedding",)

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images, ids):
        return F.normalize(self.network(self.planes(images), ids), eps=1e-12)


@torch.no_grad()
def test_with_the_regions_given_the_graph_equals_torch_to_single_values():
    torch.manual_seed(0)
    told = Told(magnifiernet.embedder(small.recipe())).eval()
    images = torch.randint(0, 256, (3, *small.HW, 3), dtype=torch.uint8)
    ids = torch.randint(0, 8, (3, small.HW[0] // 8, small.HW[1] // 8))
    batch = {0: torch.export.Dim("batch", min=1)}
    graph = to_graph(told, {"images": images[:2], "ids": ids[:2]}, {"images": batch, "ids": batch})
    (have,) = open_session(graph, "the graph", threads=1).run(None, {"images": images.numpy(), "ids": ids.numpy()})
    np.testing.assert_allclose(have, told(images, ids).numpy(), atol=1e-5)
    assert not np.allclose(have, told(images, ids.flip(0)).numpy(), atol=1e-4)  # the regions count
