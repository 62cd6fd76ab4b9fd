"""Runs that nobody interrupts: what to do is a list of commands in the program's file, and results are printed.

The list is followed by ``runtime/batch.c``, which describes what it prints. It goes into memory that the program leaves
free: behind its data in L2 where there is room, else into the weight memory. The program itself stays as it is, but for
the word that says where the list is.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tilegrad.errors import RunError
from tilegrad.targets.siracusa.image import offset_of

_HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
_PROGRAM = struct.Struct("<IIIIIIII")
_LOAD, _READ = 1, 4
_COMMAND = struct.Struct("<4I")
_END, _COPY, _CLEAR, _CALL, _SHOW = range(5)

_L2_END = 0x1C200000
_WEIGHTS, _WEIGHTS_END = 0x10400000, 0x10C00000
#: Pieces of this size that are all zero take no room in the file.
_PIECE = 4096


@dataclass(frozen=True)
class Write:
    """Bytes that go to an address, L3 included."""

    address: int
    data: bytes


@dataclass(frozen=True)
class Call:
    """Calls of a function by the whole team, counted together."""

    address: int
    times: int


@dataclass(frozen=True)
class Show:
    """Bytes to print."""

    address: int
    size: int


Operation = Write | Call | Show


@dataclass(frozen=True)
class Results:
    """What a run printed.

    Attributes:
        cycles: of every call, in order.
        shown: the bytes of every `Show`, in order.
        output: all other lines.
    """

    cycles: tuple[int, ...]
    shown: tuple[bytes, ...]
    output: str


def with_script(program: bytes, operations: Sequence[Operation], pointer: int, free: int) -> bytes:
    """A program's file with a list of commands.

    Args:
        program: the file.
        operations: what to do, in order.
        pointer: address of the word that says where the list is.
        free: address of the first byte of L2 that the program does not use.

    Raises:
        RunError: the list needs more memory than is free.
    """
    size = len(_encoded(operations, 0))
    place = -(-free // 64) * 64
    if place + size > _L2_END:
        place = _WEIGHTS
        if place + size > _WEIGHTS_END:
            raise RunError(
                f"the data for this run takes {size:,} bytes, and the weight memory that holds it on this runner has "
                f"{_WEIGHTS_END - _WEIGHTS:,}: run fewer steps at a time, with fewer different batches"
            )
    patched = bytearray(program)
    struct.pack_into("<I", patched, offset_of(program, pointer), place)
    _append_segment(patched, place, _encoded(operations, place))
    return bytes(patched)


def _encoded(operations: Sequence[Operation], place: int) -> bytes:
    """The list as it stands in memory at `place`: commands, then the data that they copy, each piece once."""
    commands: list[tuple[int, int, int, bytes]] = []
    for operation in operations:
        match operation:
            case Write(address, data):
                for at in range(0, len(data), _PIECE):
                    piece = data[at : at + _PIECE]
                    commands.append((_COPY if any(piece) else _CLEAR, address + at, len(piece), piece))
            case Call(address, times):
                commands.append((_CALL, address, times, b""))
            case Show(address, size):
                commands.append((_SHOW, address, size, b""))
    commands.append((_END, 0, 0, b""))
    table, data_bytes = bytearray(), bytearray()
    begin = place + len(commands) * _COMMAND.size
    placed: dict[bytes, int] = {}
    for what, address, count, piece in commands:
        source = 0
        if what == _COPY:
            if piece not in placed:
                placed[piece] = begin + len(data_bytes)
                data_bytes += piece + bytes(-len(piece) % 4)
            source = placed[piece]
        table += _COMMAND.pack(what, address, count, source)
    return bytes(table + data_bytes)


def _append_segment(program: bytearray, address: int, data: bytes) -> None:
    """Adds a segment at the end of a file, with a new table of segments, because the old one has no room."""
    header = list(_HEADER.unpack_from(program))
    table_at, entry_size, count = header[5], header[9], header[10]
    table = bytes(program[table_at : table_at + entry_size * count])
    program += bytes(-len(program) % 16)
    header[5], header[10] = len(program), count + 1
    data_at = len(program) + len(table) + _PROGRAM.size
    program += table + _PROGRAM.pack(_LOAD, data_at, address, address, len(data), len(data), _READ, 4) + data
    _HEADER.pack_into(program, 0, *header)


def parse_output(output: str) -> Results:
    """Reads what a program with a list of commands printed.

    Raises:
        RunError: it did not come to the end of the list, or what it printed is damaged.
    """
    cycles: list[int] = []
    shown: list[bytearray] = []
    sizes: list[int] = []
    other: list[str] = []
    ended = False
    for line in output.splitlines():
        word, _, rest = line.partition(" ")
        try:
            if word == "@call":
                cycles.append(int(rest, 16))
            elif word == "@show":
                sizes.append(int(rest, 16))
                shown.append(bytearray())
            elif word.startswith("@:") and shown:
                shown[-1] += bytes.fromhex(word[2:])
            elif word == "@end":
                ended = True
            else:
                other.append(line)
        except ValueError as error:
            raise RunError(f"the program printed a damaged line: {line[:100]!r}") from error
    if not ended:
        tail = "\n".join(f"  {line}" for line in other[-25:])
        raise RunError(
            f"the program did not come to its end; {len(cycles)} calls were done" + (f"\n{tail}" * bool(tail))
        )
    if [len(data) for data in shown] != sizes:
        raise RunError("the program printed fewer bytes than it announced: its output is damaged")
    return Results(tuple(cycles), tuple(map(bytes, shown)), "\n".join(other))
