"""A model on disk: a folder that says what the model is, proves that it is intact, and shows what it must answer.

model.onnx   the graph, by the house contract of `stream.model`
card.json    `stream.model.ModelCard`; its digest is the graph's SHA-256, its `digests` those of the other files
golden.npz   `inputs` (n, H, W, 3) uint8, by output name what the graph gave for them, and `model`, the graph's SHA-256
links.json   `stream.model.Links`, for what embeds
query.onnx   person search alone: a scene and boxes to embeddings; its weights are those in model.onnx, read from there

A bundle is named by path, or by name among those that ship with Sightline and those in the user's data folder.
Reading is bounded, and everything that is wrong ends in a `BundleError` that says what to do.
"""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import platformdirs
from numpy.typing import NDArray

from deploy.diagnose import damage
from deploy.thresholds import check_defaults
from stream.errors import BundleError
from stream.model import CARD_VERSION, MAX_SIDE_PX, MIN_SIDE_PX, Kind, Links, ModelCard

SHIPPED = Path(__file__).parent / "bundles"
MODEL, CARD, GOLDEN, LINKS, QUERY = "model.onnx", "card.json", "golden.npz", "links.json", "query.onnx"
MAX_BYTES = {MODEL: 1 << 30, CARD: 1 << 18, GOLDEN: 1 << 26, LINKS: 1 << 22, QUERY: 1 << 30}
OLDEST_OPSET = 9
"""Of ONNX: graphs of older ones mean other things by some of the same names."""
MAX_GOLDEN_UNPACKED = 1 << 28  # bytes; 32 pictures of 1280x1280 and their outputs fit


@dataclass(frozen=True, slots=True)
class Bundle:
    """An intact bundle: its files are there, fit together and are those that were written."""

    path: Path
    card: ModelCard
    links: Links | None
    """None where the model does not embed, or nobody fitted them: the matcher refuses an embedder without."""

    @property
    def model(self) -> Path:
        """The ONNX graph."""
        return self.path / MODEL

    @property
    def query(self) -> Path:
        """The second graph of a person-search bundle."""
        return self.path / QUERY

    def golden(self) -> dict[str, NDArray[np.generic]]:
        """Arrays of golden.npz by name. Raises `BundleError` where they do not fit the card."""
        data = _read(self.path, GOLDEN)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > MAX_GOLDEN_UNPACKED:
                raise BundleError(
                    f"{self.path / GOLDEN}: {unpacked} bytes unpacked, at most {MAX_GOLDEN_UNPACKED} are read"
                )
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (
            ValueError,
            OSError,
            EOFError,
            zipfile.BadZipFile,
            zipfile.LargeZipFile,
            zlib.error,
            NotImplementedError,
        ) as error:
            raise BundleError(f"{self.path / GOLDEN}: no readable archive of arrays; {_AGAIN}") from error
        of = arrays.pop("model", None)
        if of is not None and str(of) != self.card.digest:
            raise BundleError(
                f"{self.path / GOLDEN}: golden outputs of another model ({str(of)[:12]}, the card's is {self.card.digest[:12]}); "
                f"{_AGAIN}"
            )
        _check_golden(arrays, self.card, self.path)
        return arrays

    def answers(self) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.float32]]]:
        """The golden pictures (n, H, W, 3), and by output name what the graph gave for them, n in front. Raises as `golden`."""
        arrays = self.golden()
        outputs = {name: arrays[name].astype(np.float32, copy=False) for name in self.card.outputs}
        return arrays["inputs"].astype(np.uint8, copy=False), outputs


_AGAIN = "copy the bundle again, or make it again with `sightline adopt` or `sightline export`"


def user_bundles() -> Path:
    """Where `sightline adopt` puts bundles and names are looked up after the shipped ones."""
    return platformdirs.user_data_path("sightline") / "bundles"


def load_bundle(name_or_path: str | Path, *kinds: Kind) -> Bundle:
    """Find, read and check a bundle. Raises `BundleError` where it is missing, altered, too new or none of `kinds`, if any."""
    path = _find(name_or_path)
    card = _read_card(path)
    if kinds and card.kind not in kinds:
        raise BundleError(
            f"{path}: is of kind {card.kind}, and {' or '.join(kinds)} is needed here; name another bundle"
        )
    if card.kind == "person-search" and QUERY not in card.digests:
        raise BundleError(f"{path / CARD}: names no {QUERY}, which a person search has; {_AGAIN}")
    _check_digest(path, MODEL, card.digest)
    for name, digest in card.digests.items():
        _check_digest(path, name, digest)
    return Bundle(path, card, _read_links(path, card))


def write_bundle(
    folder: Path,
    model: bytes,
    card: ModelCard,
    golden: Mapping[str, NDArray[np.generic]],
    links: Links | None = None,
    query: bytes | None = None,
) -> Bundle:
    """Write a bundle, with `query` that of a person search; the card's digests are filled in here, whatever they are.

    The card goes first when an old bundle is replaced and is written last, so a write that was cut short is refused by
    `load_bundle`. Raises `BundleError` where golden arrays or links do not fit the card, and where the card could not be read
    again; an old bundle is whole then, as it is where the disk has no room for the new one.
    """
    _check_golden(golden, card, folder)
    _check_links(links, card, folder)
    if (query is None) == (card.kind == "person-search"):
        raise BundleError(
            f"{folder}: a person search has a {QUERY}, a {card.kind} was given {query and len(query)} bytes"
        )
    files = {MODEL: model}
    if links is not None:
        files[LINKS] = msgspec.json.format(msgspec.json.encode(links)) + b"\n"
    if query is not None:
        files[QUERY] = query
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, model=np.array(hashlib.sha256(model).hexdigest()), **golden)
    files[GOLDEN] = packed.getvalue()
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    card = msgspec.structs.replace(card, digest=digests.pop(MODEL), digests=digests)
    files[CARD] = msgspec.json.format(msgspec.json.encode(card)) + b"\n"
    _card(folder, files[CARD])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / f"{name}.part").write_bytes(data)
        for stale in (CARD, LINKS, QUERY):
            (folder / stale).unlink(missing_ok=True)
        for name in files:
            (folder / f"{name}.part").replace(folder / name)
    except OSError as error:
        with suppress(OSError):  # half of them would keep a full disk full
            for name in files:
                (folder / f"{name}.part").unlink(missing_ok=True)
        raise BundleError(f"{folder}: the bundle cannot be written here ({error.strerror})") from error
    return Bundle(folder, card, links)


def synthetic_only_warning(card: ModelCard, camera_is_real: bool) -> str | None:
    """The one line for who serves real cameras with a model that saw drawn people only; None where all is well."""
    if not (card.synthetic_only and camera_is_real):
        return None
    command = {
        "detector": "sightline adopt yolox_nano.onnx --preset yolox --name yolox-nano",
        "embedder": "sightline adopt person-reidentification-retail-0287.onnx --preset omz-reid --name retail-0287",
        "person-search": "sightline train person-search --data prw --root DIR --output runs/prw",
    }[card.kind]
    return f"{card.name} saw synthetic people only, and a camera is real: `{command}` (docs/models.md says where from)"


def _find(name_or_path: str | Path) -> Path:
    """The folder of a bundle. A bare name is looked up before it is taken for a path."""
    given = Path(name_or_path)
    if isinstance(name_or_path, str) and len(given.parts) == 1 and given.name == name_or_path:
        for place in (SHIPPED, user_bundles()):
            if (place / name_or_path / CARD).is_file():
                return place / name_or_path
        if not given.exists():
            raise BundleError(
                f"no bundle is named {name_or_path!r}: there are {', '.join(names()) or 'none'}; "
                "give one of them, a folder, or make one with `sightline adopt`"
            )
    given = given.expanduser()
    if not given.exists():
        raise BundleError(f"{given}: there is no such bundle folder")
    if not given.is_dir():
        raise BundleError(
            f"{given}: is a file; a bundle is a folder with {MODEL} and {CARD}, made by `sightline adopt`"
        )
    return given


def names() -> list[str]:
    """Of the shipped bundles and the user's own."""
    return sorted({card.parent.name for place in (SHIPPED, user_bundles()) for card in place.glob(f"*/{CARD}")})


def _read(path: Path, name: str) -> bytes:
    """A file's bytes, refused before they are read where they are more than a bundle may have."""
    try:
        with (path / name).open("rb") as file:
            data = file.read(MAX_BYTES[name] + 1)
    except FileNotFoundError as error:
        raise BundleError(f"{path}: no {name} in this folder, so it is no whole bundle; {_AGAIN}") from error
    except OSError as error:
        raise BundleError(f"{path / name}: cannot be read ({error.strerror})") from error
    if len(data) > MAX_BYTES[name]:
        raise BundleError(f"{path / name}: more than {MAX_BYTES[name]} bytes, which no bundle has")
    return data


class _Version(msgspec.Struct):
    card_version: int = CARD_VERSION


def _read_card(path: Path) -> ModelCard:
    return _card(path, _read(path, CARD))


def _card(path: Path, data: bytes) -> ModelCard:
    """The card of the bundle in `path`. Raises `BundleError` where it is none, too new, or says what cannot be."""
    try:
        version = msgspec.json.decode(data, type=_Version).card_version  # first: a newer card may look quite different
        if version > CARD_VERSION:
            raise BundleError(
                f"{path / CARD}: card version {version}, this Sightline reads up to {CARD_VERSION}; upgrade Sightline"
            )
        card = msgspec.json.decode(data, type=ModelCard)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"{path / CARD}: no card of a model ({error}); {_AGAIN}") from error
    if card.opset is not None and card.opset < OLDEST_OPSET:
        raise BundleError(
            f"{path / CARD}: a graph of opset {card.opset}, at least {OLDEST_OPSET} is read; export the model again"
        )
    for size in card.input_hw:
        if not MIN_SIDE_PX <= size <= MAX_SIDE_PX:
            raise BundleError(
                f"{path / CARD}: input_hw is {card.input_hw}, each side must be {MIN_SIDE_PX} to {MAX_SIDE_PX} pixels"
            )
    check_defaults(card.name, card.kind, card.defaults)
    return card


def _read_links(path: Path, card: ModelCard) -> Links | None:
    if not (path / LINKS).exists():
        if LINKS in card.digests:
            raise BundleError(f"{path}: no {LINKS} in this folder, though its card names one; {_AGAIN}")
        return None
    if LINKS not in card.digests:
        raise BundleError(
            f"{path / LINKS}: the card names no such file, so nobody vouches for it; remove it, or {_AGAIN}"
        )
    try:
        links = msgspec.json.decode(_read(path, LINKS), type=Links)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"{path / LINKS}: no fitted links ({error}); {_AGAIN}") from error
    _check_links(links, card, path)
    return links


def _check_digest(path: Path, name: str, expected: str) -> None:
    if name not in MAX_BYTES:
        raise BundleError(f"{path / CARD}: names a file {name!r} that no bundle has; {_AGAIN}")
    data = _read(path, name)
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected:
        raise BundleError(
            f"{path / name}: altered or damaged: its SHA-256 begins {digest[:12]}, the card says {expected[:12]}, "
            f"which looks like {damage(name, data, digest, expected)}; {_AGAIN}"
        )


def _check_golden(arrays: Mapping[str, NDArray[np.generic]], card: ModelCard, path: Path) -> None:
    """Raises `BundleError` where a golden array is missing or its shape is not the card's."""
    inputs = arrays.get("inputs")
    n = 0 if inputs is None else len(inputs)
    shapes = {"inputs": (n, *card.input_hw, 3)} | {name: (n, *shape) for name, shape in card.outputs.items()}
    for name, shape in shapes.items():
        got = None if name not in arrays else arrays[name].shape
        if got != shape or n == 0:
            raise BundleError(
                f"{path / GOLDEN}: {name} has shape {got}, the card asks for {shape} and at least one; {_AGAIN}"
            )
    if inputs is not None and inputs.dtype != np.uint8:
        raise BundleError(f"{path / GOLDEN}: inputs are {inputs.dtype}, expected uint8; {_AGAIN}")


def _check_links(links: Links | None, card: ModelCard, path: Path) -> None:
    if links is None:
        return
    if card.embedding_size is None:
        raise BundleError(f"{path / LINKS}: a {card.kind} that embeds nothing has no links; remove the file")
    if len(links.mean) != card.embedding_size or not np.isfinite(links.mean).all():
        raise BundleError(
            f"{path / LINKS}: mean has {len(links.mean)} values, expected {card.embedding_size} finite ones; {_AGAIN}"
        )
