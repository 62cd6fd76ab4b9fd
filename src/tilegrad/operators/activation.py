"""Activations: elementwise functions with PyTorch's behaviour at kinks, bounds and NaN."""

from __future__ import annotations

from tilegrad.ir import expr as sc
from tilegrad.ir.builder import elementwise
from tilegrad.ir.graph import Value
from tilegrad.operators.registry import OnnxCall, aten, onnx


@aten("aten.relu.default", "aten.relu_.default")
def relu(x: Value) -> Value:
    """``x < 0 ? 0 : x``, so that NaN passes; the gradient at 0 is 0."""
    return elementwise(lambda v: sc.select((v > 0.0) | v.differs(v), v, 0.0), x)


@onnx("Relu")
def onnx_relu(call: OnnxCall, x: Value) -> Value:
    """ONNX Relu."""
    return relu(x)
