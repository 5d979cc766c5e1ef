"""What a recipe names is looked for before the data is drawn."""

import pytest

from stream.errors import DataError
from trainer.settings import make_recipe
from trainer.tasks import prepare


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        pytest.param({"start": "nowhere.pt"}, "no checkpoint at nowhere.pt", id="start"),
        pytest.param(
            {"weights": "nowhere.pt"}, "weights = 'nowhere.pt': there is no such file.*--from-scratch", id="weights"
        ),
    ],
)
def test_a_file_that_is_missing_is_missed_before_anything_is_drawn(tmp_path, monkeypatch, keys, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    recipe = make_recipe({"method": "osnet", "weights": "", "data": "synthetic", "people": 8, **keys}, "a test")
    with pytest.raises(DataError, match=says):
        prepare(recipe, workers=1, report=lambda *_: pytest.fail("something was drawn"))
    assert not list(tmp_path.iterdir())
