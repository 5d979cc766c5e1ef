"""What cloth looks like: patterns, prints and folds on small textures indexed by height and angle.

A texture is (64, 64, 5) uint8: red, green, blue, and the slope of the cloth across and along (128 is flat). Column 0 is
the back's seam, column 32 the front; row 0 is the top.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.colours import Colour, partner

Sheet = NDArray[np.float64]
Texture = NDArray[np.uint8]
Folds = Literal["torso", "limb", "trousers", "skirt", "knit", "puffer", "smooth", "hair", "curls"]

SIZE = 64
_KINDS: tuple[Folds, ...] = ("torso", "limb", "trousers", "skirt", "knit", "puffer", "smooth", "hair", "curls")
_VARIANTS = 8
PATTERNS = (
    "plain",
    "stripes",
    "pinstripes",
    "checks",
    "plaid",
    "dots",
    "blotches",
    "two-tone",
    "melange",
    "bands",
    "fade",
)
_PATTERN_SHARE = np.array([0.50, 0.09, 0.03, 0.05, 0.06, 0.03, 0.06, 0.06, 0.07, 0.03, 0.02])

_V, _U = (np.mgrid[0:SIZE, 0:SIZE] + 0.5) / SIZE


def noise(rng: np.random.Generator, across: float, along: float, slant: float = 0.0) -> Sheet:
    """Smooth noise that closes round the body, zero mean and unit spread.

    Args:
        across, along: how many waves go round and from top to bottom.
        slant: how far waves lean.
    """
    v, u = np.fft.fftfreq(SIZE)[:, None] * SIZE, np.fft.fftfreq(SIZE)[None] * SIZE
    gain = np.exp(-0.5 * ((u / across) ** 2 + ((v + slant * u) / along) ** 2))
    gain[0, 0] = 0
    wave = np.fft.ifft2(np.fft.fft2(rng.standard_normal((SIZE, SIZE))) * gain).real
    return np.asarray(wave / (wave.std() + 1e-9))


@lru_cache(maxsize=1)
def _bank() -> dict[Folds, NDArray[np.float64]]:
    """For each kind of fold, eight (64, 64, 3) sheets: shade, slope across, slope along. The same on every machine."""
    rng = np.random.default_rng(20)
    bank: dict[Folds, NDArray[np.float64]] = {}
    for kind in _KINDS:
        sheets = np.empty((_VARIANTS, SIZE, SIZE, 3))
        for index in range(_VARIANTS):
            height = _relief(rng, kind)
            sheets[index, ..., 0] = height
            sheets[index, ..., 1] = (np.roll(height, -1, 1) - np.roll(height, 1, 1)) * 0.5
            sheets[index, 1:-1, :, 2] = (height[2:] - height[:-2]) * 0.5
            sheets[index, [0, -1], :, 2] = 0
        bank[kind] = sheets
    return bank


def _relief(rng: np.random.Generator, kind: Folds) -> Sheet:
    v = _V
    if kind == "torso":
        lean = noise(rng, 5, 4, rng.choice([-1.2, 1.2])) * (0.5 + 0.5 * v) + 0.5 * noise(rng, 3, 9) * np.exp(
            -(((v - 0.75) / 0.2) ** 2)
        )
        return np.asarray(0.8 * lean + 0.35 * noise(rng, 9, 6))
    if kind == "limb":
        bend = np.exp(-(((v - 0.45) / 0.16) ** 2)) + 0.8 * np.exp(-(((v - 0.95) / 0.12) ** 2))
        return np.asarray(0.5 * noise(rng, 3, 4) + bend * noise(rng, 2, 13))
    if kind == "trousers":
        bend = (
            0.8 * np.exp(-(((v - 0.52) / 0.1) ** 2))
            + 1.2 * np.exp(-(((v - 0.97) / 0.1) ** 2))
            + 0.5 * np.exp(-((v / 0.12) ** 2))
        )
        crease = 0.5 * np.exp(-(((_U - 0.5) / 0.03) ** 2)) * rng.choice([0.0, 1.0])
        return np.asarray(0.5 * noise(rng, 3, 2) + bend * noise(rng, 2, 12) + crease)
    if kind == "skirt":
        pleats = np.cos(2 * np.pi * (int(rng.integers(6, 16)) * _U) + 1.2 * noise(rng, 2, 1))
        return np.asarray(rng.uniform(0.4, 1.3) * pleats * np.clip(v * 1.3 + 0.1, 0, 1) + 0.4 * noise(rng, 4, 2))
    if kind == "knit":
        return np.asarray(0.35 * noise(rng, 4, 4) + 0.25 * np.sin(2 * np.pi * 16 * _U) + 0.2 * noise(rng, 20, 20))
    if kind == "puffer":
        rows = int(rng.integers(6, 12))
        return np.asarray(2.2 * np.abs(np.sin(np.pi * rows * v)) ** 0.6 + 0.35 * noise(rng, 8, 8))
    if kind == "hair":
        return np.asarray(0.9 * noise(rng, 14, 1.5) + 0.3 * noise(rng, 4, 2))
    if kind == "curls":
        return np.asarray(1.1 * noise(rng, 11, 11))
    return np.asarray(0.25 * noise(rng, 3, 3))


def finish(rng: np.random.Generator, sheet: Sheet, folds: Folds, depth: float = 1.0) -> Texture:
    """Lay folds of a kind and depth on painted cloth: (64, 64, 5) uint8."""
    fold = np.roll(
        _bank()[folds][rng.integers(_VARIANTS)], int(rng.integers(SIZE)) if folds != "trousers" else 0, axis=1
    )
    texture = np.empty((SIZE, SIZE, 5), np.uint8)
    shade = 1 + 0.06 * depth * np.clip(fold[..., :1], -2.2, 1.6)
    texture[..., :3] = np.clip(sheet * shade + rng.normal(0, 1.5, (SIZE, SIZE, 1)), 0, 255)
    texture[..., 3:] = np.clip(128 + fold[..., 1:] * 80 * depth, 8, 248)
    return texture


def levels(textures: list[Texture]) -> tuple[Texture, ...]:
    """The textures in full, half, quarter and eighth size, each (T, h, w, 5)."""
    out = [np.stack(textures)]
    for _ in range(3):
        fine = out[-1].astype(np.uint16)
        mean = (fine[:, ::2, ::2] + fine[:, 1::2, ::2] + fine[:, ::2, 1::2] + fine[:, 1::2, 1::2] + 2) >> 2
        out.append(mean.astype(np.uint8))
    return tuple(out)


def plain(colour: Colour) -> Sheet:
    """(64, 64, 3) of one colour."""
    return np.broadcast_to(colour, (SIZE, SIZE, 3)).copy()


def draw_pattern(rng: np.random.Generator) -> str:
    """The name of a pattern, plain half of the time."""
    return str(PATTERNS[rng.choice(len(PATTERNS), p=_PATTERN_SHARE)])


def cloth(rng: np.random.Generator, colour: Colour, pattern: str, scale: float = 1.0) -> Sheet:
    """Cloth of a colour in a pattern, (64, 64, 3).

    Args:
        scale: repeats per texture; sleeves have fewer than the trunk.
    """
    other = partner(rng, colour)
    third = partner(rng, colour)
    base = plain(colour)
    if pattern == "plain":
        return base
    if pattern in ("stripes", "bands"):
        count = float(rng.integers(5, 14)) * scale if pattern == "stripes" else float(rng.integers(1, 4)) * scale
        turn = (_V * count + rng.random()) % 1
        width = rng.uniform(0.25, 0.6)
        mask = turn < width
        if rng.random() < 0.3:
            base[(turn > width) & (turn < width + 0.15)] = third
    elif pattern == "pinstripes":
        mask = (_U * max(4, round(float(rng.integers(12, 22)) * scale))) % 1 < rng.uniform(0.2, 0.5)
    elif pattern == "checks":
        squares = max(2, round(float(rng.integers(6, 16)) * scale))
        mask = ((_U * squares % 1 < 0.5) ^ (_V * squares % 1 < 0.5)) if rng.random() < 0.5 else None
        if mask is None:
            cover = 0.5 * ((_U * squares % 1 < 0.5).astype(float) + (_V * squares % 1 < 0.5))
            return np.asarray(base * (1 - cover[..., None]) + other * cover[..., None])
    elif pattern == "plaid":
        count, wide = float(max(2, round(float(rng.integers(4, 10)) * scale))), rng.uniform(0.3, 0.55)
        cover = 0.4 * ((_U * count % 1 < wide).astype(float) + (_V * count % 1 < wide))
        sheet = base * (1 - cover[..., None]) + other * cover[..., None]
        line = (np.abs(_U * count % 1 - 0.75) < 0.06) | (np.abs(_V * count % 1 - 0.75) < 0.06)
        sheet[line] = 0.5 * sheet[line] + 0.5 * third
        return np.asarray(sheet)
    elif pattern == "dots":
        count = float(max(3, round(float(rng.integers(8, 16)) * scale)))
        mask = ((_U * count % 1 - 0.5) ** 2 + ((_V * count + 0.5 * np.floor(_U * count)) % 1 - 0.5) ** 2) < rng.uniform(
            0.03, 0.12
        )
    elif pattern == "blotches":
        size = rng.uniform(3, 9)
        field = noise(rng, size, size)
        mask = field > rng.uniform(-0.2, 0.8)
        base[field < rng.uniform(-1.8, -0.7)] = third
    elif pattern == "two-tone":
        mask = rng.uniform(0.2, 0.6) > _V if rng.random() < 0.7 else np.abs(_U - 0.5) > rng.uniform(0.12, 0.3)
    elif pattern == "fade":
        cover = np.clip((_V - 0.2) / 0.6, 0, 1)[..., None]
        return np.asarray(base * (1 - cover) + other * cover)
    else:  # melange
        return np.asarray(np.clip(base * (1 + rng.uniform(0.06, 0.16) * noise(rng, 14, 14)[..., None]), 0, 255))
    base[mask] = other
    return base


def add_print(rng: np.random.Generator, sheet: Sheet, colour: Colour, front: bool) -> None:
    """Put a picture, letters or a logo on the chest, or on the back (in place)."""
    ink, second = partner(rng, colour), partner(rng, colour)
    wide, high = int(rng.integers(8, 19)), int(rng.integers(7, 22))
    stamp = np.zeros((high, wide, 3)) + ink
    kind = rng.integers(4)
    mask = np.ones((high, wide), bool)
    y, x = (np.mgrid[0:high, 0:wide] + 0.5) / np.array([high, wide])[:, None, None] - 0.5
    if kind == 0:
        mask = x**2 + y**2 < 0.25
        stamp[(x**2 + y**2) < rng.uniform(0.02, 0.12)] = second
    elif kind == 1:  # rows of letters
        mask = rng.random((high, wide)) < 0.62
        mask[2::4] = mask[3::4] = False
    elif kind == 2:
        stamp[rng.random((high, wide)) < 0.4] = second
        stamp[: high // 2] = 0.6 * stamp[: high // 2] + 0.4 * rng.uniform(10, 240, 3)
    else:
        mask = np.abs(x) + np.abs(y) < 0.5 if rng.random() < 0.5 else np.abs(y) < 0.2
    top = int(rng.integers(14, 24))
    middle = 32 if front else 0
    columns = (np.arange(wide) - wide // 2 + middle) % SIZE
    area = sheet[top : top + high, columns]
    area[mask] = stamp[mask]
    sheet[top : top + high, columns] = area


def open_front(rng: np.random.Generator, sheet: Sheet, inner: Sheet, width: float) -> None:
    """Show what is worn under an open jacket, `width` of the way round at the hem (in place)."""
    edge = width * (0.55 + 0.6 * _V) + 0.006 * noise(rng, 2, 3)
    away = np.abs(_U - 0.5)
    sheet[away < edge] = inner[away < edge]
    sheet[(away >= edge) & (away < edge + 0.03)] *= rng.uniform(0.55, 1.25)


def add_collar(rng: np.random.Generator, sheet: Sheet, skin: Colour, depth: float, kind: str) -> None:
    """Cut the neck: "round", "v", "shirt" (with a collar and buttons) or "high" (in place). `depth` in rows of the texture."""
    away = np.abs(_U - 0.5)
    if kind in ("round", "v"):
        cut = (
            depth / SIZE * (1 - away / 0.22)
            if kind == "v"
            else depth / SIZE * np.sqrt(np.clip(1 - (away / 0.22) ** 2, 0, 1))
        )
        sheet[(cut + 0.02 > _V) & (away < 0.24)] *= 0.8
        sheet[(np.maximum(cut, 0.03) > _V)] = skin * 0.93
    elif kind == "shirt":
        gap = away < 0.10 * np.clip(1 - _V / 0.16, 0, 1)
        sheet[_V < 0.10] = np.clip(sheet[_V < 0.10] * rng.uniform(1.03, 1.2), 0, 250)
        sheet[(_V > 0.09) & (_V < 0.12) & (away < 0.3)] *= 0.72
        sheet[gap] = skin * 0.9
        sheet[(away < 0.012) & (_V > 0.12)] *= 0.7
        sheet[(away < 0.02) & (_V > 0.14) & ((_V * 11) % 1 < 0.16)] *= 1.35 if sheet.mean() < 110 else 0.6
    else:
        sheet[_V < 0.10] *= rng.uniform(0.82, 1.1)
        sheet[(_V > 0.10) & (_V < 0.125)] *= 0.7
        sheet[away < 0.012] *= 0.6 if sheet.mean() > 80 else 1.7


def add_hems(rng: np.random.Generator, sheet: Sheet, rows: int = 3) -> None:
    """A seam above the lower edge, and now and then an edge in another shade (in place)."""
    if rng.random() < 0.3:
        sheet[-rows:] = np.clip(sheet[-rows:] * rng.uniform(0.6, 1.5), 0, 250)
    sheet[-rows - 1] *= 0.8


def add_straps(sheet: Sheet, colour: Colour) -> None:
    """The two straps of a backpack over the chest (in place)."""
    away = np.abs(np.abs(_U - 0.5) - (0.135 - 0.03 * _V))
    on = (away < 0.024) & (_V < 0.55) & (np.abs(_U - 0.5) < 0.3)
    sheet[on] = colour
    sheet[(away >= 0.024) & (away < 0.036) & (_V < 0.55) & (np.abs(_U - 0.5) < 0.3)] *= 0.7
    over = (_V < 0.16) & (np.abs(np.abs(_U - 0.5) - 0.37) < 0.03)
    sheet[over] = colour


def add_sling(sheet: Sheet, colour: Colour, left: bool, wide: float) -> None:
    """The strap of a shoulder bag, across chest and back from the other shoulder down to the bag (in place)."""
    side = 1.0 if left else -1.0
    front = _U - 0.5 - side * (0.62 * (_V - 0.08) - 0.14)
    behind = ((_U + 0.5) % 1) - 0.5 + side * (0.62 * (_V - 0.08) - 0.14)
    on_front = (np.abs(front) < wide) & (np.abs(_U - 0.5) < 0.25)
    on_back = (np.abs(behind) < wide) & (np.abs(_U - 0.5) >= 0.25)
    sheet[on_front | on_back] = colour


def add_details(rng: np.random.Generator, sheet: Sheet, kind: str) -> None:
    """Pockets, belts and seams of a "jacket", of "trousers" at the "waist" or of a "leg" (in place)."""
    away = np.abs(_U - 0.5)
    if kind == "jacket":
        low = rng.uniform(0.6, 0.72)
        sheet[(np.abs(_V - low) < 0.012) & (np.abs(away - 0.14) < 0.06)] *= 0.62
        if rng.random() < 0.35:
            sheet[(np.abs(_V - 0.32) < 0.05) & (np.abs(_U - 0.6) < 0.04)] *= rng.uniform(0.7, 1.25)
    elif kind == "waist":
        if rng.random() < 0.5:
            sheet[_V < 0.14] = rng.choice([25.0, 70.0]) * np.array([1.05, 0.9, 0.8])
            sheet[(_V < 0.14) & (away < 0.03)] = 165.0
        sheet[(away < 0.008) & (_V > 0.14)] *= 0.7
        back = (np.abs(np.abs(_U - 0.5) - 0.40) < 0.045) & (np.abs(_V - 0.45) < 0.14)
        sheet[back] *= rng.uniform(0.78, 1.12)
    else:
        sheet[:, [15, 16]] *= 0.88
        if rng.random() < 0.12:  # a stripe down the outer seam
            sheet[:, 13:19] = partner(rng, sheet[0, 0])


def skin_sheet(rng: np.random.Generator, skin: Colour) -> Sheet:
    """Bare skin."""
    return np.asarray(np.clip(skin * (1 + 0.03 * noise(rng, 5, 5)[..., None]), 0, 255))


def face(
    rng: np.random.Generator,
    skin: Colour,
    hair: Colour,
    *,
    bald: bool = False,
    beard: float = 0.0,
    glasses: bool = False,
) -> Sheet:
    """Head and neck: eyes, brows, mouth, cheeks, scalp; a beard or stubble of a density from 0 to 1; glasses.

    Rows run from the crown (0) to the base of the neck (63): the hair begins at row 11, eyes lie at 22, the chin at 44.
    """
    sheet = skin_sheet(rng, skin)
    away = np.abs(_U - 0.5)
    row = _V * SIZE
    red = np.array([1.05, 0.90, 0.88])
    sheet[(np.abs(row - 29) < 3) & (np.abs(away - 0.09) < 0.035)] *= red
    sheet[np.abs(row - 22) + np.abs(away - 0.068) * 60 < 2.6] *= 0.72  # sockets
    eyes = (np.abs(row - 22) < 1.1) & (np.abs(away - 0.068) < 0.027)
    sheet[eyes] = np.where((np.abs(away - 0.068) < 0.013)[eyes][:, None], 35.0, 205.0)
    brow = 0.45 * hair + 0.15 * skin
    sheet[(np.abs(row - 18.9 + 9 * (away - 0.068)) < 0.9) & (np.abs(away - 0.072) < 0.038)] = brow
    sheet[(np.abs(row - 29.8) < 0.8) & (away < 0.028)] *= 0.72  # under the nose
    lips = skin * np.array([0.82, 0.58, 0.58]) if rng.random() < 0.8 else np.array([150.0, 40, 50])
    sheet[(np.abs(row - 34.4) + away * 25 < 2.0) & (away < 0.055)] = lips
    sheet[(np.abs(away - 0.25) < 0.03) & (np.abs(row - 23) < 4)] *= np.array([1.0, 0.88, 0.86])  # ears
    if beard > 0:
        jaw = (row > 27 + 22 * np.clip(0.14 - away, 0, 1)) & (row < 46) & (away < 0.25)
        jaw &= ~((np.abs(row - 34.4) < 1.0) & (away < 0.045))
        moustache = (np.abs(row - 32) < 1.0) & (away < 0.06)
        cover = beard * (jaw | moustache)[..., None]
        sheet = sheet * (1 - cover) + (0.75 * hair + 8) * cover
    scalp = (row < 10.5 + 14 * np.clip((away - 0.16) / 0.08, 0, 1) + 16 * np.clip((away - 0.29) / 0.06, 0, 1))[
        ..., None
    ]
    growth = float(rng.choice([0.0, 0.25, 0.5])) if bald else 0.92
    sheet = sheet * (1 - growth * scalp) + growth * scalp * hair * 0.85
    if glasses:
        rim = 25.0 if rng.random() < 0.8 else 120.0
        lens = (np.abs(row - 22.1) < 2.4) & (np.abs(away - 0.07) < 0.048)
        inside = (np.abs(row - 22.1) < 1.5) & (np.abs(away - 0.07) < 0.036)
        sheet[lens & ~inside] = rim
        sheet[inside] *= rng.choice([0.3, 0.9])
        sheet[(np.abs(row - 21.5) < 0.7) & (away < 0.25) & (away > 0.11)] = rim
    sheet[row > 46] *= 0.86
    return np.asarray(np.clip(sheet, 0, 255))


def shoe_sheet(rng: np.random.Generator, colour: Colour) -> Sheet:
    """A shoe: upper, now and then laces or a stripe, and a sole."""
    sheet = plain(colour)
    if rng.random() < 0.4:
        sheet[(np.abs(_V - 0.55) < 0.06) & (np.abs(np.abs(_U - 0.5) - 0.2) < 0.08)] = partner(rng, colour)
    if rng.random() < 0.5:
        sheet[(_V < 0.5) & (np.abs(_U - 0.5) < 0.08) & ((_V * 18) % 1 < 0.5)] = 215.0 if colour.mean() < 140 else 60.0
    sole = rng.choice([25.0, 90.0, 225.0], p=[0.45, 0.15, 0.4])
    sheet[_V > 0.80] = sole
    return sheet


def bag_sheet(rng: np.random.Generator, colour: Colour) -> Sheet:
    """A bag: flap, pocket, zip or buckle."""
    sheet = cloth(rng, colour, "plain" if rng.random() < 0.7 else draw_pattern(rng))
    if rng.random() < 0.7:
        sheet[np.abs(_V - rng.uniform(0.3, 0.55)) < 0.02] *= 0.55
    if rng.random() < 0.5:
        sheet[(_V > 0.55) & (np.minimum(_U, 1 - _U) < 0.14)] = (
            np.clip(partner(rng, colour), 0, 255) * 0.6 + 0.4 * colour
        )
    if rng.random() < 0.3:
        cv2.circle(sheet, (0, 30), 3, tuple(float(c) for c in partner(rng, colour)), -1)
    return sheet
