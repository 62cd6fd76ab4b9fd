"""What the cores and the DMA did when, from the trace of a simulated step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Bytes that a transfer of the DMA takes into and out of L1, as the names of its events say: "2D 512 bytes".
_UNIT = "bytes"


@dataclass(frozen=True)
class Execution:
    """One call of a function on one core.

    Attributes:
        function: its C symbol.
        core: the core.
        begin: cycle of its first instruction.
        end: cycle of its return.
        multiply_adds: fused multiply-adds that the core executed meanwhile, callees included.
    """

    function: str
    core: int
    begin: int
    end: int
    multiply_adds: int


@dataclass(frozen=True)
class Movement:
    """One command of the DMA.

    Attributes:
        begin: cycle in which it was accepted.
        end: cycle of its last byte.
        bytes: what it moved.
        inwards: into L1, or out of it.
        core: the core that gave the command.
        local: its address in L1.
    """

    begin: int
    end: int
    bytes: int
    inwards: bool
    core: int
    local: int


@dataclass(frozen=True)
class Timeline:
    """What was recorded of one step.

    Attributes:
        executions: in order of their ends.
        movements: in order of their ends.
    """

    executions: tuple[Execution, ...]
    movements: tuple[Movement, ...]

    @property
    def begin(self) -> int:
        """Cycle of the first event."""
        return min([e.begin for e in self.executions] + [m.begin for m in self.movements], default=0)

    @property
    def end(self) -> int:
        """Cycle of the last event."""
        return max([e.end for e in self.executions] + [m.end for m in self.movements], default=0)

    def of(self, functions: Iterable[str]) -> Timeline:
        """The same with the executions of some functions only."""
        wanted = set(functions)
        return Timeline(tuple(e for e in self.executions if e.function in wanted), self.movements)


def read_trace(trace: Mapping[str, Any]) -> Timeline:
    """The timeline behind a trace as `Simulator.write_trace` writes it."""
    executions, movements = [], []
    for event in trace["traceEvents"]:
        if event.get("cat") not in ("kernel", "dma"):
            continue
        begin, end, args = int(event["ts"]), int(event["ts"] + event["dur"]), event["args"]
        if event["cat"] == "kernel":
            work = int(args.get("multiply-adds", 0))
            executions.append(Execution(event["name"], int(event["tid"]), begin, end, work))
        else:
            size, unit = event["name"].split()[-2:]
            assert unit == _UNIT, event["name"]
            inwards = bool(event["tid"])
            movements.append(Movement(begin, end, int(size), inwards, int(args["core"]), int(args["L1"], 16)))
    return Timeline(tuple(executions), tuple(movements))


@dataclass(frozen=True)
class Stretch:
    """The time of one group of kernels, waiting for its data included.

    Attributes:
        group: its name.
        begin: where the one before it ended, or the first event.
        end: the end of its last kernel or store.
    """

    group: str
    begin: int
    end: int


def stretches(timeline: Timeline, group_of: Mapping[str, str]) -> list[Stretch]:
    """The groups one after the other.

    Every group waits for its own stores before it ends, and begins to load when the one before it has ended.

    Args:
        timeline: what was recorded.
        group_of: name of the group of every kernel; other functions do not count.
    """
    calls = sorted((e.begin, e.end, group_of[e.function]) for e in timeline.executions if e.function in group_of)
    runs: list[tuple[str, int, int]] = []
    for begin, end, group in calls:
        if runs and runs[-1][0] == group:
            runs[-1] = (group, runs[-1][1], max(runs[-1][2], end))
        else:
            runs.append((group, begin, end))
    stores = sorted((m.begin, m.end) for m in timeline.movements if not m.inwards)
    found: list[Stretch] = []
    at, before = 0, timeline.begin
    for place, (group, _, end) in enumerate(runs):
        following = runs[place + 1][1] if place + 1 < len(runs) else timeline.end + 1
        while at < len(stores) and stores[at][0] < following:
            end = max(end, stores[at][1])
            at += 1
        found.append(Stretch(group, before, max(end, before)))
        before = found[-1].end
    return found


def rates(events: Sequence[tuple[int, int, float]], begin: int, end: int, count: int) -> NDArray[np.float64]:
    """The average rate of something in equal bins of time, where each event spreads its amount evenly.

    Args:
        events: begin, end and amount of every event.
        begin: where the first bin begins.
        end: where the last bin ends.
        count: number of bins.

    Returns:
        Amount per cycle, one number per bin.
    """
    edges = np.linspace(begin, end, count + 1)
    if not events or end <= begin:
        return np.zeros(count)
    table = np.array(events, np.float64)
    first, last = table[:, 0], np.maximum(table[:, 1], table[:, 0] + 1)  # an event without duration takes one cycle
    slope = table[:, 2] / (last - first)
    # The sum of all amounts up to a moment is piecewise linear: its slope changes where events begin and end.
    moments = np.concatenate([first, last])
    changes = np.concatenate([slope, -slope])
    order = np.argsort(moments, kind="stable")
    moments, speed = moments[order], np.cumsum(changes[order])
    total = np.concatenate([[0.0], np.cumsum(speed[:-1] * np.diff(moments))])
    return np.asarray(np.diff(np.interp(edges, moments, total)) / np.diff(edges))
