"""Recipes: what a training run is made of. A TOML file in configs/train/ holds one; the command line overrides single keys."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from stream.errors import SettingsError
from stream.settings import Section

Side = Annotated[int, Field(ge=32, le=1024, multiple_of=16)]
Count = Annotated[int, Field(ge=1)]


class Recipe(Section):
    """What every method has."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    data: str = "synthetic"
    """``synthetic``, or a folder of labelled pictures (embedders: Market-1501's layout)."""
    start: str = ""
    """A checkpoint.pt whose weights are begun with; empty: random ones."""
    steps: Count = 10000
    """Length of the whole schedule in optimiser steps."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-3
    warmup: Annotated[float, Field(ge=0, lt=0.5)] = 0.02
    """Share of the schedule over which the rate rises from 0; then it falls to 0 along a cosine."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.01
    precision: Literal["bf16", "fp32"] = "bf16"
    """Arithmetic of the network (autocast); losses, weights and the optimiser are fp32."""


class OSNetRecipe(Recipe):
    """`trainer.methods.osnet`."""

    method: Literal["osnet"] = "osnet"
    width: float = 0.25
    input_hw: tuple[Side, Side] = (128, 64)
    people: Annotated[int, Field(ge=2)] = 2000
    """Drawn single people; of a folder, all are taken."""
    sites: Annotated[int, Field(ge=0)] = 12
    """Drawn sites, each with 24 people more, cut out of its cameras' pictures."""
    batch_people: Annotated[int, Field(ge=2)] = 24
    batch_pictures: Annotated[int, Field(ge=2)] = 4
    softmax_scale: Annotated[float, Field(gt=0)] = 20.0
    triplet_weight: Annotated[float, Field(ge=0)] = 0.5
    triplet_from: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Share of the schedule after which the triplet joins: from the first step on it collapses."""


class DetectorRecipe(Recipe):
    """`trainer.methods.detector`."""

    method: Literal["detector"] = "detector"
    input_hw: tuple[Side, Side] = (256, 416)
    scenes: Count = 6000
    """Drawn random pictures."""
    sites: Annotated[int, Field(ge=0)] = 40
    """Drawn sites, each with 80 pictures more from its cameras."""
    batch: Annotated[int, Field(ge=1)] = 16
    box_weight: Annotated[float, Field(gt=0)] = 2.0


AnyRecipe = OSNetRecipe | DetectorRecipe
RECIPES: dict[str, type[OSNetRecipe] | type[DetectorRecipe]] = {"osnet": OSNetRecipe, "detector": DetectorRecipe}


def read_recipe(path: Path, overrides: dict[str, Any] | None = None) -> AnyRecipe:
    """A recipe file, with the given keys replaced. Unknown keys are refused with the nearest known one."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"the recipe {path} cannot be read ({error.strerror}): name a .toml file such as configs/train/osnet.toml"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the recipe {path} is not TOML: {error}") from error
    return make_recipe(values | (overrides or {}), str(path))


def make_recipe(values: dict[str, Any], where: str) -> AnyRecipe:
    """A recipe from its keys and values; `where` is named in the error."""
    method = values.get("method")
    if method not in RECIPES:
        raise SettingsError(f"{where}: method is {method!r}, expected one of {', '.join(RECIPES)}")
    kind = RECIPES[method]
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, kind.model_fields, 1)
            hint = f": did you mean {near[0]}?" if near else f": known are {', '.join(sorted(kind.model_fields))}"
            raise SettingsError(f"{where}: unknown key {key}{hint}") from error
        raise SettingsError(f"{where}: {key} = {first['input']!r} is refused: {first['msg']}") from error
