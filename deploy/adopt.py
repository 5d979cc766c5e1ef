"""Somebody else's ONNX model to a bundle of the house contract: how somebody with real cameras gets models of real people."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from deploy import adopt_graph, metadata
from deploy.adopt_graph import BoxFormat, Colour, Layout
from deploy.backends.onnxruntime import OnnxRuntimeBackend, run_each
from deploy.bundle import Bundle, write_bundle
from deploy.thresholds import check_defaults
from stream.errors import AdoptError, BundleError
from stream.model import IMAGENET_MEAN, IMAGENET_STD, Backend, Links, ModelCard

MAX_BATCH = {"detector": 8, "embedder": 32}  # larger ones gain nothing on a CPU and take memory
ALONE = {"embedding": 1e-4, "scores": 1e-4, "boxes": 0.05}  # how far an image in a batch may be from itself alone
ALONE_RELATIVE = 1e-3  # or in shares of the value
SHARES_END = 2.0
"""Boxes in shares of the picture end at 1 and a little beyond; in pixels, of so many boxes some end far beyond."""
SUPPRESSED = "a choice of boxes is inside; export it without, with a score per class for every box"
GOLDEN_PICTURES = 3


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a family of models takes and returns. (pixel * scale - mean) / std, in the order of `colour`."""

    kind: Literal["detector", "embedder"]
    colour: Colour = "rgb"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    boxes: BoxFormat = "xyxy"
    objectness: bool = False
    person: int = 0
    """Class of people among a detector's classes."""
    licence: str | None = None
    data_sets: tuple[str, ...] = ()
    source: str = ""


PRESETS = {
    "yolox": Recipe(
        kind="detector",
        colour="bgr",
        boxes="yolox-grid",
        objectness=True,
        licence="Apache-2.0",
        data_sets=("COCO",),
        source="YOLOX, github.com/Megvii-BaseDetection/YOLOX, releases from 0.1.1 on",
    ),
    "omz-reid": Recipe(
        kind="embedder",
        colour="bgr",
        licence="Apache-2.0",
        data_sets=("not published",),
        source="Open Model Zoo person-reidentification-retail, github.com/openvinotoolkit/open_model_zoo",
    ),
    "torchreid": Recipe(
        kind="embedder",
        colour="rgb",
        scale=1 / 255,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        licence="MIT",
        source="torchreid, github.com/KaiyangZhou/deep-person-reid",
    ),
}


@dataclass(frozen=True, slots=True)
class Adopted:
    """A bundle, and what was done to get there, in words."""

    bundle: Bundle
    notes: tuple[str, ...]


def adopt(
    data: bytes,
    recipe: Recipe,
    folder: Path,
    *,
    name: str,
    where: str,
    version: str = "1",
    licence: str | None = None,
    input_hw: tuple[int, int] | None = None,
    output: str | None = None,
    fit: Callable[[Backend], Links] | None = None,
    defaults: Mapping[str, float] | None = None,
) -> Adopted:
    """Rewrite the ONNX file `data` (called `where` in messages), try it, and write the bundle to `folder`.

    `output` picks one where the graph has several. `fit` makes an embedder's links; without it the bundle has none. `defaults`
    are thresholds for its card. Raises `AdoptError` where the file cannot be brought to the contract, `BundleError` for a
    threshold that it cannot have; nothing is written then.
    """
    licence = licence or recipe.licence
    if licence is None:
        raise AdoptError(f"{where}: under which licence is it? Say so with --licence")
    theirs = adopt_graph.parse(data, where)
    layout = adopt_graph.layout_of(theirs, where, input_hw)
    taken = _output(theirs, output, where)
    pictures = check_pictures(layout.size_hw)
    returned = _returned(theirs, layout, recipe, taken, pictures, where)
    card = ModelCard(
        name=name,
        version=version,
        kind=recipe.kind,
        input_hw=layout.size_hw,
        outputs=_outputs(recipe, returned, layout, where),
        max_batch=1,
        embedding_size=returned[1] if recipe.kind == "embedder" else None,
        precision=adopt_graph.precision_of(theirs, layout),
        synthetic_only=False,
        data_sets=recipe.data_sets,
        licence=licence,
        source=f"sightline adopt {Path(where).name}" + (f" ({recipe.source})" if recipe.source else ""),
        defaults=dict(defaults or {}),
        digest="",
    )
    check_defaults(card.name, card.kind, card.defaults)
    model, notes = _rewritten(theirs, layout, recipe, card, taken, open_batch=False)
    alone = _answers(model, card, pictures, where)
    _check_values(alone, layout, returned, where)
    opened, repairs = _rewritten(theirs, layout, recipe, card, taken, open_batch=True)
    batched = msgspec.structs.replace(card, max_batch=MAX_BATCH[recipe.kind])
    differs = _differs(opened, batched, pictures, alone)
    if differs is None:
        model, card, notes = opened, batched, [*repairs, "each image of a batch equals itself alone"]
    else:
        remedy = "; exported with an open batch axis it may take more" if layout.fixed_batch else ""
        notes = [f"takes one image at a time: in a batch {differs}{remedy}"]
    if card.precision != "fp32":
        notes.append(f"computes in {card.precision}, as the file does")
    golden: dict[str, NDArray[np.generic]] = {"inputs": pictures[:GOLDEN_PICTURES]}
    golden |= {key: array[:GOLDEN_PICTURES] for key, array in alone.items()}
    links = None
    if fit is not None and recipe.kind == "embedder":
        links = fit(OnnxRuntimeBackend(model, card))
        notes.append(f"links fitted on {links.fitted_on}")
    said = metadata.normalised(recipe.scale, recipe.mean, recipe.std, recipe.colour.upper())
    model, card = metadata.filled(model, card, said)
    return Adopted(write_bundle(folder, model, card, golden, links), tuple(notes))


def check_pictures(size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """(5, H, W, 3) seeded pictures as unlike each other as can be: dark, bright, coarse, fine, coloured."""
    rng = np.random.default_rng(0)
    pictures = np.empty((5, *size_hw, 3), np.uint8)
    for place in range(len(pictures)):
        cells = 4 << (place % 3)  # 4, 8 or 16 patches a side
        low = rng.uniform(0, 120, 3)
        coarse = rng.uniform(low, low + rng.uniform(20, 135, 3), (cells, cells, 3)).astype(np.float32)
        smooth = cv2.resize(coarse, size_hw[::-1], interpolation=(cv2.INTER_LINEAR, cv2.INTER_NEAREST)[place % 2])
        pictures[place] = (smooth + rng.normal(0, 4 * place, smooth.shape)).clip(0, 255)
    return pictures


def _output(theirs: onnx.ModelProto, wanted: str | None, where: str) -> str:
    """The graph's name of the output to take."""
    names = [one.name.removeprefix(adopt_graph.PREFIX) for one in theirs.graph.output]
    if wanted is None and len(names) > 1:
        raise AdoptError(f"{where}: returns {', '.join(names)}; choose one with --take")
    if wanted is not None and wanted not in names:
        raise AdoptError(f"{where}: returns {', '.join(names)}, no {wanted}")
    return adopt_graph.PREFIX + (wanted or names[0])


def _returned(
    theirs: onnx.ModelProto, layout: Layout, recipe: Recipe, output: str, pictures: NDArray[np.uint8], where: str
) -> tuple[int, ...]:
    """The shape that the graph really returns for one image; it must be the declared one, and the same for every image."""
    model = onnx.ModelProto()
    model.CopyFrom(theirs)
    adopt_graph.pin_batch(model)
    _take_pixels(model, layout, recipe)
    black = np.zeros_like(pictures[:1])
    try:
        given = [each[output] for each in run_each(model.SerializeToString(), np.concatenate([black, pictures]))]
    except BundleError as error:
        raise AdoptError(f"{where}: {str(error).partition(': ')[2]}") from error
    returned = given[0].shape
    declared = adopt_graph.declared_shape(theirs, output)
    if declared and (
        len(declared) != len(returned)
        or any(a not in (None, b) for a, b in zip(declared[1:], returned[1:], strict=True))
    ):
        raise AdoptError(
            f"{where}: declares an output {adopt_graph.said(declared)} and returns {adopt_graph.said(returned)}; export it again"
        )
    if other := [one.shape for one in given if one.shape != returned]:
        hint = SUPPRESSED if recipe.kind == "detector" else "expected one vector per image"
        raise AdoptError(
            f"{where}: returns {adopt_graph.said(returned)} for one picture and {adopt_graph.said(other[0])} for another: {hint}"
        )
    if recipe.kind == "detector" and len(returned) == 3:
        _check_scores(np.concatenate(given), where)
    return tuple(returned)


def _check_scores(given: NDArray[np.float32], where: str) -> None:
    """Raises `AdoptError` where one of the values behind a box, (n, boxes, 4 + more), is the number of its class."""
    for place in range(4, given.shape[2]):
        values = given[:, :, place]
        if values.max(initial=0) > 1 and np.all(values == np.rint(values)):
            raise AdoptError(
                f"{where}: value {place + 1} of a box is a whole number up to {values.max():.0f}, its class it seems: {SUPPRESSED}"
            )


def _outputs(recipe: Recipe, returned: tuple[int, ...], layout: Layout, where: str) -> dict[str, tuple[int, ...]]:
    """The contract's outputs, sized by what the graph returns. Raises `AdoptError` where that is no answer of its kind."""
    said = f"{where}: returns {adopt_graph.said(returned)}"
    if recipe.kind == "embedder":
        if len(returned) < 2 or returned[0] != 1 or any(size != 1 for size in returned[2:]):
            raise AdoptError(f"{said}, expected one vector per image: (1, D)")
        if not 8 <= returned[1] <= 8192:
            raise AdoptError(f"{said}, expected vectors of 8 to 8192 values")
        return {"embedding": (returned[1],)}
    values = 4 + recipe.objectness + recipe.person + 1
    if len(returned) != 3 or returned[0] != 1 or returned[2] < values:
        raise AdoptError(f"{said}, expected (1, boxes, at least {values} values), a box and its scores in one output")
    if recipe.boxes == "yolox-grid" and returned[1] != adopt_graph.anchors_of(layout.size_hw):
        h, w = layout.size_hw
        raise AdoptError(f"{said}, expected {adopt_graph.anchors_of(layout.size_hw)} boxes, YOLOX's for {h}x{w}")
    return {"boxes": (returned[1], 4), "scores": (returned[1],)}


def _rewritten(
    theirs: onnx.ModelProto, layout: Layout, recipe: Recipe, card: ModelCard, output: str, *, open_batch: bool
) -> tuple[bytes, list[str]]:
    """The graph by the house contract, with an open batch or pinned to one image, and what was repaired for it."""
    model = onnx.ModelProto()
    model.CopyFrom(theirs)
    notes = adopt_graph.open_batch(model, layout) if open_batch else adopt_graph.pin_batch(model)
    _take_pixels(model, layout, recipe)
    if recipe.kind == "embedder":
        adopt_graph.give_embedding(model, output, card.outputs["embedding"][0])
    else:
        adopt_graph.give_boxes(
            model,
            output,
            card.outputs["scores"][0],
            size_hw=layout.size_hw,
            boxes=recipe.boxes,
            objectness=recipe.objectness,
            person=recipe.person,
        )
    return model.SerializeToString(), notes


def _take_pixels(model: onnx.ModelProto, layout: Layout, recipe: Recipe) -> None:
    adopt_graph.take_pixels(model, layout, colour=recipe.colour, scale=recipe.scale, mean=recipe.mean, std=recipe.std)


def _answers(model: bytes, card: ModelCard, pictures: NDArray[np.uint8], where: str) -> dict[str, NDArray[np.float32]]:
    try:
        return OnnxRuntimeBackend(model, card).infer(pictures)
    except BundleError as error:
        raise AdoptError(f"{where}: {str(error).partition(': ')[2]}") from error


def _check_values(
    answers: dict[str, NDArray[np.float32]], layout: Layout, returned: tuple[int, ...], where: str
) -> None:
    """Raises `AdoptError` where the values cannot be what they are declared to be: usually the wrong preset."""
    for name, array in answers.items():
        if not np.isfinite(array).all():
            raise AdoptError(f"{where}: {name} is not finite for ordinary pictures; is this its preset?")
    if "embedding" in answers:
        vectors = answers["embedding"]
        if float((vectors @ vectors.T).min()) > 1 - 1e-4:
            raise AdoptError(
                f"{where}: gives the same vector for unlike pictures; is this its preset, its colour scale?"
            )
        return
    scores, boxes = answers["scores"], answers["boxes"]
    if scores.min() < -1e-3 or scores.max() > 1 + 1e-3:
        hint = ""
        if returned[1] < returned[2]:
            hint = f"; it returns {adopt_graph.said(returned)}, values before boxes it seems: export it with boxes before values"
        raise AdoptError(f"{where}: scores run from {scores.min():.2f} to {scores.max():.2f}, expected 0 to 1{hint}")
    if (largest := float(np.abs(boxes).max())) < SHARES_END:
        raise AdoptError(
            f"{where}: boxes reach to {largest:.2f}, shares of the picture it seems; expected pixels of the input, "
            f"{layout.size_hw[0]}x{layout.size_hw[1]}"
        )


def _differs(
    model: bytes, card: ModelCard, pictures: NDArray[np.uint8], alone: dict[str, NDArray[np.float32]]
) -> str | None:
    """How images in a batch of 5 or `max_batch` differ from themselves alone, in words; None where they do not."""
    for size in (len(pictures), card.max_batch):
        places = np.arange(size) % len(pictures)
        try:
            together = OnnxRuntimeBackend(model, card).infer(pictures[places])
        except BundleError:
            return f"of {size} it does not run"
        for name, array in alone.items():
            difference = np.abs(together[name] - array[places])
            if (difference > ALONE[name] + ALONE_RELATIVE * np.abs(array[places])).any():
                return f"of {size} its {name} change by up to {difference.max():.3g}"
    return None
