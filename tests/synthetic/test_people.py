from dataclasses import replace

import numpy as np
import pytest

from ingest.synthetic.appearance import draw_appearance
from ingest.synthetic.body import Appearance, pose
from ingest.synthetic.camera import Pinhole, look_at
from ingest.synthetic.colours import draw_wardrobe
from ingest.synthetic.raster import Canvas, Drawn, Light, draw_figure, draw_shadow

FACING, AWAY = -np.pi / 2, np.pi / 2
CAMERA = look_at((0, -6, 1.6), (0, 0, 0.9), 700.0, (256, 192))


def person(seed: int, **traits: str) -> Appearance:
    """The first person from a seed onwards who has these traits."""
    for number in range(seed, seed + 400):
        appearance = draw_appearance(np.random.default_rng(number))
        if all(appearance.traits.get(trait) == value for trait, value in traits.items()):
            return appearance
    raise AssertionError(f"none of 400 people has {traits}")


def shot(
    appearance: Appearance,
    heading: float = FACING,
    *,
    phase: float = 0.2,
    stride: float = 0.0,
    camera: Pinhole = CAMERA,
    position: tuple[float, float] = (0.0, 0.0),
) -> tuple[Canvas, Drawn]:
    canvas = Canvas(*camera.size_hw)
    figure = pose(appearance, phase, stride)
    drawn = draw_figure(canvas, figure, heading, position, camera, Light(), 1)
    assert drawn is not None
    return canvas, drawn


def test_the_same_seed_draws_the_same_pixels() -> None:
    first, _ = shot(draw_appearance(np.random.default_rng(3)))
    second, _ = shot(draw_appearance(np.random.default_rng(3)))
    other, _ = shot(draw_appearance(np.random.default_rng(4)))
    assert (first.colour == second.colour).all()
    assert (first.colour != other.colour).any()


def test_a_print_on_the_chest_is_seen_from_the_front_and_not_from_behind() -> None:
    appearance = person(0, print="chest", bag="none")
    bare = [texture.copy() for texture in appearance.textures]
    for texture in bare:  # paint over the chest of the trunk, the first texture after the skin's that has one
        size = texture.shape[1]
        texture[1:, size // 5 : size // 2, size * 3 // 8 : size * 5 // 8, :3] = 128
    plain = replace(appearance, textures=tuple(bare))
    torso = 2
    for heading, seen in ((FACING, True), (AWAY, False)):
        printed, covered = shot(appearance, heading)[0], shot(plain, heading)[0]
        changed = (printed.colour != covered.colour).any(axis=2) & (printed.part == torso)
        assert changed.any() == seen


def test_joints_lie_on_the_parts_they_belong_to() -> None:
    expected = {
        0: {1},
        5: {2, 3},
        6: {2, 3},
        7: {3, 4},
        8: {3, 4},
        11: {2, 5},
        12: {2, 5},
        13: {5, 6},
        14: {5, 6},
        15: {6, 7},
        16: {6, 7},
    }
    right = total = 0
    for number in range(12):
        appearance = person(number * 1000, bag="none", lower="trousers")
        canvas, _ = shot(appearance)
        pixels, _ = CAMERA.project(pose(appearance, 0.2, 0.0).joints_at(FACING, (0.0, 0.0)))
        for joint, parts in expected.items():
            column, row = np.round(pixels[joint]).astype(int)
            right += int(canvas.part[row, column] in parts)
            total += 1
    assert right / total > 0.95


def test_the_left_joints_of_somebody_who_faces_us_are_on_our_right() -> None:
    figure = pose(draw_appearance(np.random.default_rng(0)), 0.0, 0.0)
    left, right = (CAMERA.project(figure.joints_at(FACING, (0.0, 0.0)))[0][joint] for joint in (5, 6))
    assert left[0] > right[0]


def test_every_part_of_a_body_is_labelled() -> None:
    canvas, _ = shot(person(7, bag="none", lower="shorts", top="tee"))
    assert set(np.unique(canvas.part)) == set(range(8))


def test_the_box_is_as_tall_as_the_person_and_holds_all_pixels_of_the_body() -> None:
    for number in range(6):
        appearance = person(number * 1000, bag="none", hat="none")
        canvas, drawn = shot(appearance)
        rows, columns = np.nonzero(canvas.owner)
        assert drawn.xyxy[0] <= columns.min()
        assert drawn.xyxy[1] <= rows.min()
        assert drawn.xyxy[2] >= columns.max()
        assert drawn.xyxy[3] >= rows.max()
        ends, _ = CAMERA.project([[0, 0, 0], [0, 0, appearance.height_m]])
        assert drawn.xyxy[3] - drawn.xyxy[1] == pytest.approx(ends[0, 1] - ends[1, 1], rel=0.06)


def test_bags_are_drawn_and_stay_out_of_the_box() -> None:
    appearance = person(0, bag="hand")
    canvas, drawn = shot(appearance, 0.0)
    bag = (canvas.owner == 1) & (canvas.part == 0)
    assert bag.sum() > 20
    without = replace(appearance, fine=replace(appearance.fine, is_body=np.ones_like(appearance.fine.is_body)))
    assert (shot(without, 0.0)[1].xyxy[2:] >= drawn.xyxy[2:]).all()


@pytest.mark.parametrize("order", [pytest.param((0, 1), id="near first"), pytest.param((1, 0), id="far first")])
def test_who_stands_in_front_hides_who_stands_behind_in_any_order(order: tuple[int, int]) -> None:
    people = [draw_appearance(np.random.default_rng(seed)) for seed in (1, 2)]
    canvas, spots = Canvas(*CAMERA.size_hw), [(0.0, 0.0), (0.1, 1.0)]
    drawn = {}
    for index in order:
        drawn[index] = draw_figure(
            canvas, pose(people[index], 0.1, 0.0), FACING, spots[index], CAMERA, Light(), index + 1
        )
    near, far = drawn[0], drawn[1]
    assert near is not None
    assert far is not None
    assert (canvas.owner == 1).sum() == near.pixels
    assert 0 < (canvas.owner == 2).sum() < 0.6 * far.pixels


def test_the_pixels_of_a_hidden_person_count_as_if_nobody_stood_before_him() -> None:
    appearance = draw_appearance(np.random.default_rng(1))
    canvas, alone = shot(appearance)
    wall = Canvas(*CAMERA.size_hw)
    wall.reset(np.zeros((*CAMERA.size_hw, 3), np.uint8), np.full(CAMERA.size_hw, 2.0, np.float32))
    hidden = draw_figure(wall, pose(appearance, 0.2, 0.0), FACING, (0.0, 0.0), CAMERA, Light(), 1)
    assert hidden is not None
    assert hidden.pixels == alone.pixels == (canvas.owner == 1).sum()
    assert not wall.owner.any()


def test_somebody_behind_the_camera_is_not_drawn() -> None:
    canvas = Canvas(*CAMERA.size_hw)
    figure = pose(draw_appearance(np.random.default_rng(1)), 0.0)
    assert draw_figure(canvas, figure, FACING, (0.0, -9.0), CAMERA, Light(), 1) is None
    assert not canvas.colour.any()


def test_a_person_larger_than_the_picture_fills_it() -> None:
    close = look_at((0, -0.9, 1.2), (0, 0, 1.2), 700.0, (256, 192))
    canvas, drawn = shot(draw_appearance(np.random.default_rng(1)), camera=close)
    assert (canvas.owner == 1).mean() > 0.6
    assert drawn.xyxy[1] < 0
    assert drawn.xyxy[3] > 256


def test_the_lower_foot_always_stands_on_the_floor() -> None:
    appearance = draw_appearance(np.random.default_rng(5))
    for phase in np.linspace(0, 1, 17):
        feet = pose(appearance, float(phase)).vertices[:, 2].min()
        assert abs(feet) < 0.03, f"phase {phase}"


def test_a_gait_cycle_closes_and_its_halves_mirror_each_other() -> None:
    appearance = draw_appearance(np.random.default_rng(5))
    start, end, half = (pose(appearance, phase).joints for phase in (0.0, 1.0, 0.5))
    assert start == pytest.approx(end, abs=1e-4)
    left_ankle, right_ankle = 15, 16
    assert start[right_ankle, 1] > 0.2 > -0.1 > start[left_ankle, 1]
    assert start[right_ankle, 1] == pytest.approx(half[left_ankle, 1], abs=0.02)


def test_a_far_person_drawn_from_the_coarse_mesh_covers_what_the_fine_one_would() -> None:
    appearance = draw_appearance(np.random.default_rng(8))
    far = look_at((0, -12, 1.6), (0, 0, 0.9), 700.0, (128, 96))
    coarse, _ = shot(appearance, camera=far)
    fine, _ = shot(replace(appearance, coarse=replace(appearance.fine)), camera=far)
    union = ((coarse.owner == 1) | (fine.owner == 1)).sum()
    both = ((coarse.owner == 1) & (fine.owner == 1)).sum()
    assert both / union > 0.85


def test_people_of_one_wardrobe_share_colours_and_differ_otherwise() -> None:
    wardrobe = draw_wardrobe(np.random.default_rng(0))

    def trouser_colour(appearance: Appearance) -> np.ndarray:
        canvas, _ = shot(appearance)
        return canvas.colour[canvas.part == 6].mean(axis=0)

    alike, heights = [], []
    for seed in range(200):
        appearance = draw_appearance(np.random.default_rng(seed), wardrobe)
        if appearance.traits["lower"] == "trousers" and appearance.traits["pattern"] == "plain":
            alike.append(trouser_colour(appearance))
            heights.append(appearance.height_m)
        if len(alike) == 6:
            break
    others = [trouser_colour(person(1000 * seed, lower="trousers")) for seed in range(6)]

    def spread(colours: list[np.ndarray]) -> float:
        return float(np.median(np.abs(colours - np.median(colours, axis=0))))

    assert spread(alike) < 0.5 * spread(others)
    assert np.ptp(heights) > 0.05


def test_a_shadow_darkens_the_floor_but_nothing_that_stands_before_it() -> None:
    figure = pose(draw_appearance(np.random.default_rng(1)), 0.2)
    grey = np.full((*CAMERA.size_hw, 3), 150, np.uint8)
    floor, wall = Canvas(*CAMERA.size_hw), Canvas(*CAMERA.size_hw)
    floor.reset(grey)
    wall.reset(grey, np.full(CAMERA.size_hw, 1.0, np.float32))
    for canvas in (floor, wall):
        draw_shadow(canvas, figure, FACING, (0.0, 0.0), CAMERA, Light())
    assert (floor.colour < 140).any()
    assert (floor.colour <= 150).all()
    assert (wall.colour == 150).all()
