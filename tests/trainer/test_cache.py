import os
import re
import resource
import subprocess
import sys

import numpy as np
import pytest

from stream.errors import DataError
from trainer.cache import SMALL_BYTES, Rows, drawn
from trainer.drawn import windows


def draw(shard):
    if shard == 7:
        raise DataError("shard 7 cannot be drawn")
    return {"images": np.full((2, 4), shard, np.uint8), "labels": np.array([shard, shard + 10])}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))


def _drawn(shards, key=1, reports=None):
    report = (lambda done, of: reports.append((done, of))) if reports is not None else (lambda done, of: None)
    return drawn("test", draw, shards, key={"key": key}, workers=1, report=report)


def test_what_is_there_is_not_drawn_again_and_what_lacks_is():
    reports = []
    first = _drawn(2, reports=reports)
    assert [part.tolist() for part in first["labels"]] == [[0, 10], [1, 11]]
    assert reports == [(1, 2), (2, 2)]
    reports.clear()
    assert len(_drawn(3, reports=reports)["images"]) == 3
    assert reports == [(3, 3)]
    reports.clear()
    _drawn(3, reports=reports)
    assert reports == []


def test_another_key_is_drawn_anew():
    reports = []
    _drawn(1, key=1)
    _drawn(1, key=2, reports=reports)
    assert reports == [(1, 1)]


def test_a_shard_that_fails_leaves_the_others_and_nothing_half_done(tmp_path):
    with pytest.raises(DataError, match="shard 7"):
        _drawn(8)
    (folder,) = (tmp_path / "training").iterdir()
    assert {path.name for path in folder.iterdir()} <= {str(shard) for shard in range(7)}


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path):
    _drawn(1)
    (folder,) = (tmp_path / "training").iterdir()
    (folder / "0").rename(folder / f"0.{os.getpid()}")  # process numbers come again, above all in containers
    assert [part.tolist() for part in _drawn(1)["labels"]] == [[0, 10]]


def test_a_cache_that_cannot_be_written_is_said_with_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="point SIGHTLINE_CACHE to a folder that can be written"):
        _drawn(1)


def test_a_disk_that_fills_up_is_said_with_the_remedy_and_leaves_nothing_half_done(tmp_path):
    def large(shard):
        return {"images": np.zeros((1 + 99 * shard, 1000), np.uint8)}

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # as a full disk does, it takes a part of what is written
    try:
        with pytest.raises(DataError, match=r"cannot be written .*free some space, or point SIGHTLINE_CACHE"):
            drawn("test", large, 2, key={}, workers=1, report=lambda done, of: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (folder,) = (tmp_path / "training").iterdir()
    assert [path.name for path in folder.iterdir()] == ["0"]


@pytest.fixture
def few_files():
    """As many open files as a shell usually allows."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _draw_five_thousand_people(tmp_path):
    """In 1250 shards, which are links to one."""
    one = draw(0) | dict.fromkeys(("images", "parts"), np.zeros((1, SMALL_BYTES), np.uint8))
    drawn("test", lambda shard: one, 1, key={}, workers=1, report=lambda done, of: None)
    (folder,) = (tmp_path / "training").iterdir()
    for shard in range(1, 1250):
        (folder / str(shard)).mkdir()
        for path in (folder / "0").iterdir():
            (folder / str(shard) / path.name).hardlink_to(path)


@pytest.mark.usefixtures("few_files")
def test_thousands_of_people_do_not_run_out_of_open_files(tmp_path):
    _draw_five_thousand_people(tmp_path)
    reports = []
    found = drawn("test", draw, 1250, key={}, workers=1, report=lambda *told: reports.append(told))
    assert reports == []
    assert [len(parts) for parts in found.values()] == [1250] * 3
    assert [type(found[name][-1]) for name in ("images", "parts", "labels")] == [np.memmap, np.memmap, np.ndarray]
    assert Rows(found["images"])[np.array([0, 1249])].shape == (2, SMALL_BYTES)


def test_more_files_than_the_machine_lets_a_process_open_are_said_with_the_remedy(tmp_path):
    _draw_five_thousand_people(tmp_path)
    script = """
import resource
from stream.errors import DataError
from trainer.cache import drawn
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))  # a hard limit that went down stays down
try:
    drawn("test", None, 1250, key={}, workers=1, report=None)
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert re.fullmatch("2500 files .* may hold 1024 of all kinds: .*ulimit.* fewer people\n", done.stdout)


def test_windows_move_people_with_their_pictures():
    rng = np.random.default_rng(0)
    images = np.zeros((6, 288, 512, 3), np.uint8)
    images[:, 140:160, 250:260] = 255
    xyxy = np.tile(np.array([250, 140, 260, 160], np.float32), (6, 1, 1))
    cut = windows(images, xyxy, np.ones((6, 1), np.float32), (256, 416), rng)
    assert cut["images"].shape == (6, 256, 416, 3)
    for image, box in zip(cut["images"], cut["xyxy"], strict=True):
        rows, columns = np.nonzero(image[..., 0])
        assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box[0].tolist()
    assert len(np.unique(cut["xyxy"][:, 0, 0])) > 1
