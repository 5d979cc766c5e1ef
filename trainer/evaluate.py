"""What a model can do, measured on the stream's own pixels with anything that has `infer`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from detector.letterbox import letterbox
from detector.nms import select
from reid.crops import to_batch
from stream.errors import DataError
from trainer.augment import ERASED, erasing
from trainer.data import LEAST_VISIBLE, Crops, Scenes
from trainer.metrics import (
    SURE,
    BoxScore,
    CameraPair,
    Detected,
    Ranking,
    camera_pairs,
    euclidean_rows,
    rank,
    rank_rows,
    score_boxes,
)
from trainer.rerank import rerank_rows
from trainer.serving import TorchBackend

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

CHUNK = 64
MAX_CAMERAS = 32
"""Scores of camera pairs are not listed above: drawn sites together have hundreds of cameras."""
MAX_IOU = 0.6
APART = 18
"""Frames, 1.5 s at 12 fps."""
MIN_SCORE = 0.05
"""Boxes below are not listed; the tail adds nothing to the average precision."""
PLAIN = "plain"
"""Output of a model that also gives its vectors before they are made unit."""


class Infers(Protocol):
    """What is needed of a model."""

    def infer(self, images: U8, /) -> dict[str, F32]:
        """(N, H, W, 3) RGB -> arrays by output name."""
        ...


Report = Callable[[int, int], None]
"""Is told how many of how many pictures are done."""


def silent(done: int, of: int) -> None:
    """A report that says nothing."""


def embed(model: Infers, crops: Crops, size_hw: tuple[int, int]) -> F32:
    """(N, D) vectors of all crops, resized as the stream does it."""
    return _outputs(model, crops, size_hw, silent, 0.0, 0)["embedding"]


def _outputs(
    model: Infers, crops: Crops, size_hw: tuple[int, int], report: Report, erase_p: float, seed: int
) -> dict[str, F32]:
    """All that a model gives, by name, of crops of which a share `erase_p` has a rectangle wiped out."""
    parts = []
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(crops.images), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(crops.images)))
        batch = to_batch(list(crops.images[rows]), size_hw)
        if erase_p:
            batch[erasing(len(rows), size_hw, erase_p, generator).numpy()] = np.round(255 * np.array(ERASED))
        parts.append(_infer(model, batch, crops, rows))
        report(int(rows[-1]) + 1, len(crops.images))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _infer(model: Infers, batch: U8, crops: Crops, rows: I64) -> dict[str, F32]:
    if not (isinstance(model, TorchBackend) and model.takes_joints):
        return model.infer(batch)
    if crops.joints is None:
        raise DataError(
            "this network is told where a person's joints are, and these pictures have none: find them with "
            "`sightline data annotate --every-split`"
        )
    return model.infer(batch, crops.joints[rows])


@dataclass(frozen=True, slots=True)
class EmbedderScore:
    """Of an embedder on labelled crops, across cameras."""

    ranking: Ranking
    centred: Ranking
    """With every camera's mean vector taken out, as the matcher does."""
    euclidean: Ranking | None
    """By plain Euclidean distance of `PLAIN` vectors, where the model gives them."""
    reranked: Ranking | None
    """By k-reciprocal neighbours with the paper's values, if asked for."""
    pairs: list[CameraPair]
    """None above `MAX_CAMERAS` cameras."""
    query_vectors: F32
    gallery_vectors: F32


def score_embedder(
    model: Infers,
    query: Crops,
    gallery: Crops,
    size_hw: tuple[int, int],
    *,
    rerank: bool = False,
    erase_p: float = 0.0,
    report: Report = silent,
) -> EmbedderScore:
    """CMC, mAP and mINP of `query` in `gallery`, as Market-1501 counts them.

    `erase_p`: random erasing of query and gallery pictures, seeded, as a test of robustness (MGRe's table 6 takes 0.5).
    """
    asked, total = len(query.images), len(query.images) + len(gallery.images)
    of_query = _outputs(model, query, size_hw, lambda done, _: report(done, total), erase_p, 1)
    of_gallery = _outputs(model, gallery, size_hw, lambda done, _: report(asked + done, total), erase_p, 2)
    q, g = of_query["embedding"], of_gallery["embedding"]
    labels = (query.people, query.cameras), (gallery.people, gallery.cameras)

    def ranked(a: F32, b: F32) -> Ranking:
        return rank(a, *labels[0], b, *labels[1])

    ranking = ranked(q, g)  # first, for it refuses vectors that the others could not reckon with
    centred_q, centred_g = q.copy(), g.copy()
    for camera in np.unique(gallery.cameras):
        mean = g[gallery.cameras == camera].mean(0)
        centred_q[query.cameras == camera] -= mean
        centred_g[gallery.cameras == camera] -= mean
    plain = euclidean_rows(of_query[PLAIN], of_gallery[PLAIN]) if PLAIN in of_query else None
    again = rank_rows((-rows for rows in rerank_rows(q, g)), *labels[0], *labels[1]) if rerank else None
    return EmbedderScore(
        ranking=ranking,
        centred=ranked(_unit(centred_q), _unit(centred_g)),
        euclidean=None if plain is None else rank_rows(plain, *labels[0], *labels[1]),
        reranked=again,
        pairs=camera_pairs(q, *labels[0], g, *labels[1]) if len(np.unique(gallery.cameras)) <= MAX_CAMERAS else [],
        query_vectors=q,
        gallery_vectors=g,
    )


def split(crops: Crops) -> tuple[Crops, Crops]:
    """Query: everybody's first picture per camera. Gallery: the others."""
    pairs = np.stack([crops.people, crops.cameras], 1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    chosen = np.zeros(len(pairs), dtype=bool)
    chosen[first] = True
    return crops.take(np.flatnonzero(chosen)), crops.take(np.flatnonzero(~chosen))


def detect(model: Infers, images: Sequence[U8], size_hw: tuple[int, int]) -> list[tuple[F32, F32]]:
    """Per picture the boxes (n, 4) in its pixels and scores (n,), after suppression, as the stream does it."""
    found = []
    for image in images:
        batch, scales = letterbox([image], size_hw)
        out = model.infer(batch)
        height, width = image.shape[:2]
        found.append(
            select(
                out["boxes"][0],
                out["scores"][0],
                scale=float(scales[0]),
                image_hw=(height, width),
                min_score=MIN_SCORE,
                max_iou=MAX_IOU,
            )[:2]
        )
    return found


def score_detector(model: Infers, scenes: Scenes, size_hw: tuple[int, int]) -> BoxScore:
    """Average precision at IoU 0.5, people of whom less than 30 % can be seen neither right nor wrong."""
    pictures = []
    for place in range(len(scenes.images)):
        image = scenes.images[np.array([place])][0]
        ((xyxy, scores),) = detect(model, [image], size_hw)
        truth = scenes.xyxy[place]
        there = np.isfinite(truth).all(1)
        truth = np.clip(truth[there], 0, [image.shape[1], image.shape[0]] * 2).astype(np.float32)
        solid = (truth[:, 2:] - truth[:, :2]).min(1) > 1
        counted = scenes.visible[place][there][solid] >= LEAST_VISIBLE
        pictures.append(Detected(xyxy, scores, truth[solid], counted))
    return score_boxes(pictures)


def box_agreement(
    model: Infers, size_hw: tuple[int, int], reference: Infers, reference_hw: tuple[int, int], frames: Iterable[U8]
) -> BoxScore:
    """How well a detector agrees with another on the same footage: the other's boxes of at least `SURE` are the truth."""
    pictures = []
    for frame in frames:
        ((xyxy, scores),) = detect(model, [frame], size_hw)
        ((truth, sure),) = detect(reference, [frame], reference_hw)
        pictures.append(Detected(xyxy, scores, truth, sure >= SURE))
    return score_boxes(pictures)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of an embedder with labels and with another embedder, on pairs of real crops."""

    rank1: float
    """Share of crops whose nearest crop, of those at least `APART` frames away, shows the same person."""
    separation: float
    """Chance that a same-person pair is more similar than a pair of two people (area under the ROC curve)."""
    reference_rank1: float
    reference_separation: float
    correlation: float
    """Spearman's, between both models' similarities over all pairs."""
    crops: int
    people: int


def crop_agreement(ours: F32, theirs: F32, people: I64, frames: I64) -> Agreement:
    """Vectors (N, D) and (N, E) of the same crops; pairs closer than `APART` frames of one person are too easy."""
    from scipy.stats import rankdata, spearmanr

    same = people[:, None] == people[None]
    usable = ~same | (np.abs(frames[:, None] - frames[None]) >= APART)
    upper = np.triu(usable, 1)

    def judged(vectors: F32) -> tuple[float, float, NDArray[np.float64]]:
        similar = (vectors @ vectors.T).astype(np.float64)
        hidden = np.where(usable, similar, -np.inf)
        np.fill_diagonal(hidden, -np.inf)
        askable = (same & usable).any(1)
        nearest = same[np.arange(len(same)), hidden.argmax(1)]
        order, positive = rankdata(similar[upper]), same[upper]
        wins = order[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
        return float(nearest[askable].mean()), float(wins / (positive.sum() * (~positive).sum())), similar[upper]

    rank1, separation, similar = judged(ours)
    reference_rank1, reference_separation, reference = judged(theirs)
    return Agreement(
        rank1,
        separation,
        reference_rank1,
        reference_separation,
        float(spearmanr(similar, reference).statistic),
        len(people),
        len(np.unique(people)),
    )


def _unit(x: F32) -> F32:
    result: F32 = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return result
