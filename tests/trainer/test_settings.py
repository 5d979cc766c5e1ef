import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import typer

from deploy.cli import app
from deploy.training import overrides_of
from stream.errors import SettingsError
from trainer.datasets.table import REID, SEARCH, SYNTHETIC
from trainer.methods import METHODS
from trainer.settings import make_recipe, read_recipe

FOLDER = Path(__file__).parents[2] / "configs" / "train"
RECIPE_FILES = sorted(FOLDER.glob("*.toml"))
CROPS = [method for method in METHODS if method not in ("person-search", "detector")]
CROP_SETS = [name for name in REID if name not in ("folder", "msmt17-train")]  # one's own pictures; a part of msmt17
PUBLISHED = [
    *((method, name) for method in CROPS for name in CROP_SETS),
    *(("person-search", name) for name in SEARCH),
]
PUBLISHED_FILES = [path for path in RECIPE_FILES if read_recipe(path).data in {*REID, *SEARCH}]
OF_THE_SET = {
    "magnifiernet-cuhk03-labeled": {"epochs", "milestones", "stage2_from"},
    "magnifiernet-cuhk03-detected": {"epochs", "milestones", "stage2_from", "sd_weight"},
    "magnifiernet-duke": {"sd_weight"},
    "osnet-msmt17-finetune": {"epochs", "schedule", "milestones"},
}
"""Keys for which authors have other values on this set than on Market-1501."""


def head_of(path):
    """Purpose, Command and Expected of a recipe file, each as its lines."""
    parts: dict[str, list[str]] = {}
    for line in path.read_text().split("\n\n")[0].splitlines():
        word, said = re.fullmatch(r"# (\w*) +(.+)", line).groups()
        parts.setdefault(word or list(parts)[-1], []).append(said)
    return parts


@cache
def parsed(line):
    """The values that `sightline` finds in a command line; an error where it would refuse them."""
    command, words = typer.main.get_command(app()), shlex.split(line)[1:]
    while words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    return command.make_context(command.name, words).params


@pytest.mark.parametrize("path", RECIPE_FILES, ids=lambda path: path.stem)
def test_every_recipe_that_ships_is_valid_and_says_what_for(path):
    recipe = read_recipe(path)
    assert recipe.method in METHODS
    assert list(head_of(path)) == ["Purpose", "Command", "Expected"]


@pytest.mark.parametrize(
    ("method", "name"), [*PUBLISHED, *((method, SYNTHETIC) for method in (*CROPS, "person-search"))]
)
def test_every_method_has_a_recipe_for_every_data_set(method, name):
    recipe = read_recipe(FOLDER / f"{method}-{name}.toml")
    assert recipe.method == method
    assert recipe.data in (name, f"{name}-train")


@pytest.mark.parametrize("path", RECIPE_FILES, ids=lambda path: path.stem)
def test_the_command_of_a_recipe_is_one_that_trains_it(path):
    recipe, (line, *more) = read_recipe(path), head_of(path)["Command"]
    assert line.startswith("sightline train ")
    given = parsed(line)
    assert given["method"] == recipe.method
    assert given["recipe"] == Path("configs/train", path.name)
    known = {**REID, **SEARCH}.get(recipe.data)
    assert (given["root"] is None) == (known is None)
    if known:
        assert path.stem.startswith(f"{recipe.method}-{recipe.data.removesuffix('-train')}")
        assert given["root"].name.lower().startswith(re.split("[ ,]", known.title)[0].lower())
    for hint in more:
        if "sightline data annotate" in hint:
            annotated = parsed(hint[hint.index("sightline") :])
            assert (annotated["name"], annotated["root"]) == (recipe.data, given["root"])
        for setting in re.findall(r"--set (\S+)", hint):
            read_recipe(path, overrides_of({}, [setting], from_scratch=False))


def test_no_two_recipes_train_into_one_folder():
    outputs = [parsed(head_of(path)["Command"][0])["output"] for path in RECIPE_FILES]
    assert len(set(outputs)) == len(RECIPE_FILES)


@pytest.mark.parametrize("path", PUBLISHED_FILES, ids=lambda path: path.stem)
def test_a_recipe_for_a_published_set_expects_what_the_paper_has_and_says_who_withdrew_it(path):
    recipe, head = read_recipe(path), head_of(path)
    said = " ".join(head["Expected"])
    assert re.match(r"the paper('s tables? [\dIV]+( and [IV]+)?)?: .*\d\.\d|not known: the paper", said)
    warned = "withdrew" in " ".join(head["Purpose"]) and "docs/data.md" in " ".join(head["Purpose"])
    assert warned == (recipe.data == "duke")
    labels = recipe.method in ("mgre", "magnifiernet")
    assert labels == ("sightline data annotate" in " ".join(head["Command"]))


@pytest.mark.parametrize("path", PUBLISHED_FILES, ids=lambda path: path.stem)
def test_sets_differ_in_nothing_but_what_their_authors_changed(path):
    recipe = read_recipe(path)
    if recipe.method == "person-search":
        other = read_recipe(FOLDER / "person-search-prw.toml")
    else:
        other = read_recipe(FOLDER / f"{recipe.method}-market1501{'-finetune' * path.stem.endswith('-finetune')}.toml")
    differing = {key for key, value in recipe if value != getattr(other, key)} - {"data"}
    assert differing == OF_THE_SET.get(path.stem, set())


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
        pytest.param(b"", 'recipe.toml names no method: add the line method = "osnet"', id="empty"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        read_recipe(path)
