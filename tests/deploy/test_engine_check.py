"""Which nodes TensorRT's parser does not take: found without TensorRT, by its published list."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.backends.onnxruntime import OnnxRuntimeBackend
from deploy.bundle import SHIPPED, load_bundle
from deploy.engine_build import prepared
from deploy.engine_check import LIST, Report, check, published, read
from deploy.engine_graph import taken_form
from stream.errors import EngineError
from tests.deploy import tiny_models

F, U8, I64 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64


def graph(
    nodes: list[onnx.NodeProto],
    *,
    constants: dict[str, Any] | None = None,
    kind: int = F,
    shape: tuple[int | str, ...] = ("n", 3, 8, 8),
    out: int = F,
    opset: int = 18,
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info("y", out, None)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
        ),
        opset_imports=[helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)],
    )


def node(operator: str, inputs: list[str], outputs: list[str] | None = None, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, outputs or ["y"], name=f"the_{operator.lower()}", **attributes)


def why(report: Report) -> str:
    return "; ".join(str(one) for one in report.unsupported)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in SHIPPED.glob("*/card.json")))
def test_every_node_of_the_shipped_models_is_taken(name: str) -> None:
    report = check(prepared(SHIPPED / name / "model.onnx"))
    assert (report.unsupported, report.nodes > 100) == ((), True)


def test_an_adopted_detector_and_embedder_are_taken(assets: Path) -> None:
    for name in ("yolox_nano_416.onnx", "person-reidentification-retail-0287.onnx"):
        assert check(read(assets / name)).unsupported == ()


def test_a_shape_that_is_asked_of_the_pixels_is_asked_of_their_cast() -> None:
    shipped = load_bundle(SHIPPED / "osnet-x0.25")
    as_it_is = check(read(shipped.model))
    assert [one.operator for one in as_it_is.unsupported] == ["Shape"]
    assert "reads images as UINT8" in why(as_it_is)
    changed = prepared(shipped.model)
    onnx.checker.check_model(changed, full_check=True)
    images = shipped.golden()["inputs"][:2].astype(np.uint8)
    want = OnnxRuntimeBackend(shipped.model, shipped.card).infer(images)["embedding"]
    got = OnnxRuntimeBackend(changed.SerializeToString(), shipped.card).infer(images)["embedding"]
    np.testing.assert_array_equal(got, want)


def test_a_graph_that_asks_for_no_shape_is_left_as_it_is() -> None:
    model = onnx.load_from_string(tiny_models.embedder())
    before = model.SerializeToString(deterministic=True)
    assert taken_form(model).SerializeToString(deterministic=True) == before


def test_the_casts_of_an_input_come_before_what_asks_for_its_shape() -> None:
    late = graph([node("Shape", ["x"], ["s"]), node("Cast", ["x"], ["f"], to=F), node("Reshape", ["f", "s"])], kind=U8)
    changed = taken_form(late)
    assert [(one.op_type, one.input[0]) for one in changed.graph.node] == [
        ("Cast", "x"),
        ("Shape", "f"),
        ("Reshape", "f"),
    ]


@pytest.mark.parametrize(
    ("model", "says"),
    [
        pytest.param(graph([node("Det", ["x"])]), "Det the_det: is not among the operators", id="operator"),
        pytest.param(
            graph([node("Mosaic", ["x"], domain="com.example")], domains=("com.example",)),
            "Mosaic the_mosaic: is of the domain com.example",
            id="domain",
        ),
        pytest.param(
            graph([node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]), node("Cast", ["t"], to=F)], kind=U8),
            "Transpose the_transpose: reads x as UINT8",
            id="pixels moved before they are cast",
        ),
        pytest.param(
            graph([node("Cast", ["x"], ["u"], to=U8), node("Cast", ["u"], to=F)]),
            "the_cast: gives u as UINT8",
            id="uint8 within",
        ),
        pytest.param(
            graph([node("Cast", ["x"], to=TensorProto.INT16)], out=TensorProto.INT16), "y is INT16", id="cast to a type"
        ),
        pytest.param(
            graph(
                [node("Add", ["x", "one"])],
                constants={"one": np.ones(1, np.int8)},
                kind=TensorProto.INT8,
                out=TensorProto.INT8,
            ),
            "x is INT8, taken are FP32, FP16, BF16, INT32, INT64",
            id="type",
        ),
        pytest.param(
            graph(
                [node("GridSample", ["x", "grid"])],
                constants={"grid": np.zeros((1, 4, 4, 2), "f4")},
                kind=TensorProto.BFLOAT16,
            ),
            "x is BF16",
            id="type of a listed operator",
        ),
        pytest.param(
            graph([node("Resize", ["x", "", "scales"], mode="cubic")], constants={"scales": np.ones(4, "f4")}),
            "has mode cubic, taken are nearest, linear",
            id="attribute",
        ),
        pytest.param(
            graph([node("MaxPool", ["x"], ["y", "where"], kernel_shape=[2, 2])]),
            "gives more than 1 output",
            id="second output",
        ),
        pytest.param(
            graph([node("AveragePool", ["x"], kernel_shape=[2])], shape=("n", 3, 8)),
            "x has 3 dimensions, taken are 4, 5",
            id="rank",
        ),
        pytest.param(
            graph([node("Shape", ["x"], ["s"]), node("ReduceMean", ["x", "s"])]),
            "s must be a constant",
            id="input that is no constant",
        ),
        pytest.param(
            graph([node("TopK", ["x", "k"], ["y", "i"])], constants={"k": np.array([4000])}),
            "it must be less than 3840",
            id="too large",
        ),
        pytest.param(
            graph(
                [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"])],
                constants={"s": np.float32(0.1), "z": np.int8(3)},
            ),
            "z must be 0",
            id="zero point",
        ),
        pytest.param(
            graph(
                [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"])],
                constants={"s": np.float32(0.1), "z": np.uint8(0)},
            ),
            "reads z as UINT8",
            id="unsigned quantisation",
        ),
        pytest.param(
            graph([node("Relu", ["x"])], opset=8), "opset of the graph: 8, expected 9 to 24", id="opset too old"
        ),
    ],
)
def test_what_is_not_taken_is_named_with_the_reason(model: onnx.ModelProto, says: str) -> None:
    assert says in why(check(model))


def test_a_graph_that_keeps_all_conditions_is_taken() -> None:
    model = graph(
        [
            node("Cast", ["x"], ["f"], to=F),
            node("QuantizeLinear", ["f", "s", "z"], ["q"]),
            node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            node("Resize", ["d", "", "scales"], ["r"], mode="linear"),
            node("MaxPool", ["r"], ["m"], kernel_shape=[2, 2]),
            node("ReduceMean", ["m", "axes"]),
        ],
        constants={"s": np.float32(0.1), "z": np.int8(0), "scales": np.ones(4, "f4"), "axes": np.array([2, 3])},
        kind=U8,
    )
    assert check(model).unsupported == ()


def test_a_planted_node_in_a_branch_is_found() -> None:
    def branch(operator: str) -> onnx.GraphProto:
        return helper.make_graph(
            [node(operator, ["x"], ["b"])], operator, [], [helper.make_tensor_value_info("b", F, None)]
        )

    model = graph(
        [node("If", ["c"], then_branch=branch("Relu"), else_branch=branch("Hardmax"))], constants={"c": np.array(True)}
    )
    assert check(model).unsupported == ()
    model = graph(
        [node("If", ["c"], then_branch=branch("Relu"), else_branch=branch("Det"))], constants={"c": np.array(True)}
    )
    assert why(check(model)).startswith("Det the_det")
    assert "If" in check(model).notes


def test_a_local_function_is_looked_into(tmp_path: Path) -> None:
    def model(operator: str) -> onnx.ModelProto:
        inside = [helper.make_node(operator, ["a"], ["b"])]
        calls = graph([node("Mine", ["x"], domain="com.example")], domains=("com.example",))
        calls.functions.append(
            helper.make_function("com.example", "Mine", ["a"], ["b"], inside, [helper.make_opsetid("", 18)])
        )
        return calls

    path = tmp_path / "functions.onnx"
    onnx.save(model("Relu"), path)
    assert check(read(path)).unsupported == ()
    onnx.save(model("Det"), path)
    assert why(check(read(path))).startswith("Det ")


def test_a_file_with_weights_beside_it_and_no_shape_of_its_output_is_read(tmp_path: Path) -> None:
    """As torch exports by default; the folder is not the one where the command is given."""
    model = graph([node("Conv", ["x", "w"])], constants={"w": np.ones((4, 3, 3, 3), "f4")})
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    assert check(read(tmp_path / "model.onnx")).unsupported == ()
    (tmp_path / "weights").unlink()
    with pytest.raises(EngineError, match="weights"):
        read(tmp_path / "model.onnx")


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x07" * 50], ids=["empty", "text", "noise"])
def test_a_file_that_is_no_graph_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineError, match="is no ONNX graph") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(EngineError, match="cannot be read"):
        read(tmp_path / "missing.onnx")


def test_the_list_names_operators_of_onnx_and_each_once() -> None:
    known = published()
    named = [operator for group in known.takes for operator in group.operators]
    assert len(named) == len(set(named)) > 150
    old = {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}  # of ONNX before 1.0
    assert {operator for operator in named if not onnx.defs.has(operator)} <= old
    assert set(known.conditions) <= set(named)
    assert "docs/operators.md" in LIST.read_text()
