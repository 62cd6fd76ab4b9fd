"""Kernels, storages, in-place updates, lifetimes, names, limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tilegrad.errors import DoesNotFitError, InternalError
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import Domain, Pieces, elementwise, lookup, reduce_sum, reshape, transpose
from tilegrad.ir.expr import read
from tilegrad.ir.graph import Graph, Nest, Result, Store, StructuredOp, Value, current_graph
from tilegrad.ir.types import DType, Kind
from tilegrad.planning.plan import Plan, Storage
from tilegrad.planning.planner import plan_program
from tilegrad.planning.validate import validate_plan
from tilegrad.targets import get_target
from tilegrad.targets.base import Memory

HOST = get_target("host")


def value(name: str, *shape: int, kind: Kind = Kind.INPUT, dtype: DType = DType.F32) -> Value:
    return Value(name, shape, dtype, kind)


def weight(name: str, *shape: int) -> Value:
    return value(name, *shape, kind=Kind.PARAMETER)


def planned(*graphs: Graph) -> Plan:
    plan = plan_program(graphs, HOST)
    validate_plan(plan, graphs)
    return plan


def home(plan: Plan, target: Value) -> Storage:
    (entry,) = plan.entries
    for kernel in entry.kernels:
        if target in kernel.writes:
            return kernel.writes[target]
    raise AssertionError(f"{target.name} is not written")


def test_an_update_happens_in_place() -> None:
    graph, w, g = Graph("optimize"), weight("w", 4), value("g", 4)
    with graph.building():
        new = elementwise(lambda a, b: a - b, w, g)
    graph.stores.append(Store(w, new))
    plan = planned(graph)
    assert home(plan, new).persistent is w and not plan.entries[0].copies
    assert plan.entries[0].kernels[0].in_place == [home(plan, new)]


def update(new: Callable[[Value], Value], *after: Callable[[Value], Value]) -> tuple[Plan, Value, Value]:
    """A graph that replaces w by `new(w)` and then computes further results from w."""
    graph, w = Graph("train"), weight("w", 4, 4)
    with graph.building():
        updated = new(w)
        for k, body in enumerate(after):
            result = body(w)
            graph.stores.append(Store(value(f"o{k}", *result.shape, kind=Kind.OUTPUT), result))
    graph.stores.append(Store(w, updated))
    return planned(graph), w, updated


def windowed(w: Value) -> Value:
    d = Domain()
    i, j = d.parallel(4, 4)
    (r,) = d.reduction(2)
    return d.sum(w[i, j + r], (i, j))


def symmetric(w: Value) -> Value:
    d = Domain()
    i, j = d.parallel(4, 4)
    return d.assign(w[i, j] + w[j, i], (i, j))


def started(w: Value) -> Value:
    """A sum over something else that continues in w."""
    graph, x = Graph(), value("x", 4, 4, 3)
    with graph.building():
        d = Domain()
        i, j = d.parallel(4, 4)
        (r,) = d.reduction(3)
        output = Value("next", (4, 4))
        rows = (i, j)
        nest = Nest((4, 4, 3), 2, (), (Result((output,), rows, "sum", (x[i, j, r],), read(w, rows)),))
    current_graph().add(StructuredOp((output,), (nest,)))
    return output


@pytest.mark.parametrize("new", [
    lambda w: w * 2.0,
    lambda w: elementwise(lambda a, b: a + b, w, reduce_sum(w)),
    started,
])  # fmt: skip
def test_element_by_element_replacements_are_in_place(new: Callable[[Value], Value]) -> None:
    plan, w, updated = update(new)
    assert home(plan, updated).persistent is w and not plan.entries[0].copies


@pytest.mark.parametrize("new", [
    lambda w: transpose(w, (1, 0)),
    windowed,
    lambda w: symmetric(w),
])  # fmt: skip
def test_other_replacements_are_not(new: Callable[[Value], Value]) -> None:
    """Elements that are read after they would have been replaced."""
    plan, w, _ = update(new)
    (entry,) = plan.entries
    in_place = [storage.persistent for kernel in entry.kernels for storage in kernel.in_place]
    assert w not in in_place


def test_a_replacement_through_views_is_in_place() -> None:
    plan, w, _ = update(lambda w: reshape(elementwise(lambda a: a * 2.0, reshape(w, (16,))), (4, 4)))
    (entry,) = plan.entries
    assert w in [storage.persistent for kernel in entry.kernels for storage in kernel.in_place]


def test_a_tensor_that_is_read_later_is_replaced_at_the_end() -> None:
    plan, w, _ = update(lambda w: w * 2.0, lambda w: reduce_sum(reshape(w, (16,))))
    assert [copy.target.persistent for copy in plan.entries[0].copies] == [w]


def test_a_tensor_that_is_stored_elsewhere_is_replaced_behind_that() -> None:
    graph, w, kept = Graph("train"), weight("w", 4), value("kept", 4, kind=Kind.BUFFER)
    with graph.building():
        new = w * 2.0
    graph.stores.extend([Store(w, new), Store(kept, w)])
    plan = planned(graph)
    assert [copy.target.persistent for copy in plan.entries[0].copies] == [kept, w]


def test_a_value_stored_twice_is_computed_once_and_copied() -> None:
    graph, x = Graph("train"), value("x", 4)
    first, second = value("a", 4, kind=Kind.OUTPUT), value("b", 4, kind=Kind.OUTPUT)
    with graph.building():
        y = x * 2.0
    graph.stores.extend([Store(first, y), Store(second, y)])
    plan = planned(graph)
    assert home(plan, y).persistent is first
    assert [(c.target.persistent, c.source.persistent) for c in plan.entries[0].copies] == [(second, first)]


def test_tensors_cannot_change_places() -> None:
    graph, a, b = Graph("train"), weight("a", 4), weight("b", 4)
    graph.stores.extend([Store(a, b), Store(b, a)])
    with pytest.raises(InternalError, match="exchange"):
        plan_program([graph], HOST)


def test_an_input_is_kept_by_a_copy() -> None:
    graph, x, o = Graph("train"), value("x", 4), value("o", 2, 2, kind=Kind.OUTPUT)
    with graph.building():
        view = reshape(x, (2, 2))
    graph.stores.append(Store(o, view))
    assert [copy.source.persistent for copy in planned(graph).entries[0].copies] == [x]


def chain(*steps: Callable[[Value], Value]) -> tuple[Plan, list[Value]]:
    graph, x = Graph("train"), value("x", 8, 8)
    values = [x]
    with graph.building():
        for step in steps:
            values.append(step(values[-1]))
        total = reduce_sum(values[-1])
    graph.stores.append(Store(value("o", kind=Kind.OUTPUT), total))
    return planned(graph), values


def test_a_dying_operand_is_overwritten() -> None:
    plan, values = chain(lambda x: windowed_like(x), lambda x: x * 2.0, lambda x: x + 1.0)
    assert home(plan, values[1]) is home(plan, values[2]) is home(plan, values[3])


def windowed_like(x: Value) -> Value:
    d = Domain()
    i, j = d.parallel(8, 8)
    (r,) = d.reduction(2)
    return d.sum(x[i, j + r], (i, j))


def test_an_operand_that_lives_on_is_not() -> None:
    graph, x = Graph("train"), value("x", 8)
    with graph.building():
        first = x * 2.0
        second = first + 1.0
        total = reduce_sum(elementwise(lambda a, b: a * b, second, reshape(first, (8,))))
        view = reshape(first, (4, 2))
        total = total + reduce_sum(view)
    graph.stores.append(Store(value("o", kind=Kind.OUTPUT), total))
    plan = planned(graph)
    assert home(plan, first) is not home(plan, second)


def test_integers_do_not_take_the_place_of_floats() -> None:
    plan, values = chain(
        lambda x: windowed_like(x), lambda x: elementwise(lambda v: sc.cast(v, DType.I32), x),
        lambda n: elementwise(lambda v: sc.cast(v, DType.F32), n),
    )  # fmt: skip
    assert home(plan, values[1]) is not home(plan, values[2])


def test_a_table_is_not_overwritten_by_what_it_looks_up() -> None:
    graph, x = Graph("train"), value("x", 8, dtype=DType.I32)
    with graph.building():
        table = elementwise(lambda v: v + 1, x)
        d = Domain()
        (i,) = d.parallel(8)
        y = d.assign(table[i] + table[lookup(table, lookup(table, i))], (i,), init=0)
        nested = d.assign(x[lookup(table, lookup(table, i))], (i,), init=0)
        total = reduce_sum(y + nested)
    graph.stores.append(Store(value("o", kind=Kind.OUTPUT, dtype=DType.I32), total))
    plan = planned(graph)
    assert home(plan, table) is not home(plan, y)


def test_lives_cover_uses_and_memory_is_shared() -> None:
    plan, _ = chain(*(windowed_like for _ in range(6)))
    (entry,) = plan.entries
    for position, kernel in enumerate(entry.kernels):
        for storage in [*kernel.reads.values(), *kernel.writes.values()]:
            assert storage.persistent is not None or storage.lower <= position < storage.upper
    assert entry.arenas["ram"] == entry.lower_bounds["ram"] == 2 * 8 * 8 * 4


def test_entry_points_share_the_arena() -> None:
    x = value("x", 8, 8)
    graphs = []
    for name in ("train", "predict"):
        graph = Graph(name)
        with graph.building():
            total = reduce_sum(windowed_like(windowed_like(x)))
        graph.stores.append(Store(value(f"{name}.o", kind=Kind.OUTPUT), total))
        graphs.append(graph)
    plan = planned(*graphs)
    assert plan.arenas[plan.level] == max(entry.arenas[plan.level] for entry in plan.entries)
    assert sum(storage.persistent is x for storage in plan.persistent) == 1


def test_updates_move_up_to_where_their_gradients_die() -> None:
    """And an update waits for every reader of the weight, those through views included."""
    graph, x, w = Graph("step"), value("x", 8, 8), weight("w", 8, 8)
    with graph.building():
        with graph.scope("forward", "forward"):
            y = elementwise(lambda a, b: a * b, x, reshape(reshape(w, (64,)), (8, 8)))
        with graph.scope("backward", "backward"):
            gradient = windowed_like(y)
            late = reduce_sum(elementwise(lambda a, b: a + b, y, reshape(reshape(w, (64,)), (8, 8))))
            other = reduce_sum(late * late)
        with graph.scope("w", "optimizer"):
            new = elementwise(lambda a, b: a - b, w, gradient)
    graph.stores.extend([Store(w, new), Store(value("o", kind=Kind.OUTPUT), other)])
    plan = planned(graph)
    phases = [kernel.op.phase for kernel in plan.entries[0].kernels]
    assert phases[-1] != "optimizer" and "optimizer" in phases
    assert home(plan, new).persistent is w


HOSTILE = [
    "a", "A", "a.b", "a_b", "a-b", "", "_", "1", "int", "*/ int x; /*", 'q"; }', "new\nline", "ä", "日本", "x" * 500,
    "x" * 501, "tilegrad_arena", "tilegrad_init", "symbols", "../../etc", "??/", "\\", "%s", "\x00", "a b", "first",
]  # fmt: skip


def test_names_are_distinct_identifiers() -> None:
    graph = Graph("train")
    for name in HOSTILE * 2:
        x, o = value(name, 2), value(name, 2, kind=Kind.OUTPUT)
        with graph.building(), graph.scope(name):
            graph.stores.append(Store(o, x * 2.0))
    plan = planned(graph)
    names = [s.name for s in plan.persistent] + [k.name for k in plan.entries[0].kernels]
    assert len({name.lower() for name in names}) == len(names) == len(HOSTILE) * 2 * 3
    assert all(name.isascii() and name.isidentifier() and len(name) < 80 for name in names)


def test_a_memory_that_is_too_small_is_reported() -> None:
    small = replace(HOST, memories=(Memory("ram", capacity=100, alignment=4),))
    graph, x = Graph("train"), value("x", 100)
    graph.stores.append(Store(value("o", 100, kind=Kind.OUTPUT), x))
    with pytest.raises(DoesNotFitError, match="800 bytes of ram, which has 100"):
        plan_program([graph], small)


def sum_over(*shape: int) -> Graph:
    graph, x = Graph("train"), value("x", 1)
    with graph.building():
        d = Domain()
        (i,) = d.parallel(1)
        d.reduction(*shape)
        graph.stores.append(Store(value("o", 1, kind=Kind.OUTPUT), d.sum(x[i], (i,))))
    return graph


def huge_tensor(dtype: DType = DType.F32) -> Graph:
    graph, x = Graph("train"), value("x", 2**16, 2**15, dtype=dtype)
    with graph.building():
        graph.stores.append(
            Store(value("o", 2**16, 2**15, kind=Kind.OUTPUT, dtype=dtype), elementwise(lambda v: -v, x))
        )
    return graph


def huge_argmax() -> Graph:
    graph, x = Graph("train"), value("x", 1)
    with graph.building():
        d = Domain()
        r, _ = d.reduction(1, 2**16)
        d.reduction(2**16)
        y, _ = d.argmax(x[r], ())
    graph.stores.append(Store(value("o", kind=Kind.OUTPUT), y))
    return graph


@pytest.mark.parametrize("build, limit", [
    (lambda: sum_over(2**31), "counts up to"),
    (huge_tensor, "compilers address"),
    (huge_argmax, "counts up to"),
    (lambda: persistent_bytes(2**30), "compilers address"),
])  # fmt: skip
def test_what_exceeds_32_bits_is_refused(build: Callable[[], Graph], limit: str) -> None:
    with pytest.raises(DoesNotFitError, match=limit):
        plan_program([build()], HOST)


def persistent_bytes(count: int) -> Graph:
    graph, x = Graph("train"), value("x", count)
    with graph.building():
        graph.stores.append(Store(value("o", kind=Kind.OUTPUT), reduce_sum(x)))
    return graph


def test_a_long_sum_is_allowed() -> None:
    planned(sum_over(2**16, 2**16))  # loops count each for itself


def test_the_plan_is_data(tmp_path: Path) -> None:
    plan, _ = chain(windowed_like, lambda x: x * 2.0)
    text, data = plan.as_text(), plan.as_json()
    assert "entry train" in text and "in place over" in text and "memory ram" in text
    assert data["entries"][0]["groups"][0]["kernels"][0]["reads"] == ["input_x"]
    assert data["memory"]["ram"]["peak"] == plan.memory["ram"].peak


def test_empty_tensors_are_planned() -> None:
    graph, x = Graph("train"), value("x", 0, 3)
    with graph.building():
        y = x * 2.0
        z = elementwise(lambda a, b: a + b, windowed_empty(y), x)
        pieces = Pieces((0, 3), init=0.0)
        w = pieces.finish()
    outputs: Sequence[Value] = (y, z, w)
    for k, result in enumerate(outputs):
        graph.stores.append(Store(value(f"o{k}", 0, 3, kind=Kind.OUTPUT), result))
    planned(graph)


def windowed_empty(x: Value) -> Value:
    d = Domain()
    i, j = d.parallel(*x.shape)
    (r,) = d.reduction(2)
    return d.sum(x[i, j + r], (i, j))
