"""MSMT17 (Wei et al., Person Transfer GAN to Bridge Domain Gap, CVPR 2018), version 1 and 2: lists of paths and people."""

from pathlib import Path

from stream.errors import DataError
from trainer.datasets.listing import Finding, Listing, find_root, listed, several

LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")
FOLDERS = {"MSMT17_V1": ("train", "test"), "MSMT17_V2": ("mask_train_v2", "mask_test_v2")}
"""Version -> folders of the training and of the test pictures."""


def read_msmt17(root: Path, *, with_val: bool) -> Listing:
    """Lines `0000/0000_000_01_0303morning_0008_0.jpg 0`: the third number is the camera, what follows the blank the person.

    `with_val`: list_train and list_val train together, as in published tables; else list_train alone. People of query and gallery
    are the lists' numbers plus 1: 0 means a distractor everywhere else.
    """
    root = find_root(root, [*FOLDERS, "msmt17"], LISTS, "MSMT17")
    version, folders = next(
        ((name, pair) for name, pair in FOLDERS.items() if all((root / folder).is_dir() for folder in pair)), ("", ())
    )
    if not folders:
        raise DataError(f"{root}: neither train and test (V1) nor mask_train_v2 and mask_test_v2 (V2) are there")
    problems: list[Finding] = []
    train = _rows(root, "list_train.txt", folders[0], problems)
    if with_val:
        train += _rows(root, "list_val.txt", folders[0], problems)
    query, gallery = (_rows(root, f"list_{name}.txt", folders[1], problems) for name in ("query", "gallery"))
    return Listing(
        root,
        listed(root, train, folders[0]),
        listed(root, [(name, person + 1, camera) for name, person, camera in query], "list_query.txt"),
        listed(root, [(name, person + 1, camera) for name, person, camera in gallery], "list_gallery.txt"),
        notes=[f"{version}; trains on list_train.txt" + (" and list_val.txt" if with_val else " alone")],
        problems=problems,
    )


def _rows(root: Path, name: str, folder: str, problems: list[Finding]) -> list[tuple[str, int, int]]:
    rows, missing = [], []
    try:
        lines = (root / name).read_text(encoding="utf-8").splitlines()
        for line in filter(None, map(str.strip, lines)):
            path, person = line.rsplit(maxsplit=1)
            camera = int(path.rsplit("/", 1)[-1].split("_")[2]) - 1
            if (root / folder / path).is_file():
                rows.append((f"{folder}/{path}", int(person), camera))
            else:
                missing.append(path)
    except (OSError, ValueError, IndexError) as error:
        raise DataError(
            f"{root / name}: expected lines like 0000/0000_000_01_0303morning_0008_0.jpg 0 ({error})"
        ) from error
    problems += several(missing, f"pictures of {name} are not in {folder}")
    return rows
