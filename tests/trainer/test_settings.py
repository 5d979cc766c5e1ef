from pathlib import Path

import pytest

from stream.errors import SettingsError
from trainer.methods import METHODS
from trainer.settings import make_recipe, read_recipe

RECIPE_FILES = sorted((Path(__file__).parents[2] / "configs" / "train").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPE_FILES, ids=lambda path: path.stem)
def test_every_recipe_that_ships_is_valid_and_says_what_for(path):
    recipe = read_recipe(path)
    assert recipe.method in METHODS
    head = path.read_text()
    assert all(word in head for word in ("# Purpose", "# Command", "# Expected"))


def test_the_command_line_overrides_single_keys():
    path = next(path for path in RECIPE_FILES if path.stem == "osnet")
    assert read_recipe(path, {"people": 77}).people == 77


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(SettingsError, match="unknown key peple: did you mean people"):
        make_recipe({"method": "osnet", "peple": 3}, "recipe")


def test_a_value_out_of_range_is_refused_with_what_it_is():
    with pytest.raises(SettingsError, match=r"learning_rate = 7 is refused"):
        make_recipe({"method": "detector", "learning_rate": 7}, "recipe")


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(SettingsError, match="expected one of osnet, eprinet"):
        make_recipe({"method": "resnet"}, "recipe")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "cannot be read", id="missing"),
        pytest.param(b"method = ", "is not TOML", id="no TOML"),
        pytest.param(b"\xff\xfe", "is not TOML", id="no text"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        read_recipe(path)
