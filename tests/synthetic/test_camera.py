import numpy as np
import pytest

from ingest.synthetic.camera import look_at
from ingest.synthetic.effects import CameraEffects, draw_effects


def test_the_middle_ray_goes_through_the_target() -> None:
    camera = look_at((1.0, -4.0, 3.0), (2.0, 5.0, 1.0), 500.0, (360, 640))
    pixel, depth = camera.project([2.0, 5.0, 1.0])
    assert pixel == pytest.approx([319.5, 179.5])
    assert depth == pytest.approx(np.sqrt(1 + 81 + 4))


def test_up_in_the_world_is_up_in_the_picture_and_east_of_a_camera_that_looks_north_is_right() -> None:
    camera = look_at((0, 0, 2), (0, 10, 2), 500.0, (360, 640))
    pixels, _ = camera.project([[0, 10, 3], [1, 10, 2]])
    assert pixels[0, 1] < 179.5
    assert pixels[1, 0] > 319.5


def test_the_floor_point_of_a_pixel_projects_onto_that_pixel() -> None:
    camera = look_at((0, 0, 3), (4, 9, 0), 400.0, (360, 640))
    pixels = np.array([[10.0, 300.0], [600.0, 200.0]])
    assert camera.project(camera.floor_point(pixels))[0] == pytest.approx(pixels)


def test_a_ray_above_the_horizon_never_meets_the_floor() -> None:
    camera = look_at((0, 0, 3), (0, 9, 3), 400.0, (360, 640))
    assert np.isnan(camera.floor_point([320.0, 10.0])).all()


def test_a_point_behind_the_camera_has_no_pixel() -> None:
    camera = look_at((0, 0, 2), (0, 9, 2), 400.0, (360, 640))
    pixel, depth = camera.project([0, -3, 2])
    assert np.isnan(pixel).all()
    assert depth == pytest.approx(-3)


def test_a_moved_view_shows_the_same_point_shifted_and_scaled() -> None:
    camera = look_at((0, 0, 2), (0, 9, 1), 400.0, (360, 640))
    point = [0.5, 8.0, 1.0]
    before, after = camera.project(point)[0], camera.moved((100.0, 50.0), 2.0, (200, 300)).project(point)[0]
    assert after == pytest.approx((before - [100.0, 50.0]) * 2.0)


def test_a_camera_cannot_look_at_itself() -> None:
    with pytest.raises(ValueError, match="another target"):
        look_at((1, 1, 1), (1, 1, 1), 400.0, (10, 10))


def test_a_neutral_camera_leaves_the_picture_as_it_is() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 210, (40, 60, 3), dtype=np.uint8)
    seen = CameraEffects().apply(picture, rng, compress=False)
    assert np.abs(seen.astype(int) - picture).max() <= 1


def test_a_camera_films_the_same_picture_the_same_way_from_the_same_seed() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8)
    effects = draw_effects(np.random.default_rng(5))
    first, second = (effects.apply(picture, np.random.default_rng(9)) for _ in range(2))
    other = effects.apply(picture, np.random.default_rng(10))
    assert (first == second).all()
    assert (first != other).any()


def test_light_and_colour_of_cameras_spread_with_the_shift() -> None:
    neutral = [draw_effects(np.random.default_rng(seed), shift=0.0) for seed in range(20)]
    spread = [draw_effects(np.random.default_rng(seed), shift=1.0) for seed in range(20)]
    assert {effects.gain for effects in neutral} == {1.0}
    assert {effects.white_balance for effects in neutral} == {(1.0, 1.0, 1.0)}
    assert np.std([effects.gain for effects in spread]) > 0.1


@pytest.mark.parametrize(
    ("effects", "brighter"),
    [
        pytest.param(CameraEffects(gain=1.4), True, id="more gain"),
        pytest.param(CameraEffects(gamma=1.5), False, id="higher gamma"),
        pytest.param(CameraEffects(vignette=0.25), False, id="dark corners"),
        pytest.param(CameraEffects(offset=(20.0, 20.0, 20.0)), True, id="haze"),
    ],
)
def test_effects_change_brightness_the_way_their_names_say(effects: CameraEffects, brighter: bool) -> None:
    picture = np.full((32, 32, 3), 100, np.uint8)
    seen = effects.apply(picture, np.random.default_rng(0), compress=False)
    assert (seen.mean() > 100) == brighter
    assert (picture == 100).all(), "the picture that was given is left alone"
