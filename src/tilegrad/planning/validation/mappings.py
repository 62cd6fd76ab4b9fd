"""Whether the loop structure that the plan gives a nest evaluates it as it is defined."""

from __future__ import annotations

from tilegrad.errors import InternalError
from tilegrad.ir.graph import Nest
from tilegrad.planning.mapping import Mapping
from tilegrad.planning.plan import Kernel


def check_mapping(kernel: Kernel, nest: Nest, mapping: Mapping, cores: int) -> None:
    """Check one mapping.

    Args:
        kernel: whose nest it is, for messages.
        nest: the nest.
        mapping: its loop structure.
        cores: how many cores execute the nest.

    Raises:
        InternalError: if the loops would leave out or repeat points, or add the terms of a sum in another order.
    """
    rank = len(nest.extents)
    where = f"kernel {kernel.name}"
    if sorted(mapping.order) != list(range(rank)):
        raise InternalError(f"{where}: the order of the loops is not one of all iterators")
    reductions = [k for k in mapping.order if k >= nest.parallel]
    if reductions != sorted(reductions):
        raise InternalError(f"{where}: the loops of a sum are not in their order")
    divisible = nest.parallel - (mapping.vector is not None)
    if mapping.team != (cores > 1) or not 0 <= mapping.divided <= (divisible if cores > 1 else 0):
        raise InternalError(f"{where}: the loops are not those for {cores} cores")
    if mapping.cyclic and not mapping.divided:
        raise InternalError(f"{where}: cores take turns with loops that are not divided over them")
    if mapping.width < 1:
        raise InternalError(f"{where}: a vector without elements")
    if mapping.vector is not None:
        _check_vector(where, nest, mapping.vector)
    _check_tile(where, nest, mapping)
    _check_unroll(where, nest, mapping)


def _looked_up(nest: Nest) -> set[int]:
    """Iterators that occur inside looked-up indices."""
    lookups = [lookup for row in nest.indices() for lookup in row.lookups]
    return {iterator for lookup in lookups for row in lookup.index for iterator in row.iterators()}


def _check_vector(where: str, nest: Nest, vector: int) -> None:
    """A row of accumulators runs along one parallel iterator and belongs to one sum."""
    result = nest.results[0]
    if not 0 <= vector < nest.parallel or vector in _looked_up(nest):
        raise InternalError(f"{where}: a vector does not run along a parallel iterator")
    sums = result.combiner in ("sum", "dot") and result.dtype.is_float and not nest.scatter
    if not sums or len(nest.results) != 1:
        raise InternalError(f"{where}: a row of accumulators for something else than one sum")


def _check_tile(where: str, nest: Nest, mapping: Mapping) -> None:
    """Neighbours that are computed side by side have their terms together, or differ along the innermost sum only."""
    iterators = [iterator for iterator, _ in mapping.tile]
    taken = set(iterators) | ({mapping.vector} - {None})
    if len(taken) != len(iterators) + (mapping.vector is not None):
        raise InternalError(f"{where}: a register tile has an iterator twice")
    if any(not 0 <= k < nest.parallel or size < 1 for k, size in mapping.tile):
        raise InternalError(f"{where}: a register tile along something else than parallel iterators")
    if nest.scatter and mapping.tile:
        raise InternalError(f"{where}: a register tile for a scatter")
    wide = [k for k, size in mapping.tile if size > 1 and nest.extents[k] > 1]
    if set(wide) & _looked_up(nest):
        raise InternalError(f"{where}: a register tile along an iterator of a lookup")
    innermost = max((k for k in range(nest.parallel, len(nest.extents)) if nest.extents[k] > 1), default=None)
    coupled = 0
    for guard in nest.guards:
        found = set(wide) & set(guard.index.iterators())
        if not found:
            continue
        coupled += 1
        loose = guard.index.lookups or innermost is None or not guard.index.coefficient(innermost)
        if loose or len(found) > 1 or coupled > 1 or mapping.vector is not None:
            raise InternalError(f"{where}: the elements of a register tile do not have their terms together")


def _check_unroll(where: str, nest: Nest, mapping: Mapping) -> None:
    """Steps are written out of the innermost reductions, of all but the outermost of these completely."""
    reductions = [k for k in range(nest.parallel, len(nest.extents)) if nest.extents[k] > 1]
    written = [k for k, _ in mapping.unroll]
    if written != reductions[len(reductions) - len(written) :] or (written and nest.scatter):
        raise InternalError(f"{where}: steps are written out of loops that are not the innermost of a sum")
    for place, (iterator, steps) in enumerate(mapping.unroll):
        if not 1 <= steps <= nest.extents[iterator] or (place and steps != nest.extents[iterator]):
            raise InternalError(f"{where}: {steps} steps are written out of {nest.extents[iterator]}")
