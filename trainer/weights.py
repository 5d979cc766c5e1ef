"""Weights that somebody else trained: torchvision's, or a file the user names. Nothing in a file is executed.

What does not fit is left out and named, so a classifier for other people does no harm; if nothing fits, that is an error.
"""

import contextlib
import pickle
import socket
import sys
import urllib.error
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stream.errors import DataError
from trainer.checkpoint import UNREADABLE, altered_part, file_of

IMAGENET = "imagenet"
REMEDY = "or train with --from-scratch"
TIMEOUT_S = 30.0
"""Without an answer from the server for so long, a download is given up."""
WITHIN = ("state_dict", "model", "network")
"""Under which of these keys checkpoints of common programs, and ours, keep the weights."""
NUMBERS: list[Any] = [  # a checkpoint of torchreid's keeps its rank-1 as a numpy number
    *((np._core.multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # type: ignore[attr-defined]
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64)),
]
"""What may stand in a file beside tensors and plain values."""


@dataclass(frozen=True, slots=True)
class Matched:
    """What became of the entries of a file of weights, by name."""

    matched: tuple[str, ...]
    """The module's entries that were filled."""
    skipped: tuple[str, ...]
    """The file's entries that the module lacks or has in another shape."""
    missing: tuple[str, ...]
    """The module's entries that the file could not fill: they keep their values."""

    def __str__(self) -> str:
        return (
            f"{len(self.matched)} matched{_named('skipped', self.skipped)}{_named('left as they were', self.missing)}"
        )


def _named(what: str, names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"; {len(names)} {what} ({shown})" if names else ""


def pretrained(
    source: str,
    module: nn.Module,
    *,
    imagenet: Any = None,
    rename: Callable[[str], str] = lambda name: name,
) -> Matched:
    """Fill `module` with weights and say which.

    `source` is ``imagenet`` for torchvision's (`imagenet`, a member of one of its weight enums, downloaded once and checked against
    its hash), else the path of a file that `torch.save` wrote: a state dict, or a checkpoint that holds one. A leading "module." is
    stripped from each name, then `rename` translates it to the module's.
    """
    if source != IMAGENET:
        found = read(Path(source))
    elif imagenet is not None:
        found = download(imagenet)
    else:
        raise DataError(
            f"weights = {IMAGENET!r}: torchvision has none for this network: name a file of weights with weights = PATH {REMEDY}"
        )
    named = {rename(name.removeprefix("module.")): value for name, value in found.items()}
    wanted = module.state_dict()
    fits = {n: v for n, v in named.items() if n in wanted and isinstance(v, Tensor) and v.shape == wanted[n].shape}
    skipped = tuple(name for name in named if name not in fits)
    if not fits:
        raise DataError(
            f"{source}: none of its {len(named)} entries fits the network (its first: {next(iter(named), 'none')}; wanted: "
            f"{next(iter(wanted), 'none')}): name weights of this very network {REMEDY}"
        )
    module.load_state_dict(fits, strict=False)
    return Matched(tuple(fits), skipped, tuple(name for name in wanted if name not in fits))


def read(path: Path) -> Mapping[str, Any]:
    """The state dict in a file of `torch.save`, by `file_of`. Raises `DataError` where there is none."""
    path = file_of(path)
    if path.is_dir():
        raise DataError(
            f"weights = {str(path)!r} is a folder without a checkpoint.pt: name a file, {IMAGENET!r} for torchvision's, {REMEDY}"
        )
    if not path.is_file():
        raise DataError(
            f"weights = {str(path)!r}: there is no such file: name one, {IMAGENET!r} for torchvision's, {REMEDY}"
        )
    try:
        # files of before torch 1.6 have no checksums
        altered = altered_part(path) if zipfile.is_zipfile(path) else None
        if altered is not None:
            raise DataError(f"{path} is damaged: {altered} in it does not have its checksum; fetch the file again")
        with torch.serialization.safe_globals(NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise DataError(
            f"{path} is damaged, or holds more than tensors and numbers and is therefore not read ({type(error).__name__}): "
            "save its state dict alone with torch.save"
        ) from error
    for key in WITHIN:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise DataError(f"{path} holds a {type(content).__name__}, expected a state dict: names and tensors")
    return content


def download(imagenet: Any) -> Mapping[str, Any]:
    """Out of torch's cache, else from the network; what arrives must have the hash in its name."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)  # torch's downloader sets none and would wait for ever
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints the address; standard output may be somebody's JSON
            content: Mapping[str, Any] = imagenet.get_state_dict(
                progress=sys.stderr.isatty(), check_hash=True, weights_only=True, map_location="cpu"
            )
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"{imagenet.url} cannot be downloaded ({reason}): put that file into {torch.hub.get_dir()}/checkpoints, "
            f"name another with weights = PATH, {REMEDY}"
        ) from error
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{imagenet.url} arrived damaged, or its copy in {torch.hub.get_dir()}/checkpoints is: delete the copy and try again"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return content
