"""Dropout: masks equal to the NumPy reference, streams, statistics, gradients, forms that do nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from central_differences import check_differences
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_harness import adapter
from operator_harness import check, draw

from tilegrad.errors import ShapeError
from tilegrad.interpreter.execute import run
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.operators import dropout, random, registry
from tilegrad.operators.registry import UnsupportedCall

SEED = (0x12345678, 0x9ABCDEF0)


def aten(name: str, *args: Any) -> Any:
    function = registry.find_aten(f"aten.{name}.default")
    assert function is not None
    return function(*args)


class Drawn:
    """A function of one input, run with a seed in a given pass."""

    def __init__(self, function: Any, x: Any, step: int = 3, training: bool = True) -> None:
        self.graph = Graph("test", training=training)
        value = Value("x", x.shape, DType.of(x), Kind.INPUT)
        with self.graph.building():
            found = function(value)
        self.results = found if isinstance(found, tuple) else (found,)
        feeds: dict[Value, Any] = {value: x}
        if self.graph.random_seed is not None and self.graph.random_step is not None:
            feeds |= {self.graph.random_seed: np.array(SEED, np.uint32), self.graph.random_step: np.array([step])}
        env = run(self.graph, feeds, np.float64)
        self.arrays = [r.data if r.is_constant else env.get(r, feeds.get(r)) for r in self.results]


@settings(max_examples=20, derandomize=True, deadline=None)
@given(
    shape=st.lists(st.integers(1, 6), max_size=3), p=st.sampled_from([0.125, 0.25, 0.5, 0.875]),
    step=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_the_reference_mask_is_the_one_that_is_used(shape: list[int], p: float, step: int) -> None:
    x = draw(*shape)
    result, mask = Drawn(lambda v: aten("native_dropout", v, p, True), x, step).arrays
    expected = random.dropout_mask(shape, p, SEED, step, 0)
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_allclose(result, np.where(expected, x / (1 - p), 0.0), rtol=1e-7)


def test_every_operator_has_its_own_stream() -> None:
    x = np.ones((64,))
    first, second = Drawn(lambda v: (aten("dropout", v, 0.5, True), aten("dropout", v, 0.5, True)), x).arrays
    np.testing.assert_array_equal(first > 0, random.dropout_mask((64,), 0.5, SEED, 3, 0))
    np.testing.assert_array_equal(second > 0, random.dropout_mask((64,), 0.5, SEED, 3, 1))
    assert (first != second).any()


def test_pass_and_seed_change_the_mask() -> None:
    masks = [
        random.dropout_mask((256,), 0.5, seed, step, 0).tobytes()
        for seed, step in ((SEED, 0), (SEED, 1), ((SEED[0], 1), 0), ((1, SEED[1]), 0))
    ]
    assert len(set(masks)) == 4


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_of_dropped_elements(p: float) -> None:
    dropped = 1.0 - random.dropout_mask((100, 1000), p, SEED, 0, 5).mean()
    assert abs(dropped - p) < 5 * np.sqrt(p * (1 - p) / 1e5)


def test_the_threshold_is_exact() -> None:
    assert random.threshold(0.5) == 2**31
    assert random.threshold(0.0) == 0
    assert random.threshold(1.0 - 2.0**-53) == 2**32 - 1
    assert random.threshold(0.1) == round(2**32 / 10)


def test_settings_are_made_once_and_named() -> None:
    graph = Drawn(lambda v: (dropout.dropout(v, 0.5), dropout.dropout(v, 0.5)), np.ones(4)).graph
    assert graph.random_seed is not None and graph.random_step is not None
    assert (graph.random_seed.name, graph.random_seed.shape, graph.random_seed.dtype) == (
        "random.seed",
        (2,),
        DType.U32,
    )
    assert (graph.random_step.name, graph.random_step.shape, graph.random_step.dtype) == (
        "random.step",
        (1,),
        DType.U32,
    )
    assert graph.random_seed.kind is graph.random_step.kind is Kind.SETTING
    assert graph.random_streams == 2


@pytest.mark.parametrize("name", ["dropout", "dropout_", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"])
@pytest.mark.parametrize("p, train, training", [(0.5, False, True), (0.5, True, False), (0.0, True, True)])
def test_does_nothing(name: str, p: float, train: bool, training: bool) -> None:
    x = draw(3, 4)
    drawn = Drawn(lambda v: aten(name, v, p, train), x, training=training)
    np.testing.assert_array_equal(drawn.arrays[0], x)
    assert drawn.graph.random_seed is None and drawn.graph.random_streams == 0


def test_the_mask_of_an_inactive_native_dropout_is_true() -> None:
    _, mask = Drawn(lambda v: aten("native_dropout", v, 0.5, False), draw(3)).arrays
    assert mask.dtype == np.bool_ and mask.all()
    assert Drawn(lambda v: aten("native_dropout", v, 0.5, None), draw(3)).graph.random_streams == 1


def test_everything_is_dropped_with_probability_one() -> None:
    for name in ("dropout", "feature_dropout"):
        assert not Drawn(lambda v, n=name: aten(n, v, 1.0, True), draw(3, 4)).arrays[0].any()
    assert not random.dropout_mask((3,), 1.0, SEED, 0, 0).any()


def test_a_dropped_infinity_is_zero() -> None:
    result = Drawn(lambda v: dropout.dropout(v, 0.5), np.full(64, np.inf)).arrays[0]
    assert set(result.tolist()) == {0.0, np.inf}


def test_whole_channels() -> None:
    x = draw(3, 4, 2, 2)
    result = Drawn(lambda v: aten("feature_dropout", v, 0.5, True), x).arrays[0]
    shape = dropout.mask_shape(x.shape, channels=True)
    assert shape == (3, 4, 1, 1)
    np.testing.assert_allclose(result, np.where(random.dropout_mask(shape, 0.5, SEED, 3, 0), 2 * x, 0.0))
    with pytest.raises(UnsupportedCall, match="at least 2 axes"):
        Drawn(lambda v: aten("feature_dropout", v, 0.5, True), draw(3))


def test_the_gradient_uses_the_same_mask() -> None:
    check_differences(lambda x: dropout.dropout(x, 0.5), draw(4, 5))
    keep = random.dropout_mask((4, 5), 0.5, (0, 0), 0, 0)
    check(lambda x: dropout.dropout(x, 0.5), lambda x: x * torch.tensor(keep * 2.0), draw(4, 5))


def test_what_is_not_supported() -> None:
    with pytest.raises(UnsupportedCall, match="alpha dropout"):
        Drawn(lambda v: aten("alpha_dropout", v, 0.5, True), draw(3))
    with pytest.raises(ShapeError, match="between 0 and 1"):
        Drawn(lambda v: aten("dropout", v, 1.5, True), draw(3))
    with pytest.raises(UnsupportedCall, match="i64"):
        Drawn(lambda v: aten("dropout", v, 0.5, True), np.ones(3, np.int64))


def constant(number: Any) -> Value:
    array = np.array(number)
    return Value("c", array.shape, DType.of(array), Kind.CONSTANT, array)


def test_onnx() -> None:
    x = draw(64)
    layer = adapter("Dropout", outputs=2)
    result, mask = Drawn(lambda v: layer(v, constant(np.float32(0.25)), constant(np.True_)), x).arrays
    expected = random.dropout_mask((64,), 0.25, SEED, 3, 0)
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_allclose(result, np.where(expected, x / 0.75, 0.0), rtol=1e-7)
    for operands in ((), (constant(np.float32(0.25)),), (None, constant(np.False_))):
        result, mask = Drawn(lambda v, rest=operands: layer(v, *rest), x).arrays
        np.testing.assert_array_equal(result, x)
        assert mask.all()
    assert Drawn(lambda v: adapter("Dropout")(v, None, constant(np.True_)), x).graph.random_streams == 1
    with pytest.raises(UnsupportedCall, match="compile time"):
        Drawn(lambda v: layer(v, v), np.array(0.5))
