"""The formulas of the plan in numbers: every span of a group evaluated for all of its tiles at once.

The planner has its own evaluation of the same formulas; this one is written from docs/plan.md alone, so that a mistake
in either shows as a disagreement.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.errors import InternalError
from tilegrad.ir.affine import Affine
from tilegrad.planning.plan import Group, Window
from tilegrad.planning.span import Span

Numbers = NDArray[np.int64]
#: Smallest and largest value in every tile, both inclusive.
Interval = tuple[Numbers, Numbers]


class Tiles:
    """All tiles of a group, in the order in which they run: the innermost loop goes on first.

    Attributes:
        count: how many there are.
        starts: first element of every tile along every loop, ``[tile, loop]``.
        sizes: elements of every tile along every loop, ``[tile, loop]``.
    """

    def __init__(self, group: Group) -> None:
        for loop in group.loops:
            if not 1 <= loop.step <= loop.extent:
                raise InternalError(f"{group.name}: a loop of {loop.extent} advances by {loop.step}")
        self.group = group
        self.extents = [loop.extent for loop in group.loops]
        self.steps = [loop.step for loop in group.loops]
        self.trips = [-(-extent // step) for extent, step in zip(self.extents, self.steps, strict=True)]
        self.count = math.prod(self.trips)
        indices = np.array(list(itertools.product(*map(range, self.trips))), np.int64)
        self.indices: Numbers = indices.reshape(self.count, len(self.trips))
        self.starts: Numbers = self.indices * np.array(self.steps, np.int64)
        self.sizes: Numbers = np.minimum(np.array(self.steps, np.int64), np.array(self.extents, np.int64) - self.starts)

    def check(self, span: Span, extent: int, where: str) -> None:
        """A span must describe the axis it belongs to by loops of the group, and a whole axis in the one way there is.

        Raises:
            InternalError: if it does not.
        """
        loops = [loop for loop, _ in span.terms]
        if span.extent != extent:
            raise InternalError(f"{where}: a range of an axis of {span.extent} elements, which has {extent}")
        if loops != sorted(set(loops)) or any(not 0 <= loop < len(self.trips) for loop in loops):
            raise InternalError(f"{where}: a range moves with loops that {self.group.name} does not have")
        if any(scale == 0 for _, scale in span.terms):
            raise InternalError(f"{where}: a range moves with a loop by nothing")
        if not loops and span.extra >= extent and (span.offset or span.extra != extent):
            raise InternalError(f"{where}: a range of all {extent} elements begins at {span.offset}")

    def window(self, window: Window, shape: Sequence[int], where: str) -> None:
        """A window must have a span for every axis of its tensor and change with the loops that it moves with."""
        if len(window.spans) != len(shape):
            raise InternalError(f"{where}: a window of {len(window.spans)} axes into a tensor of {len(shape)}")
        for span, extent in zip(window.spans, shape, strict=True):
            self.check(span, extent, where)
            if span.terms and self.size(span) >= extent:
                raise InternalError(f"{where}: a window of all {extent} elements moves")
        if window.depth != max((loop + 1 for span in window.spans for loop, _ in span.terms), default=0):
            raise InternalError(f"{where}: a window of depth {window.depth} does not change when it moves")

    def check_loops(self) -> None:
        """Every loop must cut something, and go exactly as far as the longest axis or iterator that it cuts.

        Raises:
            InternalError: if one does not.
        """
        reach = [0] * len(self.trips)
        for kernel in self.group.kernels:
            for span in itertools.chain.from_iterable((*kernel.ranges, *kernel.filled.values())):
                for loop, scale in span.terms:
                    reach[loop] = max(reach[loop], -(-span.extent // abs(scale)))
        if reach != self.extents:
            raise InternalError(f"{self.group.name}: loops of {self.extents} over iterators of {reach}")

    def _begin(self, span: Span) -> tuple[Numbers, Numbers]:
        begin = np.full(self.count, span.offset, np.int64)
        length = np.full(self.count, span.extra, np.int64)
        for loop, scale in span.terms:
            begin += scale * self.starts[:, loop]
            if scale < 0:
                begin += scale * self.sizes[:, loop]
            length += abs(scale) * self.sizes[:, loop]
        return begin, length

    def bounds(self, span: Span) -> tuple[Numbers, Numbers]:
        """First element and the one behind the last in every tile, cut off at the axis; empty where they are equal."""
        begin, length = self._begin(span)
        first = np.clip(begin, 0, span.extent)
        return first, np.maximum(np.minimum(begin + length, span.extent), first)

    def unclipped_end(self, span: Span) -> Numbers:
        """The element behind the last in every tile, wherever the axis ends."""
        begin, length = self._begin(span)
        return begin + length

    def size(self, span: Span) -> int:
        """Elements that a buffer has along the axis: enough for every tile."""
        most = sum(abs(scale) * self.steps[loop] for loop, scale in span.terms) + span.extra
        return max(min(span.extent, most), 0)

    def origin(self, span: Span) -> Numbers:
        """The element that comes first in the buffer of every tile: moved inwards at the ends of the axis."""
        begin, _ = self._begin(span)
        return np.minimum(np.maximum(begin, 0), span.extent - self.size(span))

    def prefix(self, depth: int) -> Numbers:
        """How often any of the outermost `depth` loops has gone on before every tile."""
        number = np.zeros(self.count, np.int64)
        for loop in range(depth):
            number = number * self.trips[loop] + self.indices[:, loop]
        return number


def interval(row: Affine, begins: Sequence[Numbers], ends: Sequence[Numbers]) -> Interval | None:
    """What an index can be in every tile, its iterators in ``[begin, end)``; None where a lookup leaves it open."""
    if row.lookups:
        return None
    low: Any = np.int64(row.constant)
    high: Any = np.int64(row.constant)
    for iterator, coefficient in row.terms:
        ends_of = (coefficient * begins[iterator], coefficient * (ends[iterator] - 1))
        low = low + (ends_of[0] if coefficient > 0 else ends_of[1])
        high = high + (ends_of[1] if coefficient > 0 else ends_of[0])
    return low, high
