"""The one place that talks about Redis's own errors: connecting, and what goes wrong in our words."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from stream.errors import GalleryError, GalleryRefused, GalleryUnreachable, SettingsError
from stream.telemetry import hide_url, mask

CONNECT_S = 3.0
ANSWER_S = 5.0


def connect(url: str) -> Any:
    """A `redis.Redis` that answers in bytes, for ``redis://``, ``rediss://`` or ``unix://``; sends nothing before it is used.

    Untyped, for redis-py's own types cannot tell bytes from strings.
    """
    hide_url(url)
    at = urlsplit(url)
    if at.scheme != "unix" and not re.fullmatch(r"/?[0-9]*", at.path):  # redis-py would take database 0
        raise SettingsError(f"[redis] url {shown(url)}: expected the number of a database behind the host, as in /0")
    try:
        client = redis.Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_S,
            socket_timeout=ANSWER_S,
            retry=Retry(NoBackoff(), 1),  # a pooled connection may have gone stale; longer waits are the caller's
            health_check_interval=30,
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # connects to nothing, and takes no query that it does not know
    except TypeError:
        raise SettingsError(
            f"[redis] url {shown(url)}: its query ?{'&'.join(parse_qs(at.query))} is not understood: for TLS write rediss:// "
            "and ?ssl_ca_certs=FILE, for a client certificate ssl_certfile and ssl_keyfile too"
        ) from None
    except (ValueError, redis.RedisError):  # whose words may hold half a password
        raise SettingsError(
            f"[redis] url {shown(url)}: expected redis://user:password@host:port/db, with @ : / % in a password "
            "percent-encoded (@ is %40)"
        ) from None
    return client


def shown(url: str) -> str:
    """The address without its password and parameters."""
    return mask(url.partition("?")[0])


@contextlib.contextmanager
def redis_errors(url: str) -> Iterator[None]:
    """Everything that redis-py raises, as one of ours, in one line and without secrets."""
    where = shown(url)
    try:
        yield
    except redis.AuthenticationError:
        raise GalleryRefused(
            f"Redis at {where} refuses the user or password: check [redis] url (redis://user:password@host:port/db)"
        ) from None
    except redis.exceptions.NoPermissionError as error:
        raise _forbidden(where, str(error)) from None
    except redis.exceptions.ConnectionError as error:
        raise GalleryUnreachable(_unreachable(where, error)) from None
    except redis.TimeoutError:
        raise GalleryUnreachable(f"Redis at {where} did not answer within {ANSWER_S:g} s") from None
    except redis.exceptions.OutOfMemoryError:
        raise _full(where) from None
    except redis.exceptions.MovedError as error:
        raise GalleryError(
            f"Redis at {where} is a node of a cluster that keeps this site elsewhere: name {error.host}:{error.port} in [redis] url"
        ) from None
    except redis.ReadOnlyError:
        raise _replica(where) from None
    except redis.RedisError as error:
        raise _refused(where, str(error)) from None
    except OSError as error:  # certificates that cannot be read
        raise GalleryUnreachable(_unreachable(where, error)) from None


def _unreachable(where: str, error: Exception) -> str:
    return f"no Redis answers at {where} ({mask(str(error)).rstrip('.')}): start it, or correct [redis] url"


def _full(where: str) -> GalleryUnreachable:
    return GalleryUnreachable(f"Redis at {where} is full: raise its maxmemory; the matcher waits, and loses nothing")


def _replica(where: str) -> GalleryUnreachable:
    return GalleryUnreachable(f"Redis at {where} is a replica: name the primary in [redis] url")


def _forbidden(where: str, text: str) -> GalleryRefused:
    return GalleryRefused(
        f"Redis at {where} forbids the user what the gallery needs: {mask(text)}; "
        f"grant it ~sightline:* and +@read +@write +@scripting +@connection"
    )


def _refused(where: str, text: str) -> GalleryError:
    in_script = re.search(r": -([A-Z]+) ", text)  # where Redis 6 has what it says of a script's command
    word = in_script[1] if in_script else text.split(" ", 1)[0]
    if word == "OOM":
        return _full(where)
    if word == "READONLY":
        return _replica(where)
    if word in ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY"):
        return GalleryUnreachable(f"Redis at {where} is not ready: {mask(text)}")
    if word in ("NOAUTH", "WRONGPASS"):
        return GalleryRefused(
            f"Redis at {where} wants a password: put it into [redis] url (redis://user:password@host)"
        )
    if word == "NOPERM" or "NOPERM" in text or "ACL failure" in text:
        return GalleryRefused(
            f"Redis at {where} forbids the user what the gallery needs: {mask(text)}; "
            f"grant it ~sightline:* and +@read +@write +@scripting +@connection"
        )
    if word == "MISCONF":
        return GalleryUnreachable(f"Redis at {where} cannot write its disk: {mask(text)}")
    return GalleryError(f"Redis at {where} refused a command of the gallery: {mask(text)}")


def durability(client: Any, url: str) -> list[str]:
    """What the server's settings cost the promises, one line each; empty when nothing."""
    where = shown(url)
    try:
        with redis_errors(url):
            found = {
                key: client.config_get(key).get(key, "") for key in ("appendonly", "appendfsync", "maxmemory-policy")
            }
    except GalleryUnreachable:
        raise
    except GalleryError:  # no right to CONFIG, or no such command: hosted services take it away
        return [f"Redis at {where} does not show its settings: see to appendonly yes, appendfsync always, noeviction"]
    said = {key: value.decode() if isinstance(value, bytes) else str(value) for key, value in found.items()}
    lines = []
    if said["appendonly"] != "yes":
        lines.append(f"Redis at {where} has appendonly {said['appendonly']}: events since its last snapshot go with it")
    elif said["appendfsync"] != "always":
        lines.append(
            f"Redis at {where} has appendfsync {said['appendfsync']}: when its machine dies, up to 1 s of events may be "
            f"lost, and numbers given twice; appendfsync always costs 4 ms a commit"
        )
    if said["maxmemory-policy"] != "noeviction":
        lines.append(
            f"Redis at {where} has maxmemory-policy {said['maxmemory-policy']}: under memory pressure it forgets people "
            f"and events; set noeviction"
        )
    return lines
