"""What the plan lets every function of a program touch, as regions for the simulator's guard; guarded programs.

A kernel may read its operands and use its outputs, where they are in the tile at hand; the functions that move the data
of a group may move it between its homes and the copies of its buffers that are due. What a buffer in L1 holds dies with
its last use: where the window goes on, or where the life of the storage ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy.typing as npt

from tilegrad.codegen.project import ARENA, PREFIX, symbol
from tilegrad.simulator import Access, Region
from tilegrad.targets import Program, Session
from tilegrad.targets.base import Array

if TYPE_CHECKING:
    from tilegrad.api import Build
    from tilegrad.ir.graph import Value
    from tilegrad.planning.plan import EntryPlan, Group, Kernel, Plan, Storage, Transfer
    from tilegrad.simulator import Simulator
    from tilegrad.simulator.elf import Image

#: Symbol that holds the stacks of all cores, in the run-time code of simulated targets.
STACKS = "tilegrad_stacks"
#: The bytes that the simulated memories start with; words of L1 that hold nothing else count as never written.
UNWRITTEN = 0x57


@dataclass(frozen=True, kw_only=True)
class GuardedProgram(Program):
    """A program whose entry points are guarded whenever they are called.

    Attributes:
        program: the program itself.
        plan: what it may do.
    """

    program: Program
    plan: Plan

    @staticmethod
    def of(program: Program, plan: Plan) -> GuardedProgram:
        """A program with a guard; one that has a guard keeps it."""
        if isinstance(program, GuardedProgram):
            return program
        same = {item.name: getattr(program, item.name) for item in fields(Program)}
        return GuardedProgram(**same, program=program, plan=plan)

    def start(self) -> Session:
        """Starts the program.

        Raises:
            RunError: it did not come up.
            UserError: it runs on a real machine, where nobody can watch it.
        """
        session = self.program.start()
        try:
            return GuardedSession(session, self.plan)
        except BaseException:
            session.kill()
            raise


class GuardedSession(Session):
    """A session that guards the kernels anew in every call, so that tiles are counted from its beginning.

    Args:
        session: the session itself, on a simulated machine.
        plan: what its program may do.
    """

    def __init__(self, session: Session, plan: Plan) -> None:
        self._session, self._simulator = session, session.simulator
        self._guard = regions(plan, self._simulator.image), _common(plan, self._simulator.image)
        self._scratch = self._simulator.image.symbols.get(f"{ARENA}_l1")
        self.symbols, self.entries = session.symbols, session.entries
        self.seconds, self.cycles = session.seconds, session.cycles

    @property
    def simulator(self) -> Simulator:
        """See `Session.simulator`."""
        return self._simulator

    def write(self, symbol: str, data: Array) -> None:
        """See `Session.write`."""
        self._session.write(symbol, data)

    def read(self, symbol: str, dtype: npt.DTypeLike, shape: Sequence[int]) -> Array:
        """See `Session.read`."""
        return self._session.read(symbol, dtype, shape)

    def call(self, entry: str, repeat: int = 1) -> int | None:
        """See `Session.call`.

        Raises:
            RunError: also where a kernel, a transfer or a copy touches what is not its own.
        """
        cycles: int | None = 0
        for _ in range(repeat):
            if (
                self._scratch is not None
            ):  # nothing there outlives a call; what is left of the last one counts as unwritten
                self._simulator.write(self._scratch.address, bytes([UNWRITTEN]) * self._scratch.size)
            self._simulator.guard(*self._guard)
            took = self._session.call(entry)
            cycles = None if cycles is None or took is None else cycles + took
            self.seconds, self.cycles = self._session.seconds, self._session.cycles
        return cycles

    def close(self) -> None:
        """See `Session.close`."""
        self._session.close()

    def kill(self) -> None:
        """See `Session.kill`."""
        self._session.kill()


def guarded(build: Build) -> None:
    """Check every access that a kernel makes in later runs and predictions of the build against the plan.

    One in which a kernel touches what is not its own raises `RunError`, which names kernel, tile and buffer. Builds the
    program if need be.
    """
    build._program = GuardedProgram.of(build.program, build.plan)


def present(entry: EntryPlan, image: Image) -> list[Kernel]:
    """The kernels that are in the program: those whose outputs have no elements are not."""
    return [kernel for kernel in entry.kernels if kernel.name in image.symbols]


def regions(plan: Plan, image: Image) -> dict[str, list[Region]]:
    """What every kernel and every function that moves data may touch, by its symbol."""
    places = _Places(plan, image)
    found: dict[str, list[Region]] = {}
    for entry in plan.entries:
        position = 0
        for group in entry.groups:
            kernels = [kernel for kernel in group.kernels if kernel.name in image.symbols]
            ends = _last_users(group, kernels, position)
            position += len(group.kernels)
            for kernel in kernels:
                found[kernel.name] = _kernel_regions(kernel, group, places, ends)
            for suffix, transfers in (("load", group.loads), ("store", group.stores)):
                name = f"{group.name}_{suffix}"
                if transfers and name in image.symbols:
                    found[name] = _transfer_regions(transfers, group, places, ends)
        found[f"{PREFIX}_{entry.name}"] = list(_copy_regions(entry, places))
    return found


class _Places:
    """Addresses of storages.

    Args:
        plan: whose storages they are.
        image: the program.
    """

    def __init__(self, plan: Plan, image: Image) -> None:
        self._symbols = image.symbols
        self._main = plan.level

    def address(self, storage: Storage, copy: int = 0) -> int:
        """First byte of a copy of a storage."""
        if storage.offset is None:
            return self._symbols[symbol(storage)].address
        arena = ARENA if storage.level == self._main else f"{ARENA}_{storage.level.lower()}"
        return self._symbols[arena].address + storage.offset + copy * storage.stride


@dataclass
class _Use:
    """How a function uses a storage.

    Attributes:
        access: reading, writing, or both.
        size: bytes of one copy that it may touch.
        depth: how many of the outermost tile loops the contents move with; 0 where they stay.
    """

    access: Access = field(default_factory=lambda: Access(0))
    size: int = 0
    depth: int | None = None

    def add(self, access: Access, size: int, depth: int) -> None:
        """One more value in the storage."""
        self.access |= access
        self.size = max(self.size, size)
        self.depth = depth if self.depth is None else min(self.depth, depth)


def _kernel_regions(
    kernel: Kernel, group: Group, places: _Places, ends: Mapping[Storage, Kernel | Transfer]
) -> list[Region]:
    uses: dict[Storage, _Use] = {}
    operands = [(value, storage, Access.READ) for value, storage in kernel.reads.items()]
    operands += [(value, storage, Access.BOTH) for value, storage in kernel.writes.items()]
    for value, storage, access in operands:
        window = kernel.windows.get(value)
        size = value.bytes if window is None else _window_bytes(value, window.shape(group.loops))
        uses.setdefault(storage, _Use()).add(access, size, 0 if window is None else window.depth)
    found: list[Region] = []
    for storage, use in uses.items():
        found += _by_tile(storage, use, group, places, ends.get(storage) is kernel)
    return found


def _window_bytes(value: Value, shape: Sequence[int]) -> int:
    return math.prod(shape) * value.dtype.size


def _by_tile(storage: Storage, use: _Use, group: Group, places: _Places, last: bool) -> Iterator[Region]:
    """The regions of a storage: one for all tiles where its place is the same in all, and where contents die."""
    depth = use.depth or 0
    inner = math.prod(loop.count for loop in group.loops[depth:])
    dead = use.access | Access.LAST
    if storage.copies == 1:
        if last and inner == 1:
            yield Region(storage.name, places.address(storage), use.size, dead)
            return
        yield Region(storage.name, places.address(storage), use.size, use.access)
        if last:
            for tile in range(inner - 1, group.tiles, inner):
                yield Region(storage.name, places.address(storage), use.size, dead, tile=tile)
        return
    for tile in range(group.tiles):
        version = tile // inner & 1
        access = dead if last and tile % inner == inner - 1 else use.access
        yield Region(f"{storage.name} (copy {version})", places.address(storage, version), use.size, access, tile=tile)


def _transfer_regions(
    transfers: Sequence[Transfer], group: Group, places: _Places, ends: Mapping[Storage, Kernel | Transfer]
) -> list[Region]:
    """What the function that issues transfers may touch; it is called once for each tile."""
    found: list[Region] = []
    for transfer in transfers:
        inner = math.prod(loop.count for loop in group.loops[transfer.window.depth :])
        due = 0 if transfer.inward else inner - 1
        local, home = transfer.storage, transfer.home
        size = _window_bytes(transfer.value, transfer.window.shape(group.loops))
        access = Access.WRITE if transfer.inward else Access.READ
        if ends.get(local) is transfer:
            access |= Access.LAST
        for tile in range(due, group.tiles, inner):
            version = (tile // inner & 1) if local.copies > 1 else 0
            name = f"{local.name} (copy {version})" if local.copies > 1 else local.name
            found.append(Region(name, places.address(local, version), size, access, tile=tile))
            if transfer.via is not None:  # then the home is out of the reach of loads, stores and this DMA
                via = transfer.via
                found.append(Region(via.name, places.address(via), via.bytes, Access.BOTH, tile=tile))
            else:
                direction = Access.READ if transfer.inward else Access.WRITE
                found.append(Region(home.name, places.address(home), transfer.value.bytes, direction, tile=tile))
    return found


def _copy_regions(entry: EntryPlan, places: _Places) -> Iterator[Region]:
    """What the entry point itself may touch: behind the last kernel it replaces persistent tensors by copies."""
    for copy in entry.copies:
        yield Region(copy.target.name, places.address(copy.target), copy.bytes, Access.WRITE)
        yield Region(copy.source.name, places.address(copy.source), copy.bytes, Access.READ)


def _last_users(group: Group, kernels: Sequence[Kernel], position: int) -> dict[Storage, Kernel | Transfer]:
    """The kernel or the transfer with which the contents of a storage die, for those that die in this group.

    Args:
        group: the group.
        kernels: those of its kernels that are in the program.
        position: of its first kernel among all of the entry point.
    """
    last: dict[Storage, Kernel | Transfer] = {}
    for kernel in kernels:
        for storage in [*kernel.reads.values(), *kernel.writes.values()]:
            last[storage] = kernel
    for transfer in group.stores:
        last[transfer.storage] = transfer
    end = position + len(group.kernels)
    return {storage: user for storage, user in last.items() if storage.offset is not None and storage.upper <= end}


def _common(plan: Plan, image: Image) -> list[Region]:
    """What every kernel may touch: the stacks, and the literals beside the code, but no constant of the plan."""
    stacks = image.symbols[STACKS]
    found = [Region("stacks", stacks.address, stacks.size, Access.BOTH)]
    # A constant that nothing refers to is not in the program.
    places = [image.symbols[name] for storage in plan.constants if (name := symbol(storage)) in image.symbols]
    own = sorted((place.address, place.address + place.size) for place in places)
    for segment in image.segments:
        if not segment.executable:
            continue
        begin, end = segment.address, segment.address + len(segment.data)
        for first, last in own:
            if begin <= first < end:
                found.append(Region("literals", begin, first - begin, Access.READ))
                begin = last
        found.append(Region("literals", begin, end - begin, Access.READ))
    return found
