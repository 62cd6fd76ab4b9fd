"""The sections of a program's file: what the loader does not load, and how large each part is."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from tilegrad.errors import RunError

_HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
_SECTION = struct.Struct("<IIIIIIIIII")
_NO_BITS = 8


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
    sections = read_sections(_contents(executable))

    def size(*names: str) -> int:
        return sum(sections[name].size for name in names if name in sections)

    return Sizes(size(".text"), size(".rodata"), size(".data", ".bss"))


def section_bytes(executable: Path, name: str) -> tuple[int, bytes]:
    """Address and contents of a section; no bytes where the file has no such section.

    Raises:
        RunError: the file cannot be read or is damaged.
    """
    data = _contents(executable)
    section = read_sections(data).get(name)
    if section is None or not section.has_bits:
        return 0, b""
    return section.address, data[section.offset : section.offset + section.size]


def _contents(executable: Path) -> bytes:
    try:
        return executable.read_bytes()
    except OSError as error:
        raise RunError(f"the program {executable} cannot be read: {error.strerror or error}") from error
