from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from ingest.synthetic.prw import write_prw
from ingest.synthetic.scene import SceneSettings
from stream.errors import DataError

SCENES = [
    SceneSettings(seed=s, people=6, cameras=2, seconds=4.0, width=320, height=180, fps=5.0, crowd=3.0) for s in (31, 32)
]


def test_a_data_set_has_the_files_and_rows_that_readers_of_prw_expect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "prw"
    write_prw(root, train=SCENES[:1], test=SCENES[1:], frames_per_second=2.5)
    train = [str(row[0][0]) for row in scipy.io.loadmat(root / "frame_train.mat")["img_index_train"]]
    test = [str(row[0][0]) for row in scipy.io.loadmat(root / "frame_test.mat")["img_index_test"]]
    assert train[0] == "c1s1_000001"
    assert len(train) == len(test) == 20
    assert all(name.split("_")[0][-2:] == "s2" for name in test)
    ids: dict[str, set[int]] = {"train": set(), "test": set()}
    for part, names in (("train", train), ("test", test)):
        for name in names:
            assert cv2.imread(str(root / "frames" / f"{name}.jpg")).shape == (180, 320, 3)
            boxes = scipy.io.loadmat(root / "annotations" / f"{name}.jpg.mat")["box_new"]
            assert boxes.shape[1] == 5
            assert (boxes[:, 3:] > 0).all()
            ids[part] |= set(boxes[:, 0].astype(int))
    assert ids["train"] - {-2} <= set(range(1, 7))
    assert ids["test"] - {-2} <= set(range(7, 13))

    queries = (root / "query_info.txt").read_bytes().decode().split("\r\n")
    assert queries.pop() == ""
    for line in queries:
        who, x, y, w, h, frame = line.split()
        rows = scipy.io.loadmat(root / "annotations" / f"{frame}.jpg.mat")["box_new"]
        mine = rows[rows[:, 0] == int(who)][0, 1:]
        np.testing.assert_allclose(mine, [float(x), float(y), float(w), float(h)], atol=0.01)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="expected a new or empty folder"):
        write_prw(tmp_path, SCENES[:1], SCENES[1:])
