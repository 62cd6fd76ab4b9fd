"""Pointers that run along with an innermost loop, where operands are too far apart for the offsets of loads.

A load reaches about two thousand bytes from its pointer. Compilers that meet ``x[a + i]`` and ``x[a + 5000 + i]`` in
one loop keep one counter and add it to every base: two instructions more for every load. With a pointer for each
neighbourhood, every load is one instruction and every pointer one more per pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tilegrad.codegen.c_expr import CScope
from tilegrad.codegen.writer import Writer
from tilegrad.ir.affine import Affine
from tilegrad.ir.expr import Expr, walk
from tilegrad.ir.graph import Value

#: Bytes between the first and the last load of one pointer.
REACH = 3800


def neighbourhoods(roots: Sequence[Expr], scope: CScope, iterator: int) -> list[tuple[Value, Affine]]:
    """The pointers that the loads of a loop need.

    Args:
        roots: what the loop evaluates.
        scope: where tensors are, and what has been read before.
        iterator: the loop's.

    Returns:
        For every pointer the tensor and the position that it points to; nothing where one pointer to each tensor
        reaches all of it, which compilers see for themselves.
    """
    found: dict[tuple[Value, Affine], set[int]] = {}
    for node in walk(*roots):
        if node.op != "read" or node in scope.known:
            continue
        flat = scope.flat(node.attr.value, node.attr.index)
        if flat.coefficient(iterator) and not flat.lookups:
            found.setdefault((node.attr.value, Affine(flat.terms)), set()).add(flat.constant)
    pointers: list[tuple[Value, Affine]] = []
    for (value, moving), constants in found.items():
        group: list[int] = []
        for constant in [*sorted(constants), None]:
            if constant is not None and (not group or (constant - group[0]) * value.dtype.size <= REACH):
                group.append(constant)
                continue
            pointers.append((value, moving + (group[0] + group[-1]) // 2))
            group = [] if constant is None else [constant]
    return pointers if len(pointers) > len({value for value, _ in pointers}) else []


class RunningPointers:
    """The pointers of one innermost loop.

    Args:
        pointers: what `neighbourhoods` found.
        iterator: the loop's.
        scope: takes note of them.
        out: takes the lines.
    """

    def __init__(self, pointers: Sequence[tuple[Value, Affine]], iterator: int, scope: CScope, out: Writer) -> None:
        self.pointers, self.iterator, self.scope, self.out = pointers, iterator, scope, out
        self.names: list[str] = []

    @contextmanager
    def declared(self, start: str) -> Iterator[None]:
        """Declare them for a loop that begins at `start`; inside, loads go through them."""
        scope, saved = self.scope, dict(self.scope.iterators)
        scope.iterators[self.iterator] = start if start.isidentifier() or start.isdigit() else f"({start})"
        for value, position in self.pointers:
            self.names.append(scope.fresh("p"))
            self.out.line(f"const {value.dtype.c_type} *{self.names[-1]} = {scope.address(value, position)};")
        scope.iterators = saved
        before = {value: list(found) for value, found in scope.shortcuts.items()}
        for (value, position), name in zip(self.pointers, self.names, strict=True):
            scope.shortcuts.setdefault(value, []).append((position, name))
        yield
        scope.shortcuts = before

    def advance(self, steps: int) -> None:
        """Move them on, at the end of a pass of the loop."""
        for (_, position), name in zip(self.pointers, self.names, strict=True):
            distance = position.coefficient(self.iterator) * steps
            self.out.line(f"{name} {'+' if distance > 0 else '-'}= {abs(distance)};")
            self.out.line(f"TG_RUNNING({name});")
