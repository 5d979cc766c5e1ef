"""Thresholds that travel with a model: the site file wins over the card, the card over the code."""

import logging
from pathlib import Path

import msgspec
import pytest

from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bundle import load_bundle, write_bundle
from deploy.thresholds import check_defaults, with_defaults
from detector.settings import DetectorSettings
from matcher.settings import MatcherSettings
from stream.errors import BundleError
from stream.model import Kind, ModelCard
from tests.deploy import tiny_models


def card(kind: Kind = "detector", **defaults: float) -> ModelCard:
    return msgspec.structs.replace(tiny_models.embedder_card(), kind=kind, defaults=defaults)


def test_what_the_site_states_wins_over_the_card_and_the_card_over_the_code(caplog: pytest.LogCaptureFixture) -> None:
    stated = DetectorSettings(new_score=0.7, bundle="mine")
    with caplog.at_level(logging.INFO):
        found = with_defaults(stated, card(new_score=0.3, low_score=0.15, nms_iou=0.4))
    assert (found.new_score, found.low_score, found.nms_iou) == (0.7, 0.15, 0.4)
    assert found.high_score == DetectorSettings().high_score
    assert found.bundle == "mine"
    assert "brings low_score = 0.15, nms_iou = 0.4" in caplog.text


def test_a_threshold_stated_as_the_code_has_it_is_stated_all_the_same() -> None:
    own = DetectorSettings().new_score
    assert with_defaults(DetectorSettings(new_score=own), card(new_score=0.2)).new_score == own


def test_one_card_serves_both_sections_of_a_person_search() -> None:
    search = card("person-search", new_score=0.3, false_links=0.1)
    assert with_defaults(DetectorSettings(), search).new_score == 0.3
    assert with_defaults(MatcherSettings(lateness_s=0.5), search) == MatcherSettings(false_links=0.1, lateness_s=0.5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        pytest.param(
            card(new_scor=0.3), "new_scor is no threshold of this detector; known: high_score, new_score", id="name"
        ),
        pytest.param(
            card("embedder", new_score=0.3), "new_score is no threshold of this embedder", id="another kind's"
        ),
        pytest.param(card(nms_iou=1.5), "its card's default nms_iou = 1.5 is refused", id="out of range"),
        pytest.param(card("person-search", false_links=0.9), "false_links = 0.9 is refused", id="of the matcher"),
    ],
)
def test_a_card_with_a_wrong_default_is_refused(wrong: ModelCard, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        check_defaults(wrong.name, wrong.kind, wrong.defaults)


def test_defaults_are_written_with_the_bundle_and_checked_when_it_is_read(tmp_path: Path) -> None:
    model = tiny_models.embedder()
    inputs = tiny_models.pictures(2)
    mine = msgspec.structs.replace(tiny_models.embedder_card(), defaults={"false_links": 0.02})
    golden = {"inputs": inputs} | OnnxRuntimeBackend(model, mine).infer(inputs)
    write_bundle(tmp_path, model, mine, golden, tiny_models.links())
    assert load_bundle(tmp_path).card.defaults == {"false_links": 0.02}
    text = (tmp_path / "card.json").read_text()
    (tmp_path / "card.json").write_text(text.replace("0.02", "0.9"))
    with pytest.raises(BundleError, match=r"false_links = 0.9 is refused"):
        load_bundle(tmp_path)
