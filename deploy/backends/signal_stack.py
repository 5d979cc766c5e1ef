"""Where this thread handles signals: kept as it was while a library sets it.

OpenVINO (2026.4.1) gives the thread that loads a model a signal stack of its own, on processors with AMX, and takes it back when
the model is freed. Freed in another order or by another thread, the first one is left with a stack that is no more, and the next
Ctrl-C ends the process with a segmentation fault. Python needs no such stack, and faulthandler brings one that is large enough.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextmanager
def kept() -> Iterator[None]:
    """Put this thread's signal stack back behind the block; elsewhere than on Linux nothing is done."""
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
