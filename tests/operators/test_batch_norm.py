"""Batch and instance normalisation against PyTorch: values, gradients, running statistics, ONNX forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from central_differences import check_differences
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_harness import adapter, check_onnx
from operator_harness import check, draw
from torch.nn import functional

from tilegrad.errors import ShapeError
from tilegrad.interpreter.execute import run
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.operators import batch_norm, registry
from tilegrad.operators.registry import UnsupportedCall

#: Exact in float32, so that the float64 interpreter and PyTorch use the same number.
EPS = 2.0**-14
SHAPES = [(5, 3), (4, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 4), (1, 2, 3), (7, 1)]


def normalise(x: Value, *affine: Value) -> Value:
    weight, bias = (*affine, None, None)[:2]
    return batch_norm.normalise_batch(x, weight, bias, EPS).output


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_statistics(shape: tuple[int, ...]) -> None:
    operands = (draw(*shape), draw(shape[1], seed=1), draw(shape[1], seed=2))
    check(normalise, lambda x, w, b: functional.batch_norm(x, None, None, w, b, True, 0.1, EPS), *operands)
    check(normalise, lambda x: functional.batch_norm(x, None, None, None, None, True, 0.1, EPS), operands[0])
    check(normalise, lambda x, w: functional.batch_norm(x, None, None, w, None, True, 0.1, EPS), *operands[:2])


@settings(max_examples=15, derandomize=True, deadline=None)
@given(
    batch=st.integers(1, 4), channels=st.integers(1, 4), places=st.lists(st.integers(1, 4), max_size=3),
    offset=st.sampled_from([0.0, 100.0]),
)  # fmt: skip
def test_batch_statistics_of_any_shape(batch: int, channels: int, places: list[int], offset: float) -> None:
    shape = (batch, channels, *places)
    if np.prod(shape) // channels < 2:
        return
    x = draw(*shape) + offset
    check(
        normalise, lambda x, w, b: functional.batch_norm(x, None, None, w, b, True, 0.1, EPS),
        x, draw(channels, seed=1), draw(channels, seed=2), tolerance=1e-8,
    )  # fmt: skip


def test_gradients_are_central_differences() -> None:
    check_differences(normalise, draw(3, 2, 3), draw(2, seed=1), draw(2, seed=2))
    check_differences(
        lambda x, w, b: batch_norm.instance_norm(x, w, b, EPS).output, draw(2, 2, 4), draw(2, seed=1), draw(2, seed=2)
    )


def test_the_variance_does_not_cancel_in_float32() -> None:
    x = draw(64, 2) + 1000.0
    graph = Graph("test")
    value = Value("x", x.shape, DType.F32, Kind.INPUT)
    with graph.building():
        result = batch_norm.normalise_batch(value, None, None, EPS)
    variance = run(graph, {value: x}, np.float32)[result.variance]  # type: ignore[index]
    np.testing.assert_allclose(variance, x.var(0), rtol=1e-4)


def test_nan_and_infinity_stay_in_their_channel() -> None:
    x = draw(4, 3, 2)
    x[0, 0, 0], x[1, 2, 1] = np.nan, np.inf
    check(normalise, lambda x: functional.batch_norm(x, None, None, None, None, True, 0.1, EPS), x)


def test_one_value_per_channel_is_an_error() -> None:
    with pytest.raises(ShapeError, match="more than one value per channel"):
        check(normalise, lambda x: x, draw(1, 3))
    with pytest.raises(ShapeError, match="more than one spatial element"):
        check(
            lambda x: aten("instance_norm", x, None, None, None, None, True, 0.1, EPS, False),
            lambda x: x,
            draw(2, 3, 1),
        )


def aten(name: str, *args: Any) -> Any:
    function = registry.find_aten(f"aten.{name}.default" if "." not in name else f"aten.{name}")
    assert function is not None
    return function(*args)


class Layer:
    """A graph with parameters, buffers and one input, run in float64."""

    def __init__(self, channels: int, training: bool = True) -> None:
        self.graph = Graph("test", training=training)
        self.arrays = {
            "weight": draw(channels, seed=1), "bias": draw(channels, seed=2), "mean": draw(channels, seed=3),
            "variance": draw(channels, seed=4) + 3.0,
        }  # fmt: skip
        self.values = {
            name: Value(name, (channels,), DType.F32, Kind.PARAMETER if name in ("weight", "bias") else Kind.BUFFER)
            for name in self.arrays
        }

    def tensors(self) -> list[torch.Tensor]:
        return [torch.tensor(array) for array in self.arrays.values()]

    def operands(self) -> tuple[Value, Value, Value, Value]:
        weight, bias, mean, variance = self.values.values()
        return weight, bias, mean, variance

    def run(self, *inputs: tuple[Value, Any]) -> dict[Value, Any]:
        feeds = {value: self.arrays[name] for name, value in self.values.items()} | dict(inputs)
        return run(self.graph, feeds, np.float64)

    def stored(self, env: dict[Value, Any], name: str) -> Any:
        found = [store.value for store in self.graph.stores if store.target is self.values[name]]
        assert len(found) == 1
        return env[found[0]]


def compare(got: Any, wanted: torch.Tensor, tolerance: float = 1e-7) -> None:
    np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["batch_norm", "_native_batch_norm_legit", "native_batch_norm", "instance_norm"])
def test_training_updates_the_running_statistics(name: str) -> None:
    layer, x = Layer(3), draw(4, 3, 5)
    value = Value("x", x.shape, DType.F32, Kind.INPUT)
    rest: tuple[Any, ...] = (False,) if name in ("batch_norm", "instance_norm") else ()
    with layer.graph.building():
        found = aten(name, value, *layer.operands(), True, 0.25, EPS, *rest)
    tensors = layer.tensors()
    wanted = getattr(torch.ops.aten, name)(torch.tensor(x), *tensors, True, 0.25, EPS, *rest)
    env = layer.run((value, x))
    pairs = zip(found, wanted, strict=True) if isinstance(found, tuple) else [(found, wanted)]
    for mine, theirs in pairs:
        compare(env[mine], theirs)
    compare(layer.stored(env, "mean"), tensors[2])
    compare(layer.stored(env, "variance"), tensors[3])


def test_a_layer_applied_twice_updates_twice() -> None:
    layer, x, y = Layer(3), draw(4, 3), draw(6, 3, seed=9)
    values = [Value(f"x{k}", a.shape, DType.F32, Kind.INPUT) for k, a in enumerate((x, y))]
    with layer.graph.building():
        for value in values:
            aten("batch_norm", value, *layer.operands(), True, 0.25, EPS, False)
    tensors = layer.tensors()
    for array in (x, y):
        functional.batch_norm(torch.tensor(array), tensors[2], tensors[3], None, None, True, 0.25, EPS)
    env = layer.run((values[0], x), (values[1], y))
    compare(layer.stored(env, "mean"), tensors[2])
    compare(layer.stored(env, "variance"), tensors[3])


def test_the_functional_form_returns_new_statistics_and_stores_nothing() -> None:
    layer, x = Layer(3), draw(4, 3, 5)
    value = Value("x", x.shape, DType.F32, Kind.INPUT)
    with layer.graph.building():
        found = aten("_native_batch_norm_legit_functional", value, *layer.operands(), True, 0.25, EPS)
    wanted = torch.ops.aten._native_batch_norm_legit_functional(torch.tensor(x), *layer.tensors(), True, 0.25, EPS)
    env = layer.run((value, x))
    assert not layer.graph.stores
    for mine, theirs in zip(found, wanted, strict=True):
        compare(env[mine], theirs)


@pytest.mark.parametrize("argument, graph_training", [(False, True), (True, False)])
@pytest.mark.parametrize("name", ["batch_norm", "instance_norm"])
def test_frozen_uses_running_statistics_and_leaves_them(name: str, argument: bool, graph_training: bool) -> None:
    layer, x = Layer(3, graph_training), draw(1, 3, 1)
    value = Value("x", x.shape, DType.F32, Kind.INPUT)
    with layer.graph.building():
        result = aten(name, value, *layer.operands(), argument, 0.25, EPS, False)
    wanted = functional.batch_norm(torch.tensor(x), *layer.tensors()[2:], *layer.tensors()[:2], False, 0.25, EPS)
    compare(layer.run((value, x))[result], wanted)
    assert not layer.graph.stores


def test_frozen_gradients() -> None:
    mean, variance = draw(3, seed=3), draw(3, seed=4) + 3.0
    check(
        lambda x, w, b, m, v: batch_norm.normalise_frozen(x, w, b, m, v, EPS),
        lambda x, w, b, m, v: functional.batch_norm(x, m, v, w, b, False, 0.1, EPS),
        draw(2, 3, 4), draw(3, seed=1), draw(3, seed=2), mean, variance, gradient=False,
    )  # fmt: skip
    check_differences(
        lambda x, w, b, m, v: batch_norm.normalise_frozen(x, w, b, m, v, EPS),
        draw(2, 3, 2), draw(3, seed=1), draw(3, seed=2), mean, variance,
    )  # fmt: skip


def test_evaluation_without_statistics_has_empty_saved_ones() -> None:
    layer, x = Layer(3), draw(2, 3)
    value = Value("x", x.shape, DType.F32, Kind.INPUT)
    with layer.graph.building():
        found = aten("_native_batch_norm_legit_no_training", value, *layer.operands(), 0.25, EPS)
    assert [v.shape for v in found] == [(2, 3), (0,), (0,)]


def test_statistics_that_are_no_buffers_cannot_be_updated() -> None:
    with pytest.raises(UnsupportedCall, match="running statistic"):
        check(
            lambda x, m, v: aten("batch_norm", x, None, None, m, v, True, 0.1, EPS, False),
            lambda x: x,
            draw(2, 3),
            draw(3),
            draw(3),
        )
    with pytest.raises(UnsupportedCall, match="momentum=None"):
        check(lambda x: aten("batch_norm", x, None, None, None, None, True, None, EPS, False), lambda x: x, draw(2, 3))


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 1, 3, 3), (3, 2, 2, 2, 2)])
def test_instance_norm(shape: tuple[int, ...]) -> None:
    check(
        lambda x, w, b: aten("instance_norm", x, w, b, None, None, True, 0.1, EPS, False),
        lambda x, w, b: functional.instance_norm(x, None, None, w, b, True, 0.1, EPS),
        draw(*shape), draw(shape[1], seed=1), draw(shape[1], seed=2),
    )  # fmt: skip
    check(
        lambda x: aten("instance_norm", x, None, None, None, None, True, 0.1, EPS, False),
        lambda x: functional.instance_norm(x, None, None, None, None, True, 0.1, EPS),
        draw(*shape),
    )


def f32(*shape: int, seed: int = 0) -> Any:
    return draw(*shape, seed=seed).astype(np.float32)


def test_onnx_inference() -> None:
    inputs = [f32(2, 3, 4), f32(3, seed=1), f32(3, seed=2), f32(3, seed=3), f32(3, seed=4) + 3]
    check_onnx("BatchNormalization", inputs, {"epsilon": 1e-3}, tolerance=1e-5)
    check_onnx("InstanceNormalization", inputs[:3], {"epsilon": 1e-3}, tolerance=1e-5)


def test_onnx_training_mode_returns_the_statistics_of_the_specification() -> None:
    layer, x = Layer(3), draw(2, 3, 4)
    value = Value("x", x.shape, DType.F32, Kind.INPUT)
    with layer.graph.building():
        found = adapter("BatchNormalization", outputs=3, training=True, training_mode=1, momentum=0.75, epsilon=EPS)(
            value, *layer.operands()
        )
    env = layer.run((value, x))
    mean, variance = x.mean((0, 2)), x.var((0, 2))
    np.testing.assert_allclose(env[found[1]], 0.75 * layer.arrays["mean"] + 0.25 * mean, rtol=1e-7)
    np.testing.assert_allclose(env[found[2]], 0.75 * layer.arrays["variance"] + 0.25 * variance, rtol=1e-7)
    wanted = functional.batch_norm(torch.tensor(x), None, None, *layer.tensors()[:2], True, 0.25, EPS)
    compare(env[found[0]], wanted)


def test_onnx_inference_model_trains_like_pytorch() -> None:
    layer, x = Layer(3), draw(2, 3, 4)
    value = Value("x", x.shape, DType.F32, Kind.INPUT)
    with layer.graph.building():
        result = adapter("BatchNormalization", training=True, momentum=0.75, epsilon=EPS)(value, *layer.operands())
    tensors = layer.tensors()
    wanted = functional.batch_norm(torch.tensor(x), tensors[2], tensors[3], *tensors[:2], True, 0.25, EPS)
    env = layer.run((value, x))
    compare(env[result], wanted)
    compare(layer.stored(env, "mean"), tensors[2])
    compare(layer.stored(env, "variance"), tensors[3])
