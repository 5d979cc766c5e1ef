"""The `[detector]` section."""

from typing import Self

from pydantic import Field, model_validator

from stream.settings import Section


class DetectorSettings(Section):
    """What counts as a person, and how long one may be out of sight and keep the tracklet."""

    bundle: str = "person-detector"  # a name or a folder
    # With an adopted YOLOX-nano on a real clip, everybody is one tracklet from 0.6 on; at 0.5 two tracklets of a frame or a few
    # came besides. The shipped detector's card says what is best for its own scores (benchmarks/results.md).
    high_score: float = Field(0.4, ge=0.05, le=1)  # a box from here on may go on with any tracklet
    new_score: float = Field(0.6, ge=0.05, le=1)  # and from here on begin one
    low_score: float = Field(0.25, ge=0.01, le=1)  # weaker boxes do not exist; from it on one keeps a tracklet alive
    nms_iou: float = Field(0.6, gt=0, lt=1)  # of two boxes that overlap more, the weaker is dropped
    max_lost_s: float = Field(1.4, gt=0, lt=2)  # the matcher ends a tracklet after 2 s, and ended names never come back
    still_s: float = Field(3.0, ge=0)  # a weak box is a thing where nothing changed for so long; 0: none is
    max_batch: int = Field(16, ge=1, le=256)  # pictures per call of the model
    lag_s: float = Field(0.5, gt=0)  # a live frame that waited longer says that this worker lags: only newest ones then
    max_live_age_s: float = Field(1.0, gt=0)  # an older frame of a live camera is skipped in any case

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low_score > min(self.high_score, self.new_score):
            raise ValueError(
                f"low_score {self.low_score:g} is above high_score {self.high_score:g} or new_score {self.new_score:g}: "
                "boxes below low_score do not exist, so lower it or raise the others"
            )
        return self
