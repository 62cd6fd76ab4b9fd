"""Trace records to the JSON that Perfetto and chrome://tracing read: one row per core, one per direction of the DMA."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tilegrad.simulator.faults import FC, WAITS
from tilegrad.simulator.library import STALL_KINDS, TraceRecord

_ENTER, _LEAVE, _SLEEP, _WAKE, _DMA_BEGIN, _DMA_END = range(6)
_CLUSTER, _DMA = 0, 1
_DIRECTIONS = ("L1 to external", "external to L1")

Event = dict[str, Any]


@dataclass(frozen=True)
class KernelSpan:
    """One execution of a kernel by one core, callees included.

    Attributes:
        kernel: the symbol of its function.
        core: the core.
        begin: cycle of its first instruction.
        end: cycle of its return.
        tile: which of the core's calls of the kernel it is, counted from 0 since the entry point began.
    """

    kernel: str
    core: int
    begin: int
    end: int
    tile: int = 0


def kernel_spans(records: Iterable[TraceRecord], kernels: Sequence[str]) -> list[KernelSpan]:
    """The executions of kernels that have ended, in order of their ends."""
    spans: list[KernelSpan] = []
    open_at: dict[int, list[TraceRecord]] = {}
    for record in records:
        if record.kind == _ENTER:
            open_at.setdefault(record.core, []).append(record)
        elif record.kind == _LEAVE and open_at.get(record.core):
            begun = open_at[record.core].pop()
            spans.append(KernelSpan(kernels[begun.a], record.core, int(begun.cycle), int(record.cycle), int(begun.b)))
    return spans


def chrome_trace(records: Iterable[TraceRecord], kernels: Sequence[str], end: int) -> dict[str, Any]:
    """Builds a trace.

    Args:
        records: what the machine recorded, in order of time.
        kernels: kernel names by number.
        end: the cycle at which whatever is still open ends.
    """
    events = [*_names()]
    open_at: dict[tuple[str, int], list[TraceRecord]] = {}
    for record in records:
        if record.kind in (_ENTER, _SLEEP, _DMA_BEGIN):
            open_at.setdefault(_row(record), []).append(record)
        elif open_at.get(_row(record)):
            begun = open_at[_row(record)].pop()
            events.append(_event(begun, record.cycle, _counted(begun, record), kernels))
    for row in sorted(open_at):
        events += [_event(begun, end, {}, kernels) for begun in open_at[row]]
    return {"displayTimeUnit": "ns", "traceEvents": events}


def _row(record: TraceRecord) -> tuple[str, int]:
    """What a beginning and its end have in common."""
    if record.kind in (_ENTER, _LEAVE):
        return ("kernel", record.core)
    if record.kind in (_SLEEP, _WAKE):
        return ("sleep", record.core)
    return ("dma", record.flags >> 2)


def _counted(begun: TraceRecord, ended: TraceRecord) -> Event:
    """What the core counted between two records: fused multiply-adds, and stall cycles by cause."""
    stalls = zip(STALL_KINDS, begun.stalls, ended.stalls, strict=True)
    counted: Event = {"multiply-adds": ended.multiply_adds - begun.multiply_adds}
    return counted | {f"stalls: {kind}": last - first for kind, first, last in stalls if last > first}


def _event(begun: TraceRecord, end: int, counted: Event, kernels: Sequence[str]) -> Event:
    event: Event = {"ph": "X", "ts": begun.cycle, "dur": end - begun.cycle, "pid": _CLUSTER, "tid": begun.core}
    if begun.kind == _ENTER:
        name = kernels[begun.a] if begun.a < len(kernels) else f"kernel {begun.a}"
        return event | {"name": name, "cat": "kernel", "args": {"tile": begun.b} | counted}
    if begun.kind == _SLEEP:
        return event | {"name": WAITS[begun.a], "cat": "sleep", "args": {}}
    inwards = begun.flags & 1
    return event | {
        "name": f"{'2D ' if begun.flags & 2 else ''}{begun.bytes} bytes",
        "cat": "dma",
        "pid": _DMA,
        "tid": inwards,
        "args": {"L1": f"{begun.a:#010x}", "external": f"{begun.b:#010x}", "core": begun.core},
    }


def _names() -> Iterable[Event]:
    def name(what: str, pid: int, tid: int, text: str) -> Event:
        return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": text}}

    yield name("process_name", _CLUSTER, 0, "cores")
    yield name("process_name", _DMA, 0, "DMA")
    for core in range(FC):
        yield name("thread_name", _CLUSTER, core, f"core {core}")
    yield name("thread_name", _CLUSTER, FC, "fabric controller")
    for direction, text in enumerate(_DIRECTIONS):
        yield name("thread_name", _DMA, direction, text)
