import re
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from ingest.synthetic.backdrop import draw_place
from ingest.synthetic.crops import draw_crops
from ingest.synthetic.detector_scenes import draw_scene
from ingest.synthetic.market import write_market

NAME = re.compile(r"(\d{4})_c(\d)s1_\d{6}_\d{2}\.jpg")


def test_a_person_is_the_same_whatever_range_is_drawn() -> None:
    both = draw_crops(3, range(0, 2), per_person=2, cameras=2, passes=2)
    second = draw_crops(3, range(1, 2), per_person=2, cameras=2, passes=2)
    assert both.person.tolist() == [0, 0, 1, 1]
    assert (both.images[2:] == second.images).all()
    assert (both.images[2:] != both.images[:2]).any()


def test_the_number_of_processes_changes_nothing() -> None:
    alone = draw_crops(3, range(0, 3), per_person=2, cameras=2, passes=2, size_hw=(128, 64))
    shared = draw_crops(3, range(0, 3), per_person=2, cameras=2, passes=2, size_hw=(128, 64), workers=2)
    assert (alone.images == shared.images).all()
    assert (alone.person == shared.person).all()
    assert (alone.camera == shared.camera).all()


def test_crops_spread_over_the_asked_cameras_and_sites_have_their_own() -> None:
    crops = draw_crops(3, range(49, 51), per_person=4, cameras=3, passes=2, size_hw=(64, 32))
    first, second = set(crops.camera[crops.person == 49]), set(crops.camera[crops.person == 50])
    assert len(first) == len(second) == 2
    assert first < {0, 1, 2}
    assert second < {3, 4, 5}


def test_labels_scale_with_the_crops() -> None:
    large = draw_crops(3, range(1), per_person=2, cameras=2, passes=1, labels=True)
    small = draw_crops(3, range(1), per_person=2, cameras=2, passes=1, labels=True, size_hw=(128, 64))
    assert large.parts is not None
    assert small.parts is not None
    assert small.parts.shape == (2, 128, 64)
    assert small.parts.max() <= 7
    assert (small.parts > 0).mean() == pytest.approx((large.parts > 0).mean(), abs=0.02)
    assert small.keypoints[..., :2] * 2 == pytest.approx(large.keypoints[..., :2])


def test_a_market_data_set_has_its_names_queries_and_labels(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    written = write_market(
        tmp_path, seed=1, train_people=2, test_people=2, per_person=4, cameras=2, progress=lambda *now: told.append(now)
    )
    names = {
        folder: sorted(p.name for p in (tmp_path / folder).iterdir())
        for folder in ("bounding_box_train", "query", "bounding_box_test")
    }
    assert written == 16 == sum(len(files) for files in names.values())
    assert told[-1] == (4, 4)
    found = {folder: [NAME.fullmatch(name) for name in files] for folder, files in names.items()}
    assert all(match for matches in found.values() for match in matches)
    people = {folder: {match[1] for match in matches if match} for folder, matches in found.items()}
    assert people == {
        "bounding_box_train": {"0001", "0002"},
        "query": {"0003", "0004"},
        "bounding_box_test": {"0003", "0004"},
    }
    assert len(names["query"]) == 4, "one query per person and camera"
    for folder, files in names.items():
        picture = simplejpeg.decode_jpeg((tmp_path / folder / files[0]).read_bytes())
        joints = np.load(tmp_path / "keypoints" / folder / f"{files[0]}.npy")
        parts = np.load(tmp_path / "segmentation" / folder / f"{files[0]}.npy")
        assert picture.shape == (256, 128, 3)
        assert joints.shape == (17, 3)
        assert joints.dtype == np.float32
        assert parts.shape == (256, 128)
        assert parts.dtype == np.uint8


def test_a_market_data_set_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "query").mkdir()
    with pytest.raises(FileExistsError, match="another folder"):
        write_market(tmp_path, seed=1)


def test_the_market_layout_cannot_name_ten_cameras(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 to 9 cameras, 10"):
        write_market(tmp_path, seed=1, cameras=10)


def test_scenes_have_boxes_inside_the_picture_and_the_same_seed_gives_the_same() -> None:
    rng = np.random.default_rng(1)
    heights: list[float] = []
    empty = 0
    for _ in range(40):
        image, xyxy, visible = draw_scene(rng)
        assert image.shape == (256, 416, 3)
        assert len(xyxy) == len(visible)
        assert (xyxy[:, 2:] > xyxy[:, :2]).all()
        assert (xyxy >= 0).all()
        assert (xyxy <= [416, 256, 416, 256]).all()
        assert ((visible > 0) & (visible <= 1)).all()
        heights += (xyxy[:, 3] - xyxy[:, 1]).tolist()
        empty += len(xyxy) == 0
    assert 0 < empty < 20
    assert min(heights) < 40
    assert max(heights) > 180
    first, second = (draw_scene(np.random.default_rng(4)) for _ in range(2))
    assert (first[0] == second[0]).all()
    assert (first[1] == second[1]).all()


@pytest.mark.parametrize(
    "horizon",
    [
        pytest.param(-0.1, id="all floor"),
        pytest.param(0.4, id="wall and floor"),
        pytest.param(0.9, id="nearly all wall"),
    ],
)
def test_places_can_be_drawn_at_any_horizon(horizon: float) -> None:
    place = draw_place(np.random.default_rng(2), (90, 160), horizon)
    assert place.shape == (90, 160, 3)
    assert place.std() > 3
