"""Graphs at the papers' own sizes answer as torch does; every method's in small is proven in tests/deploy/test_export_methods.py."""

import numpy as np
import onnxruntime
import pytest
import torch

from deploy.export import to_onnx
from tests.trainer.recorded import fill
from trainer.methods import eprinet, osnet
from trainer.methods.eprinet import EPRINetRecipe
from trainer.methods.osnet import OSNetRecipe
from trainer.serving import ServedEmbedder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("make", "size_hw", "batches", "megabytes"),
    [
        pytest.param(lambda: osnet.embedder(OSNetRecipe()), (256, 128), (1, 5), 8.7, id="osnet x1.0"),
        pytest.param(lambda: osnet.embedder(OSNetRecipe(width=0.25)), (256, 128), (1, 5), 0.86, id="osnet x0.25"),
        pytest.param(lambda: eprinet.embedder(EPRINetRecipe()), (384, 192), (1, 4), 21.9, id="eprinet"),
    ],
)
def test_a_graph_of_full_size_answers_as_torch_does(make, size_hw, batches, megabytes):
    module = ServedEmbedder(fill(make()).eval()).eval()
    graph = to_onnx(module, size_hw)
    assert len(graph) / 1e6 == pytest.approx(megabytes, rel=0.03)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for batch in batches:
        tiles = rng.integers(0, 256, (batch, 8, 4, 3), dtype=np.uint8)  # noise looks alike once its mean is taken
        pictures = tiles.repeat(size_hw[0] // 8, 1).repeat(size_hw[1] // 4, 2)
        (got,) = session.run(None, {"images": pictures})
        with torch.inference_mode():
            expected = module(torch.from_numpy(pictures)).numpy()
        assert np.abs(got - expected).max() <= 1e-4
        assert (got * expected).sum(1).min() >= 0.9999
    assert (got @ got.T)[~np.eye(batch, dtype=bool)].max() < 0.9999  # pictures are told apart at all
