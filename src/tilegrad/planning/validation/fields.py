"""What a plan says of itself: names, sizes, lives, budgets. Everything here follows from the data without a replay."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from tilegrad.errors import InternalError
from tilegrad.ir.graph import Value
from tilegrad.planning.plan import FAR_BUFFER_BYTES, EntryPlan, Group, Plan, Storage, Transfer
from tilegrad.targets.base import Target

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
#: Rounds a size up to the alignment of a level.
Round = Callable[[int, str], int]


def check_names(plan: Plan) -> None:
    """All names are C identifiers, distinct whatever their case.

    Raises:
        InternalError: if one is not.
    """
    storages = dict.fromkeys(
        [*plan.persistent, *plan.constants, *(storage for entry in plan.entries for storage in entry.storages)]
    )
    names = [storage.name for storage in storages]
    for entry in plan.entries:
        names.extend(group.name for group in entry.groups)
        names.extend(kernel.name for kernel in entry.kernels)
    if any(_IDENTIFIER.fullmatch(name) is None for name in names):
        raise InternalError("a name in the plan is not a C identifier")
    if len({name.lower() for name in names}) != len(names):
        raise InternalError("the names of storages, groups and kernels are not distinct")


def check_statics(plan: Plan) -> dict[Value, Storage]:
    """The storage of every persistent tensor and constant.

    Raises:
        InternalError: if one of them is not the place of one such tensor.
    """
    statics: dict[Value, Storage] = {}
    for storage in [*plan.persistent, *plan.constants]:
        value = storage.persistent
        if value is None or not value.kind.persistent or value in statics or storage.bytes != value.bytes:
            raise InternalError(f"the static storage {storage.name} is not the place of one persistent tensor")
        if value.is_constant != (storage in plan.constants):
            raise InternalError(f"{storage.name} is a constant, or is not, against what its tensor is")
        if storage.offset is not None or storage.copies != 1 or storage.stride:
            raise InternalError(f"the static storage {storage.name} has an address or copies")
        if storage.level not in plan.memory:
            raise InternalError(f"{storage.name} lies in {storage.level}, which the plan does not have")
        statics[value] = storage
    return statics


def check_target(plan: Plan, target: Target) -> None:
    """The plan is one for this machine.

    Raises:
        InternalError: if it is not.
    """
    if plan.target != target.name or plan.cores != target.cores or plan.level != target.mapped_memories[-1].name:
        raise InternalError(f"the plan is not one for {target.name} with {target.cores} cores")
    levels = [memory.name for memory in target.memories if memory.name in plan.memory]
    if list(plan.memory) != levels:
        raise InternalError(f"the plan has the memories {', '.join(plan.memory)} instead of {', '.join(levels)}")
    if plan.far != tuple(memory.name for memory in target.memories if not memory.mapped):
        raise InternalError(f"{', '.join(plan.far) or 'nothing'} is not what only transfers of {target.name} reach")
    for level, use in plan.memory.items():
        reserved = target.reserved.get(level, 0)
        if level == plan.level and any(storage.level in plan.far for storage in plan.persistent):
            reserved += 2 * FAR_BUFFER_BYTES  # through which the program copies and clears them
        if use.capacity != target.memory(level).capacity or use.reserved != reserved:
            raise InternalError(f"the plan does not have the budget of {level}")


def check_memory(plan: Plan, round_up: Round | None) -> None:
    """The use of every level is what the storages take, and within the budget.

    Args:
        plan: the plan.
        round_up: the alignment of buffers; None where it is not known, then sums may be larger than the storages.

    Raises:
        InternalError: if it is not.
    """
    if set(plan.arenas) != set(plan.memory) or plan.level not in plan.memory:
        raise InternalError("the arenas of the plan are not those of its memories")
    for level, use in plan.memory.items():
        if use.capacity is not None and use.peak > use.capacity:
            raise InternalError(f"the plan uses {use.peak} bytes of {level}, which has {use.capacity}")
        sizes = [storage.bytes for storage in plan.persistent if storage.level == level]
        if round_up is not None:
            sizes = [round_up(size, level) for size in sizes]
        if use.static < sum(sizes) or (round_up is not None and use.static != sum(sizes)):
            raise InternalError(f"static tensors take {sum(sizes)} bytes of {level}, not {use.static}")
        if plan.arenas[level] != max((entry.arenas.get(level, 0) for entry in plan.entries), default=0):
            raise InternalError(f"the arena of {level} is not the largest of the entry points")
        bound = max((entry.lower_bounds.get(level, 0) for entry in plan.entries), default=0)
        if use.reserved < 0 or use.peak != use.static + use.reserved + plan.arenas[level]:
            raise InternalError(f"the parts of {level} are not {use.peak} bytes together")
        if use.lower_bound != use.static + use.reserved + bound:
            raise InternalError(f"the lower bound of {level} is not {use.lower_bound} bytes")


def check_storages(plan: Plan, entry: EntryPlan, round_up: Round | None) -> None:
    """Transient storages have addresses in their arenas, and no two that are alive at one moment share a byte.

    Raises:
        InternalError: if they do not.
    """
    if len(set(entry.storages)) != len(entry.storages):
        raise InternalError(f"{entry.name} lists a storage twice")
    static = {*plan.persistent, *plan.constants}
    last = len(entry.kernels) + 1
    by_level: dict[str, list[Storage]] = {level: [] for level in plan.memory}
    for storage in entry.storages:
        if storage in static:
            continue
        if storage.persistent is not None or storage.offset is None:
            raise InternalError(f"{storage.name} is neither static nor has it an address")
        if storage.level not in by_level:
            raise InternalError(f"{storage.name} lies in {storage.level}, which the plan does not have")
        if not 0 <= storage.lower < storage.upper <= last:
            raise InternalError(f"{storage.name} lives in kernels [{storage.lower}, {storage.upper}) of {last - 1}")
        _check_copies(storage, round_up)
        by_level[storage.level].append(storage)
    if not set(entry.arenas) <= set(by_level) or set(entry.lower_bounds) != set(entry.arenas):
        raise InternalError(f"{entry.name} has arenas in memories that the plan does not have")
    for level, storages in by_level.items():
        _check_arena(entry, level, storages, round_up)


def _check_copies(storage: Storage, round_up: Round | None) -> None:
    if storage.copies not in (1, 2):
        raise InternalError(f"{storage.name} has {storage.copies} copies")
    least = 0 if storage.copies == 1 else storage.bytes
    exact = least if round_up is None or not least else round_up(least, storage.level)
    if storage.stride < exact or (storage.stride != exact and (round_up is not None or storage.copies == 1)):
        raise InternalError(f"the copies of {storage.name} are {storage.stride} bytes apart")
    item = max((value.dtype.size for value in storage.values), default=1)
    if storage.offset is None or storage.offset % item or storage.stride % item:
        raise InternalError(f"{storage.name} is not aligned to its elements")
    if round_up is not None and round_up(storage.offset, storage.level) != storage.offset:
        raise InternalError(f"{storage.name} is not aligned")


def _check_arena(entry: EntryPlan, level: str, storages: Sequence[Storage], round_up: Round | None) -> None:
    def size(storage: Storage) -> int:
        total = storage.bytes + (storage.copies - 1) * storage.stride
        return total if round_up is None else round_up(total, level)

    def offset(storage: Storage) -> int:
        return storage.offset or 0

    arena = entry.arenas.get(level, 0)
    end = max((offset(storage) + size(storage) for storage in storages), default=0)
    if any(offset(storage) < 0 for storage in storages) or end > arena or (round_up is not None and end != arena):
        raise InternalError(f"the storages of {entry.name} take {end} bytes of an arena of {arena} in {level}")
    alive: list[Storage] = []
    most = 0
    for storage in sorted(storages, key=lambda s: s.lower):
        alive = [other for other in alive if other.upper > storage.lower]
        for other in alive:
            apart = offset(storage) >= offset(other) + size(other) or offset(other) >= offset(storage) + size(storage)
            if not apart and storage.bytes and other.bytes:
                raise InternalError(f"{storage.name} and {other.name} are alive together and overlap")
        alive.append(storage)
        most = max(most, sum(map(size, alive)))
    bound = entry.lower_bounds.get(level, 0)
    if bound < most or (round_up is not None and bound != most):
        raise InternalError(f"{most} bytes of {level} are alive at one moment of {entry.name}, not {bound}")


def check_levels(plan: Plan, entry: EntryPlan) -> None:
    """Kernels work on memories that loads and stores reach; transfers go up and down between memories.

    Raises:
        InternalError: if one does not.
    """
    order = list(plan.memory)
    reached = order[: order.index(plan.level) + 1]
    for kernel in entry.kernels:
        for storage in (*kernel.reads.values(), *kernel.writes.values()):
            if storage.level not in reached:
                raise InternalError(f"kernel {kernel.name} works on {storage.name} in {storage.level}")
    for copy in entry.copies:
        if copy.source.level not in reached or copy.target.level not in reached:
            raise InternalError(f"a copy to {copy.target.name} goes where no core reaches")
    for group in entry.groups:
        _check_group(group)
        for transfer in (*group.loads, *group.stores):
            _check_transfer(transfer, order, reached)


def _check_transfer(transfer: Transfer, order: Sequence[str], reached: Sequence[str]) -> None:
    inner, outer = order.index(transfer.storage.level), order.index(transfer.home.level)
    where = f"a transfer between {transfer.storage.name} and {transfer.home.name}"
    if inner >= outer:
        raise InternalError(f"{where} does not go between a fast and a slower memory")
    via = transfer.via
    if (via is not None) != (transfer.home.level not in reached):
        raise InternalError(f"{where} goes {'through' if via is not None else 'without'} a buffer between the two")
    if via is not None and not inner < order.index(via.level) < outer:
        raise InternalError(f"{where} goes through {via.name}, which does not lie between the two")


def _check_group(group: Group) -> None:
    double = any(transfer.storage.copies > 1 for transfer in (*group.loads, *group.stores))
    if double and not group.overlap:
        raise InternalError(f"{group.name} has double buffers, but its transfers do not overlap with kernels")
    if group.overlap and not group.loops:
        raise InternalError(f"{group.name} has one tile, with which the transfers of no other can overlap")


def check_tenants(
    storages: Iterable[Storage],
    needed: dict[Storage, int],
    tenants: dict[Storage, dict[Value, None]],
    root: Callable[[Value], Value],
) -> None:
    """Every storage has the size of the largest part that it holds, and lists the tensors that it holds.

    Args:
        storages: all storages.
        needed: bytes of one copy that are used.
        tenants: tensors that are accessed in each.
        root: the tensor behind any number of views.

    Raises:
        InternalError: if one does not.
    """
    for storage in storages:
        own = set() if storage.persistent is None else {storage.persistent}
        held = {root(value) for value in tenants.get(storage, ())} | own
        if {root(value) for value in storage.values} | own != held:
            raise InternalError(f"{storage.name} does not list the tensors that it holds")
        if storage.persistent is None and storage.bytes != needed.get(storage, 0):
            raise InternalError(f"{storage.name} has {storage.bytes} bytes and needs {needed.get(storage, 0)}")
