"""Sums over register tiles: a x b neighbouring elements share the operands that they load in every step.

Every element's terms keep their canonical order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tilegrad.codegen.borders import BorderWriter
from tilegrad.codegen.writer import fold
from tilegrad.ir.affine import Guard
from tilegrad.ir.expr import Expr


class ContractionWriter(BorderWriter):
    """Chains of terms for register tiles of elements."""

    def write(self) -> None:
        """Write the nest."""
        self.choose_steps()
        for _ in self.sections():
            self._list_roots()
            self.divide(self.steps(), self._tile, guarded=False)

    def _list_roots(self) -> None:
        lanes, results = self.lanes(), self.nest.results
        ends = [expr for result in results for expr in (result.start, result.final) if expr is not None]
        terms = [expr for result in results for expr in self.term(result)]
        self.term_roots = [self.at(e, lane | step) for step in self.written(1) for lane in lanes for e in terms]
        self.roots = [self.at(expr, lane) for expr in ends for lane in lanes] + self.term_roots
        self.inside_roots: list[Expr] = []
        if self.stepped is None:
            return
        part = self.ranges[self.stepped]
        coupled = [g for g in self.nest.guards if self.tile_iterator(g) is not None]
        written = part.literal is not None and part.count is not None and part.count <= self.unroll
        if written and len(coupled) == 1 and self.inside_tiles(coupled[0]).some:
            assert part.literal is not None and part.count is not None
            # Written out where no guard can fail: what is read there whatever the guards say can be read before.
            with self.constant(self.stepped, part.literal[0]):
                steps = self.written(part.count)
                self.inside_roots = [self.at(e, lane | step) for step in steps for lane in lanes for e in terms]

    def _tile(self) -> None:
        """Everything about one register tile."""
        lanes = self.lanes()
        for k in self.complete:
            if k not in self.constants:
                self.fixed(k, self.ranges[k].first)
        self.start_all(lanes)
        self.roots = self.term_roots
        conditions = self.settle()
        with self.scoped(f"if ({' && '.join(conditions)})" if conditions else None):
            coupled = [g for g in self.pending if self.tile_iterator(g) is not None]
            if not coupled:
                self._reduce(self.plain_terms)
            else:
                (guard,) = coupled  # the mapping has no tile iterator in a second one
                self._reduce_coupled(guard)
        self.store_all(lanes)

    def _reduce(self, innermost: Callable[[], None]) -> None:
        self.loops([(k, 1) for k in self.outer], innermost, guarded=True)

    def _reduce_coupled(self, guard: Guard) -> None:
        """The terms of tiles of which some lanes may lack some."""
        inside = self.inside_tiles(guard)
        self.pending.remove(guard)  # it is in the bounds of the lanes, or cannot fail
        if inside.all or self._part == "inside":
            self._reduce(self.plain_terms)
            return
        places = inside.places
        if places is not None and self._part == "border":
            places = [place for place in places if not inside.holds(place)]
        self._reduce(lambda: self.ragged(guard, inside.iterator, inside.size, places))

    #: Which tiles lines are being written for: those "inside", which no guard can cut, those in the "border", or all.
    _part = "all"

    def loop(
        self, iterator: int, step: int, body: Callable[[], None], *, guarded: bool, limits: Sequence[str] = ()
    ) -> None:
        """One loop; along an iterator with a border, one over the tiles inside and one over those in the border."""
        coupled = [g for g in self.pending if self.tile_iterator(g) == iterator]
        inside = self.inside_tiles(coupled[0]) if coupled else None
        if inside is None or inside.all or not inside.some:
            super().loop(iterator, step, body, guarded=guarded, limits=limits)
            return
        part = self.ranges[iterator]
        first, last = limits or (part.first, part.last)
        begin, end = self.inside_bounds(inside, part.first)
        name = self.scope.iterator(iterator)
        self.open.add(iterator)
        start, stop = fold("tg_max", [first, begin]), fold("tg_min", [last, end])
        with self.scoped(f"for (int {name} = {start}; {name} < {stop}; {name} += {step})"):
            self._part = "inside"
            body()
        with self.scoped(f"for (int {name} = {first}; {name} < {last}; {name} += {step})"):
            with self.scoped(f"if ({name} >= {begin} && {name} < {end})"):
                self.out.line(f"{name} = {end} - {step};")
                self.out.line("continue;")
            self._part, inside_roots, self.inside_roots = "border", self.inside_roots, []
            body()
        self._part, self.inside_roots = "all", inside_roots
