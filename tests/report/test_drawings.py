"""What drawings and tables of the page are made of: scales, rates, memory over time, bytes of transfers."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

import tilegrad as tg
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.models import build_model
from tilegrad.planning.plan import Group, Storage, Transfer, Window
from tilegrad.planning.span import Span, TileLoop
from tilegrad.report.page import memory, svg
from tilegrad.report.page.schedule import traffic
from tilegrad.report.timeline import Execution, Movement, Timeline, rates, read_trace, stretches


def test_whatever_is_no_markup_is_escaped() -> None:
    found = svg.tag("g", "<&\"'>", Markup("<b/>"), class_='a"b<', stroke_width=1.5, x=None)
    assert found == '<g class="a&#34;b&lt;" stroke-width="1.5">&lt;&amp;&#34;&#39;&gt;<b/></g>'


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [(0, 10, 5, [0, 2, 4, 6, 8, 10]), (0.9, 2.1, 4, [1.0, 1.5, 2.0]), (-5, 5, 2, [-5, 0, 5]), (3, 3, 5, [3])],
)
def test_ticks_are_round(low: float, high: float, count: int, expected: list[float]) -> None:
    assert svg.ticks(low, high, count) == expected


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(1, 12))
@settings(derandomize=True, deadline=None)
def test_ticks_lie_inside_and_are_few(low: float, span: float, count: int) -> None:
    found = svg.ticks(low, low + span, count)
    assert len(found) <= 2 * count + 2
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in found)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (119_008, "119 kB"), (1_234_567, "1.23 MB"), (999_960, "1.00 MB")],
)
def test_sizes_have_three_digits(number: float, expected: str) -> None:
    assert svg.size(number) == expected


def test_text_is_cut_to_the_room_there_is() -> None:
    assert svg.fit("abcdefgh", 100) == "abcdefgh"
    assert svg.fit("abcdefgh", 40) == "abcde…"
    assert svg.fit("abcdefgh", 20) == ""


events = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 30), st.integers(0, 9)), max_size=8)


@given(events, st.integers(1, 16))
@settings(derandomize=True, deadline=None)
def test_rates_are_the_amounts_spread_over_time(found: list[tuple[int, int, int]], count: int) -> None:
    spans = [(first, first + length, float(amount)) for first, length, amount in found]
    got = rates(spans, 0, 80, count)
    by_cycle = np.zeros(80)
    for first, last, amount in spans:
        by_cycle[first:last] += amount / (last - first)
    total = np.concatenate([[0.0], np.cumsum(by_cycle)])
    expected = np.diff(np.interp(np.linspace(0, 80, count + 1), np.arange(81), total)) / (80 / count)
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_a_group_ends_with_its_last_store_and_the_next_one_begins_there() -> None:
    calls = [("a", 10, 20), ("a", 22, 30), ("b", 50, 60), ("c", 61, 70)]
    executions = tuple(Execution(name, core, begin + core, end, 0) for name, begin, end in calls for core in (0, 1))
    moved = [(2, 8, True), (20, 28, False), (31, 41, False), (42, 49, True), (70, 76, False)]
    movements = tuple(Movement(begin, end, 64, inwards, 0, 0x10000000) for begin, end, inwards in moved)
    found = stretches(Timeline(executions, movements), {"a": "first", "b": "second", "c": "second"})
    assert [(s.group, s.begin, s.end) for s in found] == [("first", 2, 41), ("second", 41, 76)]


def test_a_trace_is_read() -> None:
    trace = {
        "traceEvents": [
            {"ph": "M", "name": "process_name", "pid": 0, "tid": 0, "args": {"name": "cores"}},
            {"cat": "kernel", "name": "k", "ts": 5, "dur": 7, "tid": 3, "args": {"tile": 1, "multiply-adds": 11}},
            {"cat": "sleep", "name": "waits", "ts": 5, "dur": 7, "tid": 3, "args": {}},
            {"cat": "dma", "name": "2D 96 bytes", "ts": 1, "dur": 3, "tid": 1, "args": {"L1": "0x10000040", "core": 0}},
        ]
    }
    found = read_trace(trace)
    assert found.executions == (Execution("k", 3, 5, 12, 11),)
    assert found.movements == (Movement(1, 4, 96, True, 0, 0x10000040),)
    assert (found.begin, found.end) == (1, 12)


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[TileLoop, ...], tuple[Span, ...], tuple[int, ...]]:
    loops = tuple(TileLoop(draw(st.integers(1, 9)), draw(st.integers(1, 4))) for _ in range(draw(st.integers(0, 2))))
    spans = []
    for _ in range(draw(st.integers(1, 3))):
        terms = tuple((loop, draw(st.sampled_from([1, 2]))) for loop in range(len(loops)) if draw(st.booleans()))[:1]
        extent = draw(st.integers(1, 12))
        halo = draw(st.integers(0, 2))
        spans.append(Span(terms, -halo, 2 * halo, extent) if terms else Span.whole(extent))
    return loops, tuple(spans), tuple(span.extent for span in spans)


@given(windows(), st.booleans())
@settings(derandomize=True, deadline=None, max_examples=200)
def test_traffic_is_what_a_walk_over_the_tiles_moves(
    drawn: tuple[tuple[TileLoop, ...], tuple[Span, ...], tuple[int, ...]], inward: bool
) -> None:
    """Loads fill their buffer, stores move what lies inside of the tensor; both only where the window goes on."""
    loops, spans, shape = drawn
    depth = max((span.depth for span in spans), default=0)
    value = Value("v", shape, DType.F32)
    buffer, home = Storage("buffer", 0, "L1"), Storage("home", 0, "L2")
    transfer = Transfer(buffer, home, value, Window(spans, depth), inward)
    group = Group("group", loops, [], [transfer] if inward else [], [] if inward else [transfer])
    times = moved = 0
    before: tuple[int, ...] | None = None
    for tile in itertools.product(*(range(loop.count) for loop in loops)):
        if tile[:depth] == before:
            continue
        before = tile[:depth]
        times += 1
        ranges = [loop.range(place) for loop, place in zip(loops, tile, strict=True)]
        if inward:
            moved += math.prod(span.size(loops) for span in spans)
        else:
            points = itertools.product(*(range(*span.bounds(ranges)) for span in spans))
            moved += sum(1 for _ in points)
    assert traffic(group, transfer) == (times, 4 * moved)


@pytest.mark.parametrize("target", ["host", "siracusa"])
def test_the_picture_of_memory_is_the_plan(target: str) -> None:
    """What is alive at one moment is at most the lower bound, and somewhere that; nothing lies over anything else."""
    module, inputs = build_model("speechnet", seed=0)
    module.train()
    build = tg.compile(module, inputs, tg.losses.CrossEntropy(), tg.optim.Adam(), target=target)
    plan = build.plan
    for level in memory.levels(plan, build.target):
        use = plan.memory[level.name]
        for entry, panel in zip(plan.entries, level.panels, strict=True):
            assert max(panel.alive) == entry.lower_bounds.get(level.name, 0)
            for first, second in itertools.combinations(panel.areas, 2):
                if first.lower < second.upper and second.lower < first.upper:
                    apart = first.begin + first.size <= second.begin or second.begin + second.size <= first.begin
                    assert apart, (first, second)
        everything = [*level.statics, *(area for panel in level.panels for area in panel.areas)]
        assert all(use.reserved <= area.begin and area.begin + area.size <= use.peak for area in everything)
        assert {area.name for area in level.statics} == {s.name for s in plan.persistent if s.level == level.name}
        if everything:
            assert level.picture is not None
            assert level.picture.count("<rect") >= len(everything)
            labelled = set(re.findall(r"<title>([^:<]+): [\d,]+ bytes", str(level.picture)))
            assert {area.name for area in everything} <= labelled
