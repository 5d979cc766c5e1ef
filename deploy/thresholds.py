"""Thresholds that travel with a model: what a site file states wins, then the model's card, then the code's own values."""

import logging
from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError

from detector.settings import DetectorSettings
from matcher.settings import MatcherSettings
from stream.errors import BundleError, UsageError
from stream.model import Kind, ModelCard
from stream.settings import Section

log = logging.getLogger(__name__)

S = TypeVar("S", bound=Section)

FINDS = ("high_score", "new_score", "low_score", "nms_iou")
"""What a model that finds people may say of `[detector]`."""
DESCRIBES = ("false_links",)
"""What a model that describes them may say of `[matcher]`."""
OF_KIND = {"detector": FINDS, "embedder": DESCRIBES, "person-search": FINDS + DESCRIBES}


def card_defaults(said: list[str]) -> dict[str, float]:
    """Thresholds for the card, each given as name=value. Raises `UsageError` for what is no number."""
    defaults: dict[str, float] = {}
    for each in said:
        name, _, value = each.partition("=")
        try:
            defaults[name.strip()] = float(value)
        except ValueError:
            raise UsageError(f"--default {each}: expected NAME=NUMBER, such as new_score=0.4") from None
    return defaults


def with_defaults(section: S, card: ModelCard) -> S:
    """`section` with the card's values in place of those that nobody stated, which is logged."""
    found = _filled(section, card.name, card.defaults)
    if own := found.model_fields_set - section.model_fields_set:
        values = ", ".join(f"{name} = {getattr(found, name):g}" for name in sorted(own))
        log.info("%s brings %s", card.id, values)
    return found


def told(card: ModelCard, *sections: DetectorSettings | MatcherSettings) -> list[str]:
    """The card's thresholds as people read them, with what stands in a site's `sections` in their place."""
    said = []
    for name, value in sorted(card.defaults.items()):
        section = next(each for each in sections if name in type(each).model_fields)
        held = getattr(_filled(section, card.name, card.defaults), name)
        said.append(f"{name} {value:g}" if held == value else f"{name} {held:g} (the site's; its card says {value:g})")
    return said


def check_defaults(model: str, kind: Kind, defaults: Mapping[str, float]) -> None:
    """Raises `BundleError` where a model's defaults are no settings of what its kind does, or out of range."""
    known = OF_KIND[kind]
    for name in defaults:
        if name not in known:
            raise BundleError(f"{model}: {name} is no threshold of this {kind}; known: {', '.join(known)}")
    _filled(DetectorSettings(), model, defaults)
    _filled(MatcherSettings(), model, defaults)


def _filled(section: S, model: str, defaults: Mapping[str, float]) -> S:
    mine = type(section).model_fields.keys() - section.model_fields_set
    own = {name: value for name, value in defaults.items() if name in mine}
    try:
        return type(section).model_validate(section.model_dump(exclude_unset=True) | own)
    except ValidationError as error:
        first = error.errors()[0]
        which = f"default {first['loc'][0]} = {first['input']} is" if first["loc"] else "defaults are"
        raise BundleError(
            f"{model}: its card's {which} refused: {first['msg'].removeprefix('Value error, ')}; "
            "export or adopt it again"
        ) from None
