from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from ingest.synthetic.scene import SceneSettings
from ingest.synthetic.truth import Truth, parts, pictures, tracklet_crops, truth
from ingest.synthetic.view import View, person, site

SCENE = SceneSettings(seed=12, people=12, cameras=2, seconds=8.0, width=320, height=180, fps=5.0, crowd=3.0)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Truth]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGHTLINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield truth(SCENE)


def test_a_box_holds_the_person_and_ends_where_the_person_ends(known: Truth) -> None:
    view = View(SCENE, 0)
    checked = 0
    for frame in range(0, SCENE.frames(), 4):
        here = known.cameras[0].at(frame)
        owner, part = view.parts(frame)
        for who, (x1, y1, x2, y2), visible in zip(here.person, here.xyxy, here.visible, strict=True):
            if visible < 0.995:
                continue
            rows, columns = np.nonzero((owner == who) & (part > 0))
            body = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            height = y2 - y1
            assert np.abs(body[[1, 3]] - (y1, y2)).max() <= 2 + 0.03 * height
            assert body[0] >= x1 - 0.35 * height  # a bag may reach out of the box
            assert body[2] <= x2 + 0.35 * height
            checked += 1
    assert checked > 10


def test_joints_that_are_seen_lie_on_the_person(known: Truth) -> None:
    view = View(SCENE, 1)
    on = total = 0
    for frame in range(0, SCENE.frames(), 4):
        here = known.cameras[1].at(frame)
        owner, _ = view.parts(frame)
        for who, joints in zip(here.person, here.joints, strict=True):
            seen = joints[joints[:, 2] > 0]
            columns, rows = np.round(seen[:, 0]).astype(int), np.round(seen[:, 1]).astype(int)
            on += int((owner[rows, columns] == who).sum())
            total += len(seen)
    assert total > 100
    assert on / total > 0.85


def test_somebody_behind_something_is_seen_in_part_and_behind_a_wall_not_at_all(known: Truth) -> None:
    visible = np.concatenate([camera.visible for camera in known.cameras])
    assert visible.min() == 0
    assert visible.max() == 1
    assert ((visible > 0.05) & (visible < 0.9)).sum() > 5


def test_the_visible_share_is_what_is_left_of_the_person_drawn_alone(known: Truth) -> None:
    camera = 0
    world, walk = site(SCENE)
    frame = next(
        f
        for f in range(SCENE.frames())
        if ((v := known.cameras[camera].at(f).visible) > 0.2).any() and (v[v > 0.2] < 0.9).any()
    )
    here = known.cameras[camera].at(frame)
    row = int(np.flatnonzero((here.visible > 0.2) & (here.visible < 0.9))[0])
    view = View(SCENE, camera)
    owner, _ = view.parts(frame)
    shown = (owner == here.person[row]).sum()
    view.standing.depth[:] = np.inf
    view.walk = replace(
        walk, area=np.where(np.arange(SCENE.people) == here.person[row], walk.area, -1).astype(np.int16)
    )
    alone, _ = view.parts(frame)
    x1, _, x2, y2 = here.xyxy[row]
    if x1 > 0 and x2 < SCENE.width and y2 < SCENE.height:  # not cut by the picture's border
        assert here.visible[row] == pytest.approx(shown / (alone == here.person[row]).sum(), abs=0.02)
    assert shown < (alone == here.person[row]).sum()
    assert world.area_of[camera] == 0


def test_parts_are_the_eight_of_the_supervision_files(known: Truth) -> None:
    frame = int(known.cameras[0].frame[np.argmax(known.cameras[0].visible)])
    owner, part = parts(SCENE, 0, frame)
    assert set(np.unique(part)) <= set(range(8))
    assert {1, 2, 5, 6} <= set(np.unique(part[owner >= 0]))
    assert (part[owner < 0] == 0).all()


def test_a_decoded_picture_shows_the_people_where_the_truth_says(known: Truth) -> None:
    view = View(SCENE, 1)
    drawn = dict(pictures(SCENE, 1, every=6))
    assert sorted(drawn) == list(range(0, SCENE.frames(), 6))
    for frame, decoded in drawn.items():
        assert decoded.shape == (180, 320, 3)
        picture, _ = view.draw(frame)
        assert np.abs(decoded.astype(int) - picture).mean() < 8


def test_a_persons_tracklets_are_cut_at_every_stay_and_hold_their_crops() -> None:
    found = tracklet_crops(SCENE, fps=5.0)
    assert [t.times_s[0] for t in found] == sorted(t.times_s[0] for t in found)
    assert {t.camera for t in found} == {0, 1}
    for tracklet in found:
        assert len(tracklet.crops) == len(tracklet.times_s) == len(tracklet.visible)
        assert (np.diff(tracklet.times_s) <= 2.0 + 1e-6).all()
        assert tracklet.visible.min() >= 0.3
        for crop, (x1, y1, x2, y2) in zip(tracklet.crops, tracklet.xyxy, strict=True):
            assert crop.shape == (y2 - y1, x2 - x1, 3)
    keys = [(t.person, t.camera, float(t.times_s[0])) for t in found]
    assert len(set(keys)) == len(keys)


def test_nobody_vanishes_before_a_camera() -> None:
    settings = SceneSettings(seed=4, width=320, height=180, fps=10.0)
    world, walk = site(settings)
    for camera in range(settings.cameras):
        view = View(settings, camera)
        index = world.area_of[camera]
        leaves = np.argwhere((walk.area[:-1] == index) & (walk.area[1:] == -1))[:8]
        for step, who in leaves.tolist():
            frame = int((step * 0.1 - settings.phase_s(camera)) * settings.fps)
            if 0 <= frame < settings.frames():
                _, here = view.draw(frame)
                assert here.visible[here.person == who].sum() < 0.1


def test_people_look_alike_as_often_as_asked_and_differ_with_the_seed() -> None:
    def colours(settings: SceneSettings, index: int) -> np.ndarray:
        return np.concatenate([t[..., :3].reshape(-1, 3).mean(axis=0) for t in person(settings, index).textures[-1]])[
            :12
        ]

    twins, strangers = SceneSettings(people=2, lookalikes=1.0), SceneSettings(people=2, lookalikes=0.0)
    assert not np.array_equal(colours(strangers, 0), colours(SceneSettings(seed=2, people=2), 0))
    assert np.array_equal(colours(strangers, 0), colours(twins, 0))
    assert not np.array_equal(colours(strangers, 1), colours(twins, 1))


def test_lighting_says_how_far_cameras_differ() -> None:
    def spread(lighting: float) -> float:
        views = [View(SceneSettings(people=0, lighting=lighting, width=160, height=90), camera) for camera in range(4)]
        return float(np.std([np.log(view.effects.white_balance) for view in views]))

    assert spread(0.0) == 0.0
    assert spread(2.0) > spread(1.0) > 0.0
