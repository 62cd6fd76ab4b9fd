"""Sums over register tiles: a x b neighbouring elements share the operands that they load in every step.

Every element's terms keep their canonical order. Where a guard couples a tile iterator with the innermost reduction
(padding along the axis of a convolution), neighbours have different ranges of terms: those that only some of them have
come first, then a common loop, then again those of some. No bound is tested inside the common loop, and a term that
does not exist is never computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as Dictionary
from contextlib import contextmanager
from dataclasses import dataclass

from tilegrad.codegen.chains import ChainWriter
from tilegrad.codegen.guards import solve_at, solve_guard
from tilegrad.codegen.nest import Offsets
from tilegrad.codegen.pointers import RunningPointers, neighbourhoods
from tilegrad.codegen.writer import fold, offset
from tilegrad.ir.affine import Guard
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Result
from tilegrad.planning.interior import interior

#: Steps of a reduction: how far from its iterator, and which elements of the register tile have a term there.
Terms = Sequence[tuple[Offsets, Sequence[int]]]


@dataclass(frozen=True)
class _Edge:
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
class _Inside:
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


class ContractionWriter(ChainWriter):
    """Chains of terms for register tiles of elements."""

    def write(self) -> None:
        """Write the nest."""
        guarded = {i for guard in self.nest.guards for i in guard.index.iterators()}
        steps = {k: n for k, n in self.mapping.unroll if k in self.reductions}
        self.complete: list[int] = []
        for k in reversed(self.reductions):
            count = self.ranges[k].count
            if count is None or steps.get(k, 0) < count or k in guarded:
                break
            self.complete.insert(0, k)
        self.outer = self.reductions[: len(self.reductions) - len(self.complete)]
        self.stepped = self.outer.pop() if self.outer else None
        self.unroll = steps.get(self.stepped, 1) if self.stepped is not None else 1
        for k in self.complete:
            numbers = self.ranges[k].literal
            if numbers is not None:
                self.constants[k] = numbers[0]
        for _ in self.sections():
            self._list_roots()
            self.divide(self.steps(), self._tile, guarded=False)

    def _list_roots(self) -> None:
        lanes, results = self.lanes(), self.nest.results
        ends = [expr for result in results for expr in (result.start, result.final) if expr is not None]
        terms = [expr for result in results for expr in self.term(result)]
        self.term_roots = [self.at(e, lane | step) for step in self._written(1) for lane in lanes for e in terms]
        self.roots = [self.at(expr, lane) for expr in ends for lane in lanes] + self.term_roots
        self.inside_roots: list[Expr] = []
        if self.stepped is None:
            return
        part = self.ranges[self.stepped]
        coupled = [g for g in self.nest.guards if self._tile_iterator(g) is not None]
        written = part.literal is not None and part.count is not None and part.count <= self.unroll
        if written and len(coupled) == 1 and self._inside_tiles(coupled[0]).some:
            assert part.literal is not None and part.count is not None
            # Written out where no guard can fail: what is read there whatever the guards say can be read before.
            with self._constant(self.stepped, part.literal[0]):
                steps = self._written(part.count)
                self.inside_roots = [self.at(e, lane | step) for step in steps for lane in lanes for e in terms]

    @contextmanager
    def _constant(self, iterator: int, value: int) -> Iterator[None]:
        """An iterator has a known value."""
        self.constants[iterator] = value
        yield
        del self.constants[iterator]

    def _written(self, steps: int) -> list[Offsets]:
        """Offsets of `steps` steps of the stepped reduction, the complete ones inside, in canonical order."""
        ranges = [range(self.ranges[k].count or 0) for k in self.complete]
        inner = [dict(zip(self.complete, values, strict=True)) for values in itertools.product(*ranges)]
        if self.stepped is None:
            return inner
        return [{self.stepped: t} | at for t in range(steps) for at in inner]

    # One register tile

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
            coupled = [g for g in self.pending if self._tile_iterator(g) is not None]
            if not coupled:
                self._reduce(self._plain_terms)
            else:
                (guard,) = coupled  # the mapping has no tile iterator in a second one
                self._reduce_coupled(guard)
        self.store_all(lanes)

    def _reduce(self, innermost: Callable[[], None]) -> None:
        self.loops([(k, 1) for k in self.outer], innermost, guarded=True)

    def _tile_iterator(self, guard: Guard) -> int | None:
        """The iterator of the register tile that a guard depends on."""
        return next((k for k, size in self.tile if size > 1 and guard.index.coefficient(k)), None)

    def _reduce_coupled(self, guard: Guard) -> None:
        """The terms of tiles of which some lanes may lack some."""
        inside = self._inside_tiles(guard)
        self.pending.remove(guard)  # it is in the bounds of the lanes, or cannot fail
        if inside.all or self._part == "inside":
            self._reduce(self._plain_terms)
            return
        places = inside.places
        if places is not None and self._part == "border":
            places = [place for place in places if not inside.holds(place)]
        self._reduce(lambda: self._ragged(guard, inside.iterator, inside.size, places))

    #: Which tiles lines are being written for: those "inside", which no guard can cut, those in the "border", or all.
    _part = "all"

    def loop(
        self, iterator: int, step: int, body: Callable[[], None], *, guarded: bool, limits: Sequence[str] = ()
    ) -> None:
        """One loop; along an iterator with a border, one over the tiles inside and one over those in the border."""
        coupled = [g for g in self.pending if self._tile_iterator(g) == iterator]
        inside = self._inside_tiles(coupled[0]) if coupled else None
        if inside is None or inside.all or not inside.some:
            super().loop(iterator, step, body, guarded=guarded, limits=limits)
            return
        part = self.ranges[iterator]
        first, last = limits or (part.first, part.last)
        begin, end = self._inside_bounds(inside, part.first)
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
            self._part = "border"
            body()
        self._part = "all"

    def _inside_bounds(self, inside: _Inside, origin: str) -> tuple[str, str]:
        """C text of the position of the first tile inside, and of the one behind the last."""
        if inside.places is not None:
            places = list(filter(inside.holds, inside.places))
            return str(places[0]), str(places[-1] + inside.size)
        size = inside.size
        begin = self._local("begin", f"{origin} + tg_ceil_div(tg_max({inside.first} - {origin}, 0), {size}) * {size}")
        count = f"tg_max({inside.last} - {begin}, 0) / {size}"
        return begin, self._local("end", f"{begin} + {count} * {size}")

    def _inside_tiles(self, guard: Guard) -> _Inside:
        """Where the guard cannot fail for a whole tile."""
        iterator = self._tile_iterator(guard)
        assert iterator is not None
        size = dict(self.tile)[iterator]
        first, last = interior(guard, iterator, self.nest.extents)
        return _Inside(iterator, size, first, last, self._places(iterator, size))

    def _places(self, iterator: int, size: int) -> list[int] | None:
        """All positions of the tile along an iterator, or None where they are not known."""
        numbers = self.ranges[iterator].literal
        return None if numbers is None else list(range(numbers[0], numbers[1], size))

    # The innermost reduction

    def _plain_terms(self) -> None:
        """All lanes have the same terms."""
        lanes = range(len(self.lanes()))
        if self.stepped is None:
            self._straight(lanes, 1)
            return
        part = self.ranges[self.stepped]
        guards = [g for g in self.pending if self.stepped in set(g.index.iterators())]
        if any(g.index.lookups for g in guards):  # these are tested inside
            super().loop(self.stepped, 1, lambda: self._straight(lanes, 1), guarded=True)
            return
        if guards or part.count is None:
            self.open.add(self.stepped)
            lower, upper, _ = self.bounds(self.stepped)
            self._stepped_loop(lower, upper, lanes)
            return
        numbers = part.literal
        main = part.count // self.unroll * self.unroll
        if part.count <= self.unroll:
            main = 0
        name = self.scope.iterator(self.stepped)
        self.hoist()
        if main:
            stop = str(numbers[0] + main) if numbers is not None else f"{part.first} + {main}"
            advance = f"{name} += {self.unroll}" if self.unroll > 1 else f"++{name}"
            head = f"for (int {name} = {part.first}; {name} < {stop}; {advance})"
            with self._pointers(lanes, part.first, stop) as pointers, self._loop_head(head):
                self._straight(lanes, self.unroll)
                pointers.advance(self.unroll)
        if part.count == main:
            return
        if numbers is not None:
            with self._constant(self.stepped, numbers[0] + main), self.scoped():
                self._straight(lanes, part.count - main)
        else:
            with self.scoped(""):
                self.fixed(self.stepped, offset(part.first, str(main)))
                self._straight(lanes, part.count - main)

    def _stepped_loop(self, lower: str, upper: str, lanes: Sequence[int], *, even: bool = False) -> None:
        """A loop with bounds that are known at run time; `even` where the unrolled steps divide its length."""
        name = self.scope.iterator(self._step_iterator)
        if self.unroll == 1:
            head = f"for (int {name} = {lower}; {name} < {upper}; ++{name})"
            with self._pointers(lanes, lower, upper) as pointers, self._loop_head(head):
                self._straight(lanes, 1)
                pointers.advance(1)
            return
        end = upper if upper.isidentifier() else self._local("end", upper)
        with self.scoped(""):
            self.out.line(f"int {name} = {lower};")
            with self._pointers(lanes, name, end) as pointers:
                with self._loop_head(f"for (; {name} <= {end} - {self.unroll}; {name} += {self.unroll})"):
                    self._straight(lanes, self.unroll)
                    pointers.advance(self.unroll)
                if not even:
                    with self._loop_head(f"for (; {name} < {end}; ++{name})"):
                        self._straight(lanes, 1)
                        pointers.advance(1)

    @contextmanager
    def _pointers(self, lanes: Sequence[int], first: str, last: str) -> Iterator[RunningPointers]:
        """The pointers of the loop over the stepped reduction; none where its compiler needs no help."""
        tile = self.lanes()
        roots = [
            self.at(expr, tile[lane] | at)
            for at in self._written(self.unroll)
            for lane in lanes
            for result in self.nest.results
            for expr in self.term(result)
        ]
        found = neighbourhoods(roots, self.scope, self._step_iterator) if self.mapping.hoist else []
        pointers = RunningPointers(found, self._step_iterator, self.scope, self.out)
        # Only a loop that is entered has places to point to.
        empty = not (first.isdigit() and last.isdigit())
        with self.scoped((f"if ({first} < {last})" if empty else "") if found else None), pointers.declared(first):
            yield pointers

    @property
    def _step_iterator(self) -> int:
        assert self.stepped is not None
        return self.stepped

    @contextmanager
    def _loop_head(self, head: str) -> Iterator[None]:
        """An innermost loop that stays as long as it is written: the instruction cache has room for no more."""
        if self.mapping.hoist:
            self.out.line("TG_NO_UNROLL")
        with self.scoped(head):
            yield

    def _straight(self, lanes: Sequence[int], steps: int) -> None:
        self._terms([(at, lanes) for at in self._written(steps)])

    def _terms(self, terms: Terms) -> None:
        """Terms without loops, those of one step side by side."""
        tile, results = self.lanes(), self.nest.results

        def roots(at: Offsets, lanes: Sequence[int], result: Result) -> list[Expr]:
            return [self.at(expr, tile[lane] | at) for lane in lanes for expr in self.term(result)]

        with self.scoped():
            every = [e for at, lanes in terms for result in results for e in roots(at, lanes, result)]
            uses = self.scope.uses(every)
            # The terms of a maximum are all there before the first comparison: behind a branch, loads are waited for.
            named = {
                (r, step): self.name_terms(result, self.scope.evaluate(roots(at, lanes, result), self.out.line, uses))
                for step, (at, lanes) in enumerate(terms)
                for r, result in enumerate(results)
                if result.combiner in ("max", "argmax")
            }
            for step, (at, lanes) in enumerate(terms):
                for r, result in enumerate(results):
                    texts = named.get((r, step)) or self.scope.evaluate(roots(at, lanes, result), self.out.line, uses)
                    width = len(result.exprs)
                    for place, lane in enumerate(lanes):
                        mine = texts[place * width : (place + 1) * width]
                        self.combine(result, self.accumulator(r, lane), mine, tile[lane] | at)

    # Lanes with different ranges of terms

    def _ragged(self, guard: Guard, iterator: int, size: int, places: Sequence[int] | None) -> None:
        """The innermost reduction of a tile whose lanes along `iterator` have different bounds."""
        stepped = self._step_iterator
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
            end = self._local("end", f"tg_max({highs[order[-1]]}, {begin})")
            groups = {d: [n for n, lane in enumerate(tile) if lane.get(iterator, 0) == d] for d in range(size)}
            whole = f"{highs[order[-1]]} >= {begin}"
            self._prologue(edges[0], lows, highs, begin, [groups[d] for d in order], order, whole)
            self._stepped_loop(begin, end, range(len(tile)), even=self._even(guard, iterator, size, places))
            self._epilogue(edges[1], lows, highs, end, [groups[d] for d in order], order, whole)

    def _lane_bounds(
        self, guard: Guard, iterator: int, order: Sequence[int], limits: tuple[str, str], edges: Sequence[_Edge]
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
            low, high = solve_guard(guard, self._step_iterator, self.scope)
            if distance in lows:
                lows[distance] = self._local("low", fold("tg_max", [limits[0], low]))
            if distance in highs:
                highs[distance] = self._local("high", fold("tg_min", [limits[1], high]))
        if saved is None:
            del self.scope.iterators[iterator]
        else:
            self.scope.iterators[iterator] = saved
        return lows, highs

    def _local(self, prefix: str, text: str) -> str:
        name = self.scope.fresh(prefix)
        self.out.line(f"const int {name} = {text};")
        return name

    def _prologue(
        self,
        edge: _Edge,
        lows: Dictionary[int, str],
        highs: Dictionary[int, str],
        begin: str,
        groups: Sequence[Sequence[int]],
        order: Sequence[int],
        whole: str,
    ) -> None:
        """Terms in front of the common loop: group n has n of them where the lanes form a staircase."""
        size = len(order)
        name = self.scope.iterator(self._step_iterator)
        stairs = [
            ({self._step_iterator: t}, [lane for n in range(size - 1 - t, size) for lane in groups[n]])
            for t in range(size - 1)
        ]

        def staircase() -> None:
            self.fixed(self._step_iterator, f"{begin} - {size - 1}", in_guards=False)
            self._terms(self._with_complete(stairs))

        def other() -> None:
            for n, d in enumerate(order[1:], 1):
                with self.scoped(f"for (int {name} = {lows[d]}; {name} < tg_min({highs[d]}, {begin}); ++{name})"):
                    self._terms(self._with_complete([({self._step_iterator: 0}, groups[n])]))

        last = lows.get(order[-1], begin)
        self._edge(edge, f"{whole} && {begin} - {last} == {size - 1}", staircase, other)

    def _epilogue(
        self,
        edge: _Edge,
        lows: Dictionary[int, str],
        highs: Dictionary[int, str],
        end: str,
        groups: Sequence[Sequence[int]],
        order: Sequence[int],
        whole: str,
    ) -> None:
        """Terms behind the common loop: the group at place n has one more than the one at n + 1."""
        size = len(order)
        name = self.scope.iterator(self._step_iterator)
        stairs = [
            ({self._step_iterator: t}, [lane for n in range(size - 1 - t) for lane in groups[n]])
            for t in range(size - 1)
        ]

        def staircase() -> None:
            self.fixed(self._step_iterator, end, in_guards=False)
            self._terms(self._with_complete(stairs))

        def other() -> None:
            for n, d in enumerate(order[:-1]):
                with self.scoped(f"for (int {name} = tg_max({lows[d]}, {end}); {name} < {highs[d]}; ++{name})"):
                    self._terms(self._with_complete([({self._step_iterator: 0}, groups[n])]))

        first = highs.get(order[0], end)
        self._edge(edge, f"{whole} && {first} - {end} == {size - 1}", staircase, other)

    def _with_complete(self, terms: Terms) -> Terms:
        """Every step with the steps of the complete reductions inside it."""
        inner = [{k: v for k, v in at.items() if k != self.stepped} for at in self._written(1)]
        return [(at | extra, sorted(lanes)) for at, lanes in terms for extra in inner]

    def _edge(self, edge: _Edge, test: str, staircase: Callable[[], None], other: Callable[[], None]) -> None:
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
        part = self.ranges[self._step_iterator].literal
        others = [g for g in self.nest.guards if g != guard and self._step_iterator in set(g.index.iterators())]
        if part is None or others:
            return None
        found = []
        for distance in range(size):
            solved = solve_at(guard, self._step_iterator, {iterator: place + distance})
            if solved is None:
                return None
            low = max(part[0], solved[0])
            found.append((low, min(part[1], solved[1])))
        return found

    def _edges(self, guard: Guard, iterator: int, size: int, places: Sequence[int] | None) -> tuple[_Edge, _Edge]:
        """What can happen before and behind the common loop, from all positions of the tile if they are known."""
        unit = abs(guard.index.coefficient(iterator)) == abs(guard.index.coefficient(self._step_iterator))
        known = [self._bounds_at(guard, iterator, size, place) for place in places] if places is not None else [None]
        if any(bounds is None for bounds in known):
            return _Edge(staircase=unit), _Edge(staircase=unit)
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
        before, behind = (_Edge("equal" in kind, "staircase" in kind, "other" in kind) for kind in kinds)
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
