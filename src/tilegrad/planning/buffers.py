"""Buffers with known lifetimes, and what any allocation of them needs at least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilegrad.errors import UserError


@dataclass(frozen=True)
class Buffer:
    """A buffer that is alive during the half-open interval [lower, upper).

    A buffer whose interval is empty is never alive: it needs no memory and gets an offset all the same.

    Attributes:
        lower: first moment of its life.
        upper: first moment after its life.
        size: its size, in the unit of the capacity.
        alignment: its offset is a multiple of this, in the unit of the capacity.
        offset: where it has to be; None leaves that to the allocator.

    Raises:
        UserError: if the size or the offset is negative, the alignment below one, or the offset not so aligned.
    """

    lower: int
    upper: int
    size: int
    alignment: int = 1
    offset: int | None = None

    def __post_init__(self) -> None:
        if self.size < 0 or self.alignment < 1:
            raise UserError(f"{self}: the size must not be negative, and the alignment at least 1")
        if self.offset is not None and (self.offset < 0 or self.offset % self.alignment):
            raise UserError(f"{self}: the offset must be a multiple of the alignment and not negative")

    @property
    def occupies(self) -> bool:
        """Whether it is ever alive and has a size: only then can it be in another's way."""
        return self.lower < self.upper and self.size > 0


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """The largest sum of sizes alive at one moment, or the end of the highest buffer with a given offset.

    No allocation has a lower peak.
    """
    events: dict[int, int] = {}
    peak = 0
    for buffer in buffers:
        if buffer.occupies:
            events[buffer.lower] = events.get(buffer.lower, 0) + buffer.size
            events[buffer.upper] = events.get(buffer.upper, 0) - buffer.size
            if buffer.offset is not None:
                peak = max(peak, buffer.offset + buffer.size)
    alive = 0
    for moment in sorted(events):
        alive += events[moment]
        peak = max(peak, alive)
    return peak


def peak_of(buffers: Sequence[Buffer], offsets: Sequence[int]) -> int:
    """The end of the highest buffer that is ever alive."""
    return max((offset + b.size for b, offset in zip(buffers, offsets, strict=True) if b.occupies), default=0)
