"""Static allocation: addresses for buffers with known lifetimes in one memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tilegrad.errors import DoesNotFitError


@dataclass(frozen=True)
class Buffer:
    """A buffer that is alive during the half-open interval [lower, upper).

    Attributes:
        lower: first moment of its life.
        upper: first moment after its life.
        size: its size, in the unit of the capacity.
    """

    lower: int
    upper: int
    size: int


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """The largest sum of sizes alive at one moment: no allocation can need less."""
    events: dict[int, int] = {}
    for buffer in buffers:
        if buffer.upper > buffer.lower:
            events[buffer.lower] = events.get(buffer.lower, 0) + buffer.size
            events[buffer.upper] = events.get(buffer.upper, 0) - buffer.size
    alive = peak = 0
    for moment in sorted(events):
        alive += events[moment]
        peak = max(peak, alive)
    return peak


#: Orders in which buffers are placed; the best result counts. Ties fall back to the position in the list.
_ORDERS: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
    lambda b: (-b.size, b.lower),
    lambda b: (-b.size * (b.upper - b.lower), b.lower),
    lambda b: (-(b.upper - b.lower), -b.size),
    lambda b: (b.lower, -b.size),
    lambda b: (-b.upper, -b.size),
)


def allocate(buffers: Sequence[Buffer], capacity: int | None = None) -> list[int]:
    """Assign an offset to every buffer such that no two overlap in both time and space.

    Greedy best fit in several orders (compare Pisarchyk and Lee, "Efficient memory management for deep neural net
    inference", 2020); the lowest peak wins.

    Args:
        buffers: what to place.
        capacity: size of the memory; None for unlimited.

    Returns:
        The offsets, in the order of `buffers`.

    Raises:
        DoesNotFitError: if no order tried fits the capacity.
    """
    bound = lower_bound(buffers)
    best: list[int] = []
    best_peak = -1
    for order in _ORDERS:
        offsets = _place(buffers, order)
        peak = peak_of(buffers, offsets)
        if best_peak < 0 or peak < best_peak:
            best, best_peak = offsets, peak
        if best_peak == bound:
            break
    if capacity is not None and best_peak > capacity:
        raise DoesNotFitError(f"the buffers need {best_peak} of {capacity}; at least {bound} are alive at one moment")
    return best


def peak_of(buffers: Sequence[Buffer], offsets: Sequence[int]) -> int:
    """The end of the highest buffer."""
    return max((offset + b.size for b, offset in zip(buffers, offsets, strict=True)), default=0)


def _place(buffers: Sequence[Buffer], order: Callable[[Buffer], tuple[int, ...]]) -> list[int]:
    placed: list[tuple[int, int, Buffer]] = []  # (offset, end, buffer), sorted by offset
    offsets = [0] * len(buffers)
    for position in sorted(range(len(buffers)), key=lambda k: (order(buffers[k]), k)):
        buffer = buffers[position]
        cursor, best, best_gap = 0, None, None
        for offset, end, other in placed:
            if other.upper <= buffer.lower or buffer.upper <= other.lower:
                continue
            gap = offset - cursor
            if gap >= buffer.size and (best_gap is None or gap < best_gap):
                best, best_gap = cursor, gap
            cursor = max(cursor, end)
        offset = cursor if best is None else best
        offsets[position] = offset
        placed.append((offset, offset + buffer.size, buffer))
        placed.sort(key=lambda entry: entry[:2])
    return offsets
