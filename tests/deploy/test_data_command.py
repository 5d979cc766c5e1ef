"""``sightline data inspect`` on tiny data sets with something wrong in each, and ``data draw``."""

import json

import cv2
import numpy as np
import pytest

from deploy.cli import status_of
from tests.trainer import trees


def inspected(capsys, tmp_path, name, root):
    sheet, report = tmp_path / "sheet.png", tmp_path / "report.json"
    assert status_of(["data", "inspect", name, str(root), "--sheet", str(sheet), "--json", str(report)]) == 0
    return capsys.readouterr().out, json.loads(report.read_text()), cv2.imread(str(sheet))


def test_counts_stand_beside_the_published_ones_and_a_sheet_is_drawn(capsys, tmp_path):
    root = trees.market(tmp_path / "market")
    out, report, sheet = inspected(capsys, tmp_path, "market1501", root)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "train pictures 8 12936" in lines
    assert "junk pictures 1 3819" in lines
    assert "distractor pictures 1 2798" in lines
    assert "! train people: 2 here, 751 published" in lines
    assert report["counts"]["gallery pictures"] == 5
    assert sheet.shape == (2 * 132, 12 * 68, 3)
    assert sheet[60, 30].tolist() == pytest.approx([0, 30, 50], abs=4)  # person 2 by camera 1, blue first


def test_everything_that_does_not_fit_is_listed(capsys, tmp_path):
    root = trees.market(tmp_path / "market")
    (root / "query" / "0003_c1s1_000451_03.jpg").write_bytes(b"no picture")
    (root / "bounding_box_train" / "0007_c2s2_000012_01.jpg").unlink()
    (root / "bounding_box_train" / "0007_c2s1_000451_03.jpg").unlink()
    for path in (root / "bounding_box_test").glob("0009_c1*"):
        path.unlink()
    trees.picture(root / "bounding_box_test" / "0009_c3s1_000001_00.jpg", 9, 3, (64, 9))
    (root / "query" / "0009_c1s1_000451_03.jpg").rename(root / "query" / "0011_c1s1_000451_03.jpg")
    trees.picture(root / "query" / "who.jpg", 1, 1)
    (root / "keypoints" / "query").mkdir(parents=True)
    np.save(root / "keypoints" / "query" / "0003_c2s1_000451_03.jpg.npy", np.zeros(3))
    (root / "labels.pkl").write_bytes(b"")
    out, report, _ = inspected(capsys, tmp_path, "market1501", root)
    for words in (
        "0003_c1s1_000451_03.jpg is neither JPEG nor PNG",
        "1 people of train are seen by one camera alone: 7",
        "1 queries have no right answer under another camera and are not scored: query/0011_c1s1",
        "1 pictures of gallery have a side below 16 pixels: bounding_box_test/0009_c3",
        "1 pictures in query are not named PERSON_cCAMERA and left out: who.jpg",
        "1 annotation files of query are malformed",
        "labels.pkl: a pickle",
        "query: 0 of 4 pictures have joints",
        "are there twice",
    ):
        assert words in out, words
    twice = next(each for each in report["problems"] if "train are there twice" in each["what"])
    assert len(twice["names"]) == 3  # of six pictures of three colours: all of them, not the first few


def test_part_labels_out_of_range_and_joints_outside_are_found(capsys, tmp_path):
    root = trees.market(tmp_path / "market")
    for folder, array in (
        ("segmentation", np.full((64, 32), 9, np.uint8)),
        ("keypoints", np.full((17, 3), 500.0, np.float32)),
    ):
        path = root / folder / "bounding_box_train" / "0002_c1s1_000451_03.jpg.npy"
        path.parent.mkdir(parents=True)
        np.save(path, array)
    out, _, _ = inspected(capsys, tmp_path, "market1501", root)
    assert "1 part label files of train hold other labels than 0 to 7" in out
    assert "1 pictures of train have visible joints outside the picture" in out


def test_a_published_set_that_is_read_as_a_folder_per_person_is_told_by_its_name(capsys, tmp_path):
    root = trees.market(tmp_path / "market")
    out, report, _ = inspected(capsys, tmp_path, "folder", root)
    assert "! this looks like Market-1501's layout" in out
    assert f"its name is market1501 (sightline data inspect market1501 {root})" in out
    assert report["counts"]["train people"] == 3


def test_a_set_of_scenes_is_counted_and_its_frames_are_drawn(capsys, tmp_path):
    root = trees.prw(tmp_path / "prw")
    (root / "frames" / "c2s3_000001.jpg").write_bytes(b"no picture")
    (root / "query_info.txt").write_bytes(b"8 10 10 20 50 c1s3_000001\r\n9 40 10 20 50 c3s3_000007\r\n")
    out, report, sheet = inspected(capsys, tmp_path, "prw", root)
    assert report["counts"]["boxes"] == 8
    assert report["counts"]["boxes without a name"] == 2
    assert report["published"]["queries"] == 2057
    assert "c2s3_000001.jpg is neither JPEG nor PNG" in out
    assert "1 queries whose person is in no other frame: 9" in out
    assert sheet.shape == (364, 3 * 484, 3)
    assert sheet[100, 0].tolist() != sheet[100, 400].tolist()  # the box of person 5 begins at the left edge


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        pytest.param(["market1501", "/no/such"], 1, "/no/such: no such folder", id="wrong root"),
        pytest.param(["market1501"], 2, "market1501 is read from a folder: name it", id="no root"),
        pytest.param(["prv", "/no/such"], 2, "no data set is named prv: did you mean prw", id="misspelt"),
        pytest.param(["prw", "/no/such", "--sheet", "/no/such/x.png"], 2, "/no/such does not exist", id="sheet"),
        pytest.param(["prw", "/no/such", "--sheet", "g.txt"], 2, "--sheet g.txt: a PNG is drawn there", id="no PNG"),
        pytest.param(
            ["synthetic", "/data"], 2, "synthetic is drawn and read from no folder: leave /data out", id="drawn"
        ),
    ],
)
def test_a_wrong_argument_is_one_line(capsys, arguments, status, words):
    assert status_of(["data", "inspect", *arguments]) == status
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_annotating_needs_crops_and_weights_that_are_there(capsys, tmp_path):
    trees.market(tmp_path)
    assert status_of(["data", "annotate", "prw", str(tmp_path)]) == 2
    assert "data annotate is for crops of people" in capsys.readouterr().err
    missing = str(tmp_path / "none.pt")
    assert status_of(["data", "annotate", "market1501", str(tmp_path), "--keypoint-weights", missing]) == 1
    assert f"--keypoint-weights {missing}: there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("layout", "people", "others", "counts"),
    [
        ("market1501", 2, 2, {"train people": 2, "train pictures": 24, "query people": 2}),
        ("prw", 6, 12, {"train frames": 40, "test frames": 40}),
    ],
)
def test_a_drawn_data_set_is_read_as_any_of_its_layout(capsys, tmp_path, monkeypatch, layout, people, others, counts):
    monkeypatch.setattr("deploy.drawing.SITE_S", 10.0)
    root, report = tmp_path / "drawn", tmp_path / "drawn.json"
    asked = ["--people", str(people), "--threads", "1", "--json", str(report)]
    assert status_of(["data", "draw", layout, str(root), *asked]) == 0
    said = capsys.readouterr().out
    drawn = json.loads(report.read_text())
    assert f"{drawn['pictures']} pictures of {people} people to learn from and {others} others" in said
    _, found, _ = inspected(capsys, tmp_path, layout, root)
    assert {name: found["counts"][name] for name in counts} == counts
    assert status_of(["data", "draw", layout, str(root)]) == 2
    assert "holds something already; name a new or an empty folder" in capsys.readouterr().err
