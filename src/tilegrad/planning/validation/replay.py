"""Executes a group symbolically, tile by tile: what every element of every storage holds at every moment.

A kernel must find each element that it reads, finished; a store must find what it takes away; and at the end the
persistent tensors must hold what the graph says. Overlapping buffers, lives that end too early, missing halos, wrong
orders and transfers that come too late all end in a read of something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilegrad.errors import InternalError
from tilegrad.ir.graph import Nest, Value
from tilegrad.planning.plan import Group, Storage
from tilegrad.planning.validation import footprint
from tilegrad.planning.validation.contents import FINISHED, Content
from tilegrad.planning.validation.flights import Flights
from tilegrad.planning.validation.group import (
    KernelTiles,
    Place,
    Reading,
    TransferTiles,
    check_overwriting,
    kernel_tiles,
    transfer_tiles,
)
from tilegrad.planning.validation.memory import Memory
from tilegrad.planning.validation.tiles import Numbers, Tiles


class GroupReplay:
    """The replay of one group, all of its tiles."""

    def __init__(self, memory: Memory, group: Group, position: int, cores: int) -> None:
        self.memory, self.group, self.position = memory, group, position
        self.end = position + len(group.kernels)
        self.elements = memory.elements
        self.tiles = Tiles(group)
        for kernel in group.kernels:
            check_overwriting(kernel)
        self.kernels = [kernel_tiles(kernel, self.tiles, cores) for kernel in group.kernels]
        self.tiles.check_loops()
        self.loads = [transfer_tiles(transfer, group, self.tiles) for transfer in group.loads]
        self.stores = [transfer_tiles(transfer, group, self.tiles) for transfer in group.stores]
        if any(not t.transfer.inward for t in self.loads) or any(t.transfer.inward for t in self.stores):
            raise InternalError(f"{group.name}: a load goes out or a store comes in")
        if len({t.transfer.storage for t in self.loads}) != len(self.loads):
            raise InternalError(f"{group.name}: two loads fill one buffer")
        self._check_lives()
        self._note_uses()
        self.flights = Flights(self.loads, self.stores, self.group.overlap)
        #: Which elements were defined in a home, by a store or by a kernel that works there.
        self.defined: dict[tuple[Value, Storage], footprint.Flags] = {}

    # Lives

    def _check_lives(self) -> None:
        """Storages must be alive whenever a kernel or a transfer, also one that is in flight, touches them."""
        memory, first, end = self.memory, self.position, self.end
        repeated = self.tiles.count > 1
        for k, numbers in enumerate(self.kernels):
            for storage in {**numbers.kernel.reads, **numbers.kernel.writes}.values():
                memory.alive(storage, first + k, first + k + 1, f"kernel {numbers.kernel.name}")
        bounces = [t.transfer.via for t in (*self.loads, *self.stores) if t.transfer.via is not None]
        if len(set(bounces)) != len(bounces):
            raise InternalError(f"{self.group.name}: two transfers go through one buffer")
        for via in bounces:
            memory.alive(via, first, end, self.group.name)
        for t in self.loads:
            storage, home = t.transfer.storage, t.transfer.home
            who = f"{self.group.name}, a load of {t.transfer.value.name}"
            users = [k for k, numbers in enumerate(self.kernels) if storage in numbers.kernel.reads.values()]
            if not users:
                raise InternalError(f"{who}: nothing reads it")
            kept = repeated and (self.group.overlap or t.transfer.window.depth < len(self.group.loops))
            memory.alive(storage, first, end if kept else first + users[-1] + 1, who)
            memory.alive(home, first, end if repeated else first + users[0] + 1, who)
        for t in self.stores:
            who = f"{self.group.name}, a store of {t.transfer.value.name}"
            for storage in (t.transfer.storage, t.transfer.home):
                memory.alive(storage, first if repeated else end - 1, end, who)

    def _note_uses(self) -> None:
        places: list[Place] = []
        for numbers in self.kernels:
            places.extend((*numbers.operands.values(), *numbers.outputs.values()))
        for t in (*self.loads, *self.stores):
            places.extend((t.place, t.home))
            if t.transfer.via is not None:
                self.memory.use(t.transfer.via, t.transfer.value, t.place.needed)
        for place in places:
            self.memory.use(place.storage, place.value, place.needed)
        used = dict.fromkeys(place.storage for place in places if place.storage.offset is not None)
        #: Storages whose life begins or ends inside the group: once in every tile, where there are several.
        self.brief = [s for s in used if s.lower > self.position or s.upper < self.end]

    # Tiles

    def run(self) -> None:
        """Replay all tiles in order."""
        for tile in range(self.tiles.count):
            self._begin_tile()
            self.flights.begin_tile(tile)
            if not self.group.overlap:
                self._load(tile)
            else:
                if tile == 0:
                    self._load(0)
                    self.flights.begin_tile(0)
                if tile + 1 < self.tiles.count:
                    self._load(tile + 1)
            for k, numbers in enumerate(self.kernels):
                self._kernel(numbers, tile)
                self._after_kernel(self.position + k)
            for t in self.stores:
                if t.changes[tile]:
                    self._store(t, tile)
        self._finish()

    def _begin_tile(self) -> None:
        """What is not alive at the first kernel of the group holds nothing when a tile begins."""
        for storage in self.brief:
            if storage.lower > self.position:
                self._forget(storage)

    def _after_kernel(self, moment: int) -> None:
        for storage in self.brief:
            if storage.upper == moment + 1 < self.end:  # the stores of the tile come first
                self._forget(storage)

    def _forget(self, storage: Storage) -> None:
        for content in self.memory.copies_of(storage):
            content.clear()

    def content(self, place: Place, tile: int) -> Content:
        """What the copy of a storage that a tile uses holds."""
        return self.memory.copies_of(place.storage)[place.copy[tile]]

    def _load(self, tile: int) -> None:
        for t in self.loads:
            if not t.changes[tile]:
                continue
            content, home = self.content(t.place, tile), self.content(t.home, tile)
            value, box = t.transfer.value, t.box(tile)
            if home.whole is not None and home.item == t.home.item:
                if t.place.natural:
                    content.fill(home.whole, value)
                else:
                    self._numbers(t.place, tile)[...] = self.elements.positions(value)[box] + home.whole
            else:
                self._numbers(t.place, tile)[...] = self._numbers(t.home, tile)[box]
            content.touch()
            self.flights.load(t, tile, content)

    def _store(self, t: TransferTiles, tile: int) -> None:
        who = f"{self.group.name}: a store of {t.transfer.value.name}"
        first, last = t.place.first[tile], t.place.last[tile]
        if any(end <= begin for begin, end in zip(first, last, strict=True)):
            return
        value = t.transfer.value
        self._expect(who, t.place, tile, first, [end - 1 for end in last], self.elements.base(value))
        box = tuple(slice(begin, end) for begin, end in zip(first, last, strict=True))
        self._define(value, t.home.storage, box, who)
        home = self.content(t.home, tile)
        self.flights.store(t, tile, box, self.content(t.place, tile))
        self._numbers(t.home, tile)[box] = self.elements.positions(value)[box] + self.elements.base(value)
        home.touch()

    def _define(self, value: Value, storage: Storage, where: Any, who: str) -> None:
        """Every element of a home is defined once."""
        key = (self.elements.root(value), storage)
        if key not in self.defined:
            self.defined[key] = np.zeros(value.size, bool)
        flags = self.defined[key].reshape(value.shape)
        if flags[where].any():
            raise InternalError(f"{who} defines elements of {value.name} that were defined before")
        flags[where] = True

    def _finish(self) -> None:
        for (value, storage), flags in self.defined.items():
            if not flags.all():
                raise InternalError(f"{self.group.name} leaves out {int((~flags).sum())} elements of {value.name}")
            content = self.memory.copies_of(storage)[0]
            if content.numbers is not None and content.item == value.dtype.size:
                base = self.elements.base(value)
                if (content.numbers[: value.size] == np.arange(base, base + value.size)).all():
                    content.fill(base, value)

    # Kernels

    def _kernel(self, numbers: KernelTiles, tile: int) -> None:
        step, length = int(numbers.chain.steps[tile]), numbers.chain.length
        who = f"kernel {numbers.kernel.name} in tile {tile}"
        for place in numbers.operands.values():
            self.flights.access(self.content(place, tile), who)
        for reading in numbers.readings:
            early = reading.phase == "start" and step
            late = reading.phase == "final" and step != length - 1
            if reading.active[tile] and not early and not late:
                self._read(reading, tile, who)
        for output, place in numbers.outputs.items():
            self.flights.access(self.content(place, tile), who, write=True)
            if numbers.whole[tile] and place.natural:
                self._write_whole(output, place, tile, who)
            else:
                self._write_part(numbers, output, place, tile, who)

    def _write_part(self, numbers: KernelTiles, output: Value, place: Place, tile: int, who: str) -> None:
        op = numbers.kernel.op
        if op.init is not None and not numbers.chain.steps[tile]:
            self._initialise(numbers, output, place, tile, who)
        for nest, begins, ends in zip(op.nests, numbers.begins, numbers.ends, strict=True):
            for result in nest.results:
                if output in result.outputs:
                    found = footprint.written(nest, result.index, output.shape, begins[tile], ends[tile])
                    if found is not None:
                        self._write(numbers, nest, place, found, tile, who)

    def _read(self, reading: Reading, tile: int, who: str) -> None:
        place = reading.place
        content = self.content(place, tile)
        base = self.elements.base(place.value)
        if content.whole == base and place.natural:
            return
        low, high = reading.low[tile], reading.high[tile]
        key = (id(content), tuple(low), tuple(high), tuple(place.origins[tile]))
        if reading.seen.get(key) == content.stamp:
            return
        self._expect(who, place, tile, low, high, base)
        if place.natural:
            self.flights.read_home(place, _slices(low, high), who)
        else:
            reading.seen.clear()
            reading.seen[key] = content.stamp

    def _expect(self, who: str, place: Place, tile: int, low: list[int], high: list[int], base: int) -> None:
        """A box of a tensor must be in its place."""
        content = self.content(place, tile)
        if content.whole == base and place.natural:
            return
        origin = place.origins[tile]
        ends = zip(low, high, origin, place.shape, strict=True)
        if any(a < o or b >= o + n for a, b, o, n in ends):
            raise InternalError(f"{who} needs more of {place.value.name} than {place.storage.name} has")
        box = _slices(low, high)
        held = self._numbers(place, tile)[_shifted(box, origin)]
        self._compare(who, place, held, self.elements.positions(place.value)[box], base)

    def _compare(self, who: str, place: Place, held: Numbers, wanted: Numbers, base: int) -> None:
        wrong = held - wanted != base
        if wrong.any():
            found, missing = int(held[wrong][0]), int(wanted[wrong][0]) + base
            raise InternalError(
                f"{who} expects {self.elements.name(missing)} in {place.storage.name}, which holds "
                f"{self.elements.name(found)} by then"
            )

    def _write_whole(self, output: Value, place: Place, tile: int, who: str) -> None:
        if place.window is None:
            self._define(output, place.storage, Ellipsis, who)
            self.flights.write_home(place, tuple(slice(0, n) for n in output.shape), who)
        self.content(place, tile).fill(self.elements.base(output), output)

    def _initialise(self, numbers: KernelTiles, output: Value, place: Place, tile: int, who: str) -> None:
        """What no nest defines is finished by this; what one defines, or adds to, is not."""
        first, last = numbers.filled[output]
        box = tuple(slice(a, b) for a, b in zip(first[tile], last[tile], strict=True))
        if any(s.stop <= s.start for s in box):
            return
        held = zip(box, place.origins[tile], place.shape, strict=True)
        if any(s.start < origin or s.stop > origin + size for s, origin, size in held):
            raise InternalError(f"{who} initialises elements of {output.name} for which its storage has no room")
        owned = numbers.owned[output][box]
        values = np.where(owned, self.elements.base(output, 0), self.elements.base(output))
        view = self._numbers(place, tile)
        view[_shifted(box, place.origins[tile])] = self.elements.positions(output)[box] + values
        self.content(place, tile).touch()
        if place.window is None:
            self.flights.write_home(place, box, who)
            flags = np.zeros(output.shape, bool)
            flags[box] = ~owned
            self._define(output, place.storage, flags, who)

    def _numbers(self, place: Place, tile: int) -> Numbers:
        """The elements of a storage as a tile sees them, to be read and changed."""
        return self.content(place, tile).dense(place.storage, place.item)[: place.count].reshape(place.shape)

    def _write(
        self, numbers: KernelTiles, nest: Nest, place: Place, found: footprint.Written, tile: int, who: str
    ) -> None:
        step, length = int(numbers.chain.steps[tile]), numbers.chain.length
        origin = place.origins[tile]
        if found.slices is not None:
            low = [s.start for s in found.slices]
            high = [s.stop - 1 for s in found.slices]
        else:
            low, high = [int(a.min()) for a in found.axes], [int(a.max()) for a in found.axes]
        if any(b < a for a, b in zip(low, high, strict=True)):
            return
        if any(a < o or b >= o + n for a, b, o, n in zip(low, high, origin, place.shape, strict=True)):
            raise InternalError(
                f"{who} writes elements of {place.value.name} for which {place.storage.name} has no room"
            )
        where: Any
        if found.slices is not None:
            view, where = self._numbers(place, tile), found.slices
            local: Any = _shifted(found.slices, origin)
        else:
            view = self._numbers(place, tile)
            local = tuple(a - o for a, o in zip(found.axes, origin, strict=True))
            where = found.axes
        positions = self.elements.positions(place.value)[where]
        if step or nest.scatter:
            self._compare(who, place, view[local], positions, self.elements.base(place.value, step))
        stage = FINISHED if step == length - 1 else step + 1
        view[local] = positions + self.elements.base(place.value, stage)
        self.content(place, tile).touch()
        if place.window is None:
            self.flights.write_home(place, where, who)
            if stage == FINISHED:
                self._define(place.value, place.storage, where, who)


def _slices(low: Sequence[int], high: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))


def _shifted(box: Sequence[slice], origin: Sequence[int]) -> tuple[slice, ...]:
    """A box of a tensor as a box of the storage whose first element is `origin`."""
    return tuple(slice(s.start - o, s.stop - o, s.step) for s, o in zip(box, origin, strict=True))
