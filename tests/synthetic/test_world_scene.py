from itertools import pairwise

import pytest

from ingest.synthetic.scene import SceneSettings, parse_url
from stream.errors import SettingsError


def test_an_address_says_everything_about_a_scene_and_is_read_back() -> None:
    settings = SceneSettings(
        seed=7,
        people=5,
        cameras=3,
        seconds=12.5,
        width=1280,
        height=720,
        fps=25.0,
        crowd=2.0,
        lighting=0.5,
        lookalikes=0.3,
    )
    assert parse_url(settings.url(2, "fast")) == (settings, 2, "fast")
    assert parse_url("synthetic://") == (SceneSettings(), 0, "live")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        pytest.param("sead=1", 'unknown key "sead": did you mean seed?', id="nearest key is named"),
        pytest.param("x=1", 'unknown key "x": known are seed, people', id="known keys are listed"),
        pytest.param("people=many", 'people is "many", expected a whole number', id="not a number"),
        pytest.param("people=2.5", 'people is "2.5", expected a whole number', id="not whole"),
        pytest.param("fps=nan", "fps is nan, expected 1 to 60", id="not finite"),
        pytest.param("seconds=1e9", "seconds is 1e+09, expected 0.1 to 3600", id="too long"),
        pytest.param("size=640", 'size is "640", expected WIDTHxHEIGHT', id="size without height"),
        pytest.param("size=641x360", "size is 641x360, expected even numbers", id="odd width"),
        pytest.param("size=99999x2", "width is 99999, expected 160 to 1920", id="too wide"),
        pytest.param("camera=4", "camera is 4, expected 0 to 3 (cameras=4)", id="no such camera"),
        pytest.param("pace=slow", 'pace is "slow", expected live or fast', id="unknown pace"),
    ],
)
def test_a_wrong_address_is_refused_in_one_line(query: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_url(f"synthetic://?{query}")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_address_with_a_host_is_refused() -> None:
    with pytest.raises(SettingsError, match="expected synthetic://"):
        parse_url("synthetic://seed=1")


def test_cameras_take_their_pictures_at_different_moments_of_the_frame_interval() -> None:
    settings = SceneSettings(fps=10.0)
    phases = sorted(settings.phase_s(camera) for camera in range(4))
    assert phases[0] > 0
    assert phases[-1] < 0.1
    assert min(later - earlier for earlier, later in pairwise(phases)) > 0.001


def test_settings_that_differ_are_kept_apart() -> None:
    scenes = [SceneSettings(), SceneSettings(seed=2), SceneSettings(lighting=0.5), SceneSettings(width=320, height=180)]
    assert len({scene.key for scene in scenes}) == 4
