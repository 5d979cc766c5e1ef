"""A Kafka broker as a careful site runs it: nothing but TLS, passwords or client certificates, and access rules."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from services import KafkaBroker, certificates

from stream.settings import KafkaSettings

WORKERS = ("ingest", "perceive", "match", "subscriber")
"""Users who may do nothing until a test lets them; ``nobody-yet`` never may."""
PASSWORD, KEY_PASSWORD = "right-password", "key-password"


@dataclass(frozen=True)
class SecureKafka:
    """Two listeners of one broker: SASL_SSL for users with passwords, SSL for holders of a client certificate."""

    broker: KafkaBroker
    authority: Path
    """PEM of who vouches for the broker."""
    client_certificate: Path
    client_key: Path
    """Encrypted with `KEY_PASSWORD`."""

    def as_user(self, user: str = "sightline", mechanism: str = "SCRAM-SHA-512", **more: object) -> KafkaSettings:
        """Settings of somebody with a password; ``sightline`` may do everything, PLAIN knows no other."""
        return KafkaSettings.model_validate(
            {
                "bootstrap_servers": self.broker.addresses["SASL_SSL"],
                "security_protocol": "SASL_SSL",
                "ssl_cafile": self.authority,
                "sasl_mechanism": mechanism,
                "sasl_username": user,
                "sasl_password": PASSWORD,
                "connect_timeout_s": 20,
                **more,
            }
        )

    def with_certificate(self, **more: object) -> KafkaSettings:
        """Settings of somebody with a certificate, who may do everything."""
        return KafkaSettings.model_validate(
            {
                "bootstrap_servers": self.broker.addresses["SSL"],
                "security_protocol": "SSL",
                "ssl_cafile": self.authority,
                "ssl_certfile": self.client_certificate,
                "ssl_keyfile": self.client_key,
                "ssl_password": KEY_PASSWORD,
                "connect_timeout_s": 20,
                **more,
            }
        )


@contextmanager
def secure_kafka(folder: Path) -> Iterator[SecureKafka]:
    """Start it, and end it."""
    authority, key = certificates(folder)
    client, plain_key = certificates(folder, "client")
    client_key = folder / "client.encrypted.key"
    _openssl("pkey", "-aes256", "-passout", f"pass:{KEY_PASSWORD}", "-in", plain_key, "-out", client_key)
    _openssl("pkcs8", "-topk8", "-nocrypt", "-in", key, "-out", folder / "pkcs8.key")
    shown, trusted = folder / "both.pem", folder / "trusted.pem"
    shown.write_text((folder / "pkcs8.key").read_text() + authority.read_text())
    trusted.write_text(authority.read_text() + client.read_text())
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    settings = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(shown),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(trusted),
        "listener.name.ssl.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": (
            "org.apache.kafka.common.security.plain.PlainLoginModule required username=broker "
            f"password=between-brokers user_broker=between-brokers user_sightline={PASSWORD};"
        ),
        "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": scram,
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": scram,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # the controller's listener, which no client knows of, names nobody
        "super.users": "User:broker;User:sightline;User:CN=client;User:ANONYMOUS",
    }
    users = dict.fromkeys(("sightline", "nobody-yet", *WORKERS), PASSWORD)
    broker = KafkaBroker(folder, settings, ("SASL_SSL", "SSL"), users)
    try:
        broker.start()
        yield SecureKafka(broker, authority, client, client_key)
    finally:
        broker.kill()


def _openssl(*arguments: str | Path) -> None:
    subprocess.run([shutil.which("openssl") or "openssl", *arguments], check=True, capture_output=True)
