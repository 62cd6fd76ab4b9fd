"""The transformations between derivation and planning, in their order."""

from __future__ import annotations

from tilegrad.ir.graph import Graph
from tilegrad.transforms.blocked import block_reductions
from tilegrad.transforms.cleanup import eliminate_common, eliminate_dead
from tilegrad.transforms.epilogue import merge_epilogues
from tilegrad.transforms.inline import inline_elementwise
from tilegrad.transforms.narrow import narrow_positions
from tilegrad.transforms.siblings import merge_siblings
from tilegrad.transforms.split import read_through_blocks
from tilegrad.transforms.units import drop_unit_iterators


def transform(graph: Graph, *, optimize: bool = True) -> None:
    """Bring a graph into the form that is planned, in place.

    Args:
        graph: an entry point with its stores.
        optimize: fuse and share work; without it, only the canonical order of sums is settled: the bit oracle.
    """
    eliminate_dead(graph)
    block_reductions(graph)
    if not optimize:
        return
    drop_unit_iterators(graph)
    eliminate_common(graph)
    merge_epilogues(graph)
    inline_elementwise(graph)
    eliminate_common(graph)
    eliminate_dead(graph)
    read_through_blocks(graph)
    merge_siblings(graph)
    narrow_positions(graph)
    eliminate_dead(graph)
