"""What the generated C can count: indices and sizes are 32-bit numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from tilegrad.errors import DoesNotFitError
from tilegrad.ir.affine import Affine
from tilegrad.ir.expr import walk
from tilegrad.ir.graph import Graph, Nest, StructuredOp
from tilegrad.transforms.inline import linear_index

#: Largest index, loop count and number of bytes of static data.
LARGEST = 2**31 - 1


def check_counts(graph: Graph) -> None:
    """Check that the loops and the indices of a graph can be counted.

    Raises:
        DoesNotFitError: if one of them exceeds 32 bits.
    """
    for op in graph.ops:
        if not isinstance(op, StructuredOp):
            continue
        for nest in op.nests:
            reach = max([*nest.extents, *(_reach(row, nest.extents) for row in _indices(nest))], default=0)
            if reach > LARGEST:
                raise DoesNotFitError(
                    f"node {op.origin or op.outputs[0].name!r} counts up to {reach:,}; the generated C counts to "
                    f"{LARGEST:,}: use a smaller batch or smaller tensors"
                )


def check_bytes(static_bytes: int) -> None:
    """Check that the static data of a program can be addressed.

    Raises:
        DoesNotFitError: if it exceeds what compilers place at fixed addresses.
    """
    if static_bytes > LARGEST:
        raise DoesNotFitError(
            f"the program needs {static_bytes:,} bytes of static data; compilers address {LARGEST:,}: use a smaller "
            "batch or a smaller model"
        )


def _indices(nest: Nest) -> Iterator[Affine]:
    for node in walk(*nest.exprs):
        if node.op == "read":
            yield linear_index(node.attr.value, node.attr.index)
    for result in nest.results:
        yield linear_index(result.outputs[0], result.index)
        if result.combiner == "argmax":
            yield Affine((), math.prod(nest.extents[nest.parallel :]))
    yield from nest.indices()


def _reach(row: Affine, extents: Sequence[int]) -> int:
    """The largest magnitude that an index or a part of it can take, lookups not counted: guards keep them inside."""
    return abs(row.constant) + sum(abs(c) * max(extents[i] - 1, 0) for i, c in row.terms)
