"""The gradient of a read: from "every point i reads element R(i)" to nests that define the gradient tensor.

A term at point i contributes to element R(i) of the gradient. Where R is injective the contributions stay writes;
otherwise one iterator of each axis is solved for, so that every element gathers its terms in canonical order; a stride
splits the axis by residue, so that nothing is ever multiplied by zero. What cannot be solved (indices that are looked
up at run time, more than two strided iterators) is added into zeroed memory in domain order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine, Guard
from tilegrad.ir.builder import make_nest, sum_of, temporary
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Nest, Result, StructuredOp, Value, current_graph


@dataclass(frozen=True)
class _State:
    """Contributions on the way to nests: iterators of the old domain and fresh ones share one numbering.

    Attributes:
        extents: of all iterators.
        parallel_before: iterators that were parallel in the forward operation.
        rows: the element that a point contributes to.
        guards: where the contribution exists.
        body: the contribution.
        outputs: iterators that have become those of the gradient's elements.
        eliminated: iterators that were solved for.
        stands_for: pairs of the taps of a residue and the old iterator whose place in the order they take.
        index: the rows settled so far, over `outputs`.
        scatter: whether one of them could not be solved.
    """

    extents: dict[int, int]
    parallel_before: frozenset[int]
    rows: tuple[Affine, ...]
    guards: tuple[Guard, ...]
    body: Expr
    outputs: tuple[int, ...] = ()
    eliminated: frozenset[int] = frozenset()
    stands_for: tuple[tuple[int, int], ...] = ()
    index: tuple[Affine, ...] = ()
    scatter: bool = False

    def substitute(self, iterator: int, replacement: Affine) -> _State:
        mapping = {iterator: replacement}
        return replace(
            self,
            rows=tuple(row.substitute(mapping) for row in self.rows),
            guards=tuple(guard.substitute(mapping) for guard in self.guards),
            body=sc.substitute(self.body, mapping),
            index=tuple(row.substitute(mapping) for row in self.index),
            eliminated=self.eliminated | {iterator},
        )

    def fresh(self, extent: int) -> tuple[_State, int]:
        iterator = max(self.extents, default=-1) + 1
        return replace(self, extents=self.extents | {iterator: extent}), iterator

    def defines(self, row: Affine, *iterators: int) -> _State:
        return replace(self, index=(*self.index, row), outputs=(*self.outputs, *iterators))

    @property
    def written(self) -> int:
        """How many elements it writes, each once, where nothing is scattered."""
        return math.prod(self.extents[iterator] for iterator in self.outputs)

    def guarded(self, index: Affine, lower: int, upper: int) -> _State:
        guard = Guard(index, lower, upper)
        return self if guard.always_holds(self.extents) else replace(self, guards=(*self.guards, guard))


def scatter_gradient(
    value: Value, index: Sequence[Affine], extents: Sequence[int], parallel: int, guards: Sequence[Guard], body: Expr,
    name: str | None = None,
) -> Value:  # fmt: skip
    """Define ``gradient[index(i)] += body(i)`` over the guarded box and append it to the graph under construction.

    Args:
        value: the tensor that the forward operation read; the result has its shape.
        index: the index it was read at, one row per axis.
        extents: trip counts of the forward domain, parallel iterators first.
        parallel: how many of the iterators were parallel.
        guards: the forward guards.
        body: the term.
        name: the result's name, where it is not the gradient of `value`; empty for that of the current node.

    Returns:
        The gradient tensor.
    """
    state = _State(dict(enumerate(extents)), frozenset(range(parallel)), tuple(index), tuple(guards), body)
    for iterator, extent in enumerate(extents):
        if extent == 1:
            state = state.substitute(iterator, Affine())
    states = [state]
    for axis, extent in enumerate(value.shape):
        states = [after for before in states for after in _solve(before, axis, extent)]
    output = temporary(value.shape, value.dtype, f"d.{value.name}" if name is None else name)
    covered = sum(s.written for s in states) == value.size and not any(s.scatter for s in states)
    nests = tuple(_nest(s, output) for s in states)
    current_graph().add(StructuredOp((output,), nests, None if covered else 0.0))
    return output


def _solve(state: _State, axis: int, extent: int) -> list[_State]:
    """Settle one axis of the gradient; a strided window splits the state by residue."""
    row = state.rows[axis]
    bounds = row.interval(state.extents)
    inside = bounds is not None and bounds[0] >= 0 and bounds[1] < extent
    free = [(i, c) for i, c in row.terms if i not in state.outputs]
    unit = [i for i, c in free if abs(c) == 1]
    parallel_unit = [i for i in unit if i in state.parallel_before]
    if row.lookups:
        return [_scatter(state, row)]
    if not row.terms and not inside:
        return []  # no point reads an element
    if inside and not free:
        return [state.defines(row)]  # a constant, or a diagonal whose iterators other axes own
    if inside and len(free) == len(row.terms) and _is_mixed_radix(free, state.extents):
        ordered = sorted(free, key=lambda term: -abs(term[1]))
        return [state.defines(row, *(i for i, _ in ordered))]
    if parallel_unit:
        return [_solve_unit(state, row, extent, parallel_unit[0])]
    if len(free) == len(row.terms) <= 2:
        pieces = _split_by_residue(state, row, extent)
        if pieces is not None:
            return pieces
    if unit:
        return [_solve_unit(state, row, extent, unit[0])]
    return [_scatter(state, row)]


def _scatter(state: _State, row: Affine) -> _State:
    return replace(state.defines(row), scatter=True)


def _is_mixed_radix(terms: Sequence[tuple[int, int]], extents: dict[int, int]) -> bool:
    """True where different iterator values give different indices, digit by digit."""
    reach = 0
    for iterator, coefficient in sorted(terms, key=lambda term: abs(term[1])):
        if abs(coefficient) <= reach:
            return False
        reach += abs(coefficient) * (extents[iterator] - 1)
    return True


def _solve_unit(state: _State, row: Affine, extent: int, iterator: int) -> _State:
    """Solve ``row == j`` for an iterator with coefficient 1 or -1."""
    sign = row.coefficient(iterator)
    state, position = state.fresh(extent)
    j = Affine.iterator(position)
    solved = (j - (row - Affine.iterator(iterator) * sign)) * sign
    old_extent = state.extents[iterator]
    return state.substitute(iterator, solved).guarded(solved, 0, old_extent).defines(j, position)


def _split_by_residue(state: _State, row: Affine, extent: int) -> list[_State] | None:
    """Solve ``s*w + d*r + c == s*q + t`` for every residue t: ``r = r0 + (s/h)*u`` with ``h = gcd(s, d)``, w follows.

    Without a second iterator, d is 0 and the only tap is r = 0.

    Returns:
        One state per residue that has taps, or None where the larger stride is negative.
    """
    terms = sorted(row.terms, key=lambda term: (term[0] not in state.parallel_before, -abs(term[1])))
    (w, s), c = terms[0], row.constant
    r, d = terms[1] if len(terms) > 1 else (None, 0)
    if s <= 0:
        return None
    h = math.gcd(s, d)
    pieces = []
    for t in range(min(s, extent)):
        if (t - c) % h:
            continue
        r0 = next(k for k in range(s // h) if (d * k - (t - c)) % s == 0)
        taps = -(-((state.extents[r] if r is not None else 1) - r0) // (s // h))
        if taps <= 0:
            continue
        piece, q = state.fresh(-(-(extent - t) // s))
        tap: Affine = Affine()
        if taps > 1:
            piece, u = piece.fresh(taps)
            piece = replace(piece, stands_for=(*piece.stands_for, (u, w if r is None else r)))
            tap = Affine.iterator(u)
        solved_w = Affine.iterator(q) + (t - c - d * r0) // s - tap * (d // h)
        w_extent = piece.extents[w]
        piece = piece.substitute(w, solved_w)
        if r is not None:
            piece = piece.substitute(r, tap * (s // h) + r0)
        pieces.append(piece.guarded(solved_w, 0, w_extent).defines(Affine.iterator(q) * s + t, q))
    return pieces


def _nest(state: _State, output: Value) -> Nest:
    """Number the iterators: those of the output in the order of its axes, then the others as declared."""
    used = set(state.outputs)
    reductions = _reduction_order(state, used)
    order = [*state.outputs, *reductions]
    mapping = {old: Affine.iterator(new) for new, old in enumerate(order)}
    index = tuple(row.substitute(mapping) for row in state.index)
    extents = [state.extents[i] for i in order]
    moved = [guard.substitute(mapping) for guard in state.guards]
    guards = [guard for guard in moved if not guard.always_holds(extents)]
    body = sc.substitute(state.body, mapping)
    sums = bool(reductions) or state.scatter or bool(guards)
    combiner, exprs = sum_of(body) if sums else ("assign", (body,))
    return make_nest(
        extents, len(state.outputs), guards, (Result((output,), index, combiner, exprs),), scatter=state.scatter
    )


def _reduction_order(state: _State, used: set[int]) -> list[int]:
    """Iterators that are left over, in declared order; the taps of a residue stand where their axis stood."""
    place = dict(state.stands_for)
    left = [i for i in state.extents if i not in used and i not in state.eliminated]
    return sorted(left, key=lambda i: (place.get(i, i), i))
