"""The innermost reduction of a register tile: a loop over steps, of which several may be written out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tilegrad.codegen.chains import ChainWriter, accumulate
from tilegrad.codegen.nest import Offsets
from tilegrad.codegen.pointers import RunningPointers, neighbourhoods
from tilegrad.codegen.writer import offset
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Result

#: Steps of a reduction: how far from its iterator, and which elements of the register tile have a term there.
Terms = Sequence[tuple[Offsets, Sequence[int]]]


class StepWriter(ChainWriter):
    """Terms of all elements of a register tile, step by step.

    Attributes:
        complete: the innermost reductions, if they are written out completely.
        outer: the reductions around the stepped one.
        stepped: the reduction whose loop is the innermost one, or None where all are written out.
        unroll: how many steps of it are written out.
    """

    complete: list[int]
    outer: list[int]
    stepped: int | None
    unroll: int

    def choose_steps(self) -> None:
        """Divide the reductions into those with loops and those that are written out."""
        guarded = {i for guard in self.nest.guards for i in guard.index.iterators()}
        steps = {k: n for k, n in self.mapping.unroll if k in self.reductions}
        self.complete = []
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

    @contextmanager
    def constant(self, iterator: int, value: int) -> Iterator[None]:
        """An iterator has a known value."""
        self.constants[iterator] = value
        yield
        del self.constants[iterator]

    def written(self, steps: int) -> list[Offsets]:
        """Offsets of `steps` steps of the stepped reduction, the complete ones inside, in canonical order."""
        ranges = [range(self.ranges[k].count or 0) for k in self.complete]
        inner = [dict(zip(self.complete, values, strict=True)) for values in itertools.product(*ranges)]
        if self.stepped is None:
            return inner
        return [{self.stepped: t} | at for t in range(steps) for at in inner]

    def plain_terms(self) -> None:
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
            self.stepped_loop(lower, upper, lanes)
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
            with self.constant(self.stepped, numbers[0] + main), self.scoped():
                self._straight(lanes, part.count - main)
        else:
            with self.scoped(""):
                self.fixed(self.stepped, offset(part.first, str(main)))
                self._straight(lanes, part.count - main)

    def stepped_loop(self, lower: str, upper: str, lanes: Sequence[int], *, even: bool = False) -> None:
        """A loop with bounds that are known at run time; `even` where the unrolled steps divide its length."""
        name = self.scope.iterator(self.step_iterator)
        if self.unroll == 1:
            head = f"for (int {name} = {lower}; {name} < {upper}; ++{name})"
            with self._pointers(lanes, lower, upper) as pointers, self._loop_head(head):
                self._straight(lanes, 1)
                pointers.advance(1)
            return
        end = upper if upper.isidentifier() else self.local("end", upper)
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
            for at in self.written(self.unroll)
            for lane in lanes
            for result in self.nest.results
            for expr in self.term(result)
        ]
        found = neighbourhoods(roots, self.scope, self.step_iterator) if self.mapping.hoist else []
        pointers = RunningPointers(found, self.step_iterator, self.scope, self.out)
        # Only a loop that is entered has places to point to.
        empty = not (first.isdigit() and last.isdigit())
        with self.scoped((f"if ({first} < {last})" if empty else "") if found else None), pointers.declared(first):
            yield pointers

    @property
    def step_iterator(self) -> int:
        """The stepped reduction, where there is one."""
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
        self.terms([(at, lanes) for at in self.written(steps)])

    def terms(self, terms: Terms) -> None:
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
                    if self.skips_zeros(result):
                        for lane, root in zip(lanes, roots(at, lanes, result), strict=True):
                            name = self.accumulator(r, lane)
                            line = f"{name} = {accumulate(result, ['{}'], name)};"
                            self.scope.selected.setdefault(root, []).append(line)
                for r, result in enumerate(results):
                    texts = named.get((r, step)) or self.scope.evaluate(roots(at, lanes, result), self.out.line, uses)
                    width = len(result.exprs)
                    for place, lane in enumerate(lanes):
                        mine = texts[place * width : (place + 1) * width]
                        if self.skips_zeros(result) and roots(at, [lane], result)[0] not in self.scope.selected:
                            continue  # it has been added where it is not zero
                        self.combine(result, self.accumulator(r, lane), mine, tile[lane] | at)
                self.scope.selected.clear()

    def local(self, prefix: str, text: str) -> str:
        """A new integer variable."""
        name = self.scope.fresh(prefix)
        self.out.line(f"const int {name} = {text};")
        return name
