"""LSTM, GRU and RNN against PyTorch and the ONNX reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from aten_harness import find
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_harness import adapter, check_onnx, evaluate
from operator_harness import build, check, draw

from tilegrad.errors import ShapeError
from tilegrad.interpreter.execute import run
from tilegrad.ir.builder import constant
from tilegrad.ir.graph import StructuredOp
from tilegrad.operators.registry import UnsupportedCall

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def parameters(name: str, inputs: int, hidden: int, layers: int, directions: int, biases: bool) -> list[Any]:
    arrays = []
    for layer in range(layers):
        for _ in range(directions):
            width = inputs if layer == 0 else hidden * directions
            shapes: list[tuple[int, ...]] = [(GATES[name] * hidden, width), (GATES[name] * hidden, hidden)]
            shapes += [(GATES[name] * hidden,)] * 2 if biases else []
            arrays += [draw(*shape, seed=len(arrays) + k, low=-0.7, high=0.7) for k, shape in enumerate(shapes)]
    return arrays


def check_layers(
    name: str, steps: int = 3, batch: int = 2, inputs: int = 3, hidden: int = 4, *, layers: int = 1, both: bool = False,
    first: bool = False, biases: bool = True, known_start: bool = False,
) -> None:  # fmt: skip
    """Compare a whole stack with PyTorch: all outputs and all gradients."""
    directions = 2 if both else 1
    count = 2 if name == "lstm" else 1
    x = draw(*((batch, steps) if first else (steps, batch)), inputs, seed=1)
    zero = np.zeros((layers * directions, batch, hidden))
    states = [] if known_start else [draw(*zero.shape, seed=40 + k) for k in range(count)]
    weights = parameters(name, inputs, hidden, layers, directions, biases)
    flags = (biases, layers, 0.0, True, both, first)

    def apply(function: Callable[..., Any], make: Callable[[Any], Any]) -> Callable[..., Any]:
        def on(*values: Any) -> Any:
            hx = [make(zero)] * count if known_start else list(values[1 : 1 + count])
            params = list(values[1 + len(states) :])
            return function(values[0], hx if name == "lstm" else hx[0], params, *flags)

        return on

    reference = getattr(torch.ops.aten, name).input
    check(apply(find(f"{name}.input"), constant), apply(reference, torch.tensor), x, *states, *weights)


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("known_start", [False, True])
def test_one_layer(name: str, known_start: bool) -> None:
    check_layers(name, known_start=known_start)


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize(
    "options", [{"biases": False}, {"steps": 1}, {"steps": 1, "known_start": True}, {"first": True}]
)
def test_variants(name: str, options: dict[str, Any]) -> None:
    check_layers(name, **options)


@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.parametrize("known_start", [False, True])
def test_both_directions_and_several_layers(name: str, known_start: bool) -> None:
    check_layers(name, both=True, known_start=known_start)
    check_layers(name, layers=2, both=True, first=True, known_start=known_start)


@settings(derandomize=True, deadline=None, max_examples=12)
@given(
    st.sampled_from(sorted(GATES)),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
)
def test_any_size(name: str, steps: int, batch: int, inputs: int, hidden: int, both: bool) -> None:
    check_layers(name, steps, batch, inputs, hidden, both=both)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("biases", [True, False])
def test_single_cells(name: str, biases: bool) -> None:
    weights = parameters(name, 3, 4, 1, 1, biases)
    states = [draw(2, 4, seed=7 + k) for k in range(2 if name == "lstm" else 1)]
    reference = getattr(torch.ops.aten, f"{name}_cell").default

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        def on(x: Any, *rest: Any) -> Any:
            state = list(rest[:2]) if name == "lstm" else rest[0]
            return function(x, state, *rest[len(states) :])

        return on

    check(apply(find(f"{name}_cell.default")), apply(reference), draw(2, 3), *states, *weights)


@pytest.mark.parametrize("pick", [0, 1, 2])
def test_gradients_of_single_results(pick: int) -> None:
    weights = parameters("lstm", 3, 4, 1, 1, True)

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, h, c, *p: function(x, [h, c], list(p), True, 1, 0.0, True, False, False)[pick]

    arrays = [draw(3, 2, 3), draw(1, 2, 4, seed=2), draw(1, 2, 4, seed=3), *weights]
    check(apply(find("lstm.input")), apply(torch.ops.aten.lstm.input), *arrays)


def test_dropout_lies_between_layers() -> None:
    weights = parameters("gru", 3, 4, 2, 1, True)

    def function(probability: float, train: bool) -> Any:
        arrays = [draw(3, 2, 3), np.zeros((2, 2, 4)), *weights]
        graph, operands, (y, _), _, _ = build(
            lambda x, h, *p: find("gru.input")(x, h, list(p), True, 2, probability, train, False, False), arrays
        )
        feeds = dict(zip(operands, arrays, strict=True))
        return graph, run(graph, feeds, np.float32)[y]

    graph, plain = function(0.0, True)
    assert graph.random_streams == 0
    graph, dropped = function(0.5, True)
    assert graph.random_streams == 1
    assert np.abs(dropped - plain).max() > 1e-3
    graph, evaluated = function(0.5, False)
    assert graph.random_streams == 0
    np.testing.assert_array_equal(evaluated, plain)


def test_weights_receive_one_gradient_and_nothing_is_scattered() -> None:
    weights = parameters("lstm", 3, 4, 1, 1, True)
    arrays = [draw(6, 2, 3), draw(1, 2, 4), draw(1, 2, 4), *weights]
    graph, *_ = build(
        lambda x, h, c, *p: find("lstm.input")(x, [h, c], list(p), True, 1, 0.0, True, False, False), arrays
    )
    ops = [op for op in graph.ops if isinstance(op, StructuredOp)]
    assert not any(nest.scatter for op in ops for nest in op.nests)
    sized = [op for op in ops if op.outputs[0].shape == (16, 4) and op.phase == "backward"]
    assert len(sized) <= 3  # the first step, all others, and their sum: not one per time step


def test_shapes_that_do_not_fit() -> None:
    weights = parameters("gru", 3, 4, 1, 1, True)
    with pytest.raises(ShapeError, match="expected"):
        build(
            lambda x, h, *p: find("gru.input")(x, h, list(p), True, 1, 0.0, True, False, False),
            [draw(3, 2, 5), draw(1, 2, 4), *weights],
        )


def test_projections_are_refused() -> None:
    arrays = [draw(3, 2, 3), draw(1, 2, 2), draw(1, 2, 4), *parameters("lstm", 3, 4, 1, 1, True), draw(2, 4)]
    with pytest.raises(UnsupportedCall, match="proj_size"):
        build(lambda x, h, c, *p: find("lstm.input")(x, [h, c], list(p), True, 1, 0.0, True, False, False), arrays)


def test_gradients_agree_with_central_differences() -> None:
    arrays = [draw(3, 1, 2), draw(1, 1, 2), *parameters("gru", 2, 2, 1, 1, True)]
    graph, operands, (y, last), seeds, gradients = build(
        lambda x, h, *p: find("gru.input")(x, h, list(p), True, 1, 0.0, True, False, False), arrays
    )
    weights = [draw(*seed.shape, seed=60 + k) for k, seed in enumerate(seeds)]
    feeds = dict(zip(operands, arrays, strict=True)) | dict(zip(seeds, weights, strict=True))
    env = run(graph, feeds, np.float64)
    for operand, array in zip(operands, arrays, strict=True):
        direction = draw(*array.shape, seed=99)
        ends = [run(graph, feeds | {operand: array + s * direction}, np.float64) for s in (1e-6, -1e-6)]
        change = [sum(float((w * e[v]).sum()) for w, v in zip(weights, (y, last), strict=True)) for e in ends]
        wanted = (change[0] - change[1]) / 2e-6
        assert float((env[gradients[operand]] * direction).sum()) == pytest.approx(wanted, abs=1e-6)


def _float32(*shape: int, seed: int) -> Any:
    return draw(*shape, seed=seed, low=-0.8, high=0.8).astype(np.float32)


def onnx_inputs(gates: int, directions: int = 1, *, biases: bool = True, states: int = 0) -> list[Any]:
    steps, batch, inputs, hidden = 3, 2, 3, 4
    arrays: list[Any] = [
        _float32(steps, batch, inputs, seed=1),
        _float32(directions, gates * hidden, inputs, seed=2),
        _float32(directions, gates * hidden, hidden, seed=3),
        _float32(directions, 2 * gates * hidden, seed=4) if biases else None,
    ]
    if states:
        arrays += [None] + [_float32(directions, batch, hidden, seed=5 + k) for k in range(states)]
    return arrays


ONNX_GATES = {"LSTM": (4, 2), "GRU": (3, 1), "RNN": (1, 1)}


@pytest.mark.parametrize("op_type", ONNX_GATES)
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("biases", [False, True])
def test_onnx_forward(op_type: str, started: bool, biases: bool) -> None:
    gates, states = ONNX_GATES[op_type]
    inputs = onnx_inputs(gates, biases=biases, states=states if started else 0)
    check_onnx(op_type, inputs, {"hidden_size": 4}, outputs=1 + states, opset=14)


def _torch_layers(op_type: str, arrays: list[Any], both: bool) -> list[Any]:
    """What PyTorch makes of ONNX parameters, its gates in another order; outputs in ONNX's layout."""
    order = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}[op_type]
    name = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn_tanh"}[op_type]
    x, w, r, b, _, *states = (None if a is None else torch.tensor(a) for a in arrays)
    hidden = r.shape[-1]

    def by_gate(t: Any) -> Any:
        return torch.cat([t[g * hidden : (g + 1) * hidden] for g in order])

    params = []
    for k in range(w.shape[0]):
        params += [by_gate(w[k]), by_gate(r[k]), *(by_gate(half) for half in b[k].chunk(2))]
    hx = states if name == "lstm" else states[0]
    y, *rest = getattr(torch.ops.aten, name).input(x, hx, params, True, 1, 0.0, True, both, False)
    steps, batch, _ = y.shape
    return [y.reshape(steps, batch, w.shape[0], hidden).transpose(1, 2), *rest]


@pytest.mark.parametrize("op_type", ONNX_GATES)
@pytest.mark.parametrize("layout", [0, 1])
def test_onnx_both_directions(op_type: str, layout: int) -> None:
    gates, states = ONNX_GATES[op_type]
    arrays = onnx_inputs(gates, 2, states=states)
    wanted = [t.numpy() for t in _torch_layers(op_type, arrays, True)]
    if layout:
        arrays[0] = arrays[0].transpose(1, 0, 2)
        arrays[5:] = [state.transpose(1, 0, 2) for state in arrays[5:]]
        wanted = [wanted[0].transpose(2, 0, 1, 3), *(state.transpose(1, 0, 2) for state in wanted[1:])]
    attributes = {"direction": "bidirectional", "layout": layout, "linear_before_reset": 1}
    got = evaluate(op_type, arrays, attributes, outputs=1 + states)
    for mine, reference in zip(got, wanted, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op_type", ONNX_GATES)
def test_onnx_reverse_is_forward_on_the_reversed_sequence(op_type: str) -> None:
    gates, states = ONNX_GATES[op_type]
    arrays = onnx_inputs(gates, states=states)
    got = evaluate(op_type, arrays, {"direction": "reverse"}, outputs=1 + states)
    arrays[0] = arrays[0][::-1].copy()
    wanted = evaluate(op_type, arrays, {}, outputs=1 + states)
    np.testing.assert_allclose(got[0], wanted[0][::-1], rtol=1e-6)
    for mine, reference in zip(got[1:], wanted[1:], strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-6)


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("started", [False, True])
def test_onnx_gru_gradients(before: int, started: bool) -> None:
    """Both places of the reset gate against the formulas of the specification."""

    def reference(x: Any, w: Any, r: Any, b: Any, *state: Any) -> Any:
        h = state[0][0] if state else torch.zeros(x.shape[1], 4, dtype=torch.float64)
        (wz, wr, wh), (rz, rr, rh) = w[0].chunk(3), r[0].chunk(3)
        bz, br, bh, cz, cr, ch = b[0].chunk(6)
        outputs = []
        for v in x:
            z = torch.sigmoid(v @ wz.T + h @ rz.T + bz + cz)
            g = torch.sigmoid(v @ wr.T + h @ rr.T + br + cr)
            state_part = g * (h @ rh.T + ch) if before else (g * h) @ rh.T + ch
            h = (1 - z) * torch.tanh(v @ wh.T + state_part + bh) + z * h
            outputs.append(h)
        return [torch.stack(outputs)[:, None], h[None]]

    def function(x: Any, w: Any, r: Any, b: Any, *state: Any) -> Any:
        return adapter("GRU", linear_before_reset=before)(x, w, r, b, None, *state)

    arrays = [a.astype(np.float64) for a in onnx_inputs(3, states=1) if a is not None]
    check(function, reference, *(arrays if started else arrays[:4]))


def test_onnx_relu() -> None:
    inputs = onnx_inputs(1, states=1)
    y, h = evaluate("RNN", inputs, {"activations": ["Relu"]}, outputs=2)
    x, w, r, b, _, start = (None if a is None else torch.tensor(a) for a in inputs)
    params = [w[0], r[0], *b[0].chunk(2)]
    wanted = torch.ops.aten.rnn_relu.input(x, start, params, True, 1, 0.0, True, False, False)
    np.testing.assert_allclose(y[:, 0], wanted[0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(h, wanted[1].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("op_type", "attributes", "message"),
    [
        ("LSTM", {"clip": 1.0}, "clip"), ("LSTM", {"input_forget": 1}, "input_forget"),
        ("GRU", {"activations": ["Relu", "Tanh"]}, "activations"), ("RNN", {"direction": "sideways"}, "sideways"),
        ("RNN", {"activations": ["Affine"]}, "activations"),
    ],
)  # fmt: skip
def test_onnx_forms_that_are_refused(op_type: str, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedCall, match=message):
        evaluate(op_type, onnx_inputs(ONNX_GATES[op_type][0]), attributes)


def test_onnx_lengths_and_peepholes() -> None:
    inputs = [*onnx_inputs(4), np.array([3, 3], np.int32)]
    y = evaluate("LSTM", inputs, constants=[4])[0]
    np.testing.assert_array_equal(y, evaluate("LSTM", inputs[:4])[0])
    inputs[4] = np.array([3, 2], np.int32)
    with pytest.raises(UnsupportedCall, match="sequence_lens"):
        evaluate("LSTM", inputs, constants=[4])
    with pytest.raises(UnsupportedCall, match="peepholes"):
        evaluate("LSTM", [*onnx_inputs(4), None, None, None, np.zeros((1, 12), np.float32)])
