"""Activations against PyTorch: values, gradients, kinks, NaN, infinities, and stability in float32."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_harness import adapter, check_onnx
from operator_harness import build, check, draw
from torch.nn import functional

from tilegrad.errors import ShapeError
from tilegrad.interpreter.execute import run
from tilegrad.operators import activation, registry

#: Literals are rounded to float32, also where the interpreter computes in float64.
LITERALS = 1e-6

CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "relu": (activation.relu, torch.relu),
    "relu6": (activation.relu6, functional.relu6),
    "hardtanh": (lambda x: activation.hardtanh(x, -0.5, 1.5), lambda x: functional.hardtanh(x, -0.5, 1.5)),
    "leaky_relu": (lambda x: activation.leaky_relu(x, 0.2), lambda x: functional.leaky_relu(x, 0.2)),
    "elu": (lambda x: activation.elu(x, 0.7), lambda x: functional.elu(x, 0.7)),
    "celu": (lambda x: activation.celu(x, 0.7), lambda x: functional.celu(x, 0.7)),
    "selu": (activation.selu, functional.selu),
    "sigmoid": (activation.sigmoid, torch.sigmoid),
    "log_sigmoid": (activation.log_sigmoid, functional.logsigmoid),
    "tanh": (activation.tanh, torch.tanh),
    "silu": (activation.silu, functional.silu),
    "mish": (activation.mish, functional.mish),
    "gelu": (activation.gelu, functional.gelu),
    "gelu_tanh": (lambda x: activation.gelu(x, "tanh"), lambda x: functional.gelu(x, approximate="tanh")),
    "hardswish": (activation.hardswish, functional.hardswish),
    "hardsigmoid": (activation.hardsigmoid, functional.hardsigmoid),
    "softplus": (activation.softplus, functional.softplus),
    "softplus_beta": (lambda x: activation.softplus(x, 2.5, 1.5), lambda x: functional.softplus(x, 2.5, 1.5)),
    "softsign": (activation.softsign, functional.softsign),
    "threshold": (lambda x: activation.threshold(x, 0.25, -3.0), lambda x: functional.threshold(x, 0.25, -3.0)),
    "hardshrink": (activation.hardshrink, functional.hardshrink),
    "softshrink": (activation.softshrink, functional.softshrink),
    "logit": (lambda x: activation.logit(x, 0.125), lambda x: torch.logit(x, 0.125)),
}
#: Bounds and kinks of all of them.
KINKS = np.array([0.0, -0.0, -3.0, 3.0, 6.0, -0.5, 0.5, 1.5, 0.25, 1.0, -1.0, 0.125, 0.875, 0.6])
#: Smooth everywhere, so that they can be compared at any magnitude.
SMOOTH = [
    "sigmoid", "log_sigmoid", "tanh", "silu", "mish", "gelu", "gelu_tanh", "softplus", "softsign", "elu", "celu",
    "selu", "hardswish",
]  # fmt: skip
LARGE = np.array([-1e18, -1e4, -200.0, -100.0, -88.0, -30.0, -17.0, 17.0, 30.0, 88.0, 100.0, 200.0, 1e4, 1e18])


@pytest.mark.parametrize("name", CASES)
def test_forward_and_gradient(name: str) -> None:
    check(*CASES[name], draw(4, 7, low=-4.0, high=7.0), tolerance=LITERALS)


@pytest.mark.parametrize("name", CASES)
def test_kinks_and_bounds(name: str) -> None:
    check(*CASES[name], KINKS, tolerance=LITERALS)


# torch.logit and elementwise chains disagree with themselves about what NaN's gradient is; values must propagate.
@pytest.mark.parametrize("name", CASES)
def test_nan_propagates(name: str) -> None:
    check(*CASES[name], np.array([math.nan, 1.0]), tolerance=LITERALS, gradient=name != "logit")


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("mish", "gelu", "silu", "hardswish", "gelu_tanh")])
def test_infinities(name: str) -> None:
    gradient = name not in ("softsign", "logit", "softplus_beta")
    check(*CASES[name], np.array([math.inf, -math.inf]), tolerance=LITERALS, gradient=gradient)


@pytest.mark.parametrize("name", SMOOTH)
def test_float32_is_accurate_at_large_magnitudes(name: str) -> None:
    """No overflow, no NaN, and float32 errors relative to the function itself."""
    function, reference = CASES[name]
    graph, (x,), (y,), (seed,), gradients = build(function, [LARGE])
    env = run(graph, {x: LARGE, seed: np.ones_like(LARGE)}, np.float32)
    t = torch.tensor(LARGE.astype(np.float32).astype(np.float64), requires_grad=True)
    wanted = reference(t)
    wanted.sum().backward()
    assert t.grad is not None
    # gelu subtracts erf from 1 as PyTorch does, so its tail is accurate on the scale of x * epsilon only.
    absolute = 2e-6 if name.startswith(("gelu", "tanh", "sigmoid")) else 1e-30
    gradient = t.grad.numpy()
    # PyTorch's own float64 derivative of the tanh form overflows beyond the range of its cube.
    gradient = np.where(np.isnan(gradient), (LARGE > 0).astype(float), gradient)
    np.testing.assert_allclose(env[y], wanted.detach().numpy(), rtol=3e-6, atol=absolute)
    np.testing.assert_allclose(env[gradients[x]], gradient, rtol=3e-6, atol=absolute)


def test_sigmoid_keeps_relative_accuracy_where_it_is_tiny() -> None:
    array = np.array([-100.0, -80.0, -20.0])
    graph, (x,), (y,), (seed,), gradients = build(activation.sigmoid, [array])
    env = run(graph, {x: array, seed: np.ones_like(array)}, np.float32)
    np.testing.assert_allclose(env[y], np.exp(array), rtol=2e-2)  # exp(-100) is subnormal in float32
    np.testing.assert_allclose(env[gradients[x]], np.exp(array), rtol=2e-2)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "silu", "gelu_tanh", "mish", "softplus", "elu", "hardswish"])
def test_gradient_agrees_with_central_differences(name: str) -> None:
    function, _ = CASES[name]
    array = draw(11, low=-4.0, high=4.0, seed=3)
    graph, (x,), (y,), (seed,), gradients = build(function, [array])
    weights = draw(11, seed=5)
    env = run(graph, {x: array, seed: weights}, np.float64)
    step = 1e-6
    forward = [run(graph, {x: array + sign * step, seed: weights}, np.float64)[y] for sign in (1, -1)]
    np.testing.assert_allclose(env[gradients[x]], weights * (forward[0] - forward[1]) / (2 * step), atol=1e-6)


@pytest.mark.parametrize(("shape", "channels"), [((2, 3, 4), 3), ((2, 3, 4, 2), 1), ((5,), 1), ((4, 6), 6)])
def test_prelu(shape: tuple[int, ...], channels: int) -> None:
    check(activation.prelu, functional.prelu, draw(*shape), draw(channels, seed=1))
    check(activation.prelu, functional.prelu, np.zeros(shape), draw(channels, seed=1))


def test_prelu_rejects_a_weight_of_another_size() -> None:
    with pytest.raises(ShapeError, match="2 elements for 3 channels"):
        check(activation.prelu, functional.prelu, draw(2, 3), draw(2))


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.integers(1, 3), st.integers(0, 2), st.data())
def test_glu(rank: int, axis: int, data: st.DataObject) -> None:
    axis = min(axis, rank - 1)
    shape = [data.draw(st.integers(1, 4)) * (2 if k == axis else 1) for k in range(rank)]
    check(lambda x: activation.glu(x, axis), lambda x: functional.glu(x, axis), draw(*shape))


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.sampled_from(sorted(CASES)), st.lists(st.integers(1, 4), max_size=3), st.integers(0, 99))
def test_any_shape(name: str, shape: list[int], seed: int) -> None:
    check(*CASES[name], draw(*shape, seed=seed, low=-5, high=8), tolerance=LITERALS)


def test_glu_rejects_an_odd_axis() -> None:
    with pytest.raises(ShapeError, match="even extent"):
        check(activation.glu, functional.glu, draw(2, 3))


def test_random_slopes_are_refused() -> None:
    function = registry.find_aten("aten.rrelu.default")
    assert function is not None
    check(function, lambda x: functional.rrelu(x, training=False), draw(4), tolerance=LITERALS)
    with pytest.raises(registry.UnsupportedCall, match="leaky_relu"):
        check(lambda x: function(x, training=True), torch.relu, draw(4))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("relu", ()), ("relu6", ()), ("hardtanh", (-1.0, 2.0)), ("leaky_relu", (0.3,)), ("elu", (1.0, 2.0, 0.5)),
        ("celu", (1.5,)), ("selu", ()), ("silu", ()), ("mish", ()), ("gelu", ()), ("sigmoid", ()), ("tanh", ()),
        ("hardswish", ()), ("hardsigmoid", ()), ("threshold", (0.5, 1.0)), ("softplus", (2.0, 3.0)),
        ("log_sigmoid", ()), ("hardshrink", (1.0,)), ("softshrink", (1.0,)), ("special_expit", ()),
    ],
)  # fmt: skip
def test_aten_names(name: str, arguments: tuple[float, ...]) -> None:
    reference = getattr(torch.ops.aten, name).default
    for suffix in ("", "_"):
        function = registry.find_aten(f"aten.{name}{suffix}.default")
        if function is None:
            assert suffix and name in ("softplus", "log_sigmoid", "hardshrink", "softshrink", "special_expit")
            continue
        wanted = functools.partial(_call, reference, arguments)
        check(functools.partial(_call, function, arguments), wanted, draw(3, 5), tolerance=LITERALS)


def _call(function: Callable[..., Any], arguments: tuple[float, ...], x: Any) -> Any:
    return function(x, *arguments)


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("Relu", {}), ("LeakyRelu", {"alpha": 0.2}), ("Elu", {"alpha": 0.5}), ("Celu", {"alpha": 0.5}), ("Selu", {}),
        ("Selu", {"alpha": 2.0, "gamma": 0.5}), ("Sigmoid", {}), ("Tanh", {}), ("Gelu", {}),
        ("Gelu", {"approximate": "tanh"}), ("HardSigmoid", {}), ("HardSigmoid", {"alpha": 0.3, "beta": 0.1}),
        ("HardSwish", {}), ("Softplus", {}), ("Softsign", {}), ("Mish", {}), ("ThresholdedRelu", {"alpha": 0.5}),
        ("Shrink", {"lambd": 0.5, "bias": 0.25}), ("Shrink", {}),
    ],
)  # fmt: skip
def test_onnx_names(op_type: str, attributes: dict[str, Any]) -> None:
    x = np.concatenate([draw(20, low=-6, high=6), KINKS]).astype(np.float32)
    check_onnx(op_type, [x], attributes, opset=22 if op_type == "Mish" else 20)


def test_onnx_prelu_and_swish() -> None:
    x = draw(2, 3, 4).astype(np.float32)
    check_onnx("PRelu", [x, draw(3, 1).astype(np.float32)])
    check(adapter("Swish", alpha=0.5), lambda v: v * torch.sigmoid(0.5 * v), draw(9, low=-9, high=9))
