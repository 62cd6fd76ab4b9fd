"""What every byte of memory holds while a plan is replayed: which element of which tensor, and how finished it is.

An element is a number: ``base(tensor, stage) + position``. A stage counts the tiles that have contributed to the sums
of the tensor; the finished tensor has a stage of its own. Numbers are compared and moved by NumPy, so a replay costs
about as much as copying the data.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

from tilegrad.ir.graph import ReshapeOp, Value
from tilegrad.planning.plan import Storage
from tilegrad.planning.validation.tiles import Numbers

#: The stage of a tensor whose elements have all their terms.
FINISHED = -1
#: What nothing has written.
NOTHING = 0
#: What a transfer in flight may or may not have replaced.
RACE = -1


class Elements:
    """Numbers for the elements of tensors, views being the tensors behind them."""

    def __init__(self, views: Sequence[ReshapeOp]) -> None:
        self._sources = {view.output: view.source for view in views}
        self._bases: dict[tuple[Value, int], int] = {}
        self._order: list[int] = []
        self._known: list[tuple[Value, int]] = []
        self._next = 1
        self._positions: Numbers = np.arange(1, dtype=np.int64)

    def root(self, value: Value) -> Value:
        """The tensor behind any number of views."""
        while value in self._sources:
            value = self._sources[value]
        return value

    def base(self, value: Value, stage: int = FINISHED) -> int:
        """The number of the first element of a tensor at a stage."""
        key = (self.root(value), stage)
        if key not in self._bases:
            self._bases[key] = self._next
            self._order.append(self._next)
            self._known.append(key)
            self._next += max(value.size, 1)
        return self._bases[key]

    def positions(self, value: Value) -> Numbers:
        """The position of every element, in the shape of the tensor."""
        if len(self._positions) < value.size:
            self._positions = np.arange(value.size, dtype=np.int64)
        return self._positions[: value.size].reshape(value.shape)

    def name(self, number: int) -> str:
        """What a number means, for messages."""
        if number == RACE:
            return "what a transfer in flight may be replacing"
        if number <= NOTHING:
            return "nothing"
        known = bisect.bisect_right(self._order, number) - 1
        (value, stage), position = self._known[known], number - self._order[known]
        text = f"{value.name}{list(map(int, np.unravel_index(position, value.shape))) if value.shape else ''}"
        return text if stage == FINISHED else f"{text} after {stage} tiles of its sum"


class Content:
    """What one copy of a storage holds.

    Attributes:
        whole: where it is known that the storage holds a whole finished tensor in order: the number of its first
            element.
        count: elements of that tensor.
        numbers: else the number of every element, or None for nothing at all.
        item: bytes of an element.
        stamp: changes with the content.
    """

    __slots__ = ("count", "item", "numbers", "stamp", "whole")

    _clock = 0

    def __init__(self) -> None:
        self.whole: int | None = None
        self.count = 0
        self.numbers: Numbers | None = None
        self.item = 0
        self.stamp = 0

    def touch(self) -> None:
        """Note a change."""
        Content._clock += 1
        self.stamp = Content._clock

    def clear(self) -> None:
        """From now on it holds nothing."""
        self.whole, self.numbers = None, None
        self.touch()

    def fill(self, base: int, value: Value) -> None:
        """From now on it holds a whole tensor."""
        self.whole, self.count, self.numbers, self.item = base, value.size, None, value.dtype.size
        self.touch()

    def dense(self, storage: Storage, item: int) -> Numbers:
        """The number of every element of `item` bytes, to be read and changed."""
        if item != self.item:  # other elements: what was there has no meaning any more
            self.whole, self.numbers, self.item = None, None, item
        if self.numbers is None:
            self.numbers = np.full(storage.bytes // item, NOTHING, np.int64)
            if self.whole is not None:
                self.numbers[: self.count] = np.arange(self.whole, self.whole + self.count)
            self.whole = None
        return self.numbers
