"""Register tiles in a border: where a guard couples a tile iterator with the innermost reduction.

Padding along the axis of a convolution is of this kind. Neighbours have different ranges of terms: those that only some
of them have come first, then a common loop, then again those of some. No bound is tested inside the common loop, and a
term that does not exist is never computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dictionary
from dataclasses import dataclass

from tilegrad.codegen.guards import solve_at, solve_guard
from tilegrad.codegen.steps import StepWriter, Terms
from tilegrad.codegen.writer import fold
from tilegrad.ir.affine import Guard
from tilegrad.planning.interior import interior


@dataclass(frozen=True)
class Edge:
    """How the bounds of neighbouring elements can differ at one end of the common loop.

    Attributes:
        equal: in some tile they do not.
        staircase: in some tile every neighbour has exactly one term more than the one before.
        other: in some tile it is anything else.
    """

    equal: bool = True
    staircase: bool = True
    other: bool = True


@dataclass(frozen=True)
class Inside:
    """Where a guard that couples a tile iterator with the innermost reduction cannot fail for a whole tile.

    Attributes:
        iterator: the iterator of the tile.
        size: neighbours along it.
        first: the first element for which the guard cannot fail.
        last: one past the last.
        places: all positions of the tile, or None where they are not known.
    """

    iterator: int
    size: int
    first: int
    last: int
    places: Sequence[int] | None

    def holds(self, place: int) -> bool:
        """Whether the tile at a position is inside."""
        return self.first <= place and place + self.size <= self.last

    @property
    def some(self) -> bool:
        """Whether there may be tiles inside."""
        return self.last - self.first >= self.size if self.places is None else any(map(self.holds, self.places))

    @property
    def all(self) -> bool:
        """Whether all tiles are inside."""
        return self.places is not None and all(map(self.holds, self.places))


class BorderWriter(StepWriter):
    """Register tiles inside a border and in it."""

    def tile_iterator(self, guard: Guard) -> int | None:
        """The iterator of the register tile that a guard depends on."""
        return next((k for k, size in self.tile if size > 1 and guard.index.coefficient(k)), None)

    def inside_tiles(self, guard: Guard) -> Inside:
        """Where the guard cannot fail for a whole tile."""
        iterator = self.tile_iterator(guard)
        assert iterator is not None
        size = dict(self.tile)[iterator]
        first, last = interior(guard, iterator, self.nest.extents)
        return Inside(iterator, size, first, last, self._places(iterator, size))

    def _places(self, iterator: int, size: int) -> list[int] | None:
        """All positions of the tile along an iterator, or None where they are not known."""
        numbers = self.ranges[iterator].literal
        return None if numbers is None else list(range(numbers[0], numbers[1], size))

    def inside_bounds(self, inside: Inside, origin: str) -> tuple[str, str]:
        """C text of the position of the first tile inside, and of the one behind the last."""
        if inside.places is not None:
            places = list(filter(inside.holds, inside.places))
            return str(places[0]), str(places[-1] + inside.size)
        size = inside.size
        begin = self.local("begin", f"{origin} + tg_ceil_div(tg_max({inside.first} - {origin}, 0), {size}) * {size}")
        count = f"tg_max({inside.last} - {begin}, 0) / {size}"
        return begin, self.local("end", f"{begin} + {count} * {size}")

    def ragged(self, guard: Guard, iterator: int, size: int, places: Sequence[int] | None) -> None:
        """The innermost reduction of a tile whose lanes along `iterator` have different bounds."""
        stepped = self.step_iterator
        tile = self.lanes()
        self.open.add(stepped)
        lower, upper, conditions = self.bounds(stepped)
        assert not conditions
        with self.scoped():
            edges = self._edges(guard, iterator, size, places)
            # With an ascending index, lanes further on begin earlier and end earlier.
            ascending = guard.index.coefficient(iterator) * guard.index.coefficient(stepped) > 0
            order = list(range(size)) if ascending else list(reversed(range(size)))  # by falling begin and end
            lows, highs = self._lane_bounds(guard, iterator, order, (lower, upper), edges)
            begin = lows[order[0]]
            end = self.local("end", f"tg_max({highs[order[-1]]}, {begin})")
            groups = {d: [n for n, lane in enumerate(tile) if lane.get(iterator, 0) == d] for d in range(size)}
            whole = f"{highs[order[-1]]} >= {begin}"
            self._prologue(edges[0], lows, highs, begin, [groups[d] for d in order], order, whole)
            self.stepped_loop(begin, end, range(len(tile)), even=self._even(guard, iterator, size, places))
            self._epilogue(edges[1], lows, highs, end, [groups[d] for d in order], order, whole)

    def _lane_bounds(
        self, guard: Guard, iterator: int, order: Sequence[int], limits: tuple[str, str], edges: Sequence[Edge]
    ) -> tuple[dict[int, str], dict[int, str]]:
        """Locals with the bounds of the lanes along `iterator`, those that are needed."""
        before, behind = edges
        name = self.scope.iterator(iterator)
        near, far = order[0], order[-1]
        lows, highs = {near: ""}, {far: ""}
        if before.other:
            lows |= dict.fromkeys(order, "")
            highs |= dict.fromkeys(order[1:], "")
        if behind.other:
            lows |= dict.fromkeys(order[:-1], "")
            highs |= dict.fromkeys(order, "")
        if before.staircase and before.equal:
            lows[far] = ""
        if behind.staircase and behind.equal:
            highs[near] = ""
        saved = self.scope.iterators.get(iterator)
        for distance in sorted(lows.keys() | highs.keys()):
            self.scope.iterators[iterator] = f"({name} + {distance})" if distance else name
            low, high = solve_guard(guard, self.step_iterator, self.scope)
            if distance in lows:
                lows[distance] = self.local("low", fold("tg_max", [limits[0], low]))
            if distance in highs:
                highs[distance] = self.local("high", fold("tg_min", [limits[1], high]))
        if saved is None:
            del self.scope.iterators[iterator]
        else:
            self.scope.iterators[iterator] = saved
        return lows, highs

    def _prologue(
        self,
        edge: Edge,
        lows: Dictionary[int, str],
        highs: Dictionary[int, str],
        begin: str,
        groups: Sequence[Sequence[int]],
        order: Sequence[int],
        whole: str,
    ) -> None:
        """Terms in front of the common loop: group n has n of them where the lanes form a staircase."""
        size = len(order)
        name = self.scope.iterator(self.step_iterator)
        stairs = [
            ({self.step_iterator: t}, [lane for n in range(size - 1 - t, size) for lane in groups[n]])
            for t in range(size - 1)
        ]

        def staircase() -> None:
            self.fixed(self.step_iterator, f"{begin} - {size - 1}", in_guards=False)
            self.terms(self._with_complete(stairs))

        def other() -> None:
            for n, d in enumerate(order[1:], 1):
                with self.scoped(f"for (int {name} = {lows[d]}; {name} < tg_min({highs[d]}, {begin}); ++{name})"):
                    self.terms(self._with_complete([({self.step_iterator: 0}, groups[n])]))

        last = lows.get(order[-1], begin)
        self._edge(edge, f"{whole} && {begin} - {last} == {size - 1}", staircase, other)

    def _epilogue(
        self,
        edge: Edge,
        lows: Dictionary[int, str],
        highs: Dictionary[int, str],
        end: str,
        groups: Sequence[Sequence[int]],
        order: Sequence[int],
        whole: str,
    ) -> None:
        """Terms behind the common loop: the group at place n has one more than the one at n + 1."""
        size = len(order)
        name = self.scope.iterator(self.step_iterator)
        stairs = [
            ({self.step_iterator: t}, [lane for n in range(size - 1 - t) for lane in groups[n]])
            for t in range(size - 1)
        ]

        def staircase() -> None:
            self.fixed(self.step_iterator, end, in_guards=False)
            self.terms(self._with_complete(stairs))

        def other() -> None:
            for n, d in enumerate(order[:-1]):
                with self.scoped(f"for (int {name} = tg_max({lows[d]}, {end}); {name} < {highs[d]}; ++{name})"):
                    self.terms(self._with_complete([({self.step_iterator: 0}, groups[n])]))

        first = highs.get(order[0], end)
        self._edge(edge, f"{whole} && {first} - {end} == {size - 1}", staircase, other)

    def _with_complete(self, terms: Terms) -> Terms:
        """Every step with the steps of the complete reductions inside it."""
        inner = [{k: v for k, v in at.items() if k != self.stepped} for at in self.written(1)]
        return [(at | extra, sorted(lanes)) for at, lanes in terms for extra in inner]

    def _edge(self, edge: Edge, test: str, staircase: Callable[[], None], other: Callable[[], None]) -> None:
        if edge.staircase:
            with self.scoped(f"if ({test})" if edge.equal or edge.other else ""):
                staircase()
            if edge.other:
                with self.scoped("else"):
                    other()
        elif edge.other:
            other()

    def _bounds_at(self, guard: Guard, iterator: int, size: int, place: int) -> list[tuple[int, int]] | None:
        """The bounds of every lane where they are known now."""
        part = self.ranges[self.step_iterator].literal
        others = [g for g in self.nest.guards if g != guard and self.step_iterator in set(g.index.iterators())]
        if part is None or others:
            return None
        found = []
        for distance in range(size):
            solved = solve_at(guard, self.step_iterator, {iterator: place + distance})
            if solved is None:
                return None
            low = max(part[0], solved[0])
            found.append((low, min(part[1], solved[1])))
        return found

    def _edges(self, guard: Guard, iterator: int, size: int, places: Sequence[int] | None) -> tuple[Edge, Edge]:
        """What can happen before and behind the common loop, from all positions of the tile if they are known."""
        unit = abs(guard.index.coefficient(iterator)) == abs(guard.index.coefficient(self.step_iterator))
        known = [self._bounds_at(guard, iterator, size, place) for place in places] if places is not None else [None]
        if any(bounds is None for bounds in known):
            return Edge(staircase=unit), Edge(staircase=unit)
        kinds: tuple[set[str], set[str]] = (set(), set())
        for bounds in known:
            assert bounds is not None
            lows, highs = [low for low, _ in bounds], [high for _, high in bounds]
            whole = min(highs) >= max(lows)
            for kind, ends in zip(kinds, (lows, highs), strict=True):
                if len(set(ends)) == 1:
                    kind.add("equal")
                else:
                    kind.add("staircase" if unit and whole and max(ends) - min(ends) == size - 1 else "other")
        before, behind = (Edge("equal" in kind, "staircase" in kind, "other" in kind) for kind in kinds)
        return before, behind

    def _even(self, guard: Guard, iterator: int, size: int, places: Sequence[int] | None) -> bool:
        """Whether the common loop is always a multiple of the unrolled steps."""
        for place in places if places is not None else [None]:
            bounds = None if place is None else self._bounds_at(guard, iterator, size, place)
            if bounds is None:
                return False
            length = min(high for _, high in bounds) - max(low for low, _ in bounds)
            if max(length, 0) % self.unroll:
                return False
        return True
