import time
from pathlib import Path

import pytest
from feeds import frames_of, play

from ingest.settings import CameraSettings
from ingest.synthetic.scene import SceneSettings
from stream.messages import CameraState

SCENE = SceneSettings(seed=5, people=2, cameras=2, seconds=4.0, width=160, height=90, fps=5)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips are drawn once for all tests here, and nowhere else."""
    root = tmp_path_factory.getbasetemp() / "synthetic-cameras"
    root.mkdir(exist_ok=True)
    monkeypatch.setenv("SIGHTLINE_CACHE", str(root))


def cameras(pace: str) -> list[CameraSettings]:
    return [
        CameraSettings(id=f"cam{k}", url=SCENE.url(k, "fast" if pace == "fast" else "live"), fps=5)
        for k in range(SCENE.cameras)
    ]


def test_a_scene_played_fast_is_a_file_from_its_start_over_all_its_clips() -> None:
    began = time.monotonic()
    messages = play(*cameras("fast"))
    again = play(*cameras("fast"))
    for k, camera in enumerate(cameras("fast")):
        frames = frames_of(messages, camera.id)
        assert {(f.stream, f.clock) for f in frames} == {(camera.start_ns, "file")}
        assert [f.sequence for f in frames] == [round(SCENE.time_s(k, n) * 5) for n in range(20)]
        times = [(f.captured_at - camera.start_ns) / 1e9 for f in frames]
        assert times == pytest.approx([SCENE.time_s(k, n) for n in range(20)], abs=1e-6)
    assert [(m.camera, m.captured_at) for m in messages] == [(m.camera, m.captured_at) for m in again]
    assert [f.image for f in frames_of(messages)] == [f.image for f in frames_of(again)]
    assert time.monotonic() - began < 60


def test_a_scene_that_nobody_has_drawn_is_drawn_ahead_of_playing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))
    url = SceneSettings(seconds=1.0, width=160, height=90, people=1, cameras=1, fps=10).url(0)
    frames = frames_of(play(CameraSettings(id="a", url=url, fps=10)))
    assert [f.sequence for f in frames] == list(range(10))
    assert max(f.ingested_at - f.captured_at for f in frames) < 0.5e9


def test_a_scene_played_live_begins_for_all_cameras_at_one_moment_and_keeps_real_time() -> None:
    messages = play(*cameras("live"))
    begins = []
    for k in range(SCENE.cameras):
        frames = frames_of(messages, f"cam{k}")
        begins.append(frames[0].captured_at / 1e9 - SCENE.time_s(k, 0))
        assert {f.clock for f in frames} == {"arrival"}
        assert [f.sequence for f in frames] == list(range(20))
        assert frames[0].stream == frames[0].captured_at
        offsets = [(f.captured_at - frames[0].captured_at) / 1e9 for f in frames]
        assert offsets == pytest.approx([n / 5 for n in range(20)], abs=1e-6)
        assert all(f.ingested_at - f.captured_at >= 0 for f in frames)
    assert begins[0] == pytest.approx(begins[1], abs=1e-6)
    ends = [m for m in messages if isinstance(m, CameraState) and m.state == "end"]
    assert {m.camera for m in ends} == {"cam0", "cam1"}


def test_a_scene_is_drawn_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))
    play(CameraSettings(id="a", url=SceneSettings(seconds=0.5, width=160, height=90, people=1).url(0, "fast")))
    assert list(tmp_path.rglob("*.mp4"))
