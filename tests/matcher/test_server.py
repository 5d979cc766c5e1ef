import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from services import wait_for

from matcher.redis_client import connect
from matcher.server import EmbeddedRedis, _room, embedded_url, site_key
from stream.errors import GalleryError, GalleryRefused, GalleryUnreachable

OWNER = """
import sys, time
from pathlib import Path
from matcher.redis_client import connect
from matcher.server import EmbeddedRedis
server = EmbeddedRedis(Path(sys.argv[1])).start()
connect(server.url).set("acknowledged", "yes")
print(server._process.pid, flush=True)
time.sleep(60)
"""


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"


def test_what_was_stored_is_there_after_a_restart(tmp_path):
    with EmbeddedRedis(tmp_path) as server:
        assert connect(server.url).set("a", "1")
        assert embedded_url(tmp_path) == server.url
    with EmbeddedRedis(tmp_path) as server:
        assert connect(server.url).get("a") == b"1"


def test_what_a_power_loss_left_is_no_server_that_runs(tmp_path):
    with EmbeddedRedis(tmp_path):
        left = (tmp_path / "server.json").read_text()
    (tmp_path / "server.json").write_text(left)
    (tmp_path / "gallery.sock").touch()
    with pytest.raises(GalleryUnreachable, match="no gallery runs in"):
        embedded_url(tmp_path)


def test_it_acknowledges_nothing_before_it_is_on_disk_and_forgets_nothing_under_pressure(tmp_path):
    with EmbeddedRedis(tmp_path) as server:
        config = connect(server.url).config_get("*")
    assert config["appendonly"] == "yes"
    assert config["appendfsync"] == "always"
    assert config["maxmemory-policy"] == "noeviction"
    assert config["port"] == "0"


def test_nobody_else_may_open_its_socket_or_read_its_files(tmp_path):
    state = tmp_path / "state"
    with EmbeddedRedis(state):
        assert mode(state) == 0o700
        assert mode(state / "gallery.sock") == 0o700
        assert mode(state / "server.conf") == 0o600
        assert mode(state / "appendonlydir") == 0o700
        assert mode(state / "server.log") == 0o600


def test_it_stops_with_its_owner(tmp_path):
    with EmbeddedRedis(tmp_path) as server:
        pid = server._process.pid
        assert alive(pid)
    assert not alive(pid)
    with pytest.raises(GalleryUnreachable, match="no gallery runs in"):
        embedded_url(tmp_path)
    server.close()


def test_it_ends_when_its_owner_is_killed_and_the_next_one_finds_everything(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE)
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_for(lambda: not alive(pid), "the server ends with its owner")
    with EmbeddedRedis(tmp_path) as server:
        assert connect(server.url).get("acknowledged") == b"yes"


def test_a_server_whose_owner_was_killed_is_stopped_where_the_kernel_did_not(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(tmp_path / "no setpriv here"))
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE)
    left = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    time.sleep(0.1)
    assert alive(left)
    with EmbeddedRedis(tmp_path) as server:
        assert connect(server.url).get("acknowledged") == b"yes"
        assert "stopped a gallery server that a killed process left" in caplog.text
        assert server._process.pid != left
        wait_for(lambda: not alive(left), "the stale server is gone")


def test_a_server_that_ends_by_itself_is_started_again_with_everything(tmp_path, caplog):
    with EmbeddedRedis(tmp_path) as server:
        client = connect(server.url)
        client.set("acknowledged", "yes")
        server._process.kill()

        def there_again():
            with contextlib.suppress(redis.ConnectionError):
                return client.get("acknowledged") == b"yes"
            return False

        wait_for(there_again, "the server is back")
        assert f"ended with status -9: starting it again; {tmp_path} has " in caplog.text


@pytest.mark.parametrize(("free_mb", "remedy"), [(0, ": make room there"), (15, ": make room there"), (16, "")])
def test_a_server_that_ends_says_how_much_room_is_left(tmp_path, monkeypatch, free_mb, remedy):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free_mb << 20))
    assert _room(tmp_path) == f"{tmp_path} has {free_mb} MB free{remedy}"


def test_a_server_whose_folder_is_gone_says_so(tmp_path):
    assert _room(tmp_path / "gone") == f"{tmp_path / 'gone'} cannot be looked at: No such file or directory"


def test_ctrl_c_in_the_terminal_does_not_reach_it(tmp_path):
    with EmbeddedRedis(tmp_path) as server:
        assert os.getsid(server._process.pid) != os.getsid(0)
        assert os.getpgid(server._process.pid) != os.getpgid(0)


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path):
    with EmbeddedRedis(tmp_path), pytest.raises(GalleryRefused, match=rf"in use by process {os.getpid()}: .*--state"):
        EmbeddedRedis(tmp_path).start()
    with EmbeddedRedis(tmp_path):
        pass


def test_a_folder_with_a_long_name_works_too(tmp_path):
    deep = tmp_path / ("long" * 25)
    with EmbeddedRedis(deep) as server:
        assert connect(server.url).ping()
        assert connect(embedded_url(deep)).ping()
        short = Path(server.url.removeprefix("unix://")).parent
    assert not short.exists()


def test_the_short_folder_of_a_killed_owner_is_removed_by_the_next_one(tmp_path):
    deep = tmp_path / ("long" * 25)
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(deep)], stdout=subprocess.PIPE)
    pid = int(owner.stdout.readline())
    short = Path(embedded_url(deep).removeprefix("unix://")).parent
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_for(lambda: not alive(pid), "the server ends with its owner")
    assert short.exists()
    with EmbeddedRedis(deep) as server:
        assert connect(server.url).get("acknowledged") == b"yes"
        assert not short.exists()


def test_the_next_owner_deletes_no_file_that_is_no_socket(tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("mine")
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "server.json").write_text(json.dumps({"socket": str(kept)}))
    with EmbeddedRedis(state):
        pass
    assert kept.read_text() == "mine"


def test_a_folder_that_cannot_be_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GalleryError, match=r"state folder .*file/state cannot be used: Not a directory: name another"):
        EmbeddedRedis(tmp_path / "file" / "state").start()


def test_a_server_that_does_not_start_says_why_in_one_line(tmp_path):
    (tmp_path / "appendonlydir").write_text("not a folder")
    with pytest.raises(GalleryError, match=rf"the gallery server in {tmp_path} did not start: .+") as error:
        EmbeddedRedis(tmp_path).start()
    assert "\n" not in str(error.value)


def test_deleted_people_go_from_the_file_of_commands_too(tmp_path):
    with EmbeddedRedis(tmp_path) as server:
        client = connect(server.url)
        client.set("exemplar", b"somebody's vector")
        client.delete("exemplar")
        client.bgrewriteaof()
        folder = tmp_path / "appendonlydir"

        def rewritten():
            try:
                return not any(b"somebody" in file.read_bytes() for file in folder.iterdir())
            except FileNotFoundError:  # the server renames its files meanwhile
                return False

        wait_for(rewritten, "the file was rewritten")


def test_the_site_key_is_made_once_and_for_its_owner_alone(tmp_path):
    state = tmp_path / "state"
    key = site_key(state)
    assert len(key) == 32
    assert site_key(state) == key
    assert site_key(tmp_path / "other") != key
    assert mode(state / "site.key") == 0o600
    (state / "site.key").write_bytes(b"short")
    with pytest.raises(GalleryError, match="holds 5 bytes, expected 32"):
        site_key(state)
