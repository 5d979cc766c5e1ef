import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trainer.methods import mgre
from trainer.methods.mgre import MGRe, MGReRecipe


def _multiply_adds(module, *inputs):
    with FlopCounterMode(display=False) as counter:
        out = module(*inputs)
    return counter.get_total_flops() / 2, out


@pytest.mark.parametrize(
    ("keys", "parameters", "gmacs", "dim"),
    [
        pytest.param({}, 37_697_308, 7.8947, 2048, id="MGRe"),
        pytest.param({"stages": ()}, 23_512_128, 4.0533, 2048, id="baseline"),
        pytest.param({"stages": (1,)}, 26_447_248, 5.8621, 1024, id="baseline+1"),
        pytest.param({"stages": (2,)}, 28_396_680, 5.3388, 1024, id="baseline+2"),
        pytest.param({"stages": (3,)}, 31_968_644, 4.8025, 1024, id="baseline+3"),
        pytest.param({"stages": (2, 3)}, 35_807_692, 6.0870, 1536, id="baseline+2+3"),
        pytest.param({"regions": "loss"}, 31_544_092, 5.8670, 2048, id="baseline with the location loss"),
        pytest.param({"regions": "joints"}, 29_665_344, 6.0810, 2048, id="without joint optimisation"),
        pytest.param({"features": "last"}, 126_061_596, 12.9735, 2048, id="single-grained features"),
        pytest.param({"regions": "whole"}, 28_518_720, 6.0937, 2048, id="single-grained regions"),
        pytest.param({"loc_input": "raw"}, 37_697_308, 7.8947, 2048, id="located on raw maps"),
        pytest.param({"detach_loc": True}, 37_697_308, 7.8947, 2048, id="boxes detached"),
        pytest.param({"fe4": True}, 37_697_308 + 4_462_592, 8.4652, 2048, id="residual block at stage 4"),
        pytest.param({"guidance": False}, 37_697_308 - 1_572_864, 6.2841, 2048, id="without guidance"),
        pytest.param({"fast_guidance": True}, 37_697_308, 6.4854, 2048, id="channels before size"),
        pytest.param({"pool": "concat"}, 37_697_308 + 2_621_440, 7.8973, 2048, id="pools side by side"),
        pytest.param({"embed_dim": 1024}, 36_384_540, 7.8934, 1024, id="1024 values"),
        pytest.param({"stages": (), "backbone": "resnet101"}, 42_504_256, 6.4776, 2048, id="baseline resnet101"),
        pytest.param({"stages": (), "backbone": "resnet152"}, 58_147_904, 8.9019, 2048, id="baseline resnet152"),
        pytest.param({"stages": (), "backbone": "resnest101"}, 46_230_112, 7.8191, 2048, id="baseline resnest101"),
        pytest.param({"stages": (), "backbone": "resnest200"}, 68_156_640, 12.5269, 2048, id="baseline resnest200"),
        pytest.param({"stages": (), "backbone": "resnest269"}, 108_884_576, 17.9492, 2048, id="baseline resnest269"),
    ],
)
def test_each_row_of_the_paper_has_its_parameters_cost_and_length(keys, parameters, gmacs, dim):
    recipe = MGReRecipe(**keys)
    with torch.device("meta"):
        network, head = mgre.build(recipe, 751)
        picture = torch.zeros(1, 3, 256, 128)
        work, vector = _multiply_adds(network.eval(), picture)
        for stage, locator in head.locators.items():
            work += _multiply_adds(locator.eval(), network.trunk(picture)[int(stage) - 1])[0]
    assert sum(p.numel() for p in (*network.parameters(), *head.locators.parameters())) == parameters
    assert round(work / 1e9, 4) == pytest.approx(gmacs, abs=1.01e-4)
    assert vector.shape == (1, dim)
    assert network.dim == dim
    stages = 1 if network.dim == 2048 and recipe.is_baseline else len(recipe.stages) + 1
    assert sum(p.numel() for p in head.classifiers.parameters()) == 751 * dim
    assert len(head.classifiers) == stages


def test_parts_cost_what_the_whole_is_made_of():
    with torch.device("meta"):
        network = MGRe(MGReRecipe())

    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(network.trunk) == 23_508_032
    assert count(network.guides) == 1_572_864
    assert [count(locator) for locator in network.locators.values()] == [558_416, 1_705_032, 5_768_516]
    assert [count(stage.extract) for stage in network.stages.values()] == [281_600, 560_128, 1_117_184, 0]
    assert sum(count(stage.embed) for stage in network.stages.values()) == 2_621_440
    assert sum(count(stage.neck) for stage in network.stages.values()) == 4_096


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        pytest.param("multi", [(8, 8), (32, 16), (32, 16), (24, 32), (16, 16), (16, 16), (16, 8)], id="table 1"),
        pytest.param("last", [(2, 2), (8, 4), (8, 4), (6, 8), (8, 8), (8, 8), (16, 8)], id="on the last map"),
    ],
)
def test_regions_are_sampled_to_the_papers_sizes(features, expected):
    seen = []
    with torch.device("meta"):
        network = MGRe(MGReRecipe(features=features)).eval()
        for name in "123":
            for block in network.stages[name].extract:
                block.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
        network(torch.zeros(1, 3, 256, 128))
    assert seen == expected
