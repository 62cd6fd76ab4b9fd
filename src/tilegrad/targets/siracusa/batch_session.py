"""A session with a program that nobody can stop: what is asked of it is recorded, and one run answers all of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tilegrad.errors import RunError
from tilegrad.simulator.elf import read_elf
from tilegrad.targets.base import Array, Session, Transaction, require_entry, require_symbol
from tilegrad.targets.siracusa.batch import Call, Operation, Results, Show, Write, parse_output, with_script
from tilegrad.targets.siracusa.image import (
    bytes_at,
    data_symbols,
    entry_points,
    program_bytes,
    section_bytes,
    tensor_names,
)

#: Runs a program's file and returns what it printed.
Runner = Callable[[Path], str]


class BatchSession(Session):
    """Records writes, calls and reads, and runs the program from its start when a result is needed.

    The program is deterministic, so that a run repeats those before it and goes on. `transact` gives results that are
    computed when they are looked at: whoever looks at them late has all of them from a single run. `call` and `read`
    return theirs at once and take a run each.

    Args:
        executable: the program.
        runner: runs a file and returns its output; the session calls it with copies of the program in a folder of its
            own.
        known_faults: see `Session.known_faults`.

    Raises:
        RunError: the program cannot be read.
    """

    deferred = True

    def __init__(self, executable: Path, runner: Runner, known_faults: int = 0) -> None:
        self.known_faults = known_faults
        self._program = program_bytes(executable)
        self._runner = runner
        self._folder = tempfile.TemporaryDirectory(prefix="tilegrad-run-")
        image = read_elf(self._program)
        self._addresses = {symbol.name: symbol.address for symbol in image.symbols.values()}
        self.symbols = data_symbols(image)
        self._entry_points = entry_points(image, self._bytes_at)
        self._tensors = [name for name in tensor_names(image, self._bytes_at) if name in self.symbols]
        self.entries = list(self._entry_points)
        self.seconds = 0.0
        self.output = ""
        address, contents = section_bytes(executable, ".l3")
        self._operations: list[Operation] = [Write(address, contents)] if contents else []
        self._results: dict[int, int | bytes] = {}
        #: Where the present contents of symbols are recorded: until the next write or call.
        self._present: dict[str, int] = {}
        self._closed = False

    def _bytes_at(self, address: int, size: int) -> bytes:
        return bytes_at(self._program, address, size)

    @property
    def cycles(self) -> int:  # type: ignore[override]
        """See `Session.cycles`; what was called and not run yet is run for it."""
        return sum(self.cycles_of(place) for place, done in enumerate(self._operations) if isinstance(done, Call))

    def write(self, symbol: str, data: Array) -> None:
        """See `Session.write`."""
        array = np.ascontiguousarray(data)
        require_symbol(self.symbols, symbol, array.nbytes)
        self._record(Write(self._addresses[symbol], array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()))

    def read(self, symbol: str, dtype: npt.DTypeLike, shape: Sequence[int]) -> npt.NDArray[Any]:
        """See `Session.read`; takes a run, but of several reads in a row only the first two do."""
        require_symbol(self.symbols, symbol, np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64)))
        if symbol not in self._present:
            # Who reads a second time is likely to read on: then everything is asked for.
            wanted = dict.fromkeys([symbol, *(self._tensors if self._present else ())])
            for name in wanted:
                self._present[name] = self._record_show(name)
        return array_of(self.bytes_of(self._present[symbol]), dtype, shape)

    def call(self, entry: str, repeat: int = 1) -> int:
        """See `Session.call`; takes a run."""
        return self.cycles_of(self._record_call(entry, repeat))

    def transact(
        self,
        writes: Mapping[str, Array],
        entry: str | None,
        reads: Mapping[str, tuple[npt.DTypeLike, Sequence[int]]],
        *,
        repeat: int = 1,
    ) -> Transaction:
        """See `Session.transact`; nothing runs before a result is looked at."""
        for symbol, (dtype, shape) in reads.items():
            require_symbol(self.symbols, symbol, np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64)))
        for symbol, data in writes.items():
            self.write(symbol, data)
        call = None if entry is None else self._record_call(entry, repeat)
        places = {symbol: self._record_show(symbol) for symbol in reads}
        return _Deferred(self, call, places, reads)

    def _require_open(self) -> None:
        if self._closed:
            raise RunError("the session is over: start the program again")

    def _record_show(self, symbol: str) -> int:
        return self._record(Show(self._addresses[symbol], self.symbols[symbol]))

    def _record(self, operation: Operation) -> int:
        self._require_open()
        if not isinstance(operation, Show):
            self._present.clear()
        self._operations.append(operation)
        return len(self._operations) - 1

    def _record_call(self, entry: str, repeat: int) -> int:
        require_entry(self.entries, entry, repeat)
        return self._record(Call(self._entry_points[entry], repeat))

    def cycles_of(self, place: int) -> int:
        """The cycles of the call recorded at a place."""
        found = self._result(place)
        assert isinstance(found, int)
        return found

    def bytes_of(self, place: int) -> bytes:
        """The bytes of the read recorded at a place."""
        found = self._result(place)
        assert isinstance(found, bytes)
        return found

    def _result(self, place: int) -> int | bytes:
        if place not in self._results:
            self._require_open()
            self._run()
        return self._results[place]

    def _run(self) -> None:
        """Runs all that is recorded, but for the printing of what is known."""
        wanted = [
            (place, operation)
            for place, operation in enumerate(self._operations)
            if not isinstance(operation, Show) or place not in self._results
        ]
        pointer, free = self._addresses["tilegrad_script"], self._addresses["tilegrad_bss_end"]
        copy = Path(self._folder.name) / "program.elf"
        copy.write_bytes(with_script(self._program, [operation for _, operation in wanted], pointer, free))
        began = time.perf_counter()
        printed = self._runner(copy)
        self.seconds += time.perf_counter() - began
        self._take(wanted, parse_output(printed))

    def _take(self, wanted: Sequence[tuple[int, Operation]], results: Results) -> None:
        self.output = results.output
        calls = [place for place, operation in wanted if isinstance(operation, Call)]
        shows = [place for place, operation in wanted if isinstance(operation, Show)]
        if len(calls) != len(results.cycles) or len(shows) != len(results.shown):
            raise RunError("the program did not print all that it was asked for")
        for place, cycles in zip(calls, results.cycles, strict=True):
            self._results.setdefault(place, cycles)
        self._results.update(zip(shows, results.shown, strict=True))

    def close(self) -> None:
        """See `Session.close`. Results that nobody looked at are never computed."""
        self._closed = True
        self._folder.cleanup()


def array_of(data: bytes, dtype: npt.DTypeLike, shape: Sequence[int]) -> npt.NDArray[Any]:
    """A new array from the platform's bytes."""
    kind = np.dtype(dtype)
    return np.frombuffer(data, kind.newbyteorder("<")).reshape(tuple(shape)).astype(kind)


class _Deferred(Transaction):
    """What `BatchSession.transact` gives back: the run takes place when something of it is looked at."""

    def __init__(
        self,
        session: BatchSession,
        call: int | None,
        places: Mapping[str, int],
        reads: Mapping[str, tuple[npt.DTypeLike, Sequence[int]]],
    ) -> None:
        for name, value in (("_session", session), ("_call", call), ("_places", places), ("_reads", reads)):
            object.__setattr__(self, name, value)

    _session: BatchSession
    _call: int | None
    _places: Mapping[str, int]
    _reads: Mapping[str, tuple[npt.DTypeLike, Sequence[int]]]

    @property
    def values(self) -> dict[str, Array]:
        return {
            symbol: array_of(self._session.bytes_of(self._places[symbol]), dtype, shape)
            for symbol, (dtype, shape) in self._reads.items()
        }

    @property
    def cycles(self) -> int | None:
        return None if self._call is None else self._session.cycles_of(self._call)

    @property
    def seconds(self) -> float:
        return self._session.seconds
