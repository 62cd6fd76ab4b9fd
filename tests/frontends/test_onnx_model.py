"""ONNX models as graphs: what initializers become, how shapes get static, and every way in which a model is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from frontend_harness import contents, evaluate
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tilegrad.errors import ModelError, UnsupportedOperatorError, UserError
from tilegrad.frontends.onnx_model import import_onnx
from tilegrad.ir.builder import full
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType, Kind

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, Sequence[int | str | None] | None]],
    outputs: Sequence[str],
    initializers: dict[str, NDArray[Any]] | None = None,
    opset: int = 17,
    **options: Any,
) -> onnx.ModelProto:
    """A model; inputs are (type, shape)."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(data, name) for name, data in (initializers or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **options)


def check(proto: onnx.ModelProto, *arrays: NDArray[Any], tolerance: float = 1e-6) -> Graph:
    """Compare the inference graph with ONNX's reference evaluator."""
    graph = import_onnx(proto, example_inputs=arrays, training=False)
    names = [value.name for value in graph.inputs]
    env = evaluate(graph, arrays, np.float32)
    expected = ReferenceEvaluator(proto).run(None, dict(zip(names, arrays, strict=True)))
    for value, wanted in zip(graph.results, expected, strict=True):
        got = contents(env, value)
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)
    return graph


def perceptron(batch: int | str | None = 2) -> onnx.ModelProto:
    data = rng()
    return model(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], "first", transB=1),
            helper.make_node("Relu", ["h"], ["r"], "act"),
            helper.make_node("MatMul", ["r", "w2"], ["m"], "second"),
            helper.make_node("Add", ["m", "b2"], ["y"]),
        ],
        {"x": (FLOAT, [batch, 4])},
        ["y"],
        {
            "w1": data.normal(size=(5, 4)).astype(np.float32),
            "b1": data.normal(size=5).astype(np.float32),
            "w2": data.normal(size=(5, 3)).astype(np.float32),
            "b2": data.normal(size=3).astype(np.float32),
        },
    )


def normalised() -> onnx.ModelProto:
    data = rng(1)
    channels = {name: data.uniform(0.5, 1.5, size=3).astype(np.float32) for name in ("scale", "shift", "mean", "var")}
    return model(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["y"], "bn"),
        ],
        {"x": (FLOAT, [2, 2, 4, 4])},
        ["y"],
        {"w": data.normal(size=(3, 2, 3, 3)).astype(np.float32), **channels},
    )


# ---- What becomes of a model -----------------------------------------------------------------------------------------


def test_perceptron_computes_what_the_reference_does_and_names_its_parameters() -> None:
    graph = check(perceptron(), rng(3).normal(size=(2, 4)).astype(np.float32))
    assert list(graph.parameters) == ["w1", "b1", "w2", "b2"]
    assert all(value.kind is Kind.PARAMETER and value.data is not None for value in graph.parameters.values())
    assert [value.name for value in graph.inputs] == ["x"]
    assert {op.origin for op in graph.ops} == {"first", "act", "second", "Add_3"}


def test_a_file_and_a_model_in_memory_give_the_same_graph(tmp_path: Path) -> None:
    onnx.save(perceptron(), tmp_path / "m.onnx")
    graph = import_onnx(tmp_path / "m.onnx", training=False)
    np.testing.assert_array_equal(graph.parameters["w1"].data, numpy_helper.to_array(perceptron().graph.initializer[0]))


def test_running_statistics_are_buffers_and_move_only_in_a_training_graph_that_is_not_frozen() -> None:
    x = rng(4).normal(size=(2, 2, 4, 4)).astype(np.float32)
    graph = check(normalised(), x, tolerance=1e-5)
    assert list(graph.buffers) == ["mean", "var"] and list(graph.parameters) == ["w", "scale", "shift"]
    assert not graph.stores
    trained = import_onnx(normalised(), training=True)
    assert [store.target.name for store in trained.stores] == ["mean", "var"]
    env = evaluate(trained, [x])
    y = env[trained.results[0]]
    scale, shift = trained.parameters["scale"].data, trained.parameters["shift"].data
    assert scale is not None and shift is not None
    np.testing.assert_allclose(y.mean((0, 2, 3)), shift, rtol=1e-5)
    np.testing.assert_allclose(y.std((0, 2, 3)), scale, rtol=1e-4)
    assert not import_onnx(normalised(), training=True, frozen_bn=True).stores


@pytest.mark.parametrize("calls", [1, 2])
def test_a_model_exported_in_training_mode_stores_its_running_statistics(calls: int) -> None:
    proto = normalised()
    norm = proto.graph.node[1]
    norm.output.extend(["new mean", "new var"])
    norm.attribute.add(name="training_mode", type=onnx.AttributeProto.INT, i=1)
    if calls == 2:
        again = proto.graph.node.add()
        again.CopyFrom(norm)
        again.input[0], again.output[:] = "y", ["z", "newer mean", "newer var"]
        proto.graph.output[0].name = "z"
    graph = import_onnx(proto, training=True)
    x = rng(4).normal(size=(2, 2, 4, 4)).astype(np.float32)
    env = evaluate(graph, [x])
    stored = {store.target.name: env[store.value] for store in graph.stores}
    initial = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    statistics = {"mean": np.mean, "var": np.var}
    tensors = [ReferenceEvaluator(_until(proto, name)).run(None, {"x": x})[0] for name in ("c", "y")]
    for name, statistic in statistics.items():
        wanted = initial[name].astype(np.float64)
        for tensor in tensors[:calls]:
            wanted = 0.9 * wanted + 0.1 * statistic(tensor, axis=(0, 2, 3))
        np.testing.assert_allclose(stored[name], wanted, rtol=1e-5)
    assert not import_onnx(proto, training=True, frozen_bn=True).stores
    assert not import_onnx(proto, training=False).stores


def _until(proto: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """The model with another output."""
    cut = onnx.ModelProto()
    cut.CopyFrom(proto)
    cut.graph.output[0].name = output
    return cut


def test_settings_and_scalars_and_integers_are_constants() -> None:
    proto = model(
        [
            helper.make_node("Mul", ["x", "half"], ["a"]),
            helper.make_node("Clip", ["a", "low", "high"], ["b"]),
            helper.make_node("Gather", ["b", "index"], ["y"], axis=1),
        ],
        {"x": (FLOAT, [2, 3])},
        ["y"],
        {
            "half": np.float32(0.5).reshape(()),
            "low": np.float32(-0.25).reshape(()),
            "high": np.float32(0.25).reshape(()),
            "index": np.array([2, 0], np.int64),
        },
    )
    graph = check(proto, rng(5).normal(size=(2, 3)).astype(np.float32))
    assert not graph.parameters and not graph.buffers


def test_one_initializer_read_twice_is_one_parameter() -> None:
    proto = model(
        [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])],
        {"x": (FLOAT, [2, 3])},
        ["y"],
        {"w": rng().normal(size=(3, 3)).astype(np.float32)},
    )
    assert list(check(proto, rng(1).normal(size=(2, 3)).astype(np.float32)).parameters) == ["w"]


def test_initializers_listed_as_inputs_are_no_inputs() -> None:
    proto = perceptron()
    proto.graph.input.append(helper.make_tensor_value_info("w1", FLOAT, [5, 4]))
    assert [value.name for value in import_onnx(proto, training=False).inputs] == ["x"]


def test_nodes_out_of_order_are_sorted() -> None:
    proto = perceptron()
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    graph = import_onnx(proto, training=False)
    x = rng(3).normal(size=(2, 4)).astype(np.float32)
    expected = ReferenceEvaluator(perceptron()).run(None, {"x": x})[0]
    np.testing.assert_allclose(evaluate(graph, [x])[graph.results[0]], expected, rtol=1e-5)


def test_functions_of_the_model_are_inlined() -> None:
    body = helper.make_function(
        "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    proto = model(
        [helper.make_node("Twice", ["x"], ["t"], domain="local"), helper.make_node("Relu", ["t"], ["y"])],
        {"x": (FLOAT, [3])},
        ["y"],
        functions=[body],
    )
    proto.opset_import.append(helper.make_opsetid("local", 1))
    check(proto, np.array([-1.0, 0.5, 2.0], np.float32))


def test_a_shape_computed_by_the_model_is_static() -> None:
    proto = model(
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "zero"], ["batch"]),
            helper.make_node("Unsqueeze", ["batch", "axes"], ["head"]),
            helper.make_node("Concat", ["head", "minus"], ["wanted"], axis=0),
            helper.make_node("Reshape", ["x", "wanted"], ["y"]),
        ],
        {"x": (FLOAT, ["n", 2, 3])},
        ["y"],
        {
            "zero": np.array(0, np.int64),
            "axes": np.array([0], np.int64),
            "minus": np.array([-1], np.int64),
        },
    )
    graph = check(proto, rng().normal(size=(4, 2, 3)).astype(np.float32))
    assert graph.results[0].shape == (4, 6)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value_float": 1.5}, np.float32(1.5)),
        ({"value_floats": [1.5, 2.5]}, np.array([1.5, 2.5], np.float32)),
        ({"value_int": -(1 << 62)}, np.int64(-(1 << 62))),
        ({"value_ints": [3, 4]}, np.array([3, 4], np.int64)),
        ({"value": numpy_helper.from_array(np.array([True, False]))}, np.array([True, False])),
    ],
)
def test_constant_nodes(attributes: dict[str, Any], expected: NDArray[Any]) -> None:
    proto = model([helper.make_node("Constant", [], ["y"], **attributes)], {"x": (FLOAT, [1])}, ["y"])
    value = import_onnx(proto, training=False).results[0]
    assert value.is_constant and value.dtype is DType.of(np.asarray(expected))
    np.testing.assert_array_equal(value.data, expected)


def test_names_are_only_data() -> None:
    hostile = ['"; system("rm -rf /"); //', "../../etc/passwd", "int", "a\nb*/", "名前", " "]
    nodes, before = [], "x"
    for name in hostile:
        nodes.append(helper.make_node("Relu", [before], [name], name="same */ name"))
        before = name
    graph = check(model(nodes, {"x": (FLOAT, [2])}, [before]), np.array([-1.0, 1.0], np.float32))
    assert {op.origin for op in graph.ops} == {"same */ name"}


# ---- Shapes of inputs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", ["batch", None])
def test_dynamic_dimensions_come_from_the_examples_or_are_refused(dim: str | None) -> None:
    graph = import_onnx(perceptron(dim), example_inputs=[np.zeros((7, 4), np.float32)], training=False)
    assert graph.inputs[0].shape == (7, 4) and graph.results[0].shape == (7, 3)
    with pytest.raises(ModelError, match=r"dimension 0.* of input 'x' is dynamic; pass example_inputs"):
        import_onnx(perceptron(dim), training=False)


def test_an_input_without_shape_needs_an_example() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {"x": (FLOAT, None)}, ["y"])
    assert check(proto, np.ones((2, 3), np.float32)).inputs[0].shape == (2, 3)
    with pytest.raises(ModelError, match="input 'x' has no shape"):
        import_onnx(proto, training=False)


def test_a_named_dimension_is_the_same_everywhere() -> None:
    proto = model([helper.make_node("Add", ["a", "b"], ["y"])], {"a": (FLOAT, ["n", 2]), "b": (FLOAT, ["n", 2])}, ["y"])
    check(proto, np.ones((3, 2), np.float32), np.ones((3, 2), np.float32))
    with pytest.raises(UserError, match="dimension 'n' is 3 in input 'a' and 1 in input 'b'"):
        import_onnx(proto, example_inputs=[np.ones((3, 2)), np.ones((1, 2))], training=False)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "0 example inputs are given; the model has 1: 'x'"),
        ([np.zeros((2, 5), np.float32)], r"has shape \(2, 5\), expected \(2, 4\)"),
        ([np.zeros(4, np.float32)], r"has shape \(4,\), expected \(2, 4\)"),
        ([np.zeros((2, 4), np.int64)], "is int64, expected f32"),
    ],
)
def test_examples_that_do_not_fit(examples: list[NDArray[Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        import_onnx(perceptron(), example_inputs=examples, training=False)


# ---- Unsupported operators -------------------------------------------------------------------------------------------


def test_all_unsupported_nodes_are_listed_at_once() -> None:
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["z"])], "branch", [], [helper.make_tensor_value_info("z", FLOAT, [4])]
    )
    proto = model(
        [
            helper.make_node("STFT", ["x", "step"], ["a"], "first"),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Mystery", ["b"], ["c"], "second", domain="com.example"),
            helper.make_node("If", ["flag"], ["d"], "third", then_branch=branch, else_branch=branch),
            helper.make_node("Mystery", ["c"], ["e"], "fourth", domain="com.example"),
            helper.make_node("Add", ["d", "e"], ["y"]),
        ],
        {"x": (FLOAT, [1, 8, 1]), "flag": (TensorProto.BOOL, [])},
        ["y"],
        {"step": np.array(2, np.int64)},
    )
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedOperatorError) as caught:
        import_onnx(proto, training=False)
    assert caught.value.operators == ("ai.onnx::STFT", "com.example::Mystery", "ai.onnx::If")
    assert [node.node for node in caught.value.nodes] == ["first", "second", "third", "fourth"]
    assert caught.value.nodes[2].reason == "control flow is not supported"


def test_arguments_that_an_operator_does_not_support_are_listed_with_the_others() -> None:
    proto = model(
        [
            helper.make_node("Reshape", ["x", "shape"], ["a"], "dynamic"),
            helper.make_node("Det", ["x"], ["b"], "unknown"),
        ],
        {"x": (FLOAT, [2, 2]), "shape": (INT64, [1])},
        ["a", "b"],
    )
    with pytest.raises(UnsupportedOperatorError) as caught:
        import_onnx(proto, training=False)
    assert [node.node for node in caught.value.nodes] == ["dynamic", "unknown"]
    assert caught.value.nodes[0].reason and not caught.value.nodes[1].reason


def _replaced(monkeypatch: pytest.MonkeyPatch, adapter: Callable[..., Any]) -> onnx.ModelProto:
    """A LayerNormalization with three outputs, for which `adapter` stands."""
    monkeypatch.setattr("tilegrad.frontends.onnx_model.find_onnx", lambda name, domain: adapter)
    return model(
        [helper.make_node("LayerNormalization", ["x", "w"], ["y", "", "rstd"], "norm")],
        {"x": (FLOAT, [2, 3])},
        ["y", "rstd"],
        {"w": np.ones(3, np.float32)},
    )


def test_an_output_that_an_operator_does_not_give_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = _replaced(monkeypatch, lambda call, x, w: x)
    with pytest.raises(UnsupportedOperatorError, match=r"node 'norm'.: its output 'rstd' is not supported"):
        import_onnx(proto, training=False)


def test_a_number_of_inputs_that_an_operator_does_not_take_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = _replaced(monkeypatch, lambda call, x: x)
    with pytest.raises(UnsupportedOperatorError, match=r"node 'norm'.: it is not supported with 2 inputs"):
        import_onnx(proto, training=False)


@pytest.mark.parametrize("error", [TypeError, ValueError, KeyError, IndexError, OverflowError, ZeroDivisionError])
def test_whatever_an_operator_stumbles_over_names_the_node(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def adapter(call: Any, x: Value, w: Value) -> Value:
        raise error("odd")

    with pytest.raises(ModelError, match=r"node 'norm' \(LayerNormalization\) cannot be built .*odd"):
        import_onnx(_replaced(monkeypatch, adapter), training=False)


def test_a_tensor_that_gets_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def adapter(call: Any, x: Value, w: Value) -> tuple[Value, ...]:
        return x, x, full((1 << 20, 1 << 20), 0.0)

    with pytest.raises(ModelError, match=r"makes a tensor of shape \(1048576, 1048576\): too large"):
        import_onnx(_replaced(monkeypatch, adapter), training=False)
