"""What all forms of a loop nest share: loops with their guards, the division over the cores, invariant expressions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from tilegrad.codegen.c_expr import CScope
from tilegrad.codegen.guards import solve_guard
from tilegrad.codegen.writer import Chain, Range, Ranges, Writer, fold, offset, product
from tilegrad.ir.affine import Affine, Guard
from tilegrad.ir.expr import Expr, substitute, walk
from tilegrad.ir.graph import Nest, Result
from tilegrad.planning.mapping import Mapping

#: A parallel iterator and how many of its neighbours one pass of its loop computes.
Step = tuple[int, int]
#: What is added to some iterators.
Offsets = dict[int, int]


class NestWriter:
    """Writes one nest under one mapping.

    Attributes:
        nest: the nest; iterators of extent 1 are replaced by 0 in it.
        mapping: the structure of its loops.
        scope: where its tensors are.
        out: takes the lines.
        chain: given where its sums run over several tiles.
        ranges: what every iterator runs over; for a moment a section of that.
        pending: guards that no bound and no condition has dealt with yet.
        open: iterators whose values are known where lines are being written.
        roots: what is evaluated further inside: invariant parts of it are evaluated outside of loops.
        inside_roots: the same, but guards that are not among `pending` may remove reads of it.
        constants: the values of iterators that have no loop.
    """

    def __init__(
        self, nest: Nest, mapping: Mapping, scope: CScope, writer: Writer, ranges: Ranges, chain: Chain | None
    ) -> None:
        unit = {k: Affine() for k, extent in enumerate(nest.extents) if extent == 1 and k not in ranges}
        self.nest = _substituted(nest, unit) if unit else nest
        self.mapping, self.scope, self.out, self.chain = mapping, scope, writer, chain
        self.ranges = [ranges.get(k) or Range.whole(extent) for k, extent in enumerate(nest.extents)]
        self.pending = list(self.nest.guards)
        self.open: set[int] = set()
        self.roots: list[Expr] = []
        self.inside_roots: list[Expr] = []
        self.constants: Offsets = {}
        order = [k for k in mapping.order if k not in unit]
        self.parallel = [k for k in order if k < nest.parallel]
        self.reductions = [k for k in order if k >= nest.parallel]
        self.tile = [(k, size) for k, size in mapping.tile if k not in unit]
        self._iterators: dict[Expr, frozenset[int] | None] = {}
        self._in_guards = {i for guard in self.nest.guards for i in guard.index.iterators()}
        unguarded = replace(self.nest, guards=())
        self._in_indices = {i for row in unguarded.indices() for i in row.iterators()}
        if any(result.combiner == "argmax" for result in nest.results):
            self._in_indices |= set(self.reductions)

    # Loops and guards

    @contextmanager
    def scoped(self, head: str | None = None) -> Iterator[None]:
        """What is opened, settled and named inside is forgotten behind it; a braced block where `head` is given."""
        saved = list(self.pending), set(self.open), dict(self.scope.known)
        with self.out.block(head) if head is not None else nullcontext():
            yield
        self.pending, self.open, self.scope.known = saved

    def sections(self) -> Iterator[None]:
        """Set the ranges of the tile iterators to sections of whole blocks, one combination after the other."""
        whole = list(self.ranges)
        tile = list(self.tile)
        several = any(len(self.ranges[k].sections(size)) > 1 for k, size in tile)
        for parts in itertools.product(*(whole[k].sections(size) for k, size in tile)):
            self.ranges = list(whole)
            self.tile = [(k, size) for (k, _), (_, size) in zip(tile, parts, strict=True)]
            for (k, _), (part, _) in zip(tile, parts, strict=True):
                self.ranges[k] = part
            with self.scoped("" if several else None):
                yield
        self.ranges, self.tile = whole, tile

    def steps(self) -> list[Step]:
        """Loops over the parallel iterators, those of the register tile innermost."""
        tiled = dict(self.tile)
        return [*((k, 1) for k in self.parallel if k not in tiled), *self.tile]

    def loops(self, order: Sequence[Step], body: Callable[[], None], *, guarded: bool) -> None:
        """Nested loops over `order` around `body`; with `guarded`, guards become bounds and conditions on the way."""
        if not order:
            conditions = self.settle() if guarded else []
            if conditions:
                with self.scoped(f"if ({' && '.join(conditions)})"):
                    body()
            else:
                body()
            return
        self.hoist()
        (iterator, step), rest = order[0], order[1:]
        self.loop(iterator, step, lambda: self.loops(rest, body, guarded=guarded), guarded=guarded)

    def loop(
        self, iterator: int, step: int, body: Callable[[], None], *, guarded: bool, limits: Sequence[str] = ()
    ) -> None:
        """One loop; `limits` are its bounds on a core, in place of its range."""
        part = self.ranges[iterator]
        self.open.add(iterator)
        first, last = limits or (part.first, part.last)
        bound = [g for g in self.pending if guarded and set(g.index.iterators()) <= self.open]
        lower, upper, conditions = self.bounds(iterator, (first, last)) if bound else (first, last, [])
        name = self.scope.iterator(iterator)
        if not bound and not limits and part.count == step:
            with self.scoped(""):
                self.fixed(iterator, first)
                body()
            return
        advance = f"++{name}" if step == 1 else f"{name} += {step}"
        with self.scoped(f"for (int {name} = {lower}; {name} < {upper}; {advance})"):
            for condition in conditions:
                self.out.line(f"if (!{condition}) continue;")
            body()

    def fixed(self, iterator: int, value: str, *, in_guards: bool = True) -> None:
        """An iterator that has one value here; declared where an index or a guard still to be tested needs it."""
        if iterator in self._in_indices or (in_guards and iterator in self._in_guards):
            self.out.line(f"const int {self.scope.iterator(iterator)} = {value};")

    def divide(self, loops: Sequence[Step], body: Callable[[], None], *, guarded: bool) -> None:
        """Nested loops over parallel iterators, the outer ones divided over the cores of a team.

        A core's share is a range of the points of the divided loops, in their order. All but the last of them are
        merged into one loop; the last one stays a loop of its own, so that positions are computed once per pass of it.
        """
        count = min(self.mapping.divided, len(loops))
        divided, rest = loops[:count], loops[count:]
        if not self.mapping.team:
            self.loops(loops, body, guarded=guarded)
            return
        if not divided:
            with self.scoped("if (TG_CORE == 0)"):
                self.loops(rest, body, guarded=guarded)
            return
        self.hoist()

        def inner() -> None:
            self.loops(rest, body, guarded=guarded)

        if self.mapping.cyclic:
            self._turns(divided, inner, guarded=guarded)
            return
        iterator, step = divided[-1]
        blocks = self.ranges[iterator].blocks(step)
        if len(divided) == 1:
            limits = [self._place(iterator, step, f"{part}({blocks})") for part in ("TG_FIRST", "TG_LAST")]
            self.loop(iterator, step, inner, guarded=guarded, limits=limits)
            return
        self._shares(divided, blocks, inner, guarded=guarded)

    def _shares(self, divided: Sequence[Step], blocks: str, body: Callable[[], None], *, guarded: bool) -> None:
        """Several divided loops: the last one, of `blocks` blocks, inside a loop over the others."""
        counts = [self.ranges[k].blocks(step) for k, step in divided]
        total = product(counts)
        first, last, share = (self.scope.fresh(name) for name in ("first", "last", "share"))
        self.out.line(f"const int {first} = TG_FIRST({total}), {last} = TG_LAST({total});")
        start = f"{first} / {blocks if blocks.isdigit() else f'tg_max({blocks}, 1)'}"
        with self.scoped(f"for (int {share} = {start}; {share} * {blocks} < {last}; ++{share})"):
            self._decode(divided[:-1], share, guarded=guarded)
            self.hoist()
            iterator, step = divided[-1]
            begin, end = f"tg_max({first} - {share} * {blocks}, 0)", f"tg_min({last} - {share} * {blocks}, {blocks})"
            limits = [self._place(iterator, step, text) for text in (begin, end)]
            self.loop(iterator, step, body, guarded=guarded, limits=limits)

    def _turns(self, divided: Sequence[Step], body: Callable[[], None], *, guarded: bool) -> None:
        """Several divided loops as one whose passes the cores take in turns."""
        total = product([self.ranges[k].blocks(step) for k, step in divided])
        share = self.scope.fresh("share")
        with self.scoped(f"for (int {share} = TG_CORE; {share} < {total}; {share} += TG_CORES)"):
            self._decode(divided, share, guarded=guarded)
            body()

    def _decode(self, loops: Sequence[Step], share: str, *, guarded: bool) -> None:
        """The iterators of several loops from their common counter."""
        counts = [self.ranges[k].blocks(step) for k, step in loops]
        for place, (iterator, step) in enumerate(loops):
            inner = product(counts[place + 1 :])
            text = share if inner == "1" else f"{share} / {inner}"
            text = text if place == 0 else f"{text} % {counts[place]}"
            self.out.line(f"const int {self.scope.iterator(iterator)} = {self._place(iterator, step, text)};")
            self.open.add(iterator)
        for condition in self.settle() if guarded else []:
            self.out.line(f"if (!{condition}) continue;")

    def _place(self, iterator: int, step: int, block: str) -> str:
        """C text of the first element of a block."""
        if step != 1:
            block = f"{block} * {step}" if block.endswith(")") and "/" not in block else f"({block}) * {step}"
        return offset(self.ranges[iterator].first, block)

    def settle(self) -> list[str]:
        """Guards that depend on open iterators only and are not bounds of a loop: conditions."""
        ready = [g for g in self.pending if set(g.index.iterators()) <= self.open]
        self.pending = [g for g in self.pending if g not in ready]
        return [self._condition(guard) for guard in ready if not _trivial(guard)]

    def _condition(self, guard: Guard) -> str:
        return "(0)" if guard.index.is_constant else self.scope.guard(guard)

    def bounds(self, iterator: int, limits: Sequence[str] | None = None) -> tuple[str, str, list[str]]:
        """Bounds of the loop over `iterator`, just opened, and what has to be tested inside."""
        part = self.ranges[iterator]
        first, last = limits or (part.first, part.last)
        ready = [g for g in self.pending if set(g.index.iterators()) <= self.open]
        self.pending = [g for g in self.pending if g not in ready]
        lowers, uppers, conditions = [first], [last], []
        for guard in ready:
            if guard.index.lookups or not guard.index.coefficient(iterator):
                if not _trivial(guard):
                    conditions.append(self._condition(guard))
                continue
            low, high = solve_guard(guard, iterator, self.scope)
            lowers.append(low)
            uppers.append(high)
        return fold("tg_max", lowers), fold("tg_min", uppers), conditions

    # Expressions

    def at(self, expr: Expr, offsets: Offsets) -> Expr:
        """An expression at a neighbour."""
        moved = self._moved(offsets)
        return substitute(expr, moved) if moved else expr

    def index_at(self, index: Sequence[Affine], offsets: Offsets) -> list[Affine]:
        """An index at a neighbour."""
        moved = self._moved(offsets)
        return [row.substitute(moved) for row in index] if moved else list(index)

    def _moved(self, offsets: Offsets) -> dict[int, Affine]:
        moved = {k: Affine.iterator(k) + d for k, d in offsets.items() if d and k not in self.constants}
        return moved | {k: Affine((), value + offsets.get(k, 0)) for k, value in self.constants.items()}

    def lanes(self) -> list[Offsets]:
        """The elements of the register tile, as distances from its first one; the last iterator fastest."""
        ranges = [range(size) for _, size in self.tile]
        return [
            {k: distance for (k, _), distance in zip(self.tile, distances, strict=True)}
            for distances in itertools.product(*ranges)
        ]

    def element(self, result: Result, output: int, lane: Offsets) -> str:
        """C text of the element that a lane defines."""
        return self.scope.element(result.outputs[output], self.index_at(result.index, lane))

    def hoist(self) -> None:
        """Evaluate here what the inner loops do not change. Expressions have no effects, so when does not matter."""
        if not self.mapping.hoist:
            return
        # A read that its guard may remove stays where the guard has been tested.
        tested = not any(set(g.index.iterators()) <= self.open for g in self.pending)
        found = self._invariants(self.roots, tested) | self._invariants(self.inside_roots, tested=False)
        nodes = list(found)
        uses = self.scope.uses(nodes)
        for node in nodes:
            if node in self.scope.known:
                continue
            (text,) = self.scope.evaluate([node], self.out.line, uses)
            if node not in self.scope.known:
                self.scope.known[node] = self.scope.name(node, text, self.out.line)

    def _invariants(self, roots: Sequence[Expr], tested: bool) -> dict[Expr, None]:
        """The largest parts of expressions that can be evaluated here."""
        found: dict[Expr, None] = {}
        seen: set[Expr] = set()
        stack = list(reversed(roots))
        while stack:
            node = stack.pop()
            if node in seen or node in self.scope.known:
                continue
            seen.add(node)
            if not self._invariant(node, tested):
                stack.extend(reversed(node.args))
            elif node.op not in ("const", "index"):
                found[node] = None
        return found

    def _invariant(self, node: Expr, tested: bool) -> bool:
        """Whether a node has its final value here and may be evaluated."""
        iterators = self._depends(node)
        if iterators is None or not iterators <= self.open:
            return False
        return tested or all(x.op != "read" or self._inside(x) for x in walk(node))

    def _inside(self, read: Expr) -> bool:
        """Whether a read stays inside its tensor on the whole domain."""
        access = read.attr
        rows = zip(access.index, access.value.shape, strict=True)
        return all(Guard(row, 0, extent).always_holds(self.nest.extents) for row, extent in rows)

    def _depends(self, root: Expr) -> frozenset[int] | None:
        """The iterators that an expression depends on; None where it needs a finished accumulator."""
        for node in walk(root):
            if node in self._iterators:
                continue
            found: set[int] | None = set()
            if node.op == "acc":
                found = None
            elif node.op == "read":
                found = {i for row in node.attr.index for i in row.iterators()}
            elif node.op == "index":
                found = set(node.attr.iterators())
            for arg in node.args:
                inner = self._iterators[arg]
                found = None if inner is None or found is None else found | inner
            self._iterators[node] = None if found is None else frozenset(found)
        return self._iterators[root]


def _trivial(guard: Guard) -> bool:
    return guard.index.is_constant and guard.lower <= guard.index.constant < guard.upper


def _substituted(nest: Nest, mapping: dict[int, Affine]) -> Nest:
    """The nest with some iterators replaced; their extents stay."""
    results = tuple(
        replace(
            result.map_exprs(lambda expr: substitute(expr, mapping)),
            index=tuple(row.substitute(mapping) for row in result.index),
        )
        for result in nest.results
    )
    return replace(nest, guards=tuple(g.substitute(mapping) for g in nest.guards), results=results)
