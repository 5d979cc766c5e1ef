"""Steps for tests of a gallery, as small as they may be."""

import time
from collections.abc import Mapping

from matcher.matcher import Change, Step
from matcher.merge import Place

SECOND = 10**9


def a_step(clock: int | None = None, changes: Mapping[str, bytes | None] | None = None, offset: int = 1) -> Step:
    """At the wall clock's second unless `clock` says otherwise; what it changes is kept for a minute."""
    clock = clock or int(time.time()) * SECOND
    held = {key: Change(value, clock + 60 * SECOND) for key, value in (changes or {}).items()}
    return Step(clock, held, {0: offset}, {"c": Place(0, offset)}, ())
