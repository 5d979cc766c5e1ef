"""The command line: ``sightline <verb>``. Every error becomes one line and an exit status here, and nowhere else.

Exit status: 0 done (a worker that was asked to stop, too), 1 failed, 2 wrong usage or settings, 3 another matcher took the
site over, 130 interrupted before the work was done.
"""

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from stream.errors import SightlineError

INTERRUPTED = 130
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What the machine lacks where a write fails: no mistake of ours."""
NOWHERE_TO_KEEP = "no locator available"
"""Numba's words where it can keep what it compiles neither beside its source nor in the user's cache folder."""
OUT_OF_MEMORY = "OutOfMemoryError"
"""Torch's name for a GPU whose memory is full: by name, for most commands never import torch."""

SERVING = ("demo", "run", "ingest", "perceive", "match", "bench")
"""Verbs whose stages are threads already: libraries' own threads below them burnt 1.66 times the processor by spinning."""

VERBS = {
    "Run": ("demo", "run", "ingest", "perceive", "match", "events"),
    "Look": ("doctor", "plan", "status", "bench"),
    "Models": ("adopt", "data", "methods", "train", "average", "evaluate", "export", "build"),
}
"""Every verb is the function, or the group of verbs, of its name in ``deploy/commands/<verb>.py``; panels as `--help` shows them."""


def app() -> typer.Typer:
    """All commands. Their modules are cheap to import."""
    cli = typer.Typer(
        name="sightline",
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    cli.callback(help="Links people across cameras, live. To see it: [bold]sightline demo[/bold]")(_options)
    for panel, verbs in VERBS.items():
        for verb in verbs:
            command = getattr(importlib.import_module(f"deploy.commands.{verb}"), verb)
            if isinstance(command, typer.Typer):  # a verb with verbs of its own
                cli.add_typer(command, name=verb, rich_help_panel=panel)
            else:
                cli.command(verb, rich_help_panel=panel)(command)
    return cli


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``sightline`` script: run one command and exit with its status."""
    signal.signal(signal.SIGTERM, _interrupt)  # workers set their own, which ends them with status 0
    if isinstance(sys.stdout, io.TextIOWrapper):  # it is None where it was closed
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 has no arrows
    try:
        Path.home()
    except RuntimeError:  # neither HOME nor an account: as container runtimes have it
        os.environ["HOME"] = "/"
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if given[0] in SERVING:  # before numpy is imported
        for library in ("OMP", "OPENBLAS", "MKL"):
            os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    try:
        status = status_of(given)
    except KeyboardInterrupt:  # while commands are still being imported
        _say("interrupted")
        status = INTERRUPTED
    sys.exit(status)


def status_of(arguments: list[str], commands: typer.Typer | None = None) -> int:
    """Run one command (of `app`, unless given); errors are said in one line on standard error. Returns the exit status."""
    from stream.telemetry import mask

    try:
        returned = (commands or app())(arguments, standalone_mode=False, prog_name="sightline")
    except SightlineError as error:
        _say(mask(str(error)))
        return error.exit_status
    except typer.TyperException as error:
        from deploy.settings import plainer

        _say(f'{plainer(error.format_message()).rstrip(".")}; see "{_help_command(error)}"')
        return error.exit_code
    except OSError as error:
        if error.errno not in NO_ROOM:
            return _our_mistake(error, arguments)
        where = error.filename or "standard output, or the disk of what was to be written"
        _say(f"{where}: {(error.strerror or 'cannot be written').lower()}: free some room, or name another place")
        return 1
    except Exception as error:
        if NOWHERE_TO_KEEP in str(error):
            _say("nothing can be drawn: point SIGHTLINE_CACHE and NUMBA_CACHE_DIR to folders that can be written")
            return 1
        if type(error).__name__ != OUT_OF_MEMORY:
            return _our_mistake(error, arguments)
        said = ". ".join(mask(str(error)).split(". ")[:3])  # what follows is torch's advice to programmers
        _say(f"{said}: end what else uses the GPU (nvidia-smi), or set CUDA_VISIBLE_DEVICES= to work on the processor")
        return 1
    if returned == INTERRUPTED:  # what Typer makes of a KeyboardInterrupt
        _say("interrupted")
    return returned if isinstance(returned, int) else 0


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sightline {version('sightline')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Options of the command line as a whole; each acts in its callback."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    """One line, whatever a library put into it."""
    typer.echo(f"sightline: {' '.join(text.split())}", err=True)


def _help_command(error: typer.TyperException) -> str:
    """Of the verb, or the verb within a verb, that was used wrongly."""
    context: typer.Context | None = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'sightline'} --help"


def _our_mistake(error: Exception, arguments: Sequence[str]) -> int:
    from stream.telemetry import mask

    log = _crash_log(mask(traceback.format_exc()), arguments)
    _say(f"unexpected {type(error).__name__}: {mask(str(error))}. This is a mistake of ours: please report it{log}")
    return 1


def _crash_log(text: str, arguments: Sequence[str]) -> str:
    """Write the traceback to a file of its own, in the log folder or where temporary files go; says where."""
    import platformdirs

    from stream.telemetry import mask

    whole = f"sightline {' '.join(mask(a) for a in arguments)}\nPython {sys.version}\n\n{text}"
    name = time.strftime("crash-%Y%m%d-%H%M%S.log")
    for folder in (platformdirs.user_log_path("sightline"), Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(whole, encoding="utf-8")
            return f" with {folder / name}"
    return " (its log could not be written anywhere)"
