"""Loop nests as C: the body of the function that executes one operation, or one tile of it.

Every form evaluates the terms of one element in the canonical order of its nest; they differ only in the order of
elements. So the plain form is the bit oracle of the others.
"""

from __future__ import annotations

from collections.abc import Mapping as Dictionary
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext

from tilegrad.codegen.c_expr import CScope, literal
from tilegrad.codegen.contraction import ContractionWriter
from tilegrad.codegen.elementwise import ElementwiseWriter, ScatterWriter
from tilegrad.codegen.rows import RowWriter
from tilegrad.codegen.writer import Chain, Range, Ranges, Writer, offset, product
from tilegrad.ir.graph import Nest, StructuredOp, Value
from tilegrad.planning.mapping import Mapping

__all__ = ["Chain", "Range", "Ranges", "Writer", "write_op"]


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
    if chain is not None and all(result.final is None for nest in op.nests for result in nest.results):
        writer.line(f"(void){chain.end};")  # nothing happens to finished sums
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
            _write_versions(nest, mapping, scope, writer, found, chain)


def _write_versions(
    nest: Nest, mapping: Mapping, scope: CScope, writer: Writer, ranges: Ranges, chain: Chain | None
) -> None:
    """The nest once for tiles of full size and once for short ones, so that both have literal sizes."""
    worthwhile = bool(mapping.tile or mapping.unroll)
    for k, part in ranges.items():
        if worthwhile and part.count is None and part.short:
            for size, head in ((part.most, f"if ({part.last} - {part.first} == {part.most})"), (part.short, "else")):
                with writer.block(head):
                    _write_versions(nest, mapping, scope, writer, {**ranges, k: part.exactly(size)}, chain)
            return
    _write_nest(nest, mapping, scope, writer, ranges, chain)


def _write_nest(
    nest: Nest, mapping: Mapping, scope: CScope, writer: Writer, ranges: Ranges, chain: Chain | None
) -> None:
    scope.branches = mapping.hoist
    if nest.scatter:
        ScatterWriter(nest, mapping, scope, writer, ranges, chain).write()
    elif nest.results[0].combiner == "assign":
        ElementwiseWriter(nest, mapping, scope, writer, ranges, chain).write()
    elif mapping.vector is not None:
        RowWriter(nest, mapping, scope, writer, ranges, chain).write()
    else:
        ContractionWriter(nest, mapping, scope, writer, ranges, chain).write()


def _write_init(output: Value, parts: Sequence[Range], text: str, scope: CScope, writer: Writer, team: bool) -> None:
    """Fill the part of an output that belongs to the tile, its rows divided over the cores."""
    place = scope.places[output]
    outer = [part.size for part in parts[:-1]]
    with ExitStack() as opened:
        if parts[:-1]:
            rows = product(outer)
            first, last = (f"TG_FIRST({rows})", f"TG_LAST({rows})") if team else ("0", rows)
            opened.enter_context(writer.block(f"for (int row = {first}; row < {last}; ++row)"))
        elif team:
            opened.enter_context(writer.block("if (TG_CORE == 0)"))
        terms = []
        for axis, part in enumerate(parts[:-1]):
            inner = product(outer[axis + 1 :])
            at = "row" if inner == "1" else f"row / {inner}"
            at = at if axis == 0 else f"{at} % {part.size}"
            at = offset(part.first, at)
            terms.append(at if place.strides[axis] == 1 else f"({at}) * {place.strides[axis]}")
        if parts:
            opened.enter_context(writer.block(f"for (int k = {parts[-1].first}; k < {parts[-1].last}; ++k)"))
            terms.append("k" if place.strides[-1] == 1 else f"k * {place.strides[-1]}")
        origin = f" - {place.origin}" if place.origin else ""
        writer.line(f"{place.pointer}[{' + '.join(terms) or '0'}{origin}] = {text};")
