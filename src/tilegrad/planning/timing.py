"""Estimated cycles of loop nests, computed once for every tile size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from tilegrad.ir.graph import Nest
from tilegrad.planning.mapping import Mapping, choose_mapping, nest_cycles, plain_mapping
from tilegrad.planning.span import Span, TileLoop
from tilegrad.targets.base import Target


class Timings:
    """Loop structures and cycles of nests on one machine.

    Args:
        target: the machine.
        plain: loops in declared order.
    """

    def __init__(self, target: Target, *, plain: bool) -> None:
        self.target, self.plain = target, plain
        self._mappings: dict[tuple[int, tuple[int, ...]], Mapping] = {}
        self._totals: dict[tuple[int, tuple[Span, ...], tuple[TileLoop, ...]], tuple[Mapping, float]] = {}
        self._keep: dict[int, Nest] = {}  # so that the ids stay unique

    def of(self, nest: Nest, spans: tuple[Span, ...], loops: tuple[TileLoop, ...]) -> tuple[Mapping, float]:
        """The loop structure of a nest under tile loops, and its cycles over all tiles."""
        key = (id(nest), spans, loops)
        if key not in self._totals:
            self._keep[id(nest)] = nest
            mapping = self.mapping(nest, tuple(span.size(loops) for span in spans))
            self._totals[key] = (mapping, self._cycles(nest, spans, mapping, loops))
        return self._totals[key]

    def mapping(self, nest: Nest, sizes: tuple[int, ...]) -> Mapping:
        """The loop structure of a nest for a tile of the given sizes."""
        key = (id(nest), sizes)
        if key not in self._mappings:
            self._keep[id(nest)] = nest
            plain = plain_mapping(nest, self.target.cores) if self.plain else None
            self._mappings[key] = plain or choose_mapping(nest, self.target, sizes)
        return self._mappings[key]

    def _cycles(self, nest: Nest, spans: Sequence[Span], mapping: Mapping, loops: tuple[TileLoop, ...]) -> float:
        """Cycles of a nest over all tiles; the last tile of a loop may be smaller."""
        cycles = 0.0
        variants = [[(loop.step, loop.extent // loop.step), (loop.extent % loop.step, 1)] for loop in loops]
        for variant in itertools.product(*variants):
            times = math.prod(count for _, count in variant)
            if times and all(size for size, _ in variant):
                tile = [TileLoop(size, size) for size, _ in variant]
                sizes = tuple(span.size(tile) for span in spans)
                cycles += times * nest_cycles(nest, self.target, sizes, mapping)
        return cycles
