"""The link rows of a person search, from scenes: it sees people amid their surroundings, so crops would say something else.

True boxes, a little off, go through the query graph. It costs a fifth of finding everybody first, and rows can be fitted for a
network that does not find people well yet; the vectors are those of the same regions.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from deploy.backends.query import QueryRuntime
from deploy.links import fit_vectors
from deploy.searcher import embed
from stream.model import Links
from trainer.stays import LabelledScene
from trainer.tracklets import Stay


def fit_search_links(
    query: QueryRuntime,
    scenes: Iterable[tuple[float, LabelledScene]],
    fitted_on: str,
    report: Callable[[float], None] = lambda done: None,
) -> Links:
    """Fit both rows and the mean on `scenes`, each with the share that is done, which `report` hears."""
    vectors: dict[int, list[NDArray[np.float64]]] = {}
    stays: dict[int, Stay] = {}
    for done, scene in scenes:
        described = embed(query, scene.image, scene.xyxy).astype(np.float64)
        for (number, stay), vector in zip(scene.stays, described, strict=True):
            vectors.setdefault(number, []).append(vector)
            stays[number] = stay
        report(done)
    return fit_vectors([np.stack(each) for each in vectors.values()], list(stays.values()), fitted_on)
