"""Data sets of crops, read in their own layouts."""

import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import simplejpeg

from stream.errors import DataError, UsageError
from tests.trainer import trees
from trainer.datasets import REID_NAMES, SEARCH_NAMES, load_reid
from trainer.datasets.cuhk03 import read_cuhk03
from trainer.datasets.pictures import MAX_PIXELS, decode, header_hw
from trainer.datasets.table import MIX, REID, SEARCH

SIZE = (32, 16)


def red_and_green(data, rows=None):
    images = data.images[np.arange(len(data.people)) if rows is None else rows]
    assert images.dtype == np.uint8
    return images[:, 5, 5, :2].astype(int).tolist()


@pytest.mark.parametrize(
    ("name", "below", "names"),
    [
        pytest.param("market1501", "", ("{:04d}_c{}s1_000451_03.jpg", "{:04d}_c{}s2_000012_01.jpg"), id="Market-1501"),
        pytest.param(
            "market1501",
            "Market-1501-v15.09.15",
            ("{:04d}_c{}s1_000451_03.jpg", "{:04d}_c{}s2_000012_01.jpg"),
            id="Market-1501, root one above",
        ),
        pytest.param(
            "duke", "DukeMTMC-reID", ("{:04d}_c{}_f0046182.jpg", "{:04d}_c{}_f0000001.jpg"), id="DukeMTMC-reID"
        ),
        pytest.param("cuhk03-labeled", "labeled", ("{:04d}_c{}_1.png", "{:04d}_c{}_2.png"), id="CUHK03-NP labeled"),
        pytest.param(
            "cuhk03-detected", "cuhk03-np/detected", ("{:04d}_c{}_1.png", "{:04d}_c{}_2.png"), id="CUHK03-NP detected"
        ),
    ],
)
def test_three_folders_of_named_pictures_are_read(tmp_path, name, below, names):
    trees.market(tmp_path / below, names)
    data = load_reid(name, tmp_path, SIZE)
    assert data.train.people.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert sorted(set(data.train.cameras.tolist())) == [0, 1]
    assert data.query.people.tolist() == [3, 3, 9, 9]
    assert data.gallery.people.tolist() == [0, 3, 3, 9, 9]
    assert data.train.images[np.array([7, 0])].shape == (2, *SIZE, 3)
    assert red_and_green(data.train, np.array([7, 0])) == [
        pytest.approx([150, 60], abs=3),
        pytest.approx([50, 30], abs=3),
    ]
    assert data.query.names[0].startswith("query/0003_c1")
    assert data.train.joints is None
    assert data.train.parts is None
    assert any("no joints, no part labels" in note for note in data.notes)
    assert not any("Thumbs.db" in note for note in data.notes)


def test_a_picture_that_is_named_otherwise_is_left_out_and_said(tmp_path):
    trees.market(tmp_path)
    trees.picture(tmp_path / "query" / "holiday.jpg", 1, 1)
    data = load_reid("market1501", tmp_path, SIZE)
    assert len(data.query.people) == 4
    assert any("holiday.jpg" in note and "query" in note for note in data.notes)


@pytest.mark.parametrize("name", ["12-3_c1s1_000000_00.jpg", "--1_c1s1_000000_00.jpg", "-_c1s1_000000_00.jpg"])
def test_a_name_that_only_looks_like_a_person_s_is_left_out_and_said(tmp_path, name):
    trees.market(tmp_path)
    trees.picture(tmp_path / "query" / name, 1, 1)
    data = load_reid("market1501", tmp_path, SIZE)
    assert len(data.query.people) == 4
    assert any(name in note and "not named PERSON_cCAMERA and left out" in note for note in data.notes)


def test_cameras_of_two_digits_are_cameras_of_their_own(tmp_path):
    trees.market(tmp_path)
    for camera in (10, 12):
        trees.picture(tmp_path / "bounding_box_test" / f"0003_c{camera}s1_000001_00.jpg", 3, 1)
    cameras = load_reid("market1501", tmp_path, SIZE).gallery.cameras.tolist()
    assert sorted(set(cameras)) == [0, 1, 9, 11]


def test_counts_that_are_not_the_published_ones_are_said_unless_the_pictures_are_ones_own(tmp_path):
    trees.market(tmp_path)
    (note,) = [note for note in load_reid("market1501", tmp_path, SIZE).notes if "published" in note]
    assert note.startswith(
        "not as published (train people: 2 here, 751 published; train pictures: 8 here, 12936 published;"
    )
    assert note.endswith(f"sightline data inspect market1501 {tmp_path} says more")
    assert not any("published" in note for note in load_reid("market1501", tmp_path, SIZE, own=True).notes)


@pytest.mark.parametrize("below", [pytest.param("", id="itself"), pytest.param("detected", id="the folder above")])
def test_the_folder_of_cuhk03_s_other_boxes_is_refused(tmp_path, below):
    for boxes in ("labeled", "detected"):
        trees.market(tmp_path / boxes, ("{:04d}_c{}_1.png", "{:04d}_c{}_2.png"))
    read = read_cuhk03(tmp_path / below, "detected")
    assert read.root == tmp_path / "detected"
    with pytest.raises(DataError, match=r"the labeled boxes, asked is cuhk03-detected: .* or take cuhk03-labeled"):
        read_cuhk03(tmp_path / "labeled", "detected")


def test_the_withdrawn_set_says_so_first(tmp_path):
    trees.market(tmp_path)
    assert "withdrawn by its owners in 2019" in load_reid("duke", tmp_path, SIZE).notes[0]
    assert not any("withdrawn by" in note for note in load_reid("market1501", tmp_path, SIZE).notes)


@pytest.mark.parametrize(
    ("folders", "version"),
    [
        pytest.param(("train", "test"), "MSMT17_V1", id="V1"),
        pytest.param(("mask_train_v2", "mask_test_v2"), "MSMT17_V2", id="V2"),
    ],
)
def test_msmt17_trains_on_both_lists_unless_asked_for_one(tmp_path, folders, version):
    trees.msmt17(tmp_path / version, folders)
    data = load_reid("msmt17", tmp_path, SIZE)
    assert data.train.people.tolist() == [0, 0, 1, 1]
    assert data.train.cameras.tolist() == [0, 14, 0, 14]
    assert any(version in note and "list_val" in note for note in data.notes)
    alone = load_reid("msmt17-train", tmp_path / version, SIZE)
    assert alone.train.people.tolist() == [0, 0, 1]
    assert any("alone" in note for note in alone.notes)
    # 0 is a person here and a distractor elsewhere
    assert data.gallery.people.tolist() == [1, 1, 2]
    assert data.query.people.tolist() == [2]
    assert data.train.images[np.array([3])].shape == (1, *SIZE, 3)


def test_a_listed_picture_that_is_missing_is_said_and_left_out(tmp_path):
    trees.msmt17(tmp_path)
    (tmp_path / "train/0000/0000_000_01_0303morning_0008_0.jpg").unlink()
    data = load_reid("msmt17", tmp_path, SIZE)
    assert len(data.train.people) == 3
    assert any("list_train.txt are not in train" in note for note in data.notes)


@pytest.mark.parametrize("boxes", ["labeled", "detected"])
def test_cuhk03_is_read_from_its_authors_file_with_the_new_split(tmp_path, boxes):
    trees.cuhk03_raw(tmp_path)
    data = load_reid(f"cuhk03-{boxes}", tmp_path, SIZE)
    assert data.train.people.tolist() == [0] * 4 + [1] * 4
    assert data.train.cameras.tolist() == [0, 0, 1, 1] * 2
    assert data.query.people.tolist() == [3, 3]
    assert data.query.names == [f"{boxes}/1_003_1_01.png", f"{boxes}/1_003_2_06.png"]
    assert len(data.gallery.people) == 2
    assert red_and_green(data.query) == [[50, 30], [50, 60]]


def test_a_split_of_another_cuhk03_file_is_refused(tmp_path):
    trees.cuhk03_raw(tmp_path)
    path = tmp_path / "cuhk03_new_protocol_config_labeled.mat"
    split = {k: v for k, v in scipy.io.loadmat(path).items() if k[0] != "_"}
    scipy.io.savemat(path, split | {"query_idx": np.array([[99.0]])})
    with pytest.raises(DataError, match="rows reach beyond the 12 names"):
        load_reid("cuhk03-labeled", tmp_path, SIZE)
    path.unlink()
    with pytest.raises(DataError, match=r"the new protocol's split has to lie beside cuhk-03\.mat"):
        load_reid("cuhk03-labeled", tmp_path, SIZE)


def test_a_damaged_cuhk03_file_is_named(tmp_path):
    trees.cuhk03_raw(tmp_path)
    (tmp_path / "cuhk-03.mat").write_bytes(b"no HDF5")
    with pytest.raises(DataError, match=r"cuhk-03.mat is not the cuhk-03.mat of its authors"):
        load_reid("cuhk03-labeled", tmp_path, SIZE)


@pytest.mark.parametrize("apart", [True, False])
def test_a_folder_per_person_is_read(tmp_path, apart):
    trees.folders(tmp_path, apart=apart)
    data = load_reid("folder", tmp_path, SIZE)
    assert data.train.people.tolist() == [0] * 4 + [1] * 4
    assert data.train.cameras.tolist() == [0, 0, 1, 1] * 2
    assert data.query.people.tolist() == [1, 1, 2, 2]
    assert data.query.cameras.tolist() == [0, 1, 0, 1]
    assert data.gallery.people.tolist() == [1, 1, 2, 2]
    assert any("scored are those who are trained on" in note for note in data.notes) is not apart


def test_identities_can_be_limited_and_held_out(tmp_path):
    trees.market(tmp_path)
    assert load_reid("market1501", tmp_path, SIZE, people=1).train.people.tolist() == [0] * 4
    data = load_reid("market1501", tmp_path, SIZE, val_ids=1, seed=3)
    assert data.train.people.tolist() == [0] * 4
    assert len(set(data.validation.people.tolist())) == 1
    assert len(data.validation.people) == 4
    assert set(data.train.names).isdisjoint(data.validation.names)
    assert data.validation.names == load_reid("market1501", tmp_path, SIZE, val_ids=1, seed=3).validation.names
    with pytest.raises(DataError, match="val_ids = 2 of 2 training people"):
        load_reid("market1501", tmp_path, SIZE, val_ids=2)


@pytest.mark.parametrize(
    ("name", "root", "words"),
    [
        pytest.param(
            "market1501",
            "nowhere",
            "nowhere: no such folder; ROOT (for train and evaluate: --root) names",
            id="wrong root",
        ),
        pytest.param("folder", "nowhere", "ROOT (for train and evaluate: --root) names", id="wrong root of one's own"),
        pytest.param("market1501", ".", "bounding_box_train, query, bounding_box_test missing", id="not the set"),
        pytest.param("market1501", ".", "in the folder that ROOT (for train and evaluate: --root) names", id="remedy"),
        pytest.param("msmt17", ".", "list_train.txt, list_val.txt", id="no lists"),
        pytest.param("folder", ".", "train holds nobody", id="zero identities"),
    ],
)
def test_a_wrong_root_is_one_clear_line(tmp_path, name, root, words):
    with pytest.raises(DataError) as refused:
        load_reid(name, tmp_path / root, SIZE)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_split_and_one_without_people_are_named(tmp_path):
    trees.market(tmp_path)
    for path in (tmp_path / "query").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="query holds nobody"):
        load_reid("market1501", tmp_path, SIZE)
    (tmp_path / "query").rmdir()
    with pytest.raises(DataError, match="query missing; Market-1501 has"):
        load_reid("market1501", tmp_path, SIZE)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("market", "did you mean market1501", id="misspelt"),
        pytest.param("cuhk03", "did you mean cuhk03-", id="without saying which boxes"),
        pytest.param("prw", "prw is one of whole scenes, this needs crops of people", id="scenes"),
    ],
)
def test_an_unknown_name_gets_the_nearest(tmp_path, name, words):
    with pytest.raises(UsageError, match=words):
        load_reid(name, tmp_path, SIZE)


def test_a_set_of_files_needs_a_root():
    with pytest.raises(UsageError, match="market1501 is read from a folder: name it"):
        load_reid("market1501")


def test_a_picture_that_cannot_be_decoded_is_named_when_it_is_read(tmp_path):
    trees.market(tmp_path)
    path = tmp_path / "query" / "0003_c1s1_000451_03.jpg"
    whole = simplejpeg.encode_jpeg(np.random.default_rng(0).integers(0, 255, (64, 32, 3), np.uint8))
    data = load_reid("market1501", tmp_path, SIZE)
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match=r"0003_c1s1_000451_03.jpg cannot be decoded"):
        data.query.images[np.arange(4)]
    for rubbish in (b"not a picture", whole[:200], b""):
        path.write_bytes(rubbish)
        with pytest.raises(DataError, match=r"0003_c1s1_000451_03.jpg is neither JPEG nor PNG"):
            data.query.images[np.arange(4)]
    path.unlink()
    with pytest.raises(DataError, match=r"0003_c1s1_000451_03.jpg cannot be read"):
        data.query.images[np.arange(4)]


def test_a_picture_too_large_is_refused_by_its_header():
    huge = bytearray(simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8)))
    at = huge.index(b"\xff\xc0") + 5  # height and width in the frame header
    huge[at : at + 4] = b"\xff\x00\xff\x00"
    with pytest.raises(DataError, match=rf"65280x65280 pixels, at most {MAX_PIXELS}"):
        decode(bytes(huge), "huge.jpg")


def test_jpeg_and_png_of_any_kind_become_rgb():
    image = np.full((20, 10, 3), (200, 100, 50), np.uint8)
    packed = {
        "jpeg": simplejpeg.encode_jpeg(image, 95),
        "png": cv2.imencode(".png", image[..., ::-1])[1].tobytes(),
        "grey jpeg": simplejpeg.encode_jpeg(image[..., :1].copy(), 95, "GRAY"),
        "rubbish behind": simplejpeg.encode_jpeg(image, 95) + b"\x00\x01",
    }
    for name, data in packed.items():
        decoded = decode(data, name)
        assert decoded.shape == (20, 10, 3)
        assert decoded[5, 5] == pytest.approx([200, 200, 200] if "grey" in name else [200, 100, 50], abs=4)
        assert header_hw(data, name) == (20, 10)


@pytest.mark.parametrize(
    "recipe", sorted((Path(__file__).parents[2] / "configs" / "train").glob("*.toml")), ids=lambda path: path.stem
)
def test_every_recipe_names_a_data_set_that_is_known(recipe):
    keys = tomllib.loads(recipe.read_text())
    name = keys.get("data", "synthetic")
    assert name in {*REID_NAMES, *SEARCH_NAMES}
    assert not keys.get("sites") or keys["method"] == "detector" or name == MIX


def test_sites_are_refused_where_none_are_drawn():
    with pytest.raises(UsageError, match="synthetic-mix alone draws sites"):
        load_reid("synthetic", sites=2)


CROPS = "train people", "train pictures", "query pictures", "gallery pictures", "cameras"
SCENES = "train frames", "train people", "test frames", "queries", "boxes"


@pytest.mark.parametrize(
    ("name", "keys", "counts"),
    [
        pytest.param("market1501", CROPS, (751, 12_936, 3_368, 15_913, 6), id="Market-1501"),
        pytest.param("duke", CROPS, (702, 16_522, 2_228, 17_661, 8), id="DukeMTMC-reID"),
        pytest.param("cuhk03-labeled", CROPS, (767, 7_368, 1_400, 5_328, 2), id="CUHK03-NP labeled"),
        pytest.param("cuhk03-detected", CROPS, (767, 7_365, 1_400, 5_332, 2), id="CUHK03-NP detected"),
        pytest.param("msmt17", CROPS, (1_041, 30_248 + 2_373, 11_659, 82_161, 15), id="MSMT17"),
        pytest.param("msmt17-train", CROPS, (1_041, 30_248, 11_659, 82_161, 15), id="MSMT17, list_train alone"),
        pytest.param("prw", SCENES, (5_704, 483, 11_816 - 5_704, 2_057, 34_304 + 8_806), id="PRW"),
        pytest.param("cuhk-sysu", SCENES, (11_206, 5_532, 18_184 - 11_206, 2_900, 96_143), id="CUHK-SYSU"),
    ],
)
def test_the_table_tells_the_published_counts(name, keys, counts):
    known = REID[name] if name in REID else SEARCH[name]
    assert tuple(known.published[key] for key in keys) == counts


def test_pictures_and_junk_of_market_are_what_papers_count():
    market = REID["market1501"].published
    assert market["gallery pictures"] + market["junk pictures"] == 19_732  # what papers that count the junk print
