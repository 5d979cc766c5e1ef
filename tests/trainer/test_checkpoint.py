"""The file of a run: what is damaged or malformed is refused in one line, and what the weights have seen goes with them."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.cli import status_of
from stream.errors import DataError, TrainingError
from trainer import checkpoint
from trainer.checkpoint import Checkpoint

NETWORK = {"layer.weight": torch.arange(300.0).reshape(20, 15), "layer.bias": torch.ones(20)}
RECIPE = {"method": "osnet", "data": "market1501"}
WHOLE = {
    "version": checkpoint.VERSION, "recipe": json.dumps(RECIPE), "progress": 1.0, "step": 7, "network": NETWORK,
    "optimiser": {"state": {}, "param_groups": []}, "sampler": {"epoch": 1, "place": 2}, "history": [{"step": 1.0}],
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "checkpoint.pt"
    checkpoint.save(path, Checkpoint(RECIPE, 1.0, 7, NETWORK))
    return path


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_refused_or_has_changed_nothing_that_is_read(whole: Path, data: st.DataObject) -> None:
    content = bytearray(whole.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    altered = whole.with_name("altered.pt")
    altered.write_bytes(content)
    with suppress(DataError):
        read = checkpoint.load(altered)
        assert all(torch.equal(read.network[name], value) for name, value in NETWORK.items())
        assert (read.recipe, read.step) == (RECIPE, 7)


def test_a_flipped_bit_of_a_weight_is_refused_and_the_part_is_named(whole: Path, tmp_path: Path) -> None:
    content = bytearray(whole.read_bytes())
    content[content.index(NETWORK["layer.weight"].numpy().tobytes()) + 100] ^= 1
    (tmp_path / "run.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"run\.pt .*is damaged \(its part .*data/0 is not what was written\)"):
        checkpoint.load(tmp_path / "run.pt")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"recipe": "[1]"}, "recipe", id="recipe a list"),
        pytest.param({"recipe": '{"data": "synthetic"}'}, "recipe", id="recipe without method"),
        pytest.param({"recipe": '{"method": 3}'}, "recipe", id="method a number"),
        pytest.param({"network": [1]}, "network", id="network a list"),
        pytest.param({"network": {"layer": 3}}, "network", id="weights that are none"),
        pytest.param({"head": 3}, "head", id="head a number"),
        pytest.param({"sampler": {}}, "sampler", id="sampler without a place"),
        pytest.param({"sampler": {"epoch": "one", "place": 2}}, "sampler", id="epoch a word"),
        pytest.param({"optimiser": []}, "optimiser", id="optimiser a list"),
        pytest.param({"step": None}, "step", id="no step"),
        pytest.param({"progress": "half"}, "progress", id="progress a word"),
        pytest.param({"history": {"a": 1}}, "history", id="history a dict"),
        pytest.param({"best": {"mAP": "good"}}, "best", id="best a word"),
        pytest.param({"counts": {"pictures": "many"}}, "counts", id="counts a word"),
        pytest.param({"data_sets": "market1501"}, "data_sets", id="data sets a word"),
    ],
)
def test_a_file_with_our_keys_and_other_values_is_refused_in_one_line(
    changes: dict[str, object], field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(WHOLE, path)
    assert checkpoint.load(path).step == 7
    torch.save(WHOLE | changes, path)
    for command in (["evaluate", str(path)], ["export", str(path), "--output", str(tmp_path / "b"), "--name", "x"]):
        assert status_of(command) == 1
        said = capsys.readouterr().err
        assert f"is not a checkpoint of this program or is damaged (its {field} is not one)" in said
        assert said.count("\n") == 1


def test_a_training_s_folder_stands_for_its_last_checkpoint(whole: Path, tmp_path: Path) -> None:
    folder, mean = str(whole.parent), tmp_path / "mean.pt"
    assert checkpoint.load(whole.parent).file == str(whole)
    assert status_of(["average", folder, folder, "--output", str(mean)]) == 0
    assert torch.equal(checkpoint.load(mean).network["layer.weight"], NETWORK["layer.weight"])
    before = whole.read_bytes()
    assert status_of(["average", folder, folder, "--output", str(whole)]) == 2  # read here itself
    assert whole.read_bytes() == before
    with pytest.raises(DataError, match=f"no checkpoint at {tmp_path}: "):
        checkpoint.load(tmp_path)


def test_somebody_s_weights_are_no_training_and_the_line_says_who_takes_them(tmp_path: Path) -> None:
    path = tmp_path / "osnet.pth"
    torch.save(NETWORK, path)
    with pytest.raises(DataError, match=rf"osnet\.pth is no checkpoint .* --weights {path}` begins with them$"):
        checkpoint.load(path)


def test_a_folder_in_the_file_s_place_is_said_with_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"is a folder, and a checkpoint is a file: name one, such as .*/mean\.pt"):
        checkpoint.save(tmp_path, Checkpoint(RECIPE, 1.0, 7, NETWORK))
    assert not tmp_path.with_suffix(".new").exists()


def test_what_cannot_be_put_in_its_place_leaves_no_half_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, target: Path) -> Path:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(TrainingError, match=r"run\.pt cannot be written \(Read-only file system\)"):
        checkpoint.save(tmp_path / "run.pt", Checkpoint(RECIPE, 1.0, 7, NETWORK))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        pytest.param({"data": "synthetic-mix"}, ["synthetic-mix"], id="drawn"),
        pytest.param({"data": "market1501", "weights": ""}, ["market1501"], id="real, from scratch"),
        pytest.param(
            {"data": "synthetic", "weights": "imagenet"},
            ["imagenet (weights of torchvision)", "synthetic"],
            id="drawn, from torchvision's weights",
        ),
        pytest.param(
            {"data": "synthetic", "weights": "/gone/osnet.pth"},
            ["unknown (weights osnet.pth)", "synthetic"],
            id="drawn, from somebody's weights",
        ),
        pytest.param({"data": "folder", "root": "/data/synthetic"}, ["folder synthetic"], id="a folder"),
        pytest.param({}, ["unknown"], id="nothing said"),
    ],
)
def test_an_older_checkpoint_has_seen_what_its_recipe_says(
    recipe: dict[str, str], names: list[str], tmp_path: Path
) -> None:
    old = WHOLE | {"version": 2, "recipe": json.dumps({"method": "osnet", **recipe})}
    torch.save(old, tmp_path / "old.pt")
    assert checkpoint.load(tmp_path / "old.pt").data_sets == names


def test_a_checkpoint_of_version_3_says_not_how_much_it_was_trained_on(tmp_path: Path) -> None:
    torch.save(WHOLE | {"version": 3}, tmp_path / "old.pt")
    assert checkpoint.load(tmp_path / "old.pt").counts == {}


def test_a_checkpoint_of_a_newer_sightline_is_refused_with_both_versions(tmp_path: Path) -> None:
    torch.save(WHOLE | {"version": checkpoint.VERSION + 1}, tmp_path / "new.pt")
    with pytest.raises(DataError, match=f"version {checkpoint.VERSION + 1}, this program reads up to version"):
        checkpoint.load(tmp_path / "new.pt")
