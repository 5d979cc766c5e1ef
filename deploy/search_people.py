"""Whether two runtimes found the same people: a person search gives lists, and lists are compared by who stands where.

Where two regions are nearly as good, rounding decides which one is kept, in torch as well: a few of the people may be others. A fault
of an export moves all of them.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from detector.boxes import iou

F32 = NDArray[np.float32]
Outputs = Mapping[str, F32]

LEAST_SCORE = 0.1
"""Of people that are compared, below which no site looks; where nobody is so sure, the surest box is."""
AGREE = 0.95
"""Share of the people that must be the same in both."""


def differ(have: Outputs, want: Outputs, *, score: float, box_px: float, cosine: float) -> str | None:
    """How `boxes` (N, A, 4), `scores` (N, A) and `embedding` (N, A, D) of the same N scenes differ; None where they do not.

    A person is the same within `score`, `box_px` at every edge, and a vector of at least `cosine`. With nobody in either they are alike.
    """
    one, other = _paired(have, want), _paired(want, have)
    boxes, scores, vectors = (np.concatenate([one[i], other[i]]) for i in range(3))
    same = (scores <= score) & (boxes <= box_px) & (vectors >= cosine)  # not a number is not the same
    if not len(same) or same.mean() >= AGREE:
        return None
    return (
        f"{int((~same).sum())} of {len(same)} people differ, by up to {boxes.max():.3g} px (at most {box_px}), {scores.max():.3g} of "
        f"score (at most {score}), cosine {vectors.min():.5f} (at least {cosine})"
    )


def _paired(mine: Outputs, theirs: Outputs) -> tuple[F32, F32, F32]:
    """Everybody of `mine` beside whom of `theirs` the box overlaps most: pixels and score apart, cosine; (M,) each."""
    boxes, scores, cosines = [], [], []
    for place, each in enumerate(mine["scores"]):
        sure = (each > 0) & (each >= min(LEAST_SCORE, each.max()))
        xyxy = mine["boxes"][place][sure]
        nearest = iou(xyxy, theirs["boxes"][place]).argmax(1)
        boxes.append(np.abs(xyxy - theirs["boxes"][place][nearest]).max(1, initial=0.0))
        scores.append(np.abs(mine["scores"][place][sure] - theirs["scores"][place][nearest]))
        cosines.append((mine["embedding"][place][sure] * theirs["embedding"][place][nearest]).sum(1))
    return np.concatenate(boxes), np.concatenate(scores), np.concatenate(cosines)
