"""Drawn training data, drawn once: worker processes write shards to the user's cache, training maps them into memory."""

import errno
import hashlib
import json
import os
import resource
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import platformdirs
from numpy.typing import NDArray

import ingest.synthetic
from stream.errors import DataError
from trainer.data import Pictures

Draw = Callable[[int], dict[str, NDArray[Any]]]
"""Shard number -> its rows, one array per name. A module's function (or a partial of one): it runs in another process."""
ShardReport = Callable[[int, int], None]
"""(shards there, shards wanted)."""

SMALL_BYTES = 1 << 20
"""Files up to this size are read at once: labels, boxes and joints, not pictures."""


class Rows:
    """Arrays one after the other, most of them memory maps, read by row numbers as if they were one."""

    def __init__(self, parts: Sequence[Pictures]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """(n,) row numbers -> (n, ...) copies."""
        part = np.searchsorted(self._starts, rows, side="right") - 1
        within = rows - self._starts[part]
        return np.concatenate([self._parts[p][within[i : i + 1]] for i, p in enumerate(part)])


def drawn(
    name: str, draw: Draw, shards: int, *, key: Mapping[str, object], workers: int, report: ShardReport
) -> dict[str, list[NDArray[Any]]]:
    """Per array name, one array per shard, a read-only memory map if it is large; what is not in the user's cache yet is drawn now.

    `key` and the drawing code's own text name the cache, so a changed drawing is drawn anew. A run that was cut short goes on with
    the shards it lacks. Raises `DataError` where they cannot be written, for want of space for instance, or not be held open together.
    """
    folder = _root() / f"{name}-{_digest(key)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be made ({error.strerror}): point SIGHTLINE_CACHE to a folder that can be written"
        ) from error
    missing = [shard for shard in range(shards) if not (folder / str(shard)).is_dir()]
    if workers == 1 or len(missing) == 1:  # a second process takes longer to start than a small shard to draw
        for done, shard in enumerate(missing, start=shards - len(missing) + 1):
            _write(folder, shard, draw)
            report(done, shards)
    elif missing:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(_write, folder, shard, draw) for shard in missing]
            for done, job in enumerate(as_completed(jobs), start=shards - len(missing) + 1):
                job.result()
                report(done, shards)
    names = sorted(path.stem for path in (folder / "0").glob("*.npy"))
    return _read({each: [folder / str(shard) / f"{each}.npy" for shard in range(shards)] for each in names})


def _root() -> Path:
    """Below $SIGHTLINE_CACHE, as the clips are, else the user's cache folder."""
    root = os.environ.get("SIGHTLINE_CACHE")
    return (Path(root) if root else platformdirs.user_cache_path("sightline")) / "training"


def _read(files: dict[str, list[Path]]) -> dict[str, list[NDArray[Any]]]:
    """See `drawn`. Every memory map holds a file open, and a process may usually hold 1024: the limit grows by as many."""
    large = {path for paths in files.values() for path in paths if path.stat().st_size > SMALL_BYTES}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, soft + len(large)), hard))
    try:
        return {
            name: [np.load(path, mmap_mode="r" if path in large else None) for path in paths]
            for name, paths in files.items()
        }
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise DataError(
            f"{len(large)} files of drawn pictures are held open together, and this process may hold {hard} of all kinds: raise the "
            "limit (ulimit -Hn), or ask for fewer people"
        ) from error


def _write(folder: Path, shard: int, draw: Draw) -> None:
    """One shard, whole or not at all."""
    part = folder / f"{shard}.{uuid4().hex}"  # not a process number: in containers they come again
    part.mkdir()
    try:
        for name, rows in draw(shard).items():
            np.save(part / f"{name}.npy", rows, allow_pickle=False)
        part.rename(folder / str(shard))
    except OSError as error:
        if not (folder / str(shard)).is_dir():  # else another run has drawn the same shard meanwhile
            raise DataError(
                f"{folder} cannot be written ({error.strerror or error}): free some space, or point SIGHTLINE_CACHE to a "
                "folder that has more; what was drawn so far is kept"
            ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _digest(key: Mapping[str, object]) -> str:
    """Of the settings and of the drawing code."""
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode())
    for source in sorted(Path(ingest.synthetic.__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
