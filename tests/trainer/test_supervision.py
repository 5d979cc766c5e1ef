"""Joints and part labels that lie beside pictures."""

import pickle
import zlib

import cv2
import numpy as np
import pytest

from tests.trainer import trees
from trainer.datasets import load_reid
from trainer.supervision import UNKNOWN

SIZE = (32, 16)
NAMES = [f"bounding_box_train/0002_c{c}s{s}" for c in (1, 2) for s in ("1_000451_03", "2_000012_01")]


@pytest.fixture
def root(tmp_path):
    return trees.market(tmp_path / "Market-1501-v15.09.15")


def joints(score=0.9):
    return np.tile(np.array([16.0, 48.0, score], np.float32), (17, 1))  # of 32x64 pixels


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def train_of(root):
    return load_reid("market1501", root, SIZE).train


def test_joints_are_read_in_shares_of_the_picture_and_others_are_missing(root):
    save(root / "keypoints" / f"{NAMES[0]}.jpg.npy", joints())
    save(root / "keypoints" / f"{NAMES[1]}.npy", joints(0.4))  # without the picture's ending
    save(root / "keypoints" / f"{NAMES[2]}.jpg.npy", np.full((17, 3), np.nan, np.float32))  # looked at, nobody found
    data = load_reid("market1501", root, SIZE)
    assert data.train.joints.shape == (8, 17, 3)
    assert data.train.joints[0, 5].tolist() == pytest.approx([0.5, 0.75, 0.9])
    assert data.train.joints[1, 16].tolist() == pytest.approx([0.5, 0.75, 0.4])
    assert np.isnan(data.train.joints[2:]).all()
    assert "train: 2 of 8 pictures have joints" in data.notes
    assert data.train.take(np.array([1, 0])).joints[0, 0, 2] == pytest.approx(0.4)


def test_part_labels_are_scaled_without_mixing(root):
    labels = np.zeros((64, 32), np.uint8)
    labels[20:40, 8:24] = 2
    labels[40:] = 7
    save(root / "segmentation" / f"{NAMES[0]}.jpg.npy", labels)
    data = load_reid("market1501", root, SIZE)
    found = data.train.parts[np.array([1, 0])]
    assert found.shape == (2, *SIZE)
    assert (found[0] == UNKNOWN).all()
    assert np.unique(found[1]).tolist() == [0, 2, 7]
    assert found[1, 15, 8] == 2
    assert "train: 1 of 8 pictures have part labels" in data.notes
    assert "query: 0 of 4 pictures have part labels" in data.notes


@pytest.mark.parametrize("below", [True, False], ids=["below the root", "beside the root"])
def test_eanet_s_png_labels_are_read(root, below):
    folder = (root if below else root.parent) / "Market-1501-v15.09.15_ps_label"
    path = folder / f"{NAMES[0]}.png"
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), np.full((64, 32), 3, np.uint8))
    train = train_of(root)
    assert (train.parts[np.array([0])] == 3).all()
    assert (train.parts[np.array([1])] == UNKNOWN).all()


@pytest.mark.parametrize(
    ("folder", "content"),
    [
        pytest.param("keypoints", np.zeros((16, 3), np.float32), id="joints of another shape"),
        pytest.param("keypoints", np.array([{"a": 1}], object), id="pickled joints"),
        pytest.param("segmentation", np.zeros((64, 32, 3), np.uint8), id="parts of another shape"),
        pytest.param("segmentation", np.zeros((64, 32), np.float32), id="parts of another type"),
    ],
)
def test_a_malformed_annotation_counts_as_none_and_is_said(root, folder, content):
    path = root / folder / f"{NAMES[0]}.jpg.npy"
    path.parent.mkdir(parents=True)
    np.save(path, content, allow_pickle=True)
    data = load_reid("market1501", root, SIZE)
    what = "joints" if folder == "keypoints" else "part labels"
    assert f"train: 0 of 8 pictures have {what}" in data.notes
    assert any("1 annotation files are malformed" in note and "0002_c1s1" in note for note in data.notes)
    if folder == "segmentation":
        assert (data.train.parts[np.arange(8)] == UNKNOWN).all()


def test_a_png_with_a_palette_is_no_part_label_and_is_said(root):
    path = root.parent / "Market-1501-v15.09.15_ps_label" / f"{NAMES[0]}.png"
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), np.full((64, 32), 3, np.uint8))
    grey = path.read_bytes()
    start = grey.index(b"IHDR")
    head = grey[start : start + 13] + b"\x03" + grey[start + 14 : start + 17]  # colour type: palette
    colours = b"PLTE" + bytes(24)
    chunks = [grey[:start], head + _crc(head), len(colours[4:]).to_bytes(4, "big"), colours + _crc(colours)]
    path.write_bytes(b"".join(chunks) + grey[start + 21 :])
    assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape == (64, 32, 3)
    data = load_reid("market1501", root, SIZE)
    assert "train: 0 of 8 pictures have part labels" in data.notes
    assert any("1 annotation files are malformed" in note and path.name in note for note in data.notes)


def _crc(chunk):
    return zlib.crc32(chunk).to_bytes(4, "big")


def test_labels_out_of_range_mask_the_picture_instead_of_ending_the_epoch(root):
    save(root / "segmentation" / f"{NAMES[0]}.jpg.npy", np.full((64, 32), 8, np.uint8))
    (root / "segmentation" / f"{NAMES[1]}.npy").write_bytes(b"\x93NUMPY rubbish")
    train = train_of(root)
    assert (train.parts[np.arange(8)] == UNKNOWN).all()


def test_pickled_labels_are_refused_with_the_way_to_get_ours(root):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    (root / "im_path_to_kpt.pkl").write_bytes(pickle.dumps(Trap()))
    data = load_reid("market1501", root, SIZE)
    (note,) = [note for note in data.notes if "a pickle" in note]
    assert "never read" in note
    assert "sightline data annotate" in note
    assert data.train.joints is None
