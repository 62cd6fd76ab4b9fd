"""Rows of accumulators: the innermost loop runs over a parallel iterator with unit stride, as vector units want it.

The row is cut into tiles that stay in registers, where no guard can fail, and border rows, where the guards are the
bounds of the innermost loop, so that terms outside are never executed.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilegrad.codegen.chains import ChainWriter, accumulate
from tilegrad.codegen.nest import Offsets
from tilegrad.ir.graph import Result
from tilegrad.planning.interior import interior


class RowWriter(ChainWriter):
    """One sum per element of a row, several rows side by side."""

    def write(self) -> None:
        """Write the nest."""
        assert self.mapping.vector is not None
        self.vector: int = self.mapping.vector
        (self.result,) = self.nest.results
        self.parallel.remove(self.vector)
        for _ in self.sections():
            self.divide(self.steps(), self._sections, guarded=False)

    def _sections(self) -> None:
        """Border, tiles and border of one row."""
        part, width = self.ranges[self.vector], self.mapping.width
        extent = self.nest.extents[self.vector]
        if part.literal != (0, extent):
            self._row(part.first, part.last, part.most)
            return
        first, last = self._interior()
        tiles = max(last - first, 0) // width
        if not tiles:
            self._row("0", str(extent), extent)
            return
        stop = first + tiles * width
        if first:
            with self.scoped(""):
                self._row("0", str(first), first)
        name = self.scope.iterator(self.vector)
        with self.scoped(f"for (int {name}_0 = {first}; {name}_0 < {stop}; {name}_0 += {width})"):
            self.pending = [g for g in self.pending if self.vector not in set(g.index.iterators())]
            self._row("0", str(width), width, offset=f"{name}_0")
        if stop < extent:
            with self.scoped(""):
                self._row(str(stop), str(extent), extent - stop)

    def _interior(self) -> tuple[int, int]:
        """The range of the vector iterator in which its guards hold wherever the other iterators are."""
        first, last = 0, self.nest.extents[self.vector]
        for guard in self.nest.guards:
            if self.vector in set(guard.index.iterators()):
                bounds = interior(guard, self.vector, self.nest.extents)
                first, last = max(first, bounds[0]), min(last, bounds[1])
        return first, last

    def _row(self, first: str, stop: str, size: int, *, offset: str = "") -> None:
        """One row of accumulators for the elements [first, stop) of the vector iterator, shifted by `offset`."""
        name = self.scope.iterator(self.vector)
        lane_name = f"{name}_1" if offset else name
        lanes = self.lanes()
        if offset:
            self.scope.iterators[self.vector] = f"({offset} + {lane_name})"
        whole = f"for (int {lane_name} = {first}; {lane_name} < {stop}; ++{lane_name})"
        place = lane_name if first == "0" else f"{lane_name} - {first}"
        targets = [f"row{number}[{place}]" for number, _ in enumerate(lanes)]
        for number, _ in enumerate(lanes):
            self.out.line(f"float row{number}[{size}];")
        with self.scoped(whole):
            for lane, target in zip(lanes, targets, strict=True):
                self._begin(self.result, target, lane)
        with self.scoped():
            self._terms(targets, (first, stop), lane_name)
        with self.scoped(whole):
            for lane, target in zip(lanes, targets, strict=True):
                self._store(self.result, target, lane)
        self.scope.iterators.pop(self.vector, None)

    def _begin(self, result: Result, target: str, lane: Offsets) -> None:
        text = "0.0f"
        if result.start is not None:
            (text,) = self.scope.evaluate([self.at(result.start, lane)], self.out.line)
        if self.chain is not None:
            text = f"{self.chain.start} ? {text} : {self.element(result, 0, lane)}"
        self.out.line(f"{target} = {text};")

    def _store(self, result: Result, target: str, lane: Offsets) -> None:
        self.store([(result, target, lane)])

    def _terms(self, targets: Sequence[str], limits: tuple[str, str], lane_name: str) -> None:
        """The loops over the reduction iterators around the loop over the elements of a row."""
        on_vector = [g for g in self.pending if self.vector in set(g.index.iterators())]
        self.pending = [g for g in self.pending if g not in on_vector]
        lanes, result = self.lanes(), self.result

        def terms() -> None:
            roots = [self.at(expr, lane) for lane in lanes for expr in result.exprs]
            texts = self.scope.evaluate(roots, self.out.line)
            width = len(result.exprs)
            for number, target in enumerate(targets):
                mine = texts[number * width : (number + 1) * width]
                self.out.line(f"{target} = {accumulate(result, mine, target)};")

        def inner() -> None:
            self.pending = self.pending + on_vector
            self.open.add(self.vector)
            whole = f"for (int {lane_name} = {limits[0]}; {lane_name} < {limits[1]}; ++{lane_name})"
            lower, upper, tests = self.bounds(self.vector, limits)
            assert not tests
            if not on_vector:
                with self.scoped(whole):
                    terms()
                return
            # A whole row with literal bounds is what vector units like; most rows are whole.
            self.out.line(f"const int first = {lower};")
            self.out.line(f"const int last = {upper};")
            counter = self.scope.counter
            with self.scoped(f"if (first == {limits[0]} && last == {limits[1]})"), self.scoped(whole):
                terms()
            self.scope.counter = counter
            with self.scoped("else"), self.scoped(f"for (int {lane_name} = first; {lane_name} < last; ++{lane_name})"):
                terms()

        conditions = self.settle()
        with self.scoped(f"if ({' && '.join(conditions)})" if conditions else None):
            self.loops([(k, 1) for k in self.reductions], inner, guarded=True)
