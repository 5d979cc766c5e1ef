"""The `[reid]` section."""

from pydantic import Field

from stream.settings import Section


class EmbedderSettings(Section):
    """Which crops are embedded. Times are event time and budgets are per camera, so workers and batches change nothing."""

    bundle: str = "osnet-x0.25"  # a name or a folder
    min_quality: float = Field(0.25, ge=0, le=1)  # the matcher pools no crop below it, so it is not embedded
    good_quality: float = Field(0.5, ge=0, le=1)  # a crop from here on settles a tracklet
    good_crops: int = Field(8, ge=1)  # so many good ones, and a tracklet is settled
    new_s: float = Field(2.0, ge=0)  # a tracklet younger than this is embedded in every frame until settled
    poor_every_s: float = Field(0.6, gt=0)  # an older one that is not settled, or was hard to tell from another
    every_s: float = Field(2.0, gt=0)  # a settled one
    crops_per_s: float = Field(15.0, gt=0)  # budget of a camera, and half as much again at once
    max_batch: int = Field(32, ge=1, le=1024)  # crops per call of the model
