"""Which part of an axis belongs to a tile: the arithmetic behind every footprint.

A group of kernels runs over tiles. Every tile loop cuts one axis into ranges ``[T, T + n)``. What a tile needs of any
other axis is an affine image of these ranges: the halo of a window, the stride of a pooling, the residue of a
transposed convolution. Spans are closed under affine maps, so one function derives buffer sizes, transfers and loop
bounds alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilegrad.ir.affine import Affine


@dataclass(frozen=True, slots=True)
class TileLoop:
    """A loop over consecutive ranges of an axis.

    Attributes:
        extent: elements of the axis.
        step: elements of one range; the last one may be shorter.
    """

    extent: int
    step: int

    @property
    def count(self) -> int:
        """Number of tiles."""
        return -(-self.extent // self.step)

    @property
    def exact(self) -> bool:
        """True where all tiles have the same size."""
        return self.extent % self.step == 0

    def range(self, tile: int) -> tuple[int, int]:
        """First element of a tile and its size."""
        first = tile * self.step
        return first, min(self.step, self.extent - first)


@dataclass(frozen=True, slots=True)
class Span:
    """The elements of an axis that a tile touches, an interval that moves with the tile loops.

    For a tile with starts ``T_l`` and sizes ``n_l`` it begins at ``sum(s * T_l for s > 0) + sum(s * (T_l + n_l) for
    s < 0) + offset`` and has ``sum(|s| * n_l) + extra`` elements; what lies outside the axis is cut off.

    Attributes:
        terms: pairs (tile loop, scale), sorted by loop.
        offset: constant part of the begin.
        extra: constant part of the length.
        extent: elements of the axis.
    """

    terms: tuple[tuple[int, int], ...]
    offset: int
    extra: int
    extent: int

    @staticmethod
    def whole(extent: int) -> Span:
        """The whole axis."""
        return Span((), 0, extent, extent)

    @staticmethod
    def tile(loop: int, extent: int, scale: int = 1) -> Span:
        """The axis that a tile loop cuts: the range of the tile, `scale` elements for each of its own."""
        return Span(((loop, scale),), 0, 0, extent)

    @property
    def is_whole(self) -> bool:
        """True where every tile touches all of the axis."""
        return not self.terms and self.offset <= 0 and self.offset + self.extra >= self.extent

    @property
    def depth(self) -> int:
        """One more than the innermost tile loop that it moves with; 0 where it does not move."""
        return max((loop + 1 for loop, _ in self.terms), default=0)

    def size(self, loops: Sequence[TileLoop]) -> int:
        """The most elements that it has in any tile."""
        length = sum(abs(scale) * min(loops[loop].step, loops[loop].extent) for loop, scale in self.terms) + self.extra
        return max(min(length, self.extent), 0)

    def bounds(self, tiles: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """First element and one past the last for a tile with the given ranges (start, size), cut off at the axis."""
        begin = self.offset
        length = self.extra
        for loop, scale in self.terms:
            start, count = tiles[loop]
            begin += scale * start if scale > 0 else scale * (start + count)
            length += abs(scale) * count
        first = min(max(begin, 0), self.extent)
        return first, max(min(begin + length, self.extent), first)

    def origin(self, tiles: Sequence[tuple[int, int]], loops: Sequence[TileLoop]) -> int:
        """First element that a buffer of `size` elements holds: moved inwards where the span leaves the axis."""
        begin = self.offset
        for loop, scale in self.terms:
            start, count = tiles[loop]
            begin += scale * start if scale > 0 else scale * (start + count)
        return min(max(begin, 0), self.extent - self.size(loops))


def image(row: Affine, spans: Sequence[Span], extent: int) -> Span | None:
    """The part of a tensor axis that an index touches while its iterators run over their spans.

    Args:
        row: the index along the axis.
        spans: the range of every iterator.
        extent: elements of the axis.

    Returns:
        The smallest interval that is sure to contain it, or None where a lookup makes it unknown: then it is all.
    """
    if row.lookups:
        return None
    terms: dict[int, int] = {}
    offset, length = row.constant, 1
    for iterator, coefficient in row.terms:
        span = spans[iterator]
        # begin + coefficient * (i - begin of the span), for i from the first to the last of its length - 1 steps
        if coefficient > 0:
            offset += coefficient * span.offset
        else:
            offset += coefficient * (span.offset + span.extra - 1)
        length += abs(coefficient) * (span.extra - 1)
        for loop, scale in span.terms:
            scaled = coefficient * scale
            if terms.get(loop, 0) * scaled < 0:
                return None  # two opposite movements along one loop: the hull is all
            terms[loop] = terms.get(loop, 0) + scaled
    return Span(tuple(sorted(terms.items())), offset, length, extent)
