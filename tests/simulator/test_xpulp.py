"""The Xpulp instructions, which the independent emulator lacks, against what their specification says, in Python."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest
from simulator.instructions import CODE, DATA, DATA_BYTES, State, i_type, image_of, r_type, s_type, simulate

from tilegrad.simulator import Simulator

BASE, OFFSET = 8, 9
MASK = 0xFFFFFFFF


def signed(value: int, bits: int = 32) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def clamp(value: int, low: int, high: int) -> int:
    return low if value < low else high if value > high else value


# Name: (funct3, funct7, result of rd, rs1, rs2)
REGISTER: dict[str, tuple[int, int, Callable[[int, int, int], int]]] = {
    "p.slet": (2, 0x02, lambda d, a, b: int(signed(a) <= signed(b))),
    "p.sletu": (3, 0x02, lambda d, a, b: int(a <= b)),
    "p.min": (4, 0x02, lambda d, a, b: min(signed(a), signed(b))),
    "p.minu": (5, 0x02, lambda d, a, b: min(a, b)),
    "p.max": (6, 0x02, lambda d, a, b: max(signed(a), signed(b))),
    "p.maxu": (7, 0x02, lambda d, a, b: max(a, b)),
    "p.ror": (5, 0x04, lambda d, a, b: a >> (b & 31) | a << (32 - (b & 31))),
    "p.mac": (0, 0x21, lambda d, a, b: d + a * b),
    "p.msu": (1, 0x21, lambda d, a, b: d - a * b),
    "p.clip": (5, 0x0A, lambda d, a, b: clamp(signed(a), -signed(b) - 1, signed(b))),
    "p.clipu": (6, 0x0A, lambda d, a, b: clamp(signed(a), 0, signed(b))),
}
UNARY: dict[str, tuple[int, int, Callable[[int], int]]] = {
    "p.abs": (0, 0x02, lambda a: abs(signed(a))),
    "p.ff1": (0, 0x08, lambda a: (a & -a).bit_length() - 1 if a else 32),
    "p.fl1": (1, 0x08, lambda a: a.bit_length() - 1 if a else 32),
    "p.cnt": (3, 0x08, lambda a: a.bit_count()),
    "p.exths": (4, 0x08, lambda a: signed(a, 16)),
    "p.exthz": (5, 0x08, lambda a: a & 0xFFFF),
    "p.extbs": (6, 0x08, lambda a: signed(a, 8)),
    "p.extbz": (7, 0x08, lambda a: a & 0xFF),
}
# Name: (funct3, result of rs1, width - 1, position)
FIELD: dict[str, tuple[int, Callable[[int, int, int], int]]] = {
    "p.extract": (0, lambda a, width, at: signed(a >> at, width + 1)),
    "p.extractu": (1, lambda a, width, at: a >> at & ((2 << width) - 1)),
    "p.bclr": (3, lambda a, width, at: a & ~(((2 << width) - 1) << at)),
    "p.bset": (4, lambda a, width, at: a | ((2 << width) - 1) << at),
}


def word(random_: random.Random) -> int:
    return random_.choice((0, 1, MASK, 0x80000000, 0x7FFFFFFF, random_.getrandbits(32), random_.getrandbits(8)))


@pytest.mark.parametrize("name", REGISTER)
def test_two_operands(name: str) -> None:
    funct3, funct7, expected = REGISTER[name]
    random_ = random.Random(name)
    for _ in range(8):
        x = [0, *(word(random_) for _ in range(31))]
        if name.startswith("p.clip"):
            # The bound is not negative.
            x[1:11] = [value & 0x7FFFFFFF for value in x[1:11]]
        code = b"".join(r_type(0x33, funct3, funct7, 20 + i, 11 + i, 1 + i) for i in range(8))
        after = simulate(code, State(x))
        got = after.x[20:28]
        assert got == [expected(x[20 + i], x[11 + i], x[1 + i]) & MASK for i in range(8)]


@pytest.mark.parametrize("name", UNARY)
def test_one_operand(name: str) -> None:
    funct3, funct7, expected = UNARY[name]
    random_ = random.Random(name)
    for _ in range(4):
        x = [0, *(word(random_) for _ in range(31))]
        code = b"".join(r_type(0x33, funct3, funct7, 20 + i, 1 + i, 0) for i in range(12))
        assert simulate(code, State(x)).x[20:] == [expected(x[1 + i]) & MASK for i in range(12)]


@pytest.mark.parametrize("unsigned", [False, True])
def test_clip_to_a_number_of_bits(unsigned: bool) -> None:
    random_ = random.Random(5)
    x = [0, *(signed(word(random_), 9 + i) & MASK for i in range(31))]
    for width in range(32):
        half = 1 << max(width - 1, 0)
        low, high = (0, half - 1) if unsigned else (-half if width else -1, half - 1)
        after = simulate(
            b"".join(r_type(0x33, 2 if unsigned else 1, 0x0A, 20 + i, 1 + i, width) for i in range(12)), State(x)
        )
        assert after.x[20:] == [clamp(signed(x[1 + i]), low, high) & MASK for i in range(12)]


@pytest.mark.parametrize("name", FIELD)
def test_bit_fields(name: str) -> None:
    funct3, expected = FIELD[name]
    random_ = random.Random(name)
    for _ in range(6):
        x = [0, *(random_.getrandbits(32) for _ in range(31))]
        at = [random_.randrange(32) for _ in range(12)]
        width = [random_.randrange(32 - position) for position in at]
        code = b"".join(r_type(0x33, funct3, 0x60 | width[i], 20 + i, 1 + i, at[i]) for i in range(12))
        assert simulate(code, State(x)).x[20:] == [expected(x[1 + i], width[i], at[i]) & MASK for i in range(12)]


LOADS = {0: ("<b", 0x00), 1: ("<h", 0x08), 2: ("<i", 0x10), 4: ("<B", 0x20), 5: ("<H", 0x28)}
STORES = {0: 1, 1: 2, 2: 4}


def memory_state(seed: int) -> State:
    random_ = random.Random(seed)
    before = State([0, *(random_.getrandbits(32) for _ in range(31))], data=random_.randbytes(DATA_BYTES))
    before.x[BASE], before.x[OFFSET] = DATA + 1000 + seed, random_.randrange(-500, 500) & MASK
    return before


@pytest.mark.parametrize("funct3", LOADS)
@pytest.mark.parametrize("seed", range(3))
def test_loads_with_post_increment_and_register_offset(funct3: int, seed: int) -> None:
    text, funct7 = LOADS[funct3]
    before = memory_state(seed)
    offset, step = signed(before.x[OFFSET]), 36 - 24 * seed

    def at(place: int) -> int:
        return struct.unpack_from(text, before.data, before.x[BASE] - DATA + place)[0] & MASK

    code = (
        i_type(0x0B, funct3, 10, BASE, step)
        + r_type(0x03, 7, funct7, 11, BASE, OFFSET)
        + r_type(0x0B, 7, funct7, 12, BASE, OFFSET)
        + i_type(0x03, funct3, 13, BASE, 0)
    )
    after = simulate(code, before)
    assert after.x[10:14] == [at(0), at(step + offset), at(step), at(step + offset)]
    assert after.x[BASE] == before.x[BASE] + step + offset


@pytest.mark.parametrize("funct3", STORES)
@pytest.mark.parametrize("seed", range(3))
def test_stores_with_post_increment_and_register_offset(funct3: int, seed: int) -> None:
    size = STORES[funct3]
    before = memory_state(seed)
    offset, step = signed(before.x[OFFSET]), 36 - 24 * seed
    code = (
        s_type(0x2B, funct3, BASE, 10, step)
        + r_type(0x23, 4 + funct3, 0, OFFSET, BASE, 11)
        + r_type(0x2B, 4 + funct3, 0, OFFSET, BASE, 12)
    )
    expected = bytearray(before.data)
    start = before.x[BASE] - DATA
    for place, register in ((0, 10), (step + offset, 11), (step, 12)):
        expected[start + place : start + place + size] = before.x[register].to_bytes(4, "little")[:size]
    after = simulate(code, before)
    assert after.data == bytes(expected)
    assert after.x[BASE] == before.x[BASE] + step + offset


def loop(funct3: int, index: int, rs1: int, immediate: int) -> bytes:
    return struct.pack("<I", 0x7B | index << 7 | funct3 << 12 | rs1 << 15 | immediate << 20)


ADD = i_type(0x13, 0, 10, 10, 1)
INNER = i_type(0x13, 0, 11, 11, 1)
SHORT = struct.pack("<H", 0x0001 | 10 << 7 | 1 << 2)


def test_a_loop_set_up_by_register_and_one_by_immediate() -> None:
    before = State()
    before.x[5] = 37
    # lp.setup: the end is the last instruction, in halfwords from here; lp.setupi takes count and end.
    code = loop(4, 0, 5, 4) + ADD + INNER + struct.pack("<I", 0x7B | 5 << 12 | 2 << 15 | 9 << 20) + ADD
    after = simulate(code, before)
    assert (after.x[10], after.x[11]) == (37 + 9, 37)


def test_nested_loops_and_a_compressed_last_instruction() -> None:
    before = State()
    before.x[5], before.x[6] = 5, 7
    inner = loop(4, 0, 6, 3) + SHORT + SHORT
    code = loop(4, 1, 5, 2 + len(inner) // 2) + inner + INNER
    after = simulate(code, before)
    assert (after.x[10], after.x[11]) == (2 * 5 * 7, 5)


def test_loops_set_up_in_parts() -> None:
    before = State()
    before.x[5] = 3
    by_register = loop(0, 0, 0, 6) + loop(1, 0, 0, 6) + loop(2, 0, 5, 0) + ADD + INNER
    by_immediate = loop(0, 1, 0, 6) + loop(1, 1, 0, 6) + loop(3, 1, 0, 4) + ADD + INNER
    after = simulate(by_register + by_immediate, before)
    assert (after.x[10], after.x[11]) == (3 + 4, 3 + 4)


def test_a_loop_costs_no_cycle_for_its_branch() -> None:

    cycles = []
    for count in (100, 300):
        code = loop(5, 0, 4, count) + ADD + INNER
        with Simulator(image_of(code), timing={"start": 1}) as machine:
            machine.breakpoint(CODE + 4 + len(code))
            machine.start_core(0, CODE + 4)
            cycles.append(machine.run(100_000).cycles)
            assert machine.register(0, 10) == count
    assert cycles[1] - cycles[0] == 2 * 200


@pytest.mark.parametrize(("funct3", "equal"), [(2, True), (3, False)])
def test_branches_that_compare_with_a_constant(funct3: int, equal: bool) -> None:
    for value in (-16, -1, 0, 15):
        before = State()
        before.x[5], before.x[6] = value & MASK, 1000
        code = b""
        for register in (5, 6):
            code += struct.pack("<I", 0x63 | funct3 << 12 | register << 15 | (value & 31) << 20 | 8 >> 1 << 8)
            code += i_type(0x13, 0, 10, 10, register)
        assert simulate(code, before).x[10] == (6 if equal else 5)
