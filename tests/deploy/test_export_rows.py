"""benchmarks/export_rows.py: it goes through every row of `sightline methods`, and a row is exported whole or refused by name.

All rows take twenty minutes of a core (docs/export.md has what came of them); here are the cheap ones.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

from deploy import links
from deploy.bundle import load_bundle
from deploy.methods import describe
from trainer.methods import METHODS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "export_rows.py"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("export_rows", SCRIPT)
    module = sys.modules["export_rows"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["export_rows"]


def test_every_row_that_sightline_methods_lists_is_gone_through(script):
    assert set(script.METHODS) == set(METHODS) - {"detector"}
    rows = {method: [name for name, _ in script.rows_of(method)] for method in script.METHODS}
    assert rows["eprinet"] == [row["variant"] for row in describe("eprinet")]
    for method, variant in script.REFUSED:
        assert variant in rows[method]


@pytest.mark.parametrize(
    ("method", "variant"),
    [
        ("osnet", "T = 1"),
        ("osnet", "concatenation"),
        ("eprinet", "baseline + PAM"),
        ("mgre", "baseline"),
        ("magnifiernet", "G"),
    ],
)
def test_a_row_is_exported_from_checkpoint_to_a_bundle_that_loads(method, variant, script, tmp_path):
    row = script.exported(method, variant, dict(script.rows_of(method))[variant], tmp_path)
    assert (row.said, row.as_expected) == ("", True)
    assert row.cosine > 0.9999
    card = load_bundle(tmp_path / "bundle").card
    assert card.input_hw == script.CROP_HW
    assert row.megabytes > 3.5 * row.parameters / 1e6


@pytest.mark.parametrize(
    ("method", "variant"), [("mgre", "without joint optimisation"), ("person-search", "paper's wording")]
)
def test_rows_that_no_runtime_serves_are_refused_by_name(method, variant, script, tmp_path):
    row = script.exported(method, variant, dict(script.rows_of(method))[variant], tmp_path)
    assert script.REFUSED[method, variant] in row.said
    assert row.as_expected
    assert not (tmp_path / "bundle").exists()
    assert not script.Row(
        method, variant, "", 1, 1.0, 1.0, 1.0
    ).as_expected  # one that is served all of a sudden is told too


def test_a_graph_that_does_not_answer_as_torch_did_is_a_row_that_failed(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(links, "LEAST_PAIRS", links.LEAST_PAIRS)  # which the script lowers
    monkeypatch.setitem(script.SMALL, "osnet", {"input_hw": (64, 32), "width": 0.25, "depths": (1,), "fusion": "add"})
    real = script.awake

    def broken(network, input_hw):
        network = real(network, input_hw)
        network.fc[0].weight.data *= float("nan")
        return network

    monkeypatch.setattr(script, "awake", broken)
    monkeypatch.setattr(sys, "argv", ["export_rows.py", "--method", "osnet", "--variant", "x0.25"])
    assert script.main() == 1
    assert "1 rows, 0 exported, 1 not as expected" in capsys.readouterr().out
