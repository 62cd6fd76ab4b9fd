"""Tensors that share memory, for programs that write in place, expressed in a graph without writes.

PyTorch code may write into a tensor through a view of it: ``x[:, 0] = h``. A graph is functional, so every tensor of
the program is a `Cell`: an `Owner` holds the current contents of one piece of memory, a `View` says how its contents
follow from those of its parent and how writing it changes the parent. Views are re-evaluated after every write.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from tilegrad.ir.builder import Domain, Pieces, reshape, transpose
from tilegrad.ir.graph import Graph, Store, Value
from tilegrad.ir.types import Kind
from tilegrad.operators.registry import UnsupportedCall


class Cell(Protocol):
    """A tensor of a program that may write in place."""

    def read(self) -> Value:
        """The current contents."""
        ...

    def write(self, value: Value) -> None:
        """Replace the contents, and with them those of every tensor that shares the memory."""
        ...

    @property
    def version(self) -> int:
        """A number that grows with every write to the memory."""
        ...


class Owner:
    """Memory of its own.

    The contents of a buffer of the model after writes are what the graph stores in it, so that operators that store
    running statistics themselves and in-place operations of the program see each other.

    Args:
        graph: the graph under construction.
        value: the contents at first.
        fixed: why the program may not write here; empty where it may.
    """

    def __init__(self, graph: Graph, value: Value, fixed: str = "") -> None:
        self.graph, self.value, self.fixed, self._writes = graph, value, fixed, 0

    @property
    def version(self) -> int:
        """A number that grows with every write to the memory."""
        return self._writes

    def read(self) -> Value:
        """The current contents."""
        for store in self.graph.stores:
            if store.target is self.value:
                return store.value
        return self.value

    def write(self, value: Value) -> None:
        """Replace the contents; of a buffer, at the end of the entry point too.

        Raises:
            UnsupportedCall: where the program may not write.
        """
        if self.fixed:
            raise UnsupportedCall(self.fixed)
        self._writes += 1
        if self.value.kind is not Kind.BUFFER:
            self.value = value
            return
        stores = [store for store in self.graph.stores if store.target is not self.value]
        self.graph.stores[:] = [*stores, Store(self.value, value)]

    def touch(self) -> None:
        """Note that an operator has stored new contents by itself."""
        self._writes += 1


class View:
    """Part of the memory of another tensor, or all of it in another shape.

    Args:
        parent: the tensor that this one looks at.
        look: the view's contents from the parent's.
        assign: the parent's new contents from its old ones and the view's new ones.
        value: the view's contents now, as `look` yields them.
    """

    def __init__(
        self, parent: Cell, look: Callable[[Value], Value], assign: Callable[[Value, Value], Value], value: Value
    ) -> None:
        self._parent, self._look, self._assign, self._value = parent, look, assign, value
        self._seen = parent.version

    @property
    def version(self) -> int:
        """A number that grows with every write to the memory."""
        return self._parent.version

    def read(self) -> Value:
        """The current contents."""
        if self._seen != self.version:
            self._value = self._look(self._parent.read())
            self._seen = self.version
        return self._value

    def write(self, value: Value) -> None:
        """Replace the contents, and with them part of the parent's."""
        self._parent.write(self._assign(self._parent.read(), value))


def assign_reshaped(parent: Value, value: Value) -> Value:
    """The parent after a write through a view that holds all of its elements in the same order."""
    return reshape(value, parent.shape)


def assign_permuted(order: Sequence[int]) -> Callable[[Value, Value], Value]:
    """The parent after a write through a view with permuted axes.

    Args:
        order: the parent's axis that each axis of the view is.
    """
    back = [list(order).index(axis) for axis in range(len(order))]

    def assign(parent: Value, value: Value) -> Value:
        return transpose(value, back) if parent.rank else value

    return assign


def assign_slice(axis: int, start: int, step: int, count: int) -> Callable[[Value, Value], Value]:
    """The parent after a write through a view of some positions along one axis.

    Args:
        axis: the axis.
        start: the first position.
        step: the distance between positions, at least 1.
        count: how many positions.
    """

    def assign(parent: Value, value: Value) -> Value:
        part = (*parent.shape[:axis], count, *parent.shape[axis + 1 :])
        if math.prod(part) == parent.size:
            return reshape(value, parent.shape)
        pieces = Pieces(parent.shape, parent.dtype)
        _piece(pieces, reshape(value, part), axis, start, step, count, offset=0, stride=1)
        end = start + (count - 1) * step + 1 if count else start
        kept = [(0, 1, start), (end, 1, parent.shape[axis] - end)]
        kept.extend((start + residue, step, count - 1) for residue in range(1, step))
        for first, stride, length in kept:
            if length > 0:
                _piece(pieces, parent, axis, first, stride, length, offset=first, stride=stride)
        return pieces.finish()

    return assign


def _piece(
    pieces: Pieces, source: Value, axis: int, first: int, step: int, count: int, *, offset: int, stride: int
) -> None:
    """Copy: positions ``first + step * i`` along `axis` of the result take ``offset + stride * i`` of `source`."""
    if not count:
        return
    d = Domain()
    index = d.parallel(*(count if k == axis else extent for k, extent in enumerate(source.shape)))
    to = tuple(row * step + first if k == axis else row for k, row in enumerate(index))
    take = tuple(row * stride + offset if k == axis else row for k, row in enumerate(index))
    pieces.assign(d, source[take], to)
