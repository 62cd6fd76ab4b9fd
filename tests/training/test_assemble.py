"""From a forward graph to entry points: what is trained, accumulation, fusion, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tilegrad.errors import UserError
from tilegrad.interpreter.execute import run
from tilegrad.ir.builder import Domain, elementwise, reduce_sum, with_gradient
from tilegrad.ir.graph import Graph, StructuredOp, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.ir.verifier import verify_graph
from tilegrad.training.assemble import TrainingProgram, assemble, select_trainable
from tilegrad.training.losses import MSE
from tilegrad.training.optimizers import SGD

Array = NDArray[Any]


def model(body: Callable[[Value, dict[str, Value]], Value] | None = None) -> Graph:
    """``y = x w + b`` with parameters ``fc.weight`` and ``fc.bias``, or another body over them."""
    graph = Graph("model")
    x = Value("x", (4, 3), DType.F32, Kind.INPUT)
    w = Value("fc.weight", (3, 2), DType.F32, Kind.PARAMETER, np.full((3, 2), 0.5, np.float32))
    b = Value("fc.bias", (2,), DType.F32, Kind.PARAMETER, np.zeros(2, np.float32))
    graph.inputs.append(x)
    graph.parameters.update({"fc.weight": w, "fc.bias": b})
    with graph.building():
        if body is not None:
            y = body(x, graph.parameters)
        else:
            d = Domain()
            n, k = d.parallel(4, 2)
            (c,) = d.reduction(3)
            y = elementwise(lambda v, u: v + u, d.sum(x[n, c] * w[c, k], (n, k)), b)
    graph.results.append(y)
    return graph


def program(graph: Graph, **options: Any) -> TrainingProgram:
    chosen = {"accumulate": 1, "mean": True, "clip_norm": None, "fuse": False} | options
    built = assemble(graph, select_trainable(graph, "*"), MSE(), SGD(lr=0.1), **chosen)
    for entry in built.entries:
        verify_graph(entry)
    return built


def step(entry: Graph, state: dict[Value, Array]) -> dict[Value, Array]:
    """Run an entry point in float64; the state after it."""
    env = run(entry, state, np.float64)
    return state | {store.target: env[store.value] for store in entry.stores}


def feeds(graph: Graph, seed: int) -> dict[Value, Array]:
    rng = np.random.default_rng(seed)
    return {value: rng.normal(size=value.shape) for value in graph.inputs}


def test_globs_choose_parameters() -> None:
    graph = model()
    assert list(select_trainable(graph, "*")) == ["fc.weight", "fc.bias"]
    assert list(select_trainable(graph, ["*.bias"])) == ["fc.bias"]
    assert list(select_trainable(graph, "fc*", ["*bias"])) == ["fc.weight"]


def test_globs_match_every_name_of_a_tied_parameter() -> None:
    graph = model()
    graph.aliases["head.weight"] = "fc.weight"
    assert list(select_trainable(graph, "head.*")) == ["fc.weight"]
    assert list(select_trainable(graph, "*", ["head.*"])) == ["fc.bias"]


def test_parameters_that_the_model_freezes_stay_frozen() -> None:
    graph = model()
    graph.frozen.append("fc.weight")
    assert list(select_trainable(graph, "*")) == ["fc.bias"]


@pytest.mark.parametrize("patterns, frozen", [("conv*", []), ("*", ["conv*"]), (["*", "nothing"], [])])
def test_a_glob_that_matches_nothing_is_an_error(patterns: Any, frozen: list[str]) -> None:
    with pytest.raises(UserError, match=r"no parameter matches .*fc\.weight, fc\.bias"):
        select_trainable(model(), patterns, frozen)


def test_freezing_everything_is_an_error() -> None:
    with pytest.raises(UserError, match="nothing is left"):
        select_trainable(model(), "*", ["*"])


def test_a_step_is_a_gradient_and_an_update() -> None:
    graph = model()
    built = program(graph)
    train, optimize = built.entries
    assert (train.name, optimize.name) == ("train", "optimize")
    state = feeds(graph, 1)
    x, target = (state[value] for value in graph.inputs)
    w = graph.parameters["fc.weight"]
    state = step(train, state)
    difference = x @ np.full((3, 2), 0.5) - target
    np.testing.assert_allclose(state[built.loss_output], (difference**2).mean(), rtol=1e-12)
    expected = 2 * x.T @ difference / difference.size
    np.testing.assert_allclose(state[built.gradient_buffers["fc.weight"]], expected, rtol=1e-12)
    state = step(optimize, state)
    np.testing.assert_allclose(state[w], 0.5 - np.float32(0.1) * expected, rtol=1e-12)


@pytest.mark.parametrize("mean", [True, False])
def test_accumulation(mean: bool) -> None:
    graph = model()
    built = program(graph, accumulate=2, mean=mean)
    train, optimize = built.entries
    single = model()
    alone = program(single)
    gradients = []
    state: dict[Value, Array] = {}
    for seed in (1, 2):
        batch = feeds(graph, seed)
        state = step(train, state | batch)
        own = dict(zip(single.inputs, batch.values(), strict=True))
        gradients.append(step(alone.entries[0], own)[alone.gradient_buffers["fc.weight"]])
    buffer = built.gradient_buffers["fc.weight"]
    np.testing.assert_allclose(state[buffer], sum(gradients) / (2 if mean else 1), rtol=1e-12)
    assert not step(optimize, state)[buffer].any()  # the next step starts from zero


def test_accumulation_continues_the_chain_of_additions() -> None:
    """The sum of the second micro-batch goes on in the accumulator of the first: the buffer is its first value."""
    built = program(model(), accumulate=2)
    stores = {store.target: store.value for store in built.entries[0].stores}
    producers = built.entries[0].producers()
    for buffer in built.gradient_buffers.values():
        op = producers[stores[buffer]]
        assert isinstance(op, StructuredOp)
        (result,) = op.nests[0].results
        assert result.start is not None and result.start.attr.value is buffer
        assert result.start.attr.index == result.index


def test_one_gradient_of_two_parameters_accumulates_for_both() -> None:
    def body(x: Value, parameters: dict[str, Value]) -> Value:
        w, b = parameters["fc.weight"], parameters["fc.bias"]
        b.shape, b.data = w.shape, np.zeros(w.shape, np.float32)
        y = elementwise(lambda a, c: a + c, w, b)
        with_gradient((w, b), (y,), lambda g: (g, g))
        d = Domain()
        n, k = d.parallel(4, 2)
        (c,) = d.reduction(3)
        return d.sum(x[n, c] * y[c, k], (n, k))

    graph = model(body)
    built = program(graph, accumulate=2, mean=False)
    state = step(built.entries[0], feeds(graph, 1))
    once = {name: state[buffer] for name, buffer in built.gradient_buffers.items()}
    np.testing.assert_array_equal(once["fc.weight"], once["fc.bias"])
    state = step(built.entries[0], state)
    for name, buffer in built.gradient_buffers.items():
        np.testing.assert_allclose(state[buffer], 2 * once[name], rtol=1e-12)


def test_fusion_needs_no_gradient_buffers() -> None:
    graph = model()
    built = program(graph, fuse=True)
    assert built.fused and [entry.name for entry in built.entries] == ["step"] and not built.gradient_buffers
    state = step(built.entries[0], feeds(graph, 1))
    other = model()
    parts = program(other)
    expected = step(
        parts.entries[1], step(parts.entries[0], dict(zip(other.inputs, feeds(graph, 1).values(), strict=True)))
    )
    for name, value in graph.parameters.items():
        np.testing.assert_array_equal(state[value], expected[other.parameters[name]])


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"clip_norm": 1.0}])
def test_what_needs_the_whole_gradient_is_not_fused(options: dict[str, Any]) -> None:
    assert not program(model(), fuse=True, **options).fused


def test_a_model_must_return_one_prediction() -> None:
    graph = model()
    graph.results.append(graph.results[0])
    with pytest.raises(UserError, match="returns 2 tensors"):
        program(graph)


def test_a_loss_that_depends_on_no_parameter_is_an_error() -> None:
    graph = model(lambda x, parameters: reduce_sum(x, 1))
    with pytest.raises(UserError, match="does not depend"):
        program(graph)


def test_parameters_that_the_loss_does_not_use_keep_their_values() -> None:
    graph = model(lambda x, parameters: reduce_sum(x * reduce_sum(parameters["fc.bias"]), 1))
    built = program(graph)
    assert list(built.gradients) == ["fc.bias"]
    assert all(store.target is not graph.parameters["fc.weight"] for entry in built.entries for store in entry.stores)
