"""The tile schedule: for every group its loops, buffers, transfers with their bytes, and its cycles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tilegrad.planning.plan import EntryPlan, Group, Plan, Storage, Transfer
from tilegrad.planning.text import format_span
from tilegrad.report.observe import KernelProfile, StepProfile
from tilegrad.report.page.cycles import WORDS, spent
from tilegrad.report.timeline import stretches


@dataclass(frozen=True)
class Move:
    """A transfer as a row.

    Attributes:
        tensor: what is moved, with its shape.
        route: from where to where.
        window: the part.
        shape: elements of the buffer along every axis.
        times: how often in one call of the entry point.
        bytes: in one call of the entry point, all tiles together.
        inward: into the tile buffer.
    """

    tensor: str
    route: str
    window: str
    shape: tuple[int, ...]
    times: int
    bytes: int
    inward: bool


@dataclass(frozen=True)
class Buffer:
    """A buffer of a group as a row."""

    name: str
    level: str
    bytes: int
    copies: int
    place: str


@dataclass(frozen=True)
class Step:
    """A group as a row, with what its details show.

    Attributes:
        name: of the group.
        entry: the entry point.
        loops: the tile loops in words.
        tiles: number of tiles.
        kernels: names of its kernels, with phase and node.
        cuts: kernels whose sums continue from tile to tile, in words.
        moves: its transfers.
        buffers: storages of the fast levels that only this group uses, and its tile buffers.
        estimate: cycles that the planner expects in one call, 0 where it says nothing.
        cycles: cycles that the simulator found in one call, waiting for data included, or None.
        inside: of these, cycles in which kernels ran.
        limit: what takes most of its time, in words; empty where nothing was found.
        overlap: whether transfers go on while kernels run.
        reason: the planner's reason.
    """

    name: str
    entry: str
    loops: tuple[str, ...]
    tiles: int
    kernels: tuple[tuple[str, str, str], ...]
    cuts: tuple[str, ...]
    moves: tuple[Move, ...]
    buffers: tuple[Buffer, ...]
    estimate: float
    cycles: float | None
    inside: float
    limit: str
    overlap: bool
    reason: str

    @property
    def title(self) -> str:
        """The name that readers know it by: that of its kernel where it has one."""
        return self.kernels[0][0] if len(self.kernels) == 1 else self.name

    @property
    def inward(self) -> int:
        """Bytes that its loads move."""
        return sum(move.bytes for move in self.moves if move.inward)

    @property
    def outward(self) -> int:
        """Bytes that its stores move."""
        return sum(move.bytes for move in self.moves if not move.inward)

    @property
    def ratio(self) -> str:
        """Simulated over estimated cycles."""
        return f"{self.cycles / self.estimate:.2f}" if self.cycles is not None and self.estimate else ""

    @property
    def is_tiled(self) -> bool:
        """Whether there is more to say than the name of its one kernel."""
        return bool(self.moves) or len(self.kernels) > 1 or bool(self.loops)


def group_names(plan: Plan) -> dict[str, str]:
    """The group of every kernel, by name."""
    return {kernel.name: group.name for entry in plan.entries for group in entry.groups for kernel in group.kernels}


def steps(plan: Plan, profile: StepProfile | None, passes: Mapping[str, int]) -> list[Step]:
    """All groups in execution order.

    Args:
        plan: the plan.
        profile: what the simulator found, or None.
        passes: how often one step calls each entry point, by name.
    """
    took: dict[str, int] = {}
    kernels: dict[str, KernelProfile] = {}
    if profile is not None:
        kernels = {kernel.name: kernel for kernel in profile.kernels}
        for stretch in stretches(profile.timeline, group_names(plan)):
            took[stretch.group] = took.get(stretch.group, 0) + stretch.end - stretch.begin
    found = []
    for entry in plan.entries:
        for group in entry.groups:
            ran = [kernels[kernel.name] for kernel in group.kernels if kernel.name in kernels]
            found.append(_step(entry, group, ran, took.get(group.name), passes.get(entry.name, 1)))
    return found


def _step(entry: EntryPlan, group: Group, ran: Sequence[KernelProfile], took: int | None, passes: int) -> Step:
    loops = tuple(
        f"T{k}: {loop.extent} by {loop.step}, {loop.count} tiles" + ("" if loop.exact else ", the last one shorter")
        for k, loop in enumerate(group.loops)
    )
    kernels = tuple((kernel.name, kernel.op.phase, kernel.op.origin) for kernel in group.kernels)
    cuts = tuple(
        f"{kernel.name} sums over {', '.join(f'T{loop}' for loop in kernel.cut)}"
        for kernel in group.kernels
        if kernel.cut
    )
    moves = tuple(_move(group, transfer) for transfer in [*group.loads, *group.stores])
    buffers = tuple(_buffer(storage) for storage in dict.fromkeys(_local(group)))
    inside = sum(kernel.cycles for kernel in ran)
    return Step(
        group.name, entry.name, loops, group.tiles, kernels, cuts, moves, buffers, group.cycles,
        None if took is None else took / passes, inside / passes, _limit(ran, took, inside, bool(moves)), group.overlap,
        group.reason,
    )  # fmt: skip


def _limit(ran: Sequence[KernelProfile], took: int | None, inside: int, moves: bool) -> str:
    """What takes most of a group's time: waiting for its data, or what its kernels' cycles went to."""
    total = sum(kernel.core_cycles for kernel in ran)
    if not took or not total:
        return ""
    parts = {WORDS[unit]: cycles / total * inside / took for unit, cycles in spent(ran).items()}
    parts["DMA" if moves else "barriers"] = max(1 - inside / took, 0.0)
    word = max(parts, key=lambda word: parts[word])
    return f"{word} {parts[word]:.0%}"


def _local(group: Group) -> Iterator[Storage]:
    """The storages of a group that hold windows, and those that its transfers pass through."""
    for transfer in [*group.loads, *group.stores]:
        yield transfer.storage
        if transfer.via is not None:
            yield transfer.via
    for kernel in group.kernels:
        for value, storage in (kernel.reads | kernel.writes).items():
            if value in kernel.windows:
                yield storage


def _buffer(storage: Storage) -> Buffer:
    place = "static" if storage.offset is None else f"[{storage.offset:,}, {storage.offset + storage.total:,})"
    return Buffer(storage.name, storage.level, storage.bytes, storage.copies, place)


def _move(group: Group, transfer: Transfer) -> Move:
    ends = [f"{transfer.home.name} ({transfer.home.level})"]
    if transfer.via is not None:
        ends.append(f"{transfer.via.name} ({transfer.via.level})")
    ends.append(f"{transfer.storage.name} ({transfer.storage.level})")
    route = " → ".join(ends if transfer.inward else reversed(ends))
    window = ", ".join(format_span(span) for span in transfer.window.spans)
    times, moved = traffic(group, transfer)
    value = transfer.value
    return Move(
        f"{value.name} {list(value.shape)}", route, window, transfer.window.shape(group.loops), times, moved,
        transfer.inward,
    )  # fmt: skip


def traffic(group: Group, transfer: Transfer) -> tuple[int, int]:
    """How often a transfer happens in one call of the group, and how many bytes it moves altogether.

    Loads always fill the buffer; stores leave out what lies outside the tensor.
    """
    window, size = transfer.window, transfer.value.dtype.size
    times = math.prod(loop.count for loop in group.loops[: window.depth])
    if transfer.inward:
        return times, times * math.prod(window.shape(group.loops)) * size
    moved = 0
    for tile in itertools.product(*(range(loop.count) for loop in group.loops[: window.depth])):
        ranges = [loop.range(place) for loop, place in zip(group.loops, tile, strict=False)]
        bounds = [span.bounds(ranges) for span in window.spans]
        moved += math.prod(last - first for first, last in bounds) * size
    return times, moved
