"""Sums that tiles cut: every element's terms must still be added in the one canonical order of its nest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tilegrad.errors import InternalError
from tilegrad.ir.graph import Nest
from tilegrad.planning.plan import Kernel
from tilegrad.planning.validation.tiles import Numbers, Tiles


@dataclass(frozen=True)
class Chain:
    """Which part of the sums of a kernel belongs to every tile.

    Attributes:
        steps: how many tiles of the sum precede every tile.
        length: tiles of every sum; 1 where none is cut.
    """

    steps: Numbers
    length: int


def chain_of(kernel: Kernel, tiles: Tiles, begins: Sequence[Numbers], ends: Sequence[Numbers]) -> Chain:
    """The chain of a kernel, proved to be canonical.

    Args:
        kernel: the kernel.
        tiles: the tiles of its group.
        begins: for every nest the first index of every iterator, ``[tile, iterator]``.
        ends: the index behind the last one.

    Raises:
        InternalError: if the tiles would add the terms of an element in another order, twice, or not at all.
    """
    cut = list(kernel.cut)
    if cut != sorted(set(cut)) or any(not 0 <= loop < len(tiles.trips) for loop in cut):
        raise InternalError(f"kernel {kernel.name}: its sums are cut by loops that the group does not have")
    steps = np.zeros(tiles.count, np.int64)
    for loop in cut:
        steps = steps * tiles.trips[loop] + tiles.indices[:, loop]
    length = math.prod(tiles.trips[loop] for loop in cut)
    for nest, spans, first, last in zip(kernel.op.nests, kernel.ranges, begins, ends, strict=True):
        moves = [{loop for loop, _ in span.terms} for span in spans]
        if any(set(cut) & moves[k] for k in range(nest.parallel)):
            raise InternalError(f"kernel {kernel.name}: a loop cuts sums and moves to other elements at once")
        if any(not moves[k] <= set(cut) for k in range(nest.parallel, len(spans))):
            raise InternalError(f"kernel {kernel.name}: a tile has a part of a sum, but the sum does not go on")
        if cut:
            _continuable(kernel, nest)
        order = np.argsort(steps, kind="stable")
        _, where = np.unique(steps[order], return_index=True)
        tiles_of_chain = order[where]
        _check_order(kernel, nest, first[tiles_of_chain].tolist(), last[tiles_of_chain].tolist())
    return Chain(steps, length)


def _continuable(kernel: Kernel, nest: Nest) -> None:
    for result in nest.results:
        if result.outputs[0].dtype is not result.dtype:
            raise InternalError(f"kernel {kernel.name}: {result.outputs[0].name} cannot hold unfinished sums")
    if nest.scatter and len(kernel.op.nests) > 1:
        raise InternalError(f"kernel {kernel.name}: two nests that are cut may add to one element")
    if kernel.in_place:
        raise InternalError(f"kernel {kernel.name}: unfinished sums overwrite an operand")


def _check_order(kernel: Kernel, nest: Nest, begins: list[list[int]], ends: list[list[int]]) -> None:
    """The boxes of reduction iterators, one after the other, are consecutive ranges of the row-major order."""
    extents = nest.extents[nest.parallel :]
    done = 0
    for begin, end in zip(begins, ends, strict=True):
        box = list(zip(begin[nest.parallel :], end[nest.parallel :], extents, strict=True))
        if any(last <= first for first, last, _ in box):
            continue
        split = next((k for k, (first, last, _) in enumerate(box) if last - first > 1), len(box))
        if any(first or last != extent for first, last, extent in box[split + 1 :]):
            raise InternalError(f"kernel {kernel.name}: a tile cuts a sum across its order")
        rank = 0
        for first, _, extent in box:
            rank = rank * extent + first
        if rank != done:
            raise InternalError(f"kernel {kernel.name}: a tile continues a sum at term {rank} instead of {done}")
        done += math.prod(last - first for first, last, _ in box)
    if done != math.prod(extents):
        raise InternalError(f"kernel {kernel.name}: its tiles have {done} of {math.prod(extents)} terms of a sum")
