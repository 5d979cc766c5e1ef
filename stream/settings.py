"""What every section of a settings file is: frozen, strict, and checked when it is read; and the sections read in here."""

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)


class Section(BaseModel):
    """A table of the settings file. Unknown keys are refused; the reader of a section declares it beside itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, field: ValidationInfo) -> Any:
        if isinstance(value, bool):
            kind = cls.model_fields[field.field_name or ""].annotation
            parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
            plain = [getattr(part, "__origin__", part) for part in parts]  # of an Annotated one what it annotates
            if int in plain or float in plain:
                raise ValueError("expected a number")
        return value


Servers = Annotated[
    str,
    StringConstraints(
        pattern=r"^(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}(,(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5})*$"
    ),
]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


class KafkaSettings(Section):
    """``[kafka]``: how to reach the brokers. TLS and SASL pass through as docs/kafka.md shows."""

    bootstrap_servers: Servers
    """``host:port``, or several with commas between them."""
    prefix: str = Field("sightline.", pattern=r"^[A-Za-z0-9_.-]{0,100}$")
    """In front of every topic and group: what access rules are written for."""
    replication: int = Field(-1, ge=-1, le=9)
    """Copies of each topic made here; -1: as the cluster has it by default."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ssl_cafile: Path | None = None
    """PEM file of who signed the brokers' certificates; None: the system's own list."""
    ssl_certfile: Path | None = None
    """Client certificate, PEM, where the brokers ask for one."""
    ssl_keyfile: Path | None = None
    ssl_password: SecretStr | None = None
    """Of `ssl_keyfile`."""
    ssl_check_hostname: bool = True
    sasl_mechanism: SaslMechanism | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    connect_timeout_s: float = Field(30, gt=0, le=600)
    """A worker that has never reached a broker ends after this long; one that has goes on trying for ever."""
    delivery_timeout_s: float = Field(10, ge=1, le=120)
    """A message that is not acknowledged by then has failed, and is tried again or shed."""
    buffer_mib: int = Field(64, ge=2, le=4096)
    """Bytes that wait for the broker in one worker, at most; then files wait and live cameras lose their oldest frames."""

    @model_validator(mode="after")
    def _security_is_complete(self) -> Self:
        sasl = self.security_protocol.startswith("SASL")
        given = [self.sasl_mechanism, self.sasl_username, self.sasl_password]
        if sasl and None in given:
            raise ValueError(
                f"security_protocol {self.security_protocol} needs sasl_mechanism, sasl_username, sasl_password"
            )
        if not sasl and given != [None, None, None]:
            raise ValueError(f"sasl_* is set but security_protocol is {self.security_protocol}: use SASL_SSL")
        ssl = self.security_protocol.endswith("SSL")
        if not ssl and (self.ssl_cafile or self.ssl_certfile or self.ssl_keyfile or self.ssl_password):
            raise ValueError(f"ssl_* is set but security_protocol is {self.security_protocol}: use SSL or SASL_SSL")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile and ssl_keyfile go together")
        return self


class RedisSettings(Section):
    """``[redis]``: the gallery's server."""

    url: str = Field(pattern=r"^(rediss?|unix)://", repr=False)
    """``redis://user:password@host:port/db``; ``rediss://`` for TLS, with ``?ssl_ca_certs=FILE`` for an authority of your own."""

    @field_validator("url")
    @classmethod
    def _with_a_port(cls, url: str) -> str:
        try:
            _ = urlsplit(url).port
        except ValueError:  # whose words may hold half a password
            raise ValueError(
                "no number stands where the port is: write @ : / ? # % in a password as %40 %3A %2F %3F %23 %25"
            ) from None
        return url


class TelemetrySettings(Section):
    """``[telemetry]``: the log and the metrics endpoint."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = False
    """One JSON object per line instead of text."""
    metrics_port: int | None = Field(None, ge=0, le=65535)
    """Serve Prometheus metrics there; 0 takes a free port, None serves none."""
    metrics_host: str = "127.0.0.1"
    """Who may ask: this machine alone unless told otherwise."""
