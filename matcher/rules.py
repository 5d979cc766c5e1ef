"""What the linking policy is told: the asked error, the calibration of the embedder, and the numbers behind its steps.

Values were chosen on simulated sites (24 people on 4 cameras, 200 on 12; IDF1 .77 | .76, before identities were merged) and
later on twenty drawn demo scenes, with `benchmarks/linking.py` (IDF1 .886 at link precision .965); beside each stands what these
become when it alone is changed, those of the demo marked so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream.model import LinkRow, Links

SECOND = 1_000_000_000  # nanoseconds
EXEMPLARS = 8
"""Vectors that an identity keeps at most."""
MEAN_PRIOR = 3.0
"""A camera's mean counts as this many tracklets of the site's before it has seen any, and the site's of the training's."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A pair of logistic fits: the nearest exemplar is of the tracklet's own camera, or of another one."""

    same: LinkRow
    other: LinkRow


@dataclass(frozen=True, slots=True)
class Calibration:
    """From a similarity to log-odds of one person. The most special fit wins: camera pair, site, bundle."""

    links: Links
    """The bundle's own: always there, else the bundle is refused."""
    site: Rows | None = None
    """Fitted on this site's own crops."""
    pairs: Mapping[tuple[str, str], LinkRow] = field(default_factory=dict)
    """Fitted on this pair of cameras, (smaller name, larger name)."""

    def row(self, camera: str, exemplar_camera: str) -> tuple[LinkRow, str]:
        """The fit for a tracklet of `camera` and an exemplar of `exemplar_camera`, and its name, e.g. ``other/bundle``."""
        which = "same" if camera == exemplar_camera else "other"
        pair = self.pairs.get((min(camera, exemplar_camera), max(camera, exemplar_camera)))
        if pair is not None:
            return pair, f"{which}/pair"
        rows = self.site or Rows(self.links.same, self.links.other)
        return (rows.same if which == "same" else rows.other), f"{which}/{'site' if self.site else 'bundle'}"

    @property
    def mean(self) -> NDArray[np.float64]:
        """(D,) mean training vector."""
        return np.asarray(self.links.mean, np.float64)

    @property
    def between_identities(self) -> LinkRow:
        """Judges whether two identities are one person."""
        return self.site.other if self.site else self.links.other


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything that a step reads besides its state and its record. Times in nanoseconds."""

    calibration: Calibration
    cameras: int
    """How many the site has."""
    retention_ns: int = 24 * 3600 * SECOND
    false_links: float = 0.05
    """Asked rate of wrong links, 0.01 to 0.2; the only threshold that a user sets."""

    # demo: 2.5 s .883 at .961, 3.5 s .883 at .963
    wait_ns: int = 3 * SECOND  # then the better guess will do; 1 s .74 | .74, 5 s .77 | .76, 10 s .79 | .76
    left_ns: int = 2 * SECOND  # unseen for this long, it has ended
    # demo: 5 .883 at .964, 8 .885 at .965
    sure_crops: int = 6  # a link waits for as many unless its time is up: first crops are cut off by the picture's edge
    stranger_crops: int = 12  # somebody new, too; demo: 8 .887 at .961, 16 .886 at .966
    # demo: 4 .882 at .966
    least_crops: int = 3  # a glimpse of less is linked to nobody: it is of somebody half hidden, or of nobody
    # demo: 15 s .884 at .962, 30 s .882 at .965
    tau_s: float = 20.0  # typical transit; 30 s .77 | .76, 120 s .72 | .69
    clip: float = 8.0  # most that appearance alone may say, in log-odds; 5 .69 | .27; demo: 6 .884 at .964
    # demo: .75 .886 at .963, .85 .885 at .967
    floor: float = 0.8  # least probability of a link; .6 .77 | .76, .9 .72 | .67
    exemplars: int = EXEMPLARS  # per identity; 1 .71 | .59; demo: 12 .886 at .966
    gate: float = 0.8  # least probability at which a linked tracklet may leave an exemplar; demo: .9 .884 at .967
    # demo: 4 .885 at .967
    min_weight: float = 3.0  # summed quality before a tracklet may found an identity or leave an exemplar,
    many_crops: int = 6  # or so many crops, of somebody far away; demo: 8 .886 at .964
    min_quality: float = 0.25  # of a crop that counts
    mean_prior: float = MEAN_PRIOR  # vectors that the prior of a camera's mean weighs; demo: 6 .887 at .960
    # demo: 0 .884 at .966
    switch_log_odds: float = -0.7  # a crop less like its tracklet is kept out; three in a row say that it is mixed
    max_open: int = 64  # tracklets per camera
    max_identities: int = 10_000
    max_candidates: int = 16  # per tracklet
