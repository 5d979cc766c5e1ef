"""Fixtures for all tests: real services, started once when first asked for, and the real clip and models."""

import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# importlib mode adds no folder of its own; helpers stand beside this file
sys.path.append(str(Path(__file__).parent))

from clips import write_clip
from rtsp_server import RtspServer
from secure_kafka import SecureKafka, secure_kafka
from services import KafkaBroker, RedisServer, certificates, free_port, unavailable, valkey_binary


def pytest_configure(config: pytest.Config) -> None:
    """What holds for all tests."""
    # kafka-python 3.0 reads its schemas with calls that Python 3.11 and 3.12 deprecate and 3.13 takes back
    config.addinivalue_line("filterwarnings", "ignore:(read|open)_text is deprecated:DeprecationWarning")
    # a shell has what it starts in the background ignore Ctrl-C, as all of it would that tests start, and go on after `make test` ended
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # one runtime for all tests but those of the choice: it takes seconds per model, and events differ with it in the last digits
    os.environ["SIGHTLINE_COMPUTE__BACKEND"] = "onnxruntime"
    # as `setup_logging` does; captured records would hold the sockets of refused connections until the session ends
    logging.getLogger("kafka").setLevel(logging.CRITICAL + 1)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tests that train: two threads of torch spin against each other on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def refused_connections() -> Iterator[None]:
    """For tests whose connections are refused: kafka-python leaves such sockets to the garbage collector."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed <", ResourceWarning)
        yield
        gc.collect()


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """The broker behind `kafka_server`, for tests that look at its process. Tests that kill one start their own."""
    broker = KafkaBroker(tmp_path_factory.mktemp("kafka"))
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


@pytest.fixture(scope="session")
def kafka_server(kafka_broker: KafkaBroker) -> str:
    """``127.0.0.1:port`` of a Kafka broker shared by all tests: use topic names of your own."""
    return kafka_broker.address


@pytest.fixture(scope="session")
def secure_kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """A Kafka with TLS, passwords, client certificates and access rules, shared by all tests."""
    with secure_kafka(tmp_path_factory.mktemp("secure-kafka")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Valkey shared by all tests, with appendfsync always: use a prefix of your own."""
    server = RedisServer(valkey_binary(), tmp_path_factory.mktemp("valkey"))
    try:
        server.start()
        yield server.url
    finally:
        server.kill()


@dataclass(frozen=True)
class SecureRedis:
    """Debian's Redis with TLS, a password, and a user who may do nothing."""

    url: str
    """``rediss://`` with the right password."""
    wrong_password_url: str
    powerless_url: str
    ca_file: Path


@pytest.fixture(scope="session")
def redis_tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureRedis]:
    """A Redis that speaks TLS only and knows access rules."""
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    certificate, key = certificates(folder)
    settings = [
        "port 0",
        f"tls-port {port}",
        f"tls-cert-file {certificate}",
        f"tls-key-file {key}",
        "tls-auth-clients no",
        "user default off",
        "user sightline on >right-password ~* &* +@all",
        "user powerless on >right-password ~nothing:* &* +ping",
    ]
    server = RedisServer(_debian_redis(), folder, settings, port)
    try:
        server.start()
        host, query = f"127.0.0.1:{port}/0", f"?ssl_ca_certs={certificate}"
        yield SecureRedis(
            url=f"rediss://sightline:right-password@{host}{query}",
            wrong_password_url=f"rediss://sightline:wrong-password@{host}{query}",
            powerless_url=f"rediss://powerless:right-password@{host}{query}",
            ca_file=certificate,
        )
    finally:
        server.kill()


@pytest.fixture(scope="session")
def rtsp_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What RTSP servers play: two seconds of numbered pictures, 25 per second."""
    return write_clip(tmp_path_factory.mktemp("rtsp") / "clip.h264", container="h264")


@pytest.fixture(scope="session")
def rtsp_server(rtsp_clip: Path) -> Iterator[RtspServer]:
    """An RTSP camera shared by all tests. Those that cut or freeze one start their own: `RtspServer(rtsp_clip, 25)`."""
    server = RtspServer(rtsp_clip, fps=25)
    try:
        server.start()
    except (RuntimeError, OSError) as error:
        unavailable(str(error))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def assets() -> Path:
    """The real clip and the public models that are not in the repository."""
    folder = os.environ.get("SIGHTLINE_ASSETS")
    if not folder:
        pytest.skip("set SIGHTLINE_ASSETS to the folder with the real clip and models")
    return Path(folder)


def _debian_redis() -> Path:
    binary = shutil.which("redis-server")
    if binary is None and os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "redis-server"]
        subprocess.run(command, capture_output=True, timeout=300, check=False)
        binary = shutil.which("redis-server")
    if binary is None:
        unavailable("TLS and access rules are tested on Debian's server: apt-get install redis-server")
    return Path(binary)
