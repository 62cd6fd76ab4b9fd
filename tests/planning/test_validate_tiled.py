"""The validator against planted faults in plans with tiles: every field of every class of a plan is corrupted in turn.

The plans have what the one for a machine with one memory (`test_validate`) has not: tiles with halos, sums that tiles
cut, double buffers, tensors that stay in the fast memory, homes that only transfers through a second buffer reach,
operations that are executed again, elements that are only initialised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from itertools import product
from typing import Any

import pytest
from tests.planning.test_axes import convolution, pooling, relu, tensor

from tilegrad.errors import InternalError
from tilegrad.ir.builder import Domain, Pieces, elementwise, reduce_sum, reshape, transpose
from tilegrad.ir.graph import Graph, Store, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.planning.mapping import Mapping
from tilegrad.planning.plan import (
    Copy,
    EntryPlan,
    Group,
    Kernel,
    LevelUse,
    Plan,
    Storage,
    Transfer,
    Window,
)
from tilegrad.planning.planner import plan_program
from tilegrad.planning.span import Span, TileLoop
from tilegrad.planning.validate import validate_plan
from tilegrad.targets import get_target
from tilegrad.targets.base import Target
from tilegrad.training.assemble import assemble, select_trainable
from tilegrad.training.losses import MSE
from tilegrad.training.optimizers import SGD
from tilegrad.transforms.pipeline import transform

#: What the validator cannot see, because nothing but readers and the speed of the program depends on it.
FOR_READERS = {(Plan, "notes"), (Group, "reason"), (Group, "cycles"), (Mapping, "hoist")}
#: Objects of one class that are corrupted in each entry point, evenly chosen; the test takes time in proportion.
MOST = {"training": 2, "inference": 6}
LENGTH = 32


@dataclass(frozen=True)
class Planned:
    """A valid plan, with what it was made from."""

    plan: Plan
    graphs: list[Graph]
    target: Target

    def complains(self) -> bool:
        try:
            validate_plan(self.plan, self.graphs, self.target)
        except InternalError:
            return True
        return False


@cache
def training() -> Planned:
    """A training program whose state does not fit into L2: L3 homes, bounce buffers and recomputed operations."""
    half = (LENGTH - 3) // 2 + 1
    graph = Graph("model")
    x = Value("x", (2, 2, LENGTH), DType.F32, Kind.INPUT)
    w = Value("w", (4, 2, 5), DType.F32, Kind.PARAMETER)
    v = Value("v", (4 * half, 24), DType.F32, Kind.PARAMETER)
    graph.inputs.append(x)
    graph.parameters.update({"w": w, "v": v})
    with graph.building():
        d = Domain()
        n, k, i = d.parallel(2, 4, LENGTH)
        c, r = d.reduction(2, 5)
        y = d.sum(x[n, c, i + r - 2] * w[k, c, r], (n, k, i))
        average = reduce_sum(y, (0, 2)) / (2.0 * LENGTH)
        y = relu(elementwise(lambda a, b: a - b, y, reshape(average, (4, 1))))
        d = Domain()
        n, k, i = d.parallel(2, 4, half)
        (r,) = d.reduction(3)
        y = reshape(d.argmax(y[n, k, i * 2 + r], (n, k, i))[0], (2, 4 * half))
        d = Domain()
        n, m = d.parallel(2, 24)
        (s,) = d.reduction(4 * half)
        graph.results.append(d.sum(y[n, s] * v[s, m], (n, m)))
    options = {"accumulate": 1, "mean": True, "clip_norm": None, "fuse": False}
    chosen = select_trainable(graph, "*")
    entries = assemble(graph, chosen, MSE(), SGD(lr=0.1, momentum=0.9), **options).entries  # type: ignore[arg-type]
    for entry in entries:
        transform(entry)
    target = get_target("siracusa").with_cores(2).with_memory("L1", 4096).with_memory("L2", 14_000)
    return Planned(plan_program(entries, target), list(entries), target)


@cache
def inference() -> Planned:
    """Convolution, activation and pooling in tiles with a halo, a padding, and two tensors that are exchanged."""
    graph = Graph("predict")
    mean, other = (Value(name, (4, 4), DType.F32, Kind.BUFFER) for name in ("mean", "other"))
    with graph.building():
        y = pooling(relu(convolution(tensor(2, 1024), 4, 3, pad=1)), 4)
        pieces, d = Pieces((4, 300), init=0.0), Domain()
        k, i = d.parallel(4, 256)
        pieces.assign(d, y[k, i], (k, i + 20))
        padded = pieces.finish()
        turned = elementwise(lambda a: a * 2.0, transpose(other, (1, 0)))
        back = elementwise(lambda a: a + 1.0, transpose(mean, (1, 0)))
    output = Value("o", padded.shape, DType.F32, Kind.OUTPUT)
    graph.stores = [Store(output, padded), Store(mean, turned), Store(other, back)]
    transform(graph)
    target = get_target("siracusa").with_cores(2).with_memory("L1", 2048 + 3000)
    return Planned(plan_program([graph], target), [graph], target)


PLANS: dict[str, Callable[[], Planned]] = {"training": training, "inference": inference}


@dataclass
class Fault:
    """A corruption of one field: how to plant it, how to undo it, and when it is none."""

    kind: type
    field: str
    name: str
    apply: Callable[[], None]
    undo: Callable[[], None]
    harmless: Callable[[], bool] = lambda: False


def _assign(target: Any, field: str, value: Any) -> None:
    object.__setattr__(target, field, value)


def attribute(target: Any, field: str, value: Any, harmless: Callable[[], bool] = lambda: False) -> Fault:
    before = getattr(target, field)
    name = f"{getattr(target, 'name', type(target).__name__)}.{field} = {value}"
    return Fault(
        type(target), field, name, partial(_assign, target, field, value), partial(_assign, target, field, before),
        harmless,
    )  # fmt: skip


def item(
    owner: Any, table: dict[Any, Any], key: Any, value: Any, kind: type, field: str,
    harmless: Callable[[], bool] = lambda: False,
) -> Fault:  # fmt: skip
    before = dict(table)

    def undo() -> None:
        table.clear()
        table.update(before)

    def apply() -> None:
        if value is None:
            del table[key]
        else:
            table[key] = value

    name = f"{getattr(owner, 'name', type(owner).__name__)}[{getattr(key, 'name', key)}].{field} = {value}"
    return Fault(kind, field, name, apply, undo, harmless)


def chosen(objects: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, evenly distributed."""
    step = max(len(objects) / most, 1.0)
    return [objects[int(k * step)] for k in range(min(most, len(objects)))]


def without(sequence: Sequence[Any], k: int) -> Any:
    return type(sequence)([*sequence[:k], *sequence[k + 1 :]])  # type: ignore[call-arg]


def rearranged(owner: Any, field: str) -> Iterator[Fault]:
    """A list of parts that lacks one, has one twice, or has two exchanged."""
    parts = getattr(owner, field)
    for k in range(len(parts)):
        yield attribute(owner, field, without(parts, k))
        yield attribute(owner, field, [*parts[: k + 1], *parts[k:]])


# Spans


def evaluated(span: Span, loops: Sequence[TileLoop]) -> list[tuple[int, int, int, int]]:
    """What a span means in every tile: first and last element, first element of its buffer, size of the buffer."""
    size = max(min(sum(abs(s) * loops[loop].step for loop, s in span.terms) + span.extra, span.extent), 0)
    found = []
    for starts in product(*(range(0, loop.extent, loop.step) for loop in loops)):
        begin, length = span.offset, span.extra
        for loop, scale in span.terms:
            count = min(loops[loop].step, loops[loop].extent - starts[loop])
            begin += scale * (starts[loop] if scale > 0 else starts[loop] + count)
            length += abs(scale) * count
        first, last = max(begin, 0), min(begin + length, span.extent)
        found.append((first, last, min(first, span.extent - size), size))
    return found


def span_variants(span: Span, loops: Sequence[TileLoop]) -> Iterator[tuple[str, Span]]:
    for field in ("offset", "extra", "extent"):
        for change in (1, -1):
            yield field, replace(span, **{field: getattr(span, field) + change})
    for k, (loop, scale) in enumerate(span.terms):
        for terms in (
            (),
            ((loop, scale + 1),),
            ((loop, -scale),),
            ((loop + 1, scale),),
            ((loop, scale), (loop, scale)),
        ):
            yield "terms", replace(span, terms=(*span.terms[:k], *terms, *span.terms[k + 1 :]))
    if not span.terms and loops:
        yield "terms", replace(span, terms=((0, 1),))


def span_faults(
    spans: Sequence[Span], loops: Sequence[TileLoop], plant: Callable[[tuple[Span, ...], type, str, Any], Fault]
) -> Iterator[Fault]:
    for axis, span in enumerate(spans):
        for field, variant in span_variants(span, loops):
            changed = (*spans[:axis], variant, *spans[axis + 1 :])

            def same(one: Span = span, other: Span = variant) -> bool:
                return one.extent == other.extent and evaluated(one, loops) == evaluated(other, loops)

            yield plant(changed, Span, field, same)


def window_faults(
    window: Window, loops: Sequence[TileLoop], plant: Callable[[Window, type, str, Any], Fault]
) -> Iterator[Fault]:
    def never() -> bool:
        return False

    for change in (1, -1):
        yield plant(replace(window, depth=window.depth + change), Window, "depth", never)
    if window.spans:
        yield plant(replace(window, spans=window.spans[1:]), Window, "spans", never)
    yield plant(replace(window, spans=(*window.spans, Span.whole(1))), Window, "spans", never)
    yield from span_faults(
        window.spans, loops, lambda spans, kind, field, same: plant(replace(window, spans=spans), kind, field, same)
    )


# Storages


def placed_well(planned: Planned) -> bool:
    """Whether no byte of an arena belongs to two storages that are alive together, and none is outside or unaligned."""
    alignments = {memory.name: memory.alignment for memory in planned.target.memories}
    for entry in planned.plan.entries:
        storages = [s for s in entry.storages if s.offset is not None]
        for moment in range(len(entry.kernels) + 1):
            bytes_of: dict[tuple[str, int], Storage] = {}
            for s in storages:
                if not s.lower <= moment < s.upper:
                    continue
                assert s.offset is not None
                if s.offset % alignments[s.level] or not 0 <= s.offset <= entry.arenas[s.level] - s.total:
                    return False
                for address in range(s.offset, s.offset + s.total):
                    if bytes_of.setdefault((s.level, address), s) is not s:
                        return False
    return True


def storage_faults(planned: Planned, entry: EntryPlan, most: int) -> Iterator[Fault]:
    placed = [s for s in entry.storages if s.offset is not None]
    foreign = Value("foreign", (1,), DType.F32, Kind.TEMPORARY)
    other = {level: next(name for name in planned.plan.memory if name != level) for level in planned.plan.memory}
    for s in chosen(placed, 2 * most):
        assert s.offset is not None
        for field, changes in (("bytes", (4, -4)), ("lower", (1, -1)), ("upper", (1, -1)), ("stride", (4, -4))):
            for change in changes:
                yield attribute(s, field, getattr(s, field) + change)
        for offset in sorted({0, s.offset + 1, s.offset + 64, s.offset - 64, *(o.offset or 0 for o in placed[:4])}):
            if offset != s.offset:
                yield attribute(s, "offset", offset, partial(placed_well, planned))
        yield attribute(s, "offset", None)
        yield attribute(s, "copies", 3 - s.copies)
        yield attribute(s, "level", "nowhere")
        yield attribute(s, "level", other[s.level])
        yield attribute(s, "values", [])
        yield attribute(s, "values", [*s.values, foreign])
        yield attribute(s, "persistent", planned.plan.persistent[0].persistent)
        yield attribute(s, "name", placed[0].name if s is not placed[0] else "a b")
    for s in chosen(planned.plan.persistent, most):
        yield attribute(s, "bytes", s.bytes + 4)
        yield attribute(s, "offset", 0)
        yield attribute(s, "level", other[s.level])
        yield attribute(s, "values", [foreign])
        yield attribute(s, "persistent", None)
        yield attribute(s, "copies", 2)
        yield attribute(s, "stride", 4)
        yield attribute(s, "name", "a b")


# Kernels, transfers, groups


def mapping_variants(mapping: Mapping) -> Iterator[tuple[str, Mapping]]:
    """Loop structures that would evaluate something else, or on other cores; the others differ in speed only."""
    many = len(mapping.order) + 1
    yield "order", replace(mapping, order=mapping.order[1:] if mapping.order else (0,))
    yield "order", replace(mapping, order=(*mapping.order[:-1], many))
    yield "vector", replace(mapping, vector=many)
    yield "tile", replace(mapping, tile=((many, 2),))
    yield "tile", replace(mapping, tile=(*mapping.tile, (0, 0)))
    yield "unroll", replace(mapping, unroll=((many, 2),))
    yield "unroll", replace(mapping, unroll=(*mapping.unroll, (0, 0)))
    yield "width", replace(mapping, width=0)
    yield "team", replace(mapping, team=not mapping.team)
    yield "divided", replace(mapping, divided=-1)
    yield "divided", replace(mapping, divided=many)
    if not mapping.divided:
        yield "cyclic", replace(mapping, cyclic=True)


def kernel_faults(entry: EntryPlan, group: Group, kernel: Kernel) -> Iterator[Fault]:
    loops = group.loops
    yield attribute(kernel, "name", entry.groups[0].name)
    others = [k.op for k in entry.kernels if k is not kernel]
    for op in chosen(others, 3):
        yield attribute(kernel, "op", op)
    for field in ("reads", "writes"):
        table: dict[Value, Storage] = getattr(kernel, field)
        for value, storage in list(table.items()):
            for other in chosen([s for s in entry.storages if s is not storage], 4):
                yield item(kernel, table, value, other, Kernel, field)
            yield item(kernel, table, value, None, Kernel, field)
    yield attribute(kernel, "in_place", [] if kernel.in_place else [entry.storages[0]])
    for value, window in list(kernel.windows.items()):
        yield item(kernel, kernel.windows, value, None, Kernel, "windows")
        yield from window_faults(
            window, loops,
            lambda changed, kind, field, same, value=value:  # type: ignore[misc]
                item(kernel, kernel.windows, value, changed, kind, field, same),
        )  # fmt: skip
    yield attribute(kernel, "ranges", kernel.ranges[1:])
    for n, spans in enumerate(kernel.ranges):

        def plant(changed: tuple[Span, ...], kind: type, field: str, same: Any, n: int = n) -> Fault:
            fault = attribute(kernel, "ranges", (*kernel.ranges[:n], changed, *kernel.ranges[n + 1 :]), same)
            return replace(fault, kind=kind, field=field)

        yield plant(spans[1:] if spans else (Span.whole(1),), Kernel, "ranges", lambda: False)
        yield from span_faults(spans, loops, plant)
    yield attribute(kernel, "mappings", kernel.mappings[1:])
    for n, mapping in enumerate(kernel.mappings):
        for field, variant in mapping_variants(mapping):
            changed = (*kernel.mappings[:n], variant, *kernel.mappings[n + 1 :])
            yield replace(attribute(kernel, "mappings", changed), kind=Mapping, field=field)
    yield attribute(kernel, "cut", () if kernel.cut else (0,))
    yield attribute(kernel, "cut", (*kernel.cut, len(loops)))
    for value, boxes in list(kernel.filled.items()):
        yield item(kernel, kernel.filled, value, None, Kernel, "filled")
        yield from span_faults(
            boxes, loops,
            lambda changed, kind, field, same, value=value:  # type: ignore[misc]
                item(kernel, kernel.filled, value, changed, kind, field, same),
        )  # fmt: skip
    if not kernel.filled:
        output = kernel.op.outputs[0]
        yield item(kernel, kernel.filled, output, tuple(map(Span.whole, output.shape)), Kernel, "filled")


def transfer_faults(entry: EntryPlan, group: Group, transfer: Transfer) -> Iterator[Fault]:
    yield attribute(transfer, "storage", transfer.home)
    yield attribute(transfer, "home", transfer.storage)
    for field in ("storage", "home"):
        for other in chosen([s for s in entry.storages if s is not getattr(transfer, field)], 4):
            yield attribute(transfer, field, other)
    values = {v: None for kernel in entry.kernels for v in (*kernel.reads, *kernel.writes) if v is not transfer.value}
    for value in chosen(list(values), 4):
        yield attribute(transfer, "value", value)
    yield attribute(transfer, "inward", not transfer.inward)
    yield attribute(transfer, "via", transfer.storage if transfer.via is None else None)
    if transfer.via is not None:
        for other in chosen([s for s in entry.storages if s is not transfer.via], 4):
            yield attribute(transfer, "via", other)

    def plant(changed: Window, kind: type, field: str, same: Any) -> Fault:
        return replace(attribute(transfer, "window", changed, same), kind=kind, field=field)

    yield plant(Window(tuple(map(Span.whole, (*transfer.value.shape, 1))), 0), Transfer, "window", lambda: False)
    yield from window_faults(transfer.window, group.loops, plant)


def group_faults(entry: EntryPlan, group: Group) -> Iterator[Fault]:
    yield attribute(group, "name", entry.kernels[0].name)
    yield attribute(group, "overlap", not group.overlap)
    for field in ("kernels", "loads", "stores"):
        yield from rearranged(group, field)
    if len(group.kernels) > 1:
        yield attribute(group, "kernels", group.kernels[::-1])
    yield attribute(group, "loops", (*group.loops, TileLoop(2, 1)))
    for k, loop in enumerate(group.loops):
        yield attribute(group, "loops", without(group.loops, k))
        for field, change in (("extent", 1), ("extent", -1), ("extent", loop.step), ("step", 1), ("step", -1)):
            changed = replace(loop, **{field: getattr(loop, field) + change})
            fault = attribute(group, "loops", (*group.loops[:k], changed, *group.loops[k + 1 :]))
            yield replace(fault, kind=TileLoop, field=field)


def entry_faults(entry: EntryPlan, most: int) -> Iterator[Fault]:
    yield attribute(entry, "name", "other")
    for field in ("groups", "storages"):
        yield from chosen(list(rearranged(entry, field)), 2 * most)
    for field in ("arenas", "lower_bounds"):
        table = getattr(entry, field)
        for level in list(table):
            for value in (table[level] + 64, table[level] - 64, None):
                yield item(entry, table, level, value, EntryPlan, field)
    statics = [s for s in entry.storages if s.persistent is not None]
    yield attribute(entry, "copies", [*entry.copies, Copy(statics[0], statics[-1], statics[0].bytes)])
    for k, copy in enumerate(entry.copies):
        yield attribute(entry, "copies", without(entry.copies, k))
        for other in chosen([s for s in entry.storages if s not in (copy.source, copy.target)], most):
            for field in ("target", "source"):
                yield attribute(copy, field, other)
        for change in (4, -4):
            yield attribute(copy, "bytes", copy.bytes + change)


def plan_faults(planned: Planned) -> Iterator[Fault]:
    plan = planned.plan
    yield attribute(plan, "target", "other")
    for level in plan.memory:
        if level != plan.level:
            yield attribute(plan, "level", level)
    yield from rearranged(plan, "entries")
    yield from rearranged(plan, "persistent")
    yield attribute(plan, "constants", [*plan.constants, plan.persistent[0]])
    yield attribute(plan, "cores", plan.cores + 1)
    yield attribute(plan, "far", ())
    yield attribute(plan, "far", (*plan.far, plan.level))
    for level, size in list(plan.arenas.items()):
        for value in (size + 64, size - 64, None):
            yield item(plan, plan.arenas, level, value, Plan, "arenas")
    for level, use in list(plan.memory.items()):
        yield item(plan, plan.memory, level, None, Plan, "memory")
        for field in ("peak", "lower_bound", "capacity", "static", "reserved"):
            for change in (64, -64):
                changed = replace(use, **{field: getattr(use, field) + change})
                yield item(plan, plan.memory, level, changed, LevelUse, field)
        yield item(plan, plan.memory, level, replace(use, capacity=None), LevelUse, "capacity")


def faults(planned: Planned, most: int) -> Iterator[Fault]:
    """The faults of a plan, of at most `most` objects of each class in every entry point."""
    yield from plan_faults(planned)
    for entry in planned.plan.entries:
        yield from entry_faults(entry, most)
        yield from storage_faults(planned, entry, most)
        for group in chosen(entry.groups, most):
            yield from group_faults(entry, group)
        for group, kernel in chosen([(g, k) for g in entry.groups for k in g.kernels], most):
            yield from kernel_faults(entry, group, kernel)
        for group, transfer in chosen([(g, t) for g in entry.groups for t in (*g.loads, *g.stores)], most):
            yield from transfer_faults(entry, group, transfer)


def test_the_plans_have_what_tiles_can_have() -> None:
    plans = [PLANS[name]().plan for name in PLANS]
    groups = [group for plan in plans for entry in plan.entries for group in entry.groups]
    kernels = [kernel for group in groups for kernel in group.kernels]
    transfers = [t for group in groups for t in (*group.loads, *group.stores)]
    spans = [(group, span) for group in groups for t in group.loads for span in t.window.spans]
    assert any(group.overlap for group in groups)
    assert any(t.storage.copies == 2 for t in transfers)
    assert any(t.via is not None and t.inward for t in transfers)
    assert any(t.via is not None and not t.inward for t in transfers)
    assert any(span.terms and span.extra for _, span in spans)  # a halo
    assert any(group.loops and not group.loops[0].exact for group in groups)
    assert any(kernel.cut for kernel in kernels)
    assert any(kernel.filled for kernel in kernels)
    assert any(kernel.in_place for group in groups if group.tiles > 1 for kernel in group.kernels)
    assert any("computed again" in note for plan in plans for note in plan.notes)
    stays = {s for k in kernels for v, s in k.writes.items() if s.level == "L1"}
    moved = {t.storage for t in transfers}
    assert any(s in stays - moved for group in groups for k in group.kernels for s in k.reads.values())


def test_faults_are_planted_in_every_field() -> None:
    planted = {(f.kind, f.field) for name in PLANS for f in faults(PLANS[name](), 9)}
    classes = (Plan, EntryPlan, Group, TileLoop, Kernel, Window, Span, Transfer, Storage, LevelUse, Copy, Mapping)
    every = {(kind, field.name) for kind in classes for field in fields(kind)}
    assert planted | FOR_READERS == every
    assert not planted & FOR_READERS


@pytest.mark.parametrize("name", PLANS)
def test_every_planted_fault_is_caught(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    planned = PLANS[name]()
    validate_plan(planned.plan, planned.graphs, planned.target)
    planted = caught = harmless = 0
    missed = []
    for fault in faults(planned, MOST[name]):
        fault.apply()
        try:
            if planned.complains():
                caught, planted = caught + 1, planted + 1
            elif fault.harmless():
                harmless += 1
            else:
                planted += 1
                missed.append(f"{fault.kind.__name__}.{fault.field}: {fault.name}")
        finally:
            fault.undo()
    with capsys.disabled():
        print(f"\nfaults in the {name} plan caught/planted: {caught}/{planted}, and {harmless} that change nothing")
    assert not missed
    assert planted > 500
    validate_plan(planned.plan, planned.graphs, planned.target)
