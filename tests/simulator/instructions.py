"""Encodes single instructions, and runs straight-line code on one core of the simulator."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tilegrad.simulator import Simulator
from tilegrad.simulator.elf import Image, Segment

CODE = 0x1C010000
DATA = 0x10008000
DATA_BYTES = 4096
WFI = 0x10500073


def r_type(opcode: int, funct3: int, funct7: int, rd: int, rs1: int, rs2: int) -> bytes:
    return struct.pack("<I", opcode | rd << 7 | funct3 << 12 | rs1 << 15 | rs2 << 20 | funct7 << 25)


def i_type(opcode: int, funct3: int, rd: int, rs1: int, immediate: int) -> bytes:
    return struct.pack("<I", opcode | rd << 7 | funct3 << 12 | rs1 << 15 | (immediate & 0xFFF) << 20)


def s_type(opcode: int, funct3: int, rs1: int, rs2: int, immediate: int) -> bytes:
    low, high = immediate & 31, immediate >> 5 & 0x7F
    return struct.pack("<I", opcode | low << 7 | funct3 << 12 | rs1 << 15 | rs2 << 20 | high << 25)


def branch(funct3: int, rs1: int, rs2: int, offset: int) -> bytes:
    fields = (offset >> 11 & 1) << 7 | (offset >> 1 & 15) << 8 | (offset >> 5 & 63) << 25 | (offset >> 12 & 1) << 31
    return struct.pack("<I", 0x63 | funct3 << 12 | rs1 << 15 | rs2 << 20 | fields)


def fused(opcode: int, mode: int, rd: int, rs1: int, rs2: int, rs3: int) -> bytes:
    return struct.pack("<I", opcode | rd << 7 | mode << 12 | rs1 << 15 | rs2 << 20 | rs3 << 27)


@dataclass
class State:
    """Registers and the data area, before or after a program."""

    x: list[int] = field(default_factory=lambda: [0] * 32)
    f: list[int] = field(default_factory=lambda: [0] * 32)
    fcsr: int = 0
    data: bytes = bytes(DATA_BYTES)


def image_of(code: bytes) -> Image:
    """A program whose fabric controller sleeps, with code for a worker."""
    words = struct.pack("<I", WFI) + code + struct.pack("<I", 0x00000013) * 4
    return Image(CODE, (Segment(CODE, words, 0, True),), {}, ())


def simulate(code: bytes, before: State, core: int = 0) -> State:
    """The state after core `core` has run `code` from top to bottom."""
    with Simulator(image_of(code)) as machine:
        for index in range(1, 32):
            machine.set_register(core, index, before.x[index])
        for index in range(32):
            machine.set_register(core, 32 + index, before.f[index])
        machine.set_register(core, 65, before.fcsr)
        machine.write(DATA, before.data)
        machine.breakpoint(CODE + 4 + len(code))
        machine.start_core(core, CODE + 4)
        machine.run(10_000_000)
        return State(
            [machine.register(core, index) for index in range(32)],
            [machine.register(core, 32 + index) for index in range(32)],
            machine.register(core, 65),
            machine.read_bytes(DATA, DATA_BYTES),
        )
