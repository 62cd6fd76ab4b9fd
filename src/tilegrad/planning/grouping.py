"""Groups and their tile sizes: which operations share a loop over tiles, along which axes, and in what portions.

A group grows from its first operation along the order of the operations, once for every axis of that operation. An
operation joins where the group with it is estimated to take no longer than the group and the operation one after the
other: what they exchange then never leaves the fast memory. Where one group ends and the next begins is chosen for all
groups together. Everything is searched in a fixed order under fixed limits, so the same program gives the same plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tilegrad.ir.graph import StructuredOp
from tilegrad.planning.axes import Axis, Views, find_axis
from tilegrad.planning.layout import Layout, Layouts, Setting

#: Groups begin with operations that take at least so many cycles alone, and such a share of all.
HEAVY_CYCLES = 2500.0
HEAVY_SHARE = 0.0008
#: Cycles that a larger group must save.
LEAST_SAVING = 50.0
#: Operations that are passed over while a group grows.
LOOK_AHEAD = 8
#: Operations of a group.
GROUP_LIMIT = 32
#: Numbers of tiles along one axis that are tried.
TILE_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512)
#: Numbers of tiles along each axis where there are several.
FEW_COUNTS = (1, 2, 4, 7, 8, 14, 16, 32, 64)
#: Sizes tried below the largest one that fits: smaller tiles overlap better with their transfers.
SMALLER_SIZES = 1
#: Axes of an operation from which tile loops are made.
AXIS_LIMIT = 4
#: Among layouts within this factor of the quickest one, the one that needs least memory wins.
TOLERANCE = 1.01
#: Operations whose tensors have fewer bytes than this are not cut into tiles on their own.
SMALL_BYTES = 2048


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
    """

    views: Views
    setting: Setting
    buffering: str = "auto"
    layouts: Layouts = field(init=False)

    def __post_init__(self) -> None:
        self.layouts = Layouts(self.views, self.setting)
        self._alone: dict[int, Layout] = {}

    def groups(self, ops: Sequence[StructuredOp]) -> list[Cluster]:
        """The groups in execution order; operations keep their order except that independent ones change places.

        Dynamic programming over the places where groups may begin: of all ways to divide the rest of the operations,
        the one that saves most follows each group.
        """
        cycles = [self.alone(op).cycles for op in ops]
        heavy = max(HEAVY_CYCLES, sum(cycles) * HEAVY_SHARE)
        begins = [k for k in range(len(ops)) if k == 0 or cycles[k] >= heavy]
        after = dict(zip(begins, [*begins[1:], len(ops)], strict=True))
        best: dict[int, tuple[float, list[Cluster], int]] = {len(ops): (0.0, [], 0)}
        for begin in reversed(begins):
            alone = [Cluster([op], self.alone(op)) for op in ops[begin : after[begin]]]
            best[begin] = (best[after[begin]][0], alone, after[begin])
            for seeds in self._hypotheses(ops[begin]):
                for saved, clusters, end in self._segments(ops, begin, seeds, after):
                    total = saved + best[end][0]
                    if total > best[begin][0] + LEAST_SAVING:
                        best[begin] = (total, clusters, end)
        groups: list[Cluster] = []
        place = 0
        while place < len(ops):
            _, clusters, place = best[place]
            groups.extend(self._settled(cluster) for cluster in clusters)
        return groups

    def _segments(
        self, ops: Sequence[StructuredOp], begin: int, seeds: tuple[int, ...], after: Mapping[int, int]
    ) -> Iterator[tuple[float, list[Cluster], int]]:
        """The ways in which a group along given axes may begin at a place: what is saved, the groups, the next place.

        Operations that the group passes over follow it on their own.
        """
        axes = self._axes([ops[begin]], seeds)
        layout = None if axes is None else self._best([ops[begin]], axes)
        if layout is None:
            return
        group: list[StructuredOp] = [ops[begin]]
        skipped: list[StructuredOp] = []
        total = self.alone(ops[begin]).cycles
        ends = set(after.values())
        for place in range(begin + 1, len(ops) + 1):
            if place in ends:
                saved = total - layout.cycles
                yield saved, [Cluster(group, layout), *(Cluster([op], self.alone(op)) for op in skipped)], place
            if place == len(ops) or len(group) >= GROUP_LIMIT or len(skipped) > LOOK_AHEAD:
                return
            joining = self._joining(ops[place], group, skipped)
            grown = self._joined(group, joining, seeds, layout) if joining else None
            if grown is None:
                skipped.append(ops[place])
                continue
            group, layout = [*group, *joining], grown
            total += sum(self.alone(op).cycles for op in joining)
            skipped = [other for other in skipped if all(other is not taken for taken in joining)]

    def _settled(self, cluster: Cluster) -> Cluster:
        """A group under the best of all tile sizes along its axes."""
        layout = cluster.layout
        if not layout.loops:
            return cluster
        final = self._best(cluster.ops, layout.axes, thorough=True)
        return cluster if final is None or final.cycles > layout.cycles else Cluster(cluster.ops, final)

    def _hypotheses(self, op: StructuredOp) -> list[tuple[int, ...]]:
        """Iterators of an operation whose axes a group may run along: none, one, or those that it needs alone."""
        found: list[tuple[int, ...]] = [(), *((iterator,) for iterator in self._seeds(op))]
        alone = tuple(axis.iterators[0, 0][0] for axis in self.alone(op).axes)
        return found if alone in found else [*found, alone]

    def _joining(
        self, op: StructuredOp, ops: Sequence[StructuredOp], skipped: Sequence[StructuredOp]
    ) -> list[StructuredOp]:
        """An operation that exchanges data with the group, and before it those passed over whose results it needs."""
        inside = {output for other in ops for output in other.outputs}
        wanted = {self.views.root(operand) for operand in self.layouts.operands(op)}
        if not wanted & inside:
            return []
        joining = [op]
        for other in reversed(skipped):
            if any(output in wanted for output in other.outputs):
                joining.insert(0, other)
                wanted |= {self.views.root(operand) for operand in self.layouts.operands(other)}
        # State is replaced in place, so whatever reads the old state must not come later.
        replaced = {self.setting.replaces[output] for output in op.outputs if output in self.setting.replaces}
        later = [other for other in skipped if all(other is not taken for taken in joining)]
        if any(self.views.root(operand) in replaced for other in later for operand in self.layouts.operands(other)):
            return []
        return joining

    def _joined(
        self, ops: Sequence[StructuredOp], joining: Sequence[StructuredOp], seeds: tuple[int, ...], layout: Layout
    ) -> Layout | None:
        """The layout of a group with more operations, where that does not cost more than they do alone."""
        more = [*ops, *joining]
        axes = self._axes(more, seeds)
        if axes is None:
            return None
        limit = layout.cycles + sum(self.alone(op).cycles for op in joining)
        found = self._best(more, axes)
        return found if found is not None and found.cycles <= limit else None

    def alone(self, op: StructuredOp) -> Layout:
        """The layout of a group of one operation; where no tile fits, operands stay in their homes."""
        if id(op) not in self._alone:
            self._alone[id(op)] = self._search_alone(op)
        return self._alone[id(op)]

    def _search_alone(self, op: StructuredOp) -> Layout:
        best = self._best([op], ())
        if sum(value.bytes for value in (*op.operands, *op.outputs)) < SMALL_BYTES and best is not None:
            return best
        axes = [axis for seed in self._seeds(op) if (axis := self._axes([op], (seed,))) is not None]
        for alone in axes:
            best = self._better(best, self._best([op], alone))
        for count in (2, 3):
            if best is not None:
                break
            for several in itertools.permutations([alone[0] for alone in axes], count):
                best = self._better(best, self._best([op], several))
        return best if best is not None else self._at_home([op])

    def _at_home(self, ops: Sequence[StructuredOp]) -> Layout:
        """One tile without copies: the largest operands stay at home, one after the other, until the rest fits."""
        values = [value for op in ops for value in (*op.operands, *op.outputs)]
        order = sorted(dict.fromkeys(values), key=lambda value: -value.bytes)
        for count in range(len(order) + 1):
            layout = self.layouts.layout(ops, (), (), overlap=False, direct=frozenset(order[:count]))
            if layout.need <= self.setting.budget:
                break
        return layout

    def _seeds(self, op: StructuredOp) -> list[int]:
        """Iterators that may be cut: parallel ones first, longer ones first."""
        if not op.nests or 0 in op.nests[0].extents:
            return []
        nest = op.nests[0]
        order = sorted(range(len(nest.extents)), key=lambda k: (k >= nest.parallel, -nest.extents[k], k))
        return [k for k in order if nest.extents[k] > 1 and self._axes([op], (k,)) is not None][:AXIS_LIMIT]

    def _axes(self, ops: Sequence[StructuredOp], seeds: tuple[int, ...]) -> tuple[Axis, ...] | None:
        found = []
        for iterator in seeds:
            axis = find_axis(ops, self.views, ((0, 0), iterator))
            if axis is None or axis.extent <= 1:
                return None
            found.append(axis)
        return tuple(found) if _legal(found) else None

    # Tile sizes

    def _best(self, ops: Sequence[StructuredOp], axes: Sequence[Axis], *, thorough: bool = False) -> Layout | None:
        """The best layout along given axes that fits, or None."""
        if not _legal(axes):
            return None
        if not axes:
            return self._fitting(self.layouts.layout(ops, (), (), overlap=False))
        best: Layout | None = None
        for overlap in _modes(self.buffering):
            for outer in itertools.product(*(_steps(axis.extent, FEW_COUNTS) for axis in axes[:-1])):
                found = 0
                for step in _steps(axes[-1].extent, TILE_COUNTS):
                    steps = (*outer, step)
                    if all(s >= axis.extent for s, axis in zip(steps, axes, strict=True)):
                        continue
                    layout = self._fitting(self.layouts.layout(ops, axes, steps, overlap=overlap))
                    best = self._better(best, layout)
                    found += layout is not None
                    if found > SMALLER_SIZES and not thorough:
                        break
        return best

    def _fitting(self, layout: Layout) -> Layout | None:
        return layout if layout.need <= self.setting.budget else None

    def _better(self, best: Layout | None, layout: Layout | None) -> Layout | None:
        if best is None or layout is None:
            return best or layout
        if layout.cycles * TOLERANCE < best.cycles:
            return layout
        if layout.cycles <= best.cycles * TOLERANCE and layout.need < best.need:
            return layout
        return best


def _modes(buffering: str) -> tuple[bool, ...]:
    return {"single": (False,), "double": (True,), "auto": (True, False)}[buffering]


def _legal(axes: Sequence[Axis]) -> bool:
    """No iterator is cut twice, and a loop that cuts sums is the innermost, so that sums run over consecutive tiles."""
    if any(axis.cuts for axis in axes[:-1]):
        return False
    return not any(
        a.iterators[place][0] == b.iterators[place][0]
        for a, b in itertools.combinations(axes, 2)
        for place in a.iterators
    )


def _steps(extent: int, counts: Sequence[int]) -> list[int]:
    """Tile sizes worth trying, largest first: those that divide an axis into a given number of tiles evenly."""
    return sorted({-(-extent // count) for count in counts if count <= extent} | {1}, reverse=True)
