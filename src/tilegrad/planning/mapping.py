"""How the loops of a nest map to the machine: their order, the vector iterator and the block of elements."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from tilegrad.ir.affine import Affine
from tilegrad.ir.expr import walk
from tilegrad.ir.graph import Nest, Value
from tilegrad.targets.base import Target
from tilegrad.transforms.inline import linear_index

#: Rows of accumulators stay on the stack up to this many elements.
ROW_LIMIT = 2048
#: A row shorter than this is not worth a loop of its own.
SHORTEST_ROW = 4
#: Block sizes tried beside a vector iterator, best first; the extent must be a multiple. With tiles of two vectors,
#: four rows leave half of sixteen vector registers for operands.
BLOCK_SIZES = (4, 3, 2)
#: Block sizes tried for scalar chains, best first: enough of them hide the latency of an addition.
CHAIN_BLOCK_SIZES = (8, 7, 6, 5, 4, 3, 2)
#: Shares per core from which an uneven division over the cores does not matter.
SHARES_PER_CORE = 8
#: Vectors per tile of accumulators.
TILE_VECTORS = 2


@dataclass(frozen=True)
class Mapping:
    """The loop structure of one nest.

    Attributes:
        order: all iterators, outermost first; reductions in canonical order.
        vector: the parallel iterator that runs innermost over a row of accumulators, or None.
        block: the parallel iterator of which several elements are computed side by side, or None.
        block_size: how many.
        width: elements of the vector iterator that form one tile of accumulators.
        team: whether several cores execute the nest together.
        divided: how many of the outermost parallel loops are merged and divided over the cores.
    """

    order: tuple[int, ...]
    vector: int | None = None
    block: int | None = None
    block_size: int = 1
    width: int = 1
    team: bool = False
    divided: int = 0


def plain_mapping(nest: Nest, cores: int = 1) -> Mapping:
    """Loops in declared order, nothing blocked, on one core: the bit oracle."""
    return Mapping(tuple(range(len(nest.extents))), team=cores > 1)


def choose_mapping(nest: Nest, target: Target, sizes: tuple[int, ...] | None = None) -> Mapping:
    """The mapping for a target, from the indexing maps alone.

    Args:
        nest: the nest.
        target: the machine.
        sizes: the most elements that every iterator has in a tile; None for the whole nest.
    """
    tile = nest if sizes is None else replace(nest, extents=sizes)
    mapping = _choose_loops(tile, target)
    return mapping if target.cores == 1 else _divide(tile, mapping, target.cores)


#: Cycles to call a kernel and to meet at the barrier behind it.
CALL_CYCLES = 80


@lru_cache(maxsize=65536)
def nest_cycles(nest: Nest, target: Target, sizes: tuple[int, ...], mapping: Mapping) -> float:
    """Estimated cycles of one call of a kernel on all cores, its operands in the fastest memory."""
    points = math.prod(sizes)
    shares = math.prod(sizes[k] for k in range(nest.parallel))
    busy = -(-shares // target.cores) * target.cores / max(shares, 1)
    nodes = sum(1 for _ in walk(*nest.exprs))
    return CALL_CYCLES + points * busy * (2 + nodes) / target.cores


def _divide(nest: Nest, mapping: Mapping, cores: int) -> Mapping:
    """Merge as few outer loops as divide evenly over the cores, or give every core several shares."""
    loops = [k for k in mapping.order if k < nest.parallel and k not in (mapping.vector, mapping.block)]
    counts = [nest.extents[k] for k in loops]
    if mapping.block is not None:
        counts.append(nest.extents[mapping.block] // mapping.block_size)
    total = 1
    for divided, count in enumerate(counts, 1):
        total *= count
        if total % cores == 0 or total >= SHARES_PER_CORE * cores:
            return replace(mapping, team=True, divided=divided)
    return replace(mapping, team=True, divided=len(counts) if total > 1 else 0)


def _choose_loops(nest: Nest, target: Target) -> Mapping:
    result = nest.results[0]
    order = _by_output_stride(nest)
    if nest.scatter or result.combiner == "assign":
        return plain_mapping(nest) if nest.scatter else Mapping(order)
    if any(r.combiner in ("max", "argmax") or not r.dtype.is_float for r in nest.results):
        return plain_mapping(nest)
    vector = _vector_iterator(nest) if target.innermost == "parallel" and len(nest.results) == 1 else None
    block, size = _block_iterator(nest, vector)
    width = TILE_VECTORS * target.vector_width_bytes // result.dtype.size
    return Mapping(order, vector, block, size, width)


def _by_output_stride(nest: Nest) -> tuple[int, ...]:
    """Parallel iterators by falling distance between the elements they write, then the reductions as declared."""
    result = nest.results[0]
    flat = linear_index(result.outputs[0], result.index)
    parallel = sorted(range(nest.parallel), key=lambda k: (-abs(flat.coefficient(k)), k))
    return (*parallel, *range(nest.parallel, len(nest.extents)))


def _flat_reads(nest: Nest) -> list[tuple[Value, Affine]]:
    return [(access.value, linear_index(access.value, access.index)) for access in nest.accesses()]


def _in_lookups(nest: Nest) -> set[int]:
    """Iterators that occur inside looked-up indices, of reads and of guards."""
    return {
        iterator
        for row in nest.indices()
        for found in row.lookups
        for inner in found.index
        for iterator in inner.iterators()
    }


def _vector_iterator(nest: Nest) -> int | None:
    """The parallel iterator along which every operand is read with unit stride or not at all."""
    looked_up = _in_lookups(nest)
    reads = _flat_reads(nest)
    best: tuple[int, int, int] | None = None
    for k in range(nest.parallel):
        extent = nest.extents[k]
        strides = {flat.coefficient(k) for _, flat in reads}
        if k in looked_up or not SHORTEST_ROW <= extent <= ROW_LIMIT or not strides <= {0, 1} or 1 not in strides:
            continue
        if any(g.index.lookups and k in set(g.index.iterators()) for g in nest.guards):
            continue
        score = (
            min(extent, 64),
            int(linear_index(nest.results[0].outputs[0], nest.results[0].index).coefficient(k) == 1),
            k,
        )
        if best is None or score > best:
            best = score
    return None if best is None else best[2]


def _block_iterator(nest: Nest, vector: int | None) -> tuple[int | None, int]:
    """The parallel iterator that shares the most operand elements between neighbours, and the block size."""
    looked_up = _in_lookups(nest)
    guarded = {iterator for guard in nest.guards for iterator in guard.index.iterators()}
    reads = _flat_reads(nest)
    best: tuple[int, int, int] | None = None
    for k in range(nest.parallel):
        if k == vector or k in looked_up or k in guarded:
            continue
        sizes = CHAIN_BLOCK_SIZES if vector is None else BLOCK_SIZES
        size = next((s for s in sizes if nest.extents[k] % s == 0), None)
        if size is None:
            continue
        if vector is not None and size * nest.extents[vector] > 2 * ROW_LIMIT:
            continue
        shared = sum(1 for _, flat in reads if not flat.coefficient(k))
        score = (shared, size, -k)
        if best is None or score > best:
            best = score
    return (None, 1) if best is None else (-best[2], best[1])


def trip_count(nest: Nest) -> int:
    """Number of points of the box."""
    return math.prod(nest.extents)
