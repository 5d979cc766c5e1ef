"""Bundles that take another one's place, that claim what they are not, or that lie where another is meant."""

import json
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

from deploy import bundle
from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bundle import Bundle, load_bundle, write_bundle
from stream.errors import BundleError
from tests.deploy import tiny_models


def write(folder: Path, *, links: bool = True) -> Bundle:
    model, card, inputs = tiny_models.embedder(), tiny_models.embedder_card(), tiny_models.pictures(3)
    golden = {"inputs": inputs} | OnnxRuntimeBackend(model, card).infer(inputs)
    return write_bundle(folder, model, card, golden, tiny_models.links() if links else None)


def edit_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | changes))


def test_a_bundle_without_links_leaves_none_of_the_one_it_replaces(tmp_path: Path) -> None:
    write(tmp_path / "tiny")
    write(tmp_path / "tiny", links=False)
    assert load_bundle(tmp_path / "tiny").links is None
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == ["card.json", "golden.npz", "model.onnx"]


def test_what_a_bundle_s_name_means_does_not_depend_on_the_folder_one_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    write(bundle.user_bundles() / "mine")
    write(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert load_bundle("mine").path == bundle.user_bundles() / "mine"
    assert load_bundle("./mine").path == Path("mine")


def test_nobody_s_bundle_takes_the_place_of_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    write(bundle.user_bundles() / "person-detector")
    assert load_bundle("person-detector").path == bundle.SHIPPED / "person-detector"


def test_a_bundle_in_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "models/tiny")
    assert load_bundle("~/models/tiny").path == tmp_path / "models/tiny"


def test_golden_arrays_that_would_fill_the_memory_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write(tmp_path / "tiny")
    monkeypatch.setattr(bundle, "MAX_GOLDEN_UNPACKED", 1000)
    with pytest.raises(BundleError, match=r"golden\.npz: \d+ bytes unpacked, at most 1000 are read"):
        written.golden()


def test_a_file_larger_than_any_bundle_has_is_refused_before_it_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write(tmp_path / "tiny")
    size = written.model.stat().st_size
    monkeypatch.setitem(bundle.MAX_BYTES, "model.onnx", size - 1)
    with pytest.raises(BundleError, match=f"more than {size - 1} bytes"):
        load_bundle(written.path)
    monkeypatch.setitem(bundle.MAX_BYTES, "model.onnx", size)
    assert load_bundle(written.path) == written


@pytest.mark.parametrize("digests", [{"../secret": "0" * 64}, {"weights.bin": "0" * 64}])
def test_a_card_that_names_a_file_no_bundle_has_is_refused_without_looking_for_it(
    tmp_path: Path, digests: dict[str, str]
) -> None:
    written = write(tmp_path / "tiny")
    edit_card(written.path, digests=written.card.digests | digests)
    with pytest.raises(BundleError, match=r"names a file .* that no bundle has"):
        load_bundle(written.path)


def test_a_person_search_whose_card_names_no_second_graph_is_refused(tmp_path: Path) -> None:
    written = write(tmp_path / "tiny")
    edit_card(written.path, kind="person-search")
    with pytest.raises(BundleError, match=r"names no query\.onnx, which a person search has"):
        load_bundle(written.path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"opset": 8}, "opset 8, at least 9 is read", id="too old a graph"),
        pytest.param({"input_hw": [7, 8]}, "each side must be 8 to 4096", id="too low"),
        pytest.param({"input_hw": [16, 4097]}, "each side must be 8 to 4096", id="too wide"),
        pytest.param({"opset": 9, "input_hw": [8, 4096]}, None, id="just as they may be"),
    ],
)
def test_a_card_says_no_more_than_a_card_may(tmp_path: Path, changes: dict[str, object], said: str | None) -> None:
    written = write(tmp_path / "tiny")
    edit_card(written.path, **changes)
    if said is None:
        load_bundle(written.path)
    else:
        with pytest.raises(BundleError, match=said):
            load_bundle(written.path)


def test_golden_pictures_are_bytes_and_at_least_one(tmp_path: Path) -> None:
    model, card = tiny_models.embedder(), tiny_models.embedder_card()
    vectors = np.zeros((1, 6), np.float32)
    with pytest.raises(BundleError, match="inputs are float32, expected uint8"):
        write_bundle(
            tmp_path, model, card, {"inputs": tiny_models.pictures(1).astype(np.float32), "embedding": vectors}
        )
    with pytest.raises(BundleError, match="and at least one"):
        write_bundle(tmp_path, model, card, {"inputs": tiny_models.pictures(0), "embedding": vectors[:0]})


def test_links_with_a_mean_that_is_not_finite_are_refused(tmp_path: Path) -> None:
    inputs, vectors = tiny_models.pictures(1), np.zeros((1, 6), np.float32)
    links = msgspec.structs.replace(tiny_models.links(), mean=[0.0] * 5 + [float("nan")])
    with pytest.raises(BundleError, match="expected 6 finite ones"):
        write_bundle(
            tmp_path,
            tiny_models.embedder(),
            tiny_models.embedder_card(),
            {"inputs": inputs, "embedding": vectors},
            links,
        )


def test_golden_arrays_hold_nothing_that_runs_when_it_is_read(tmp_path: Path) -> None:
    written = write(tmp_path / "tiny")
    with zipfile.ZipFile(written.path / "golden.npz") as archive:
        names = archive.namelist()
    np.savez(written.path / "golden.npz", inputs=np.array([{"a": print}], dtype=object))
    assert "inputs.npy" in names
    with pytest.raises(BundleError, match="no readable archive of arrays"):
        written.golden()
