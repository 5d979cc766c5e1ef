"""How every Kafka client of ours is configured, and the one place where kafka-python's errors become ours."""

import contextlib
import importlib.util
import logging
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from kafka import errors as theirs
from kafka.net.compat import KafkaNetClient
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

from stream.errors import BrokerUnreachable, MessageTooLarge, OffsetGone, TransportError
from stream.settings import KafkaSettings
from stream.telemetry import hide

C = TypeVar("C")

REQUEST_TIMEOUT_S = 5.0
BOOTSTRAP_TIMEOUT_S = 2.0
MAX_RECORD_BYTES = 900_000
"""Largest message that is written; with its batch it fits the 1 MiB that brokers take by default."""
MAX_BATCH_BYTES = 1 << 20


class _LastFailure(logging.Filter):
    """Why a connection failed: kafka-python says so in its log alone, its errors know only that time ran out."""

    kind, text = "", ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the words, not the exception, which would hold the connection; and nothing of it reaches the log."""
        error = next((a for a in record.args or () if isinstance(a, Exception)), None)
        if error is not None and record.msg.startswith("Bootstrap connection"):
            kind, text = type(error).__name__, " ".join(str(error).split())[:200]
            if not self.kind or "Sasl" in kind or "SSL" in text:  # the last try of all is cut short: it says nothing
                self.kind, self.text = kind, text
        return False

    def forget(self) -> None:
        """A new client begins."""
        self.kind = self.text = ""


_last_failure = _LastFailure()
_connections = logging.getLogger("kafka.net.manager")
_connections.addFilter(_last_failure)
_connections.setLevel(logging.WARNING)


def _keep_what_came_with_the_end(transport: Any) -> None:
    """kafka-python 3.0.12 throws away what it reads together with the end of a connection: on a busy machine that is the broker's
    answer that the password is wrong. Here the end is left for the next read, which finds it again."""
    read = transport._sock_recv

    def sock_recv(self: Any) -> tuple[bytes, Exception | None]:
        data, error = read(self)
        return data, None if data else error

    transport._sock_recv = sock_recv


_keep_what_came_with_the_end(KafkaTCPTransport)
_keep_what_came_with_the_end(KafkaSSLTransport)


def client_config(settings: KafkaSettings) -> dict[str, Any]:
    """What producers, consumers and admin clients have in common. Registers the passwords with the log's mask.

    Raises `TransportError` for certificates and keys that cannot be used.
    """
    if importlib.util.find_spec("crc32c") is None:
        raise TransportError(
            "the crc32c package is missing, without it Kafka takes 34 times the CPU: pip install crc32c"
        )
    config: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers.split(","),
        "client_id": "sightline",
        "request_timeout_ms": int(REQUEST_TIMEOUT_S * 1000),
        "bootstrap_timeout_ms": int(BOOTSTRAP_TIMEOUT_S * 1000),
        "reconnect_backoff_max_ms": 1000,  # kafka-python's default of 30 s is how long it would miss a returned broker
        "metadata_max_age_ms": 5000,  # new topics, partitions and leaders are seen within this
        "security_protocol": settings.security_protocol,
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_username,
    }
    if settings.security_protocol.endswith("SSL"):
        config["ssl_context"] = _tls(settings)
    if settings.sasl_password is not None:
        config["sasl_plain_password"] = settings.sasl_password.get_secret_value()
        hide(config["sasl_plain_password"])
    return config


def _tls(settings: KafkaSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = settings.ssl_check_hostname
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        path = getattr(settings, name)
        if path is not None and not path.is_file():
            raise TransportError(f"[kafka] {name}: no such file: {path}")
    try:
        if settings.ssl_cafile is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(settings.ssl_cafile)
    except OSError as error:  # SSLError is one
        raise TransportError(f"[kafka] ssl_cafile: {settings.ssl_cafile} cannot be used ({error}); give PEM") from None
    if settings.ssl_certfile is None:
        return context
    # never None: Python would ask for the password on the terminal
    password = settings.ssl_password.get_secret_value() if settings.ssl_password else ""
    hide(password)
    try:
        context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password)
    except OSError as error:
        raise TransportError(
            f"[kafka] ssl_certfile {settings.ssl_certfile} with ssl_keyfile {settings.ssl_keyfile} cannot be used ({error}): "
            "give PEM files that go together, and the key's ssl_password where it has one"
        ) from None
    return context


def build(kind: Callable[..., C], config: dict[str, Any]) -> C:
    """Make a producer, consumer or admin client. One that finds no broker leaves its thread behind: it is closed here."""
    made: list[KafkaNetClient] = []
    _last_failure.forget()

    def network(**options: Any) -> KafkaNetClient:
        made.append(KafkaNetClient(**options))
        return made[-1]

    try:
        return kind(**config, kafka_client=network)
    except BaseException:
        for client in made:
            client.close()
            client._net.stop(timeout_ms=1000)
        raise


@contextlib.contextmanager
def kafka_errors(settings: KafkaSettings, what: str) -> Iterator[None]:
    """Raise ours for kafka-python's, with `what` in front: a topic, or what was attempted."""
    servers = settings.bootstrap_servers
    try:
        yield
    except theirs.UnknownTopicOrPartitionError:
        raise TransportError(f"{what}: no such topic or partition at {servers}") from None
    except theirs.RetriableError as error:
        if "Sasl" in _last_failure.kind:
            raise _refused(settings, what) from None
        why = _last_failure.text or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in why:
            raise TransportError(
                f"{what}: the certificate of {servers} is not vouched for ({why}); check [kafka] ssl_cafile and the name"
            ) from None
        if "_ALERT_" in why and "CERTIFICATE" in why:
            raise TransportError(
                f"{what}: {servers} refused this client's certificate ({why}); check [kafka] ssl_certfile and that the "
                "brokers trust who signed it"
            ) from None
        raise BrokerUnreachable(
            f"{what}: no Kafka broker answers at {servers} ({why}); check the address ([kafka] "
            f"bootstrap_servers in a site file), security_protocol ({settings.security_protocol}) and that the broker runs"
        ) from None
    except theirs.SaslAuthenticationFailedError:
        raise _refused(settings, what) from None
    except theirs.AuthorizationError as error:
        user = f'user "{settings.sasl_username}"' if settings.sasl_username else "this client"
        raise TransportError(
            f"{what}: {user} is not allowed to ({type(error).__name__}); docs/kafka.md lists the access rules"
        ) from None
    except theirs.OffsetOutOfRangeError as error:
        raise OffsetGone(f"{what}: {error}") from None
    except theirs.LogTruncationError:
        raise OffsetGone(
            f"{what}: the brokers no longer hold what was read (the topic was deleted and made again, or an outdated copy of "
            "it took over): start again"
        ) from None
    except (theirs.MessageSizeTooLargeError, theirs.RecordListTooLargeError):
        raise MessageTooLarge(f"{what}: larger than the broker takes; raise the topic's max.message.bytes") from None
    except theirs.KafkaError as error:
        raise TransportError(f"{what}: {type(error).__name__}: {str(error)[:300]}") from None
    except (OSError, ValueError) as error:  # TLS files that are none, a server name that cannot be resolved
        raise TransportError(f"{what}: {type(error).__name__}: {str(error)[:300]}") from None


def _refused(settings: KafkaSettings, what: str) -> TransportError:
    return TransportError(
        f"{what}: {settings.bootstrap_servers} refused [kafka] sasl_username or sasl_password ({settings.sasl_mechanism})"
    )


def connect(
    settings: KafkaSettings, what: str, attempt: Callable[[], C], stopped: Callable[[], bool] = lambda: False
) -> C:
    """Do what needs a broker, trying for `settings.connect_timeout_s`; each try is bounded. Raises `BrokerUnreachable` after that."""
    deadline = time.monotonic() + settings.connect_timeout_s
    while True:
        try:
            with kafka_errors(settings, what):
                return attempt()
        except BrokerUnreachable:
            if time.monotonic() > deadline or stopped():
                raise
            time.sleep(0.2)
