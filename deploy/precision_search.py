"""int8 of a person search: one choice of layers for both of its graphs.

Both graphs run the same layers, and a query is compared with people who were found: whoever stands in a given box is described in the
arithmetic of whoever was found there. So a layer is int8 in both graphs, with one range of values, or in neither.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from deploy import backends, search_people
from deploy.backends.onnxruntime import run_each
from deploy.backends.query import QueryRuntime
from deploy.gate import LIMITS
from deploy.precision_graph import LAYERS, Graph, fold_norms
from deploy.precision_half import CHOOSERS
from deploy.precision_int8 import (
    ALLOWED,
    GROUP_PICTURES,
    Report,
    bearable,
    calibrated_scales,
    layers,
    quantised,
)
from stream.errors import BundleError
from stream.model import ModelCard

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Outputs = Mapping[str, F32]

TRIAL_SCENES = 32
"""Calibration scenes that a choice is tried on: each holds several people, and takes as long as some dozen crops."""
SHARES = np.geomspace(0.01, 100, 81)
"""Of the gate's limits: how finely two answers are told apart."""


def to_int8(detect: bytes, query: bytes, card: ModelCard, calibration: U8, report: Report) -> tuple[bytes, bytes]:
    """Both graphs with as many layers in int8 as the gate bears on the calibration scenes.

    `card` is the bundle's, `calibration` (n, H, W, 3) scenes of its size. Raises `BundleError` where no layer bears it, and where
    nobody is found in the scenes, so that nothing could be compared.
    """
    finding, describing = Graph(detect), Graph(query)
    fold_norms(finding)
    fold_norms(describing)
    pair = Pair(finding, describing, card, calibration, report)
    if not pair.candidates:
        raise BundleError("no layer of this network can be int8: use fp16 or keep fp32")
    chosen = bearable(pair.candidates, pair.fits, pair.harm, report)
    return pair.graphs(chosen)


class Pair:
    """Both graphs of a person search, whose layers are named by their weights, and what they give in float32."""

    def __init__(self, finding: Graph, describing: Graph, card: ModelCard, calibration: U8, report: Report) -> None:
        self._finding, self._describing = finding, describing
        self._card = msgspec.structs.replace(card, precision="int8")
        kept = choosing(finding)
        weights = [finding.nodes[place].input[1] for place in layers(finding) if place not in kept]
        self.candidates = list(dict.fromkeys(weights))
        """Weights of the layers that may be quantised, in the graph's order: not those that choose between regions or move boxes."""
        self._scales = calibrated_scales(finding, self._places(finding, self.candidates), calibration, report)
        self._scenes = calibration[:: max(1, len(calibration) // TRIAL_SCENES)][:TRIAL_SCENES]
        self._found = answers(finding.opened(sorted(finding.outputs)), self._scenes)
        scores = self._found["scores"]
        if not (scores >= search_people.LEAST_SCORE).any():
            raise BundleError(
                f"nobody is found in {len(self._scenes)} calibration scenes with a score of {search_people.LEAST_SCORE} or more, so "
                "int8 cannot be compared with fp32: take scenes with people (--calibration), or train it longer"
            )
        self._boxes = [
            boxes[score >= search_people.LEAST_SCORE] for boxes, score in zip(self._found["boxes"], scores, strict=True)
        ]
        self._described = self._vectors(describing.opened(sorted(describing.outputs)), len(self._scenes))

    def graphs(self, names: Sequence[str]) -> tuple[bytes, bytes]:
        """Both with these layers in int8."""
        found = self._places(self._finding, names)
        # a head that runs twice describes people the second time
        by_weights = {
            self._finding.nodes[place].input[1]: self._scales[self._finding.nodes[place].input[0]] for place in found
        }
        described = self._places(self._describing, names)
        nodes = [self._describing.nodes[place] for place in described]
        scales = {node.input[0]: by_weights[node.input[1]] for node in nodes}
        return quantised(self._finding, found, self._scales), quantised(self._describing, described, scales)

    def fits(self, names: Sequence[str]) -> bool:
        """Whether int8 in these layers stays well within the gate, in every runtime here."""
        return self._used(names, len(self._scenes)) <= ALLOWED

    def harm(self, names: Sequence[str]) -> float:
        """How much of the gate's limits int8 in these layers uses up, in a few scenes."""
        return self._used(names, GROUP_PICTURES)

    def _used(self, names: Sequence[str], scenes: int) -> float:
        detect, query = self.graphs(names)
        expected = {name: values[:scenes] for name, values in self._found.items()}
        found: list[float] = []
        backends.in_each(
            detect, self._card, lambda runtime: found.append(used(runtime.infer(self._scenes[:scenes]), expected))
        )
        want = self._described[:scenes]
        cosines = [(a * b).sum(1) for a, b in zip(self._vectors(query, scenes), want, strict=True)]
        least = min((float(each.min()) for each in cosines if len(each)), default=1.0)
        return max(*found, (1 - least) / (1 - LIMITS["int8"].cosine))

    def _vectors(self, query: bytes, scenes: int) -> list[F32]:
        """Of the people that float32 found, per scene."""
        runtime = QueryRuntime(query, self._card)
        return [
            runtime.infer(scene, boxes)
            for scene, boxes in zip(self._scenes[:scenes], self._boxes[:scenes], strict=True)
        ]

    @staticmethod
    def _places(graph: Graph, names: Sequence[str]) -> list[int]:
        wanted = set(names)
        return [
            place
            for place, node in enumerate(graph.nodes)
            if node.op_type in LAYERS and len(node.input) > 1 and node.input[1] in wanted
        ]


def choosing(graph: Graph) -> set[int]:
    """Places of the layers from whose output regions are chosen or moved with no other layer between: the last ones of their kind."""
    wanted: set[str] = set()
    places = set()
    for place, node in reversed(list(enumerate(graph.nodes))):
        if any(name in wanted for name in node.output):
            if node.op_type in LAYERS:
                places.add(place)
            else:
                wanted.update(node.input)
        wanted.update(node.input[slot] for slot in CHOOSERS.get(node.op_type, ()) if slot < len(node.input))
    return places


def answers(detect: bytes, scenes: U8) -> dict[str, F32]:
    """Outputs of `search_detect` for scenes (n, H, W, 3), n in front."""
    each = list(run_each(detect, scenes))
    return {name: np.concatenate([one[name] for one in each]) for name in each[0]}


def used(have: Outputs, want: Outputs) -> float:
    """How much of the gate's limits for int8 it takes for both to have found the same people; infinite beyond a hundred times."""
    limits = LIMITS["int8"]

    def alike(share: float) -> bool:
        cosine = 1 - share * (1 - limits.cosine)
        said = search_people.differ(have, want, score=share * limits.score, box_px=share * limits.box_px, cosine=cosine)
        return said is None

    place = bisect_left(range(len(SHARES)), True, key=lambda at: alike(float(SHARES[at])))
    return float(SHARES[place]) if place < len(SHARES) else float("inf")
