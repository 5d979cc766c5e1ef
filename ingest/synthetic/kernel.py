"""Compiled loops of the drawn world: one thread, no global lock, the same floats on every run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba


def kernel(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop over arrays. No fast-math and no threads: the same seed gives the same pixels."""
    return cast("Callable[..., Any]", numba.njit(cache=True, nogil=True, error_model="numpy")(loop))
