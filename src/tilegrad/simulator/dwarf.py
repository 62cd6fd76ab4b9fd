"""The encodings of DWARF 2 to 5 in their 32-bit format: numbers, attribute forms, abbreviations and line programs.

Source: the DWARF Debugging Information Format, version 5, sections 6.2 and 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Value = int | str | bytes

_FIXED = {
    form: size
    for size, forms in {
        1: (0x0B, 0x0C, 0x11, 0x25, 0x29),
        2: (0x05, 0x12, 0x26, 0x2A),
        3: (0x27, 0x2B),
        4: (0x06, 0x0E, 0x10, 0x13, 0x17, 0x1C, 0x1D, 0x1F, 0x28, 0x2C),
        8: (0x07, 0x14, 0x20, 0x24),
    }.items()
    for form in forms
}
_LEB128 = frozenset({0x0F, 0x15, 0x1A, 0x1B, 0x22, 0x23})
_ADDRESS, _STRING, _SDATA, _PRESENT, _DATA16, _IMPLICIT, _INDIRECT = 0x01, 0x08, 0x0D, 0x19, 0x1E, 0x21, 0x16
_BLOCKS = {0x0A: 1, 0x03: 2, 0x04: 4}
_LEB128_BLOCKS = frozenset({0x09, 0x18})
FORM_STRP, FORM_LINE_STRP, FORM_ADDRESS, FORM_REF_ADDR = 0x0E, 0x1F, _ADDRESS, 0x10
FORMS_STRX = frozenset({0x1A, 0x25, 0x26, 0x27, 0x28})
FORMS_ADDRX = frozenset({0x1B, 0x29, 0x2A, 0x2B, 0x2C})
FORM_RNGLISTX = 0x23


class DebugInfoError(ValueError):
    """Debug information that is damaged or of a kind that is not read."""


class Cursor:
    """A place in a section.

    Args:
        data: the section.
        at: where to begin.
    """

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def unsigned(self, size: int) -> int:
        """A little-endian number of `size` bytes."""
        return int.from_bytes(self.block(size), "little")

    def block(self, size: int) -> bytes:
        """The next bytes."""
        if self.at + size > len(self.data):
            raise DebugInfoError("it ends in the middle of a value")
        self.at += size
        return self.data[self.at - size : self.at]

    def uleb(self) -> int:
        """An unsigned number in LEB128."""
        value = shift = 0
        while True:
            byte = self.unsigned(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def sleb(self) -> int:
        """A signed number in LEB128."""
        begin = self.at
        value = self.uleb()
        bits = 7 * (self.at - begin)
        return value - (1 << bits) if value >> (bits - 1) & 1 else value

    def text(self) -> str:
        """A string that ends with a zero byte."""
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise DebugInfoError("it ends in the middle of a string")
        found = self.data[self.at : end].decode(errors="replace")
        self.at = end + 1
        return found

    def length(self) -> int:
        """The length of a unit."""
        value = self.unsigned(4)
        if value >= 0xFFFFFFF0:
            raise DebugInfoError("it is in the 64-bit format")
        return value

    def form(self, form: int, address_size: int, implicit: int = 0) -> Value:
        """An attribute's value as it is stored: an index, offset or address is not looked up.

        Args:
            form: the attribute's form.
            address_size: bytes of an address.
            implicit: the value that the abbreviation holds.
        """
        if form in _FIXED:
            return self.unsigned(_FIXED[form])
        if form in _LEB128:
            return self.uleb()
        if form in _BLOCKS:
            return self.block(self.unsigned(_BLOCKS[form]))
        if form in _LEB128_BLOCKS:
            return self.block(self.uleb())
        if form == _INDIRECT:
            return self.form(self.uleb(), address_size)
        if form in (_PRESENT, _IMPLICIT):
            return 1 if form == _PRESENT else implicit
        if form == _ADDRESS:
            return self.unsigned(address_size)
        if form == _STRING:
            return self.text()
        if form == _SDATA:
            return self.sleb()
        if form == _DATA16:
            return self.block(16)
        raise DebugInfoError(f"it has an attribute of form {form:#x}")


@dataclass(frozen=True)
class Abbreviation:
    """The shape of an entry.

    Attributes:
        tag: what it describes.
        children: whether entries follow that it contains.
        attributes: attribute, form and implicit value of each.
    """

    tag: int
    children: bool
    attributes: tuple[tuple[int, int, int], ...]


def read_abbreviations(section: bytes, offset: int) -> dict[int, Abbreviation]:
    """The abbreviations of a unit, by code."""
    cursor = Cursor(section, offset)
    found: dict[int, Abbreviation] = {}
    while code := cursor.uleb():
        tag, children = cursor.uleb(), bool(cursor.unsigned(1))
        attributes: list[tuple[int, int, int]] = []
        while True:
            name, form = cursor.uleb(), cursor.uleb()
            implicit = cursor.sleb() if form == _IMPLICIT else 0
            if not name and not form:
                break
            attributes.append((name, form, implicit))
        found[code] = Abbreviation(tag, children, tuple(attributes))
    return found


@dataclass(frozen=True)
class LineTable:
    """Where the instructions of a unit come from.

    Attributes:
        files: names by number, with their folder where it is not the one that was compiled in.
        rows: address, file and line of where code begins, in the order of the program; file -1 where a sequence ends.
    """

    files: Mapping[int, str]
    rows: tuple[tuple[int, int, int], ...]

    def find(self, address: int) -> tuple[int, int] | None:
        """File and line of an instruction."""
        for (begin, file, line), (end, _, _) in zip(self.rows, self.rows[1:], strict=False):
            if begin <= address < end and file >= 0:
                return file, line
        return None


def read_line_table(sections: Mapping[str, bytes], offset: int) -> LineTable:
    """Runs the line program at an offset of ``.debug_line``."""
    cursor = Cursor(sections.get(".debug_line", b""), offset)
    end = cursor.length() + cursor.at
    version = cursor.unsigned(2)
    if not 2 <= version <= 5:
        raise DebugInfoError(f"it has a line table of version {version}")
    address_size = cursor.unsigned(2) & 0xFF if version >= 5 else 4
    program = cursor.unsigned(4)
    program += cursor.at
    step = cursor.unsigned(1)
    cursor.block(2 if version >= 4 else 1)
    base, span, opcode_base = cursor.unsigned(1), cursor.unsigned(1), cursor.unsigned(1)
    arguments = [cursor.unsigned(1) for _ in range(opcode_base - 1)]
    files = _files(cursor, sections, address_size) if version >= 5 else _old_files(cursor)
    cursor.at = program
    machine = _LineMachine(step, base - 256 if base >= 128 else base, span, arguments)
    while cursor.at < end:
        machine.execute(cursor)
    return LineTable(files, tuple(machine.rows))


class _LineMachine:
    """The registers of a line program that matter here; names as in section 6.2 of the standard."""

    def __init__(self, step: int, line_base: int, line_range: int, arguments: Sequence[int]) -> None:
        self.step, self.line_base, self.line_range = step, line_base, line_range
        self.arguments = arguments
        self.rows: list[tuple[int, int, int]] = []
        self.address, self.file, self.line = 0, 1, 1

    def execute(self, cursor: Cursor) -> None:
        """One instruction."""
        opcode = cursor.unsigned(1)
        special = opcode - len(self.arguments) - 1
        if special >= 0:
            self.address += special // self.line_range * self.step
            self.line += self.line_base + special % self.line_range
        if special >= 0 or opcode == 1:  # copy
            self.rows.append((self.address, self.file, self.line))
        elif opcode == 0:
            self._extended(cursor)
        elif opcode == 2:  # advance pc
            self.address += cursor.uleb() * self.step
        elif opcode == 3:  # advance line
            self.line += cursor.sleb()
        elif opcode == 4:  # set file
            self.file = cursor.uleb()
        elif opcode == 8:  # constant add pc
            self.address += (254 - len(self.arguments)) // self.line_range * self.step
        elif opcode == 9:  # fixed advance pc
            self.address += cursor.unsigned(2)
        else:
            for _ in range(self.arguments[opcode - 1]):
                cursor.uleb()

    def _extended(self, cursor: Cursor) -> None:
        end = cursor.uleb() + cursor.at
        opcode = cursor.unsigned(1)
        if opcode == 1:  # end of sequence
            self.rows.append((self.address, -1, 0))
            self.address, self.file, self.line = 0, 1, 1
        elif opcode == 2:  # set address
            self.address = cursor.unsigned(end - cursor.at)
        cursor.at = end


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and not name.startswith("/") else name


def _old_files(cursor: Cursor) -> dict[int, str]:
    folders = [""]
    while folder := cursor.text():
        folders.append(folder)
    files: dict[int, str] = {}
    while name := cursor.text():
        folder = folders[cursor.uleb()]
        cursor.uleb()
        cursor.uleb()
        files[len(files) + 1] = _joined(folder, name)
    return files


def _files(cursor: Cursor, sections: Mapping[str, bytes], address_size: int) -> dict[int, str]:
    folders = [name for name, _ in _named(cursor, sections, address_size)]
    entries = _named(cursor, sections, address_size)
    # Folder 0 is the one that was compiled in.
    return {index: _joined(folders[folder] if folder else "", name) for index, (name, folder) in enumerate(entries)}


def _named(cursor: Cursor, sections: Mapping[str, bytes], address_size: int) -> list[tuple[str, int]]:
    """A table of names of version 5, each with the number of its folder."""
    formats = [(cursor.uleb(), cursor.uleb()) for _ in range(cursor.unsigned(1))]
    found: list[tuple[str, int]] = []
    for _ in range(cursor.uleb()):
        name, folder = "", 0
        for content, form in formats:
            value = cursor.form(form, address_size)
            if content == 1:
                name = offset_text(sections, form, value)
            elif content == 2 and isinstance(value, int):
                folder = value
        found.append((name, folder))
    return found


def offset_text(sections: Mapping[str, bytes], form: int, value: Value) -> str:
    """A string that is stored in place or as an offset of a section of strings."""
    if isinstance(value, str):
        return value
    section = {FORM_STRP: ".debug_str", FORM_LINE_STRP: ".debug_line_str"}.get(form)
    if section is None or not isinstance(value, int):
        raise DebugInfoError(f"it has a string of form {form:#x}")
    return Cursor(sections.get(section, b""), value).text()
