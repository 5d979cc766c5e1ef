"""The ``[matcher]`` table of a site file."""

from pydantic import Field

from stream.settings import Section


class MatcherSettings(Section):
    """What a site says about linking; everything else follows from the embedder's bundle."""

    false_links: float = Field(0.05, ge=0.01, le=0.2)
    """The asked rate of links that are wrong: lower links less and errs less."""
    lateness_s: float = Field(0.3, ge=0.05, le=5.0)
    """How long the merge of live cameras waits for a slower one; what comes later only supports open tracklets."""
