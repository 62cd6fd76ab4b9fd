"""Recurrent layers, unrolled over time: LSTM, GRU and plain RNN of PyTorch and ONNX.

The inputs of all time steps are projected by one contraction; a step is one contraction of the state and the cell's
elementwise arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilegrad.errors import ShapeError
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import Domain, elementwise, reduce_sum, reshape, transpose, with_gradient
from tilegrad.ir.expr import Expr
from tilegrad.ir.folding import uniform
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators.cells import Cell, GRUCell, LSTMCell, PlainCell, State, Step, per_unit
from tilegrad.operators.contraction import contract
from tilegrad.operators.creation import filled
from tilegrad.operators.dropout import dropout as drop
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx
from tilegrad.operators.slicing import cat, split_at, stack, strided


@dataclass(frozen=True)
class Weights:
    """The parameters of one direction of one layer, G gates, H units, C inputs.

    Attributes:
        inputs: f32[G * H, C].
        recurrent: f32[G * H, H].
        input_bias: f32[G * H] or None.
        recurrent_bias: f32[G * H] or None.
    """

    inputs: Value
    recurrent: Value
    input_bias: Value | None = None
    recurrent_bias: Value | None = None


def _check(cell: Cell, x: Value, state: State, weights: Weights) -> None:
    if x.rank != 3 or not x.shape[0]:
        raise ShapeError(f"a recurrent layer reads f32[T, N, C] with T > 0, and {x.name} has shape {x.shape}")
    batch, hidden = x.shape[1], weights.recurrent.shape[-1]
    wanted: dict[Value, tuple[int, ...]] = {
        weights.inputs: (cell.gates * hidden, x.shape[2]),
        weights.recurrent: (cell.gates * hidden, hidden),
        state.h: (batch, hidden),
    }
    for bias in (weights.input_bias, weights.recurrent_bias):
        if bias is not None:
            wanted[bias] = (cell.gates * hidden,)
    if state.c is not None:
        wanted[state.c] = (batch, hidden)
    for value, shape in wanted.items():
        if value.shape != shape:
            raise ShapeError(f"{value.name} of a recurrent layer has shape {value.shape}, expected {shape}")


def run_direction(
    cell: Cell, x: Value, state: State, weights: Weights, *, reverse: bool = False
) -> tuple[Value, State]:
    """One direction of one layer over a whole sequence.

    Args:
        cell: the kind of layer.
        x: f32[T, N, C].
        state: the state before the first step, f32[N, H] each.
        weights: the parameters.
        reverse: start with the last time step.

    Returns:
        The outputs f32[T, N, H] in the order of the inputs, and the state after the last step.

    Raises:
        ShapeError: if the shapes do not fit.
    """
    _check(cell, x, state, weights)
    layer = _Layer(cell, x, state, weights, reverse)
    return layer.forward()


class _Layer:
    """One direction of one layer: the unrolled steps and their gradient.

    The derived gradient would contribute a tensor of the size of all weights, and one of the size of all projected
    inputs, for every time step. Here the gradients of the gates of all steps are put side by side, and every weight's
    gradient is one contraction with them.
    """

    def __init__(self, cell: Cell, x: Value, state: State, weights: Weights, reverse: bool) -> None:
        self.cell, self.x, self.initial, self.weights, self.reverse = cell, x, state, weights, reverse
        self.steps, self.batch, _ = x.shape
        self.hidden = weights.recurrent.shape[1]
        self.at_rest = uniform(state.h) == 0
        self.times = list(range(self.steps))[:: -1 if reverse else 1]
        self.saved: list[tuple[Step, tuple[Value, ...]]] = []
        self.outputs: Value | None = None

    def forward(self) -> tuple[Value, State]:
        projected = contract((self.x, "tnc"), (self.weights.inputs, "kc"), "tnk")
        state, states = self.initial, {}
        for position, time in enumerate(self.times):
            at_rest = self.at_rest and position == 0
            w = self.weights
            step = Step(time, projected, w.recurrent, w.input_bias, w.recurrent_bias, self.hidden, at_rest)
            state, saved = self.cell.forward(step, state)
            self.saved.append((step, saved))
            states[time] = state.h
        outputs = stack([states[time] for time in range(self.steps)], 0)
        self.outputs = outputs
        results = [outputs, state.h] + ([] if state.c is None else [state.c])
        with_gradient(self._inputs(), results, self.gradient)
        return outputs, state

    def _inputs(self) -> list[Value]:
        w, s = self.weights, self.initial
        values = [self.x, w.inputs, w.recurrent, w.input_bias, w.recurrent_bias, s.h, s.c]
        return [value for value in values if value is not None]

    def gradient(self, dy: Value | None, dh: Value | None, dc: Value | None = None) -> list[Value | None]:
        inputs: dict[int, Value] = {}
        recurrent: dict[int, Value] = {}
        carried = [] if dh is None else [dh]
        for step, saved in reversed(self.saved):
            found = self.cell.backward(step, saved, self._arriving(step.time, dy, carried), dc)
            inputs[step.time], recurrent[step.time] = found.inputs, found.recurrent
            carried, dc = list(found.h), found.c
        by_input = stack([inputs[time] for time in range(self.steps)], 0)
        same = all(inputs[time] is recurrent[time] for time in inputs)
        by_state = by_input if same else stack([recurrent[time] for time in range(self.steps)], 0)
        w, s = self.weights, self.initial
        gradients: list[Value | None] = [
            contract((by_input, "tnk"), (w.inputs, "kc"), "tnc"),
            contract((by_input, "tnk"), (self.x, "tnc"), "kc"),
            self._recurrent_gradient(by_state),
        ]
        gradients += [] if w.input_bias is None else [reduce_sum(by_input, (0, 1))]
        gradients += [] if w.recurrent_bias is None else [reduce_sum(by_state, (0, 1))]
        gradients.append(None if s.h.is_constant else self._sum(carried))
        return gradients + ([] if s.c is None else [None if s.c.is_constant else dc])

    def _arriving(self, time: int, dy: Value | None, carried: Sequence[Value]) -> Value:
        """The gradient of one step's output: from the layer's output and from the next step."""
        if dy is None:
            return self._sum(carried) if carried else filled((self.batch, self.hidden), 0.0, DType.F32)

        def body(n: Affine, j: Affine) -> Expr:
            total = dy[time, n, j]
            for part in carried:
                total = total + part[n, j]
            return total

        return per_unit(self.batch, self.hidden, body)

    def _sum(self, parts: Sequence[Value]) -> Value:
        def chain(*terms: Expr) -> Expr:
            total = terms[0]
            for term in terms[1:]:
                total = total + term
            return total

        return parts[0] if len(parts) == 1 else elementwise(chain, *parts)

    def _recurrent_gradient(self, by_state: Value) -> Value:
        """The gradient of the recurrent weights, gate ranges below each other."""
        parts = []
        for position, (first, count, source) in enumerate(self.cell.sources(self.saved[0][1])):
            if source is None:
                parts.append(self._with_previous_outputs(by_state, first, count))
                continue
            sources = {step.time: self.cell.sources(saved)[position][2] for step, saved in self.saved}
            present = [value for _, value in sorted(sources.items()) if value is not None]
            gates = strided(by_state, 2, first * self.hidden, count * self.hidden)
            parts.append(contract((gates, "tnk"), (stack(present, 0), "tnj"), "kj"))
        return cat(parts, 0)

    def _with_previous_outputs(self, by_state: Value, first: int, count: int) -> Value:
        outputs = self.outputs
        assert outputs is not None
        rows, parts = count * self.hidden, []
        if not self.at_rest:
            start = self.times[0]
            d = Domain()
            k, j = d.parallel(rows, self.hidden)
            (n,) = d.reduction(self.batch)
            parts.append(d.sum(by_state[start, n, k + first * self.hidden] * self.initial.h[n, j], (k, j)))
        if self.steps > 1:
            d = Domain()
            k, j = d.parallel(rows, self.hidden)
            t, n = d.reduction(self.steps - 1, self.batch)
            now, before = (t, t + 1) if self.reverse else (t + 1, t)
            parts.append(d.sum(by_state[now, n, k + first * self.hidden] * outputs[before, n, j], (k, j)))
        return self._sum(parts) if parts else filled((rows, self.hidden), 0.0, DType.F32)


def _layers(
    cell: Cell, x: Value, hx: Sequence[Value], params: Sequence[Value], has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Value, ...]:  # fmt: skip
    """PyTorch's stack of layers; parameters by layer, then by direction; states f32[layers * directions, N, H]."""
    directions = 2 if bidirectional else 1
    per_direction = 4 if has_biases else 2
    if len(params) != num_layers * directions * per_direction:
        raise UnsupportedCall(
            f"a recurrent layer with {len(params)} parameters, expected {num_layers * directions * per_direction}; "
            "projections (proj_size) are not supported"
        )
    x = transpose(x, (1, 0, 2)) if batch_first else x
    starts = [_rows(state) for state in hx]
    finals: list[State] = []
    for layer in range(num_layers):
        if layer and train and dropout:
            x = drop(x, dropout, True)
        outputs = []
        for direction in range(directions):
            slot = layer * directions + direction
            weights = Weights(*params[slot * per_direction : (slot + 1) * per_direction])
            y, state = run_direction(
                cell, x, State(*(start[slot] for start in starts)), weights, reverse=direction == 1
            )
            outputs.append(y)
            finals.append(state)
        x = cat(outputs, 2)
    output = transpose(x, (1, 0, 2)) if batch_first else x
    states = [stack([state.h for state in finals], 0)]
    if cell.has_memory:
        states.append(stack([state.c for state in finals if state.c is not None], 0))
    return (output, *states)


def _rows(x: Value) -> list[Value]:
    """The positions of the first axis as tensors without it."""
    return [reshape(part, x.shape[1:]) for part in split_at(x, 0, [1] * x.shape[0])]


@aten("aten.lstm.input")
def lstm(
    x: Value, hx: Sequence[Value], params: Sequence[Value], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Value, ...]:  # fmt: skip
    """``torch.nn.LSTM``: outputs, last outputs, last memories."""
    return _layers(LSTMCell(), x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


def _register_layers(name: str, cell: Cell) -> None:
    def adapter(
        x: Value, hx: Value, params: Sequence[Value], has_biases: bool, num_layers: int, dropout: float, train: bool,
        bidirectional: bool, batch_first: bool,
    ) -> tuple[Value, ...]:  # fmt: skip
        return _layers(cell, x, [hx], params, has_biases, num_layers, dropout, train, bidirectional, batch_first)

    adapter.__doc__ = f"PyTorch's {name}: outputs and last outputs."
    aten(f"aten.{name}.input")(adapter)


def _register_cell(name: str, cell: Cell) -> None:
    def adapter(
        x: Value, hx: Value | Sequence[Value], w_ih: Value, w_hh: Value, b_ih: Value | None = None,
        b_hh: Value | None = None,
    ) -> Value | tuple[Value, Value]:  # fmt: skip
        state = State(hx) if isinstance(hx, Value) else State(*hx)
        _, after = run_direction(cell, reshape(x, (1, *x.shape)), state, Weights(w_ih, w_hh, b_ih, b_hh))
        return after.h if after.c is None else (after.h, after.c)

    adapter.__doc__ = f"One step of PyTorch's {name}."
    aten(f"aten.{name}.default")(adapter)


for _name, _cell in (("gru", GRUCell()), ("rnn_tanh", PlainCell()), ("rnn_relu", PlainCell(relu=True))):
    _register_layers(_name, _cell)
    _register_cell(f"{_name}_cell", _cell)
_register_cell("lstm_cell", LSTMCell())


def _check_onnx(call: OnnxCall, x: Value, lengths: Value | None, steps: int, activations: Sequence[str]) -> None:
    """Refuse what is not implemented, by name."""
    if lengths is not None and uniform(lengths) != steps:
        raise UnsupportedCall(f"{call.op_type} with sequence_lens; all sequences must have the full length {steps}")
    if call.attribute("clip") is not None:
        raise UnsupportedCall(f"{call.op_type} with clip is not supported; remove the attribute")
    if call.attribute("input_forget", 0):
        raise UnsupportedCall(f"{call.op_type} with input_forget=1 is not supported")
    given = [str(name).lower() for name in call.attribute("activations", [])]
    if given and given != [*activations] * (len(given) // len(activations)):
        raise UnsupportedCall(f"{call.op_type} with activations {given}; supported are {', '.join(activations)}")


def _onnx_layer(
    call: OnnxCall, cell: Cell, x: Value, w: Value, r: Value, b: Value | None, states: Sequence[Value | None]
) -> tuple[Value, ...]:
    """One ONNX layer: parameters [directions, ...], outputs [T, directions, N, H], or batch first with layout=1."""
    direction = str(call.attribute("direction", "forward"))
    if direction not in ("forward", "reverse", "bidirectional"):
        raise UnsupportedCall(f"{call.op_type}: direction={direction!r} is not known")
    reversed_flags = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    batch_first = bool(call.attribute("layout", 0))
    x = transpose(x, (1, 0, 2)) if batch_first else x
    hidden = r.shape[-1]
    shape = (len(reversed_flags), x.shape[1], hidden)
    starts = []
    for state in states:
        if state is None:
            starts.append(_rows(filled(shape, 0.0, DType.F32)))
        else:
            starts.append(_rows(transpose(state, (1, 0, 2)) if batch_first else state))
    inputs, recurrents = _rows(w), _rows(r)
    biases = [[None, None] for _ in reversed_flags] if b is None else [_halves(row) for row in _rows(b)]
    outputs, finals = [], []
    for k, backwards in enumerate(reversed_flags):
        weights = Weights(inputs[k], recurrents[k], *biases[k])
        y, final = run_direction(cell, x, State(*(start[k] for start in starts)), weights, reverse=backwards)
        outputs.append(y)
        finals.append(final)
    axis = 0 if not batch_first else 1
    y = stack(outputs, 1) if not batch_first else stack([transpose(y, (1, 0, 2)) for y in outputs], 2)
    last = [stack([final.h for final in finals], axis)]
    if cell.has_memory:
        last.append(stack([final.c for final in finals if final.c is not None], axis))
    return (y, *last)


def _halves(bias: Value) -> list[Value | None]:
    first, second = split_at(bias, 0, [bias.size // 2] * 2)
    return [first, second]


@onnx("LSTM")
def onnx_lstm(
    call: OnnxCall, x: Value, w: Value, r: Value, b: Value | None = None, sequence_lens: Value | None = None,
    initial_h: Value | None = None, initial_c: Value | None = None, p: Value | None = None,
) -> tuple[Value, ...]:  # fmt: skip
    """ONNX LSTM with its default activations, without peepholes.

    Raises:
        UnsupportedCall: for peepholes, clipping, shorter sequences and other activations.
    """
    if p is not None:
        raise UnsupportedCall("LSTM with peepholes is not supported; leave the input P out")
    steps = x.shape[1 if call.attribute("layout", 0) else 0]
    _check_onnx(call, x, sequence_lens, steps, ("sigmoid", "tanh", "tanh"))
    return _onnx_layer(call, LSTMCell(order=(0, 2, 3, 1)), x, w, r, b, (initial_h, initial_c))


@onnx("GRU")
def onnx_gru(
    call: OnnxCall, x: Value, w: Value, r: Value, b: Value | None = None, sequence_lens: Value | None = None,
    initial_h: Value | None = None,
) -> tuple[Value, ...]:  # fmt: skip
    """ONNX GRU with its default activations, both places of the reset gate.

    Raises:
        UnsupportedCall: for clipping, shorter sequences and other activations.
    """
    steps = x.shape[1 if call.attribute("layout", 0) else 0]
    _check_onnx(call, x, sequence_lens, steps, ("sigmoid", "tanh"))
    cell = GRUCell(order=(1, 0), reset_after=bool(call.attribute("linear_before_reset", 0)))
    return _onnx_layer(call, cell, x, w, r, b, (initial_h,))


@onnx("RNN")
def onnx_rnn(
    call: OnnxCall, x: Value, w: Value, r: Value, b: Value | None = None, sequence_lens: Value | None = None,
    initial_h: Value | None = None,
) -> tuple[Value, ...]:  # fmt: skip
    """ONNX RNN with tanh or ReLU, the same in both directions.

    Raises:
        UnsupportedCall: for clipping, shorter sequences and other activations.
    """
    steps = x.shape[1 if call.attribute("layout", 0) else 0]
    names = {str(name).lower() for name in call.attribute("activations", ["Tanh"])}
    relu = names == {"relu"}
    _check_onnx(call, x, sequence_lens, steps, ("relu" if relu else "tanh",))
    return _onnx_layer(call, PlainCell(relu=relu), x, w, r, b, (initial_h,))
