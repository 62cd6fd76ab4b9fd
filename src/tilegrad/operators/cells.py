"""The cells of recurrent layers: what happens in one time step, forward and backward.

A cell works on gates: gate k of unit j is column ``k * hidden + j`` of the projected input and of the projected state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import Domain, Pieces
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value
from tilegrad.operators.activation import sigmoid_expr

#: A scalar for every (sequence of the batch, hidden unit).
Element = Callable[[Affine, Affine], Expr]


def per_unit(batch: int, hidden: int, body: Element) -> Value:
    """f32[batch, hidden] whose elements are ``body(n, j)``."""
    d = Domain()
    n, j = d.parallel(batch, hidden)
    return d.assign(body(n, j), (n, j))


def per_gate(batch: int, hidden: int, bodies: Sequence[Element]) -> Value:
    """f32[batch, gates * hidden] with one body for every gate."""
    pieces = Pieces((batch, len(bodies) * hidden))
    for gate, body in enumerate(bodies):
        d = Domain()
        n, j = d.parallel(batch, hidden)
        pieces.assign(d, body(n, j), (n, j + gate * hidden))
    return pieces.finish()


@dataclass(frozen=True)
class Step:
    """One time step of a layer as its cell sees it.

    Attributes:
        time: position in the sequence.
        projected: f32[T, N, gates * hidden], the weighted inputs of all steps.
        recurrent: f32[gates * hidden, hidden], the weights of the state.
        input_bias: f32[gates * hidden] or None.
        recurrent_bias: f32[gates * hidden] or None.
        hidden: number of units.
        at_rest: the previous state is known to be zero.
    """

    time: int
    projected: Value
    recurrent: Value
    input_bias: Value | None
    recurrent_bias: Value | None
    hidden: int
    at_rest: bool

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return self.projected.shape[1]

    def unit(self, body: Element) -> Value:
        """f32[N, hidden] whose elements are ``body(n, j)``."""
        return per_unit(self.batch, self.hidden, body)

    def sigmoid(self, body: Element) -> Value:
        """f32[N, hidden] whose elements are the logistic function of ``body(n, j)``."""
        return self.unit(lambda n, j: sigmoid_expr(body(n, j)))

    def gates(self, bodies: Sequence[Element]) -> Value:
        """f32[N, gates * hidden] with one body for every gate."""
        return per_gate(self.batch, self.hidden, bodies)

    def project(self, state: Value, first: int, count: int) -> Value | None:
        """`state` times the recurrent weights of gates `first` to ``first + count``; None for a state of zeros."""
        if self.at_rest:
            return None
        d = Domain()
        n, k = d.parallel(self.batch, count * self.hidden)
        (j,) = d.reduction(self.hidden)
        return d.sum(state[n, j] * self.recurrent[k + first * self.hidden, j], (n, k))

    def project_back(self, gates: Value, first: int, count: int) -> Value:
        """The gradient of the state in `project` from that of all gates, of which those projected count."""
        d = Domain()
        n, j = d.parallel(self.batch, self.hidden)
        (k,) = d.reduction(count * self.hidden)
        row = k + first * self.hidden
        return d.sum(gates[n, row] * self.recurrent[row, j], (n, j))

    def from_input(self, gate: int) -> Element:
        """What the input contributes to a gate."""

        def body(n: Affine, j: Affine) -> Expr:
            column = j + gate * self.hidden
            value = self.projected[self.time, n, column]
            return value if self.input_bias is None else value + self.input_bias[column]

        return body

    def from_state(self, gate: int, projected: Value | None, offset: int = 0) -> Element | None:
        """What the state contributes to a gate; None for nothing.

        Args:
            gate: the gate.
            projected: result of `project`, or None.
            offset: the first gate that was projected.
        """
        bias = self.recurrent_bias
        if projected is None and bias is None:
            return None

        def body(n: Affine, j: Affine) -> Expr:
            terms = [] if projected is None else [projected[n, j + (gate - offset) * self.hidden]]
            terms += [] if bias is None else [bias[j + gate * self.hidden]]
            return terms[0] if len(terms) == 1 else terms[0] + terms[1]

        return body

    def both(self, gate: int, projected: Value | None) -> Element:
        """Input and state together."""
        inputs, state = self.from_input(gate), self.from_state(gate, projected)
        return inputs if state is None else lambda n, j: inputs(n, j) + state(n, j)


@dataclass(frozen=True)
class State:
    """What a cell hands to the next step: the output, and for an LSTM its memory; f32[N, hidden] each."""

    h: Value
    c: Value | None = None


@dataclass(frozen=True)
class StepGradient:
    """The gradients of one step.

    Attributes:
        inputs: f32[N, gates * hidden], of the projected input.
        recurrent: f32[N, gates * hidden], of the projected state.
        h: contributions to that of the previous output, to be added.
        c: that of the previous memory, or None.
    """

    inputs: Value
    recurrent: Value
    h: tuple[Value, ...]
    c: Value | None = None


class Cell(Protocol):
    """A kind of recurrent layer.

    Attributes:
        gates: how many columns of projections a unit has.
        has_memory: whether the state has a second part.
    """

    @property
    def gates(self) -> int:
        """How many columns of projections a unit has."""
        ...

    @property
    def has_memory(self) -> bool:
        """Whether the state has a second part."""
        ...

    def forward(self, step: Step, state: State) -> tuple[State, tuple[Value, ...]]:
        """The next state, and what `backward` needs to know."""
        ...

    def backward(self, step: Step, saved: tuple[Value, ...], dh: Value, dc: Value | None) -> StepGradient:
        """The gradients of the step from those of its output and its memory."""
        ...

    def sources(self, saved: tuple[Value, ...]) -> list[tuple[int, int, Value | None]]:
        """What the recurrent weights were multiplied with: (first gate, gates, tensor or None for the last output)."""
        ...


def _sigmoid_slope(y: Expr) -> Expr:
    return y * (1.0 - y)


@dataclass(frozen=True)
class LSTMCell:
    """Long short-term memory (Hochreiter and Schmidhuber, 1997, with forget gates).

    Attributes:
        order: positions of the gates input, forget, cell, output among the columns.
    """

    order: tuple[int, int, int, int] = (0, 1, 2, 3)
    gates: int = 4
    has_memory: bool = True

    def forward(self, step: Step, state: State) -> tuple[State, tuple[Value, ...]]:
        """``c' = f * c + i * g``, ``h' = o * tanh(c')``."""
        memory = state.c
        assert memory is not None
        projected = step.project(state.h, 0, self.gates)
        pre = [step.both(gate, projected) for gate in self.order]
        i, f, o = (step.sigmoid(pre[k]) for k in (0, 1, 3))
        g = step.unit(lambda n, j: sc.tanh(pre[2](n, j)))
        c = step.unit(lambda n, j: sc.fma(f[n, j], memory[n, j], i[n, j] * g[n, j]))
        t = step.unit(lambda n, j: sc.tanh(c[n, j]))
        h = step.unit(lambda n, j: o[n, j] * t[n, j])
        return State(h, c), (i, f, g, o, t, memory)

    def backward(self, step: Step, saved: tuple[Value, ...], dh: Value, dc: Value | None) -> StepGradient:
        """See `Cell`."""
        i, f, g, o, t, memory = saved

        def through_output(n: Affine, j: Affine) -> Expr:
            return dh[n, j] * o[n, j] * sc.fma(-t[n, j], t[n, j], 1.0)

        total = step.unit(through_output if dc is None else lambda n, j: dc[n, j] + through_output(n, j))
        by_gate: list[Element] = [
            lambda n, j: total[n, j] * g[n, j] * _sigmoid_slope(i[n, j]),
            lambda n, j: total[n, j] * memory[n, j] * _sigmoid_slope(f[n, j]),
            lambda n, j: total[n, j] * i[n, j] * sc.fma(-g[n, j], g[n, j], 1.0),
            lambda n, j: dh[n, j] * t[n, j] * _sigmoid_slope(o[n, j]),
        ]
        gates = step.gates([by_gate[self.order.index(column)] for column in range(4)])
        before = step.unit(lambda n, j: total[n, j] * f[n, j])
        return StepGradient(gates, gates, (step.project_back(gates, 0, 4),), before)

    def sources(self, saved: tuple[Value, ...]) -> list[tuple[int, int, Value | None]]:
        """See `Cell`."""
        return [(0, 4, None)]


@dataclass(frozen=True)
class GRUCell:
    """Gated recurrent unit (Cho et al., 2014).

    Attributes:
        order: positions of the gates reset and update among the columns; the candidate is the last.
        reset_after: the reset gate multiplies the projected state, as in PyTorch, or else the state before projection.
    """

    order: tuple[int, int] = (0, 1)
    reset_after: bool = True
    gates: int = 3
    has_memory: bool = False

    def forward(self, step: Step, state: State) -> tuple[State, tuple[Value, ...]]:
        """``h' = n + z * (h - n)`` with the candidate ``n``."""
        h = state.h
        projected = step.project(h, 0, 3 if self.reset_after else 2)
        pre = [step.both(gate, projected) for gate in self.order]
        r, z = (step.sigmoid(body) for body in pre)
        from_input = step.from_input(2)
        if self.reset_after:
            from_state = step.from_state(2, projected) or (lambda n, j: sc.constant(0.0, h.dtype))
            q = step.unit(from_state)
            candidate = step.unit(lambda n, j: sc.tanh(sc.fma(r[n, j], q[n, j], from_input(n, j))))
        else:
            q = step.unit(lambda n, j: r[n, j] * h[n, j])
            state_part = step.from_state(2, step.project(q, 2, 1), 2)
            candidate = step.unit(
                lambda n, j: sc.tanh(from_input(n, j) + state_part(n, j) if state_part else from_input(n, j))
            )
        after = step.unit(lambda n, j: sc.fma(z[n, j], h[n, j] - candidate[n, j], candidate[n, j]))
        return State(after), (r, z, candidate, q, h)

    def backward(self, step: Step, saved: tuple[Value, ...], dh: Value, dc: Value | None) -> StepGradient:
        """See `Cell`."""
        r, z, candidate, q, h = saved

        def to_candidate(n: Affine, j: Affine) -> Expr:
            return dh[n, j] * (1.0 - z[n, j]) * sc.fma(-candidate[n, j], candidate[n, j], 1.0)

        def to_update(n: Affine, j: Affine) -> Expr:
            return dh[n, j] * (h[n, j] - candidate[n, j]) * _sigmoid_slope(z[n, j])

        kept = step.unit(lambda n, j: dh[n, j] * z[n, j])
        dn = step.unit(to_candidate)
        if self.reset_after:
            dr = step.unit(lambda n, j: dn[n, j] * q[n, j] * _sigmoid_slope(r[n, j]))
            inputs = step.gates([*self._ordered(dr, to_update), lambda n, j: dn[n, j]])
            recurrent = step.gates([*self._ordered(dr, to_update), lambda n, j: dn[n, j] * r[n, j]])
            return StepGradient(inputs, recurrent, (kept, step.project_back(recurrent, 0, 3)))
        dq = self._of_reset_state(step, dn)
        dr = step.unit(lambda n, j: dq[n, j] * h[n, j] * _sigmoid_slope(r[n, j]))
        gates = step.gates([*self._ordered(dr, to_update), lambda n, j: dn[n, j]])
        through_reset = step.unit(lambda n, j: dq[n, j] * r[n, j])
        return StepGradient(gates, gates, (kept, through_reset, step.project_back(gates, 0, 2)))

    def _ordered(self, dr: Value, to_update: Element) -> list[Element]:
        both: list[Element] = [lambda n, j: dr[n, j], to_update]
        return [both[self.order.index(column)] for column in range(2)]

    def _of_reset_state(self, step: Step, dn: Value) -> Value:
        d = Domain()
        n, j = d.parallel(step.batch, step.hidden)
        (k,) = d.reduction(step.hidden)
        return d.sum(dn[n, k] * step.recurrent[k + 2 * step.hidden, j], (n, j))

    def sources(self, saved: tuple[Value, ...]) -> list[tuple[int, int, Value | None]]:
        """See `Cell`."""
        return [(0, 3, None)] if self.reset_after else [(0, 2, None), (2, 1, saved[3])]


@dataclass(frozen=True)
class PlainCell:
    """``h' = f(input + state)`` with the hyperbolic tangent or ReLU.

    Attributes:
        relu: which of the two.
    """

    relu: bool = False
    gates: int = 1
    has_memory: bool = False

    def forward(self, step: Step, state: State) -> tuple[State, tuple[Value, ...]]:
        """See the class."""
        pre = step.both(0, step.project(state.h, 0, 1))

        def body(n: Affine, j: Affine) -> Expr:
            v = pre(n, j)
            return sc.select((v > 0.0) | v.differs(v), v, 0.0) if self.relu else sc.tanh(v)

        h = step.unit(body)
        return State(h), (h,)

    def backward(self, step: Step, saved: tuple[Value, ...], dh: Value, dc: Value | None) -> StepGradient:
        """See `Cell`."""
        (h,) = saved

        def body(n: Affine, j: Affine) -> Expr:
            y, g = h[n, j], dh[n, j]
            return sc.select(y <= 0.0, 0.0, g) if self.relu else g * sc.fma(-y, y, 1.0)

        gates = step.unit(body)
        return StepGradient(gates, gates, (step.project_back(gates, 0, 1),))

    def sources(self, saved: tuple[Value, ...]) -> list[tuple[int, int, Value | None]]:
        """See `Cell`."""
        return [(0, 1, None)]
