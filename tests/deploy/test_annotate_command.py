"""``sightline data annotate`` whole, on files, with torchvision's networks at their full size.

Their published weights are on no registry, so these are made by hand, under the names the published files have: colours pass through
the trunk as they are, a person is as large as the picture if that is not black, a joint is where a colour is, the mask is what is
not black. So what must be found is known from the drawing; how good the published weights' labels are is not shown.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from torchvision.models.detection import (
    KeypointRCNN_ResNet50_FPN_Weights,
    MaskRCNN_ResNet50_FPN_Weights,
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
)

from deploy.cli import status_of
from trainer.datasets import load_reid
from trainer.supervision import UNKNOWN, read_joints, read_parts

pytestmark = pytest.mark.usefixtures("one_thread")

SPOTS = (  # x and y as shares of the picture, RGB, joints
    (0.5, 0.12, (1, 0, 0), (0, 1, 2, 3, 4)),
    (0.3, 0.3, (0, 1, 0), (5,)),
    (0.7, 0.3, (0, 0, 1), (6,)),
    (0.3, 0.57, (1, 1, 0), (7, 9, 11)),
    (0.7, 0.57, (0, 1, 1), (8, 10, 12)),
    (0.3, 0.88, (1, 0, 1), (13, 15)),
    (0.7, 0.88, (1, 1, 1), (14, 16)),
)
EMPTY = "bounding_box_train/0004_c2s1_000009_00.jpg"
"""A black picture, last of those to learn from."""
LEARNT = {"magnifiernet": "mask", "mgre": "location"}
"""What each method learns from joints or part labels alone."""
LINE = re.compile(r"^sightline: .+\n\Z")


def draw(path, size_hw):
    """A grey body with a spot of its own colour where each joint is, before black."""
    height, width = size_hw
    image = np.zeros((height, width, 3), np.uint8)
    image[int(0.04 * height) : int(0.96 * height), int(0.15 * width) : int(0.85 * width)] = 128
    for x, y, colour, _ in SPOTS:
        top, left = int((y - 0.05) * height), int((x - 0.1) * width)
        image[top : top + int(0.1 * height), left : left + int(0.2 * width)] = 255 * np.array(colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])


def market(root):
    """Four people to learn from in eight pictures and a black one, two others who are asked for and found once each."""
    for folder, people, cameras in (
        ("bounding_box_train", (1, 2, 3, 4), (1, 2)),
        ("query", (5, 6), (1,)),
        ("bounding_box_test", (5, 6), (2,)),
    ):
        for person in people:
            for camera in cameras:
                size_hw = (128, 64) if camera == 1 else (96, 48)
                draw(root / folder / f"{person:04d}_c{camera}s1_000001_00.jpg", size_hw)
    assert cv2.imwrite(str(root / EMPTY), np.zeros((128, 64, 3), np.uint8))
    return root


def through(weight):
    """A convolution's weights that hand on the six channels with the colours: red, its negative, green and so on."""
    weight[range(6), range(6), weight.shape[2] // 2, weight.shape[3] // 2] = 1


def measure(channels, colour, kernel=1.0):
    """Weights of channels that hold each colour and its negative: the sum of `colour` x what is there, spread by `kernel`."""
    for place, amount in enumerate(colour):
        channels[2 * place], channels[2 * place + 1] = amount * kernel, -amount * kernel


def by_hand(network, head):
    """The state dict of a network that finds colours; `head` sets what follows the search for people."""
    state = network.state_dict()
    for name, value in state.items():
        value.fill_(1 if name.endswith("running_var") or re.search(r"(bn\d|downsample\.1)\.weight$", name) else 0)
    for channel in range(6):
        state["backbone.body.conv1.weight"][channel, channel // 2, 3, 3] = (-1) ** channel * 1e-4
    state["backbone.body.bn1.running_var"].fill_(1e-8)  # an eps would show; the published weights want none
    for layer in (1, 2, 3):
        through(state[f"backbone.body.layer{layer}.0.downsample.0.weight"])
    through(state["backbone.fpn.inner_blocks.2.0.weight"])
    for level in range(4):
        through(state[f"backbone.fpn.layer_blocks.{level}.0.weight"])
    state["rpn.head.bbox_pred.bias"].view(-1, 4)[:, 2:] = 4  # every anchor is as large as the picture
    measure(state["roi_heads.box_head.fc6.weight"][0].view(256, 49), (1, 1, 1), 1 / 49)
    state["roi_heads.box_head.fc6.bias"][0] = 5.5  # black is -5.96
    state["roi_heads.box_head.fc7.weight"][0, 0] = 1
    state["roi_heads.box_predictor.cls_score.weight"][1, 0] = 20
    state["roi_heads.box_predictor.cls_score.bias"][1] = -10
    head(state)
    return as_published(state)


def joints_head(state):
    """Each joint where its colour is."""
    for name, value in state.items():
        if re.search(r"keypoint_head\.\d+\.weight", name):
            through(value)
    smooth = torch.outer(*[torch.tensor([0.25, 0.75, 0.75, 0.25])] * 2)
    for _, _, colour, joints in SPOTS:
        for joint in joints:
            weight = state["roi_heads.keypoint_predictor.kps_score_lowres.weight"][:, joint]
            measure(weight, [2 * part - 1 for part in colour], smooth)


def mask_head(state):
    """What is not black."""
    for name, value in state.items():
        if re.search(r"mask_head\.\d\.0\.weight", name):
            through(value)
    state["roi_heads.mask_predictor.conv5_mask.weight"][range(6), range(6)] = 1
    measure(state["roi_heads.mask_predictor.mask_fcn_logits.weight"][1], (1, 1, 1))
    state["roi_heads.mask_predictor.mask_fcn_logits.bias"][1] = 3.5


def as_published(state):
    """With the names of 2019, when the published weights were written, and without what frozen norms lack."""
    old = {}
    for name, value in state.items():
        new = re.sub(r"(_blocks\.\d)\.0\.", r"\1.", name).replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        new = re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", new)
        if not name.endswith("num_batches_tracked"):
            old[new] = value
    return old


class Weights(NamedTuple):
    """Files in torch's cache below `home`, where a download would put them."""

    home: Path
    keypoints: Path
    masks: Path

    def options(self):
        return ["--keypoint-weights", str(self.keypoints), "--mask-weights", str(self.masks)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    home = tmp_path_factory.mktemp("torch")
    cache = home / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    paths = []
    for build, published, head in (
        (keypointrcnn_resnet50_fpn, KeypointRCNN_ResNet50_FPN_Weights, joints_head),
        (maskrcnn_resnet50_fpn, MaskRCNN_ResNet50_FPN_Weights, mask_head),
    ):
        paths.append(cache / Path(published.COCO_V1.url).name)
        torch.save(by_hand(build(weights=None, weights_backbone=None), head), paths[-1])
    yield Weights(home, *paths)
    shutil.rmtree(home)


@pytest.fixture
def offline(monkeypatch):
    """Nothing can be downloaded, wherever this runs."""
    for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies it was made with, for whoever asks next


def command(root, *more):
    return ["data", "annotate", "market1501", str(root), "--threads", "1", *more]


def started(root, *more):
    """The command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from deploy.cli import main; main()", *command(root, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def written(root):
    """What the command has written, and when."""
    return {path.relative_to(root): path.stat().st_mtime_ns for path in root.rglob("*.npy")}


class Run(NamedTuple):
    """A data set the command has been over once, what that printed, and what it said to programs."""

    root: Path
    said: str
    report: dict


@pytest.fixture(scope="module")
def annotated(weights, tmp_path_factory):
    """Stopped in the middle by Ctrl-C, and gone on with; tests that change anything take a copy."""
    folder = tmp_path_factory.mktemp("annotated")
    root, report = market(folder / "market"), folder / "report.json"
    (root / EMPTY).rename(folder / "empty.jpg")
    os.mkfifo(root / EMPTY)  # the ninth picture, after a batch of eight, never comes
    cut = started(root, *weights.options())
    try:
        wait_for(lambda: len(written(root)) == 16, cut)
        cut.send_signal(signal.SIGINT)
        said, error = cut.communicate(timeout=60)
    finally:
        cut.kill()
        cut.communicate()
    assert (cut.returncode, error) == (130, "sightline: interrupted\n"), said
    assert {path.suffix for path in root.rglob("*") if path.is_file()} == {".jpg", ".npy"}  # nothing half written
    before = written(root)
    (root / EMPTY).unlink()
    (folder / "empty.jpg").rename(root / EMPTY)
    on = started(root, *weights.options(), "--json", str(report))
    said, error = on.communicate(timeout=120)
    assert (on.returncode, error) == (0, ""), said
    assert {path: when for path, when in written(root).items() if path in before} == before
    return Run(root, said, json.loads(report.read_text()))


def wait_for(reached, process):
    end = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def assert_found(root, name):
    """Joints and parts of the picture `name` are where they were drawn."""
    height, width = cv2.imread(str(root / name)).shape[:2]
    joints = read_joints(root / "keypoints" / f"{name}.npy")
    for x, y, _, own in SPOTS:
        for joint in own:
            assert joints[joint, :2] / (width, height) == pytest.approx((x, y), abs=0.1), (name, joint)
    assert (joints[:, 2] > 0.9).all()
    parts = read_parts(root / "segmentation" / f"{name}.npy")
    assert parts.shape == (height, width)
    at = {0: (0.05, 0.5), 1: (0.5, 0.12), 2: (0.5, 0.45), 3: (0.3, 0.4), 5: (0.3, 0.72), 7: (0.3, 0.9)}
    for part, (x, y) in at.items():
        assert parts[int(y * height), int(x * width)] == part, (name, part)


def test_a_set_is_annotated_over_an_interruption_as_training_reads_it(annotated):
    root, said, report = annotated
    assert said.splitlines() == [
        "annotating market1501: 100.0% 9 of 9 pictures",
        "8 of 9 pictures have joints",
        "8 of 9 pictures have part labels",
        f"1 annotated now; files below {root}",
    ]
    assert report == {"pictures": 9, "written": 1, "joints": 8, "parts": 8}
    names = [str(path.relative_to(root)) for path in sorted((root / "bounding_box_train").iterdir())]
    assert names[-1] == EMPTY
    for name in names[:-1]:
        assert_found(root, name)
    assert np.isnan(read_joints(root / "keypoints" / f"{EMPTY}.npy")).all()
    assert (read_parts(root / "segmentation" / f"{EMPTY}.npy") == UNKNOWN).all()
    assert len(written(root)) == 18
    data = load_reid("market1501", root, (64, 32))
    assert np.isfinite(data.train.joints).all(axis=(1, 2)).tolist() == [True] * 8 + [False]
    parts = data.train.parts[np.arange(9)]
    assert set(np.unique(parts[:8]).tolist()) >= {0, 1, 2, 3, 5, 7}
    assert (parts[8] == UNKNOWN).all()


def test_the_same_command_again_writes_nothing_and_what_is_gone_alone_is_written_again(
    annotated, weights, tmp_path, capsys
):
    root = shutil.copytree(annotated.root, tmp_path / "market")
    before = written(root)
    assert status_of(command(root, *weights.options())) == 0
    said = capsys.readouterr().out
    assert "8 of 9 pictures have joints" in said
    assert "0 annotated now" in said
    assert written(root) == before
    names = [str(path.relative_to(root)) for path in sorted((root / "bounding_box_train").iterdir())]
    gone = [Path("keypoints") / f"{names[2]}.npy", Path("segmentation") / f"{names[5]}.npy"]
    for path in gone:
        (root / path).unlink()
    assert status_of(command(root, *weights.options(), "--json", "-")) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {"pictures": 9, "written": 2, "joints": 8, "parts": 8}
    assert "2 annotated now" in told.err
    assert {path for path, when in written(root).items() if before[path] != when} == set(gone)
    assert_found(root, names[2])
    assert_found(root, names[5])


@pytest.mark.usefixtures("offline")
def test_with_every_split_query_and_gallery_are_annotated_too_by_the_weights_in_torchs_cache(
    annotated, weights, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(weights.home))
    root, report = shutil.copytree(annotated.root, tmp_path / "market"), tmp_path / "report.json"
    assert status_of(command(root, "--every-split", "--json", str(report))) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert "12 of 13 pictures have part labels" in told.out
    assert json.loads(report.read_text()) == {"pictures": 13, "written": 4, "joints": 12, "parts": 12}
    for name in ("query/0005_c1s1_000001_00.jpg", "bounding_box_test/0006_c2s1_000001_00.jpg"):
        assert_found(root, name)
    notes = load_reid("market1501", root, (64, 32)).notes
    for split, number in (("train", "8 of 9"), ("query", "2 of 2"), ("gallery", "2 of 2")):
        assert f"{split}: {number} pictures have joints" in notes
        assert f"{split}: {number} pictures have part labels" in notes


def test_a_picture_that_cannot_be_read_is_one_line_and_the_others_are_not_lost(annotated, weights, tmp_path, capsys):
    root = shutil.copytree(annotated.root, tmp_path / "market")
    broken = root / "bounding_box_train" / "0003_c1s1_000001_00.jpg"
    (root / "keypoints" / "bounding_box_train" / f"{broken.name}.npy").unlink()
    broken.write_bytes(broken.read_bytes()[:400])
    before = written(root)
    assert status_of(command(root, *weights.options())) == 1
    said = capsys.readouterr().err
    assert LINE.match(said), said
    assert f"{broken} " in said
    assert "copy the data set again" in said
    assert written(root) == before


@pytest.mark.parametrize("option", ["--keypoint-weights", "--mask-weights"])
def test_weights_of_the_other_network_are_one_line_that_names_option_and_file(option, annotated, weights, capsys):
    same = weights.masks if option == "--keypoint-weights" else weights.keypoints
    assert status_of(command(annotated.root, *weights.options(), option, str(same))) == 1
    said = capsys.readouterr().err
    assert LINE.match(said), said
    assert f"{option} {same} holds no weights of https://" in said
    assert "Missing key" in said


@pytest.mark.usefixtures("offline")
def test_without_weights_and_without_a_network_one_line_says_what_to_do(annotated, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    begun = time.monotonic()
    assert status_of(command(annotated.root)) == 1
    assert time.monotonic() - begun < 25  # seconds of it build the network
    downloading, said = capsys.readouterr().err.splitlines()
    url = KeypointRCNN_ResNet50_FPN_Weights.COCO_V1.url
    assert downloading.startswith(f'Downloading: "{url}"')
    assert said == (
        f"sightline: {url} cannot be had ([Errno 111] Connection refused): name the file with --keypoint-weights, "
        f"or put it into {tmp_path}/hub/checkpoints"
    )


@pytest.mark.usefixtures("offline")
def test_a_damaged_copy_in_torchs_cache_is_said_to_be_one(annotated, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    with weights.keypoints.open("rb") as whole:
        (cache / weights.keypoints.name).write_bytes(whole.read(100_000))
    assert status_of(command(annotated.root)) == 1
    said = capsys.readouterr().err
    assert LINE.match(said), said
    assert f"its copy in {cache} is: delete the copy and try again" in said


@pytest.mark.parametrize("method", ["magnifiernet", "mgre"])
def test_training_on_what_was_annotated_says_how_much_there_is_and_learns_from_it(method, annotated, tmp_path, capsys):
    report = tmp_path / "report.json"
    small = ("input_hw=[64, 32]", "batch_people=4", "batch_pictures=2", "precision=fp32")
    given = [word for key in small for word in ("--set", key)]
    source = ["--data", "market1501", "--root", str(annotated.root), "--output", str(tmp_path / "run")]
    more = ["--epochs", "1", "--from-scratch", "--threads", "1", "--json", str(report)]
    assert status_of(["train", method, *source, *given, *more]) == 0
    said = capsys.readouterr().out
    assert "train: 8 of 9 pictures have joints" in said
    assert "train: 8 of 9 pictures have part labels" in said
    told = json.loads(report.read_text())
    assert told["finished"] is True
    assert told["losses"][LEARNT[method]] > 0
