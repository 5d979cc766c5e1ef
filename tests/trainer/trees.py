"""Tiny data sets in the layouts of the real ones, written by tests: two people before two cameras, and what else a set has."""

from pathlib import Path

import cv2
import h5py
import numpy as np
import scipy.io


def picture(path: Path, person: int, camera: int, size_hw: tuple[int, int] = (64, 32)) -> None:
    """Red says who, green who took it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*size_hw, 3), (0, 30 * camera, 20 * person + 10), np.uint8)  # blue, green, red
    assert cv2.imwrite(str(path), image)


def market(root: Path, names: tuple[str, ...] = ("{:04d}_c{}s1_000451_03.jpg", "{:04d}_c{}s2_000012_01.jpg")) -> Path:
    """Train people 2 and 7, test people 3 and 9, one junk picture, one distractor, a file of Windows."""
    for person in (2, 7):
        for camera in (1, 2):
            for name in names:
                picture(root / "bounding_box_train" / name.format(person, camera), person, camera)
    for person in (3, 9):
        for camera in (1, 2):
            picture(root / "query" / names[0].format(person, camera), person, camera)
            picture(root / "bounding_box_test" / names[1].format(person, camera), person, camera)
    picture(root / "bounding_box_test" / "-1_c1s1_000001_00.jpg", 0, 1)
    picture(root / "bounding_box_test" / "0000_c2s1_000001_00.jpg", 0, 2)
    (root / "bounding_box_train" / "Thumbs.db").write_bytes(b"x")
    return root


def msmt17(root: Path, folders: tuple[str, str] = ("train", "test")) -> Path:
    """Train people 0 and 1 (one picture of person 1 in list_val), test people 0 and 1."""
    lists = {"train": [], "val": [], "query": [], "gallery": []}
    for folder, split, other in ((folders[0], "train", "val"), (folders[1], "gallery", "query")):
        for person in (0, 1):
            for camera in (1, 15):
                name = f"{person:04d}/{person:04d}_000_{camera:02d}_0303morning_0008_0.jpg"
                picture(root / folder / name, person, camera % 8)
                chosen = other if (person, camera) == (1, 15) else split
                lists[chosen].append(f"{name} {person}")
    for split, lines in lists.items():
        (root / f"list_{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def cuhk03_raw(root: Path) -> Path:
    """One camera pair of three people with two pictures per view: people 1 and 2 train, 3 is asked and found."""
    root.mkdir(parents=True, exist_ok=True)
    names = []
    with h5py.File(root / "cuhk-03.mat", "w") as file:
        for boxes in ("labeled", "detected"):
            cells = np.empty((10, 3), h5py.ref_dtype)
            empty = file.create_dataset(f"{boxes}_empty", data=np.zeros(2, np.uint64))
            for person in range(3):
                for place in range(10):
                    cells[place, person] = empty.ref
                    if place % 5 < 2:
                        view = 1 if place < 5 else 2
                        image = np.full((24, 12, 3), (20 * person + 10, 30 * view, 0), np.uint8)
                        name = f"1_{person + 1:03d}_{view}_{place + 1:02d}.png"
                        cells[place, person] = file.create_dataset(f"{boxes}_{name}", data=image.T).ref
                        names += [name] if boxes == "labeled" else []
            pair = file.create_dataset(f"{boxes}_pair", data=cells)
            outer = np.empty((1, 1), h5py.ref_dtype)
            outer[0, 0] = pair.ref
            file.create_dataset(boxes, data=outer)
    people = [int(name.split("_")[1]) for name in names]
    rows = np.arange(1, len(names) + 1)
    first = np.array([int(name[-6:-4]) in (1, 6) for name in names])
    config = {
        "labels": np.array(people, float)[:, None],
        "filelist": np.array(names, object)[:, None],
        "train_idx": rows[np.array(people) < 3][:, None].astype(float),
        "query_idx": rows[(np.array(people) == 3) & first][:, None].astype(float),
        "gallery_idx": rows[(np.array(people) == 3) & ~first][:, None].astype(float),
    }
    for boxes in ("labeled", "detected"):
        scipy.io.savemat(root / f"cuhk03_new_protocol_config_{boxes}.mat", config)
    return root


PRW_FRAMES = {
    "train": {
        "c1s1_000151": [[5, -4, 10, 20, 50], [-2, 60, 10, 20, 50]],
        "c2s1_000160": [[5, 30, 10, 20, 50], [932, 70, 12, 20, 48]],
    },
    "test": {
        "c1s3_000001": [[8, 10, 10, 20, 50], [-2, 60, 10, 20, 50]],
        "c2s3_000001": [[8, 40, 10, 20, 50]],
        "c3s3_000007": [[9, 40, 10, 20, 50]],
    },
}


def prw(root: Path, key: str = "box_new") -> Path:
    """Rows id, x, y, w, h; person 8 is asked in one frame and stands in two."""
    for split, frames in PRW_FRAMES.items():
        for name, rows in frames.items():
            picture(root / "frames" / f"{name}.jpg", 1, int(name[1]), (90, 120))
            (root / "annotations").mkdir(exist_ok=True)
            scipy.io.savemat(root / "annotations" / f"{name}.jpg.mat", {key: np.array(rows, float)})
        scipy.io.savemat(root / f"frame_{split}.mat", {f"img_index_{split}": np.array(list(frames), object)[:, None]})
    (root / "query_info.txt").write_bytes(b"8 10.00 10.00 20.00 50.00 c1s3_000001\r\n")
    return root


def _structs(fields: list[str], rows: list[tuple[object, ...]]) -> np.ndarray:
    array = np.empty((1, len(rows)), [(field, object) for field in fields])
    for place, row in enumerate(rows):
        array[0, place] = row
    return array


def cuhk_sysu(root: Path) -> Path:
    """Three training pictures with two people, four test pictures with two queries; box 0 of each picture is the named one."""
    boxes = {f"s{n}.jpg": [[10, 10, 20, 50], [60, 10, 20, 50]] for n in range(1, 8)}
    boxes["s3.jpg"].append([5, 5, 0, 10])
    for name in boxes:
        picture(root / "Image" / "SSM" / name, 1, 1, (90, 120))
    lists = root / "annotation" / "test" / "train_test"
    lists.mkdir(parents=True)
    empty = np.zeros((1, 0))

    def located(name: str, where: object) -> tuple[object, ...]:
        return (name, where, 0)

    images = [
        (name, 1, _structs(["idlocate", "ishard"], [(np.array([box], float), 0) for box in rows]))
        for name, rows in boxes.items()
    ]
    scipy.io.savemat(root / "annotation" / "Images.mat", {"Img": _structs(["imname", "nAppear", "box"], images)})
    scipy.io.savemat(
        root / "annotation" / "pool.mat", {"pool": np.array([f"s{n}.jpg" for n in range(4, 8)], object)[:, None]}
    )
    scipy.io.savemat(root / "annotation" / "Person.mat", {"Person": np.zeros(1)})
    first = np.array([[10.0, 10, 20, 50]])
    fields = ["imname", "idlocate", "ishard"]
    people = np.empty((2, 1), object)
    for place, names in enumerate((("s1.jpg", "s2.jpg"), ("s3.jpg",))):
        scene = _structs(fields, [located(name, first) for name in names])
        people[place, 0] = _structs(["idname", "nAppear", "scene"], [(f"p{place}", len(names), scene)])
    scipy.io.savemat(lists / "Train.mat", {"Train": people})

    def test_list(size: int, extra: list[str]) -> None:
        rows = []
        for asked, found in (("s4.jpg", "s5.jpg"), ("s6.jpg", "s7.jpg")):
            others = [name for name in extra if name != asked]
            gallery = [located(found, first), *(located(name, empty) for name in others)]
            rows.append((_structs(fields, [located(asked, first)]), _structs(fields, gallery)))
        scipy.io.savemat(lists / f"TestG{size}.mat", {f"TestG{size}": _structs(["Query", "Gallery"], rows)})

    test_list(50, ["s6.jpg"])
    test_list(100, ["s6.jpg", "s4.jpg"])
    return root


def folders(root: Path, *, apart: bool) -> Path:
    """identity/camera_*.jpg"""
    for split in ("train", "test") if apart else ("",):
        for number, who in enumerate(("anna", "bert")):
            for camera in ("door", "hall"):
                for place in range(2):
                    picture(root / split / who / f"{camera}_{place}.jpg", number, place)
    return root
