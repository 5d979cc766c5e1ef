"""CUHK03 (Li et al., DeepReID, CVPR 2014) as its authors give it, cuhk-03.mat, split by the new protocol's .mat files
(Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017)."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stream.errors import DataError, UsageError
from trainer.datasets.listing import Listed, Listing, numbers, open_mat, text
from trainer.datasets.market import read_market

Boxes = Literal["labeled", "detected"]
RAW = "cuhk-03.mat"


def read_cuhk03(root: Path, boxes: Boxes) -> Listing:
    """The three folders of CUHK03-NP below `root`/`boxes`, or the raw file with cuhk03_new_protocol_config_*.mat beside it."""
    for folder in (root, root / "cuhk03_release"):
        if (folder / RAW).is_file():
            return _read_raw(folder, root, boxes)
    listing = read_market(root, [boxes, f"cuhk03-np/{boxes}"], f"CUHK03-NP {boxes}")
    other = "detected" if boxes == "labeled" else "labeled"
    if listing.root.resolve().name == other:
        raise DataError(
            f"{root} holds the {other} boxes, asked is cuhk03-{boxes}: name the folder above, or take cuhk03-{other}"
        )
    return listing


def _read_raw(folder: Path, root: Path, boxes: Boxes) -> Listing:
    config = f"cuhk03_new_protocol_config_{boxes}.mat"
    path = next((p for p in (folder / config, root / config) if p.is_file()), None)
    if path is None:
        raise DataError(f"{folder / config} is missing: the new protocol's split has to lie beside {RAW}")
    split = open_mat(path)
    try:
        people = split["labels"].ravel().astype(np.int64)
        names = [text(cell) for cell in split["filelist"].ravel()]
        rows = {key: numbers(split[f"{key}_idx"]).astype(np.int64) - 1 for key in ("train", "query", "gallery")}
        cameras = np.array([int(name.split("_")[2]) - 1 for name in names])
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise DataError(
            f"{path}: expected labels, filelist, train_idx, query_idx, gallery_idx ({type(error).__name__}: {error})"
        ) from error
    if any(len(each) == 0 or each.min() < 0 or each.max() >= len(names) for each in rows.values()):
        raise DataError(f"{path}: a split is empty or its rows reach beyond the {len(names)} names of filelist")
    train, query, gallery = (
        Listed(MatPictures(folder / RAW, boxes, [names[row] for row in each]), people[each], cameras[each])
        for each in rows.values()
    )
    return Listing(folder, train, query, gallery, notes=[f"read from {RAW} with {config}"])


class MatPictures:
    """Pictures inside cuhk-03.mat (HDF5), read one by one. Name 1_003_2_07.png: camera pair 1, person 3, view 2, picture 7."""

    def __init__(self, path: Path, boxes: Boxes, names: Sequence[str]) -> None:
        if importlib.util.find_spec("h5py") is None:
            raise UsageError(f"{path} needs h5py, which is not installed: pip install -c constraints.txt -e '.[train]'")
        import h5py

        self.path, self.names = path, [f"{boxes}/{name}" for name in names]
        try:
            self._file = h5py.File(path, "r")
            self._pairs: list[Any] = [self._file[reference] for reference in self._file[boxes][0]]
        except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is not the cuhk-03.mat of its authors (HDF5 with {boxes}): {error}") from error

    def read(self, row: int) -> NDArray[np.uint8]:
        """See `trainer.datasets.pictures.Source`."""
        pixels = np.asarray(self._cell(row))
        return np.ascontiguousarray(pixels.T)  # MATLAB's (h, w, 3) lies transposed in HDF5

    def size_hw(self, row: int) -> tuple[int, int]:
        """See `trainer.datasets.pictures.Source`."""
        _, width, height = self._cell(row).shape
        return int(height), int(width)

    def _cell(self, row: int) -> Any:
        name = self.names[row]
        try:
            pair, person, _, picture = (int(part) for part in Path(name).stem.split("_"))
            cell = self._file[self._pairs[pair - 1][picture - 1, person - 1]]
        except (ValueError, IndexError, KeyError, TypeError, OSError) as error:
            raise DataError(f"{self.path}: {name} is not in it: the split belongs to another file") from error
        if cell.ndim != 3 or cell.shape[0] != 3 or cell.dtype != np.uint8:
            raise DataError(f"{self.path}: {name} is empty there: the split belongs to another file")
        return cell
