"""Bundles: what is whole is loaded, and everything else is refused in one line that says what to do."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from deploy import backends, bundle
from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bundle import Bundle, load_bundle, synthetic_only_warning, write_bundle
from deploy.cli import status_of
from stream.errors import BundleError
from stream.model import ModelCard
from tests.deploy import tiny_models


@pytest.fixture
def written(tmp_path: Path) -> Bundle:
    return write(tmp_path / "tiny")


def write(folder: Path) -> Bundle:
    model, card, inputs = tiny_models.embedder(), tiny_models.embedder_card(), tiny_models.pictures(3)
    golden = {"inputs": inputs} | OnnxRuntimeBackend(model, card).infer(inputs)
    return write_bundle(folder, model, card, golden, tiny_models.links())


def edit_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | changes))


def test_what_was_written_is_loaded_and_answers(written: Bundle) -> None:
    loaded = load_bundle(written.path, "embedder")
    assert loaded == written
    assert loaded.links == tiny_models.links()
    vectors = backends.load(loaded).infer(tiny_models.pictures(5))["embedding"]
    assert vectors.shape == (5, 6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "links.json"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_byte_is_refused(written: Bundle, name: str, place: float) -> None:
    path = written.path / name
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(BundleError, match=rf"{name}: altered or damaged: its SHA-256 begins \w{{12}}, the card says"):
        load_bundle(written.path)


def test_link_rows_that_the_card_does_not_name_are_refused(written: Bundle) -> None:
    digests = json.loads((written.path / "card.json").read_text())["digests"]
    edit_card(written.path, digests={name: digest for name, digest in digests.items() if name != "links.json"})
    with pytest.raises(BundleError, match=r"links\.json: the card names no such file.*; remove it, or copy the bundle"):
        load_bundle(written.path)


def test_a_command_says_a_flipped_byte_in_one_line(
    written: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_card(written.path, kind="detector")
    model = bytearray(written.model.read_bytes())
    model[len(model) // 2] ^= 1
    written.model.write_bytes(model)
    site = tmp_path / "site.toml"
    site.write_text(
        f'[site]\nname = "s"\n[[camera]]\nid = "a"\nurl = "synthetic://?seed=1"\n[detector]\nbundle = "{written.path}"\n'
    )
    assert status_of(["plan", str(site)]) == 1
    said = capsys.readouterr().err
    assert "model.onnx: altered or damaged" in said
    assert said.count("\n") == 1


def test_every_flipped_byte_of_a_card_is_refused_or_leaves_a_readable_card(written: Bundle) -> None:
    path = written.path / "card.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        data = bytearray(whole)
        data[place] ^= 0x10
        path.write_bytes(data)
        assert reading(written.path) in {"refused in one line", written.card.digest}


def reading(folder: Path) -> str:
    try:
        return load_bundle(folder).card.digest
    except BundleError as error:
        return "refused in one line" if "\n" not in str(error) else str(error)


@pytest.mark.parametrize("name", ["model.onnx", "card.json", "golden.npz", "links.json"])
def test_a_missing_file_is_named(written: Bundle, name: str) -> None:
    (written.path / name).unlink()
    with pytest.raises(BundleError, match=f"no {name} in this folder"):
        load_bundle(written.path)


@pytest.mark.parametrize("files", [0, 1, 2, 3], ids=["at once", "after a file", "after two", "before the card"])
def test_a_write_that_was_cut_short_is_refused(written: Bundle, monkeypatch: pytest.MonkeyPatch, files: int) -> None:
    whole, moved = Path.replace, list[str]()

    def full(self: Path, target: Path) -> Path:
        if len(moved) == files:
            raise OSError(28, "No space left on device")
        moved.append(target.name)
        return whole(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(BundleError, match="cannot be written here"):
        write(written.path)
    with pytest.raises(BundleError, match=r"no card\.json"):
        load_bundle(written.path)


def test_a_full_disk_leaves_the_bundle_that_was_there(written: Bundle) -> None:
    (written.path / "card.json.part").symlink_to("/dev/full")
    with pytest.raises(BundleError, match="No space left on device"):
        write(written.path)
    assert load_bundle(written.path) == written
    assert not list(written.path.glob("*.part"))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"name": "Market OSNet"}, id="a name that no card may have"),
        pytest.param({"max_batch": 0}, id="no batch"),
        pytest.param({"opset": 8}, id="old graph"),
    ],
)
def test_a_card_that_could_not_be_read_again_replaces_no_bundle(written: Bundle, changes: dict[str, object]) -> None:
    before = {path.name: path.read_bytes() for path in written.path.iterdir()}
    card = msgspec.structs.replace(tiny_models.embedder_card(), **changes)
    golden = written.golden()
    with pytest.raises(BundleError, match=r"card\.json"):
        write_bundle(written.path, tiny_models.embedder(), card, golden, tiny_models.links())
    assert {path.name: path.read_bytes() for path in written.path.iterdir()} == before
    assert load_bundle(written.path) == written


def test_a_card_of_a_newer_sightline_is_refused_with_the_remedy(written: Bundle) -> None:
    edit_card(written.path, card_version=2, kind="something new")
    with pytest.raises(BundleError, match="card version 2, this Sightline reads up to 1; upgrade"):
        load_bundle(written.path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(b"", "no card of a model", id="empty"),
        pytest.param(b"\xff\xfe{}", "no card of a model", id="not utf-8"),
        pytest.param(b"[1]", "no card of a model", id="a list"),
        pytest.param(b'{"card_version": 1}', "missing required field", id="fields missing"),
        pytest.param(b"{" * 200_000, "no card of a model", id="deeply nested"),
        pytest.param(b" " * 300_000, "more than 262144 bytes", id="too long"),
    ],
)
def test_a_card_that_is_none_is_refused(written: Bundle, text: bytes, said: str) -> None:
    (written.path / "card.json").write_bytes(text)
    with pytest.raises(BundleError, match=said):
        load_bundle(written.path)


def test_a_bundle_of_another_kind_is_refused(written: Bundle) -> None:
    with pytest.raises(BundleError, match="is of kind embedder, and detector is needed"):
        load_bundle(written.path, "detector")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param("no-such", "no bundle is named 'no-such'", id="unknown name"),
        pytest.param("./no/such", "there is no such bundle folder", id="missing folder"),
        pytest.param(__file__, "is a file; a bundle is a folder", id="a file"),
    ],
)
def test_what_is_no_bundle_is_refused(given: str, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        load_bundle(given)


def test_names_are_looked_up_in_the_shipped_bundles_and_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    write(bundle.user_bundles() / "mine")
    assert load_bundle("mine").path == bundle.user_bundles() / "mine"
    with pytest.raises(BundleError, match="mine"):
        load_bundle("yours")


def test_outputs_that_are_not_the_golden_ones_are_refused(tmp_path: Path) -> None:
    model, card, inputs = tiny_models.embedder(), tiny_models.embedder_card(), tiny_models.pictures(3)
    vectors = OnnxRuntimeBackend(model, card).infer(inputs)["embedding"]
    written = write_bundle(tmp_path, model, card, {"inputs": inputs, "embedding": np.roll(vectors, 1, axis=1)})
    with pytest.raises(BundleError, match=r"does not give the bundle's golden outputs: embedding has cosine"):
        backends.load(written)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"input_hw": (32, 8)}, r"takes \[\('uint8', 16, 8, 3\)\]", id="another input size"),
        pytest.param(
            {"outputs": {"embedding": (7,)}, "embedding_size": 7}, "output embedding has shape", id="longer vector"
        ),
        pytest.param({"outputs": {"vector": (6,)}}, "output vector has shape None", id="another output"),
    ],
)
def test_a_graph_of_another_shape_than_its_card_is_refused(changes: dict[str, object], said: str) -> None:
    card = msgspec.structs.replace(tiny_models.embedder_card(), **changes)
    with pytest.raises(BundleError, match=said):
        OnnxRuntimeBackend(tiny_models.embedder(), card)


def test_bytes_that_are_no_onnx_are_refused() -> None:
    with pytest.raises(BundleError, match="ONNX Runtime cannot load it"):
        OnnxRuntimeBackend(b"not a model", tiny_models.embedder_card())


def test_golden_arrays_must_fit_the_card(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="embedding has shape None"):
        write_bundle(tmp_path, tiny_models.embedder(), tiny_models.embedder_card(), {"inputs": tiny_models.pictures(2)})


def test_links_of_another_length_are_refused(tmp_path: Path) -> None:
    golden = {"inputs": tiny_models.pictures(1), "embedding": np.zeros((1, 6), np.float32)}
    with pytest.raises(BundleError, match="mean has 5 values, expected 6"):
        write_bundle(tmp_path, tiny_models.embedder(), tiny_models.embedder_card(), golden, tiny_models.links(5))


def test_real_cameras_with_models_of_drawn_people_get_one_line_with_the_command() -> None:
    card = tiny_models.embedder_card()
    line = synthetic_only_warning(card, camera_is_real=True)
    assert line is not None
    assert "sightline adopt" in line
    assert "\n" not in line
    assert synthetic_only_warning(card, camera_is_real=False) is None
    seen: ModelCard = msgspec.structs.replace(card, synthetic_only=False)
    assert synthetic_only_warning(seen, camera_is_real=True) is None
