"""How the loops of a nest map to the machine: their order, the register tile and what is written out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from tilegrad.ir.affine import Affine
from tilegrad.ir.expr import accesses
from tilegrad.ir.graph import Nest, Value
from tilegrad.planning.cycles import Model
from tilegrad.planning.interior import interior
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
#: Vectors per tile of accumulators.
TILE_VECTORS = 2
#: Sizes of a register tile along one iterator, for scalar registers.
TILE_SIZES = (1, 2, 3, 4, 5, 6, 7, 8)
#: Accumulators of a register tile.
MOST_LANES = 20
#: Steps of the innermost reduction that may be written out.
UNROLLED_STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16)
#: Register tiles that are compared again for the sizes of a tile.
FAVOURITES = 12
#: Cycles of a pass of the divided loops from which it does not matter what it takes to find its place.
LONG_PASS = 150.0
#: Dividing fewer loops over the cores may cost this part of the time that dividing all of them takes.
UNEVEN = 0.01


#: Iterators and a number for each.
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Mapping:
    """The loop structure of one nest.

    Attributes:
        order: all iterators, outermost first; reductions in canonical order.
        vector: the parallel iterator that runs innermost over a row of accumulators, or None.
        tile: the register tile: parallel iterators and how many neighbours along each are computed side by side; their
            loops are the innermost parallel ones. What remains of an extent is a smaller tile.
        unroll: innermost reductions and how many consecutive steps are written out; all of them but the first one
            completely.
        width: elements of the vector iterator that form one tile of accumulators.
        hoist: whether what an inner loop does not change is evaluated outside of it.
        team: whether several cores execute the nest together.
        divided: how many of the outermost parallel loops, those of the register tile included, are divided over the
            cores.
        cyclic: whether the cores take turns with the passes of the divided loops, because these differ in length; else
            every core takes a range of them.
    """

    order: tuple[int, ...]
    vector: int | None = None
    tile: Pairs = ()
    unroll: Pairs = ()
    width: int = 1
    hoist: bool = False
    team: bool = False
    divided: int = 0
    cyclic: bool = False


def plain_mapping(nest: Nest, cores: int = 1) -> Mapping:
    """Loops in declared order, nothing blocked, on one core: the bit oracle."""
    return Mapping(tuple(range(len(nest.extents))), team=cores > 1)


class _Key:
    """A nest as a key: the same object, not equal contents, which would take long to compare."""

    __slots__ = ("nest", "target")

    def __init__(self, nest: Nest, target: Target) -> None:
        self.nest, self.target = nest, target

    def __hash__(self) -> int:
        return hash((id(self.nest), self.target.cores, self.target.innermost))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.nest is other.nest and self.target == other.target


@lru_cache(maxsize=4096)
def _model(key: _Key) -> Model:
    return Model(key.nest, key.target)


def choose_mapping(nest: Nest, target: Target, sizes: Sequence[int] | None = None) -> Mapping:
    """The mapping for a target, from the indexing maps alone.

    Args:
        nest: the nest.
        target: the machine.
        sizes: the most elements that every iterator has in a tile; None for the whole nest.
    """
    return _choose(_Key(nest, target), tuple(nest.extents if sizes is None else sizes))


def nest_cycles(nest: Nest, target: Target, sizes: Sequence[int], mapping: Mapping) -> float:
    """Estimated cycles of one call of a kernel on all cores, its operands in the fastest memory.

    Args:
        nest: the nest.
        target: the machine.
        sizes: the most elements that every iterator has in a tile.
        mapping: the structure of its loops.
    """
    return _estimate(_Key(nest, target), tuple(sizes), mapping)


@lru_cache(maxsize=65536)
def _estimate(key: _Key, sizes: tuple[int, ...], mapping: Mapping) -> float:
    return _model(key).cycles(sizes, _real_tile(key.nest, mapping), dict(mapping.unroll), mapping.divided)


def _real_tile(nest: Nest, mapping: Mapping) -> list[tuple[int, int]]:
    return [(k, size) for k, size in mapping.tile if nest.extents[k] > 1]


@lru_cache(maxsize=65536)
def _choose(key: _Key, sizes: tuple[int, ...]) -> Mapping:
    nest, target = key.nest, key.target
    if nest.scatter:
        return plain_mapping(nest, target.cores)
    if target.innermost == "parallel":
        return _vector_mapping(replace(nest, extents=sizes), target)
    best = min(
        (
            (_model(key).cycles(sizes, tile, dict(unroll), None), place, tile, unroll)
            for place, (tile, unroll) in enumerate(_favourites(key))
        ),
        key=lambda found: found[:2],
    )
    mapping = Mapping(_by_output_stride(nest), tile=best[2], unroll=best[3], hoist=True)
    return _divide(key, mapping, sizes)


def _divide(key: _Key, mapping: Mapping, sizes: tuple[int, ...]) -> Mapping:
    """Divide as few outer loops over the cores as give even shares."""
    nest, cores = key.nest, key.target.cores
    if cores == 1:
        return mapping
    loops = [k for k in mapping.order if k < nest.parallel and nest.extents[k] > 1]
    mapping = replace(mapping, team=True)
    if math.prod(sizes[k] for k in loops) <= 1:
        return mapping
    costs = [
        _model(key).cycles(sizes, _real_tile(nest, mapping), dict(mapping.unroll), divided)
        for divided in range(1, len(loops) + 1)
    ]
    divided = next(k for k, cost in enumerate(costs, 1) if cost <= min(costs) * (1 + UNEVEN))
    shares = math.prod(sizes[k] for k in loops) / math.prod(size for _, size in mapping.tile)
    if _uneven(nest, mapping) and min(costs) * cores / max(shares, 1) >= LONG_PASS:
        return replace(mapping, divided=len(loops), cyclic=True)
    return replace(mapping, divided=divided)


def _uneven(nest: Nest, mapping: Mapping) -> bool:
    """Whether the loops around the register tile differ in how many terms their elements have."""
    tile = {k for k, size in mapping.tile if size > 1}
    guarded = [set(guard.index.iterators()) for guard in nest.guards]
    reduced = [found for found in guarded if any(k >= nest.parallel for k in found)]
    return any(k < nest.parallel for found in reduced for k in found) and not any(tile & found for found in reduced)


# Scalar cores: register tiles around the reduction


@lru_cache(maxsize=4096)
def _favourites(key: _Key) -> list[tuple[Pairs, Pairs]]:
    """The register tiles and unrolled steps that suit the whole nest best, and some simple ones."""
    nest, model = key.nest, _model(key)
    found: list[tuple[float, int, Pairs, Pairs]] = []
    for tile in _tiles(nest, model):
        unrolls = _unrolls(nest, tile)
        costs = [(model.cycles(nest.extents, tile, dict(unroll), None), place) for place, unroll in enumerate(unrolls)]
        cost, place = min(costs)
        found.append((cost, len(found), tile, unrolls[place]))
    found.sort(key=lambda entry: entry[:2])
    best = found[:FAVOURITES]
    return [(tile, unroll) for _, _, tile, unroll in best]


def _tiles(nest: Nest, model: Model) -> list[Pairs]:
    """Register tiles that are possible."""
    order = [k for k in _by_output_stride(nest) if k < nest.parallel and nest.extents[k] > 1]
    if nest.results[0].combiner == "assign":
        return _assign_tiles(nest, order)
    # What does not change along a reduction is evaluated outside of it, shared or not.
    moving = [node for node in model.terms if node.instructions and any(k >= nest.parallel for k in node.iterators)]
    shared = [k for k in order if any(k not in node.iterators for node in moving)]
    found: list[Pairs] = [()]
    singles = [k for k in shared if tile_allowed(nest, (k,))]
    for k in singles:
        found += [((k, size),) for size in TILE_SIZES[1:] if size <= nest.extents[k]]
    for u in singles:
        for v in singles:
            if u != v and tile_allowed(nest, (u, v)) and not _has_inside(nest, u):
                found += [
                    ((u, a), (v, b))
                    for a in TILE_SIZES[1:]
                    for b in TILE_SIZES[1:]
                    if a * b <= MOST_LANES and a <= nest.extents[u] and b <= nest.extents[v]
                ]
    lanes = MOST_LANES // len(nest.results)
    return [tile for tile in found if math.prod(size for _, size in tile) <= lanes]


def _assign_tiles(nest: Nest, order: Sequence[int]) -> list[Pairs]:
    """Register tiles of an assignment: neighbours along its innermost iterators."""
    found: list[Pairs] = [()]
    inner: Pairs = ()
    for k in reversed(order):
        if not tile_allowed(nest, (k, *(j for j, _ in inner))):
            break
        lanes = math.prod(size for _, size in inner)
        extent = nest.extents[k]
        found += [((k, size), *inner) for size in TILE_SIZES[1:] if size <= extent and size * lanes <= 8]
        if extent * lanes > 8:
            break
        inner = ((k, extent), *inner)
    return found


def tile_allowed(nest: Nest, iterators: Sequence[int]) -> bool:
    """Whether elements that are neighbours along these parallel iterators can be computed side by side.

    Their terms must exist together, except along one iterator of one guard that the innermost reduction occurs in.
    """
    if set(iterators) & _in_lookups(nest):
        return False
    coupled = 0
    reductions = [k for k in range(nest.parallel, len(nest.extents)) if nest.extents[k] > 1]
    for guard in nest.guards:
        found = [k for k in iterators if k in set(guard.index.iterators())]
        if not found:
            continue
        coupled += 1
        if guard.index.lookups or len(found) > 1 or not reductions or not guard.index.coefficient(reductions[-1]):
            return False
    return coupled == 0 or (coupled == 1 and not any(guard.index.lookups for guard in nest.guards))


def _has_inside(nest: Nest, iterator: int) -> bool:
    """Whether an iterator has a border and something inside it, which then want loops of their own: the innermost."""
    for guard in nest.guards:
        if guard.index.coefficient(iterator):
            first, last = interior(guard, iterator, nest.extents)
            return max(first, 0) < min(last, nest.extents[iterator])
    return False


def _unrolls(nest: Nest, tile: Sequence[tuple[int, int]]) -> list[Pairs]:
    """Steps of the innermost reductions that may be written out."""
    reductions = [k for k in range(nest.parallel, len(nest.extents)) if nest.extents[k] > 1]
    guarded = {i for guard in nest.guards for i in guard.index.iterators()}
    found: list[Pairs] = [()]
    inner: Pairs = ()
    lanes = math.prod(size for _, size in tile)
    for k in reversed(reductions):
        steps = math.prod(size for _, size in inner) * lanes
        extent = nest.extents[k]
        found += [((k, n), *inner) for n in UNROLLED_STEPS if n <= extent and n * steps <= 128]
        if extent * steps > 64 or k in guarded:
            break
        inner = ((k, extent), *inner)
        found.append(inner)
    return list(dict.fromkeys(found))


# Vector machines: rows of accumulators


def _vector_mapping(nest: Nest, target: Target) -> Mapping:
    """Loops for a machine with vectors over parallel iterators."""
    result = nest.results[0]
    order = _by_output_stride(nest)
    plain = any(r.combiner in ("max", "argmax") or not r.dtype.is_float for r in nest.results)
    if result.combiner == "assign":
        mapping = Mapping(order)
    elif plain:
        mapping = plain_mapping(nest)
    else:
        vector = _vector_iterator(nest) if len(nest.results) == 1 else None
        block, size = _block_iterator(nest, vector)
        width = TILE_VECTORS * target.vector_width_bytes // result.dtype.size
        mapping = Mapping(order, vector, ((block, size),) if block is not None else (), width=width)
    if target.cores == 1:
        return mapping
    loops = [k for k in mapping.order if k < nest.parallel and k != mapping.vector and nest.extents[k] > 1]
    return replace(mapping, team=True, divided=len(loops))


def _by_output_stride(nest: Nest) -> tuple[int, ...]:
    """Parallel iterators by falling distance between the elements they write, then the reductions as declared."""
    result = nest.results[0]
    flat = linear_index(result.outputs[0], result.index)
    parallel = sorted(range(nest.parallel), key=lambda k: (-abs(flat.coefficient(k)), k))
    return (*parallel, *range(nest.parallel, len(nest.extents)))


def _flat_reads(nest: Nest) -> list[tuple[Value, Affine]]:
    """What the terms read; first values and final expressions are evaluated once per element."""
    terms = [expr for result in nest.results for expr in result.exprs]
    return [(access.value, linear_index(access.value, access.index)) for access in accesses(*terms)]


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
