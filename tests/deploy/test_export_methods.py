"""Every method's graph: one form of each is exported whole and gated, and all others consist of the same operations and layers."""

import functools
from collections import Counter
from contextlib import closing

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import models
from torchvision.models.densenet import DenseNet
from torchvision.models.resnet import Bottleneck, ResNet

from deploy import backends, engine_check, gate, search_people
from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.engine_graph import taken_form
from deploy.export import OPSET, chooses, to_graph, to_onnx
from deploy.export_search import MAX_BOX_PX, MAX_SCORE, MIN_COSINE, SearchDetect
from deploy.precision import LEAST_PICTURES, convert
from stream.errors import UsageError
from stream.model import ModelCard
from trainer.checkpoint import Checkpoint
from trainer.methods import method_module
from trainer.methods.magnifiernet import FusionBranch, region_masks
from trainer.methods.osnet import OSBlock
from trainer.methods.person_search import PersonSearch, PersonSearchRecipe
from trainer.resnest import Block
from trainer.serving import Served, ServedEmbedder, TorchBackend, served
from trainer.settings import make_recipe

SIZE_HW = (64, 32)
METHODS = ("osnet", "eprinet", "magnifiernet", "mgre")
WHOLE = {"osnet": {"ibn": True, "width": 0.25, "depths": (1, 2)}}
"""As many of a method's parts as one network has, and as small as it is made; of the others the full model."""
KEPT = {
    "osnet": {"conv1", "conv2", "conv3", "conv4", "conv5", "fc"},
    "eprinet": {"features", "branch", "expand", "pam", "neck"},
    "magnifiernet": {"trunk", "neck", "mask", "sab", "sfb"},
    "mgre": {"trunk", "guides", "locators", "stages"},
}
"""Parts whose tensors are in the graph: no classifier, and of the heads nothing."""
SHAPING = {
    "osnet": ("ibn", "conv", "fusion"),
    "eprinet": ("branch", "taps", "pam", "fuse", "fp_source", "ce_b_input", "concat"),
    "magnifiernet": ("mask", "mask_resize", "sab", "sfb", "sb_stem"),
    "mgre": (
        "backbone", "stages", "regions", "features", "stage3_region", "guidance", "fast_guidance",
        "loc_input", "detach_loc", "fe4", "pool",
    ),
}  # fmt: skip
"""Keys of a recipe that change what a graph consists of; others change sizes, how often something stands in it, or the training."""
MORE = {
    "eprinet": ({"fuse": "mul_sigmoid"}, {"fuse": "one_plus"}, {"ce_b_input": "F_b"}, {"concat": True}),
    "mgre": ({"fast_guidance": True},),
}
"""Switches that no row of the tables throws."""
AS = {"resnet152": "resnet101", "resnest200": "resnest101", "resnest269": "resnest101"}
"""Trunks that are others with more blocks."""

pytestmark = pytest.mark.usefixtures("one_thread")


def _recipe(method, **keys):
    return make_recipe({"method": method, "weights": "", "input_hw": SIZE_HW, **keys}, "a test")


def _awake(network):
    """What training begins with at zero, or nearly so, would not be missed in a graph."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, values in network.named_parameters():
            if name.endswith("gamma"):
                values.fill_(0.5)
            elif name.startswith("locators") and name.endswith("out.weight"):
                values.normal_(std=1e-2)
            elif name in ("mask.deconv.weight", "mask.conv.weight"):
                values.normal_(std=0.1)
    return network.eval()


@functools.cache
def _whole(method):
    """Network, graph and training head of the form that is exported whole."""
    torch.manual_seed(0)
    network, head = method_module(method).build(_recipe(method, **WHOLE.get(method, {})), 7)
    module = ServedEmbedder(_awake(network)).eval()
    return module, to_onnx(module, SIZE_HW), head


def _card(size, model):
    return ModelCard(
        name="tiny", version="1", kind="embedder", input_hw=SIZE_HW, outputs={"embedding": (size,)}, max_batch=4,
        embedding_size=size, synthetic_only=True, licence="Apache-2.0", digest="",
        min_cosine=gate.HARD_CHOICES_MIN_COSINE if chooses(model) else None,
    )  # fmt: skip


def _gate(module, model):
    golden = np.random.default_rng(0).integers(0, 256, (3, *SIZE_HW, 3), dtype=np.uint8)
    in_torch = TorchBackend(module)
    expected = in_torch.infer(golden)
    exact = backends.exact(model, _card(expected["embedding"].shape[1], model))
    assert [candidate.runtime for candidate in exact] == ["onnxruntime", "openvino"]
    for candidate in exact:
        with closing(candidate.make()) as runtime:
            gate.check(runtime, expected, golden, reference=in_torch.infer)
    return expected["embedding"]


@pytest.mark.parametrize("method", METHODS)
def test_the_graph_answers_as_torch_does_at_every_batch_size(method):
    module, model, _ = _whole(method)
    vectors = _gate(module, model)
    assert (vectors @ vectors.T)[~np.eye(3, dtype=bool)].max() < 0.9999  # else a gate for cosines would be no gate


@pytest.mark.parametrize("method", METHODS)
def test_in_half_precision_the_graph_passes_the_gate_of_that(method):
    module, model, _ = _whole(method)
    pixels = np.random.default_rng(0).integers(0, 256, (LEAST_PICTURES, *SIZE_HW, 3), dtype=np.uint8)
    expected = TorchBackend(module).infer(pixels[:3])
    half = convert(model, "fp16", pixels)
    card = msgspec.structs.replace(_card(expected["embedding"].shape[1], model), precision="fp16")
    gate.check(OnnxRuntimeBackend(half, card), expected, pixels[:3])
    assert len(half) < 0.55 * len(model)
    assert engine_check.check(taken_form(onnx.load_from_string(half))).unsupported == ()


@pytest.mark.parametrize("method", METHODS)
def test_only_what_serves_is_left_and_every_weight_is_there_once(method):
    module, model, head = _whole(method)
    graph = onnx.load_from_string(model).graph
    weights = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    own = {name for name in weights if name.startswith("network.")}
    assert {name.split(".")[1] for name in own} == KEPT[method]
    network = module.network
    known = {f"network.{name}" for name, _ in (*network.named_parameters(), *network.named_buffers())}
    assert {name.removesuffix("_bias") for name in own} <= known  # a folded norm leaves a bias
    trained = [values for values in head.state_dict().values() if values.dim() > 1]
    assert trained
    assert not any(values.shape == each.shape for each in weights.values() for values in trained if 7 in values.shape)
    assert (
        max(weights[name].size for name in weights.keys() - own) <= 6144
    )  # of the exporter's, a GRU's biases the largest
    stored = sum(each.nbytes for each in weights.values())
    assert stored < 1.01 * sum(values.nbytes for values in module.state_dict().values())
    assert stored < len(model) < 1.02 * stored + 500_000  # and nothing large stands elsewhere
    varied = [weights[name].tobytes() for name in own if weights[name].size > 64 and np.ptp(weights[name]) > 0]
    assert len(varied) == len(set(varied))


@pytest.mark.parametrize("method", METHODS)
def test_the_graph_is_clean_and_of_operators_that_tensorrt_lists(method):
    model = onnx.load_from_string(_whole(method)[1])
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert [each.name for each in inferred.graph.output] == ["embedding"]
    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch", *SIZE_HW, 3,
    ]  # fmt: skip
    assert not model.graph.value_info
    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)]
    assert engine_check.check(taken_form(model)).unsupported == ()
    kinds = Counter(node.op_type for node in model.graph.node)
    special = {kind: kinds[kind] for kind in ("GridSample", "GRU", "ArgMax", "Softmax", "InstanceNormalization")}
    assert {kind: count for kind, count in special.items() if count} == {
        "osnet": {"InstanceNormalization": 3},
        "eprinet": {"Softmax": 1},
        "magnifiernet": {"GRU": 1, "ArgMax": 1},
        "mgre": {"GridSample": 7, "InstanceNormalization": 13},
    }[method]


class _Parts(Served):
    """What no network that is exported whole has: the other forms of blocks and branches, one behind the other."""

    outputs = ("embedding",)

    def __init__(self):
        super().__init__()
        kinds = (
            {"fusion": "stream"},
            {"fusion": "fixed"},
            {"fusion": "concat"},
            {"conv": "full", "fusion": "separate"},
        )
        self.network = nn.ModuleDict(
            {
                "blocks": nn.Sequential(*(OSBlock(16, 16, depths=(1, 2), **kind) for kind in kinds)),
                "splits": nn.Sequential(nn.Conv2d(3, 16, 4, 4), Block(16, 16, 2, average=True), nn.Conv2d(64, 16, 1)),
                "branch": FusionBranch("lstm"),
                "reduced": FusionBranch("ab"),
                "wide": nn.Conv2d(16, 1024, 1),
            }
        )

    def forward(self, images):
        x = self.network["blocks"](self.network["splits"](self.planes(images)))  # (B, 16, 8, 4)
        ids = (x[:, :8] * 50).argmax(1).repeat_interleave(2, 1).repeat_interleave(2, 2)  # (B, 16, 8)
        wide = self.network["wide"](x)
        vectors = []
        for name in ("branch", "reduced"):
            branch = self.network[name]
            vectors.append(branch.fuse(branch.pool(wide, region_masks(ids, "nearest")))[0])
        return nn.functional.normalize(torch.cat(vectors, 1), eps=1e-12)


@functools.cache
def _parts():
    torch.manual_seed(0)
    return _Parts().eval()


def test_the_other_forms_of_blocks_and_branches_answer_as_torch_does():
    _gate(_parts(), to_onnx(_parts(), SIZE_HW))


class _Operations(TorchDispatchMode):
    """Collects the operations that a network consists of; one in place is the same operation."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, _, overload = str(function).removeprefix("aten.").partition(".")
        self.seen.add(f"{name.removesuffix('_')}.{overload}")
        return function(*args, **(kwargs or {}))


def _made_of(module):
    """Operations and kinds of layers of a network that takes pictures, found without computing anything."""
    with torch.device("meta"), torch.no_grad(), _Operations() as operations:
        module.to("meta")(torch.zeros(2, *SIZE_HW, 3, dtype=torch.uint8))
    layers = {type(layer).__name__ for layer in module.modules() if not list(layer.children())}
    return operations.seen - {"detach.default"} | layers - {"ModuleDict", "ModuleList", "Identity"}  # which do nothing


@functools.cache
def _proven():
    """Of all that the tests above export and gate."""
    found = _made_of(_Parts().eval())
    for method in METHODS:
        with torch.device("meta"):
            network = method_module(method).embedder(_recipe(method, **WHOLE.get(method, {})))
        found |= _made_of(ServedEmbedder(network).eval())
    return found


def _forms(method):
    """Each different graph of the tables' rows, named by its first row, and of the switches beyond."""
    rows = dict(method_module(method).ABLATIONS) | {str(keys): keys for keys in MORE.get(method, ())}
    forms = {}
    for row, keys in rows.items():
        recipe = make_recipe({**keys, "method": method, "weights": "", "input_hw": SIZE_HW}, row)
        shape = tuple(AS.get(value, value) for value in (getattr(recipe, key) for key in SHAPING[method]))
        forms.setdefault(shape, (row, recipe))
    return forms.values()


@pytest.mark.parametrize("method", METHODS)
def test_every_row_of_the_ablations_consists_of_what_was_proven(method):
    refused = []
    for row, recipe in _forms(method):
        with torch.device("meta"):
            module = ServedEmbedder(method_module(method).embedder(recipe)).eval()
        if module.takes_joints:
            refused.append(row)
        else:
            assert _made_of(module) <= _proven(), row
    assert refused == (["without joint optimisation"] if method == "mgre" else [])


def test_a_network_that_is_told_joints_is_refused_in_one_line():
    recipe = _recipe("mgre", regions="joints", stages=(1,))
    network = method_module("mgre").embedder(recipe)
    saved = Checkpoint(recipe=recipe.model_dump(mode="json"), progress=1.0, step=1, network=network.state_dict())
    with pytest.raises(UsageError, match="told where a person's joints are, which the stream does not know"):
        served(saved)


def _dense():
    """As wide at every cut as DenseNet-121, with 7 layers in place of 58."""
    return DenseNet(growth_rate=256, block_config=(1, 1, 3, 2), num_init_features=256, bn_size=1)


@pytest.mark.parametrize(
    ("backbone", "make"),
    [
        pytest.param("densenet121", _dense, id="densenet121"),
        pytest.param("resnet50", lambda: ResNet(Bottleneck, [1, 1, 1, 1]), id="resnet50"),
    ],
)
@torch.no_grad()
def test_the_graph_of_a_person_search_finds_whom_torch_finds_with_each_trunk(backbone, make, monkeypatch):
    """GoogLeNet's, and the graph for queries, are proven in tests/deploy/test_export_search.py."""
    monkeypatch.setattr(models, backbone, make)
    torch.manual_seed(0)
    small = {"weights": "", "input_hw": (64, 96), "anchor_sizes": (225, 450, 900), "max_proposals_test": 12}
    network = PersonSearch(PersonSearchRecipe(backbone=backbone, **small))
    for layer in (network.score, network.box, network.attention.last):
        nn.init.normal_(layer.weight, std=0.03)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None  # the mean of what is seen
    tiles = np.random.default_rng(0).integers(0, 256, (8, 8, 12, 3), dtype=np.uint8)
    scenes = torch.from_numpy(tiles.repeat(8, 1).repeat(8, 2)).split(1)
    ServedEmbedder(network.train())(torch.cat(scenes))
    detect = SearchDetect(network.eval(), (64, 96)).eval()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = to_graph(detect, {"images": scenes[0]}, None)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found = [session.run(None, {"images": scene.numpy()}) for scene in scenes[:3]]
    wanted = [[values.numpy() for values in detect(scene)] for scene in scenes[:3]]
    (have, want) = (
        {name: np.concatenate(values) for name, *values in zip(detect.outputs, *each, strict=True)}
        for each in (found, wanted)
    )
    assert ((have["scores"] > 0).sum(1) == (want["scores"] > 0).sum(1)).all()
    assert (want["scores"] > 0).sum(1).min() > 1
    assert search_people.differ(have, want, score=MAX_SCORE, box_px=MAX_BOX_PX, cosine=MIN_COSINE) is None
