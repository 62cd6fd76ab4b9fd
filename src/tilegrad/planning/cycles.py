"""How many cycles a nest takes on a target's cores, from its indexing maps: what loop structures are ranked by.

The machine is taken to be a team of simple cores: one instruction a cycle, float units that several cores share, a
small instruction cache. The constants were fitted to kernels on the simulated cluster, with
`benchmarks/cluster_kernels.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tilegrad.ir.affine import Guard
from tilegrad.ir.expr import Expr, walk
from tilegrad.ir.graph import Nest, Result
from tilegrad.planning.identities import branch_of, floor_of, lazy_parts
from tilegrad.planning.interior import interior
from tilegrad.targets.base import Target
from tilegrad.transforms.inline import linear_index

#: Cycles to call a kernel and to meet at the barrier behind it.
CALL_CYCLES = 80.0
#: Cycles around the body of a loop: compare, taken branch, advance of the pointers.
LOOP_CYCLES = 5.0
#: Cycles to enter a loop: its bounds and pointers.
ENTER_CYCLES = 6.0
#: Cycles to begin a pass of a divided loop: positions and bounds.
ROW_CYCLES = 25.0
#: Instructions that stay in the private instruction cache.
CACHE_INSTRUCTIONS = 120
#: Cycles to fetch an instruction from behind it.
MISS_CYCLES = 1.0
#: How many instructions are fetched for each that is too many.
MISS_GROWTH = 2.2
#: How often the cheap test of a select holds.
BRANCH_TAKEN = 0.3
#: Float registers for accumulators and operands.
REGISTERS = 31
#: Cores that share a float unit wait for each other: for this part of the unit's time, and this part of their
#: instructions, where all loads come before all arithmetic; then where loads stand between the arithmetic.
TURNS = (0.12, 0.05)
COLLISIONS = (0.0, 0.2)
#: Cycles for a value that finds no register: store, load and the wait for it.
SPILL_CYCLES = 3.0
#: Bytes that the offsets of loads from one pointer reach.
REACH = 4000
#: Instructions for a load that needs a pointer of its own.
OWN_POINTER = 3.0

#: Instructions of an operation; 1 where nothing is said.
_INSTRUCTIONS = {
    "const": 0.0, "index": 1.0, "acc": 0.0, "read": 1.0, "select": 2.5, "abs": 1.0, "neg": 1.0,
    "exp": 40.0, "expm1": 60.0, "log": 45.0, "log1p": 60.0, "tanh": 60.0, "erf": 60.0, "sin": 60.0, "cos": 60.0,
    "pow": 120.0, "philox": 120.0, "floor": 10.0, "ceil": 10.0, "round": 10.0, "trunc": 8.0,
}  # fmt: skip
#: Cycles of operations of which the machine does one at a time.
_SERIAL = {"div": 14.0, "sqrt": 14.0}
_INTEGER = ("const", "index", "acc", "read", "select", "and", "or", "xor", "not", "shl", "shr", "cast", "neg", "abs")
#: Instructions to take up a term.
_COMBINE = {"assign": 0.0, "sum": 1.0, "dot": 1.0, "max": 5.0, "argmax": 5.0}
#: Of these, those that need a float unit.
_FLOAT_COMBINE = {"assign": 0.0, "sum": 1.0, "dot": 1.0, "max": 2.0, "argmax": 1.6}


@dataclass(frozen=True, slots=True)
class _Node:
    """An operation of the body.

    Attributes:
        iterators: what it depends on.
        instructions: of one evaluation.
        floats: of these, those that need a float unit.
        serial: cycles in the one unit that all cores share.
        strides: for a read, its distance in elements along each iterator.
        dormant: instructions that are there and mostly not executed.
    """

    iterators: frozenset[int]
    instructions: float
    floats: float
    serial: float
    strides: Mapping[int, int] | None
    dormant: float = 0.0


class Model:
    """What the cycles of one nest depend on.

    Args:
        nest: the nest.
        target: the machine.
    """

    def __init__(self, nest: Nest, target: Target) -> None:
        self.nest, self.cores = nest, target.cores
        peak = target.multiply_adds_per_cycle
        self.shared = max(target.cores / peak, 1.0) if peak else 1.0
        self.combine = sum(_COMBINE[result.combiner] for result in nest.results)
        self.float_combine = sum(_FLOAT_COMBINE[result.combiner] for result in nest.results if result.dtype.is_float)
        self.results = len(nest.results) + sum(1 for result in nest.results if result.combiner == "argmax")
        terms = [expr for result in nest.results for expr in _term(result)]
        finals = [result.final for result in nest.results if result.final is not None]
        starts = [result.start for result in nest.results if result.start is not None]
        self.terms = _nodes(terms)
        self.ends = _nodes([*starts, *finals])
        self.final_operations = [float(sum(1 for node in walk(expr) if node.args)) for expr in finals]
        self.parallel = [k for k in range(nest.parallel) if nest.extents[k] > 1]
        self.reductions = [k for k in range(nest.parallel, len(nest.extents)) if nest.extents[k] > 1]
        self.stepped = frozenset(self.reductions[-1:])
        self.guarded = frozenset(i for guard in nest.guards for i in guard.index.iterators())
        self.kept = math.prod(_kept(g, nest.extents) for g in nest.guards if self.stepped & set(g.index.iterators()))

    def cycles(
        self, sizes: Sequence[int], tile: Sequence[tuple[int, int]], unroll: Mapping[int, int], divided: int | None
    ) -> float:
        """Estimated cycles of one call.

        Args:
            sizes: elements of every iterator.
            tile: the register tile: parallel iterators with the elements side by side.
            unroll: for the innermost reductions, how many steps are written out.
            divided: how many of the outermost parallel loops the cores share; None for all.
        """
        total = CALL_CYCLES if self.cores > 1 else 0.0
        sections: list[list[tuple[int, int, int]]] = [[]]
        for k, size in tile:
            parts = [(k, size, sizes[k] // size)] if sizes[k] >= size else []
            if sizes[k] % size:
                parts.append((k, sizes[k] % size, 1))
            sections = [[*before, part] for before in sections for part in parts]
        inside = {k for k, _ in tile}
        outer = [sizes[k] for k in self.parallel if k not in inside]
        for section in sections:
            loops = [*outer, *(count for _, _, count in section)]
            if 0 in loops:
                continue
            shape = {k: size for k, size, _ in section}
            each = self._tile_cycles(sizes, shape, unroll)
            row = loops[-1] if loops else 1
            if divided is None or divided >= len(loops):
                most = -(-math.prod(loops) // self.cores)
            else:
                most = -(-math.prod(loops[:divided]) // self.cores) * math.prod(loops[divided:])
            total += most * each + (most / row + 1) * ROW_CYCLES
        return total

    def _tile_cycles(self, sizes: Sequence[int], shape: Mapping[int, int], unroll: Mapping[int, int]) -> float:
        """Cycles of one register tile on one core, the mean of those inside and those in the border."""
        coupled = self._coupled(shape)
        if coupled is None:
            return self._version(sizes, shape, unroll, self.guarded, border=False)
        _, part = coupled
        inside = self._version(sizes, shape, unroll, self.guarded - self.stepped, border=False) if part else 0.0
        outside = self._version(sizes, shape, unroll, self.guarded, border=True) if part < 1 else 0.0
        return part * inside + (1 - part) * outside

    def _coupled(self, shape: Mapping[int, int]) -> tuple[int, float] | None:
        """The iterator of the tile that a guard couples with the innermost reduction, and the part of tiles inside."""
        for guard in self.nest.guards:
            for k, size in shape.items():
                if size > 1 and guard.index.coefficient(k) and not guard.index.lookups:
                    first, last = interior(guard, k, self.nest.extents)
                    extent = self.nest.extents[k]
                    first, last = max(first, 0), min(last, extent)
                    tiles = max((last // size) - -(-first // size), 0)
                    return k, tiles * size / max(extent, 1)
        return None

    def _version(
        self, sizes: Sequence[int], shape: Mapping[int, int], unroll: Mapping[int, int], guarded: frozenset[int],
        *, border: bool,
    ) -> float:  # fmt: skip
        """Cycles of a register tile: for the innermost reduction, guards count where it is among `guarded`."""
        lanes = lanes_of(shape)
        complete = []
        for k in reversed(self.reductions):
            if unroll.get(k, 0) < sizes[k] or k in guarded:
                break
            complete.append(k)
        loops = self.reductions[: len(self.reductions) - len(complete)]
        stepped = loops[-1] if loops else None
        steps = min(unroll.get(stepped, 1), max(sizes[stepped], 1)) if stepped is not None else 1
        inner = {k: sizes[k] for k in complete} | ({stepped: steps} if stepped is not None else {})
        written = math.prod(inner.values())

        once, body = _Count(), _Count()
        # Without a loop inside, what neighbouring tiles share is evaluated outside of the loop over them.
        moving = frozenset([list(shape)[-1]] if shape else self.parallel[-1:])
        for node in self.terms:
            if stepped is None and not node.iterators & moving and self.parallel:
                body.registers += 0.0 if node.strides is None else float(_distinct(node, shape, inner))
            elif node.iterators & inner.keys() or not self.reductions:
                body.add(node, shape, inner)
            elif node.iterators & shape.keys():
                once.add(node, shape, {})
        for node in self.ends:
            if node.iterators & moving:
                once.add(node, shape, {})
        for op in self.final_operations:
            once.instructions += lanes * op
            once.floats += lanes * op
        once.instructions += lanes * self.results * (1.0 if stepped is None else 2.0)
        body.instructions += self.combine * lanes * written
        body.floats += self.float_combine * lanes * written
        accumulators = lanes * len(self.nest.results) if self.reductions else 0
        body.instructions += SPILL_CYCLES * max(accumulators + body.registers + once.registers - REGISTERS, 0.0)
        if stepped is None:
            once.instructions += body.instructions
            once.dormant += body.dormant
            once.floats += body.floats
            once.serial += body.serial
            return self._straight(once, mixed=False, control=LOOP_CYCLES + 1.0 * len(self.nest.results))
        return self._looped(sizes, shape, loops, steps, once, body, guarded, border=border, mixed=written > 1)

    def _looped(
        self, sizes: Sequence[int], shape: Mapping[int, int], loops: Sequence[int], steps: int, once: _Count,
        body: _Count, guarded: frozenset[int], *, border: bool, mixed: bool,
    ) -> float:  # fmt: skip
        """Cycles of a register tile with loops over reductions, of which `steps` are written out."""
        stepped = loops[-1]
        outer = math.prod(sizes[k] for k in loops[:-1])
        dynamic = stepped in guarded
        count = sizes[stepped] * (self.kept if dynamic else 1.0)
        per_step = self._straight(body, mixed, LOOP_CYCLES) / steps
        run, code = count * per_step, body.instructions + body.dormant
        if border:
            size = max(shape.values())
            # In the border some lanes go on alone: half of a step for each.
            count -= size / 2
            run = max(count, 0.0) * per_step + 15.0 + (size - 1) * (0.5 * per_step + 3.0)
            code += 0.6 * size * lanes_of(shape)
        elif dynamic:
            run += ENTER_CYCLES
        if dynamic and steps > 1:
            run += (steps - 1) / 2 * (0.5 * per_step + LOOP_CYCLES)
            code *= 1.5
        elif sizes[stepped] % steps:
            code *= 1 + (sizes[stepped] % steps) / steps
        if outer > 1:
            run += _misses(code)
        refill = 0.7 * _misses(code + once.instructions + once.dormant)
        return self._straight(once, mixed=True) + outer * (run + ENTER_CYCLES) + LOOP_CYCLES + refill

    def _straight(self, count: _Count, mixed: bool, control: float = 0.0) -> float:
        """Cycles of code without loops; `mixed` where loads stand between the arithmetic."""
        instructions = count.instructions + _misses(count.instructions + count.dormant) + control
        unit = count.floats * self.shared
        if self.shared > 1:
            waits = COLLISIONS if mixed else TURNS
            unit += waits[0] * unit + waits[1] * instructions
        return max(instructions * 1.03, unit) + count.serial * self.cores


class _Count:
    """Instructions of a piece of code."""

    def __init__(self) -> None:
        self.instructions = self.floats = self.serial = self.dormant = 0.0
        self.registers = 0.0

    def add(self, node: _Node, shape: Mapping[int, int], inner: Mapping[int, int]) -> None:
        """Count the distinct evaluations of a node in a register tile."""
        times = float(_distinct(node, shape, inner))
        self.instructions += times * node.instructions
        self.dormant += times * node.dormant
        if node.strides is not None and inner:
            far = [k for k, size in shape.items() if 4 * abs(node.strides.get(k, 0)) * (size - 1) > REACH]
            self.instructions += (OWN_POINTER - 1) * math.prod(shape[k] for k in far) if far else 1.0
        self.floats += times * node.floats
        self.serial += times * node.serial
        if node.strides is not None:
            self.registers += times  # compilers load as early as they can


def _misses(instructions: float) -> float:
    """Cycles to fetch the code of a loop in every pass: replacement is random, so a little too much is a lot."""
    beyond = max(instructions - CACHE_INSTRUCTIONS, 0.0)
    return min(MISS_GROWTH * beyond, instructions) * MISS_CYCLES


def lanes_of(shape: Mapping[int, int]) -> int:
    """Elements of a register tile."""
    return math.prod(shape.values())


def _term(result: Result) -> tuple[Expr, ...]:
    """What is evaluated for a term: maxima take terms that are cut off from below as they are."""
    bound = floor_of(result.exprs[0]) if result.combiner in ("max", "argmax") else None
    return result.exprs if bound is None else (bound[0],)


def _distinct(node: _Node, shape: Mapping[int, int], inner: Mapping[int, int]) -> int:
    """How many different values a node has over a register tile and some steps."""
    sizes = [(k, size) for k, size in (*shape.items(), *inner.items()) if k in node.iterators and size > 1]
    if node.strides is None or len(sizes) < 2:
        return math.prod(size for _, size in sizes)
    # Iterators that move a read by the same distance meet the same elements: the window of a convolution.
    spans: dict[int, int] = {}
    for k, size in sizes:
        stride = abs(node.strides.get(k, 0)) or -k - 1
        spans[stride] = spans.get(stride, 1) + size - 1
    return math.prod(spans.values())


def _nodes(roots: Sequence[Expr]) -> list[_Node]:
    found: list[_Node] = []
    depends: dict[Expr, frozenset[int]] = {}
    always = _always(roots)
    for node in walk(*roots):
        iterators = frozenset(i for arg in node.args for i in depends[arg])
        strides = None
        if node.op == "read":
            flat = linear_index(node.attr.value, node.attr.index)
            iterators, strides = frozenset(flat.iterators()), dict(flat.terms)
        elif node.op == "index":
            iterators = frozenset(node.attr.iterators())
        depends[node] = iterators
        is_float = bool(node.args) and node.args[0].dtype.is_float and node.op not in _INTEGER
        serial = _SERIAL.get(node.op, 0.0) if node.dtype.is_float else 0.0
        instructions = _INSTRUCTIONS.get(node.op, 1.0)
        part = 1.0 if node in always else BRANCH_TAKEN
        dormant = instructions * (1.0 - part)
        instructions, serial = instructions * part, serial * part
        if instructions or serial:
            floats = (instructions / 2 if instructions > 8 else 1.0) if is_float and not serial else 0.0
            found.append(_Node(iterators, instructions, floats * part, serial, strides, dormant))
    return found


def _always(roots: Sequence[Expr]) -> set[Expr]:
    """The nodes that are evaluated whatever cheap tests say."""
    lazy = lazy_parts(roots)
    found: set[Expr] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found.add(node)
        branch = branch_of(node) if node in lazy else None
        stack.extend(node.args if branch is None else [*branch.cheap, *lazy[node]])
    return found


def _kept(guard: Guard, extents: Sequence[int]) -> float:
    """The part of the box that satisfies a guard, its values taken to be spread evenly over two iterators."""
    if guard.index.lookups or not guard.index.terms:
        return 1.0
    terms = sorted(guard.index.terms, key=lambda term: -extents[term[0]])
    first, coefficient = terms[0]
    rest = terms[1] if len(terms) > 1 else (None, 0)
    inside = points = 0
    for step in range(min(extents[rest[0]], 64) if rest[0] is not None else 1):
        base = guard.index.constant + rest[1] * step
        low, high = guard.lower - base, guard.upper - base
        if coefficient < 0:
            low, high = 1 - high, 1 - low
        low, high = -(-low // abs(coefficient)), -(-high // abs(coefficient))
        inside += max(min(high, extents[first]) - max(low, 0), 0)
        points += extents[first]
    return inside / points if points else 1.0
