"""Who may use a Redis, at which address, over TLS or not, and what its settings cost: each said in one line."""

import secrets

import pytest
import redis
from services import RedisServer, free_port, valkey_binary

from matcher.redis_client import connect, redis_errors, shown
from matcher.redis_gallery import RedisGallery
from stream.errors import GalleryRefused, GalleryUnreachable, SettingsError

from .steps import SECOND, a_step


@pytest.mark.parametrize(
    ("which", "error", "says"),
    [
        pytest.param("wrong_password_url", GalleryRefused, "refuses the user or password", id="wrong password"),
        pytest.param("powerless_url", GalleryRefused, "forbids the user", id="no permission"),
    ],
)
def test_access_denied_is_one_line_without_the_password(redis_tls_server, which, error, says):
    url = getattr(redis_tls_server, which)
    gallery = RedisGallery(url, "s", model="m", retention_ns=SECOND, live=True)
    with pytest.raises(error, match=says) as caught:
        gallery.acquire()
    assert "-password" not in str(caught.value)
    assert "\n" not in str(caught.value)
    gallery.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(lambda url: url.partition("?")[0], "certificate verify failed", id="nobody vouches for it"),
        pytest.param(
            lambda url: f"{url.partition('?')[0]}?ssl_ca_certs=/nowhere.pem", "No such file", id="no such file"
        ),
        pytest.param(
            lambda url: url.partition("?")[0].replace("rediss", "redis"), "", id="no TLS where it is asked for"
        ),
    ],
)
def test_tls_that_does_not_come_about_is_one_line_without_the_password(redis_tls_server, change, says):
    gallery = RedisGallery(change(redis_tls_server.url), "s", model="m", retention_ns=SECOND, live=True)
    with pytest.raises(
        GalleryUnreachable, match=f"no Redis answers at redis.*{says}.*correct \\[redis\\] url"
    ) as caught:
        gallery.acquire()
    assert "-password" not in str(caught.value)
    assert "\n" not in str(caught.value)
    gallery.close()


def test_the_rights_that_the_refusal_names_are_enough(redis_tls_server):
    admin = connect(redis_tls_server.url)
    rights = "~sightline:* +@read +@write +@scripting +@connection"
    admin.execute_command("ACL", "SETUSER", "matcher", "on", ">matcher-password", "resetchannels", *rights.split())
    url = redis_tls_server.url.replace("sightline:right-password@", "matcher:matcher-password@")
    gallery = RedisGallery(url, f"s-{secrets.token_hex(4)}", model="m", retention_ns=60 * SECOND, live=True)
    assert gallery.warnings() == [
        f"Redis at {shown(url)} does not show its settings: see to appendonly yes, appendfsync always, noeviction"
    ]
    gallery.acquire()
    gallery.commit([a_step(changes={"site": b"1", "exemplar/1/t": b"v"})])
    gallery.commit([a_step(changes={"site": None, "exemplar/1/t": None})])
    assert gallery.numbers() == (1, 0)
    assert list(gallery.events(0, wait_s=0.01)) == []
    assert dict(gallery.acquire().entities) == {}
    gallery.release()
    gallery.close()
    admin.close()


@pytest.mark.parametrize(
    ("said", "says"),
    [
        pytest.param("OOM command not allowed when used memory > 'maxmemory'.", "is full", id="full"),
        pytest.param("READONLY You can't write against a read only replica.", "is a replica", id="replica"),
        pytest.param("MISCONF Redis is configured to save RDB snapshots", "cannot write its disk", id="disk"),
    ],
)
def test_what_redis_6_says_from_within_a_script_is_waited_for_too(said, says):
    wrapped = f"Error running script (call to f_51e8): @user_script:11: @user_script: 11: -{said}"
    with pytest.raises(GalleryUnreachable, match=says), redis_errors("redis://127.0.0.1:6379/0"):
        raise redis.ResponseError(wrapped)


def test_a_server_that_asks_for_a_password_is_named(tmp_path):
    server = RedisServer(valkey_binary(), tmp_path, [f"port {(port := free_port())}", "requirepass hidden-word"], port)
    server.start()
    gallery = RedisGallery(server.url, "s", model="m", retention_ns=SECOND, live=True)
    with pytest.raises(GalleryRefused, match="password"):
        gallery.acquire()
    gallery.close()
    server.kill()


def test_no_server_at_the_address_is_said_with_the_remedy():
    gallery = RedisGallery(f"redis://:secret@127.0.0.1:{free_port()}/0", "s", model="m", retention_ns=SECOND, live=True)
    with pytest.raises(GalleryUnreachable, match="start it, or correct") as caught:
        gallery.acquire()
    assert "secret" not in str(caught.value)
    gallery.close()


def test_an_address_that_is_none_is_a_wrong_setting():
    with pytest.raises(SettingsError, match=r"\[redis\] url"):
        connect("http://127.0.0.1")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param("redis://u:secret@h/0?ssl_ca_cert=x&db=1", r"\?ssl_ca_cert&db is not understood", id="mistyped"),
        pytest.param("redis://h?ssl_ca_certs=x", "for TLS write rediss://", id="TLS asked of a plain connection"),
        pytest.param("rediss://h?pasword=secret", r"\?pasword is not understood", id="mistyped with TLS"),
        pytest.param("redis://:secret@h/abc", "h/abc: expected the number of a database", id="no database"),
        pytest.param("redis://h/1/2", "expected the number of a database", id="a path"),
    ],
)
def test_an_address_that_would_be_taken_otherwise_is_a_wrong_setting(url, says):
    with pytest.raises(SettingsError, match=says) as refused:
        connect(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://h/",
        "redis://h/3",
        "redis://h?db=3",
        "rediss://h/0?ssl_ca_certs=/ca.pem",
        "unix:///a/b.sock",
    ],
)
def test_an_address_that_is_one_is_taken(url):
    connect(url).close()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        pytest.param(["appendonly yes", "appendfsync always", "maxmemory-policy noeviction"], [], id="durable"),
        pytest.param(["appendonly yes", "appendfsync everysec"], ["up to 1 s of events"], id="fsync every second"),
        pytest.param(
            ["appendonly no", "maxmemory-policy allkeys-lru"], ["since its last snapshot", "forgets people"], id="cache"
        ),
    ],
)
def test_what_a_servers_settings_cost_is_said(tmp_path, settings, says):
    port = free_port()
    server = RedisServer(valkey_binary(), tmp_path, [f"port {port}", *settings], port)
    (tmp_path / "redis.conf").write_text(
        "\n".join(["bind 127.0.0.1", f"dir {tmp_path}", f"port {port}", *settings]) + "\n"
    )
    server.start()
    gallery = RedisGallery(server.url, "s", model="m", retention_ns=SECOND, live=True)
    lines = gallery.warnings()
    assert len(lines) == len(says)
    assert all(part in line for part, line in zip(says, lines, strict=True))
    gallery.close()
    server.kill()


def test_a_server_without_the_command_config_serves_and_does_not_show_its_settings(tmp_path):
    port = free_port()
    server = RedisServer(valkey_binary(), tmp_path, [f"port {port}", 'rename-command CONFIG ""'], port)
    server.start()
    gallery = RedisGallery(server.url, "s", model="m", retention_ns=SECOND, live=True)
    (line,) = gallery.warnings()
    assert "does not show its settings: see to appendonly yes" in line
    gallery.acquire()
    server.kill()
    with pytest.raises(GalleryUnreachable, match="no Redis answers"):
        gallery.warnings()
    gallery.close()
