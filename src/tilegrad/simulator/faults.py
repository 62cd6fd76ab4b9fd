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
    4: "a barrier got its targets {value:#x} before the mask of who triggers it, and would end at once",
}


class GuardDetail(enum.IntEnum):
    """What a guard violation is, in the order of simulator.h."""

    READ = 0
    WRITE = 1
    DMA_READ = 2
    DMA_WRITE = 3
    UNWAITED = 4
    DMA_UNWAITED = 5
    UNLOADED = 6
    TRANSFERS = 7


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

    def own(self, kernel: str, tile: int) -> list[Region]:
        """What a kernel may touch in one of its calls."""
        named = [region for region in self.regions.get(kernel, ()) if region.tile in (None, tile)]
        return [*named, *self.common]


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
        where += f", in kernel {kernel!r}, tile {stop.tile}"
    return f"the program failed on {where}: {_what(stop, context, kernel)}"


def _what(stop: StopRecord, context: Context, kernel: str) -> str:
    values = {"address": stop.address, "size": stop.size, "value": stop.value}
    reason = Reason(stop.reason)
    if reason in (Reason.LOAD, Reason.STORE):
        return _access(stop, context)
    if reason == Reason.GUARD:
        return Violation(stop, context, kernel).sentence()
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


@dataclass(frozen=True)
class Violation:
    """What broke the guard's rules.

    Attributes:
        stop: what the C core recorded.
        context: the program's names.
        kernel: the kernel that the core was in, or nothing.
    """

    stop: StopRecord
    context: Context
    kernel: str

    def sentence(self) -> str:
        """Kernel, tile, buffer and offset, and what is wrong."""
        stop, detail = self.stop, GuardDetail(self.stop.detail)
        doing = "writes" if detail in (GuardDetail.WRITE, GuardDetail.DMA_WRITE) or stop.value else "reads"
        if detail in (GuardDetail.DMA_READ, GuardDetail.DMA_WRITE, GuardDetail.DMA_UNWAITED):
            doing = f"starts a DMA transfer that {doing}"
        what = f"{self._who()} {doing} {stop.size} bytes at {stop.address:#010x}{self._tile()}: {self._place()}"
        if detail in (GuardDetail.UNWAITED, GuardDetail.DMA_UNWAITED):
            return f"missing wait for the DMA: {what}; {self._transfer()}"
        if detail == GuardDetail.UNLOADED:
            return f"{what}; nothing has written it since its contents died, or ever: a transfer or a kernel is missing"
        if detail == GuardDetail.TRANSFERS:
            return (
                f"missing wait for the DMA: {self._who()} starts a transfer while {stop.value} others are unwaited for"
            )
        return what

    def _who(self) -> str:
        return f"kernel {self.kernel!r}" if self.kernel else "code outside the kernels"

    def _tile(self) -> str:
        if not self.kernel:
            return ""
        known = sorted({region.tile for region in self.context.regions.get(self.kernel, ()) if region.tile is not None})
        unknown = known and self.stop.tile not in known
        rest = f", of which nothing is known (tiles {known[0]} to {known[-1]} are)" if unknown else ""
        return f" in tile {self.stop.tile}{rest}"

    def _transfer(self) -> str:
        stop = self.stop
        direction = "into L1" if stop.transfer_inwards else "out of L1"
        return (
            f"neither {core_name(stop.core)} nor one that it met at a barrier has waited for the transfer of "
            f"{stop.transfer_bytes} bytes {direction} that {core_name(stop.transfer_core)} started at pc "
            f"{stop.transfer_pc:#010x} ({self.context.image.locate(stop.transfer_pc)})"
        )

    def _place(self) -> str:
        """The buffer and the offset in it, or what is near."""
        address, size = self.stop.address, self.stop.size
        own = self.context.own(self.kernel, self.stop.tile)
        for region in own:
            if region.holds(address, size):
                return f"buffer {region.buffer!r}, offset {address - region.address}{self._rule(region)}"
        behind = [region for region in own if -256 <= address - (region.address + region.size) < 256]
        before = [region for region in own if 0 < region.address - address <= 256]
        if behind:
            region = min(behind, key=lambda region: abs(address - region.address - region.size))
            offset = address - region.address
            return f"offset {offset} of its buffer {region.buffer!r}, which has {region.size} bytes" + self._owner()
        if before:
            region = min(before, key=lambda region: region.address)
            return f"{region.address - address} bytes before its buffer {region.buffer!r}" + self._owner()
        return "no buffer of this kernel" + self._owner() if self.kernel else self._owner().removeprefix("; ")

    def _rule(self, region: Region) -> str:
        """How the kernel may use a region that it used in another way."""
        stop, access = self.stop, region.access & Access.BOTH
        if not self.stop.detail <= GuardDetail.DMA_WRITE or access == Access.BOTH:
            return ""
        if not region.cores >> stop.core & 1:
            return f", which {core_name(stop.core)} may not touch"
        return f", which the kernel may only {'read' if access == Access.READ else 'write'}"

    def _owner(self) -> str:
        """Whose the address is instead."""
        address, tile = self.stop.address, self.stop.tile
        found = [
            (other != self.kernel, other, region)
            for other, regions in self.context.regions.items()
            for region in regions
            if region.holds(address, 1) and (other != self.kernel or region.tile not in (None, tile))
        ]
        if not found:
            return f"; symbol: {self.context.image.describe(address)}"
        # The kernel's own buffers of other tiles say most.
        _, other, region = min(found, key=lambda entry: entry[0])
        call = "" if region.tile is None else f", tile {region.tile}"
        return f"; buffer {region.buffer!r} of kernel {other!r}{call} is there, offset {address - region.address}"


def _deadlock(stop: StopRecord, context: Context, states: Sequence[tuple[int, int, int]]) -> str:
    lines = [
        # A core that sleeps is at the instruction behind the one that it waits in.
        f"  {core_name(core)} {WAITS[wait]}, behind pc {pc:#010x} ({context.image.locate(pc - 1)})"
        for core, pc, wait in states
    ]
    return "\n".join([f"the program is deadlocked at cycle {stop.cycle}: every core sleeps and nothing is due", *lines])
