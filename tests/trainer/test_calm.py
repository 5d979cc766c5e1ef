"""Networks from scratch may begin as their shortcuts, whichever method they are of."""

import pytest
import torch
from torch import nn

from stream.errors import UsageError
from tests.trainer import trees
from trainer.calm import calm
from trainer.methods import method_module
from trainer.settings import make_recipe
from trainer.tasks import prepare


@pytest.mark.parametrize(
    ("keys", "blocks"),
    [
        pytest.param({"method": "osnet"}, 6, id="osnet"),
        pytest.param({"method": "eprinet"}, 9, id="EfficientNet-B0"),
        pytest.param({"method": "magnifiernet"}, 18, id="ResNet-50 and two blocks of the branches"),
        pytest.param({"method": "mgre"}, 23, id="ResNet-50-IBN-a and seven regions"),
        pytest.param({"method": "mgre", "backbone": "resnest101"}, 40, id="ResNeSt-101"),
        pytest.param({"method": "person-search", "backbone": "resnet50"}, 16, id="person search"),
    ],
)
def test_every_residual_block_begins_as_its_shortcut(keys, blocks):
    network = method_module(keys["method"]).embedder(make_recipe(keys, "a test"))
    calm(network)
    norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm2d) and not each.weight.any()]
    assert len(norms) == blocks


def test_a_calm_block_gives_what_it_is_given():
    network = method_module("eprinet").embedder(make_recipe({"method": "eprinet"}, "a test"))
    calm(network)
    block, maps = network.features[6][1], torch.rand(2, 192, 4, 2)
    assert torch.equal(block(maps), maps)


@pytest.mark.parametrize("method", ["detector", "person-search"])
def test_a_network_without_residual_blocks_is_refused(method):
    network = method_module(method).embedder(make_recipe({"method": method}, "a test"))
    with pytest.raises(UsageError, match=r"calm = true: .* has no residual blocks here: leave it out"):
        calm(network)


@pytest.mark.parametrize("asked", [False, True])
def test_a_recipe_asks_for_it(tmp_path, asked):
    keys = {"method": "eprinet", "data": "market1501", "root": str(trees.market(tmp_path)), "input_hw": (64, 32)}
    recipe = make_recipe(keys | {"weights": "", "calm": asked, "batch_people": 2, "batch_pictures": 2}, "a test")
    network = prepare(recipe, workers=1, report=print).task.network
    assert bool(network.features[6][1].block[-1][1].weight.any()) is not asked
