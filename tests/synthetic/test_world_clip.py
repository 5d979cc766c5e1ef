import os
import shutil
import threading
from pathlib import Path

import av
import numpy as np
import pytest

from ingest.synthetic import clip
from ingest.synthetic.clip import plan, render_ahead, scene_folder, segments
from ingest.synthetic.scene import SceneSettings
from ingest.synthetic.truth import truth
from stream.errors import CameraError, SettingsError

SMALL = SceneSettings(seed=9, people=6, cameras=2, seconds=4.0, width=320, height=180)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def contents(settings: SceneSettings) -> dict[str, bytes]:
    """All clips, and all arrays of their truth."""
    found = {}
    for path in sorted(scene_folder(settings).iterdir()):
        if path.suffix == ".mp4":
            found[path.name] = path.read_bytes()
        elif path.suffix == ".npz" and "-" in path.stem:
            with np.load(path, allow_pickle=False) as kept:
                found[path.name] = b"".join(kept[name].tobytes() for name in sorted(kept))
    return found


@pytest.mark.usefixtures("cache")
def test_a_clip_is_h264_in_mp4_with_the_times_of_its_frames() -> None:
    start = SMALL.phase_s(1)
    for segment in segments(SMALL, 1):
        with av.open(str(segment.path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 320, 180)
            times = [frame.time for frame in container.decode(video=0)]
        assert segment.start_s == pytest.approx(start + segment.first_frame / SMALL.fps)
        np.testing.assert_allclose(times, np.arange(segment.frames) / SMALL.fps, atol=1e-3)
    assert segment.first_frame + segment.frames == SMALL.frames() == 40


@pytest.mark.usefixtures("cache")
def test_the_same_settings_are_the_same_bytes_with_one_process_or_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for camera in (1, 0):
        list(segments(SMALL, camera))
    here = contents(SMALL)
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "other"))
    seen: list[tuple[int, int]] = []
    with render_ahead(SMALL, workers=2, progress=lambda done, total: seen.append((done, total))) as renderer:
        assert renderer.wait(timeout_s=240)
    assert len(here) == 8
    assert contents(SMALL) == here
    assert seen[-1] == (4, 4)


@pytest.mark.usefixtures("cache")
def test_two_who_ask_for_the_same_clip_get_one_that_was_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Path] = []
    draw = clip._draw_segment

    def counting(view: clip.View, segment: clip.Segment) -> None:
        drawn.append(segment.path)
        draw(view, segment)

    monkeypatch.setattr(clip, "_draw_segment", counting)
    threads = [threading.Thread(target=lambda: list(segments(SMALL, 0))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(drawn) == [segment.path for segment in plan(SMALL, 0)]
    assert not list(scene_folder(SMALL).glob("*.lock"))


@pytest.mark.usefixtures("cache")
def test_a_clip_that_was_cut_short_by_a_crash_is_not_played(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = clip.View.draw

    def crash(view: clip.View, frame: int) -> object:
        if frame == 5:
            raise KeyboardInterrupt
        return draw(view, frame)

    monkeypatch.setattr(clip.View, "draw", crash)
    with pytest.raises(KeyboardInterrupt):
        next(segments(SMALL, 0))
    assert not list(scene_folder(SMALL).glob("*.mp4"))
    assert not list(scene_folder(SMALL).glob(".*"))
    monkeypatch.setattr(clip.View, "draw", draw)
    assert next(segments(SMALL, 0)).path.exists()


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "file"))
    with pytest.raises(SettingsError, match="point SIGHTLINE_CACHE to a folder that can"):
        next(segments(SMALL, 0))


@pytest.mark.usefixtures("cache")
def test_a_worker_that_fails_is_an_error_with_its_last_line_and_not_a_wait_without_end() -> None:
    with render_ahead(SceneSettings(seed=9, seconds=9.0), workers=1) as renderer:
        shutil.rmtree(scene_folder(SceneSettings(seed=9, seconds=9.0)))
        with pytest.raises(CameraError, match=r"drawing the synthetic scene failed: .*No such file"):
            renderer.wait(timeout_s=120)


def test_old_scenes_leave_the_cache(cache: Path) -> None:
    for age in range(clip.KEEP_SCENES + 3):
        clip.prepare(SceneSettings(seed=age))
    assert len(list((cache / "synthetic").iterdir())) == clip.KEEP_SCENES
    assert scene_folder(SceneSettings(seed=clip.KEEP_SCENES + 2)).exists()


def test_what_is_left_of_a_removed_scene_is_nobodys_scene(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a crash in the middle of removing: clips that lost their truth must not be played."""
    settings = SceneSettings(seconds=0.5, width=160, height=90, people=1)
    truth(settings)
    os.utime(scene_folder(settings), (0, 0))
    with monkeypatch.context() as crashing:
        crashing.setattr(shutil, "rmtree", lambda path, ignore_errors: [p.unlink() for p in path.glob("*.npz")])
        for seed in range(1, clip.KEEP_SCENES + 1):
            clip.prepare(SceneSettings(seed=seed))
    assert not scene_folder(settings).exists()
    assert list((cache / "synthetic").glob(".gone-*/*.mp4"))
    assert len(truth(settings).cameras) == settings.cameras
    assert not list((cache / "synthetic").glob(".gone-*"))
