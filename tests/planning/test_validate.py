"""The validator against planted faults: every field of a valid plan is corrupted in turn.

A corrupted plan that still computes the right numbers (a buffer moved into a gap, two independent kernels exchanged) is
no fault. Which ones are is decided by executing the plan on bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tilegrad.errors import InternalError
from tilegrad.interpreter.execute import execute, initial
from tilegrad.ir.builder import Domain, elementwise, reduce_sum, reshape, transpose
from tilegrad.ir.graph import Graph, Store, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.planning.plan import Copy, EntryPlan, Plan, Storage
from tilegrad.planning.planner import plan_program
from tilegrad.planning.validate import validate_plan
from tilegrad.targets import get_target
from tilegrad.training.assemble import assemble, select_trainable
from tilegrad.training.losses import MSE
from tilegrad.training.optimizers import Adam
from tilegrad.transforms.pipeline import transform

Array = NDArray[Any]


def program() -> list[Graph]:
    """A training program with windows, views, in-place updates, accumulation and a copy at the end."""
    graph = Graph("model")
    x = Value("x", (2, 3, 9), DType.F32, Kind.INPUT)
    w = Value("w", (4, 3, 3), DType.F32, Kind.PARAMETER, np.linspace(-1, 1, 36, dtype=np.float32).reshape(4, 3, 3))
    v = Value("v", (36, 5), DType.F32, Kind.PARAMETER, np.linspace(1, -1, 180, dtype=np.float32).reshape(36, 5))
    mean = Value("mean", (4,), DType.F32, Kind.BUFFER)
    graph.inputs.append(x)
    graph.parameters.update({"w": w, "v": v})
    with graph.building():
        d = Domain()
        n, k, i = d.parallel(2, 4, 9)
        c, r = d.reduction(3, 3)
        y = d.sum(x[n, c, i + r - 1] * w[k, c, r], (n, k, i))
        average = reduce_sum(y, (0, 2)) / 18.0
        graph.stores.append(Store(mean, elementwise(lambda a, b: a * 0.9 + b, mean, average)))
        y = elementwise(lambda a, b: a - b, y, reshape(average, (4, 1)))
        y = elementwise(lambda a: a * a, y)
        d = Domain()
        n, m = d.parallel(2, 5)
        (s,) = d.reduction(36)
        graph.results.append(d.sum(reshape(y, (2, 36))[n, s] * v[s, m], (n, m)))
    options = {"accumulate": 2, "mean": True, "clip_norm": 1.0, "fuse": False}
    entries = assemble(graph, select_trainable(graph, "*"), MSE(), Adam(lr=0.1), **options).entries  # type: ignore[arg-type]
    with entries[1].building():  # a replacement that cannot happen in place
        turned = elementwise(lambda a, b: a + b, mean, reduce_sum(transpose(reshape(mean, (2, 2)), (1, 0))))
        late = reduce_sum(elementwise(lambda a: a * a, mean))
    entries[1].stores.extend([Store(mean, turned), Store(Value("late", (), DType.F32, Kind.OUTPUT), late)])
    for entry in entries:
        transform(entry)
    return entries


GRAPHS = program()
PLAN = plan_program(GRAPHS, get_target("host"))


class Memory:
    """The bytes of a program: an arena and static tensors."""

    def __init__(self, plan: Plan) -> None:
        self.arena = np.full(plan.arenas[plan.level], 0xCD, np.uint8)
        self.static: dict[int, Array] = {}
        rng = np.random.default_rng(0)
        for storage in [*plan.persistent, *plan.constants]:
            assert storage.persistent is not None
            value = storage.persistent
            data = rng.normal(size=value.shape) if value.kind is Kind.INPUT else initial(value)
            self.static[id(storage)] = np.frombuffer(np.asarray(data, value.dtype.numpy).tobytes(), np.uint8).copy()

    def bytes(self, storage: Storage, size: int) -> Array:
        if storage.offset is None:
            whole, begin = self.static[id(storage)], 0
        else:
            whole, begin = self.arena, storage.offset
        if begin < 0 or begin + size > len(whole):
            raise IndexError("outside the memory")
        return whole[begin : begin + size]

    def read(self, storage: Storage, value: Value) -> Array:
        return np.frombuffer(self.bytes(storage, value.bytes).tobytes(), value.dtype.numpy).reshape(value.shape)

    def run(self, entry: EntryPlan) -> None:
        for kernel in entry.kernels:
            env = {value: self.read(storage, value) for value, storage in kernel.reads.items()}
            with np.errstate(all="ignore"):
                execute(kernel.op, env, np.float32)
            for value, storage in kernel.writes.items():
                self.bytes(storage, value.bytes)[...] = np.frombuffer(env[value].tobytes(), np.uint8)
        for copy in entry.copies:
            self.bytes(copy.target, copy.bytes)[...] = self.bytes(copy.source, copy.bytes)


def outcome(plan: Plan) -> bytes:
    """All static tensors after two micro-batches and two updates; empty where the program would crash."""
    memory = Memory(plan)
    try:
        for _ in range(2):
            for entry in (plan.entries[0], plan.entries[0], plan.entries[1]):
                memory.run(entry)
    except (IndexError, KeyError, ValueError):
        return b""
    return b"".join(memory.static[id(storage)].tobytes() for storage in plan.persistent)


@dataclass
class Fault:
    """A corruption: apply and undo it. Where it does not change what the program computes, it is `visible` in print."""

    name: str
    apply: Callable[[], None]
    undo: Callable[[], None]
    visible: bool = False


def attribute(name: str, target: Any, field: str, value: Any, *, visible: bool = False) -> Fault:
    before = getattr(target, field)
    return Fault(name, lambda: setattr(target, field, value), lambda: setattr(target, field, before), visible)


def entry_in(name: str, table: dict[Any, Any], key: Any, value: Any) -> Fault:
    before = table[key]
    return Fault(name, lambda: table.__setitem__(key, value), lambda: table.__setitem__(key, before))


def storage_faults(entry: EntryPlan) -> Iterator[Fault]:
    placed = [storage for storage in entry.storages if storage.offset is not None]
    for storage in placed:
        assert storage.offset is not None
        where = f"{entry.name} {storage.name}"
        for offset in {0, storage.offset + 64, storage.offset - 64, *(s.offset for s in placed)}:
            if offset != storage.offset:
                yield attribute(f"{where} offset {offset}", storage, "offset", offset)
        yield attribute(f"{where} misaligned", storage, "offset", storage.offset + 1, visible=True)
        yield attribute(f"{where} beyond the arena", storage, "offset", PLAN.arenas[PLAN.level], visible=True)
        yield attribute(f"{where} static", storage, "offset", None, visible=True)
        yield attribute(f"{where} too small", storage, "bytes", storage.bytes - 4, visible=True)
        yield attribute(f"{where} born late", storage, "lower", storage.lower + 1, visible=True)
        yield attribute(f"{where} dies early", storage, "upper", storage.upper - 1, visible=True)


def kernel_faults(entry: EntryPlan) -> Iterator[Fault]:
    kernels = entry.kernels
    for position, kernel in enumerate(kernels):
        for table, what in ((kernel.reads, "reads"), (kernel.writes, "writes")):
            for value, storage in table.items():
                for other in entry.storages:
                    if other is not storage and other.bytes >= value.bytes:
                        yield entry_in(f"{kernel.name} {what} {value.name} in {other.name}", table, value, other)
        groups = entry.groups  # of one kernel each: the host has one memory
        for other in range(position + 1, len(kernels)):
            swapped = list(groups)
            swapped[position], swapped[other] = swapped[other], swapped[position]
            yield attribute(f"{entry.name} kernels {position} and {other}", entry, "groups", swapped)
        rest = [group for group in groups if group is not groups[position]]
        yield attribute(f"{kernel.name} dropped", entry, "groups", rest, visible=True)
        yield attribute(f"{kernel.name} twice", entry, "groups", [*groups, groups[position]], visible=True)
        others = [*kernel.in_place[1:]] if kernel.in_place else [entry.storages[0]]
        yield attribute(f"{kernel.name} in-place note", kernel, "in_place", others, visible=True)
        if position:
            yield attribute(f"{kernel.name} named twice", kernel, "name", kernels[0].name, visible=True)


def copy_faults(entry: EntryPlan) -> Iterator[Fault]:
    for position, copy in enumerate(entry.copies):
        rest = [c for c in entry.copies if c is not copy]
        yield attribute(f"{entry.name} copy {position} dropped", entry, "copies", rest)
        for other in entry.storages:
            if other.bytes >= copy.bytes and other not in (copy.source, copy.target):
                changed = [*rest, replace(copy, source=other)]
                yield attribute(f"{entry.name} copy {position} of {other.name}", entry, "copies", changed)
        short = [*rest, replace(copy, bytes=copy.bytes - 4)]
        yield attribute(f"{entry.name} copy {position} short", entry, "copies", short, visible=True)
    statics = [storage for storage in entry.storages if storage.persistent is not None]
    for storage in statics[1:]:
        for other in statics:
            if other is not storage and other.bytes >= storage.bytes:
                stray = [*entry.copies, Copy(storage, other, storage.bytes)]
                yield attribute(f"{entry.name} stray copy to {storage.name} of {other.name}", entry, "copies", stray)


def plan_faults() -> Iterator[Fault]:
    yield attribute("arena", PLAN, "arenas", {PLAN.level: PLAN.arenas[PLAN.level] - 64}, visible=True)
    yield attribute("entries", PLAN, "entries", PLAN.entries[::-1], visible=True)
    yield attribute("entry missing", PLAN, "entries", PLAN.entries[:1], visible=True)
    (level,) = PLAN.memory
    use = PLAN.memory[level]
    for wrong in (
        replace(use, peak=use.peak - 4096),
        replace(use, capacity=use.peak - 1),
        replace(use, lower_bound=10**9),
    ):
        yield entry_in(f"memory {wrong}", PLAN.memory, level, wrong)
    for storage in PLAN.persistent:
        yield attribute(f"{storage.name} size", storage, "bytes", storage.bytes + 4, visible=True)
        yield attribute(f"{storage.name} name", storage, "name", "a b", visible=True)
        yield attribute(f"{storage.name} is nobody's", storage, "persistent", None, visible=True)
    yield attribute("names", PLAN.persistent[0], "name", PLAN.persistent[1].name.upper(), visible=True)
    for entry in PLAN.entries:
        yield attribute(
            f"{entry.name} arena", entry, "arenas", {PLAN.level: entry.arenas[PLAN.level] - 64}, visible=True
        )


def faults() -> Iterator[Fault]:
    yield from plan_faults()
    for entry in PLAN.entries:
        yield from storage_faults(entry)
        yield from kernel_faults(entry)
        yield from copy_faults(entry)


def complains() -> bool:
    try:
        validate_plan(PLAN, GRAPHS)
    except (InternalError, ValueError):
        return True
    return False


def test_the_plan_is_valid_and_not_trivial() -> None:
    validate_plan(PLAN, GRAPHS)
    assert outcome(PLAN)
    assert any(entry.copies for entry in PLAN.entries)
    assert any(kernel.in_place for entry in PLAN.entries for kernel in entry.kernels)
    placed = [s for entry in PLAN.entries for s in entry.storages if s.offset is not None]
    assert len(placed) > 10


def test_every_planted_fault_is_caught(capsys: pytest.CaptureFixture[str]) -> None:
    expected = outcome(PLAN)
    planted = caught = harmless = 0
    missed = []
    for fault in faults():
        fault.apply()
        try:
            if complains():
                caught, planted = caught + 1, planted + 1
            elif fault.visible or outcome(PLAN) != expected:
                planted += 1
                missed.append(fault.name)
            else:
                harmless += 1
        finally:
            fault.undo()
    with capsys.disabled():
        print(f"\nfaults caught/planted: {caught}/{planted}, and {harmless} that change nothing")
    assert not missed
    assert planted > 500
    validate_plan(PLAN, GRAPHS)


def test_operands_that_are_read_after_their_element_was_replaced() -> None:
    """Executed element by element, a transposition in place is wrong, though whole tensors would not show it."""
    graph = Graph("train")
    x = Value("x", (4, 4), DType.F32, Kind.INPUT)
    with graph.building():
        first = elementwise(lambda a: a * 2.0, x)
        second = transpose(first, (1, 0))
        third = reduce_sum(second, 0)
    graph.stores.append(Store(Value("o", (4,), DType.F32, Kind.OUTPUT), third))
    plan = plan_program([graph], get_target("host"))
    (entry,) = plan.entries
    home = entry.kernels[0].writes[first]
    home.upper = entry.kernels[1].writes[second].upper
    entry.kernels[1].writes[second] = home
    entry.kernels[1].in_place.append(home)
    entry.kernels[2].reads[second] = home
    with pytest.raises(InternalError, match="while it still reads"):
        validate_plan(plan, [graph])
