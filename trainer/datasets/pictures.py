"""Pictures out of files, a batch at a time, decoded by a few threads; nothing stays in memory."""

import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from reid.crops import to_batch
from stream.cores import usable_cores
from stream.errors import DataError

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

ENDINGS = (".jpg", ".jpeg", ".png")
MAX_BYTES = 1 << 26
MAX_PIXELS = 1 << 25
"""33 megapixels; no data set of the field has pictures above 3. Checked in the header, before anything is unpacked."""
THREADS = 8


class Source(Protocol):
    """Pictures at their own sizes, by row."""

    @property
    def names(self) -> Sequence[str]:
        """Paths below the data set's root, / between folders."""
        ...

    def read(self, row: int) -> U8:
        """(h, w, 3) RGB; DataError when it cannot be decoded."""
        ...

    def size_hw(self, row: int) -> tuple[int, int]:
        """Height and width, without decoding."""
        ...


class Files:
    """JPEG and PNG files below a folder."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    def read(self, row: int) -> U8:
        """See `Source`."""
        path = self.root / self.names[row]
        return decode(read_bytes(path), str(path))

    def size_hw(self, row: int) -> tuple[int, int]:
        """See `Source`."""
        path = self.root / self.names[row]
        return header_hw(read_bytes(path), str(path))


class Resized:
    """A source as `Pictures` of one size: source[rows] -> (n, H, W, 3)."""

    def __init__(self, source: Source, size_hw: tuple[int, int]) -> None:
        self.source, self.size_hw = source, size_hw

    def __len__(self) -> int:
        return len(self.source.names)

    def __getitem__(self, rows: I64, /) -> U8:
        batch = np.empty((len(rows), *self.size_hw, 3), np.uint8)

        def fill(place: int) -> None:
            batch[place] = to_batch([self.source.read(int(rows[place]))], self.size_hw)[0]

        for _ in workers().map(fill, range(len(rows))):  # asking for the results raises what went wrong
            pass
        return batch


class AsTheyAre:
    """A source as `Pictures` of several sizes: source[rows] -> a list of n (h, w, 3)."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source.names)

    def __getitem__(self, rows: I64, /) -> list[U8]:
        return list(workers().map(self.source.read, [int(row) for row in rows]))


@lru_cache(maxsize=1)
def workers() -> ThreadPoolExecutor:
    """The threads that decode; the codecs let go of the interpreter while they work."""
    return ThreadPoolExecutor(min(THREADS, usable_cores()), "decode")


def read_bytes(path: Path) -> bytes:
    """A picture file as it is; DataError when it is missing or too large to be one."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{path}: {size} bytes, a picture has at most {MAX_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): copy the data set again") from error


def header_hw(packed: bytes, where: str) -> tuple[int, int]:
    """Height and width as the file's header says; DataError above `MAX_PIXELS` and for what is neither JPEG nor PNG."""
    try:
        if packed[:8] == b"\x89PNG\r\n\x1a\n":
            width, height = struct.unpack(">II", packed[16:24])
        else:
            height, width, _, _ = simplejpeg.decode_jpeg_header(packed, strict=False)
    except (ValueError, KeyError, struct.error) as error:  # KeyError: simplejpeg's, for a header that is cut off
        raise DataError(f"{where} is neither JPEG nor PNG: remove it or copy the data set again") from error
    if height * width > MAX_PIXELS:
        raise DataError(f"{where}: {width}x{height} pixels, at most {MAX_PIXELS} are unpacked")
    return int(height), int(width)


def decode(packed: bytes, where: str) -> U8:
    """JPEG or PNG bytes -> (h, w, 3) uint8 RGB. A file that ends early is refused; rubbish after its end is not."""
    header_hw(packed, where)
    image = None
    if packed[:4] == b"\x89PNG":
        image = cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    else:
        try:
            image = simplejpeg.decode_jpeg(packed, "RGB")
        except ValueError as error:  # simplejpeg's strict mode stops at libjpeg's warnings too
            if "premature" not in str(error).lower():
                image = _lenient(packed)
    if image is None:
        raise DataError(f"{where} cannot be decoded: remove it or copy the data set again")
    return np.asarray(image, np.uint8)


def _lenient(packed: bytes) -> U8 | None:
    try:
        return np.asarray(simplejpeg.decode_jpeg(packed, "RGB", strict=False), np.uint8)
    except ValueError:
        return None
