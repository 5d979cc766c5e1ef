"""A person-search checkpoint as a bundle of two graphs of one scene size: who is in a scene, and what people in given boxes look like.

Both take one scene, RGB uint8 (1, H, W, 3), scaled already; H and W are multiples of 32. They answer as `PersonSearch.found` does and
as `PersonSearch.embed`, with the same weights, which are stored once; table and queue of the training are in neither.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.external_data_helper import set_external_data
from torch import Tensor
from torchvision import ops

from deploy import backends, metadata, search_people
from deploy.backends.query import QueryRuntime
from deploy.bundle import MODEL, Bundle, load_bundle, write_bundle
from deploy.export import WENT_WRONG, Described, to_graph
from deploy.search_links import fit_search_links
from deploy.searcher import QUERY_BOXES, QUERY_EMBEDDING, Searcher
from deploy.thresholds import check_defaults
from stream.errors import BundleError, UsageError
from stream.model import IMAGENET_MEAN, IMAGENET_STD, Backend, ModelCard
from trainer import checkpoint
from trainer.methods.person_search import MAX_IOU, STRIDE, PersonSearch, PersonSearchRecipe
from trainer.proposals import SMALLEST_PX, CaffeProposals
from trainer.scene_batch import STRIDE as SIDES
from trainer.scene_batch import fitted
from trainer.serving import Served, network_of
from trainer.stays import DESCRIPTION, LabelledScene, synthetic_scenes

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

CAMERA_HW = (360, 640)
"""A camera's sides, in proportion: those of 640x360, 1280x720 and 1920x1080."""
MAX_BOX_PX, MAX_SCORE, MIN_COSINE = 0.5, 1e-4, 0.9999
"""How far ONNX Runtime may be from torch."""
SHARED_BYTES = 1024
"""Tensors from this size on are not stored again in the second graph."""


class SearchDetect(Served):
    """`boxes` (1, A, 4) xyxy in pixels of the scene, `scores` (1, A), `embedding` (1, A, D): best first, then zeros.

    A is the network's `max_proposals_test`. The same steps as `PersonSearch.found` for boxes of any score, in arrays of fixed length:
    which scores count is the stream's affair.
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
        sure = there & (boxes[:, 2:] > boxes[:, :2]).all(1)
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


def served_hw(recipe: PersonSearchRecipe) -> tuple[int, int]:
    """The size that a camera's picture has in training, sides rounded up to multiples of 32: people are as large as it knows them."""
    height, width = fitted(*CAMERA_HW, recipe.input_hw)
    return math.ceil(height / SIDES) * SIDES, math.ceil(width / SIDES) * SIDES


def export_person_search(
    saved: Path,
    folder: Path,
    described: Described,
    golden: U8,
    *,
    scenes: Iterable[tuple[float, LabelledScene]] | None = None,
    fitted_on: str = "",
    report: Callable[[float], None] = lambda done: None,
    say: Callable[[str], None] = lambda line: None,
) -> Bundle:
    """Write the bundle of checkpoint `saved` into `folder`, for scenes of the size of `golden` (n, H, W, 3), which it answers for later.

    Link rows are fitted on `scenes`, without any on drawn ones, which takes minutes; `report` hears the share that is done, `say` in
    which runtimes the graphs passed. Raises `BundleError` where the graphs and torch disagree.
    """
    network, recipe = network_of(checkpoint.load(saved))
    if not isinstance(network, PersonSearch):
        raise UsageError(f"{saved} is of {recipe.method}, not of person search")
    check_defaults(described.name, "person-search", described.defaults)
    size_hw = (golden.shape[1], golden.shape[2])
    boxes = _query_boxes(len(golden), size_hw)
    expected, described_boxes = in_torch(network, size_hw, golden, boxes)
    for name, values in {**expected, QUERY_EMBEDDING: described_boxes}.items():
        if not np.isfinite(values).all():
            raise BundleError(f"{saved}: in torch already {name} is not finite: {WENT_WRONG}")
    model, query = to_graphs(network, size_hw)
    card = ModelCard(
        name=described.name,
        version=described.version,
        kind="person-search",
        input_hw=size_hw,
        outputs={name: values.shape[1:] for name, values in expected.items()},
        max_batch=1,
        embedding_size=network.recipe.embed_dim,
        synthetic_only=described.synthetic_only,
        data_sets=described.data_sets,
        scores=dict(described.scores),
        defaults=dict(described.defaults),
        licence=described.licence,
        source=described.source,
        digest="0" * 64,  # write_bundle fills it in
    )
    asked = QueryRuntime(query, card, torch.get_num_threads())
    passed = backends.in_each(
        model, card, lambda detect: check(detect, asked, golden, expected, boxes, described_boxes)
    )
    say(f"in fp32 it passed the gate in {passed}")
    if scenes is None:
        scenes, fitted_on = synthetic_scenes(), DESCRIPTION
    rows = fit_search_links(asked, scenes, fitted_on, report)
    arrays: dict[str, U8 | F32] = {"inputs": golden, **expected, QUERY_BOXES: boxes, QUERY_EMBEDDING: described_boxes}
    preprocessing = metadata.normalised(1 / 255, IMAGENET_MEAN, IMAGENET_STD)
    model, card = metadata.filled(model, card, preprocessing)
    query, _ = metadata.filled(query, card, preprocessing)
    write_bundle(folder, model, card, arrays, rows, sharing(model, query))
    bundle = load_bundle(folder)
    Searcher(bundle).close()  # as whoever serves it will
    return bundle


def to_graphs(network: PersonSearch, size_hw: tuple[int, int]) -> tuple[bytes, bytes]:
    """`search_detect` and `search_query`. Raises `UsageError` for a size or a network that no runtime takes."""
    if size_hw[0] % SIDES or size_hw[1] % SIDES:
        raise UsageError(f"the input is {size_hw[0]}x{size_hw[1]}, expected multiples of {SIDES}")
    if network.recipe.roi_op != "align":
        raise UsageError('roi_op = "pool" is not exported, runtimes lack it: train with roi_op = "align"')
    network = network.eval().cpu()
    scene = torch.zeros(1, *size_hw, 3, dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0, 32, 64], [8, 8, 24, 56]])
    people = torch.export.Dim("people", min=1)
    return (
        to_graph(SearchDetect(network, size_hw).eval(), {"images": scene}, None),
        to_graph(
            SearchQuery(network).eval(), {"images": scene, "boxes": boxes}, {"images": None, "boxes": {0: people}}
        ),
    )


@torch.inference_mode()
def in_torch(network: PersonSearch, size_hw: tuple[int, int], scenes: U8, boxes: F32) -> tuple[dict[str, F32], F32]:
    """What both graphs must give: of `scenes` (n, *size_hw, 3) by output name, and for `boxes` (n, k, 4) in them (n, k, D)."""
    detect, query = SearchDetect(network, size_hw).eval(), SearchQuery(network).eval()
    found = [detect(torch.from_numpy(scene[None])) for scene in scenes]
    columns = zip(SearchDetect.outputs, zip(*found, strict=True), strict=True)
    asked = [
        query(torch.from_numpy(scene[None]), torch.from_numpy(box)) for scene, box in zip(scenes, boxes, strict=True)
    ]
    return {name: torch.cat(column).numpy() for name, column in columns}, torch.stack(asked).numpy()


def check(
    detect: Backend, query: QueryRuntime, scenes: U8, expected: dict[str, F32], boxes: F32, described: F32
) -> None:
    """Raises `BundleError` unless both graphs answer for `scenes` as torch did, and torch found somebody."""
    if not expected["scores"].any():
        raise BundleError(
            f"the network gives no box in {len(scenes)} scenes, so its graph cannot be compared: train it longer, or "
            "begin with trained weights"
        )
    said = search_people.differ(detect.infer(scenes), expected, score=MAX_SCORE, box_px=MAX_BOX_PX, cosine=MIN_COSINE)
    have = np.stack([query.infer(scene, box) for scene, box in zip(scenes, boxes, strict=True)])
    cosine = float((have * described).sum(-1).min())
    if said is None and not cosine >= MIN_COSINE:
        said = f"vectors of given boxes have cosine {cosine:.5f} to torch's (at least {MIN_COSINE})"
    if said is not None:
        raise BundleError(
            f"the exported graphs do not answer as torch does: {said}; nothing was written; use the versions in constraints.txt"
        )


def sharing(model: bytes, query: bytes) -> bytes:
    """The graph `query` with its weights taken from where they lie in the file of `model`, by ONNX's own means for that."""
    graph = onnx.load_model_from_string(query)
    for weights in graph.graph.initializer:
        place = model.find(weights.raw_data) if len(weights.raw_data) >= SHARED_BYTES else -1
        if place >= 0:
            set_external_data(weights, MODEL, place, len(weights.raw_data))
            weights.ClearField("raw_data")
    return bytes(graph.SerializeToString())


def _query_boxes(count: int, size_hw: tuple[int, int]) -> F32:
    """(count, 2, 4): a person in the middle and a taller one to the left of it."""
    height, width = size_hw
    middle = np.array([[0.4, 0.3, 0.6, 0.9], [0.1, 0.05, 0.35, 0.95]], np.float32)
    return np.broadcast_to(middle * np.array([width, height] * 2, np.float32), (count, 2, 4)).copy()
