"""The C function of one kernel and its calls."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tilegrad.codegen.c_expr import CScope, Place
from tilegrad.codegen.loops import Chain, Range, Writer, write_op
from tilegrad.codegen.symbols import arena_symbol, comment_text, symbol
from tilegrad.ir.graph import Value
from tilegrad.ir.printer import format_nest, format_value
from tilegrad.ir.types import DType
from tilegrad.planning.plan import Kernel, Plan, Storage, Window
from tilegrad.planning.span import Span, TileLoop

#: Up to this many tiles are looked at one by one.
MOST_TILES = 4096


class Pointers:
    """C expressions for the places of storages.

    Args:
        plan: whose storages they are.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def text(self, storage: Storage, value: Value | None, copy: str = "") -> str:
        """A pointer to the first element of a storage.

        Args:
            storage: the storage.
            value: the tensor in it, whose type the pointer gets; None for that of the storage.
            copy: C text of the number of the copy, for storages with two.
        """
        if storage.offset is None:
            home = storage.persistent
            if value is not None and home is not None and value.dtype is not home.dtype:
                return f"({value.dtype.c_type} *)(void *){symbol(storage)}"
            return symbol(storage)
        text = f"{arena_symbol(self.plan, storage.level)} + {storage.offset // 4}"
        if copy and storage.copies > 1:
            text += f" + {copy} * {storage.stride // 4}"
        if value is None or value.dtype is DType.F32:
            return text
        return f"({value.dtype.c_type} *)(void *)({text})"


def kernel_function(kernel: Kernel, loops: Sequence[TileLoop]) -> list[str]:
    """The lines of the function."""
    inputs, outputs = _operands(kernel)
    names = argument_names([*inputs, *outputs])
    aliased = {value for value in [*inputs, *outputs] if (kernel.reads | kernel.writes)[value] in kernel.in_place}
    parameters = []
    for value in (*inputs, *outputs):
        restrict = "" if value in aliased else "restrict "
        constant = "" if value in kernel.writes else "const "
        parameters.append(f"{constant}{value.dtype.c_type} *{restrict}{names[value]}")
        if _moves(kernel, value):
            parameters.append(f"int {names[value]}_o")
    places = {value: _place(kernel, value, names[value], loops) for value in (*inputs, *outputs)}
    ranges = _kernel_ranges(kernel, loops)
    parameters.extend(f"int {name}" for found in ranges for part in found.values() for name in _names_in(part))
    init_ranges = {output: parts for output in outputs if (parts := _init_parts(kernel, output, names[output], loops))}
    parameters.extend(f"int {name}" for parts in init_ranges.values() for part in parts for name in _names_in(part))
    chain = None
    if kernel.cut:
        chain = Chain()
        parameters.extend([f"int {chain.start}", f"int {chain.end}"])
    writer = Writer()
    write_op(kernel.op, kernel.mappings, CScope(places), writer, ranges, chain, init_ranges)
    # What a sum without terms would read is not read.
    body = "\n".join(writer.lines)
    unused = [name for name in names.values() if re.search(rf"\b{name}\b", body) is None]
    writer.lines.extend(f"    (void){name};" for name in unused)
    comment = [f"/* {comment_text(f'{kernel.op.phase}: {kernel.op.origin}')}"]
    comment.extend(f"   {comment_text(_described(kernel, value, loops))}" for value in inputs)
    comment.extend(f"   -> {comment_text(_described(kernel, value, loops))}" for value in outputs)
    for nest in kernel.op.nests:
        comment.extend(f"   {comment_text(line)}" for line in format_nest(nest) if len(line) < 200)
    comment[-1] += " */"
    return [*comment, *wrap(f"static TG_KERNEL void {kernel.name}(", parameters, ")"), "{", *writer.lines, "}"]


def kernel_call(kernel: Kernel, loops: Sequence[TileLoop], pointers: Pointers) -> list[str]:
    """The lines of the call; the starts and sizes of the tile are ``t0, n0, ...`` and versions ``v<depth>``."""
    inputs, outputs = _operands(kernel)
    arguments = []
    for value in (*inputs, *outputs):
        storage = kernel.writes.get(value) or kernel.reads[value]
        arguments.append(pointers.text(storage, value, copy_text(storage, kernel.windows.get(value), loops)))
        if _moves(kernel, value):
            arguments.append(origin_text(kernel.windows[value], loops))
    for spans, found in zip(kernel.ranges, _kernel_ranges(kernel, loops), strict=True):
        for iterator, part in found.items():
            arguments.extend(bounds_text(spans[iterator], loops)[: len(_names_in(part))])
    for output in outputs:
        for span in kernel.filled.get(output, ()):
            arguments.extend(bounds_text(span, loops) if span.terms else ())
    if kernel.cut:
        starts = " && ".join(f"t{loop} == 0" for loop in kernel.cut)
        ends = " && ".join(f"t{loop} + n{loop} == {loops[loop].extent}" for loop in kernel.cut)
        arguments.extend([starts, ends])
    return wrap(f"{kernel.name}(", arguments, ");")


def _operands(kernel: Kernel) -> tuple[list[Value], list[Value]]:
    return [value for value in kernel.reads if value not in kernel.writes], list(kernel.writes)


def _moves(kernel: Kernel, value: Value) -> bool:
    window = kernel.windows.get(value)
    return window is not None and any(not span.is_whole for span in window.spans)


def _described(kernel: Kernel, value: Value, loops: Sequence[TileLoop]) -> str:
    text = format_value(value)
    if value in kernel.windows:
        sizes = " x ".join(str(size) for size in kernel.windows[value].shape(loops))
        text += f", of it {sizes or '1'}"
    return text


def _place(kernel: Kernel, value: Value, name: str, loops: Sequence[TileLoop]) -> Place:
    window = kernel.windows.get(value)
    if window is None:
        return Place(name, value.strides)
    return Place(name, window.strides(loops), f"{name}_o" if _moves(kernel, value) else "")


def _range(kernel: Kernel, number: int, iterator: int, span: Span, loops: Sequence[TileLoop]) -> Range:
    """The range of a tiled iterator by the names of the parameters; its size is a literal where it never differs."""
    prefix = f"n{number}_i{iterator}" if len(kernel.ranges) > 1 else f"i{iterator}"
    most = span.size(loops)
    first = f"{prefix}_first"
    if _constant(span, loops):
        return Range(first, f"({first} + {most})", most, most)
    return Range(first, f"{prefix}_last", None, most, _short(span, loops, most))


def _short(span: Span, loops: Sequence[TileLoop], most: int) -> int | None:
    """How many elements a range has in the tiles that do not have the most, where that is one number."""
    inner = [loop for loop, _ in span.terms]
    if math.prod(loops[loop].count for loop in inner) > MOST_TILES:
        return None
    found = set()
    for tiles in itertools.product(*(range(loops[loop].count) for loop in inner)):
        at = dict(zip(inner, tiles, strict=True))
        first, last = span.bounds([loop.range(at.get(k, 0)) for k, loop in enumerate(loops)])
        found.add(last - first)
    found.discard(most)
    return found.pop() if len(found) == 1 else None


def _constant(span: Span, loops: Sequence[TileLoop]) -> bool:
    """True where every tile has the same number of elements: no short last tile, nothing cut off at the ends."""
    reach = _reach(span, loops)
    exact = all(loops[loop].exact for loop, _ in span.terms)
    return exact and reach.lowest_begin >= 0 and reach.highest_end <= span.extent


@dataclass(frozen=True)
class _Reach:
    """Where a span begins and ends at the least and at the most, before it is cut off at the ends of the axis."""

    lowest_begin: int
    highest_begin: int
    lowest_end: int
    highest_end: int


def _reach(span: Span, loops: Sequence[TileLoop]) -> _Reach:
    begins, ends = [], []
    for tiles in itertools.product(*((0, loops[loop].count - 1) for loop, _ in span.terms)):
        begin, length = span.offset, span.extra
        for (loop, scale), tile in zip(span.terms, tiles, strict=True):
            start, count = loops[loop].range(tile)
            begin += scale * start if scale > 0 else scale * (start + count)
            length += abs(scale) * count
        begins.append(begin)
        ends.append(begin + length)
    return _Reach(min(begins), max(begins), min(ends), max(ends))


def _kernel_ranges(kernel: Kernel, loops: Sequence[TileLoop]) -> list[dict[int, Range]]:
    return [
        {iterator: _range(kernel, number, iterator, span, loops) for iterator, span in enumerate(spans) if span.terms}
        for number, spans in enumerate(kernel.ranges)
    ]


def _init_parts(kernel: Kernel, output: Value, name: str, loops: Sequence[TileLoop]) -> list[Range]:
    """The part of an output that a tile initialises, by the names of parameters; empty where it is all of it."""
    spans = kernel.filled.get(output, ())
    if not any(span.terms for span in spans):
        return []
    return [
        Range(f"{name}_first{axis}", f"{name}_last{axis}", None, span.size(loops))
        if span.terms
        else Range.whole(span.extent)
        for axis, span in enumerate(spans)
    ]


def _names_in(part: Range) -> list[str]:
    """The parameters among the ends of a range."""
    return [text for text in (part.first, part.last) if text.isidentifier()]


def _begin_text(span: Span) -> str:
    terms = []
    for loop, scale in span.terms:
        place = f"t{loop}" if scale > 0 else f"(t{loop} + n{loop})"
        terms.append(place if scale == 1 else f"{scale} * {place}")
    text = " + ".join(terms) or "0"
    if span.offset:
        text += f" {'-' if span.offset < 0 else '+'} {abs(span.offset)}"
    return text


def bounds_text(span: Span, loops: Sequence[TileLoop]) -> tuple[str, str]:
    """C text of the first element of a span in a tile and of the one behind its last."""
    begin, reach = _begin_text(span), _reach(span, loops)
    length = " + ".join(f"n{loop}" if abs(scale) == 1 else f"{abs(scale)} * n{loop}" for loop, scale in span.terms)
    end = f"{begin} + {length}" + (f" {'-' if span.extra < 0 else '+'} {abs(span.extra)}" if span.extra else "")
    first = begin if reach.lowest_begin >= 0 else f"tg_max({begin}, 0)"
    first = first if reach.highest_begin <= span.extent else f"tg_min({first}, {span.extent})"
    last = end if reach.highest_end <= span.extent else f"tg_min({end}, {span.extent})"
    return first, last if reach.lowest_end >= 0 else f"tg_max({last}, 0)"


def start_text(span: Span, loops: Sequence[TileLoop]) -> str:
    """C text of the element of an axis that a buffer begins with, or an integer literal."""
    if span.is_whole:
        return "0"
    begin, reach, most = _begin_text(span), _reach(span, loops), span.extent - span.size(loops)
    if not span.terms:
        return str(min(max(span.offset, 0), most))
    text = begin if reach.lowest_begin >= 0 else f"tg_max({begin}, 0)"
    return text if reach.highest_begin <= most else f"tg_min({text}, {most})"


def origin_text(window: Window, loops: Sequence[TileLoop]) -> str:
    """C text of the local position that element 0 of the tensor would have before the first one of the buffer."""
    terms, constant = [], 0
    for span, stride in zip(window.spans, window.strides(loops), strict=True):
        text = start_text(span, loops)
        if text.isdigit():
            constant += int(text) * stride
        else:
            terms.append(text if stride == 1 else f"({text}) * {stride}")
    if constant or not terms:
        terms.append(str(constant))
    return " + ".join(terms)


def copy_text(storage: Storage, window: Window | None, loops: Sequence[TileLoop]) -> str:
    """C text of the number of the copy that the present tile uses."""
    if storage.copies == 1 or window is None:
        return ""
    return f"v{window.depth}"


def wrap(head: str, items: Sequence[str], tail: str) -> list[str]:
    """A parenthesised list, broken where lines grow long."""
    lines, current = [], head
    for position, item in enumerate(items):
        text = item + (", " if position + 1 < len(items) else tail)
        if len(current) + len(text) > 118 and current != head:
            lines.append(current.rstrip())
            current = " " * 8
        current += text
    if not items:
        current += "void" + tail if head.startswith("static") else tail
    lines.append(current)
    return lines


#: Names of operands that stand as they are: several words, so that no keyword, type or macro of any dialect is among
#: them, nor a name that the generated code uses itself (i0, t1, acc0_0, row0, tg_max, ...).
_PLAIN_NAME = re.compile(
    r"(?!(i|n|t|v|k|acc|row|tg|tilegrad|static|thread)[0-9]*_)[A-Za-z]+[a-z0-9]*(_[A-Za-z0-9]+)*_[A-Za-z0-9]{2,}"
)


def argument_names(values: Sequence[Value]) -> dict[Value, str]:
    """Local names for the operands of a kernel, from the names of the tensors."""
    names: dict[Value, str] = {}
    taken: set[str] = set()
    for value in values:
        base = re.sub(r"[^A-Za-z0-9]+", "_", value.name).strip("_")[-32:].strip("_")
        if _PLAIN_NAME.fullmatch(base) is None or base.isupper():
            base = f"x_{base}".rstrip("_")
        candidate, count = base, 1
        while candidate in taken:
            count += 1
            candidate = f"{base}_{count}"
        taken.add(candidate)
        names[value] = candidate
    return names
