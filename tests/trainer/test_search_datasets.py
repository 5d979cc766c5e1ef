"""Data sets of whole scenes, read in their own layouts."""

import shutil

import numpy as np
import pytest
import scipy.io

from stream.errors import DataError, UsageError
from tests.trainer import trees
from trainer.data import NOBODY, UNLABELLED
from trainer.datasets import load_search
from trainer.datasets.sets import ALL_FRAMES


@pytest.mark.parametrize("key", ["box_new", "anno_file", "anno_previous"])
def test_prw_is_read_with_boxes_identities_and_cameras(tmp_path, key):
    data = load_search("prw", trees.prw(tmp_path / "PRW-v16.04.20", key).parent)
    assert data.identities == 2
    assert data.train.people.tolist() == [[0, UNLABELLED], [0, 1]]
    assert data.train.cameras.tolist() == [0, 1]
    assert data.train.xyxy[0, 0].tolist() == [0, 10, 20, 60]  # x was -4
    assert data.test.people.tolist() == [[8, UNLABELLED], [8, NOBODY], [9, NOBODY]]
    assert np.isnan(data.test.xyxy[1, 1]).all()
    assert data.test.visible[1].tolist() == [1, 0]
    assert data.test.names[0] == "frames/c1s3_000001.jpg"
    images = data.test.images[np.array([2, 0])]
    assert [image.shape for image in images] == [(90, 120, 3)] * 2
    assert images[0][5, 5, 1] == pytest.approx(90, abs=3)


def test_cameras_of_two_digits_are_cameras_of_their_own(tmp_path):
    trees.prw(tmp_path)
    shutil.copy(tmp_path / "frames" / "c1s3_000001.jpg", tmp_path / "frames" / "c12s1_000001.jpg")
    shutil.copy(tmp_path / "annotations" / "c1s3_000001.jpg.mat", tmp_path / "annotations" / "c12s1_000001.jpg.mat")
    names = [*trees.PRW_FRAMES["test"], "c12s1_000001"]
    scipy.io.savemat(tmp_path / "frame_test.mat", {"img_index_test": np.array(names, object)[:, None]})
    assert load_search("prw", tmp_path).test.cameras.tolist()[-1] == 11


def test_a_query_of_prw_is_looked_for_in_every_test_frame_but_its_own(tmp_path):
    data = load_search("prw", trees.prw(tmp_path))
    assert data.queries.frames.tolist() == [0]
    assert data.queries.people.tolist() == [8]
    assert data.queries.xyxy.tolist() == [[10, 10, 30, 60]]
    assert data.gallery_sizes == (ALL_FRAMES,)
    gallery = data.gallery(ALL_FRAMES, 0)
    assert gallery.frames.tolist() == [1, 2]
    assert gallery.xyxy[0].tolist() == [40, 10, 60, 60]
    assert np.isnan(gallery.xyxy[1]).all()


def test_cuhk_sysu_finds_identities_by_their_boxes(tmp_path):
    data = load_search("cuhk-sysu", trees.cuhk_sysu(tmp_path))
    assert data.train.names == [f"Image/SSM/s{n}.jpg" for n in (1, 2, 3)]
    assert data.identities == 2
    assert data.train.people.tolist() == [[0, UNLABELLED], [0, UNLABELLED], [1, UNLABELLED]]
    assert data.train.xyxy[0, 0].tolist() == [10, 10, 30, 60]
    assert data.test.people[:, 0].tolist() == [1, 1, 2, 2]
    assert data.queries.frames.tolist() == [0, 2]
    assert data.queries.people.tolist() == [1, 2]
    assert any("without width or height" in note and "s3.jpg" in note for note in data.notes)


def test_cuhk_sysu_has_a_gallery_per_size(tmp_path):
    data = load_search("cuhk-sysu", trees.cuhk_sysu(tmp_path))
    assert data.gallery_sizes == (50, 100, ALL_FRAMES)
    assert data.headline == 100
    small = data.gallery(50, 0)
    assert small.frames.tolist() == [1, 2]
    assert small.xyxy[0].tolist() == [10, 10, 30, 60]
    assert np.isnan(small.xyxy[1]).all()
    assert data.gallery(100, 1).frames.tolist() == [3, 0]
    everything = data.gallery(ALL_FRAMES, 0)
    assert sorted(everything.frames.tolist()) == [1, 2, 3]
    assert np.isfinite(everything.xyxy).all(1).sum() == 1


def test_fewer_identities_leave_the_others_without_a_name(tmp_path):
    data = load_search("prw", trees.prw(tmp_path), people=1)
    assert data.identities == 1
    assert data.train.people.tolist() == [[0, UNLABELLED], [0, UNLABELLED]]
    sysu = load_search("cuhk-sysu", trees.cuhk_sysu(tmp_path / "sysu"), people=1)
    assert sysu.train.names == ["Image/SSM/s1.jpg", "Image/SSM/s2.jpg"]
    assert sysu.train.images[np.array([1])][0].shape == (90, 120, 3)


def test_boxes_that_no_picture_has_are_said(tmp_path):
    trees.cuhk_sysu(tmp_path)
    path = tmp_path / "annotation" / "Images.mat"
    images = scipy.io.loadmat(path)["Img"]
    images[0, 0]["box"][0, 0]["idlocate"][0, 0] += 1.0
    scipy.io.savemat(path, {"Img": images})
    data = load_search("cuhk-sysu", tmp_path)
    assert any("1 named boxes are not in Images.mat" in note and "s1.jpg" in note for note in data.notes)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        pytest.param("frame_test.mat", "frame_test.mat missing; PRW has", id="missing split"),
        pytest.param("annotations/c1s1_000151.jpg.mat", r"c1s1_000151.jpg.mat is missing", id="missing annotation"),
    ],
)
def test_a_part_of_prw_that_lacks_is_named(tmp_path, broken, words):
    trees.prw(tmp_path)
    (tmp_path / broken).unlink()
    with pytest.raises(DataError, match=words):
        load_search("prw", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        pytest.param(
            "frame_train.mat", b"rubbish", "frame_train.mat cannot be read as a MATLAB file", id="no MATLAB file"
        ),
        pytest.param("query_info.txt", b"8 10 10 20 c1s3_000001", "expected lines of pid x y w h frame", id="queries"),
        pytest.param("query_info.txt", b"8 1 1 2 5 c9s9_000001", "no query lies in a frame", id="queries elsewhere"),
    ],
)
def test_a_damaged_file_of_prw_is_named(tmp_path, name, content, words):
    trees.prw(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        load_search("prw", tmp_path)


def test_a_set_of_crops_is_no_set_of_scenes(tmp_path):
    with pytest.raises(
        UsageError, match="market1501 is one of crops of people, this needs whole scenes: synthetic, prw"
    ):
        load_search("market1501", tmp_path)


def test_frames_without_identities_teach_nobody(tmp_path):
    trees.prw(tmp_path)
    for path in (tmp_path / "annotations").iterdir():
        scipy.io.savemat(path, {"box_new": np.array([[-2.0, 1, 1, 9, 9]])})
    with pytest.raises(DataError, match="nobody to learn"):
        load_search("prw", tmp_path)
