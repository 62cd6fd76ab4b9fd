"""What is counted by function and by instruction adds up, is charged to its cause, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from simulator.cross import program
from simulator.test_calibration import KERNELS

from tilegrad.errors import RunError
from tilegrad.simulator import HotSpot, Simulator

Load = Callable[[int], Simulator]


def calibration(kernel: str) -> Simulator:
    machine = Simulator(program("calibration"))
    machine.write("kernel", np.uint32(KERNELS.index(kernel)))
    return machine


def everything(machine: Simulator) -> list[HotSpot]:
    """The instructions of all functions, but those of the start-up, which runs before its function has a size."""
    return [spot for symbol in machine.image.functions for spot in machine.hot(symbol.name)]


def test_a_loop_is_charged_where_its_cycles_go(feature: Load) -> None:
    machine = feature(9)
    machine.profile(instructions=True)
    machine.run(100_000)
    spots = machine.hot("sum_words")
    assert spots == sorted(spots, key=lambda spot: (-spot.cycles, spot.pc))
    inside = {spot.pc: spot for spot in spots if spot.count == 64}
    [branch] = [spot for spot in inside.values() if "control" in spot.stalls]
    assert branch.stalls["control"] == 2 * 63
    assert branch.cycles == 64 + sum(branch.stalls.values())
    assert branch.pc == max(inside)
    assert all(machine.image.near(spot.pc) == machine.image.symbols["sum_words"] for spot in spots)


@pytest.mark.parametrize("kernel", ["matmul", "one_bank", "divide", "dot"])
def test_instructions_add_up_to_their_functions(kernel: str) -> None:
    with calibration(kernel) as machine:
        machine.profile(instructions=True)
        machine.run(10_000_000)
        rows = machine.profiles()
        spots = everything(machine)
        assert sum(spot.count for spot in spots) == sum(row.counters.instructions for row in rows)
        for kind in ("bank", "FPU", "divider", "control", "multiply", "memory"):
            by_function = sum(row.counters.stalls[kind] for row in rows)
            assert sum(spot.stalls.get(kind, 0) for spot in spots) == by_function, kind


def test_a_conflict_is_charged_to_the_load_that_waits() -> None:
    with calibration("one_bank") as machine:
        machine.profile(instructions=True)
        machine.run(10_000_000)
        conflicts = [spot for spot in everything(machine) if spot.stalls.get("bank", 0) > 1000]
    # Eight loads in a loop, executed 256 times by each of the 15 cores of the four rounds.
    assert len(conflicts) == 8
    assert {spot.count for spot in conflicts} == {256 * 15}


def test_a_division_is_charged_with_its_unit() -> None:
    with calibration("divide") as machine:
        machine.profile(instructions=True)
        machine.run(10_000_000)
        divisions = [spot for spot in everything(machine) if "divider" in spot.stalls]
    assert len(divisions) == 8
    assert all(set(spot.stalls) <= {"divider", "fetch"} for spot in divisions)


def test_counting_instructions_changes_no_cycle() -> None:
    with calibration("dot") as plain, calibration("dot") as counted:
        counted.profile(instructions=True)
        assert plain.run(10_000_000).cycles == counted.run(10_000_000).cycles
        assert [plain.counters(core) for core in range(8)] == [counted.counters(core) for core in range(8)]


def test_a_second_profile_begins_at_zero(feature: Load) -> None:
    machine = feature(22)
    machine.breakpoint("mailbox")
    machine.profile(instructions=True)
    machine.run(100_000)
    machine.run(100_000)
    assert sum(spot.count for spot in machine.hot("fabric_program")) > 0
    machine.profile(instructions=True)
    assert machine.hot("fabric_program") == []


def test_instructions_are_counted_where_that_was_asked_for(feature: Load) -> None:
    machine = feature(9)
    with pytest.raises(RunError, match=r"no instructions are counted: call profile\(instructions=True\)"):
        machine.hot("sum_words")
    machine.profile()
    machine.run(100_000)
    with pytest.raises(RunError, match="no instructions are counted"):
        machine.hot("sum_words")
    with pytest.raises(RunError, match="no symbol 'nothing'"):
        machine.hot("nothing")
    machine = feature(9)
    machine.profile(instructions=True)
    with pytest.raises(RunError, match="in 'source' no instructions are counted"):
        machine.hot("source")
