"""The sections of a program's file: what the loader does not load, and how large each part is."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tilegrad.errors import RunError
from tilegrad.simulator.elf import Image

_HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
_SECTION = struct.Struct("<IIIIIIIIII")
_NO_BITS = 8
_LONGEST_NAME = 256


@dataclass(frozen=True)
class Section:
    """A section of the file.

    Attributes:
        address: where it belongs.
        offset: where its bytes are in the file.
        size: its bytes.
        has_bits: whether the file holds them.
    """

    address: int
    offset: int
    size: int
    has_bits: bool


def read_sections(data: bytes) -> dict[str, Section]:
    """The sections of a 32-bit little-endian ELF file by name.

    Raises:
        RunError: the file is cut short.
    """
    try:
        header = _HEADER.unpack_from(data)
        table, count, names_index = header[6], header[12], header[13]
        records = [_SECTION.unpack_from(data, table + index * _SECTION.size) for index in range(count)]
        names = records[names_index][4]
        found: dict[str, Section] = {}
        for name_at, kind, _, address, offset, size, *_ in records:
            start = names + name_at
            name = data[start : data.index(b"\0", start)].decode()
            found[name] = Section(address, offset, size, kind != _NO_BITS)
    except (struct.error, IndexError, ValueError) as error:
        raise RunError(f"the program's file is damaged: {error}") from error
    return found


@dataclass(frozen=True)
class Sizes:
    """Bytes of a program in L2.

    Attributes:
        code: machine code.
        constants: read-only data.
        data: variables, initialised and not.
    """

    code: int
    constants: int
    data: int


def program_sizes(executable: Path) -> Sizes:
    """How large the parts of a program are.

    Raises:
        RunError: the file cannot be read or is damaged.
    """
    sections = read_sections(program_bytes(executable))

    def size(*names: str) -> int:
        return sum(sections[name].size for name in names if name in sections)

    return Sizes(size(".text"), size(".rodata"), size(".data", ".bss"))


def section_bytes(executable: Path, name: str) -> tuple[int, bytes]:
    """Address and contents of a section; no bytes where the file has no such section.

    Raises:
        RunError: the file cannot be read or is damaged.
    """
    data = program_bytes(executable)
    section = read_sections(data).get(name)
    if section is None or not section.has_bits:
        return 0, b""
    return section.address, data[section.offset : section.offset + section.size]


def data_symbols(image: Image) -> dict[str, int]:
    """Size in bytes of every variable that a session may write and read, by name."""
    return {
        symbol.name: symbol.size
        for symbol in image.symbols.values()
        if symbol.name.startswith("tilegrad_") and symbol.size and not symbol.is_function
    }


def entry_points(image: Image, read: Callable[[int, int], bytes]) -> dict[str, int]:
    """The functions of the program's table of entry points by name.

    Args:
        image: the program.
        read: gives a number of bytes at an address.

    Raises:
        RunError: the program has no such table.
    """
    rows = _table(image, read, "tilegrad_entries", "tilegrad_entry_count", 2)
    return {_text(read, name): function for name, function in rows}


def tensor_names(image: Image, read: Callable[[int, int], bytes]) -> list[str]:
    """The names in the program's table of tensors: what is worth reading when a run ends.

    Args:
        image: the program.
        read: gives a number of bytes at an address.

    Raises:
        RunError: the program has no such table.
    """
    rows = _table(image, read, "tilegrad_symbols", "tilegrad_symbol_count", 3)
    return [_text(read, name) for name, _, _ in rows]


def _table(
    image: Image, read: Callable[[int, int], bytes], table: str, count: str, words: int
) -> list[tuple[int, ...]]:
    if table not in image.symbols or count not in image.symbols:
        raise RunError(f"the program has no {table}: build it again")
    (rows,) = struct.unpack("<I", read(image.symbols[count].address, 4))
    data = read(image.symbols[table].address, 4 * words * rows)
    return list(struct.iter_unpack(f"<{words}I", data))


def _text(read: Callable[[int, int], bytes], address: int) -> str:
    return read(address, _LONGEST_NAME).split(b"\0", 1)[0].decode()


def offset_of(program: bytes, address: int) -> int:
    """Where a program's file holds the byte of an address.

    Raises:
        RunError: nowhere.
    """
    for section in read_sections(program).values():
        if section.has_bits and section.address and section.address <= address < section.address + section.size:
            return section.offset + address - section.address
    raise RunError(f"the program's file has no place for the data at {address:#010x}: build it again")


def bytes_at(program: bytes, address: int, size: int) -> bytes:
    """Bytes of an address in a program's file, fewer at its end.

    Raises:
        RunError: the file has none there.
    """
    start = offset_of(program, address)
    return program[start : start + size]


def program_bytes(executable: Path) -> bytes:
    """A program's file.

    Raises:
        RunError: it cannot be read.
    """
    try:
        return executable.read_bytes()
    except OSError as error:
        raise RunError(f"the program {executable} cannot be read: {error.strerror or error}") from error
