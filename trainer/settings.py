"""Recipes: what a training run is made of. A TOML file in configs/train/ holds one; the command line overrides single keys.

What a method adds to these keys stands on top of its own file in trainer/methods/.
"""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from stream.errors import SettingsError
from stream.settings import Section
from trainer.methods import METHODS, method_module

Side = Annotated[int, Field(ge=32, le=1536, multiple_of=16)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class Recipe(Section):
    """What every method has. The docstring below a key is what `sightline methods --keys` says of it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    method: str
    input_hw: tuple[Side, Side]
    """Height and width of what the network sees."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    data: str = "synthetic"
    """Name of a data set, as `sightline data inspect` knows them."""
    root: str = ""
    """Folder of the data set; empty for synthetic."""
    people: Annotated[int, Field(ge=0)] = 0
    """Synthetic: how many people are drawn. Any other set: only so many identities are taken, 0: all."""
    sites: Annotated[int, Field(ge=0)] = 0
    """Synthetic: how many sites are drawn besides."""
    start: str = ""
    """A checkpoint.pt whose weights are begun with."""
    weights: str = ""
    """``imagenet`` (torchvision's), a file of weights, or empty: from scratch."""
    calm: bool = False
    """Every residual block begins as its shortcut alone (`trainer.calm`): for networks that begin with random weights."""
    epochs: Count
    """Length of the whole schedule."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0, lt=1)]
    clip_norm: Weight = 0.0
    """Gradients longer than this are shortened; 0: never."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Arithmetic of the network (autocast); losses, weights and the optimiser are fp32."""
    accumulate: Count = 1
    """Batches whose gradients make one step of the optimiser."""
    val_ids: Annotated[int, Field(ge=0)] = 0
    """So many training people are held out, and best.pt is what finds them best (mAP); 0: nobody, then the lowest loss counts."""
    val_every: Count = 5
    """Epochs between two looks at the people held out."""


def read_recipe(path: Path, overrides: Mapping[str, Any] | None = None, asked: str = "osnet") -> Recipe:
    """A recipe file, with the given keys replaced. Unknown keys are refused with the nearest known one.

    Where the file names no method, the error says to write `asked` into it.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"the recipe {path} cannot be read ({error.strerror}): name a .toml file such as configs/train/osnet.toml"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the recipe {path} is not TOML: {error}") from error
    if "method" not in values:
        raise SettingsError(f'the recipe {path} names no method: add the line method = "{asked}"')
    return make_recipe({**values, **(overrides or {})}, str(path))


def make_recipe(values: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from its keys and values; `where` is named in the error."""
    method = values.get("method")
    if not isinstance(method, str) or method not in METHODS:
        raise SettingsError(f"{where}: method is {method!r}, expected one of {', '.join(METHODS)}")
    kind: type[Recipe] = method_module(method).RECIPE
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, kind.model_fields, 1)
            hint = f": did you mean {near[0]}?" if near else f": known are {', '.join(sorted(kind.model_fields))}"
            raise SettingsError(f"{where}: unknown key {key}{hint}") from error
        said = first["msg"].removeprefix("Value error, ")
        if not key:  # keys that do not go together
            raise SettingsError(f"{where}: {said}") from error
        raise SettingsError(f"{where}: {key} = {first['input']!r} is refused: {said}") from error
