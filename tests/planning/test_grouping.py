"""Groups and their tiles: what shares a loop, what stays within the fast memory, buffering."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.planning.test_axes import convolution, pooling, relu, tensor
from tests.transforms.test_random_networks import Network

from tilegrad.errors import DoesNotFitError
from tilegrad.ir.builder import Domain, elementwise
from tilegrad.ir.graph import Graph, Store, StructuredOp, Value, clone
from tilegrad.ir.types import DType, Kind
from tilegrad.planning.plan import EntryPlan, Plan
from tilegrad.planning.planner import Options, plan_program
from tilegrad.planning.validate import validate_plan
from tilegrad.targets import get_target
from tilegrad.transforms.pipeline import transform

STACK = 1024
BUFFERING = ("single", "double", "auto")


def drawn(seed: int) -> Graph:
    """A drawn network, forward and backward."""
    network = Network(seed)
    graph = clone(network.graph, "train")
    graph.stores = [Store(Value("o", v.shape, v.dtype, Kind.OUTPUT), v) for v in network.outputs]
    transform(graph)
    return graph


def traced(body: Callable[[], Value]) -> Graph:
    graph = Graph("train")
    with graph.building():
        result = body()
    graph.stores.append(Store(Value("o", result.shape, result.dtype, Kind.OUTPUT), result))
    return graph


def planned(graph: Graph, room: int, *, buffering: str = "auto", cores: int = 1) -> Plan:
    """The plan with so many bytes of L1 beside the stacks, validated."""
    target = get_target("siracusa").with_cores(cores).with_memory("L1", cores * STACK + room)
    plan = plan_program([graph], target, Options(buffering=buffering))
    validate_plan(plan, [graph])
    assert plan.memory["L1"].peak <= cores * STACK + room
    return plan


def entry_of(plan: Plan) -> EntryPlan:
    (entry,) = plan.entries
    return entry


def block() -> Value:
    """A convolution over 4 KiB of each channel, its activation and a pooling."""
    return pooling(relu(convolution(tensor(4, 1024), 8, 3, pad=1)), 4)


def test_a_convolution_its_activation_and_pooling_share_their_tiles() -> None:
    plan = planned(traced(block), 24 << 10, buffering="single", cores=8)
    entry = entry_of(plan)
    assert [len(group.kernels) for group in entry.groups if group.tiles > 1] == [3]
    (group,) = [group for group in entry.groups if group.tiles > 1]
    between = {value for kernel in group.kernels[:2] for value in kernel.writes}
    assert not between & {value for s in entry.storages if s.level == "L2" for value in s.values}
    assert [transfer.value for transfer in group.stores] == list(group.kernels[-1].writes)


@pytest.mark.parametrize("room", [1 << 10, 4 << 10, 16 << 10, 60 << 10])
def test_tiles_grow_with_the_room_and_stay_within_it(room: int) -> None:
    entry = entry_of(planned(traced(block), room, buffering="single"))
    for group in entry.groups:
        used = {s for k in group.kernels for s in (*k.reads.values(), *k.writes.values()) if s.level == "L1"}
        assert all(s.offset is not None and s.offset + s.total <= room for s in used)
    larger = entry_of(planned(traced(block), 2 * room, buffering="single"))
    assert sum(g.cycles for g in larger.groups) <= sum(g.cycles for g in entry.groups)


def test_without_room_kernels_work_on_the_homes() -> None:
    entry = entry_of(planned(traced(block), 0))
    assert all(not group.loads and not group.stores and group.tiles == 1 for group in entry.groups)
    assert all(s.level != "L1" for s in entry.storages)


def test_without_room_outputs_that_nobody_reads_have_homes_too() -> None:
    def body() -> Value:
        x, d = tensor(3, 32), Domain()
        c, i = d.parallel(3, 8)
        (r,) = d.reduction(4)
        return d.argmax(x[c, i * 4 + r], (c, i))[0]

    entry = entry_of(planned(traced(body), 0))
    positions = [v for k in entry.kernels for v in k.writes if v.dtype is not DType.F32]
    assert positions and all(entry.kernels[0].writes[v].level == "L2" for v in positions)


def test_buffering_is_the_users_choice() -> None:
    cycles = {}
    for buffering in BUFFERING:
        groups = entry_of(planned(traced(block), 24 << 10, buffering=buffering)).groups
        tiled = [group for group in groups if group.tiles > 1]
        assert tiled
        if buffering == "single":
            assert not any(group.overlap for group in tiled)
        if buffering == "double":
            assert all(group.overlap for group in tiled)
        copies = {transfer.storage.copies for group in tiled for transfer in (*group.loads, *group.stores)
                  if transfer.window.depth}  # fmt: skip
        assert buffering == "auto" or copies == {2 if buffering == "double" else 1}
        cycles[buffering] = sum(group.cycles for group in groups)
    assert cycles["auto"] <= min(cycles["single"], cycles["double"]) * 1.01


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("room", [0, 300, 1200, 8000])
def test_drawn_networks_keep_every_operation_once_behind_what_it_reads(seed: int, room: int) -> None:
    graph = drawn(seed)
    ops = [op for op in graph.ops if isinstance(op, StructuredOp)]
    plan = planned(graph, room, buffering=BUFFERING[seed % 3], cores=(1, 3, 8)[seed // 2])
    kernels = entry_of(plan).kernels
    assert sorted(map(id, (kernel.op for kernel in kernels))) == sorted(map(id, ops))


def test_a_buffer_between_two_operations_is_not_counted_where_it_is_not_needed() -> None:
    """Elementwise operations that follow each other take the place of their operand."""

    def body() -> Value:
        x = tensor(4096)
        for _ in range(6):
            x = elementwise(lambda v: v * v + 1.0, x)
        return x

    entry = entry_of(planned(traced(body), 8 << 10, buffering="single"))
    (group,) = entry.groups
    assert len(group.kernels) == 6
    assert len({s for k in group.kernels for s in (*k.reads.values(), *k.writes.values())}) == 1


def test_what_cannot_fit_says_how_much_would_do() -> None:
    graph = traced(block)
    target = get_target("siracusa").with_cores(8)
    with pytest.raises(DoesNotFitError, match=r"L1.*budget"):
        plan_program([graph], target.with_memory("L1", 4 << 10), Options())
