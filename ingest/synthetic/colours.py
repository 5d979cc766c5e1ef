"""Colours as people wear them: half of all cloth is dark or neutral, loud colours are rare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Colour = NDArray[np.float64]

_CLOTH: dict[str, tuple[tuple[int, int, int], float, float]] = {
    # name: (red, green, blue), how often as a top, how often as trousers
    "black": ((26, 26, 29), 15, 24),
    "charcoal": ((58, 60, 64), 7, 10),
    "grey": ((118, 120, 122), 8, 8),
    "light grey": ((178, 179, 180), 5, 3),
    "white": ((226, 226, 222), 12, 3),
    "cream": ((214, 203, 178), 3, 2),
    "navy": ((32, 40, 72), 9, 12),
    "dark denim": ((46, 58, 86), 4, 12),
    "denim": ((88, 112, 150), 5, 12),
    "pale denim": ((146, 168, 194), 3, 4),
    "khaki": ((158, 138, 102), 4, 7),
    "camel": ((172, 126, 78), 4, 2),
    "brown": ((88, 62, 46), 4, 4),
    "olive": ((84, 88, 56), 4, 4),
    "burgundy": ((98, 30, 44), 3, 2),
    "red": ((186, 36, 40), 4, 1),
    "rust": ((168, 82, 44), 2, 1),
    "orange": ((226, 124, 42), 1.5, 0.3),
    "mustard": ((204, 158, 50), 2, 0.6),
    "yellow": ((234, 212, 88), 1.5, 0.3),
    "lime": ((168, 204, 70), 0.8, 0.2),
    "green": ((52, 118, 72), 3, 0.8),
    "teal": ((30, 112, 120), 2.5, 0.8),
    "sky": ((128, 180, 218), 4, 0.8),
    "blue": ((40, 84, 178), 5, 2),
    "violet": ((104, 70, 148), 2, 0.6),
    "lilac": ((178, 160, 208), 1.5, 0.4),
    "pink": ((226, 150, 170), 3, 0.7),
    "magenta": ((196, 50, 122), 1.5, 0.4),
}
_NAMES = tuple(_CLOTH)
_TOP = np.array([_CLOTH[name][1] for name in _NAMES]) / sum(entry[1] for entry in _CLOTH.values())
_BOTTOM = np.array([_CLOTH[name][2] for name in _NAMES]) / sum(entry[2] for entry in _CLOTH.values())

_SKIN = np.array(
    [[242, 208, 184], [228, 186, 156], [212, 164, 130], [186, 134, 100], [150, 102, 72], [112, 74, 54], [80, 54, 42]],
    np.float64,
)
_HAIR = np.array(
    [
        [22, 20, 20],
        [44, 32, 26],
        [72, 50, 36],
        [108, 78, 52],
        [150, 116, 74],
        [204, 172, 116],
        [138, 66, 36],
        [150, 150, 150],
        [206, 204, 200],
    ],
    np.float64,
)
_HAIR_SHARE = np.array([0.27, 0.24, 0.16, 0.09, 0.06, 0.06, 0.03, 0.06, 0.03])


def _near(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    """The same colour a little lighter or darker, warmer or colder."""
    own = colour * np.exp(rng.normal(0, spread)) * np.exp(rng.normal(0, spread * 0.35, 3)) + rng.normal(0, 3)
    return np.asarray(np.clip(own, 6, 245))


def draw_top_colour(rng: np.random.Generator) -> Colour:
    """(3,) RGB of a shirt, jacket, dress or hat."""
    if rng.random() < 0.06:
        return rng.uniform(15, 235, 3)
    return _near(rng, np.array(_CLOTH[_NAMES[rng.choice(len(_NAMES), p=_TOP)]][0], np.float64), 0.14)


def draw_bottom_colour(rng: np.random.Generator) -> Colour:
    """(3,) RGB of trousers, shorts, skirts, shoes and bags."""
    if rng.random() < 0.04:
        return rng.uniform(15, 220, 3)
    return _near(rng, np.array(_CLOTH[_NAMES[rng.choice(len(_NAMES), p=_BOTTOM)]][0], np.float64), 0.14)


def draw_skin(rng: np.random.Generator) -> Colour:
    """(3,) RGB of skin."""
    at = rng.beta(1.1, 1.5) * (len(_SKIN) - 1.001)
    low = int(at)
    return _near(rng, _SKIN[low] + (at - low) * (_SKIN[low + 1] - _SKIN[low]), 0.05)


def draw_hair(rng: np.random.Generator) -> Colour:
    """(3,) RGB of hair; now and then a dyed one."""
    if rng.random() < 0.02:
        return rng.uniform(30, 220, 3)
    return _near(rng, _HAIR[rng.choice(len(_HAIR), p=_HAIR_SHARE)], 0.12)


def partner(rng: np.random.Generator, colour: Colour) -> Colour:
    """A second colour for a pattern on `colour`: white, black, a shade of it, or another cloth's."""
    kind = rng.random()
    if kind < 0.25:
        return np.full(3, rng.uniform(200, 240)) if colour.mean() < 150 else np.full(3, rng.uniform(15, 60))
    if kind < 0.55:
        return np.clip(colour * (rng.uniform(1.4, 2.2) if colour.mean() < 110 else rng.uniform(0.4, 0.72)) + 8, 8, 245)
    return draw_top_colour(rng)


@dataclass(frozen=True, slots=True, eq=False)
class Wardrobe:
    """The colours of one person's clothes, (3,) float64 RGB each. People drawn from one wardrobe look alike."""

    top: Colour
    outer: Colour
    bottom: Colour
    shoes: Colour


def draw_wardrobe(rng: np.random.Generator) -> Wardrobe:
    """The colours of a random person's clothes."""
    top, bottom = draw_top_colour(rng), draw_bottom_colour(rng)
    if rng.random() < 0.12:
        bottom = _near(rng, top, 0.08)
    outer = _near(rng, draw_bottom_colour(rng) if rng.random() < 0.6 else draw_top_colour(rng), 0.05)
    kind = rng.random()
    shoes = np.full(3, 228.0) if kind < 0.25 else np.full(3, 28.0) if kind < 0.6 else draw_bottom_colour(rng)
    return Wardrobe(top, outer, bottom, _near(rng, shoes, 0.08))
