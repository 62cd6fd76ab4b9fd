"""What is known of the offsets of buffers below a capacity, and what follows from it: the inference of `packing.py`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from tilegrad.planning.buffers import Buffer

#: Rounds of inference after a change. Two buffers that each rest on the other lift each other to the capacity, but by
#: no more than their sizes a round, which can take very long; stopping early only means to infer less.
_MOST_ROUNDS = 20


@dataclass(frozen=True)
class Mark:
    """A state to return to.

    Attributes:
        changes: how many changes of offsets led to it.
        placements: how many buffers were placed.
        window: the sections that can have changed since.
        slack: that of the sections of the window.
        candidates: those of the sections of the window.
    """

    changes: int
    placements: int
    window: slice
    slack: list[int]
    candidates: list[int]


def _sections(buffers: Sequence[Buffer]) -> list[int]:
    """Moments such that any two buffers that are alive together are so at one of them: the maximal sets alive."""
    starts = sorted({buffer.lower for buffer in buffers})
    ends = sorted({buffer.upper for buffer in buffers})
    moments = []
    position = 0
    for start, following in zip(starts, [*starts[1:], *ends[-1:]], strict=True):
        while position < len(ends) and ends[position] <= start:
            position += 1
        if position < len(ends) and ends[position] <= following:
            moments.append(start)
    return moments


class Bounds:
    """The buffers of a search: which are placed, and how low the others can be.

    Attributes:
        low: lowest offset that each buffer can have; the offset of those that are placed.
        support: lowest offset above the placed buffers that are alive with it, per buffer.
        left: whether a buffer is still to be placed.
        members: the buffers alive in each section; ascending by `low` when it was last looked at.
        placed: how many of them are placed, per section; those come first in `members`.
        remaining: the sizes of those that are not, summed, per section.
        crossing: how many buffers to place are alive both in a section and in the next.
        dirty: sections to look at again; a dict, because its order counts and must be the same in every run.
        slack: how much can be wasted, per section, by the release dates.
        candidates: how many buffers can come next, per section.
        weights: grow with the failures, per section.
        work: buffers looked at so far.
    """

    def __init__(self, buffers: Sequence[Buffer], capacity: int) -> None:
        self.capacity = capacity
        self.work = 0
        moments = _sections(buffers)
        self.count = len(moments)
        self.size = [buffer.size for buffer in buffers]
        self.alignment = [buffer.alignment for buffer in buffers]
        self.fixed = [buffer.offset for buffer in buffers]
        self.highest = [capacity - b.size if b.offset is None else b.offset for b in buffers]
        self.members: list[list[int]] = [[] for _ in moments]
        self.span = [range(bisect_left(moments, b.lower), bisect_left(moments, b.upper)) for b in buffers]
        starting: list[list[int]] = [[] for _ in moments]
        for k, span in enumerate(self.span):
            starting[span.start].append(k)
            for t in span:
                self.members[t].append(k)
        self.neighbours = [
            [j for j in self.members[span.start] if j != k] + [j for t in span[1:] for j in starting[t]]
            for k, span in enumerate(self.span)
        ]
        self.sections = [dict.fromkeys(span) for span in self.span]
        self.area = [len(span) * size for span, size in zip(self.span, self.size, strict=True)]

    def reset(self, weights: list[float]) -> None:
        """Start afresh; failures count towards `weights`."""
        self.weights = weights
        self.low = [fixed or 0 for fixed in self.fixed]
        self.support = list(self.low)
        self.left = [True] * len(self.size)
        self.watched = [-1] * len(self.size)
        self.placed = [0] * self.count
        self.remaining = [sum(self.size[k] for k in members) for members in self.members]
        self.crossing = [0] * self.count
        self.slack = [0] * self.count
        self.candidates = [0] * self.count
        self.changes: list[tuple[int, int, int]] = []
        self.placements: list[int] = []
        self.dirty = dict.fromkeys(range(self.count))
        for span in self.span:
            for t in span[:-1]:
                self.crossing[t] += 1
        self._order_equals()

    def _order_equals(self) -> None:
        """Buffers that differ in nothing are stacked in the order of the list."""
        below: dict[tuple[int, int, int, int], int] = {}
        for k, (span, size, alignment) in enumerate(zip(self.span, self.size, self.alignment, strict=True)):
            if self.fixed[k] is None:
                key = (span.start, span.stop, size, alignment)
                if key in below:
                    lowest = self.low[below[key]] + size
                    self.low[k] = lowest + -lowest % alignment
                below[key] = k

    def mark(self, first: int, last: int) -> Mark:
        """The present state, as long as only the given range of sections changes."""
        window = slice(first, last)
        return Mark(len(self.changes), len(self.placements), window, self.slack[window], self.candidates[window])

    def undo(self, mark: Mark) -> None:
        """Return to the state of the mark."""
        self.dirty.clear()
        for k in self.placements[mark.placements :]:
            self.left[k] = True
            for t in self.span[k]:
                self.placed[t] -= 1
                self.remaining[t] += self.size[k]
            for t in self.span[k][:-1]:
                self.crossing[t] += 1
        del self.placements[mark.placements :]
        for k, low, support in reversed(self.changes[mark.changes :]):
            self.low[k], self.support[k] = low, support
        del self.changes[mark.changes :]
        self.slack[mark.window] = mark.slack
        self.candidates[mark.window] = mark.candidates

    def _raise(self, k: int, low: int) -> bool:
        """The buffer is not below `low`."""
        if self.alignment[k] != 1:
            low += -low % self.alignment[k]
        self.changes.append((k, self.low[k], self.support[k]))
        self.low[k] = low
        self.dirty.update(self.sections[k])
        return low <= self.highest[k]

    def place(self, k: int) -> bool:
        """Put the buffer at its lowest offset, all others alive with it are above; False if one cannot be."""
        self.left[k] = False
        self.placements.append(k)
        size, span = self.size[k], self.span[k]
        for t in span:
            self.placed[t] += 1
            self.remaining[t] -= size
        for t in span[:-1]:
            self.crossing[t] -= 1
        self.dirty.update(self.sections[k])
        end = self.low[k] + size
        low, support, left = self.low, self.support, self.left
        for j in self.neighbours[k]:
            if left[j] and support[j] < end:
                self.changes.append((j, low[j], support[j]))
                support[j] = end + -end % self.alignment[j]
                if low[j] < end and not self._raise(j, end):
                    self._blame(j)
                    return False
        return True

    def lift(self, k: int) -> bool:
        """The buffer rests on a buffer that is not placed; False if it cannot."""
        low, size, left = self.low, self.size, self.left
        lowest, watched = self.capacity + 1, -1
        for j in self.neighbours[k]:
            if left[j] and low[j] + size[j] < lowest:
                lowest, watched = low[j] + size[j], j
        self.watched[k] = watched
        if lowest > low[k] and not self._raise(k, lowest):
            self._blame(k)
            return False
        return True

    def _blame(self, k: int) -> None:
        share = 1 / len(self.span[k])
        for t in self.span[k]:
            self.weights[t] += share

    def propagate(self, group: list[int]) -> bool:
        """Infer what follows from the last changes; False if the capacity cannot hold."""
        low, size, left, support, watched = self.low, self.size, self.left, self.support, self.watched
        for _ in range(_MOST_ROUNDS):
            if not self._settle():
                return False
            for k in group:
                if left[k] and low[k] > support[k]:
                    j = watched[k]
                    if not (j >= 0 and left[j] and low[j] + size[j] <= low[k]) and not self.lift(k):
                        return False
            if not self.dirty:
                return True
        return self._settle()

    def _settle(self) -> bool:
        while self.dirty:
            t, _ = self.dirty.popitem()
            if not self._release(t):
                self.weights[t] += 1
                return False
        return True

    def _release(self, t: int) -> bool:
        """Release dates and not first, in one section."""
        low, size = self.low, self.size
        members = self.members[t]
        members.sort(key=low.__getitem__)
        waiting = members[self.placed[t] :]
        self.work += len(waiting)
        latest = self.capacity - self.remaining[t]
        first_end = self.capacity + 1
        end = candidates = 0
        for k in waiting:
            offset = low[k]
            if offset > end:
                end = offset
            end += size[k]
            if offset <= latest:
                candidates += 1
                if offset + size[k] < first_end:
                    first_end = offset + size[k]
        slack = self.capacity - end
        self.slack[t] = slack
        self.candidates[t] = candidates
        if slack < 0:
            return False
        return all(low[k] >= first_end or self._raise(k, first_end) for k in waiting[candidates:])
