"""What commands say: to people on a terminal, and to programs through ``--json``."""

import errno
import os
import sys
import tempfile
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec
import typer
from rich.console import Console

from stream.errors import UsageError

SitePath = Annotated[Path, typer.Argument(metavar="SITE.toml", help="Settings file of the site.", show_default=False)]
JsonPath = Annotated[
    Path | None,
    typer.Option("--json", metavar="PATH", help="Also write what is printed as data; - is standard output."),
]
Thresholds = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="A threshold that sites get unless they state it: high_score, new_score, low_score, nms_iou, false_links; may be repeated.",
    ),
]
StatePath = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        help="Folder of the embedded gallery and the site key. Default: your state folder, by site name.",
    ),
]

STDOUT = Path("-")


class _Console(Console):
    @property
    def is_terminal(self) -> bool:
        """Whether lines can be drawn over: not on a dumb terminal, which gets plain ones."""
        return super().is_terminal and self._environ.get("TERM", "").lower() not in ("dumb", "unknown")

    def on_broken_pipe(self) -> None:
        """Whoever read us has had enough, as `head` has: no failure."""
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(0) from None


class Output:
    """A command's report: `console` for people, `data` for programs. With ``--json -`` people read standard error."""

    def __init__(self, json_path: Path | None, *, stderr: bool = False) -> None:
        """Raises `UsageError` at once, not after an hour's work, when `json_path` cannot be written.

        `stderr`: standard output is taken by something else.
        """
        self.json_path = json_path
        self.console = _Console(stderr=stderr or json_path == STDOUT, soft_wrap=True, highlight=False, markup=False)
        if json_path is not None and json_path != STDOUT:
            check_writable("--json", json_path)

    def data(self, value: Any) -> None:
        """Write `value` as JSON, indented, where ``--json`` says; nothing without it."""
        if self.json_path is None:
            return
        text = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
        if self.json_path == STDOUT:
            written(sys.stdout.buffer, text)
        else:
            self.json_path.write_bytes(text)


def written(file: IO[bytes], data: bytes) -> bool:
    """Write at once; False where whoever read `file`, standard output, has had enough, as `head` has."""
    try:
        file.write(data)
        file.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # for what Python still flushes at its end
        return False
    return True


def check_writable(option: str, path: Path) -> None:
    """Raise `UsageError` unless `path` is a file that can be written, or can become one.

    Nothing is changed, and several processes may ask at once, as those of one training do.
    """
    try:
        if path.is_dir():
            raise UsageError(f"{option} {path}: is a folder; give a file's name")
        if not path.parent.is_dir():
            raise UsageError(f"{option} {path}: the folder {path.parent} does not exist; make it first")
        if _is_new(path):  # only opening tells: by the folder's mode, root might write in /proc
            with tempfile.TemporaryFile(dir=path.resolve().parent):
                pass
        elif path.is_file():
            path.open("ab").close()
        elif not os.access(path, os.W_OK):  # a device or a pipe, which opening would make wait for its reader
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        reason = (error.strerror or "it cannot be opened").lower()
        raise UsageError(f"{option} {path}: cannot be written: {reason}; give another file") from None


def _is_new(path: Path) -> bool:
    """Whether nothing is there yet; raises `OSError` for a name that no file can have."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    return False


def check_picture(option: str, path: Path) -> None:
    """Raise `UsageError` unless `path` ends in .png and is a file that can be written, or can become one."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"{option} {path}: a PNG is drawn there; give a name that ends in .png")
    check_writable(option, path)


def named_path(text: str) -> Path:
    """A path out of an option's text; "" is refused, which `Path` takes for the folder one is in."""
    if not text:
        raise typer.BadParameter("it is empty; . is the folder you are in")
    return Path(text)


def check_folder(option: str, path: Path, mode: int = 0o777) -> None:
    """Make the folder `path`, with `mode` where it is missing. Raises `UsageError` unless it is one that may be written."""
    try:
        path.mkdir(mode, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be made: {error.strerror}; give another folder") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {path}: may not be written; give another folder")
