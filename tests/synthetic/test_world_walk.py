from itertools import pairwise

import numpy as np
import pytest

from ingest.synthetic.scene import SceneSettings
from ingest.synthetic.view import site
from ingest.synthetic.walk import STEP_S, Walk, build_walk
from ingest.synthetic.world import World, build_world


def sightings(settings: SceneSettings, world: World, walk: Walk) -> np.ndarray:
    """(T, P, C) whether each person stands in each camera's picture, every 0.2 s."""
    times = np.arange(0, settings.seconds, 0.2)
    seen = np.zeros((len(times), settings.people, settings.cameras), bool)
    for k, time_s in enumerate(times):
        position, _, _, _, area = walk.at(float(time_s))
        for camera, index in enumerate(world.area_of):
            for person in np.flatnonzero(area == index):
                seen[k, person, camera] = world.sees(camera, position[person], 0.0)
    return seen


@pytest.mark.parametrize("seed", [2, 1001, 1002])
def test_a_minute_has_plenty_of_moves_between_cameras(seed: int) -> None:
    settings = SceneSettings(seed=seed)
    seen = sightings(settings, *site(settings))
    moves, stays = 0, []
    for person in range(settings.people):
        visits = []
        for camera in range(settings.cameras):
            at = np.flatnonzero(seen[:, person, camera])
            runs = np.split(at, np.flatnonzero(np.diff(at) > 10) + 1) if len(at) else []
            visits += [(run[0], camera) for run in runs if len(run) >= 5]
            stays += [len(run) * 0.2 for run in runs if len(run) >= 5]
        visits.sort()
        moves += sum(a[1] != b[1] for a, b in pairwise(visits))
    assert 20 <= moves <= 60
    assert 4 <= np.median(stays) <= 20


def test_the_first_two_cameras_see_the_same_people_at_once_and_the_others_do_not() -> None:
    settings = SceneSettings(seed=3)
    world, walk = site(settings)
    seen = sightings(settings, world, walk)
    together = (seen[:, :, 0] & seen[:, :, 1]).sum()
    assert together > 50
    assert not (seen[:, :, 2] & seen[:, :, 3]).any()
    assert not (seen[:, :, 0] & seen[:, :, 2]).any()


def test_people_walk_at_the_pace_of_people_and_never_jump() -> None:
    settings = SceneSettings(seed=5)
    walk = site(settings)[1]
    stays = (walk.area[1:] == walk.area[:-1]) & (walk.area[1:] >= 0)
    step = np.hypot(*np.moveaxis(np.diff(walk.position, axis=0), -1, 0))[stays] / STEP_S
    assert 1.0 < np.median(step[step > 0.3]) < 1.6
    assert step.max() < 3.0
    turn = np.abs(np.diff(walk.heading, axis=0))[stays]
    assert turn.max() < 0.5


def test_a_longer_scene_begins_like_a_shorter_one() -> None:
    short, long = SceneSettings(seconds=5.0), SceneSettings(seconds=20.0)
    one, other = build_walk(short, build_world(short)), build_walk(long, build_world(long))
    steps = int(5.0 / STEP_S)
    np.testing.assert_array_equal(one.position[:steps], other.position[:steps])
    np.testing.assert_array_equal(one.area[:steps], other.area[:steps])


def test_another_seed_has_other_rooms_other_camera_poses_and_other_ways() -> None:
    one, other = site(SceneSettings(seed=1)), site(SceneSettings(seed=2))
    assert [a.width_m for a in one[0].areas] != [a.width_m for a in other[0].areas]
    assert not np.allclose(one[0].cameras[0].rotation, other[0].cameras[0].rotation, atol=1e-3)
    assert not np.array_equal(one[1].area, other[1].area)


def test_a_site_has_as_many_cameras_as_asked_and_a_way_out_of_every_picture() -> None:
    world = build_world(SceneSettings(cameras=9))
    assert len(world.cameras) == 9
    assert world.area_of == (0, 0, 1, 2, 3, 3, 4, 5, 6)
    assert all(len(area.doors) == 3 for area in world.areas)


def test_a_crowd_is_more_people_before_the_cameras_at_once() -> None:
    def busy(crowd: float) -> float:
        settings = SceneSettings(seed=4, crowd=crowd)
        return float((build_walk(settings, build_world(settings)).area >= 0).mean())

    assert busy(3.0) > busy(0.5) + 0.15


def test_nobody_walks_through_furniture() -> None:
    settings = SceneSettings(seed=6)
    world, walk = site(settings)
    for area in world.areas:
        inside = walk.position[walk.area == area.index]
        for x, y, radius in area.obstacles:
            assert np.hypot(inside[:, 0] - x, inside[:, 1] - y).min() > radius
