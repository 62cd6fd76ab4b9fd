"""Tensors that stay in the fast memory between the groups that write and read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tilegrad.ir.graph import Value
from tilegrad.planning.allocate import Buffer, allocate
from tilegrad.planning.axes import Views
from tilegrad.planning.grouping import Cluster
from tilegrad.planning.layout import Layouts, Setting


@dataclass(frozen=True)
class _Candidate:
    """A tensor, the groups from its first to its last use, its aligned size and the cycles of its transfers."""

    value: Value
    first: int
    last: int
    size: int
    saved: float


def keep_resident(
    clusters: Sequence[Cluster], views: Views, setting: Setting
) -> tuple[list[Cluster], dict[Value, None], Layouts]:
    """Choose tensors to keep in the fast memory, by the cycles saved for each byte and group of their lives.

    Returns:
        The groups with their layouts for this choice, the tensors in a fixed order, and what computed the layouts.
    """
    layouts = Layouts(views, setting)
    found = _candidates(clusters, views, setting, layouts)
    found.sort(key=lambda c: (-c.saved / (c.size * (c.last - c.first + 1)), c.first, c.value.name))
    room = [setting.budget - cluster.layout.need for cluster in clusters]
    chosen: list[_Candidate] = []
    for candidate in found:
        span = range(candidate.first, candidate.last + 1)
        if candidate.saved > 0 and all(room[g] >= candidate.size for g in span):
            chosen.append(candidate)
            for g in span:
                room[g] -= candidate.size
    while True:
        resident = {candidate.value: None for candidate in chosen}
        layouts = Layouts(views, replace(setting, resident=frozenset(resident)))
        settled = [_again(cluster, layouts) for cluster in clusters]
        if _fits(settled, chosen, layouts, setting):
            return settled, resident, layouts
        chosen.pop()  # the one that saves least for its bytes


def _candidates(
    clusters: Sequence[Cluster], views: Views, setting: Setting, layouts: Layouts
) -> list[_Candidate]:  # fmt: skip
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    saved: dict[Value, float] = {}
    for g, cluster in enumerate(clusters):
        layout = cluster.layout
        for value in layout.outputs:
            if value in layout.needed and value not in setting.kept:
                first[value] = last[value] = g
                saved[value] = layouts.home_cycles(layout, layout.outputs[value])
        for seen, part in layout.inputs.items():
            root = views.root(seen)
            if root in first:
                last[root] = g
                saved[root] += layouts.home_cycles(layout, part)
    return [
        _Candidate(value, first[value], last[value], setting.fast.aligned(value.bytes), saved[value])
        for value in first
        if value.size
    ]


def _again(cluster: Cluster, layouts: Layouts) -> Cluster:
    layout = cluster.layout
    steps = [loop.step for loop in layout.loops]
    return Cluster(
        cluster.ops, layouts.layout(cluster.ops, layout.axes, steps, overlap=layout.overlap, direct=layout.forced)
    )


def _fits(
    clusters: Sequence[Cluster], chosen: Sequence[_Candidate], layouts: Layouts, setting: Setting
) -> bool:  # fmt: skip
    """Whether addresses can be found for the tile buffers and the tensors that stay."""
    buffers: list[Buffer] = []
    begins = []
    position = 0
    for cluster in clusters:
        begins.append(position)
        for _, buffer in layouts.buffers(cluster.layout):
            buffers.append(Buffer(position + buffer.lower, position + buffer.upper, buffer.size))
        position += len(cluster.ops)
    begins.append(position)
    buffers.extend(Buffer(begins[c.first], begins[c.last + 1], c.size) for c in chosen)
    offsets = allocate(buffers, effort="quick")
    peak = max((offset + b.size for offset, b in zip(offsets, buffers, strict=True)), default=0)
    return peak <= setting.budget or not chosen
