"""How tests call ONNX adapters, and compare them with the reference implementation of the `onnx` package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from tilegrad.interpreter.execute import run
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.operators import registry

Array = NDArray[Any]


def adapter(
    op_type: str, opset: int = 20, outputs: int = 1, domain: str = "", training: bool = False, **attributes: Any
) -> Any:
    """The registered ONNX operator as a function of its inputs, for `operator_harness.check`."""
    function = registry.find_onnx(op_type, domain)
    assert function is not None, f"{op_type} is not registered"
    names = tuple(f"y{k}" for k in range(outputs))
    call = registry.OnnxCall(op_type, "node", opset, attributes, names, training)

    def on_values(*inputs: Value | None) -> Any:
        return function(call, *inputs)

    return on_values


def evaluate(
    op_type: str, inputs: Sequence[Array | None], attributes: Mapping[str, Any] | None = None, *,
    opset: int = 20, outputs: int = 1, constants: Sequence[int] = (),
) -> list[Array]:  # fmt: skip
    """Run an ONNX adapter in float32; the inputs whose positions are in `constants` are known at compile time."""
    graph = Graph("test")
    values: list[Value | None] = []
    feeds: dict[Value, Array] = {}
    for k, array in enumerate(inputs):
        if array is None:
            values.append(None)
            continue
        dtype = DType.of(array)
        data = array.astype(dtype.numpy) if k in constants else None
        value = Value(f"x{k}", array.shape, dtype, Kind.CONSTANT if k in constants else Kind.INPUT, data)
        if data is None:
            feeds[value] = array
        values.append(value)
    with graph.building(), graph.scope("node"):
        found = adapter(op_type, opset, outputs, **(attributes or {}))(*values)
    results = list(found) if isinstance(found, tuple | list) else [found]
    env = run(graph, feeds)
    return [r.data if r.is_constant and r.data is not None else env.get(r, feeds.get(r)) for r in results]


def reference(
    op_type: str, inputs: Sequence[Array | None], attributes: Mapping[str, Any] | None = None, *,
    opset: int = 20, outputs: int = 1,
) -> list[Array]:  # fmt: skip
    """Run the operator in the reference implementation of the `onnx` package."""
    names = ["" if array is None else f"x{k}" for k, array in enumerate(inputs)]
    node = onnx.helper.make_node(op_type, names, [f"y{k}" for k in range(outputs)], **(attributes or {}))
    typed = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, inputs, strict=True)
        if array is not None
    ]
    results = [onnx.helper.make_value_info(f"y{k}", onnx.TypeProto()) for k in range(outputs)]
    graph = onnx.helper.make_graph([node], "test", typed, results)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, feeds)]


def check_onnx(
    op_type: str, inputs: Sequence[Array | None], attributes: Mapping[str, Any] | None = None, *,
    opset: int = 20, outputs: int = 1, constants: Sequence[int] = (), tolerance: float = 1e-6,
) -> None:  # fmt: skip
    """Compare an adapter with the reference implementation: values, shapes and element types."""
    expected = reference(op_type, inputs, attributes, opset=opset, outputs=outputs)
    got = evaluate(op_type, inputs, attributes, opset=opset, outputs=outputs, constants=constants)
    for mine, wanted in zip(got, expected, strict=True):
        assert mine.shape == wanted.shape
        assert mine.dtype == wanted.dtype
        np.testing.assert_allclose(mine, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
