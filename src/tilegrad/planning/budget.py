"""Staying within the budget of the home memory: what is computed again, what moves to the memory behind it.

The search asks the planner for a plan, looks at the moment of its peak, and chooses among the tensors alive there those
that free a byte for the fewest cycles, until the peak should fit; then it plans again. A price per byte, as high as the
dearest choice so far, makes groups grow that do not leave tensors in the home memory in the first place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tilegrad.errors import DoesNotFitError
from tilegrad.ir.graph import Graph, Op, StructuredOp, Value
from tilegrad.planning.plan import EntryPlan, LevelUse, Plan, Storage
from tilegrad.planning.rematerialise import alive_until, recomputable
from tilegrad.planning.span import Span
from tilegrad.planning.storages import views_of
from tilegrad.planning.timing import Timings
from tilegrad.targets.base import Memory

#: Plans that are tried.
ATTEMPTS = 24
#: Prices of a byte in cycles that are tried before an action that costs more.
PRICES = (0.25, 1.0, 4.0, 16.0)
#: Tensors with fewer bytes stay where they are.
SMALLEST = 1024
#: What is freed at the peak is expected to exceed what is needed by this factor, since another peak comes up.
MARGIN = 1.05


@dataclass(frozen=True)
class Decision:
    """What is done to stay within the budgets.

    Attributes:
        recomputed: tensors of the forward pass that the backward pass computes again.
        distant: tensors that live in the memory that only transfers reach.
        price: cycles that a byte left in the home memory counts for.
        notes: the same for readers.
    """

    recomputed: tuple[Value, ...] = ()
    distant: frozenset[Value] = frozenset()
    price: float = 0.0
    notes: tuple[str, ...] = ()


class Planner(Protocol):
    """Plans under a decision."""

    graphs: Sequence[Graph]
    originals: list[list[Op]]
    home: Memory
    far: Memory | None
    timings: Timings
    tiled: bool
    clones: dict[Value, Value]

    def plan(self, decision: Decision) -> Plan:
        """The plan under a decision."""


@dataclass(frozen=True)
class _Action:
    """One way to free the bytes of a tensor.

    Attributes:
        value: the tensor.
        recompute: compute it again; else move it.
        cycles: what that costs, about.
        operands: what it is computed again from.
    """

    value: Value
    recompute: bool
    cycles: float
    operands: frozenset[Value] = frozenset()

    @property
    def ratio(self) -> float:
        """Cycles for each byte."""
        return self.cycles / max(self.value.bytes, 1)

    def note(self, far: Memory | None) -> str:
        """What is done, for readers."""
        name, size = self.value.name, self.value.bytes
        if self.recompute:
            return f"{name} ({size:,} bytes) is computed again in the backward pass, about {self.cycles:,.0f} cycles"
        assert far is not None
        return f"{name} ({size:,} bytes) lives in {far.name}, about {self.cycles:,.0f} cycles of transfers"


class BudgetSearch:
    """Finds decisions under which a program fits its home memory.

    Args:
        planner: plans under a decision.
    """

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.decision = Decision()
        self.smallest: int | None = None
        self.taken: list[_Action] = []  # recomputations

    def run(self) -> Plan:
        """A plan within the budgets.

        Raises:
            DoesNotFitError: none was found; the message has the smallest budget that would do.
        """
        actions: list[_Action] | None = None
        home = self.planner.home.name
        for _ in range(ATTEMPTS):
            plan = self.planner.plan(self.decision)
            _check_others(plan, home)
            use = plan.memory[home]
            self.smallest = min(use.peak, self.smallest or use.peak)
            if use.capacity is None or use.peak <= use.capacity:
                return plan
            if not self.planner.tiled:
                break
            if actions is None:
                actions = self._actions()
            chosen = self._choose(plan, actions, use)
            dearest = max((action.ratio for action in chosen), default=float("inf"))
            price = max((price for price in PRICES if self.decision.price < price <= dearest), default=None)
            if price is not None:
                self.decision = replace(self.decision, price=price)
                continue
            if not chosen:
                break
            actions = [action for action in actions if action not in chosen]
            self._decide(chosen)
        raise DoesNotFitError(_message(plan, home, self.smallest or 0))

    def _decide(self, chosen: Sequence[_Action]) -> None:
        before = self.decision
        self.taken.extend(action for action in chosen if action.recompute)
        moved = {action.value for action in chosen if not action.recompute}
        again = [value for value in before.recomputed if value not in moved]
        self.decision = replace(
            before,
            recomputed=(*again, *(action.value for action in chosen if action.recompute)),
            distant=before.distant | frozenset(moved),
            price=max([before.price, *(action.ratio for action in chosen)]),
            notes=(
                *(note for note in before.notes if not note.startswith(tuple(f"{value.name} (" for value in moved))),
                *(action.note(self.planner.far) for action in chosen),
            ),
        )

    def _choose(self, plan: Plan, actions: Sequence[_Action], use: LevelUse) -> list[_Action]:
        """The cheapest actions on tensors alive at the peak that should suffice."""
        assert use.capacity is not None
        alive = _alive_at_peak(plan, self.planner.home.name)
        # What is computed again may be kept elsewhere instead.
        alive |= {self.planner.clones[value] for value in alive if value in self.planner.clones}
        needed = (use.peak - use.capacity) * MARGIN
        chosen: list[_Action] = []
        for action in sorted(actions, key=lambda a: (a.ratio, -a.value.bytes, a.value.name, a.recompute)):
            if needed <= 0:
                break
            if action.value not in alive or action.value in {taken.value for taken in chosen}:
                continue
            if not action.recompute or self._independent(action, chosen):
                chosen.append(action)
                needed -= action.value.bytes
        return chosen

    def _independent(self, action: _Action, chosen: Sequence[_Action]) -> bool:
        """True where what a tensor is computed again from is not itself computed again, nor the other way round.

        A chain would keep what it begins with alive from the first use to the last, which frees nothing.
        """
        if action.value in self.decision.distant:
            return False
        others = [*self.taken, *(taken for taken in chosen if taken.recompute)]
        return not any(
            other.value in action.operands or action.value in other.operands
            for other in others
            if other.value not in self.decision.distant
        )

    def _actions(self) -> list[_Action]:
        found: list[_Action] = []
        for graph, ops in zip(self.planner.graphs, self.planner.originals, strict=True):
            original = replace(graph, ops=list(ops))
            found.extend(self._recomputations(original))
            found.extend(self._moves(original))
        merged: dict[tuple[Value, bool], _Action] = {}
        for action in found:  # a tensor of several entry points costs what it costs in all of them
            key = (action.value, action.recompute)
            before = merged[key].cycles if key in merged else 0.0
            merged[key] = replace(action, cycles=before + action.cycles)
        forbidden = self._addressed()
        return [action for action in merged.values() if action.recompute or action.value not in forbidden]

    def _recomputations(self, graph: Graph) -> list[_Action]:
        """Tensors whose operands are alive when the backward pass needs them again."""
        until = alive_until(graph)
        views = views_of(graph)
        found = recomputable(graph)
        actions = []
        for candidate in found:
            operands = {views.root(operand) for operand in candidate.op.operands}
            at_hand = all(
                operand.kind.persistent or operand.bytes < SMALLEST or until.get(operand, -1) >= candidate.first
                for operand in operands
            )  # fmt: skip
            if at_hand:
                cycles = self._cycles(candidate.op)
                actions.append(_Action(candidate.value, True, cycles, frozenset(operands)))
        return actions

    def _cycles(self, op: StructuredOp) -> float:
        total = 0.0
        for nest in op.nests:
            total += self.planner.timings.of(nest, tuple(Span.whole(extent) for extent in nest.extents), ())[1]
        return total

    def _moves(self, graph: Graph) -> list[_Action]:
        """Tensors that may live in the memory behind, with the cycles of their transfers."""
        far = self.planner.far
        if far is None or not far.dma_bytes_per_cycle:
            return []
        views = views_of(graph)
        stored = {views.root(store.value) for store in graph.stores}  # goes where what it replaces is
        touches: dict[Value, int] = {}
        for op in graph.ops:
            if isinstance(op, StructuredOp):
                for value in {views.root(operand): None for operand in op.operands} | dict.fromkeys(op.outputs):
                    touches[value] = touches.get(value, 0) + 1
        actions = []
        for value, count in touches.items():
            movable = value not in stored and not value.is_constant and value.dtype.size >= 2
            if value.bytes >= SMALLEST and movable:
                cycles = count * (far.dma_setup_cycles + value.bytes / far.dma_bytes_per_cycle)
                actions.append(_Action(value, False, cycles))
        return actions

    def _addressed(self) -> set[Value]:
        """Tensors whose elements are found at run time, or that are copied as a whole: transfers alone do not do."""
        found: set[Value] = set()
        for graph, ops in zip(self.planner.graphs, self.planner.originals, strict=True):
            views = views_of(replace(graph, ops=list(ops)))
            for op in ops:
                if not isinstance(op, StructuredOp):
                    continue
                for nest in op.nests:
                    found |= {views.root(table) for table in nest.tables()}
                    for access in nest.accesses():
                        if any(row.lookups for row in access.index):
                            found.add(views.root(access.value))
                    if nest.scatter:
                        found |= set(op.outputs) | {views.root(operand) for operand in op.operands}
        return found


def _alive_at_peak(plan: Plan, level: str) -> set[Value]:
    """The tensors in a level at the moment of its peak: those of the entry point that needs most, and all state."""
    alive = {value for storage in plan.persistent if storage.level == level for value in storage.values}
    entry = max(plan.entries, key=lambda e: e.arenas.get(level, 0))
    for storage in _peak_storages(entry, level):
        alive |= set(storage.values)
    return alive


def _peak_storages(entry: EntryPlan, level: str) -> list[Storage]:
    mine = [s for s in entry.storages if s.persistent is None and s.level == level and s.upper > s.lower]
    moments = sorted({storage.lower for storage in mine})
    best: list[Storage] = []
    for moment in moments:
        now = [s for s in mine if s.lower <= moment < s.upper]
        if sum(s.total for s in now) > sum(s.total for s in best):
            best = now
    return best


def _check_others(plan: Plan, home: str) -> None:
    for name, use in plan.memory.items():
        if name != home and use.capacity is not None and use.peak > use.capacity:
            raise DoesNotFitError(
                f"the buffers need {use.peak:,} bytes of {name}, whose budget is {use.capacity:,}; "
                f"at least {use.lower_bound:,} bytes are alive at one moment"
            )


def _message(plan: Plan, level: str, smallest: int) -> str:
    use = plan.memory[level]
    entry = max(plan.entries, key=lambda e: e.arenas.get(level, 0))
    holders = [(s.total, s.values[0].name) for s in _peak_storages(entry, level)]
    holders += [(s.bytes, s.persistent.name) for s in plan.persistent if s.level == level and s.persistent is not None]
    holders.sort(key=lambda item: (-item[0], item[1]))
    largest = ", ".join(f"{name} ({size:,})" for size, name in holders[:5])
    return (
        f"the tensors need {use.peak:,} bytes of {level}, which has {use.capacity:,}; at least {use.lower_bound:,} "
        f"bytes are alive at one moment; the smallest budget found to do is {smallest:,} bytes; "
        f"most is held by {largest}"
    )
