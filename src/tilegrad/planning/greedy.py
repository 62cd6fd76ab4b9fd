"""Greedy allocation: buffers in a few fixed orders, each into the smallest gap that holds it.

Compare Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence

import numpy as np

from tilegrad.planning.buffers import Buffer, peak_of

#: Orders in which buffers are placed; the best result counts. Ties fall back to the position in the list.
_ORDERS: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
    lambda b: (-b.size, b.lower),
    lambda b: (-b.size * (b.upper - b.lower), b.lower),
    lambda b: (-(b.upper - b.lower), -b.size),
    lambda b: (b.lower, -b.size),
    lambda b: (-b.upper, -b.size),
)

#: From this many buffers on, the buffers in the way are found with NumPy.
_MANY = 200


def greedy(buffers: Sequence[Buffer], bound: int) -> list[int]:
    """Offsets with the lowest peak that one of the orders reaches; stops at the first that reaches `bound`."""
    best: list[int] = []
    best_peak = -1
    for order in _ORDERS:
        offsets = place_in_order(buffers, order)
        peak = peak_of(buffers, offsets)
        if best_peak < 0 or peak < best_peak:
            best, best_peak = offsets, peak
        if best_peak <= bound:
            break
    return best


def place_in_order(buffers: Sequence[Buffer], order: Callable[[Buffer], tuple[int, ...]]) -> list[int]:
    """Offsets: first the buffers that have one, then the others in ascending order of the key."""
    offsets = [buffer.offset or 0 for buffer in buffers]
    given = [k for k, b in enumerate(buffers) if b.occupies and b.offset is not None]
    free = [k for k, b in enumerate(buffers) if b.occupies and b.offset is None]
    free.sort(key=lambda k: (order(buffers[k]), k))
    gaps = _place_few if len(buffers) < _MANY else _place_many
    gaps(buffers, given, free, offsets)
    return offsets


def _place_few(buffers: Sequence[Buffer], given: list[int], free: list[int], offsets: list[int]) -> None:
    placed = sorted(
        (offsets[k], offsets[k] + buffers[k].size, buffers[k].lower, buffers[k].upper) for k in given
    )  # by offset
    for k in free:
        buffer = buffers[k]
        lower, upper, size, alignment = buffer.lower, buffer.upper, buffer.size, buffer.alignment
        cursor, best, best_gap = 0, -1, -1
        for offset, end, other_lower, other_upper in placed:
            if other_upper <= lower or upper <= other_lower:
                continue
            gap = offset - cursor
            if gap >= size and (best_gap < 0 or gap < best_gap):
                best, best_gap = cursor, gap
            if end > cursor:
                cursor = end + -end % alignment
        offsets[k] = cursor if best < 0 else best
        insort(placed, (offsets[k], offsets[k] + size, lower, upper))


def _place_many(buffers: Sequence[Buffer], given: list[int], free: list[int], offsets: list[int]) -> None:
    """As `_place_few`. Columns of `table` are (offset, end, lower, upper), ascending by offset."""
    table = np.empty((4, len(given) + len(free)), np.int64)
    for count, k in enumerate([*given, *free]):
        buffer = buffers[k]
        size, alignment = buffer.size, buffer.alignment
        if buffer.offset is None:
            placed = table[:, :count]
            there = np.flatnonzero((placed[2] < buffer.upper) & (placed[3] > buffer.lower))
            starts = placed[0, there]
            cursors = np.zeros(len(there) + 1, np.int64)
            np.maximum.accumulate(placed[1, there], out=cursors[1:])
            cursors += -cursors % alignment
            gaps = starts - cursors[:-1]
            wide = np.flatnonzero(gaps >= size)
            offsets[k] = int(cursors[wide[np.argmin(gaps[wide])]] if len(wide) else cursors[-1])
        position = int(np.searchsorted(table[0, :count], offsets[k]))
        table[:, position + 1 : count + 1] = table[:, position:count].copy()
        table[:, position] = offsets[k], offsets[k] + size, buffer.lower, buffer.upper
