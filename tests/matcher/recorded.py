"""A topic of recorded embeddings in a file: length and bytes of each record, cameras in turn."""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from stream.codec import EMBEDDINGS, decode, encode
from stream.errors import OffsetGone
from stream.transport import Record


def write(path: Path, records: Iterable[Record]) -> None:
    with path.open("wb") as file:
        for record in records:
            data = encode(record.message)
            file.write(struct.pack("<HQI", record.partition, record.offset, len(data)) + data)


def read(path: Path) -> Iterator[Record]:
    data, at = path.read_bytes(), 0
    while at < len(data):
        partition, offset, size = struct.unpack_from("<HQI", data, at)
        at += struct.calcsize("<HQI")
        yield Record(decode(data[at : at + size], EMBEDDINGS), partition, offset)
        at += size


class Recorded:
    """A Source over such a file."""

    def __init__(self, path: Path, batch: int = 16, first: int = 0) -> None:
        self._records, self._batch, self._first = list(read(path)), batch, first
        self._from: dict[int, int] = {}

    def topic_id(self) -> str:
        return "recorded"

    def seek(self, offsets: Mapping[int, int]) -> None:
        if min(offsets.values()) < self._first:
            raise OffsetGone(f"offsets before {self._first} are gone")
        self._from |= offsets

    def batches(self) -> Iterator[Sequence[Record]]:
        left = [r for r in self._records if r.offset >= self._from.get(r.partition, 0)]
        for start in range(0, len(left), self._batch):
            yield left[start : start + self._batch]

    def commit(self, batch: Sequence[Record]) -> None: ...

    def position(self) -> dict[int, int]:
        return {r.partition: self._from.get(r.partition, 0) for r in self._records}

    def pause(self, partitions: Iterable[int]) -> None: ...

    def resume(self, partitions: Iterable[int]) -> None: ...

    def close(self) -> None: ...
