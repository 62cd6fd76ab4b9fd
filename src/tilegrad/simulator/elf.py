"""Reads 32-bit little-endian RISC-V ELF files: segments, entry point, symbols, and where code comes from."""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tilegrad.errors import UserError
from tilegrad.simulator.dwarf import DebugInfoError
from tilegrad.simulator.source import DebugInfo, Frame

_HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
_PROGRAM = struct.Struct("<IIIIIIII")
_SECTION = struct.Struct("<IIIIIIIIII")
_SYMBOL = struct.Struct("<IIIBBH")
_RISCV = 243
_LOAD, _EXECUTABLE = 1, 1
_SYMTAB = 2
_COMPRESSED = 0x800
_COMPRESSION_HEADER = 12
_NEAR = 0x10000
"""How far behind a symbol without a size an address may be and still be called part of it."""
_FUNCTION, _OBJECT, _NONE = 2, 1, 0


@dataclass(frozen=True)
class Segment:
    """A part of the file that is loaded.

    Attributes:
        address: physical address.
        data: bytes from the file.
        zeros: bytes behind them that start as zero.
        executable: whether it holds code.
    """

    address: int
    data: bytes
    zeros: int
    executable: bool


@dataclass(frozen=True)
class Symbol:
    """A named address.

    Attributes:
        name: the name.
        address: where it is.
        size: bytes, 0 where the file does not say.
        is_function: whether it names code.
    """

    name: str
    address: int
    size: int
    is_function: bool


@dataclass(frozen=True)
class Image:
    """A program file.

    Attributes:
        entry: the address of the first instruction.
        segments: what is loaded, in the file's order.
        symbols: name to symbol; local names that occur twice keep the first.
        ordered: all symbols with an address, by address.
        debug: its sections of debug information by name; empty for a program that was built without.
    """

    entry: int
    segments: tuple[Segment, ...]
    symbols: dict[str, Symbol]
    ordered: tuple[Symbol, ...] = field(repr=False)
    debug: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @cached_property
    def _addresses(self) -> list[int]:
        return [symbol.address for symbol in self.ordered]

    @cached_property
    def functions(self) -> tuple[Symbol, ...]:
        """Functions with a size, by address, disjoint: of those that overlap the first counts."""
        chosen: list[Symbol] = []
        for symbol in self.ordered:
            if symbol.is_function and symbol.size and (not chosen or symbol.address >= _end(chosen[-1])):
                chosen.append(symbol)
        return tuple(chosen)

    def near(self, address: int) -> Symbol | None:
        """The symbol that holds an address, or else the nearest one before it."""
        index = bisect_right(self._addresses, address)
        for candidate in reversed(self.ordered[max(0, index - 16) : index]):
            if address < _end(candidate):
                return candidate
        return self.ordered[index - 1] if index else None

    def describe(self, address: int) -> str:
        """An address as ``symbol+offset``, saying so where it lies behind the symbol's end; hexadecimal without one."""
        symbol = self.near(address)
        if symbol is None:
            return f"{address:#010x}"
        offset = address - symbol.address
        if symbol.size and offset >= symbol.size:
            return f"{offset - symbol.size} bytes behind {symbol.name} ({symbol.size} bytes)"
        if offset >= _NEAR:
            return f"{offset} bytes behind {symbol.name}"
        return f"{symbol.name}+{offset:#x}" if offset else symbol.name

    @cached_property
    def _debug_info(self) -> DebugInfo:
        return DebugInfo(self.debug)

    def frames(self, address: int) -> tuple[Frame, ...]:
        """The functions of the source that an instruction belongs to, those inlined first.

        Nothing for a program without debug information.

        Raises:
            DebugInfoError: the debug information is damaged, or of a kind that is not read.
        """
        return self._debug_info.frames(address)

    def locate(self, address: int) -> str:
        """An instruction as `describe` has it, and where the debug information says that it comes from.

        It is meant for messages: debug information that cannot be read is mentioned, not raised.
        """
        try:
            frames = self.frames(address)
        except DebugInfoError as error:
            return f"{self.describe(address)}; its debug information cannot be read: {error}"
        source = ", inlined into ".join(str(frame) for frame in frames)
        return f"{self.describe(address)}, in {source}" if source else self.describe(address)


def _end(symbol: Symbol) -> int:
    return symbol.address + max(symbol.size, 1)


def read_elf(source: Path | bytes) -> Image:
    """Reads a program.

    Args:
        source: a file's path, or its bytes.

    Raises:
        UserError: it cannot be read or is no 32-bit RISC-V ELF program.
    """
    name = "the program" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from error
    try:
        return _parse(data, name)
    except (struct.error, IndexError, ValueError, zlib.error) as error:
        raise UserError(f"{name} is a damaged ELF file: {error}") from error


def _parse(data: bytes, name: str) -> Image:
    if data[:4] != b"\x7fELF" or data[4:6] != b"\x01\x01":
        raise UserError(f"{name} is not a 32-bit little-endian ELF file")
    header = _HEADER.unpack_from(data)
    machine, entry, program_at, section_at = header[2], header[4], header[5], header[6]
    if machine != _RISCV:
        raise UserError(f"{name} is a program for machine {machine}, not for RISC-V ({_RISCV})")
    segments: list[Segment] = []
    for index in range(header[10]):
        kind, offset, _, address, in_file, in_memory, flags, _ = _PROGRAM.unpack_from(
            data, program_at + index * header[9]
        )
        if kind == _LOAD and in_memory:
            content = data[offset : offset + in_file]
            if len(content) != in_file:
                raise UserError(f"{name} is cut short: segment {index} needs {in_file} bytes")
            segments.append(Segment(address, content, in_memory - in_file, bool(flags & _EXECUTABLE)))
    sections = [_SECTION.unpack_from(data, section_at + index * header[11]) for index in range(header[12])]
    symbols = _symbols(data, sections)
    by_name: dict[str, Symbol] = {}
    for symbol in symbols:
        by_name.setdefault(symbol.name, symbol)
    ordered = sorted(symbols, key=lambda symbol: (symbol.address, -symbol.size, symbol.name))
    return Image(entry, tuple(segments), by_name, tuple(ordered), _debug(data, sections, header[13]))


def _debug(data: bytes, sections: Sequence[tuple[int, ...]], names: int) -> dict[str, bytes]:
    """The sections whose names begin with ``.debug_``."""
    found: dict[str, bytes] = {}
    for name_at, _, flags, _, offset, size, *_ in sections:
        begin = sections[names][4] + name_at
        name = data[begin : data.index(b"\0", begin)].decode()
        if name.startswith(".debug_"):
            content = data[offset : offset + size]
            found[name] = zlib.decompress(content[_COMPRESSION_HEADER:]) if flags & _COMPRESSED else content
    return found


def _symbols(data: bytes, sections: Sequence[tuple[int, ...]]) -> list[Symbol]:
    found: list[Symbol] = []
    for section in sections:
        if section[1] != _SYMTAB:
            continue
        names = data[sections[section[6]][4] :]
        for at in range(section[4], section[4] + section[5], _SYMBOL.size):
            name_at, address, size, info, _, index = _SYMBOL.unpack_from(data, at)
            name = names[name_at : names.index(b"\0", name_at)].decode()
            kind = info & 15
            # Labels inside functions and mapping symbols say nothing to a reader.
            if index and name and not name.startswith(("$", ".L")) and kind in (_FUNCTION, _OBJECT, _NONE):
                found.append(Symbol(name, address, size, kind == _FUNCTION))
    return found
