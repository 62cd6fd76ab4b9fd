"""Exact search for offsets below a capacity: a depth-first search with constraint propagation and restarts.

The search looks only for *canonical* allocations: every buffer rests on the ground or on a buffer that is alive at the
same time, because any allocation can be pushed down until it does (Moffitt, "MiniMalloc: A lightweight memory
allocator for hardware-accelerated machine learning", ASPLOS 2023, has the idea). Each buffer carries the lowest offset
that it can still have. A node picks a buffer whose lowest offset is not above that of any buffer alive with it, and
either puts it there, so that all others alive with it are above, or denies it that offset, so that it rests on one of
them. The two halves have no allocation in common. Four inferences narrow what is left:

* *Release dates*: the buffers alive in one section of time, taken in the order of their lowest offsets, end at or
  below the capacity; an earliest-start schedule of jobs on one machine.
* *Not first*: a buffer above whose lowest offset the rest of its section would not fit is not the lowest one there, so
  it is above one of those that can be (compare edge finding: Carlier and Pinson, "An algorithm for solving the
  job-shop problem", 1989).
* *Support*: a buffer that was lifted above what is placed rests on a buffer that is not placed yet.
* *Parts*: when no remaining buffer crosses a moment, both sides are searched separately, and a failure of one is not
  answered by another try at the other.

Branching follows the section with the fewest buffers that can come next, weighted by how often sections failed so far
(Boussemart et al., "Boosting systematic search by weighting constraints", 2004). Several strategies take turns, each
with its own weights and a growing limit of failures. Nothing depends on the clock, so results are reproducible.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Literal

from tilegrad.planning.bounds import Bounds, Mark
from tilegrad.planning.buffers import Buffer

#: Failures that the first run of each strategy may have, and the factor by which that grows from turn to turn.
_FIRST_LIMIT = 100
_GROWTH = 1.3


class Verdict(Enum):
    """How a search ended."""

    FITS = "fits"
    IMPOSSIBLE = "impossible"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Outcome:
    """The result of a search.

    Attributes:
        verdict: whether an allocation was found, proven impossible, or neither within the limit.
        offsets: in the order of the buffers; empty unless the verdict is `FITS`.
        nodes: decisions taken.
        work: buffers looked at by the release dates, the measure of the limit.
    """

    verdict: Verdict
    offsets: list[int]
    nodes: int
    work: int


@dataclass
class _Strategy:
    """How a run branches.

    Attributes:
        tightness: prefer sections with little room to waste, not just those with much to place.
        order: which of the buffers with one lowest offset to take: that with the longest life ("life"), that in the
            fullest section ("full"), or that with the largest product of life and size ("area").
        weights: of the sections; grows with their failures.
    """

    tightness: bool
    order: Literal["life", "full", "area"]
    weights: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Part:
    """Buffers to place in a range of sections, none of which reaches outside.

    Attributes:
        first: first section.
        last: the section after the last one.
        group: the buffers, some of which may be placed by now.
        choice: index of the decision to reconsider if this part has no solution; -1 if there is none.
    """

    first: int
    last: int
    group: list[int]
    choice: int


@dataclass(frozen=True)
class _Pending:
    """A chain of parts that wait until the current one is done."""

    part: _Part
    rest: _Pending | None


@dataclass(frozen=True)
class _Choice:
    """A decision that can be reconsidered: `buffer` was put at its lowest offset."""

    buffer: int
    part: _Part
    pending: _Pending | None
    before: Mark


def search(buffers: Sequence[Buffer], capacity: int, limit: int) -> Outcome:
    """Look for offsets such that no two buffers overlap in time and space and all end at or below the capacity.

    Args:
        buffers: what to place.
        capacity: size of the memory.
        limit: how much work to spend at most, in buffers looked at; a few million take a second.

    Returns:
        An allocation, a proof that there is none, or neither if the limit was reached first.
    """
    chosen = [k for k, buffer in enumerate(buffers) if buffer.occupies]
    offsets = [buffer.offset or 0 for buffer in buffers]
    packing = _Search([buffers[k] for k in chosen], capacity, limit)
    verdict = packing.run()
    if verdict is not Verdict.FITS:
        return Outcome(verdict, [], packing.nodes, packing.bounds.work)
    for k, offset in zip(chosen, packing.bounds.low, strict=True):
        offsets[k] = offset
    return Outcome(verdict, offsets, packing.nodes, packing.bounds.work)


class _Search:
    """The decisions of a search."""

    def __init__(self, buffers: Sequence[Buffer], capacity: int, limit: int) -> None:
        self.bounds = Bounds(buffers, capacity)
        self.limit = limit
        self.nodes = 0
        self.random = random.Random(0)

    def run(self) -> Verdict:
        """Let the strategies take turns until one of them decides or the limit is reached."""
        strategies = [
            _Strategy(True, "life"),
            _Strategy(True, "full"),
            _Strategy(False, "life"),
            _Strategy(True, "area"),
        ]
        for strategy in strategies:
            strategy.weights = [1.0] * self.bounds.count
        failure_limit = float(_FIRST_LIMIT)
        while True:
            for strategy in strategies:
                verdict = self._attempt(strategy, int(failure_limit))
                if verdict is not Verdict.UNDECIDED or self.bounds.work >= self.limit:
                    return verdict
            failure_limit *= _GROWTH

    def _attempt(self, strategy: _Strategy, failure_limit: int) -> Verdict:
        """One run of a strategy."""
        bounds = self.bounds
        self.strategy = strategy
        self.choices: list[_Choice] = []
        bounds.reset(strategy.weights)
        failures = 0
        part = _Part(0, bounds.count, list(range(len(bounds.size))), -1)
        pending: _Pending | None = None
        alive = True
        while True:
            if not (alive and bounds.propagate(part.group)):
                failures += 1
                if part.choice < 0:
                    return Verdict.IMPOSSIBLE
                if failures > failure_limit or bounds.work >= self.limit:
                    return Verdict.UNDECIDED
                part, pending, alive = self._reconsider(part.choice)
                continue
            parts = self._split(part)
            while not parts and pending is not None:
                parts, pending = self._split(pending.part), pending.rest
            if not parts:
                return Verdict.FITS
            if bounds.work >= self.limit:
                return Verdict.UNDECIDED
            part = parts[0]
            for other in reversed(parts[1:]):
                pending = _Pending(other, pending)
            part, alive = self._decide(part, pending)

    def _decide(self, part: _Part, pending: _Pending | None) -> tuple[_Part, bool]:
        """Put a buffer of the part at its lowest offset."""
        self.nodes += 1
        buffer = self._pick(part)
        self.choices.append(_Choice(buffer, part, pending, self.bounds.mark(part.first, part.last)))
        return _Part(part.first, part.last, part.group, len(self.choices) - 1), self.bounds.place(buffer)

    def _reconsider(self, index: int) -> tuple[_Part, _Pending | None, bool]:
        """Take back a decision and all after it, and deny the buffer the offset that it had."""
        choice = self.choices[index]
        del self.choices[index:]
        self.bounds.undo(choice.before)
        return choice.part, choice.pending, self.bounds.lift(choice.buffer)

    def _split(self, part: _Part) -> list[_Part]:
        """What is left of a part, cut where no buffer to place crosses; the most troublesome first."""
        remaining, crossing = self.bounds.remaining, self.bounds.crossing
        first, last = part.first, part.last
        while first < last and not remaining[first]:
            first += 1
        while last > first and not remaining[last - 1]:
            last -= 1
        if first == last:
            return []
        if 0 not in crossing[first : last - 1]:
            return [_Part(first, last, part.group, part.choice)]
        cuts = [first, *(t + 1 for t in range(first, last - 1) if not crossing[t]), last]
        parts = []
        for start, stop in pairwise(cuts):
            if remaining[start]:
                group = [k for k in part.group if self.bounds.left[k] and start <= self.bounds.span[k].start < stop]
                parts.append(_Part(start, stop, group, part.choice))
        return sorted(parts, key=lambda piece: -sum(self.bounds.weights[piece.first : piece.last]))

    def _pick(self, part: _Part) -> int:
        """A buffer, from the most critical section, that nothing to place can be below."""
        low, left = self.bounds.low, self.bounds.left
        allowance = max(1, self.bounds.capacity // 100)
        worst, critical = -1.0, part.first
        for t in range(part.first, part.last):
            if self.bounds.remaining[t]:
                score = (
                    self.bounds.weights[t]
                    * self.bounds.remaining[t]
                    / self.bounds.candidates[t]
                    * (1 + self.random.random() / 3)
                )
                if self.strategy.tightness:
                    score /= self.bounds.slack[t] + allowance
                if score > worst:
                    worst, critical = score, t
        group = [k for k in self.bounds.members[critical] if left[k]]
        while True:
            bottom = min(low[k] for k in group)
            buffer = min((k for k in group if low[k] == bottom), key=self._rank)
            group = [k for k in self.bounds.neighbours[buffer] if left[k] and low[k] < bottom]
            if not group:
                return buffer

    def _rank(self, k: int) -> tuple[int, int, int]:
        match self.strategy.order:
            case "life":
                return -len(self.bounds.span[k]), -self.bounds.size[k], k
            case "full":
                return -max(self.bounds.remaining[t] for t in self.bounds.span[k]), -self.bounds.area[k], k
            case _:
                return -self.bounds.area[k], 0, k
