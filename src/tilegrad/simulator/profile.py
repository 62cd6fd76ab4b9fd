"""What cores, functions and single instructions did: the counters as Python sees them."""

from __future__ import annotations

from dataclasses import dataclass

from tilegrad.simulator.library import COUNTERS, STALL_KINDS, CounterRecord, HotRecord


@dataclass(frozen=True)
class Counters:
    """What a core, or a function on a core, did.

    Attributes:
        cycles: cycles awake.
        instructions: instructions executed.
        loads: of these, loads.
        stores: of these, stores.
        branches: of these, branches.
        taken: branches that were taken.
        jumps: jumps and calls.
        multiply_adds: fused float multiply-adds.
        floats: other float arithmetic.
        sleep: cycles asleep.
        stalls: stall cycles by cause.
    """

    cycles: int
    instructions: int
    loads: int
    stores: int
    branches: int
    taken: int
    jumps: int
    multiply_adds: int
    floats: int
    sleep: int
    stalls: dict[str, int]

    @classmethod
    def of(cls, record: CounterRecord) -> Counters:
        """From the C core's record."""
        values = {name: int(getattr(record, name)) for name in COUNTERS}
        return cls(**values, stalls=dict(zip(STALL_KINDS, map(int, record.stalls), strict=True)))


@dataclass(frozen=True)
class FunctionProfile:
    """What one function did on one core, its callees not included.

    Attributes:
        function: the function's symbol.
        core: the core, `FC` for the fabric controller.
        counters: what was counted.
    """

    function: str
    core: int
    counters: Counters


@dataclass(frozen=True)
class HotSpot:
    """What one instruction did on all cores together.

    Attributes:
        pc: its address; `Image.frames` says where in the source it comes from.
        count: how often it was executed.
        cycles: one for each execution, and the stalls.
        sleep: cycles that cores slept in it, not part of `cycles`.
        stalls: stall cycles by cause, as for `Counters`; only those that occurred. Cycles that fetching the instruction
            took are its own, those of a load whose result the next instruction wants are the load's.
    """

    pc: int
    count: int
    cycles: int
    sleep: int
    stalls: dict[str, int]

    @classmethod
    def of(cls, pc: int, record: HotRecord) -> HotSpot:
        """From the C core's record."""
        stalls = {kind: int(cycles) for kind, cycles in zip(STALL_KINDS, record.stalls, strict=True) if cycles}
        return cls(pc, int(record.count), int(record.count) + sum(stalls.values()), int(record.sleep), stalls)
