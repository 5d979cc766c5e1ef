"""Frames as small as they may be, for tests of what carries them."""

from typing import Any

from stream.messages import Frame


def frame(sequence: int, *, clock: Any = "file", size: int = 100, camera: str = "gate") -> Frame:
    """A tenth of a second after the one before."""
    return Frame(
        site="yard", camera=camera, stream=0, sequence=sequence, captured_at=sequence * 10**8, ingested_at=0, clock=clock,
        width=4, height=4, image=bytes(size),
    )  # fmt: skip
