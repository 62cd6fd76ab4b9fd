"""The replay of an entry point: its groups in order, the copies at its end, what the persistent tensors hold then."""

from __future__ import annotations

from tilegrad.errors import InternalError
from tilegrad.ir.graph import Graph, ReshapeOp, StructuredOp, Value
from tilegrad.planning.plan import Copy, EntryPlan, Storage
from tilegrad.planning.validation.memory import Memory
from tilegrad.planning.validation.replay import GroupReplay


def replay_entry(entry: EntryPlan, graph: Graph, statics: dict[Value, Storage], cores: int, home: str) -> Memory:
    """Replay an entry point.

    Args:
        entry: the plan of the entry point.
        graph: the graph that it was made from.
        statics: storage of every persistent tensor and constant.
        cores: how many cores execute a kernel.
        home: name of the home memory.

    Returns:
        The state at the end.

    Raises:
        InternalError: if anything reads what it should not.
    """
    planned = sorted(id(kernel.op) for kernel in entry.kernels)
    if planned != sorted(id(op) for op in graph.ops if isinstance(op, StructuredOp)):
        raise InternalError(f"the kernels of {entry.name} are not the operations of its graph")
    memory = Memory([op for op in graph.ops if isinstance(op, ReshapeOp)], statics)
    position = 0
    groups = []
    for group in entry.groups:
        GroupReplay(memory, group, position, cores).run()
        groups.append((position, position + len(group.kernels), group.tiles))
        position += len(group.kernels)
    for copy in entry.copies:
        _copy(memory, copy, position)
    memory.check_lives([*groups, (position, position + 1, 1)], home)
    values = {store.target: store.value for store in graph.stores}
    for target, storage in statics.items():
        value = values.get(target, target)
        content = memory.copies_of(storage)[0]
        if target.size and content.whole != memory.elements.base(value):
            raise InternalError(f"at the end of {entry.name} {target.name} does not hold {value.name}")
    return memory


def _copy(memory: Memory, copy: Copy, moment: int) -> None:
    who = f"a copy to {copy.target.name} at the end"
    value = copy.target.persistent
    if value is None or copy.bytes != copy.target.bytes or copy.bytes > copy.source.bytes:
        raise InternalError(f"{who} does not fill it")
    for storage in (copy.source, copy.target):
        memory.alive(storage, moment, moment + 1, who)
        memory.needed[storage] = max(memory.needed.get(storage, 0), copy.bytes)
    source = memory.copies_of(copy.source)[0]
    if not copy.bytes:
        return
    if source.whole is None or copy.source.copies != 1:
        raise InternalError(f"{who} takes something unfinished")
    memory.copies_of(copy.target)[0].fill(source.whole, value)
