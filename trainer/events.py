"""Scalars in TensorBoard's own file format, so that `tensorboard --logdir` shows a run and nothing needs to be installed to train.

A file is a row of records: length (8 bytes), its checksum, the data, its checksum; the data is an `Event` in protocol buffers
(tensorflow/core/util/event.proto), of which the few fields used here are written by hand.
"""

import struct
import time
from collections.abc import Mapping
from pathlib import Path

from crc32c import crc32c

from trainer.checkpoint import writing


class EventFile:
    """A new file in `folder`; TensorBoard shows all files of a folder as one run."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"events.out.tfevents.{time.time_ns()}.sightline"
        with writing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb", buffering=0)
            self._record(_bytes(3, b"brain.Event:2"))

    def __enter__(self) -> "EventFile":
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of a step, by tag."""
        summary = b"".join(
            _bytes(1, _bytes(1, tag.encode()) + b"\x15" + struct.pack("<f", value)) for tag, value in values.items()
        )
        with writing(self._path):
            self._record(b"\x10" + _varint(step) + _bytes(5, summary))

    def _record(self, event: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + event
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked(length) + event + _masked(event))


def _masked(data: bytes) -> bytes:
    """Checksum, turned and shifted as TFRecord asks, so that checksums of checksums stay good."""
    crc: int = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _bytes(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
