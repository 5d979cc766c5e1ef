"""A site whose `[detector]` is a person search: one model in place of two, chosen in the site file."""

import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy import doctor
from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bundle import Bundle, load_bundle, synthetic_only_warning, write_bundle
from deploy.cli import status_of
from deploy.settings import load
from stream.errors import BundleError
from tests.deploy import tiny_models
from tests.deploy.sites import HW, red_square_detector, write_site


def searching_model() -> bytes:
    """Finds the red square, and describes it by the mean colour of the whole picture: what stands around it counts."""
    model = onnx.load_model_from_string(red_square_detector())
    weights = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    graph.node.extend(
        [
            helper.make_node("ReduceMean", ["pixels", "both"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "weights"], ["raw"]),
            helper.make_node("LpNormalization", ["raw"], ["unit"], axis=1, p=2),
            helper.make_node("Unsqueeze", ["found", "first"], ["found_once"]),
            helper.make_node("Mul", ["unit", "found_once"], ["vector"]),
            helper.make_node("Unsqueeze", ["vector", "first"], ["embedding"]),
        ]
    )
    graph.output.append(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ("n", 1, 6)))
    return bytes(model.SerializeToString())


def write_search(folder: Path, **changes: object) -> Bundle:
    """Bundle ``search``; its second graph is never asked here."""
    card = msgspec.structs.replace(
        tiny_models.embedder_card(hw=HW),
        name="search",
        kind="person-search",
        outputs={"boxes": (1, 4), "scores": (1,), "embedding": (1, 6)},
        synthetic_only=False,
        **changes,
    )
    inputs = tiny_models.pictures(2, HW)
    inputs[1, 30:60, 50:70] = (220, 30, 30)
    backend = OnnxRuntimeBackend(searching_model(), card)
    golden = {"inputs": inputs, **backend.infer(inputs)}
    backend.close()
    return write_bundle(folder, searching_model(), card, golden, tiny_models.links(), query=b"not asked")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_site(tmp_path_factory.mktemp("depot"), frames=150)
    write_search(path.parent / "search")
    return path


def with_models(site: Path, models: str) -> str:
    """The site with other models, beside it."""
    text = site.read_text()
    path = site.with_name(f"site-{abs(hash(models))}.toml")
    path.write_text(text[: text.index("[detector]")] + models)
    return str(path)


SEARCH = '[detector]\nbundle = "./search"\n'
TWO = '[detector]\nbundle = "./red-square"\n[reid]\nbundle = "./mean-colour"\n'


def test_one_model_finds_and_describes_everybody_and_its_vectors_stay_among_themselves(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = tmp_path / "events.jsonl"
    state = ["--state", str(tmp_path / "state")]
    assert status_of(["run", with_models(site, SEARCH), "--events", str(events), *state]) == 0
    found = [json.loads(line) for line in events.read_text().splitlines()]
    assert {"new", "end"} <= {event["kind"] for event in found}
    card = load_bundle(site.parent / "search").card
    assert {event["model"] for event in found} == {card.id}
    capsys.readouterr()
    assert status_of(["run", with_models(site, TWO), *state]) == 1
    said = capsys.readouterr().err
    assert f"holds vectors of {card.id}, this matcher's are of tiny-embedder-1-" in said
    assert "begin with an empty one" in said


@pytest.mark.parametrize(
    ("models", "status", "said"),
    [
        pytest.param(
            '[detector]\nbundle = "./search"\n[reid]\nbundle = "./mean-colour"\n', 2,
            "is a person search, which describes people itself: leave [reid] bundle =", id="an embedder beside it",
        ),
        pytest.param(
            '[detector]\nbundle = "./red-square"\n[reid]\nbundle = "./search"\n', 1,
            "is of kind person-search, and embedder is needed here", id="as the embedder alone",
        ),
        pytest.param(
            '[detector]\nbundle = "./mean-colour"\n', 1,
            "is of kind embedder, and detector or person-search is needed here", id="an embedder as the detector",
        ),
    ],
)  # fmt: skip
def test_models_that_do_not_go_together_are_refused_in_one_line(
    site: Path, models: str, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(["run", with_models(site, models)]) == status
    *_, error = capsys.readouterr().err.splitlines()
    assert said in error
    assert error.startswith("sightline: ")


def test_naming_it_twice_is_naming_it_once_and_doctor_and_plan_look_at_it_once(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = with_models(site, f'{SEARCH}[reid]\nbundle = "./search"\n')
    (finding,) = doctor.bundles(load(Path(twice)))
    assert finding.status == "ok"
    assert "search-1-" in finding.found
    assert "person-search" in finding.found
    assert status_of(["plan", twice]) == 0
    assert "0.0 ms per crop" in capsys.readouterr().out


def test_doctor_names_the_thresholds_that_a_model_brings_and_misses_link_rows(site: Path, tmp_path: Path) -> None:
    write_search(tmp_path / "search", defaults={"new_score": 0.3})
    (finding,) = doctor.bundles(load(Path(with_models(site, f'[detector]\nbundle = "{tmp_path / "search"}"\n'))))
    assert ", new_score 0.3" in finding.found
    card = load_bundle(tmp_path / "search").card
    warning = synthetic_only_warning(msgspec.structs.replace(card, synthetic_only=True), camera_is_real=True)
    assert warning is not None
    assert "sightline train person-search --data prw" in warning


@pytest.mark.parametrize(
    ("kind", "query", "said"),
    [
        pytest.param("person-search", None, "a person search has a query.onnx", id="without its second graph"),
        pytest.param("embedder", b"a graph", "a person search has a query.onnx", id="an embedder with one"),
    ],
)
def test_a_second_graph_belongs_to_a_person_search_alone(
    tmp_path: Path, kind: str, query: bytes | None, said: str
) -> None:
    card = msgspec.structs.replace(tiny_models.embedder_card(), kind=kind)
    inputs = tiny_models.pictures(2)
    golden = {"inputs": inputs} | OnnxRuntimeBackend(tiny_models.embedder(), card).infer(inputs)
    with pytest.raises(BundleError, match=said):
        write_bundle(tmp_path / "b", tiny_models.embedder(), card, golden, tiny_models.links(), query=query)


def test_a_missing_or_altered_second_graph_is_refused(tmp_path: Path) -> None:
    bundle = write_search(tmp_path / "search")
    bundle.query.write_bytes(b"other bytes")
    with pytest.raises(BundleError, match=r"query\.onnx: altered or damaged"):
        load_bundle(bundle.path)
    bundle.query.unlink()
    with pytest.raises(BundleError, match=r"no query\.onnx in this folder"):
        load_bundle(bundle.path)
