"""Optimizers agree with torch.optim, step after step, in the interpreter and as a formula."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilegrad.errors import UserError
from tilegrad.interpreter.execute import initial, run
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.training.optimizers import SGD, Adam, AdamW, StepCounters

Array = NDArray[Any]
SHAPES = ((3, 4), (5,), ())


class Training:
    """An optimizer's graph over a few parameters, its stores fed back, beside torch.optim and the formula."""

    def __init__(self, optimizer: Any, dtype: type[np.floating[Any]] = np.float64, seed: int = 0) -> None:
        self.optimizer, self.dtype, self.random = optimizer, dtype, np.random.default_rng(seed)
        self.weights = [self.random.normal(size=shape) for shape in SHAPES]
        self.graph = Graph("optimize")
        self.lr = Value("lr", (), DType.F32, Kind.SETTING)
        self.parameters = [Value(f"p{k}", s, DType.F32, Kind.PARAMETER) for k, s in enumerate(SHAPES)]
        self.gradients = [Value(f"g{k}", s, DType.F32, Kind.GRADIENT) for k, s in enumerate(SHAPES)]
        with self.graph.building():
            counters = StepCounters(optimizer, self.lr)
            self.graph.stores.extend(counters.stores)
            for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
                self.graph.stores.extend(optimizer.build(parameter, gradient, self.lr, counters))
        self.state: dict[Value, Array] = {
            p: w.astype(dtype) for p, w in zip(self.parameters, self.weights, strict=True)
        }
        self.tensors = [torch.tensor(w, requires_grad=True) for w in self.weights]
        self.reference = optimizer.reference(self.tensors)
        self.formula: list[tuple[Array, dict[str, Array]]] = [(w, {}) for w in self.weights]
        self.steps = 0

    def step(self, rate: float, scale: float = 1.0) -> None:
        self.steps += 1
        drawn = [np.asarray(self.random.normal(size=shape) * scale) for shape in SHAPES]
        feeds = self.state | dict(zip(self.gradients, drawn, strict=True)) | {self.lr: np.array(rate)}
        env = run(self.graph, feeds, self.dtype)
        self.state = {store.target: env[store.value] for store in self.graph.stores}
        for tensor, gradient in zip(self.tensors, drawn, strict=True):
            tensor.grad = torch.tensor(gradient)
        for group in self.reference.param_groups:
            group["lr"] = rate
        self.reference.step()
        self.formula = [
            self.optimizer.replay(w, g, rate, self.steps, state)
            for (w, state), g in zip(self.formula, drawn, strict=True)
        ]

    def check(self, tolerance: float) -> None:
        for parameter, tensor, (weights, _) in zip(self.parameters, self.tensors, self.formula, strict=True):
            expected = tensor.detach().numpy()
            np.testing.assert_allclose(weights, expected, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(self.state[parameter], expected, rtol=tolerance, atol=tolerance)

    def check_state(self, tolerance: float) -> None:
        """The state tensors are torch.optim's, under its names."""
        for parameter, tensor, (_, state) in zip(self.parameters, self.tensors, self.formula, strict=True):
            theirs = {k: v for k, v in self.reference.state[tensor].items() if k != "step" and v is not None}
            names = {"max_exp_avg_sqs": "max_exp_avg_sq"}
            assert {names.get(k, k) for k in theirs} == set(state)
            ours = {v.name: a for v, a in self.state.items() if v.kind is Kind.OPTIMIZER}
            for key, array in theirs.items():
                found = ours[f"{parameter.name}.{names.get(key, key)}"]
                np.testing.assert_allclose(found, array.numpy(), rtol=tolerance, atol=tolerance)
                np.testing.assert_allclose(state[names.get(key, key)], array.numpy(), rtol=1e-12, atol=1e-12)


RATES = (0.125, 0.25, 0.0625, 0.125, 0.0, 1.0)  # the rate changes from step to step
#: Options that float32 holds exactly, so that the interpreter in float64 does exactly PyTorch's arithmetic.
BETAS = ((0.875, 1.0 - 2.0**-10), (0.0, 0.75), (0.5, 0.0), (0.25, 0.9375))
small = st.sampled_from([0.0, 2.0**-10, 0.125, 0.5])


@st.composite
def optimizers(draw: st.DrawFn) -> Any:
    maximize, decay = draw(st.booleans()), draw(small)
    if draw(st.booleans()):
        momentum = draw(st.sampled_from([0.0, 0.5, 0.875]))
        nesterov = momentum > 0 and draw(st.booleans())
        dampening = 0.0 if nesterov else draw(st.sampled_from([0.0, 0.25, 1.0]))
        return SGD(momentum=momentum, dampening=dampening, weight_decay=decay, nesterov=nesterov, maximize=maximize)
    kind = draw(st.sampled_from([Adam, AdamW]))
    eps = draw(st.sampled_from([2.0**-27, 2.0**-10, 1.0]))
    return kind(
        betas=draw(st.sampled_from(BETAS)), eps=eps, weight_decay=decay, amsgrad=draw(st.booleans()), maximize=maximize
    )


@settings(derandomize=True, deadline=None, max_examples=60)
@given(optimizers(), st.sampled_from([1.0, 1e-6, 1e6]), st.integers(0, 1000))
def test_several_steps_are_those_of_torch(optimizer: Any, scale: float, seed: int) -> None:
    training = Training(optimizer, seed=seed)
    for rate in RATES:
        training.step(rate, scale)
    # Adam subtracts nothing that cancels; SGD's steps are as large as the gradients.
    training.check(1e-11 * max(1.0, scale))
    training.check_state(1e-11 * max(1.0, scale**2))


@pytest.mark.parametrize("optimizer", [SGD(), SGD(momentum=0.9, dampening=0.1), Adam(), AdamW(), Adam(amsgrad=True)])
def test_usual_options_agree_but_for_their_rounding_to_float32(optimizer: Any) -> None:
    training = Training(optimizer)
    for _ in range(5):
        training.step(1e-3)
    training.check(5e-8)
    training.check_state(2e-7)


@pytest.mark.parametrize("optimizer", [SGD(momentum=0.9, nesterov=True), Adam(), AdamW(weight_decay=0.1)])
def test_float32_agrees_to_a_few_roundings(optimizer: Any) -> None:
    training = Training(optimizer, np.float32)
    for _ in range(8):
        training.step(1e-3)
    for parameter, tensor in zip(training.parameters, training.tensors, strict=True):
        assert training.state[parameter].dtype == np.float32
        np.testing.assert_allclose(training.state[parameter], tensor.detach().numpy(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("beta", [0.999, 0.9, 0.99999, 0.5, 1e-3, 0.0])
@pytest.mark.parametrize("steps", [1, 2, 10, 1000, 1_000_000])
def test_bias_corrections_have_no_cancellation_in_float32(beta: float, steps: int) -> None:
    """``1 - 0.999f`` alone is off by 3e-5."""
    optimizer = Adam(betas=(beta, 0.5))
    graph, lr = Graph("optimize"), Value("lr", (), DType.F32, Kind.SETTING)
    weight, gradient = Value("w", (1,), DType.F32, Kind.PARAMETER), Value("g", (1,), DType.F32, Kind.GRADIENT)
    with graph.building():
        counters = StepCounters(optimizer, lr)
        optimizer.build(weight, gradient, lr, counters)
        assert counters.state is not None
    env = run(graph, {counters.state: np.array(steps - 1), lr: np.array(1.0)}, np.float32)
    found = next(float(array) for value, array in env.items() if value.name == "optimizer.step_size")
    exact = -1.0 / math.expm1(steps * math.log(beta)) if beta else 1.0
    assert found == pytest.approx(exact, rel=4e-7)


def test_shared_scalars_are_computed_once() -> None:
    graph = Training(Adam()).graph
    assert sum("expm1" in repr(op) for op in graph.ops) == 2
    names = [store.target.name for store in graph.stores]
    assert names == [
        "optimizer.step",
        *(f"p{k}.exp_avg" if s == 0 else f"p{k}.exp_avg_sq" if s == 1 else f"p{k}" for k in range(3) for s in range(3)),
    ]


@pytest.mark.parametrize("optimizer", [SGD(), SGD(momentum=0.9), SGD(momentum=0.9, nesterov=True)])
def test_what_does_not_depend_on_the_step_keeps_no_count(optimizer: SGD) -> None:
    assert not optimizer.counts_steps
    assert all(store.target.name != "optimizer.step" for store in Training(optimizer).graph.stores)


def test_the_state_starts_at_zero_and_is_named_after_the_parameter() -> None:
    graph = Training(SGD(momentum=0.9, dampening=0.5)).graph
    state = [store.target for store in graph.stores if store.target.kind is Kind.OPTIMIZER]
    assert [value.name for value in state] == ["optimizer.step", *(f"p{k}.momentum_buffer" for k in range(3))]
    assert all(not np.any(initial(value)) for value in state)


def test_the_first_step_ignores_dampening() -> None:
    with_dampening, without = Training(SGD(momentum=0.5, dampening=1.0)), Training(SGD(momentum=0.5))
    for training in (with_dampening, without):
        training.step(0.125)
    for a, b in zip(with_dampening.parameters, without.parameters, strict=True):
        np.testing.assert_array_equal(with_dampening.state[a], without.state[b])


def test_one_operation_per_tensor() -> None:
    """A state tensor or a weight is one loop; nothing of full size lies between."""
    training = Training(Adam(weight_decay=0.5, amsgrad=True))
    full_size = [op for op in training.graph.ops if op.outputs[0].shape == SHAPES[0]]
    assert len(full_size) == 4


INVALID = [
    (SGD, {"lr": -0.1}, "learning rate"),
    (SGD, {"lr": math.nan}, "learning rate"),
    (SGD, {"lr": 1e40}, "learning rate"),
    (SGD, {"momentum": -0.1}, "momentum"),
    (SGD, {"weight_decay": -1.0}, "weight_decay"),
    (SGD, {"nesterov": True}, "Nesterov"),
    (SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "Nesterov"),
    (SGD, {"dampening": math.inf}, "dampening"),
    (Adam, {"lr": -1.0}, "learning rate"),
    (Adam, {"eps": -1e-8}, "epsilon"),
    (Adam, {"betas": (1.0, 0.9)}, "index 0"),
    (Adam, {"betas": (0.9, 1.0)}, "index 1"),
    (Adam, {"betas": (0.9, -0.1)}, "index 1"),
    (Adam, {"betas": (0.9,)}, "betas"),
    (AdamW, {"weight_decay": -0.1}, "weight_decay"),
]


@pytest.mark.parametrize(("kind", "options", "message"), INVALID)
def test_values_that_make_no_sense_are_rejected(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        kind(**options)


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_defaults_are_those_of_torch(kind: Any) -> None:
    ours = kind()
    theirs = ours.reference([torch.nn.Parameter(torch.zeros(1))])
    defaults: dict[str, Any] = getattr(torch.optim, kind.__name__)([torch.nn.Parameter(torch.zeros(1))]).defaults
    names: Sequence[str] = list(kind.__dataclass_fields__)
    assert {name: theirs.defaults[name] for name in names} == {name: defaults[name] for name in names}
    assert {name: getattr(ours, name) for name in names} == {name: defaults[name] for name in names}
    assert isinstance(theirs, getattr(torch.optim, kind.__name__))
