"""Loop nests as C: which loop goes where, what is blocked, and how guards become loop bounds.

Every form evaluates the terms of one element in the canonical order of its nest; they differ only in the order of
elements. So the plain form is the bit oracle of the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Dictionary
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

from tilegrad.codegen.c_expr import CScope, add, format_sum, least, literal, local_type
from tilegrad.errors import InternalError
from tilegrad.ir.affine import Affine, Guard
from tilegrad.ir.expr import Expr, substitute
from tilegrad.ir.graph import Nest, Result, StructuredOp, Value
from tilegrad.planning.mapping import Mapping


class Writer:
    """Lines of C with indentation."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 1

    def line(self, text: str) -> None:
        """Append one line."""
        self.lines.append("    " * self.depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """A braced block."""
        self.line(f"{head} {{" if head else "{")
        self.depth += 1
        yield
        self.depth -= 1
        self.line("}")


@dataclass(frozen=True)
class Range:
    """The part of an iterator, or of an axis, that a tile covers.

    Attributes:
        first: C text of its first index.
        last: C text of the index behind its last.
        count: how many there are, where that is the same in every tile; else None.
        most: the most there are in any tile.
    """

    first: str
    last: str
    count: int | None
    most: int

    @staticmethod
    def whole(extent: int) -> Range:
        """All of it."""
        return Range("0", str(extent), extent, extent)

    @property
    def size(self) -> str:
        """C text of how many there are."""
        return str(self.count) if self.count is not None else f"({self.last} - {self.first})"


#: Ranges of the iterators that tiles cut, by position.
Ranges = Dictionary[int, Range]


@dataclass(frozen=True)
class Chain:
    """Sums that run over several tiles, the accumulators in the outputs between them.

    Attributes:
        start: C text of a condition: this is the first tile of the sum.
        end: C text of a condition: this is the last one.
    """

    start: str = "tg_start"
    end: str = "tg_end"


def write_op(
    op: StructuredOp,
    mappings: Sequence[Mapping],
    scope: CScope,
    writer: Writer,
    ranges: Sequence[Ranges] | None = None,
    chain: Chain | None = None,
    init_ranges: Dictionary[Value, Sequence[Range]] | None = None,
) -> None:
    """The body of the function that executes one operation, or one tile of it.

    Args:
        op: the operation.
        mappings: for every nest, the structure of its loops.
        scope: where its tensors are.
        writer: takes the lines.
        ranges: for every nest, the ranges of the iterators that tiles cut.
        chain: given where a tile cuts reduction iterators.
        init_ranges: for outputs with elements that no nest writes, the part along every axis that the tile writes.
    """
    team = any(mapping.team for mapping in mappings)
    if op.init is not None:
        with writer.block(f"if ({chain.start})") if chain is not None else nullcontext():
            for output in op.outputs:
                parts = (init_ranges or {}).get(output) or [Range.whole(extent) for extent in output.shape]
                _write_init(output, parts, literal(op.init, output.dtype), scope, writer, team)
        if team:
            writer.line("tg_barrier();")
    for position, (nest, mapping) in enumerate(zip(op.nests, mappings, strict=True)):
        found = ranges[position] if ranges is not None else {}
        with writer.block("") if len(op.nests) > 1 else nullcontext():  # every piece has accumulators of its own
            _NestWriter(nest, mapping, scope, writer, found, chain).write()


def _write_init(output: Value, parts: Sequence[Range], text: str, scope: CScope, writer: Writer, team: bool) -> None:
    """Fill the part of an output that belongs to the tile, its rows divided over the cores."""
    rows = " * ".join(part.size for part in parts[:-1]) or "1"
    place = scope.places[output]
    with ExitStack() as opened:
        if len(parts) > 1:
            first, last = (f"TG_FIRST({rows})", f"TG_LAST({rows})") if team else ("0", rows)
            opened.enter_context(writer.block(f"for (int row = {first}; row < {last}; ++row)"))
        elif team:
            opened.enter_context(writer.block("if (TG_CORE == 0)"))
        terms, inner = [], ""
        for axis in reversed(range(len(parts) - 1)):
            at = f"row{inner}" if axis == 0 else f"row{inner} % {parts[axis].size}"
            inner += f" / {parts[axis].size}"
            terms.append(f"({parts[axis].first} + {at}) * {place.strides[axis]}")
        if parts:
            head = f"for (int k = {parts[-1].first}; k < {parts[-1].last}; ++k)"
            opened.enter_context(writer.block(head))
            terms.append("k" if place.strides[-1] == 1 else f"k * {place.strides[-1]}")
        origin = f" - {place.origin}" if place.origin else ""
        writer.line(f"{place.pointer}[{' + '.join(terms) or '0'}{origin}] = {text};")


class _NestWriter:
    """Writes one nest under one mapping."""

    def __init__(
        self, nest: Nest, mapping: Mapping, scope: CScope, writer: Writer, ranges: Ranges, chain: Chain | None
    ) -> None:
        self.nest, self.mapping, self.scope, self.out, self.chain = nest, mapping, scope, writer, chain
        self.ranges = [ranges.get(k) or Range.whole(extent) for k, extent in enumerate(nest.extents)]
        self.pending = list(nest.guards)
        self.open: set[int] = set()

    def write(self) -> None:
        combiner = self.nest.results[0].combiner
        if self.nest.scatter:
            parallel = range(self.nest.parallel)
            reductions = range(self.nest.parallel, len(self.nest.extents))
            self._team([(k, 1) for k in parallel], lambda: self._loops(reductions, self._scatter), bounded=True)
        elif combiner == "assign":
            self._team([(k, 1) for k in self.mapping.order], self._assign, bounded=True)
        elif self.mapping.vector is not None:
            self._rows()
        else:
            self._chains()

    # Loops and guards

    def _loops(self, order: Sequence[int], body: object, *, bounded: bool = True) -> None:
        """Nested loops over `order`, the guards as bounds, around `body`."""
        assert callable(body)
        if not order:
            conditions = self._settle() if bounded else []
            if conditions:
                with self.out.block(f"if ({' && '.join(conditions)})"):
                    body()
            else:
                body()
            return
        iterator, rest = order[0], order[1:]
        self.open.add(iterator)
        lower, upper, conditions = self._bounds(iterator) if bounded else self._whole(iterator)
        name = self.scope.iterator(iterator)
        with self.out.block(f"for (int {name} = {lower}; {name} < {upper}; ++{name})"):
            for condition in conditions:
                self.out.line(f"if (!{condition}) continue;")
            self._loops(rest, body, bounded=bounded)

    def _whole(self, iterator: int) -> tuple[str, str, list[str]]:
        return self.ranges[iterator].first, self.ranges[iterator].last, []

    def _team(self, loops: Sequence[tuple[int, int]], body: object, *, bounded: bool) -> None:
        """Nested loops over parallel iterators with their steps, the outer ones divided over the cores of a team.

        The divided loops become one, so that the work divides evenly; their guards, where they bound loops at all, are
        tested inside.
        """
        assert callable(body)
        divided, rest = loops[: self.mapping.divided], loops[self.mapping.divided :]
        if self.mapping.team and not divided:
            with self.out.block("if (TG_CORE == 0)"):
                self._steps(rest, body, bounded=bounded)
            return
        if not divided:
            self._steps(rest, body, bounded=bounded)
            return
        counts = [_blocks(self.ranges[k], step) for k, step in divided]
        total = _product(counts)
        share = self.scope.fresh("share")
        with self.out.block(f"for (int {share} = TG_FIRST({total}); {share} < TG_LAST({total}); ++{share})"):
            for place, (iterator, step) in enumerate(divided):
                inner = _product(counts[place + 1 :])
                text = share if inner == "1" else f"{share} / {inner}"
                text = text if place == 0 else f"{text} % {counts[place]}"
                text = text if step == 1 else f"({text}) * {step}"
                first = self.ranges[iterator].first
                text = text if first == "0" else f"{first} + {text}"
                self.out.line(f"const int {self.scope.iterator(iterator)} = {text};")
                self.open.add(iterator)
            for condition in self._settle() if bounded else []:
                self.out.line(f"if (!{condition}) continue;")
            self._steps(rest, body, bounded=bounded)

    def _steps(self, loops: Sequence[tuple[int, int]], body: object, *, bounded: bool) -> None:
        """Nested loops over parallel iterators, the last one possibly in blocks."""
        assert callable(body)
        if loops and loops[-1][1] > 1:
            (iterator, step) = loops[-1]
            name = self.scope.iterator(iterator)

            def blocks() -> None:
                self.open.add(iterator)
                part = self.ranges[iterator]
                with self.out.block(f"for (int {name} = {part.first}; {name} < {part.last}; {name} += {step})"):
                    body()

            self._loops([k for k, _ in loops[:-1]], blocks, bounded=bounded)
            return
        self._loops([k for k, _ in loops], body, bounded=bounded)

    def _settle(self) -> list[str]:
        """Guards that depend on open iterators only and are not bounds of a loop: conditions."""
        ready = [g for g in self.pending if set(g.index.iterators()) <= self.open]
        self.pending = [g for g in self.pending if g not in ready]
        return [self.scope.guard(guard) for guard in ready]

    def _bounds(self, iterator: int) -> tuple[str, str, list[str]]:
        """Bounds of the loop over `iterator`, just opened, and what has to be tested inside."""
        ready = [g for g in self.pending if set(g.index.iterators()) <= self.open]
        self.pending = [g for g in self.pending if g not in ready]
        lowers, uppers, conditions = [self.ranges[iterator].first], [self.ranges[iterator].last], []
        for guard in ready:
            if guard.index.lookups or not guard.index.coefficient(iterator):
                conditions.append(self.scope.guard(guard))
                continue
            low, high = solve_guard(guard, iterator, self.scope)
            lowers.append(low)
            uppers.append(high)
        return _fold("tg_max", lowers), _fold("tg_min", uppers), conditions

    # Forms

    def _assign(self) -> None:
        for result in self.nest.results:
            (text,) = self.scope.evaluate(result.exprs, self.out.line)
            self.out.line(f"{self.scope.element(result.outputs[0], result.index)} = {text};")

    def _scatter(self) -> None:
        for result in self.nest.results:
            target = self.scope.element(result.outputs[0], result.index)
            terms = self.scope.evaluate(result.exprs, self.out.line)
            self.out.line(f"{target} = {_accumulate(result, terms, target)};")

    def _parallel_conditions(self) -> list[str]:
        """Guards that no reduction iterator occurs in: they decide whether there are terms at all."""
        return self._settle()

    def _chains(self) -> None:
        """One chain of additions per element; a block of elements side by side hides the latency of the chain."""
        parallel = [k for k in self.mapping.order if k < self.nest.parallel]
        reductions = [k for k in self.mapping.order if k >= self.nest.parallel]
        lanes = range(self.mapping.block_size)
        self._team(self._blocked(parallel), lambda: self._chain(reductions, lanes), bounded=False)

    def _blocked(self, parallel: Sequence[int]) -> list[tuple[int, int]]:
        """Loops over parallel iterators with their steps, the blocked one innermost."""
        block = self.mapping.block
        loops = [(k, 1) for k in parallel if k != block]
        return loops if block is None else [*loops, (block, self.mapping.block_size)]

    def _lane(self, expr: Expr, lane: int) -> Expr:
        if lane == 0 or self.mapping.block is None:
            return expr
        return substitute(expr, {self.mapping.block: Affine.iterator(self.mapping.block) + lane})

    def _lane_index(self, index: Sequence[Affine], lane: int) -> list[Affine]:
        if lane == 0 or self.mapping.block is None:
            return list(index)
        shift = {self.mapping.block: Affine.iterator(self.mapping.block) + lane}
        return [row.substitute(shift) for row in index]

    def _chain(self, reductions: Sequence[int], lanes: Sequence[int]) -> None:
        saved, opened = list(self.pending), set(self.open)
        names = [[f"acc{r}_{lane}" for lane in lanes] for r in range(len(self.nest.results))]
        for r, result in enumerate(self.nest.results):
            for lane in lanes:
                self._start(result, names[r][lane], lane)
        conditions = self._parallel_conditions()

        def step() -> None:
            for r, result in enumerate(self.nest.results):
                roots = [self._lane(expr, lane) for lane in lanes for expr in result.exprs]
                texts = self.scope.evaluate(roots, self.out.line)
                width = len(result.exprs)
                for lane in lanes:
                    self._combine(result, names[r][lane], texts[lane * width : (lane + 1) * width])

        if conditions:
            with self.out.block(f"if ({' && '.join(conditions)})"):
                self._loops(reductions, step)
        else:
            self._loops(reductions, step)
        for r, result in enumerate(self.nest.results):
            for lane in lanes:
                index = self._lane_index(result.index, lane)
                self._store(result, names[r][lane], lane, self.scope.element(result.outputs[0], index))
                if result.combiner == "argmax":
                    self.out.line(f"{self.scope.element(result.outputs[1], index)} = {names[r][lane]}_at;")
        self.pending, self.open = saved, opened

    def _store(self, result: Result, accumulator: str, lane: int, element: str) -> None:
        """Store a finished accumulator, or one that the next tile of its chain goes on with."""
        if result.final is None:
            self.out.line(f"{element} = {accumulator};")
            return
        if self.chain is not None:
            if result.final.dtype is not result.dtype:
                raise InternalError("a sum over several tiles is kept in an output of another type")
            self.out.line(f"{element} = {accumulator};")
        with self.out.block(f"if ({self.chain.end})") if self.chain is not None else nullcontext():
            self.scope.accumulator = accumulator
            (text,) = self.scope.evaluate([self._lane(result.final, lane)], self.out.line)
            self.out.line(f"{element} = {text};")

    def _start(self, result: Result, name: str, lane: int) -> None:
        dtype = result.dtype
        kind = local_type(dtype)
        index = self._lane_index(result.index, lane)
        if result.combiner in ("max", "argmax"):
            text = self._begin(least(dtype), result.outputs[0], index)
            self.out.line(f"{kind} {name} = {text};")
            if result.combiner == "argmax":
                self.out.line(f"int32_t {name}_at = {self._begin('-1', result.outputs[1], index)};")
            return
        text = literal(0, dtype)
        if result.start is not None:
            (text,) = self.scope.evaluate([self._lane(result.start, lane)], self.out.line)
        self.out.line(f"{kind} {name} = {self._begin(text, result.outputs[0], index)};")

    def _begin(self, text: str, output: Value, index: Sequence[Affine]) -> str:
        """What an accumulator begins with: in a later tile of its chain, what the one before has left."""
        return text if self.chain is None else f"{self.chain.start} ? {text} : {self.scope.element(output, index)}"

    def _combine(self, result: Result, name: str, terms: Sequence[str]) -> None:
        if result.combiner not in ("max", "argmax"):
            self.out.line(f"{name} = {_accumulate(result, terms, name)};")
            return
        term = self.scope.fresh("v")
        dtype = result.dtype
        self.out.line(f"const {local_type(dtype)} {term} = {terms[0]};")
        larger = f"{term} > {name}"
        if dtype.is_float:
            larger += f" || ({term} != {term} && {name} == {name})"
        if result.combiner == "max":
            self.out.line(f"{name} = ({larger}) ? {term} : {name};")
            return
        position = self.scope.affine(_position(self.nest))
        with self.out.block(f"if ({larger} || {name}_at < 0)"):
            self.out.line(f"{name} = {term};")
            self.out.line(f"{name}_at = {position};")

    def _rows(self) -> None:
        """Rows of accumulators: the innermost loop runs over a parallel iterator with unit stride.

        The row is cut into tiles that stay in registers, where no guard can fail, and border rows, where the guards are
        the bounds of the innermost loop, so that terms outside are never executed.
        """
        vector = self.mapping.vector
        assert vector is not None
        outer = [k for k in self.mapping.order if k < self.nest.parallel and k != vector]
        lanes = range(self.mapping.block_size)
        self._team(self._blocked(outer), lambda: self._sections(vector, lanes), bounded=False)

    def _sections(self, vector: int, lanes: Sequence[int]) -> None:
        """Border, tiles and border of one row."""
        extent, width = self.nest.extents[vector], self.mapping.width
        part = self.ranges[vector]
        if part.first != "0" or part.count != extent:
            self._row(vector, lanes, 0, part.most, part=part)
            return
        first, last = self._interior(vector)
        tiles = max(last - first, 0) // width
        if not tiles:
            self._row(vector, lanes, 0, extent)
            return
        stop = first + tiles * width
        if first:
            with self.out.block(""):
                self._row(vector, lanes, 0, first)
        name = self.scope.iterator(vector)
        saved = self.pending
        self.pending = [g for g in self.pending if vector not in set(g.index.iterators())]
        with self.out.block(f"for (int {name}_0 = {first}; {name}_0 < {stop}; {name}_0 += {width})"):
            self._row(vector, lanes, 0, width, offset=f"{name}_0")
        self.pending = saved
        if stop < extent:
            with self.out.block(""):
                self._row(vector, lanes, stop, extent)

    def _interior(self, vector: int) -> tuple[int, int]:
        """The range of an iterator in which its guards hold wherever the other iterators are."""
        first, last = 0, self.nest.extents[vector]
        for guard in self.nest.guards:
            if vector not in set(guard.index.iterators()):
                continue
            bounds = interior(guard, vector, self.nest.extents)
            first, last = max(first, bounds[0]), min(last, bounds[1])
        return first, last

    def _row(
        self, vector: int, lanes: Sequence[int], first: int, stop: int, *, offset: str = "", part: Range | None = None
    ) -> None:
        """One row of accumulators for the elements [first, stop) of the vector iterator, shifted by `offset`.

        With `part`, for the elements of a tile, of which there are at most `stop`.
        """
        saved, opened = list(self.pending), set(self.open)
        (result,) = self.nest.results
        name = self.scope.iterator(vector)
        lane_name = f"{name}_1" if offset else name
        size = stop - first
        rows = [f"row{lane}" for lane in lanes]
        if offset:
            self.scope.iterators[vector] = f"({offset} + {lane_name})"
        begin, end = (str(first), str(stop)) if part is None else (part.first, part.last)
        whole = f"for (int {lane_name} = {begin}; {lane_name} < {end}; ++{lane_name})"
        place = lane_name if begin == "0" else f"{lane_name} - {begin}"
        for row in rows:
            self.out.line(f"float {row}[{size}];")
        with self.out.block(whole):
            for lane, row in zip(lanes, rows, strict=True):
                text = "0.0f"
                if result.start is not None:
                    (text,) = self.scope.evaluate([self._lane(result.start, lane)], self.out.line)
                index = self._lane_index(result.index, lane)
                self.out.line(f"{row}[{place}] = {self._begin(text, result.outputs[0], index)};")
        limits = None if part is not None else (first, stop)
        self._row_terms(vector, lanes, [f"{row}[{place}]" for row in rows], limits, lane_name)
        with self.out.block(whole):
            for lane, row in zip(lanes, rows, strict=True):
                element = self.scope.element(result.outputs[0], self._lane_index(result.index, lane))
                self._store(result, f"{row}[{place}]", lane, element)
        self.scope.iterators.pop(vector, None)
        self.pending, self.open = saved, opened

    def _row_terms(
        self, vector: int, lanes: Sequence[int], targets: Sequence[str], limits: tuple[int, int] | None, lane_name: str
    ) -> None:
        """The loops over the reduction iterators around the loop over the lanes of a row."""
        reductions = [k for k in self.mapping.order if k >= self.nest.parallel]
        (result,) = self.nest.results
        on_vector = [g for g in self.pending if vector in set(g.index.iterators())]
        self.pending = [g for g in self.pending if g not in on_vector]
        conditions = self._settle()

        def terms() -> None:
            roots = [self._lane(expr, lane) for lane in lanes for expr in result.exprs]
            texts = self.scope.evaluate(roots, self.out.line)
            for lane, target in zip(lanes, targets, strict=True):
                mine = texts[lane * len(result.exprs) : (lane + 1) * len(result.exprs)]
                self.out.line(f"{target} = {_accumulate(result, mine, target)};")

        def inner() -> None:
            self.pending = self.pending + on_vector
            self.open.add(vector)
            lower, upper, tests = self._bounds(vector)
            assert not tests
            if limits is None:
                with self.out.block(f"for (int {lane_name} = {lower}; {lane_name} < {upper}; ++{lane_name})"):
                    terms()
                return
            whole = f"for (int {lane_name} = {limits[0]}; {lane_name} < {limits[1]}; ++{lane_name})"
            if not on_vector:
                with self.out.block(whole):
                    terms()
                return
            # A whole row with literal bounds is what vector units like; most rows are whole.
            self.out.line(f"const int first = {_clamp('tg_max', lower, limits[0])};")
            self.out.line(f"const int last = {_clamp('tg_min', upper, limits[1])};")
            counter = self.scope.counter
            with self.out.block(f"if (first == {limits[0]} && last == {limits[1]})"), self.out.block(whole):
                terms()
            self.scope.counter = counter
            with (
                self.out.block("else"),
                self.out.block(f"for (int {lane_name} = first; {lane_name} < last; ++{lane_name})"),
            ):
                terms()

        if conditions:
            with self.out.block(f"if ({' && '.join(conditions)})"):
                self._loops(reductions, inner)
        else:
            self._loops(reductions, inner)


def _clamp(function: str, text: str, limit: int) -> str:
    return text if text == str(limit) else f"{function}({text}, {limit})"


def interior(guard: Guard, iterator: int, extents: Sequence[int]) -> tuple[int, int]:
    """Where a guard without lookups holds for every value of the other iterators: first, and one past the last."""
    index, lower, upper = guard.index, guard.lower, guard.upper
    coefficient = index.coefficient(iterator)
    if coefficient < 0:
        index, lower, upper, coefficient = -index, 1 - upper, 1 - lower, -coefficient
    rest = (index - Affine.iterator(iterator) * coefficient).interval(extents)
    assert rest is not None
    return -(-(lower - rest[0]) // coefficient), -(-(upper - rest[1]) // coefficient)


def solve_guard(guard: Guard, iterator: int, scope: CScope) -> tuple[str, str]:
    """Bounds that a guard without lookups sets for one iterator: smallest value, and one above the largest."""
    index, lower, upper = guard.index, guard.lower, guard.upper
    coefficient = index.coefficient(iterator)
    if coefficient < 0:
        index, lower, upper, coefficient = -index, 1 - upper, 1 - lower, -coefficient
    terms = [(scope.iterator(i), -c) for i, c in index.terms if i != iterator]
    texts = [format_sum(terms, limit - index.constant) for limit in (lower, upper)]
    if coefficient == 1:
        return texts[0], texts[1]
    return f"tg_ceil_div({texts[0]}, {coefficient})", f"tg_ceil_div({texts[1]}, {coefficient})"


def _blocks(part: Range, step: int) -> str:
    """C text of how many blocks of `step` elements there are."""
    if part.count is not None:
        return str(part.count // step)
    return part.size if step == 1 else f"({part.size} / {step})"


def _product(counts: Sequence[str]) -> str:
    """C text of a product, its literal factors multiplied."""
    fixed = math.prod(int(count) for count in counts if count.isdigit())
    texts = [count for count in counts if not count.isdigit()]
    if not texts:
        return str(fixed)
    text = " * ".join([str(fixed), *texts] if fixed != 1 else texts)
    return f"({text})" if len(texts) > 1 or fixed != 1 else text


def _fold(function: str, texts: Sequence[str]) -> str:
    result = texts[0]
    for text in texts[1:]:
        result = f"{function}({result}, {text})"
    return result


def _accumulate(result: Result, terms: Sequence[str], accumulator: str) -> str:
    if result.combiner == "dot":
        return f"__builtin_fmaf({terms[0]}, {terms[1]}, {accumulator})"
    return add(accumulator, terms[0], result.dtype)


def _position(nest: Nest) -> Affine:
    """The row-major position of a term among the reduction iterators."""
    position, step = Affine(), 1
    for iterator in reversed(range(nest.parallel, len(nest.extents))):
        position = position + Affine.iterator(iterator) * step
        step *= nest.extents[iterator]
    return position


def written_values(op: StructuredOp) -> list[Value]:
    """The tensors an operation writes."""
    return list(op.outputs)
