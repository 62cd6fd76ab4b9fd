"""A target is a description that the compiler asks, a way to build a project, and a way to drive the program.

The stages before this one never look at a target's name: whatever they need to know is a field of `Target`. A run
needs three objects: `Target.build` gives a `Program`, `Program.start` gives a `Session`, and the session writes
symbols, calls entry points and reads symbols back. How a symbol is found (a table inside the program, the symbols of
an ELF file) is the session's own business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy.typing as npt

from tilegrad.errors import RunError, UserError

if TYPE_CHECKING:
    from tilegrad.simulator import Simulator

Array = npt.NDArray[Any]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Memory:
    """One level of a target's memory.

    Attributes:
        name: the level's name, e.g. ``"L1"``; it keys the memory report.
        capacity: the budget: bytes that may be used, those that `Target.reserved` lists included, or None where the
            level is as large as the machine lets it be.
        alignment: alignment in bytes that buffers at this level are given, a power of two.
        load_cycles: cycles that one load takes from a core that computes.
        mapped: whether loads and stores reach it; a level that is not mapped is reached by DMA only.
        physical: bytes that the machine has, the most that a budget may be; None where that is `capacity`.
        dma_bytes_per_cycle: bytes that one transfer between this level and the next faster one moves in a cycle, or
            None where none is needed because kernels work on this level.
        dma_setup_cycles: cycles to start such a transfer and to wait for it, besides those for its bytes.
    """

    name: str
    capacity: int | None
    alignment: int
    load_cycles: float = 1.0
    mapped: bool = True
    physical: int | None = None
    dma_bytes_per_cycle: float | None = None
    dma_setup_cycles: float = 0.0

    def __post_init__(self) -> None:
        if self.capacity is not None and self.capacity <= 0:
            raise UserError(f"memory {self.name!r}: the capacity must be positive, not {self.capacity} bytes")
        if self.physical is not None and (self.capacity is None or self.capacity > self.physical):
            asked = "no limit" if self.capacity is None else f"{self.capacity:,} bytes"
            raise UserError(f"memory {self.name!r} has {self.physical:,} bytes: {asked} cannot be its capacity")
        if self.alignment <= 0 or self.alignment & (self.alignment - 1):
            raise UserError(f"memory {self.name!r}: the alignment must be a power of two, not {self.alignment}")

    def aligned(self, size: int) -> int:
        """`size` in bytes, rounded up to a multiple of the alignment."""
        return -(-size // self.alignment) * self.alignment


@dataclass(frozen=True)
class Transaction:
    """What one `Session.transact` gave back.

    Attributes:
        values: the symbols read, by name, in the order asked for.
        cycles: cycles that the calls took, or None where the target has no cycle counter or nothing was called.
        seconds: time that the calls took on the machine that ran them.
    """

    values: dict[str, Array]
    cycles: int | None
    seconds: float


class Session(ABC):
    """A running program. Use it as a context manager: leaving it ends the program.

    A session serves one thread at a time; several sessions of one program are independent of each other.

    Attributes:
        symbols: size in bytes of every symbol that can be written and read, by name.
        entries: names of the entry points that can be called.
        seconds: time spent inside entry points since the session began.
        cycles: cycles spent inside entry points, or None where the target has no cycle counter.
        deferred: whether `transact` gives results that are computed when they are looked at, all that are due
            together, so that it pays to look at them late.
        known_faults: bits of the program's `tg_arithmetic_faults` that are a known property of what runs it, and which
            `Program.notices` tell the user; any other fault ends a run.
    """

    deferred: bool = False
    known_faults: int = 0
    symbols: Mapping[str, int]
    entries: Sequence[str]
    seconds: float
    cycles: int | None

    @abstractmethod
    def write(self, symbol: str, data: Array) -> None:
        """Overwrites a symbol with the bytes of an array.

        Args:
            symbol: the symbol's name.
            data: any shape and numeric dtype; its size in bytes must be the symbol's.

        Raises:
            RunError: there is no such symbol, its size differs, or the program died.
        """

    @abstractmethod
    def read(self, symbol: str, dtype: npt.DTypeLike, shape: Sequence[int]) -> Array:
        """Reads a symbol as an array.

        Args:
            symbol: the symbol's name.
            dtype: the elements' type.
            shape: the array's shape; with `dtype` it must cover the symbol exactly.

        Returns:
            A new array.

        Raises:
            RunError: there is no such symbol, its size differs, or the program died.
        """

    @abstractmethod
    def call(self, entry: str, repeat: int = 1) -> int | None:
        """Calls an entry point.

        Args:
            entry: the entry point's name.
            repeat: how many times to call it, one directly after the other.

        Returns:
            The cycles that all calls took together, or None where the target has no cycle counter.

        Raises:
            RunError: there is no such entry point, or the program died; the message names the entry point.
        """

    def transact(
        self,
        writes: Mapping[str, Array],
        entry: str | None,
        reads: Mapping[str, tuple[npt.DTypeLike, Sequence[int]]],
        *,
        repeat: int = 1,
    ) -> Transaction:
        """Writes symbols, calls an entry point, reads symbols: one step of a training loop.

        A target whose round trips are costly overrides this with a single one.

        Args:
            writes: symbol to data, written first and in order.
            entry: the entry point to call, or None to call nothing.
            reads: symbol to (dtype, shape), read last and in order.
            repeat: how many times to call the entry point.

        Raises:
            RunError: as `write`, `call` and `read`.
        """
        before = self.seconds
        for symbol, data in writes.items():
            self.write(symbol, data)
        cycles = self.call(entry, repeat) if entry is not None else None
        values = {symbol: self.read(symbol, dtype, shape) for symbol, (dtype, shape) in reads.items()}
        return Transaction(values, cycles, self.seconds - before)

    @abstractmethod
    def close(self) -> None:
        """Ends the program and frees what it holds. Closing twice is harmless.

        Raises:
            RunError: the program ended in an error of its own.
        """

    @property
    def simulator(self) -> Simulator:
        """The simulated machine that the program runs on, for those who watch it.

        Raises:
            UserError: the program runs on a real one; `Target.simulated` says so beforehand.
        """
        raise UserError("the program runs on a real machine: what it does cannot be watched")

    def kill(self) -> None:
        """Ends the program at once, without asking how it fared; `close` where nothing is quicker."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An error on its way out is the one worth reading: the program's own end must not hide it.
        if kind is None:
            self.close()
        else:
            self.kill()


def require_symbol(symbols: Mapping[str, int], symbol: str, size: int) -> None:
    """Raises `RunError` unless `symbol` exists and has `size` bytes: the check that every session makes first."""
    if symbol not in symbols:
        raise RunError(f"the program has no symbol {symbol!r}{_suggestion(symbol, list(symbols))}")
    if symbols[symbol] != size:
        raise RunError(
            f"symbol {symbol!r} has {symbols[symbol]} bytes, but the array given or asked for has {size}: "
            "check its dtype and shape"
        )


def require_entry(entries: Sequence[str], entry: str, repeat: int) -> None:
    """Raises `RunError` unless `entry` exists and `repeat` is at least 1."""
    if entry not in entries:
        raise RunError(f"the program has no entry point {entry!r}{_suggestion(entry, entries)}")
    if repeat < 1:
        raise RunError(f"entry point {entry!r} must be called at least once, not {repeat} times")


def _suggestion(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=3)
    if close:
        return "; did you mean " + " or ".join(repr(candidate) for candidate in close) + "?"
    shown = ", ".join(repr(candidate) for candidate in known[:12]) or "none"
    return f"; it has {shown}" + (", ..." if len(known) > 12 else "")


@dataclass(frozen=True, kw_only=True)
class Program(ABC):
    """A project built for a target, ready to be started any number of times.

    Attributes:
        executable: the file that runs.
        compiler: name and version of the compiler that built it.
        notices: what the user should know about this build, one sentence each; usually empty.
        seconds: how long the build took.
        compiled: how many C files were compiled; 0 where everything came from the cache.
        code_bytes: machine code, or None where it is not measured.
        constant_bytes: read-only data, or None where it is not measured.
        data_bytes: variables in the memory that the program is loaded into, or None where they are not measured.
    """

    executable: Path
    compiler: str
    notices: tuple[str, ...] = ()
    seconds: float = 0.0
    compiled: int = 0
    code_bytes: int | None = None
    constant_bytes: int | None = None
    data_bytes: int | None = None

    @abstractmethod
    def start(self) -> Session:
        """Starts the program.

        Raises:
            RunError: it did not come up.
        """


@dataclass(frozen=True, kw_only=True)
class Target(ABC):
    """The description of a machine. Immutable: a variant (other budgets, other cores) is `dataclasses.replace`.

    Attributes:
        name: how users call it.
        summary: one line for lists.
        memories: the levels of memory, fastest first.
        cores: cores that share the work of one kernel.
        vector_width_bytes: bytes that one vector instruction handles; the size of one element where there are none.
        innermost: which iterator the innermost loop of a contraction should run over: a unit-stride ``"parallel"``
            one, which vector units want, or the ``"reduction"``, which keeps the sum in a register.
        has_cycle_counter: whether calls report cycles.
        compilers: names that `build` takes for `cc` besides a path.
        default_compiler: the name used where none is given.
        most_cores: the largest team that `with_cores` gives; None where it is `cores`.
        multiply_adds_per_cycle: most fused multiply-adds that the whole machine starts in one cycle, or None where
            that is not known.
        simulated: whether programs run on the simulator, so that sessions have `Session.simulator`.
        runners: names of what can run programs, where there is a choice.
        runner: the one chosen, or nothing where there is no choice.
    """

    name: str
    summary: str
    memories: tuple[Memory, ...]
    cores: int = 1
    vector_width_bytes: int = 4
    innermost: Literal["parallel", "reduction"] = "reduction"
    has_cycle_counter: bool = False
    compilers: tuple[str, ...] = field(default=("zig",))
    default_compiler: str = "zig"
    most_cores: int | None = None
    multiply_adds_per_cycle: float | None = None
    simulated: bool = False
    runners: tuple[str, ...] = ()
    runner: str = ""

    def __post_init__(self) -> None:
        names = [memory.name for memory in self.memories]
        if not names or len(set(names)) != len(names):
            raise UserError(f"target {self.name!r} needs memories with different names, not {names}")
        if self.cores < 1:
            raise UserError(f"target {self.name!r} needs at least one core, not {self.cores}")
        if self.innermost not in ("parallel", "reduction"):
            raise UserError(f"target {self.name!r}: innermost is 'parallel' or 'reduction', not {self.innermost!r}")
        if not self.mapped_memories:
            raise UserError(f"target {self.name!r} needs a memory that loads and stores reach")

    @property
    def mapped_memories(self) -> tuple[Memory, ...]:
        """The levels that loads and stores reach, fastest first."""
        return tuple(memory for memory in self.memories if memory.mapped)

    @property
    def reserved(self) -> Mapping[str, int]:
        """Bytes of each level that the run-time code and the stacks take with this team: name to bytes, 0 included."""
        return {memory.name: 0 for memory in self.memories}

    def memory(self, name: str) -> Memory:
        """The level of memory called `name`.

        Raises:
            UserError: there is none.
        """
        for memory in self.memories:
            if memory.name == name:
                return memory
        known = ", ".join(memory.name for memory in self.memories)
        raise UserError(f"target {self.name!r} has no memory {name!r}; it has {known}")

    def with_memory(self, name: str, capacity: int) -> Self:
        """The same target with another budget for one level of memory.

        Args:
            name: the level.
            capacity: bytes that may be used of it.

        Raises:
            UserError: there is no such level, it is smaller, or the budget is not positive.
        """
        changed = replace(self.memory(name), capacity=capacity)
        return replace(self, memories=tuple(changed if memory.name == name else memory for memory in self.memories))

    def with_cores(self, cores: int) -> Self:
        """The same target with a team of this many cores.

        Raises:
            UserError: the target has one core, or not that many.
        """
        most = self.most_cores or self.cores
        if most == 1:
            raise UserError(f"target {self.name!r} has one core: the number of cores cannot be chosen")
        if not 1 <= cores <= most:
            raise UserError(f"target {self.name!r} has 1 to {most} cores, not {cores}")
        return replace(self, cores=cores)

    def with_runner(self, name: str) -> Self:
        """The same target with another runner for its programs.

        Raises:
            UserError: the target has no such runner.
        """
        if name not in self.runners:
            known = f"its runners are {', '.join(self.runners)}" if self.runners else "its programs run in one way only"
            raise UserError(f"target {self.name!r} has no runner {name!r}: {known}")
        return replace(self, runner=name)

    def project_files(self) -> Mapping[str, str]:
        """Files that this target adds to a generated project: path in the project to text, in a fixed order."""
        return {}

    @abstractmethod
    def build(
        self,
        project: Path,
        *,
        cc: str | None = None,
        sanitize: bool = False,
        optimization: str = "-O3",
        flags: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Program:
        """Builds a generated project; nothing is written inside its folder.

        Args:
            project: the project's folder.
            cc: one of `compilers`, another compiler's name or path, or None for the default.
            sanitize: stop with a report at undefined behaviour and, where the compiler can, at wrong addresses.
            optimization: the compiler's optimisation option, ``-O0`` to ``-O3`` or ``-Os``.
            flags: further options for the compiler, after all others.
            progress: called with a line of text when something that may take a while begins.

        Raises:
            ToolchainError: the compiler is missing or rejected the project, or the build could not be stored.
        """
