"""The machine around the cores: event unit, DMA, L3, counters, output, breakpoints."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from simulator.cross import program

from tilegrad.errors import RunError, UserError
from tilegrad.simulator import FC, Reason, Simulator

Load = Callable[[int], Simulator]
NUMBERS = np.arange(1024, dtype=np.uint32) * 2654435761


def results(machine: Simulator, count: int) -> list[int]:
    return [int(value) for value in machine.read("results", "<u4", (count,))]


def test_mutex_keeps_additions_apart(feature: Load) -> None:
    machine = feature(2)
    assert machine.run(1_000_000).exit_code == 0
    assert results(machine, 1) == [100 * sum(range(8))]


def test_dispatch_hands_every_value_to_every_core_of_the_team_in_order(feature: Load) -> None:
    machine = feature(3)
    machine.run(1_000_000)
    assert results(machine, 8)[1:] == [102030] * 7


def test_a_core_sleeps_until_its_event(feature: Load) -> None:
    machine = feature(4)
    machine.run(1_000_000)
    assert results(machine, 3)[1:] == [1 << 3, 77]
    assert machine.counters(1).sleep > 500


def test_2d_transfers_move_unaligned_lines(feature: Load) -> None:
    machine = feature(5)
    machine.write("source", NUMBERS)
    machine.write("target", bytes(4096))
    machine.write("buffer", bytes(range(256)) * 16)
    machine.run(1_000_000)
    source, buffer = NUMBERS.tobytes(), bytes(range(256)) * 16
    lines = b"".join(source[1 + 100 * line : 1 + 100 * line + 48] for line in range(4))
    assert machine.read_bytes("buffer", 512)[2:194] == lines
    expected = bytearray(4096)
    for line in range(4):
        expected[1 + 100 * line : 49 + 100 * line] = buffer[258 + 48 * line : 306 + 48 * line]
    assert machine.read_bytes("target", 4096) == bytes(expected)


def test_a_core_waits_for_room_in_the_dma_queues(feature: Load) -> None:
    machine = feature(6)
    machine.write("source", NUMBERS)
    machine.run(1_000_000)
    assert machine.read_bytes("buffer", 2048) == NUMBERS.tobytes()[:2048]


def test_l3_round_trip(feature: Load) -> None:
    machine = feature(20)
    machine.write("source", NUMBERS)
    machine.run(1_000_000)
    assert (machine.read("target", "<u4", (1024,)) == NUMBERS).all()
    assert machine.read_bytes(0x80001000, 4096) == NUMBERS.tobytes()


def test_performance_counters(feature: Load) -> None:
    machine = feature(7)
    machine.run(1_000_000)
    instructions, cycles = results(machine, 2)
    assert instructions == 23
    # Twenty compressed instructions lie in three or four cache lines.
    assert 21 <= cycles <= 21 + 4 * 20


def test_printed_lines_and_the_exit_code(feature: Load) -> None:
    result = feature(21).run(1_000_000)
    assert result.exit_code == 7
    assert result.output == "hello from the fabric controller\nand a line that does not end"


def test_a_breakpoint_stops_before_a_function_and_the_run_goes_on_from_there(feature: Load) -> None:
    machine = feature(22)
    pc = machine.breakpoint("mailbox")
    for turn in range(3):
        result = machine.run(1_000_000)
        assert (result.reason, result.core, result.pc) == (Reason.BREAKPOINT, FC, pc)
        machine.write("source", np.array([100 + turn], np.uint32))
    assert machine.run(1_000_000).reason == Reason.EXIT
    assert results(machine, 3) == [200, 202, 204]
    with pytest.raises(RunError, match="ended with exit code 0"):
        machine.run(1000)


def test_a_cleared_breakpoint_does_not_stop(feature: Load) -> None:
    machine = feature(22)
    machine.breakpoint("mailbox")
    assert machine.run(1_000_000).reason == Reason.BREAKPOINT
    machine.breakpoint("mailbox", on=False)
    assert machine.run(1_000_000).reason == Reason.EXIT


def test_a_run_in_small_pieces_takes_the_same_cycles(feature: Load) -> None:
    whole = feature(2)
    expected = whole.run(1_000_000).cycles
    pieces = feature(2)
    while pieces.advance(37).reason == Reason.BUDGET:
        pass
    assert pieces.cycle == expected
    assert [pieces.counters(core) for core in range(8)] == [whole.counters(core) for core in range(8)]


def test_counting_by_function_changes_no_cycle_and_adds_up(feature: Load) -> None:
    plain = feature(2)
    expected = plain.run(1_000_000).cycles
    profiled = feature(2)
    profiled.profile()
    assert profiled.run(1_000_000).cycles == expected
    rows = profiled.profiles()
    by_core = sum(row.counters.instructions for row in rows if row.core == 3)
    assert by_core == profiled.counters(3).instructions
    assert {row.function for row in rows} >= {"worker_start", "worker", "program", "fabric"}


@pytest.mark.parametrize("cores", [1, 3, 8])
def test_a_smaller_team(feature: Load, cores: int) -> None:
    machine = feature(2)
    machine.write("team", np.uint32(cores))
    machine.run(1_000_000)
    assert results(machine, 1) == [100 * sum(range(cores))]


def test_symbols_and_ranges_are_checked(feature: Load) -> None:
    machine = feature(1)
    with pytest.raises(RunError, match="no symbol 'nothing'"):
        machine.read("nothing", "<u4", ())
    with pytest.raises(RunError, match="has 4096 bytes, not 8192"):
        machine.read_bytes("source", 8192)
    with pytest.raises(RunError, match="not inside one memory"):
        machine.read_bytes(0x50000000, 4)
    machine.close()
    with pytest.raises(RunError, match="closed"):
        machine.run()


def test_timing_parameters_are_named_and_changeable() -> None:
    with Simulator(program("features"), timing={"l2": 100}) as machine:
        assert machine.timing["l2"] == 100
        assert machine.timing["float_divide"] == 14
    with pytest.raises(UserError, match="no timing parameter 'speed'"):
        Simulator(program("features"), timing={"speed": 1})


def test_programs_of_other_machines_are_refused() -> None:
    with pytest.raises(UserError, match="not a 32-bit little-endian ELF file"):
        Simulator(b"\x7fELF\x02\x01" + bytes(60))
    with pytest.raises(UserError, match="damaged"):
        Simulator(b"\x7fELF\x01\x01")
