"""How every Kafka client of ours is configured, and the one place where kafka-python's errors become ours."""

import contextlib
import importlib.util
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from kafka import errors as theirs
from kafka.net.compat import KafkaNetClient

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


def client_config(settings: KafkaSettings) -> dict[str, Any]:
    """What producers, consumers and admin clients have in common. Registers the passwords with the log's mask."""
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
        "ssl_check_hostname": settings.ssl_check_hostname,
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_username,
    }
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        path = getattr(settings, name)
        if path is not None:
            if not path.is_file():
                raise TransportError(f"[kafka] {name}: no such file: {path}")
            config[name] = str(path)
    for name, secret in (("ssl_password", settings.ssl_password), ("sasl_plain_password", settings.sasl_password)):
        if secret is not None:
            hide(secret.get_secret_value())
            config[name] = secret.get_secret_value()
    return config


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
        raise BrokerUnreachable(
            f"{what}: no Kafka broker answers at {servers} ({why}); check [kafka] bootstrap_servers, "
            f"security_protocol ({settings.security_protocol}) and that the broker runs"
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
    except (theirs.MessageSizeTooLargeError, theirs.RecordListTooLargeError):
        raise MessageTooLarge(f"{what}: larger than the broker takes; raise the topic's max.message.bytes") from None
    except theirs.KafkaError as error:
        raise TransportError(f"{what}: {type(error).__name__}: {str(error)[:300]}") from None
    except (OSError, ValueError) as error:  # TLS files that are none, a server name that cannot be resolved
        raise TransportError(f"{what}: {type(error).__name__}: {str(error)[:300]}") from None


def _refused(settings: KafkaSettings, what: str) -> TransportError:
    return TransportError(f"{what}: {settings.bootstrap_servers} refused [kafka] sasl_username or sasl_password")


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
