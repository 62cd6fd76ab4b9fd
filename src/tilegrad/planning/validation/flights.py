"""Transfers in flight: what may be read before it has arrived, or written while it is still read.

Where the transfers of a group overlap with its kernels, the loads of a tile are issued before the kernels of the tile
before and waited for when their own tile begins. A store is waited for when the second tile behind its own begins;
where some buffer of the group is both loaded and stored, when the next one does. Without overlap, everything is waited
for at once, and nothing is in flight while something else happens.

Where a load meets a store or a kernel that writes the same elements of a home, nobody can say what it brings: those
elements of the tile buffer hold a race, and a kernel that reads one is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilegrad.errors import InternalError
from tilegrad.ir.graph import Value
from tilegrad.planning.plan import Storage
from tilegrad.planning.validation.contents import RACE, Content
from tilegrad.planning.validation.footprint import Flags
from tilegrad.planning.validation.group import Place, TransferTiles


@dataclass
class _Load:
    """A load in flight: the part of the home that it reads and the buffer that it fills."""

    transfer: TransferTiles
    box: tuple[slice, ...]
    content: Content


@dataclass
class _Store:
    """A store in flight: the part of the home that it writes, the buffer that it reads, and its tile."""

    home: Storage
    value: Value
    box: tuple[slice, ...]
    content: Content
    tile: int


class Flights:
    """The transfers of a group that are in flight.

    Args:
        loads: the loads of the group.
        stores: its stores.
        overlap: whether anything is ever in flight.
    """

    def __init__(self, loads: Sequence[TransferTiles], stores: Sequence[TransferTiles], overlap: bool) -> None:
        self.overlap = overlap
        both = {t.transfer.storage for t in loads} & {t.transfer.storage for t in stores}
        self.lag = 1 if both else 2
        self.loads: list[_Load] = []
        self.stores: list[_Store] = []

    def begin_tile(self, tile: int) -> None:
        """Wait for the loads of a tile and for the stores whose time has come."""
        self.loads = []
        self.stores = [store for store in self.stores if store.tile + self.lag > tile]

    def load(self, t: TransferTiles, tile: int, content: Content) -> None:
        """A load is issued; its tile buffer has been filled with what the home holds at this moment.

        Raises:
            InternalError: if the buffer is still stored.
        """
        if not self.overlap:
            return
        self._check_buffer(content, f"a load of {t.transfer.value.name}")
        box = t.box(tile)
        for store in self.stores:
            if store.home is t.transfer.home:
                _spoil(t, content, _common(t, box, store.value, store.box))
        self.loads.append(_Load(t, box, content))

    def store(self, t: TransferTiles, tile: int, box: tuple[slice, ...], content: Content) -> None:
        """A store is issued.

        Raises:
            InternalError: if a load fills its buffer.
        """
        if not self.overlap:
            return
        self.access(content, f"a store of {t.transfer.value.name}")
        self._meet_loads(t.transfer.home, t.transfer.value, box)
        self.stores.append(_Store(t.transfer.home, t.transfer.value, box, content, tile))

    def access(self, content: Content, who: str, *, write: bool = False) -> None:
        """A kernel accesses a buffer.

        Raises:
            InternalError: if a load in flight fills it, or a store in flight takes it away while it is written.
        """
        if any(load.content is content for load in self.loads):
            raise InternalError(f"{who} uses a buffer that a load in flight fills")
        if write:
            self._check_buffer(content, who)

    def _check_buffer(self, content: Content, who: str) -> None:
        if any(store.content is content for store in self.stores):
            raise InternalError(f"{who} overwrites a buffer that a store in flight takes away")

    def read_home(self, place: Place, box: tuple[slice, ...], who: str) -> None:
        """A kernel reads a whole tensor in its place.

        Raises:
            InternalError: if a store in flight writes there.
        """
        for store in self.stores:
            if store.home is place.storage and _mask(place.value, box, store.value, store.box).any():
                raise InternalError(f"{who} reads {place.value.name} in {place.storage.name} behind a store in flight")

    def write_home(self, place: Place, where: Any, who: str) -> None:
        """A kernel writes a whole tensor in its place.

        Raises:
            InternalError: if a store in flight writes there.
        """
        for store in self.stores:
            if store.home is place.storage and _mask(place.value, where, store.value, store.box).any():
                raise InternalError(f"{who} writes {place.storage.name} while a store in flight does")
        self._meet_loads(place.storage, place.value, where)

    def _meet_loads(self, home: Storage, value: Value, where: Any) -> None:
        """Something writes elements of a home: loads in flight that read them bring nobody knows what."""
        for load in self.loads:
            if load.transfer.transfer.home is home:
                _spoil(load.transfer, load.content, _common(load.transfer, load.box, value, where))


def _mask(value: Value, where: Any, other: Value, place: Any) -> Flags:
    """Which of the elements `where` of a tensor are also those at `place` of another one in the same storage."""
    flags = np.zeros(max(value.size, other.size), bool)
    flags[: other.size].reshape(other.shape)[place] = True
    found: Flags = np.asarray(flags[: value.size].reshape(value.shape)[where])
    return found


def _common(t: TransferTiles, box: tuple[slice, ...], value: Value, where: Any) -> Flags:
    return _mask(t.transfer.value, box, value, where)


def _spoil(t: TransferTiles, content: Content, racing: Flags) -> None:
    if racing.any():
        numbers = content.dense(t.place.storage, t.place.item)[: t.place.count].reshape(t.place.shape)
        numbers[racing] = RACE
        content.touch()
