"""Joints and part labels by keypoint R-CNN and mask R-CNN, here with tiny trunks and random weights."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection import KeypointRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from stream.errors import DataError
from tests.trainer import trees
from trainer.annotate import Coverage, Teachers, annotate, label, load_teachers, paint_parts
from trainer.datasets import load_reid
from trainer.datasets.table import REID
from trainer.supervision import UNKNOWN, read_joints, read_parts

CPU = torch.device("cpu")


def tiny(kind, classes, sure):
    """A detector of torchvision's with a trunk of one convolution; `sure` biases it towards people."""
    torch.manual_seed(3)
    trunk = nn.Sequential(nn.Conv2d(3, 8, 7, stride=16, padding=3), nn.ReLU())
    trunk.out_channels = 8
    network = kind(
        trunk,
        num_classes=classes,
        min_size=128,
        max_size=256,
        rpn_post_nms_top_n_test=4,
        box_detections_per_img=2,
        rpn_anchor_generator=AnchorGenerator(((128,),), ((2.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        **{
            "keypoint_roi_pool" if kind is KeypointRCNN else "mask_roi_pool": MultiScaleRoIAlign(["0"], 14, 2),
        },
    )
    with torch.no_grad():
        network.roi_heads.box_predictor.cls_score.bias[1] += sure
    return network.eval()


@pytest.fixture(scope="module")
def teachers():
    return Teachers(tiny(KeypointRCNN, 2, 20.0), tiny(MaskRCNN, 91, 20.0))


@pytest.fixture(scope="module")
def blind():
    return Teachers(tiny(KeypointRCNN, 2, -20.0), tiny(MaskRCNN, 91, -20.0))


@pytest.fixture
def listing(tmp_path):
    return REID["market1501"].read(trees.market(tmp_path / "market"))


def test_every_training_picture_gets_files_that_training_reads(listing, teachers):
    told = []
    done = annotate(listing.root, [listing.train], teachers, lambda n, of: told.append((n, of)))
    assert done == Coverage(pictures=8, written=8, joints=8, parts=8)
    assert told[-1] == (8, 8)
    name = listing.train.source.names[0]
    joints = read_joints(listing.root / "keypoints" / f"{name}.npy")
    assert joints.shape == (17, 3)
    assert joints.dtype == np.float32
    assert ((joints[:, 2] >= 0) & (joints[:, 2] <= 1)).all()
    assert (joints[:, :2] >= -1).all()
    assert (joints[:, 0] <= 33).all()  # in pixels of the 32x64 picture, not of the enlarged one
    assert (joints[:, 1] <= 65).all()
    assert read_parts(listing.root / "segmentation" / f"{name}.npy").shape == (64, 32)
    data = load_reid("market1501", listing.root, (64, 32))
    assert "train: 8 of 8 pictures have joints" in data.notes
    assert "train: 8 of 8 pictures have part labels" in data.notes
    assert "query: 0 of 4 pictures have joints" in data.notes


def test_a_run_that_was_cut_short_goes_on_and_keeps_what_others_wrote(listing, teachers):
    names = listing.train.source.names
    theirs = listing.root / "segmentation" / f"{names[1]}.npy"
    theirs.parent.mkdir(parents=True)
    np.save(theirs, np.full((64, 32), 5, np.uint8))

    class Cut(Exception):
        pass

    def cut(done, of):
        raise Cut

    with pytest.raises(Cut):
        annotate(listing.root, [listing.train], teachers, cut)
    assert annotate(listing.root, [listing.train], teachers, lambda n, of: None).written == 8
    assert (np.load(theirs) == 5).all()
    gone = listing.root / "keypoints" / f"{names[2]}.npy"
    before = {path: path.stat().st_mtime_ns for path in listing.root.rglob("*.npy") if path != gone}
    gone.unlink()
    assert annotate(listing.root, [listing.train], teachers, lambda n, of: None).written == 1
    assert gone.is_file()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(listing.root.rglob(".*"))


def test_where_nobody_is_found_the_files_say_so_and_nobody_asks_again(listing, blind):
    done = annotate(listing.root, [listing.train], blind, lambda n, of: None)
    assert done == Coverage(pictures=8, written=8, joints=0, parts=0)
    data = load_reid("market1501", listing.root, (64, 32))
    assert np.isnan(data.train.joints).all()
    assert (data.train.parts[np.arange(8)] == UNKNOWN).all()
    assert annotate(listing.root, [listing.train], blind, lambda n, of: None).written == 0


def test_the_same_picture_gets_the_same_labels_alone_and_among_others(teachers):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (64, 32, 3), np.uint8), rng.integers(0, 255, (90, 30, 3), np.uint8)]
    together = label(pictures, teachers, CPU)
    for picture, (joints, parts) in zip(pictures, together, strict=True):
        ((alone, alone_parts),) = label([picture], teachers, CPU)
        np.testing.assert_allclose(alone, joints, atol=1.0)
        assert parts.shape == alone_parts.shape == picture.shape[:2]


def standing():
    """Joints of somebody who stands upright and faces us, in a picture of 128x384."""
    at = {0: (64, 40), 1: (60, 36), 2: (68, 36), 3: (55, 38), 4: (73, 38), 5: (40, 80), 6: (88, 80), 7: (30, 130)}
    at |= {8: (98, 130), 9: (28, 180), 10: (100, 180), 11: (48, 190), 12: (80, 190), 13: (48, 270), 14: (80, 270)}
    at |= {15: (48, 350), 16: (80, 350)}
    return np.array([[*at[joint], 0.9] for joint in range(17)], np.float32)


@pytest.mark.parametrize(
    ("xy", "part"),
    [
        pytest.param((64, 40), 1, id="head"),
        pytest.param((64, 140), 2, id="torso"),
        pytest.param((35, 105), 3, id="upper arm"),
        pytest.param((29, 155), 4, id="lower arm"),
        pytest.param((48, 235), 5, id="upper leg"),
        pytest.param((80, 310), 6, id="lower leg"),
        pytest.param((48, 356), 7, id="foot"),
        pytest.param((64, 330), 0, id="between the legs"),
    ],
)
def test_parts_are_painted_around_the_bones(xy, part):
    labels = paint_parts(standing(), np.ones((384, 128), dtype=bool))
    assert labels[xy[1], xy[0]] == part


def test_parts_end_where_the_mask_ends_and_hidden_joints_paint_nothing():
    mask = np.zeros((384, 128), dtype=bool)
    mask[:200] = True
    labels = paint_parts(standing(), mask)
    assert (labels[200:] == 0).all()
    assert labels[140, 64] == 2
    joints = standing()
    joints[[7, 9], 2] = 0.1
    labels = paint_parts(joints, np.ones((384, 128), dtype=bool))
    assert set(np.unique(labels).tolist()) == set(range(8))
    assert not np.isin(labels[100:185, :36], (3, 4)).any()
    joints[:, 2] = 0
    assert not paint_parts(joints, mask).any()


def test_from_the_side_limbs_keep_their_thickness():
    joints = standing()
    joints[6, :2] = joints[5, :2] + 2  # the shoulders lie behind each other
    labels = paint_parts(joints, np.ones((384, 128), dtype=bool))
    across = (labels[235, :64] == 5).sum()
    assert across >= 2 * 0.12 * 0.6 * 100  # the torso is some 110 pixels long


def test_weights_of_another_network_are_refused_and_pickles_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    torch.save({"weights": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(DataError, match=r"--keypoint-weights .*trap.pt holds no weights of .*keypointrcnn") as refused:
        load_teachers(tmp_path / "trap.pt", None, CPU)
    assert "\n" not in str(refused.value)
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(DataError, match=r"other.pt holds no weights"):
        load_teachers(tmp_path / "other.pt", None, CPU)


def test_a_full_disk_is_said_with_the_way_on(listing, teachers):
    (listing.root / "keypoints").write_text("a file where a folder is wanted")
    with pytest.raises(DataError, match=r"cannot be written .*the same command goes on"):
        annotate(listing.root, [listing.train], teachers, lambda n, of: None)
