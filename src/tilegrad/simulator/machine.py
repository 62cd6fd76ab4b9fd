"""The simulated machine as Python sees it: load a program, run it, read and write its memory, ask what it did."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tilegrad.errors import RunError, UserError
from tilegrad.simulator.elf import Image, Symbol, read_elf
from tilegrad.simulator.faults import FC, Context, Reason, explain
from tilegrad.simulator.library import (
    CounterRecord,
    HotRecord,
    StopRecord,
    TraceRecord,
    load_library,
)
from tilegrad.simulator.profile import Counters, FunctionProfile, HotSpot
from tilegrad.simulator.regions import Region, range_records
from tilegrad.simulator.trace import KernelSpan, chrome_trace, kernel_spans
from tilegrad.targets.base import Progress

__all__ = ["FC", "Counters", "FunctionProfile", "HotSpot", "Reason", "Result", "Simulator"]

WORKERS = 9
L3_WINDOW = 0x80000000
"""Where `Simulator.read` and `Simulator.write` show L3, which programs reach through the uDMA only."""

_FOREVER = (1 << 64) - 1
_WAIT = 66
_PC = 64


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        reason: `Reason.EXIT`, `Reason.BREAKPOINT` or, for `Simulator.advance`, `Reason.BUDGET`.
        exit_code: the program's exit code, or None where it has not ended.
        cycles: cycles of this run.
        output: what the program printed in it.
        core: the core that stopped the run.
        pc: where that core was.
    """

    reason: Reason
    exit_code: int | None
    cycles: int
    output: str
    core: int
    pc: int


class Simulator:
    """A machine with a program in it. Use it as a context manager, or call `close`.

    Args:
        elf: the program: a path, the file's bytes, or an image read before.
        cores: workers that exist, 1 to 9; the platform has 8 and a spare that programs park.
        timing: timing parameters to change, by name.
        stacks: lowest address of each core's stack, by core; a core whose stack pointer goes below stops the run.
        cc: compiler for the simulator itself, the pinned zig by default.
        progress: called with a line of text when the simulator has to be built first.

    Raises:
        UserError: the program or an option is unusable.
        ToolchainError: the simulator could not be built.
    """

    def __init__(
        self,
        elf: Path | bytes | Image,
        *,
        cores: int = 8,
        timing: Mapping[str, int] | None = None,
        stacks: Mapping[int, int] | None = None,
        cc: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        if not 1 <= cores <= WORKERS:
            raise UserError(f"the cluster has 1 to {WORKERS} workers, not {cores}")
        self.image = elf if isinstance(elf, Image) else read_elf(elf)
        self._library = load_library(cc=cc, progress=progress)
        self._handle: int | None = self._library.sim_create(cores)
        if not self._handle:
            raise UserError("the simulator needs about 60 MB of memory, which this machine does not have")
        self._context = Context(self.image)
        self._dead = ""
        self._trace: list[TraceRecord] = []
        self._functions: tuple[Symbol, ...] = ()
        self._set_timing(timing or {})
        for core, lowest in (stacks or {}).items():
            self._library.sim_set_stack(self._handle, _core(core), lowest)
        self._load()

    def _load(self) -> None:
        for segment in self.image.segments:
            if not segment.data:
                raise UserError(
                    f"the segment at {segment.address:#010x} is loadable but has no bytes in the file, which hangs the "
                    "platform's loader: give no-bits regions the type PT_NULL and clear them in start-up code"
                )
            self._store(segment.address, segment.data + bytes(segment.zeros))
            if segment.executable:
                self._library.sim_scan_code(self._handle, segment.address, len(segment.data))
        self._library.sim_start(self._handle, FC, self.image.entry)

    def _set_timing(self, changes: Mapping[str, int]) -> None:
        names = {name: index for index, name in enumerate(self._parameter_names())}
        for name, value in changes.items():
            if name not in names or value < 0:
                raise UserError(
                    f"there is no timing parameter {name!r} with value {value}; there are {', '.join(names)}"
                )
            self._library.sim_parameter_set(self._handle, names[name], value)

    def _parameter_names(self) -> list[str]:
        names: list[str] = []
        while (name := self._library.sim_parameter_name(len(names))) is not None:
            names.append(name.decode())
        return names

    @property
    def timing(self) -> dict[str, int]:
        """The timing parameters in force."""
        values: dict[str, int] = {}
        value = ctypes.c_uint32()
        for index, name in enumerate(self._parameter_names()):
            self._library.sim_parameter_get(self._live(), index, ctypes.byref(value))
            values[name] = value.value
        return values

    @property
    def cycle(self) -> int:
        """Cycles since the machine was started."""
        return int(self._library.sim_cycle(self._live()))

    def run(self, max_cycles: int | None = None) -> Result:
        """Runs until the program exits or reaches a breakpoint; call it again to go on from a breakpoint.

        Args:
            max_cycles: cycles that the run may take.

        Raises:
            RunError: the program failed, or did not end in the cycles granted.
        """
        result = self.advance(max_cycles)
        if result.reason == Reason.BUDGET:
            raise RunError(
                f"the program did not end within {max_cycles} cycles; {self._where()}"
                + (f"\nIt printed:\n{result.output}" if result.output else "")
            )
        return result

    def advance(self, max_cycles: int | None = None) -> Result:
        """As `run`, but returns with `Reason.BUDGET` where the cycles granted are used up.

        Raises:
            RunError: the program failed.
        """
        handle = self._live()
        if self._dead:
            raise RunError(f"the program cannot go on: {self._dead}")
        before = self.cycle
        stop = StopRecord()
        until = _FOREVER if max_cycles is None else min(before + max_cycles, _FOREVER)
        self._library.sim_run(handle, until, ctypes.byref(stop))
        self._collect_trace()
        output = self._output()
        reason = Reason(stop.reason)
        if reason == Reason.EXIT:
            self._dead = f"it has ended with exit code {stop.value}"
        elif reason not in (Reason.BUDGET, Reason.BREAKPOINT):
            message = explain(stop, self._context, self._states())
            self._dead = "it failed before"
            raise RunError(message + (f"\nIt printed:\n{output}" if output else ""))
        code = int(stop.value) if reason == Reason.EXIT else None
        return Result(reason, code, self.cycle - before, output, int(stop.core), int(stop.pc))

    def breakpoint(self, place: str | int, on: bool = True) -> int:
        """Sets a breakpoint: the run stops before any core executes the instruction there.

        Args:
            place: a symbol or an address; not the last instruction of a hardware loop.
            on: whether to set or to clear it.

        Returns:
            The address.

        Raises:
            RunError: there is no such symbol or no code there.
        """
        address = self.address(place)
        if not self._library.sim_breakpoint(self._live(), address, int(on)):
            raise RunError(f"there can be no code at {address:#010x}")
        return address

    def address(self, place: str | int) -> int:
        """The address of a symbol; an address is returned as it is.

        Raises:
            RunError: there is no such symbol.
        """
        return place if isinstance(place, int) else self._symbol(place).address

    def read(self, place: str | int, dtype: npt.DTypeLike, shape: Sequence[int]) -> npt.NDArray[Any]:
        """Reads memory as an array.

        Args:
            place: a symbol or an address.
            dtype: the elements' type, little-endian.
            shape: the array's shape.

        Raises:
            RunError: there is no such symbol, it is smaller, or the range is not mapped.
        """
        kind = np.dtype(dtype)
        size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
        data = self.read_bytes(place, size)
        return np.frombuffer(data, dtype=kind).reshape(tuple(shape)).copy()

    def read_bytes(self, place: str | int, size: int) -> bytes:
        """Reads bytes; errors as `read`."""
        address = self._checked(place, size)
        buffer = (ctypes.c_char * max(size, 1))()
        if size and not self._library.sim_read(self._live(), address, buffer, size):
            raise RunError(f"{size} bytes at {address:#010x} are not inside one memory")
        return buffer.raw[:size]

    def write(self, place: str | int, data: npt.NDArray[Any] | bytes) -> None:
        """Overwrites memory.

        Args:
            place: a symbol or an address.
            data: bytes, or an array of any shape and numeric dtype.

        Raises:
            RunError: there is no such symbol, it is smaller, or the range is not mapped.
        """
        raw = data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()
        self._store(self._checked(place, len(raw)), raw)

    def _store(self, address: int, data: bytes) -> None:
        if data and not self._library.sim_write(self._live(), address, data, len(data)):
            raise RunError(f"{len(data)} bytes at {address:#010x} are not inside one memory")

    def _checked(self, place: str | int, size: int) -> int:
        if isinstance(place, int):
            return place
        symbol = self._symbol(place)
        if symbol.size and size > symbol.size:
            raise RunError(f"symbol {place!r} has {symbol.size} bytes, not {size}")
        return symbol.address

    def _symbol(self, name: str) -> Symbol:
        if name not in self.image.symbols:
            raise RunError(f"the program has no symbol {name!r}")
        return self.image.symbols[name]

    def counters(self, core: int) -> Counters:
        """What a core did since it was started; `FC` for the fabric controller."""
        record = CounterRecord()
        self._library.sim_counters(self._live(), _core(core), ctypes.byref(record))
        return Counters.of(record)

    def register(self, core: int, index: int) -> int:
        """A register: 0 to 31 integer, 32 to 63 float, 64 the pc, 65 fcsr."""
        return int(self._library.sim_register_get(self._live(), _core(core), index))

    def set_register(self, core: int, index: int, value: int) -> None:
        """Sets a register, numbered as for `register`."""
        self._library.sim_register_set(self._live(), _core(core), index, value & 0xFFFFFFFF)

    def start_core(self, core: int, place: str | int) -> None:
        """Starts a core that has not been started, for programs without a start-up of their own."""
        self._library.sim_start(self._live(), _core(core), self.address(place))

    def park_core(self, core: int) -> None:
        """Stops a core for good, or until `start_core`."""
        self._library.sim_park(self._live(), _core(core))

    def kernels(self, names: Sequence[str], entries: Sequence[str] = ()) -> None:
        """Says which functions are kernels: trace and guard know when a core is inside one, callees included.

        Args:
            names: symbols of functions.
            entries: functions that run whole steps: at the first instruction of one, a core begins anew to count its
                calls of each kernel, so that a call's number is that of its tile.

        Raises:
            RunError: there is no such symbol, or not enough memory.
        """
        table = [self._symbol(name).address for name in (*names, *entries)]
        self._context.kernels = tuple(names)
        self._context.regions, self._context.common = {}, ()
        numbers = (ctypes.c_uint32 * max(len(table), 1))(*table)
        if not self._library.sim_kernels(self._live(), numbers, len(names), len(entries)):
            raise RunError(f"there is not enough memory to follow {len(names)} kernels")

    def guard(
        self, regions: Mapping[str, Sequence[Region]], common: Sequence[Region] = (), entries: Sequence[str] = ()
    ) -> None:
        """Checks every load, store and DMA transfer of the kernels: what is not allowed stops the run.

        A kernel is guarded from its first instruction to its return. Devices are not memory and always allowed.
        docs/simulator.md says when a transfer counts as waited for, and contents of L1 as written.

        Args:
            regions: what each kernel, by the symbol of its function, may touch: in every call, or in one of them
                (`Region.tile`).
            common: what all of them may touch: constants, stacks.
            entries: functions that run whole steps, as for `kernels`; without them, calls are counted from now on.

        Raises:
            RunError: there is no such symbol, or not enough memory.
        """
        names = list(regions)
        self.kernels(names, entries)
        self._context.regions, self._context.common = dict(regions), tuple(common)
        records = range_records(names, regions, common)
        if not self._library.sim_guard(self._live(), records, len(records)):
            raise RunError(f"there is not enough memory to guard {len(records)} regions")

    def trace(self, on: bool = True) -> None:
        """Records kernels, sleep and DMA transfers from now on; `kernels` or `guard` says what the kernels are."""
        self._library.sim_trace(self._live(), int(on))

    def write_trace(self, path: Path) -> None:
        """Writes what was recorded as a trace for Perfetto or chrome://tracing, one microsecond for each cycle.

        Raises:
            UserError: the file cannot be written.
        """
        text = json.dumps(chrome_trace(self._trace, self._context.kernels, self.cycle))
        try:
            path.write_text(text)
        except OSError as error:
            raise UserError(f"the trace cannot be written to {path}: {error.strerror or error}") from error

    def spans(self) -> list[KernelSpan]:
        """When each core executed which kernel, as far as `trace` recorded it."""
        return kernel_spans(self._trace, self._context.kernels)

    def _collect_trace(self) -> None:
        block = (TraceRecord * 4096)()
        while count := self._library.sim_trace_read(self._live(), block, len(block)):
            self._trace += [TraceRecord.from_buffer_copy(record) for record in block[:count]]

    def profile(self, *, instructions: bool = False) -> None:
        """Counts by function from now on, from zero; runs take about twice as long.

        Args:
            instructions: count for each instruction too, for `hot`.

        Raises:
            RunError: there is not enough memory for the counters.
        """
        self._functions = self.image.functions
        bounds = [bound for symbol in self._functions for bound in (symbol.address, symbol.address + symbol.size)]
        table = (ctypes.c_uint32 * max(len(bounds), 1))(*bounds)
        if not self._library.sim_profile(self._live(), table, len(self._functions), int(instructions)):
            raise RunError(f"there is not enough memory to count in {len(self._functions)} functions")

    def profiles(self) -> list[FunctionProfile]:
        """What was counted by function, those that take most cycles first; nothing where `profile` was not called."""
        found: list[FunctionProfile] = []
        record = CounterRecord()
        for index, symbol in enumerate(self._functions):
            for core in range(FC + 1):
                self._library.sim_profile_read(self._live(), core, index, ctypes.byref(record))
                if record.instructions:
                    found.append(FunctionProfile(symbol.name, core, Counters.of(record)))
        return sorted(found, key=lambda entry: (-entry.counters.cycles, entry.function, entry.core))

    def hot(self, function: str) -> list[HotSpot]:
        """What was counted for the instructions of a function, those that take most cycles first.

        Args:
            function: its symbol.

        Raises:
            RunError: there is no such function, or `profile` was not told to count instructions.
        """
        symbol = self._symbol(function)
        record = HotRecord()
        found: list[HotSpot] = []
        for pc in range(symbol.address, symbol.address + max(symbol.size, 2), 2):
            if not self._library.sim_hot_read(self._live(), pc, ctypes.byref(record)):
                raise RunError(
                    f"in {function!r} no instructions are counted: call profile(instructions=True) before the run"
                )
            if record.count:
                found.append(HotSpot.of(pc, record))
        return sorted(found, key=lambda spot: (-spot.cycles, spot.pc))

    def _output(self) -> str:
        parts: list[bytes] = []
        buffer = ctypes.create_string_buffer(65536)
        while count := self._library.sim_output(self._live(), buffer, len(buffer)):
            parts.append(buffer.raw[:count])
        return b"".join(parts).decode(errors="replace")

    def _states(self) -> list[tuple[int, int, int]]:
        states = [(core, self.register(core, _PC), self.register(core, _WAIT)) for core in range(FC + 1)]
        return [state for state in states if state[2] != 1]

    def _where(self) -> str:
        return "; ".join(
            f"{'FC' if core == FC else f'core {core}'} at {self.image.describe(pc)}" for core, pc, _ in self._states()
        )

    def _live(self) -> int:
        if self._handle is None:
            raise RunError("the simulator was closed")
        return self._handle

    def close(self) -> None:
        """Frees the machine. Closing twice is harmless."""
        if self._handle is not None:
            self._library.sim_destroy(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()


def _core(core: int) -> int:
    if not 0 <= core <= FC:
        raise UserError(f"there is no core {core}: workers are 0 to {WORKERS - 1}, the fabric controller is {FC}")
    return core
