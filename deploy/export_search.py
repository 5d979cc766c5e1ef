"""A person-search network as two ONNX graphs of one scene size: who is in a scene, and what the people in given boxes look like.

Both take one scene, RGB uint8 (1, H, W, 3), scaled already; H and W are multiples of 32. They answer as `PersonSearch.found` does and
as `PersonSearch.embed`, with the same weights; table and queue of the training are in neither.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import ops

from deploy.export import OPSET, without_notes
from stream.errors import BundleError, UsageError
from trainer.methods.person_search import MAX_IOU, MIN_SCORE, STRIDE, PersonSearch
from trainer.proposals import SMALLEST_PX, CaffeProposals
from trainer.scene_batch import STRIDE as SIDES
from trainer.scene_batch import collate, resized
from trainer.serving import Served

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

MAX_DIFFERENCE = {"boxes": 0.5, "scores": 1e-4, "embedding": 1e-4}
"""Between torch and ONNX Runtime: pixels, scores, entries of unit vectors."""


class SearchDetect(Served):
    """`boxes` (1, A, 4) xyxy in pixels of the scene, `scores` (1, A), `embedding` (1, A, D): best first, then zeros.

    A is the network's `max_proposals_test`. The same steps as `PersonSearch.found`, in arrays of fixed length.
    """

    outputs = ("boxes", "scores", "embedding")
    anchors: Tensor

    def __init__(self, network: PersonSearch, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.network, self._size_hw = network, size_hw
        rpn = network.proposals
        self._best, self._most = rpn.pre_nms_top_n(), rpn.post_nms_top_n()
        self._smallest = SMALLEST_PX if isinstance(rpn, CaffeProposals) else rpn.min_size
        height, width = size_hw
        cells = torch.zeros(1, 1, height // STRIDE, width // STRIDE)
        (anchors,) = rpn.anchor_generator(_Sized(torch.zeros(1, 1, height, width), [size_hw]), [cells])
        self.register_buffer("anchors", anchors)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        network = self.network
        maps = network.maps(self.planes(images))
        proposals, there = self._proposals(maps[0])
        vectors, who = network.vectors(network.regions(maps, [proposals]))
        scores = torch.softmax(network.score(vectors), 1)[:, 1]
        boxes = network.coder.decode_single(network.box(vectors), proposals)[:, 4:]
        boxes = ops.clip_boxes_to_image(boxes, self._size_hw)
        sure = there & (scores >= MIN_SCORE) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        order, first = self._suppressed(boxes, scores, sure, MAX_IOU)
        kept = (first & sure[order]).float()
        found = (boxes[order] * kept[:, None], scores[order] * kept, network.embedding(who[order]) * kept[:, None])
        return found[0][None], found[1][None], found[2][None]

    def _proposals(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Maps -> (A, 4) and which of them are proposals; torchvision's own network picks lists of varying length."""
        rpn = self.network.proposals
        (logits,), (offsets,) = rpn.head([maps])
        each = logits.permute(0, 2, 3, 1).reshape(-1)  # cells, then anchors
        moves = offsets.reshape(-1, 4, *offsets.shape[2:]).permute(2, 3, 0, 1).reshape(-1, 4)
        boxes = rpn.box_coder.decode_single(moves, self.anchors)
        _, best = each.topk(min(self._best, len(self.anchors)))
        boxes = ops.clip_boxes_to_image(boxes[best], self._size_hw)
        solid = (boxes[:, 2:] - boxes[:, :2] >= self._smallest).all(1)
        order, first = self._suppressed(boxes, torch.sigmoid(each[best]), solid, rpn.nms_thresh)
        return boxes[order], first & solid[order]

    def _suppressed(self, boxes: Tensor, scores: Tensor, counts: Tensor, max_iou: float) -> tuple[Tensor, Tensor]:
        """Places of the best (A,), boxes that do not count last, and which of the A are filled."""
        order = ops.nms(boxes, torch.where(counts, scores, -1.0), max_iou)
        places = torch.arange(self._most, device=order.device)
        return torch.cat([order, torch.zeros_like(places)])[: self._most], places < order.shape[0]


class SearchQuery(Served):
    """`embedding` (n, D) of the people in n boxes (n, 4), xyxy in pixels of the scene."""

    outputs = ("embedding",)

    def __init__(self, network: PersonSearch) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, boxes: Tensor) -> Tensor:
        """See the class."""
        maps = self.network.maps(self.planes(images))
        _, who = self.network.vectors(self.network.regions(maps, [boxes]))
        return self.network.embedding(who)


@dataclass(frozen=True, slots=True)
class _Sized:
    """What torchvision's anchors ask of a batch."""

    tensors: Tensor
    image_sizes: list[tuple[int, int]]


def export_search(network: PersonSearch, size_hw: tuple[int, int], scenes: U8) -> tuple[bytes, bytes]:
    """The graphs `search_detect` and `search_query`, once they answered for `scenes` (n, *size_hw, 3) as torch does.

    Raises `BundleError` where they do not, and `UsageError` for a size or a network that no runtime takes.
    """
    if size_hw[0] % SIDES or size_hw[1] % SIDES:
        raise UsageError(f"the input is {size_hw[0]}x{size_hw[1]}, expected multiples of {SIDES}")
    if network.recipe.roi_op != "align":
        raise UsageError('roi_op = "pool" is not exported, runtimes lack it: train with roi_op = "align"')
    network = network.eval().cpu()
    detect, query = SearchDetect(network, size_hw).eval(), SearchQuery(network).eval()
    scene = torch.zeros(1, *size_hw, 3, dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0, 32, 64], [8, 8, 24, 56]])
    people = torch.export.Dim("people", min=1)
    graphs = (
        _to_onnx(detect, (scene,), ["images"], None),
        _to_onnx(query, (scene, boxes), ["images", "boxes"], {"images": None, "boxes": {0: people}}),
    )
    _check(network, graphs, scenes)
    return graphs


def _to_onnx(module: Served, inputs: tuple[Tensor, ...], names: list[str], shapes: object) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            input_names=names,
            output_names=list(module.outputs),
            opset_version=OPSET,
            dynamic_shapes=shapes,  # type: ignore[arg-type]
            verbose=False,
        )
    return without_notes(program)


@torch.inference_mode()
def _check(network: PersonSearch, graphs: tuple[bytes, bytes], scenes: U8) -> None:
    """Every scene: as many found, the same boxes, scores and vectors, and the same vectors for these boxes."""
    detect, query = (onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]) for graph in graphs)
    for scene in scenes:
        batch = collate([resized(scene, scene.shape[:2], torch.device("cpu"))], [(1.0, 1.0)])
        wanted = network.found(batch, MIN_SCORE, MAX_IOU)
        found = detect.run(None, {"images": scene[None]})
        count = int((found[1] > 0).sum())
        if count != len(wanted[1]):
            raise BundleError(
                f"the exported graph finds {count} people where torch finds {len(wanted[1])}: nothing was written"
            )
        for name, have, want in zip(SearchDetect.outputs, found, wanted, strict=True):
            _same(name, have[0, :count], want.numpy())
        if count:
            _, who = network.vectors(network.regions(network.maps(batch.tensors), [wanted[0]]))
            described = query.run(None, {"images": scene[None], "boxes": wanted[0].numpy()})[0]
            _same("embedding", described, network.embedding(who).numpy())


def _same(name: str, have: F32, want: F32) -> None:
    difference = float(np.abs(have - want).max(initial=0.0))
    if not difference <= MAX_DIFFERENCE[name]:
        raise BundleError(
            f"{name} of the exported graph differs from torch's by {difference:.3g} (at most {MAX_DIFFERENCE[name]}): nothing was "
            "written; use the versions in constraints.txt"
        )
