"""A model in another precision: the graph rewritten, proved against the same golden outputs, and bundled."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from rich.console import Console

from deploy import backends, gate, metadata, search_people
from deploy.adopt_links import read_picture
from deploy.adopting import check_named
from deploy.backends.pixels import fit_of, scaled
from deploy.backends.query import QueryRuntime
from deploy.bundle import Bundle, load_bundle, write_bundle
from deploy.precision import LEAST_PICTURES, convert, convert_search
from deploy.precision_int8 import Report
from deploy.searcher import Searcher, golden_cosine
from deploy.training import Bar, check_output
from stream.errors import BundleError, DataError, UsageError
from stream.model import Backend, Kind, ModelCard, Precision

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

PICTURES = 128
"""Calibration pictures that are drawn, and at most read from a folder."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a float32 graph is made into."""

    precision: Precision
    """fp16 or int8."""
    calibration: U8
    """(n, H, W, 3), for `deploy.precision.convert`."""
    report: Report


def proved(
    model: bytes, card: ModelCard, expected: Mapping[str, F32], golden: U8, conversion: Conversion
) -> tuple[bytes, ModelCard, str]:
    """The graph in another precision, its card and in which runtimes (all that are here) it has passed the gate of that precision."""
    try:
        model = convert(model, conversion.precision, conversion.calibration, conversion.report, card)
    except BundleError as error:
        raise BundleError(f"{card.name}: {error}") from error
    card = msgspec.structs.replace(card, precision=conversion.precision)
    return model, card, _passed(model, card, lambda runtime: gate.check(runtime, expected, golden))


def _passed(model: bytes, card: ModelCard, check: Callable[[Backend], None]) -> str:
    try:
        return backends.in_each(model, card, check)
    except BundleError as error:
        raise BundleError(f"{error}, {_refused(card.precision)}") from error


def _refused(precision: Precision) -> str:
    return f"in {precision}: nothing was written, {'take fp16 or keep fp32' if precision == 'int8' else 'keep fp32'}"


def convert_bundle(
    source: str, output: Path, precision: Precision, folder: Path | None, name: str, version: str, console: Console
) -> dict[str, Any]:
    """Write bundle `source` (name or folder) again in another precision, and say what it is; "" keeps name or version.

    Calibration pictures are those in `folder`, else drawn ones. Golden outputs and link rows stay what they are, those of the float32
    model.
    """
    bundle = load_bundle(source)
    card = bundle.card
    name = name or f"{card.name}-{precision}"
    check_named(name, version or card.version)
    check_output(output)
    if output.exists() and output.samefile(bundle.path):
        raise UsageError(f"--output {output} is {source} itself, which would be lost: name another folder")
    if card.precision != "fp32" or precision == "fp32":
        raise UsageError(
            f"{source} is a bundle in {card.precision} and {precision} was asked for: one in fp32 is written again with "
            "--precision fp16 or int8"
        )
    inputs, expected = bundle.answers()
    bytes_before = bundle.model.stat().st_size
    query = None
    with converting(card.kind, card.input_hw, precision, folder, console) as conversion:
        if card.kind == "person-search":
            card = msgspec.structs.replace(card, precision=precision)
            model, query, passed = _search_graphs(bundle, card, conversion)
        else:
            model, card, passed = proved(bundle.model.read_bytes(), card, expected, inputs, conversion)
    card = msgspec.structs.replace(
        card,
        name=name,
        version=version or card.version,
        scores={},  # measured in another precision
        source=f"{card.name} {card.version} ({bundle.card.digest[:12]}), sightline export --precision {precision}",
    )
    model, card = metadata.filled(model, card)
    if query is None:
        write_bundle(output, model, card, bundle.golden(), bundle.links)
        written = load_bundle(output)
        backends.load(written).close()  # as whoever serves it will
    else:
        from deploy.export_search import sharing

        query, _ = metadata.filled(query, card)
        written = write_bundle(output, model, card, bundle.golden(), bundle.links, sharing(model, query))
        Searcher(load_bundle(output)).close()
    console.print(f"in {precision} it passed the gate in {passed}")
    console.print(f"{output}: {written.card.id}, {precision}, {len(model)} bytes ({bytes_before} in fp32)")
    return {"bundle": str(output), "id": written.card.id, "precision": precision, "bytes": len(model)}


def _search_graphs(bundle: Bundle, card: ModelCard, conversion: Conversion) -> tuple[bytes, bytes, str]:
    """Both graphs of a person search in another precision, and in which runtimes they have found and described the golden people again.

    `card` is that of the new bundle. Given boxes are described in ONNX Runtime alone, here and wherever they are asked for.
    """
    model = bundle.model.read_bytes()
    try:
        query = onnx.load(bundle.query).SerializeToString()  # with its weights, which lie in the other file
    except Exception as error:  # protobuf's DecodeError, and what onnx says of weights that are not there
        raise BundleError(f"{bundle.query} is no ONNX graph: make the bundle again with `sightline export`") from error
    try:
        model, query = convert_search(
            model, query, bundle.card, conversion.precision, conversion.calibration, conversion.report
        )
    except BundleError as error:
        raise BundleError(f"{bundle.path}: {error}") from error
    inputs, want = bundle.answers()
    limits = gate.LIMITS[card.precision]

    def check(runtime: Backend) -> None:
        have = runtime.infer(inputs)
        if said := search_people.differ(have, want, score=limits.score, box_px=limits.box_px, cosine=limits.cosine):
            raise BundleError(f"{bundle.path}: {said}")

    passed = _passed(model, card, check)
    cosine = golden_cosine(QueryRuntime(query, card), bundle)
    if not cosine >= limits.cosine:
        raise BundleError(
            f"{bundle.path}: vectors of given boxes have cosine {cosine:.5f} to what is expected (at least {limits.cosine}), "
            f"{_refused(card.precision)}"
        )
    return model, query, passed


@contextmanager
def converting(
    kind: Kind, size_hw: tuple[int, int], precision: Precision, folder: Path | None, console: Console
) -> Iterator[Conversion]:
    """A conversion that shows how far it is; its pictures are those in `folder`, else drawn ones."""
    calibration = calibration_pictures(kind, size_hw, folder)
    with Bar(console, f"converting to {precision}") as bar:
        yield Conversion(precision, calibration, lambda done, of, what: bar.at(done / of, f"{done} of {of} {what}"))


def calibration_pictures(kind: Kind, size_hw: tuple[int, int], folder: Path | None) -> U8:
    """(n, *size_hw, 3) pictures as a model of `kind` is given them, from a folder of crops or scenes, else drawn ones.

    Raises `DataError` for a folder with fewer than 64 of them, or with what is no picture.
    """
    if folder is None:
        from trainer.drawn import training_pictures

        pictures = training_pictures("crops" if kind == "embedder" else "scenes", PICTURES)
    else:
        pictures = _read(folder)
    return scaled(pictures, size_hw, fit_of(kind))


def _read(folder: Path) -> list[U8]:
    """RGB pictures of a folder and those in it, evenly over their names."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    some = np.linspace(0, len(paths) - 1, min(PICTURES, len(paths))).astype(int)
    if len(some) < LEAST_PICTURES:
        raise DataError(
            f"--calibration {folder}: {len(some)} .jpg and .png pictures, at least {LEAST_PICTURES} are needed"
        )
    return [read_picture(paths[place]) for place in some]
