"""Which function of the source an instruction belongs to, inlined calls included, from a program's DWARF."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from tilegrad.simulator.dwarf import (
    FORM_ADDRESS,
    FORM_REF_ADDR,
    FORM_RNGLISTX,
    FORMS_ADDRX,
    FORMS_STRX,
    Abbreviation,
    Cursor,
    DebugInfoError,
    LineTable,
    Value,
    offset_text,
    read_abbreviations,
    read_line_table,
)

_SUBPROGRAM, _INLINED = 0x2E, 0x1D
_NAME, _STMT_LIST, _LOW, _HIGH, _RANGES = 0x03, 0x10, 0x11, 0x12, 0x55
_ORIGIN, _SPECIFICATION, _CALL_FILE, _CALL_LINE = 0x31, 0x47, 0x58, 0x59
_STR_OFFSETS_BASE, _ADDR_BASE, _RNGLISTS_BASE = 0x72, 0x73, 0x74
_COMPILE, _PARTIAL = 1, 3
_LONGEST_CHAIN = 8

Attributes = Mapping[int, tuple[int, Value]]
"""Form and value of each attribute of an entry."""


@dataclass(frozen=True)
class Frame:
    """A function that an instruction belongs to.

    Attributes:
        function: its name in the source.
        file: the source file, as the compiler was given it; empty where nothing says.
        line: the line in it, 0 where nothing says.
    """

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.function} at {self.file}:{self.line}" if self.file and self.line else self.function


class DebugInfo:
    """A program's debug information; it is read when something is asked.

    Args:
        sections: the program's ``.debug_*`` sections by name.
    """

    def __init__(self, sections: Mapping[str, bytes]) -> None:
        self._sections = sections

    def frames(self, address: int) -> tuple[Frame, ...]:
        """The functions that an instruction belongs to, those inlined first, the one with code of its own last.

        Raises:
            DebugInfoError: the debug information is damaged, or of a kind that is not read.
        """
        try:
            for unit in self._units:
                if unit.covers(unit.root, address) is not False and (found := self._frames(unit, address)):
                    return found
        except (IndexError, KeyError, RecursionError, ZeroDivisionError) as error:
            raise DebugInfoError(f"it contradicts itself ({error!r})") from error
        return ()

    @cached_property
    def _units(self) -> tuple[_Unit, ...]:
        section = self._sections.get(".debug_info", b"")
        found: list[_Unit] = []
        at = 0
        while at < len(section):
            unit = _Unit(self._sections, at)
            at = unit.end
            if unit.kind in (_COMPILE, _PARTIAL):
                found.append(unit)
        return tuple(found)

    def _frames(self, unit: _Unit, address: int) -> tuple[Frame, ...]:
        chain = [
            (tag, entry)
            for tag, entry in unit.entries()
            if tag in (_SUBPROGRAM, _INLINED) and unit.covers(entry, address)
        ]
        table = unit.line_table
        file, line = table.find(address) or (-1, 0)
        found: list[Frame] = []
        for tag, entry in reversed(chain):
            found.append(Frame(self._name(unit, entry), table.files.get(file, ""), line))
            if tag == _INLINED:
                file, line = _number(entry, _CALL_FILE, -1), _number(entry, _CALL_LINE, 0)
        return tuple(found)

    def _name(self, unit: _Unit, entry: Attributes) -> str:
        """An entry's name, which may stand in the entry that it is an instance or the definition of."""
        for _ in range(_LONGEST_CHAIN):
            if _NAME in entry:
                return unit.text(*entry[_NAME])
            form, value = entry.get(_ORIGIN, entry.get(_SPECIFICATION, (0, 0)))
            if not isinstance(value, int) or not value:
                break
            if form == FORM_REF_ADDR:
                unit = next(other for other in self._units if other.begin <= value < other.end)
            _, entry = unit.entry(Cursor(unit.section, value if form == FORM_REF_ADDR else unit.begin + value))
        return "a function without a name"


class _Unit:
    """What was compiled from one file."""

    def __init__(self, sections: Mapping[str, bytes], offset: int) -> None:
        self.sections = sections
        self.section = sections[".debug_info"]
        self.begin = offset
        cursor = Cursor(self.section, offset)
        self.end = cursor.length() + cursor.at
        self.version = cursor.unsigned(2)
        if not 2 <= self.version <= 5:
            raise DebugInfoError(f"it is of version {self.version}")
        self.kind = cursor.unsigned(1) if self.version >= 5 else _COMPILE
        if self.version >= 5:
            self.address_size = cursor.unsigned(1)
        self.abbreviations_at = cursor.unsigned(4)
        if self.version < 5:
            self.address_size = cursor.unsigned(1)
        self.first = cursor.at

    @cached_property
    def abbreviations(self) -> dict[int, Abbreviation]:
        return read_abbreviations(self.sections.get(".debug_abbrev", b""), self.abbreviations_at)

    @cached_property
    def root(self) -> Attributes:
        return self.entry(Cursor(self.section, self.first))[1]

    @cached_property
    def line_table(self) -> LineTable:
        if _STMT_LIST not in self.root:
            return LineTable({}, ())
        return read_line_table(self.sections, _number(self.root, _STMT_LIST, 0))

    def entries(self) -> Iterator[tuple[int, Attributes]]:
        """Tag and attributes of all entries, each before those that it contains."""
        cursor = Cursor(self.section, self.first)
        while cursor.at < self.end:
            tag, entry = self.entry(cursor)
            if tag:
                yield tag, entry

    def entry(self, cursor: Cursor) -> tuple[int, Attributes]:
        """The entry at a cursor; tag 0 where a list of entries ends."""
        code = cursor.uleb()
        if not code:
            return 0, {}
        shape = self.abbreviations[code]
        return shape.tag, {
            name: (form, cursor.form(form, self.address_size, implicit)) for name, form, implicit in shape.attributes
        }

    def text(self, form: int, value: Value) -> str:
        if form in FORMS_STRX and isinstance(value, int):
            base = _number(self.root, _STR_OFFSETS_BASE, 8)
            offset = Cursor(self.sections.get(".debug_str_offsets", b""), base + 4 * value).unsigned(4)
            return Cursor(self.sections.get(".debug_str", b""), offset).text()
        return offset_text(self.sections, form, value)

    def covers(self, entry: Attributes, address: int) -> bool | None:
        """Whether an entry's code holds an address; None for an entry that does not say where its code is."""
        if _RANGES in entry:
            return any(begin <= address < end for begin, end in self._ranges(*entry[_RANGES]))
        if _LOW not in entry or _HIGH not in entry:
            return None
        low = self._address(*entry[_LOW])
        form, high = entry[_HIGH]
        if not isinstance(high, int):
            raise DebugInfoError("an end of code is no number")
        return low <= address < (high if form == FORM_ADDRESS else low + high)

    def _address(self, form: int, value: Value) -> int:
        if not isinstance(value, int):
            raise DebugInfoError("an address is no number")
        return self._indexed_address(value) if form in FORMS_ADDRX else value

    def _indexed_address(self, index: int) -> int:
        base = _number(self.root, _ADDR_BASE, 8)
        at = base + index * self.address_size
        return Cursor(self.sections.get(".debug_addr", b""), at).unsigned(self.address_size)

    def _ranges(self, form: int, value: Value) -> Iterator[tuple[int, int]]:
        if not isinstance(value, int):
            raise DebugInfoError("a list of ranges is no number")
        base = self._address(*self.root[_LOW]) if _LOW in self.root else 0
        if self.version < 5:
            return self._old_ranges(value, base)
        if form == FORM_RNGLISTX:
            table = _number(self.root, _RNGLISTS_BASE, 12)
            value = table + Cursor(self.sections.get(".debug_rnglists", b""), table + 4 * value).unsigned(4)
        return self._new_ranges(value, base)

    def _old_ranges(self, offset: int, base: int) -> Iterator[tuple[int, int]]:
        cursor = Cursor(self.sections.get(".debug_ranges", b""), offset)
        size = self.address_size
        while True:
            begin, end = cursor.unsigned(size), cursor.unsigned(size)
            if not begin and not end:
                return
            if begin == (1 << 8 * size) - 1:
                base = end
            else:
                yield base + begin, base + end

    def _new_ranges(self, offset: int, base: int) -> Iterator[tuple[int, int]]:
        cursor = Cursor(self.sections.get(".debug_rnglists", b""), offset)
        size = self.address_size
        while kind := cursor.unsigned(1):
            if kind == 1:
                base = self._indexed_address(cursor.uleb())
            elif kind == 2:
                yield self._indexed_address(cursor.uleb()), self._indexed_address(cursor.uleb())
            elif kind == 3:
                begin = self._indexed_address(cursor.uleb())
                yield begin, begin + cursor.uleb()
            elif kind == 4:
                yield base + cursor.uleb(), base + cursor.uleb()
            elif kind == 5:
                base = cursor.unsigned(size)
            elif kind == 6:
                yield cursor.unsigned(size), cursor.unsigned(size)
            elif kind == 7:
                begin = cursor.unsigned(size)
                yield begin, begin + cursor.uleb()
            else:
                raise DebugInfoError(f"it has a range of kind {kind}")


def _number(entry: Attributes, attribute: int, otherwise: int) -> int:
    value = entry.get(attribute, (0, otherwise))[1]
    if not isinstance(value, int):
        raise DebugInfoError(f"attribute {attribute:#x} is no number")
    return value
