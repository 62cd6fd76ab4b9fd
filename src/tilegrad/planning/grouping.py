"""Groups and their tile sizes: which operations share a loop over tiles, along which axes, and in what portions.

Groups grow along the order of the operations. An operation joins where the group with it is estimated to take no
longer than the group and the operation one after the other: what they exchange then never leaves the fast memory.
Everything is searched in a fixed order under fixed limits, so the same program gives the same plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tilegrad.ir.graph import StructuredOp
from tilegrad.planning.axes import Axis, Views, find_axis
from tilegrad.planning.layout import Layout, Layouts, Setting

#: Operations behind the last one of a group that are looked at for joining it.
LOOK_AHEAD = 12
#: Operations of a group; more make the search slow.
GROUP_LIMIT = 48
#: Numbers of tiles along one axis that are tried.
TILE_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512)
#: Axes of the largest operation from which tile loops are made.
AXIS_LIMIT = 4
#: Among layouts within this factor of the quickest one, the one that needs least memory wins.
TOLERANCE = 1.01


@dataclass
class Cluster:
    """Operations in a common loop over tiles.

    Attributes:
        ops: in order.
        layout: the best layout found.
    """

    ops: list[StructuredOp]
    layout: Layout


@dataclass(eq=False)
class Grouper:
    """Divides the operations of an entry point into groups.

    Attributes:
        views: the views of the graph.
        setting: the machine and its budget.
        buffering: ``single``, ``double`` or ``auto``.
        fuse: whether groups may have several operations.
    """

    views: Views
    setting: Setting
    buffering: str = "auto"
    fuse: bool = True
    layouts: Layouts = field(init=False)

    def __post_init__(self) -> None:
        self.layouts = Layouts(self.views, self.setting)
        self._alone: dict[int, Layout] = {}

    def groups(self, ops: Sequence[StructuredOp]) -> list[Cluster]:
        """The groups in execution order; operations keep their order except that independent ones change places."""
        waiting = list(ops)
        groups: list[Cluster] = []
        while waiting:
            groups.append(self._grow(waiting))
        return groups

    def _grow(self, waiting: list[StructuredOp]) -> Cluster:
        """Take a group out of the operations that wait."""
        first = waiting.pop(0)
        cluster = Cluster([first], self.alone(first))
        skipped: list[StructuredOp] = []
        while self.fuse and waiting and len(cluster.ops) < GROUP_LIMIT and len(skipped) <= LOOK_AHEAD:
            op = waiting.pop(0)
            grown = None
            if self._may_join(op, cluster.ops, skipped):
                grown = self._joined(cluster, op)
            if grown is None:
                skipped.append(op)
                continue
            cluster = grown
        waiting[:0] = skipped
        return cluster

    def _may_join(self, op: StructuredOp, ops: Sequence[StructuredOp], skipped: Sequence[StructuredOp]) -> bool:
        """An operation may join if it exchanges data with the group and waits for nothing that comes later."""
        operands = {self.views.root(operand) for operand in op.operands}
        if any(output in operands for other in skipped for output in other.outputs):
            return False
        return any(output in operands for other in ops for output in other.outputs)

    def _joined(self, cluster: Cluster, op: StructuredOp) -> Cluster | None:
        ops = [*cluster.ops, op]
        separate = cluster.layout.cycles + self.alone(op).cycles
        layout = self.search(ops, stop_at=separate)
        if layout is None or layout.cycles > separate:
            return None
        return Cluster(ops, layout)

    def alone(self, op: StructuredOp) -> Layout:
        """The layout of a group of one operation; where no tile fits, operands stay in their homes."""
        if id(op) not in self._alone:
            layout = self.search([op])
            if layout is None:
                layout = self._in_place([op])
            self._alone[id(op)] = layout
        return self._alone[id(op)]

    def _in_place(self, ops: Sequence[StructuredOp]) -> Layout:
        """One tile without copies: the largest operands stay at home, one after the other, until the rest fits."""
        values = [value for op in ops for value in (*op.operands, *op.outputs)]
        order = sorted(dict.fromkeys(values), key=lambda value: -value.bytes)
        for count in range(len(order) + 1):
            layout = self.layouts.layout(ops, (), (), overlap=False, direct=frozenset(order[:count]))
            if layout.need <= self.setting.budget:
                return layout
        return layout

    def search(self, ops: Sequence[StructuredOp], stop_at: float = float("inf")) -> Layout | None:
        """The quickest layout that fits, or None.

        Args:
            ops: the operations of the group.
            stop_at: layouts that take longer are not wanted.
        """
        best: Layout | None = None
        whole = self._candidates(ops, (), ())
        for layout in whole:
            best = self._better(best, layout)
        axes = self.axes(ops)
        for axis in axes:
            for step in _steps(axis.extent):
                for layout in self._candidates(ops, (axis,), (step,)):
                    best = self._better(best, layout)
        if best is None or best.cycles > stop_at:
            for pair in itertools.permutations(axes, 2):
                best = self._pairs(ops, pair, best)
        if best is None and len(axes) > 2:
            for triple in itertools.permutations(axes, 3):
                for steps in itertools.product(*(_few_steps(axis.extent) for axis in triple)):
                    for layout in self._candidates(ops, triple, steps):
                        best = self._better(best, layout)
        return best

    def _pairs(self, ops: Sequence[StructuredOp], pair: Sequence[Axis], best: Layout | None) -> Layout | None:
        if not _legal(pair):
            return best
        for outer in _few_steps(pair[0].extent):
            for inner in _few_steps(pair[1].extent):
                for layout in self._candidates(ops, pair, (outer, inner)):
                    best = self._better(best, layout)
        return best

    def _better(self, best: Layout | None, layout: Layout) -> Layout | None:
        if layout.need > self.setting.budget:
            return best
        if best is None or layout.cycles * TOLERANCE < best.cycles:
            return layout
        if layout.cycles <= best.cycles * TOLERANCE and layout.need < best.need:
            return layout
        return best

    def _candidates(
        self, ops: Sequence[StructuredOp], axes: Sequence[Axis], steps: Sequence[int]
    ) -> Iterator[Layout]:  # fmt: skip
        if not _legal(axes):
            return
        single = all(step >= axis.extent for axis, step in zip(axes, steps, strict=True))
        if axes and single:
            return
        if self.buffering != "double" or single:
            yield self.layouts.layout(ops, axes, steps, overlap=False)
        if self.buffering != "single" and not single:
            yield self.layouts.layout(ops, axes, steps, overlap=True)

    def axes(self, ops: Sequence[StructuredOp]) -> list[Axis]:
        """The axes that a group may be cut along, from the iterators of its largest operation."""
        largest = max(range(len(ops)), key=lambda k: sum(nest.points for nest in ops[k].nests))
        nest = ops[largest].nests[0] if ops[largest].nests else None
        if nest is None or 0 in nest.extents:
            return []
        order = sorted(range(len(nest.extents)), key=lambda k: (k >= nest.parallel, -nest.extents[k], k))
        found: list[Axis] = []
        for iterator in order:
            if nest.extents[iterator] > 1:
                axis = find_axis(ops, self.views, ((largest, 0), iterator))
                if axis is not None and axis.extent > 1:
                    found.append(axis)
        return found[:AXIS_LIMIT]


def _legal(axes: Sequence[Axis]) -> bool:
    """Loops that cut sums are innermost, one at most for each sum, so that a sum runs over consecutive tiles."""
    cut: set[int] = set()
    for axis in axes:
        if cut - axis.cuts or cut & axis.cuts:
            return False
        cut |= axis.cuts
    return _distinct(axes)


def _distinct(axes: Sequence[Axis]) -> bool:
    """No iterator is cut by two loops."""
    for a, b in itertools.combinations(axes, 2):
        if any(a.iterators[place][0] == b.iterators[place][0] for place in a.iterators):
            return False
    return True


def _steps(extent: int) -> list[int]:
    """Tile sizes worth trying, largest first: those that divide an axis into a given number of tiles evenly."""
    return sorted({-(-extent // count) for count in TILE_COUNTS if count <= extent} | {1}, reverse=True)


def _few_steps(extent: int) -> list[int]:
    counts = [count for count in (1, 2, 4, 7, 8, 14, 16, 32, 64) if count <= extent]
    return sorted({-(-extent // count) for count in counts} | {1}, reverse=True)
