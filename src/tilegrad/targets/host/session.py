"""A session with a program on this machine: a process of its own, driven over two pipes.

The other side of the protocol, and its description, is ``driver/main.c``.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tilegrad.errors import InternalError, RunError
from tilegrad.targets.base import Array, Session, Transaction, require_entry, require_symbol

_MAGIC = 0x31474754
_NO_ENTRY = 0xFFFFFFFF
_SMALL = 1 << 16
_TAIL_BYTES = 8000
_TAIL_LINES = 25
_REPORT = re.compile(r"ERROR: \w+Sanitizer: .*|.*runtime error: .*|.*\bpanic: .*|driver: .*")


class HostSession(Session):
    """A running program of this machine; see `Session`.

    Attributes:
        executable: the file that runs.
        symbols: size in bytes of every symbol, by name.
        entries: names of the entry points.
        seconds: time spent inside entry points, as the program itself measured it.
        cycles: always None: a host has no cycle counter.
    """

    def __init__(self, executable: Path) -> None:
        self.executable = executable
        self.seconds = 0.0
        self.cycles = None
        self._closed = False
        # A file, not a pipe: a sanitizer's long report must not fill a pipe that nobody reads.
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the session)
        # Leaks are not looked for: the generated code allocates nothing, and the search fails under a debugger.
        defaults = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
        options = {name: f"{value}:{os.environ.get(name, '')}" for name, value in defaults.items()}
        try:
            self._process = subprocess.Popen(
                [executable],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=os.environ | options,
                bufsize=_SMALL,
                # Ctrl-C is for this process to handle; it ends the program itself.
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            self._closed = True
            raise RunError(f"the program {executable} cannot be started: {error}") from error
        with self._conversation("as it started"):
            self.symbols, self.entries = self._greeting()
        self._symbol_numbers = {name: number for number, name in enumerate(self.symbols)}
        self._entry_numbers = {name: number for number, name in enumerate(self.entries)}

    def write(self, symbol: str, data: Array) -> None:
        """Overwrites a symbol; see `Session.write`."""
        self.transact({symbol: data}, None, {})

    def read(self, symbol: str, dtype: npt.DTypeLike, shape: Sequence[int]) -> Array:
        """Reads a symbol; see `Session.read`."""
        return self.transact({}, None, {symbol: (dtype, shape)}).values[symbol]

    def call(self, entry: str, repeat: int = 1) -> int | None:
        """Calls an entry point; see `Session.call`."""
        return self.transact({}, entry, {}, repeat=repeat).cycles

    def transact(
        self,
        writes: Mapping[str, Array],
        entry: str | None,
        reads: Mapping[str, tuple[npt.DTypeLike, Sequence[int]]],
        *,
        repeat: int = 1,
    ) -> Transaction:
        """Writes, calls and reads in one round trip; see `Session.transact`."""
        if self._closed:
            raise RunError(f"the session with {self.executable} is over: start the program again")
        payloads = {symbol: _bytes_of(symbol, data) for symbol, data in writes.items()}
        values = {symbol: np.empty(tuple(shape), dtype=dtype) for symbol, (dtype, shape) in reads.items()}
        for symbol, payload in payloads.items():
            require_symbol(self.symbols, symbol, payload.nbytes)
        for symbol, value in values.items():
            require_symbol(self.symbols, symbol, value.nbytes)
        if entry is not None:
            require_entry(self.entries, entry, repeat)
        with self._conversation(f"while {entry!r} ran" if entry is not None else "while it was written to or read"):
            self._request(payloads, entry, values, repeat)
            nanoseconds = self._answer()
            for value in values.values():
                self._receive_into(_view(value))
        elapsed = nanoseconds * 1e-9
        self.seconds += elapsed
        return Transaction(values, None, elapsed)

    def close(self) -> None:
        """Ends the program; see `Session.close`."""
        if self._closed:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            status = self._process.wait()
        except BaseException:
            self.kill()
            raise
        error = self._crash("as it ended") if status != 0 else None
        self._release()
        if error is not None:
            raise error

    def kill(self) -> None:
        """Ends the program at once, whatever it is doing."""
        if self._closed:
            return
        self._process.kill()
        self._process.wait()
        self._release()

    def _release(self) -> None:
        self._closed = True
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # Closing flushes what a dead program will not take any more.
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._errors.close()

    @contextlib.contextmanager
    def _conversation(self, when: str) -> Iterator[None]:
        """Ends the program if anything, Ctrl-C included, leaves the two sides out of step."""
        try:
            yield
        except (BrokenPipeError, EOFError) as error:
            self._process.wait()
            crash = self._crash(when)
            self._release()
            raise crash from error
        except _RefusedError as error:
            raise InternalError(f"{self.executable} refused a request {when}: {error}") from error
        except BaseException:
            self.kill()
            raise

    def _crash(self, when: str) -> RunError:
        """Describes how the program ended: signal or status, and what it or its sanitizer said."""
        status = self._process.returncode
        if status < 0:
            how = f"was ended by {signal.Signals(-status).name} ({signal.strsignal(-status)})"
        else:
            how = f"ended with exit status {status}"
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _TAIL_BYTES))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        report = next((found.group(0).strip() for line in lines if (found := _REPORT.search(line))), "")
        parts = [f"the program {self.executable} {how} {when}" + (f": {report}" if report else "")]
        if len(lines) > _TAIL_LINES:
            parts.append("  ...")
        parts += [f"  {line}" for line in lines[-_TAIL_LINES:]]
        if not report:
            parts.append("A build with sanitizers (--sanitize, with gcc or clang) can tell where.")
        return RunError("\n".join(parts))

    def _greeting(self) -> tuple[dict[str, int], tuple[str, ...]]:
        magic, symbol_count, entry_count = self._unpack("=3I")
        if magic != _MAGIC:
            raise RunError(f"{self.executable} is not a program built for this version of TileGrad: build it again")
        symbols: dict[str, int] = {}
        for _ in range(symbol_count):
            size, length = self._unpack("=2I")
            symbols[self._receive(length).decode()] = size
        return symbols, tuple(self._receive(self._unpack("=I")[0]).decode() for _ in range(entry_count))

    def _request(
        self, payloads: Mapping[str, memoryview], entry: str | None, values: Mapping[str, Array], repeat: int
    ) -> None:
        number = _NO_ENTRY if entry is None else self._entry_numbers[entry]
        parts: list[bytes | memoryview] = [struct.pack("=4I", len(payloads), len(values), number, repeat)]
        parts += [struct.pack("=2I", self._symbol_numbers[symbol], value.nbytes) for symbol, value in values.items()]
        for symbol, payload in payloads.items():
            parts += [struct.pack("=2I", self._symbol_numbers[symbol], payload.nbytes), payload]
        assert self._process.stdin is not None
        # Buffered: small parts go out together, large arrays go straight to the pipe.
        for part in parts:
            self._process.stdin.write(part)
        self._process.stdin.flush()

    def _answer(self) -> int:
        status, length, nanoseconds = self._unpack("=2IQ")
        text = self._receive(length).decode(errors="replace")
        if status != 0:
            raise _RefusedError(text)
        return int(nanoseconds)

    def _unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self._receive(struct.calcsize(layout)))

    def _receive(self, size: int) -> bytearray:
        data = bytearray(size)
        self._receive_into(memoryview(data))
        return data

    def _receive_into(self, target: memoryview) -> None:
        assert self._process.stdout is not None
        # A buffered reader's readinto comes back short only at the end of the stream.
        if self._process.stdout.readinto(target) != target.nbytes:  # type: ignore[attr-defined]
            raise EOFError("the program's answer ended early")


class _RefusedError(Exception):
    """The program answered a request with an error message; both sides are still in step."""


def _bytes_of(symbol: str, data: Array) -> memoryview:
    """The bytes of an array in this machine's byte order, without a copy where it is contiguous already."""
    array = np.asarray(data)
    if array.dtype.kind not in "biufc":
        raise RunError(f"symbol {symbol!r} cannot be written from an array of dtype {array.dtype}: give it numbers")
    return _view(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))


def _view(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
