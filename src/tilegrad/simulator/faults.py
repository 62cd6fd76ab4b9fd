"""Sentences for what stops a program: which core, where in the code, what it did and what it nearly hit."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from tilegrad.simulator.elf import Image
from tilegrad.simulator.library import StopRecord
from tilegrad.simulator.regions import Access, Region

FC = 9
"""The fabric controller among the cores; the workers are 0 to 8."""


class Reason(enum.IntEnum):
    """Why a run stopped, in the order of simulator.h."""

    NONE = 0
    EXIT = 1
    BUDGET = 2
    BREAKPOINT = 3
    ILLEGAL = 4
    FLOAT = 5
    TRAP = 6
    FETCH = 7
    LOAD = 8
    STORE = 9
    DEVICE = 10
    DMA = 11
    STACK = 12
    DEADLOCK = 13
    GUARD = 14


WAITS = (
    "runs",
    "was not started",
    "waits for an interrupt",
    "waits for an event",
    "waits at a barrier",
    "waits for a mutex",
    "waits for work from the dispatch queue",
    "waits for room in its DMA queue",
    "waits for a DMA transfer identifier",
)

_GUARD = ("reads", "writes", "starts a DMA transfer that reads", "starts a DMA transfer that writes")
_DMA = {
    1: "the DMA command {address:#x} has the increment bit clear or asks for 2D in L1, which is not modelled",
    2: "the DMA command moves {size} bytes in lines of no length, or nothing at all",
    3: "the DMA's L1 range of {size} bytes at {address:#010x} is not inside L1",
    4: "the DMA's external range of {size} bytes at {address:#010x} is not inside L2 or the weight memory",
    5: "the DMA command comes without a transfer identifier: read the command register first",
    11: "the uDMA's L3 range of {size} bytes at {address:#x} is not inside L3",
    12: "the uDMA's L2 range of {size} bytes at {address:#010x} is not inside L2",
    13: "the uDMA transfer of {size} bytes has options that are not modelled or contradict each other",
    14: "a seventeenth uDMA transfer was started while sixteen wait",
}
_DEVICE = {
    1: "a wait ended at an event that it is not for (masked events {value:#x}): mask DMA events while other waits run",
    2: "the dispatch queue is full",
    3: "the exit register was written without its valid bit: {value:#x}",
}


@dataclass
class Context:
    """What a message can name.

    Attributes:
        image: the program.
        kernels: kernel names by number.
        regions: what each kernel, by name, may touch.
        common: what every kernel may touch.
    """

    image: Image
    kernels: Sequence[str] = ()
    regions: dict[str, Sequence[Region]] = field(default_factory=dict)
    common: Sequence[Region] = ()


def core_name(core: int) -> str:
    """How messages call a core."""
    return "the fabric controller" if core == FC else f"core {core}"


def explain(stop: StopRecord, context: Context, states: Sequence[tuple[int, int, int]]) -> str:
    """The message for a stop.

    Args:
        stop: what the C core recorded.
        context: the program's names.
        states: core, pc and wait of every core that was started, for deadlocks.
    """
    if stop.reason == Reason.DEADLOCK:
        return _deadlock(stop, context, states)
    where = f"{core_name(stop.core)} at pc {stop.pc:#010x} ({context.image.locate(stop.pc)}), cycle {stop.cycle}"
    kernel = context.kernels[stop.kernel] if 0 <= stop.kernel < len(context.kernels) else ""
    if kernel and stop.reason != Reason.GUARD:
        where += f", in kernel {kernel!r}"
    return f"the program failed on {where}: {_what(stop, context, kernel)}"


def _what(stop: StopRecord, context: Context, kernel: str) -> str:
    values = {"address": stop.address, "size": stop.size, "value": stop.value}
    reason = Reason(stop.reason)
    if reason in (Reason.LOAD, Reason.STORE):
        return _access(stop, context)
    if reason == Reason.GUARD:
        return _guard(stop, context, kernel)
    texts = {
        Reason.ILLEGAL: "illegal instruction {value:#010x}",
        Reason.FLOAT: "a float instruction, which the fabric controller does not have: run this code on the cluster",
        Reason.TRAP: "the program executed {value:#x} (ebreak or ecall); a compiler puts one where it proved undefined "
        "behaviour",
        Reason.FETCH: "there is no code at {address:#010x}, where it jumped to",
        Reason.STACK: "stack overflow: the stack pointer went to {address:#010x}, below {value:#010x}; "
        "enlarge the stacks or keep large arrays out of them",
        Reason.BUDGET: "the cycles granted to the run are used up",
    }
    if reason == Reason.ILLEGAL and stop.detail == 1:
        return f"there is no control and status register {stop.value >> 20:#05x}, or it cannot be written"
    if reason == Reason.ILLEGAL and stop.detail == 2:
        return "the last instruction of a hardware loop jumps, or sets a hardware loop up"
    table = {Reason.DMA: _DMA, Reason.DEVICE: _DEVICE}.get(reason)
    text = table[stop.detail] if table else texts[reason]
    return text.format(**values)


def _access(stop: StopRecord, context: Context) -> str:
    doing = "load from" if stop.reason == Reason.LOAD else "store to"
    if stop.detail:
        return (
            f"{doing} the device register {stop.address:#010x} with {stop.size} bytes: "
            "device registers take aligned words from the integer unit only"
        )
    return (
        f"{doing} {stop.address:#010x} ({stop.size} bytes), where there is neither memory nor a device that is "
        f"modelled; nearest symbol: {context.image.describe(stop.address)}"
    )


def _guard(stop: StopRecord, context: Context, kernel: str) -> str:
    place = _place(stop.address, stop.size, context, kernel)
    if stop.detail == 4:
        doing = "writes" if stop.value else "reads"
        return f"kernel {kernel!r} {doing} {place} while a DMA transfer of it has not been waited for"
    return f"kernel {kernel!r} {_GUARD[stop.detail]} {stop.size} bytes at {stop.address:#010x}: {place}"


def _place(address: int, size: int, context: Context, kernel: str) -> str:
    own = [*context.regions.get(kernel, ()), *context.common]
    for region in own:
        if region.address <= address and address + size <= region.address + region.size:
            allowed = "read" if region.access == Access.READ else "write" if region.access == Access.WRITE else "use"
            rule = "" if region.access == Access.BOTH else f", which the kernel may only {allowed}"
            return f"buffer {region.buffer!r}, offset {address - region.address}{rule}"
    near = [region for region in own if -256 <= address - (region.address + region.size) < 256]
    before = [region for region in own if 0 < region.address - address <= 256]
    if near:
        region = min(near, key=lambda region: abs(address - region.address - region.size))
        return _beyond(region, address) + _owner(address, context, kernel)
    if before:
        region = min(before, key=lambda region: region.address)
        return f"{region.address - address} bytes before its buffer {region.buffer!r}" + _owner(
            address, context, kernel
        )
    return "no buffer of this kernel" + _owner(address, context, kernel)


def _beyond(region: Region, address: int) -> str:
    offset = address - region.address
    return f"offset {offset} of its buffer {region.buffer!r}, which has {region.size} bytes"


def _owner(address: int, context: Context, kernel: str) -> str:
    """Whose the address is instead."""
    for other, regions in context.regions.items():
        for region in regions:
            if other != kernel and region.address <= address < region.address + region.size:
                return f"; buffer {region.buffer!r} of kernel {other!r} is there, offset {address - region.address}"
    return f"; symbol: {context.image.describe(address)}"


def _deadlock(stop: StopRecord, context: Context, states: Sequence[tuple[int, int, int]]) -> str:
    lines = [
        # A core that sleeps is at the instruction behind the one that it waits in.
        f"  {core_name(core)} {WAITS[wait]}, behind pc {pc:#010x} ({context.image.locate(pc - 1)})"
        for core, pc, wait in states
    ]
    return "\n".join([f"the program is deadlocked at cycle {stop.cycle}: every core sleeps and nothing is due", *lines])
