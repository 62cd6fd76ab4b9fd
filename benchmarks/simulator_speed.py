"""How many instructions and cycles the simulator of the Siracusa cluster simulates per second, on one host core.

    python benchmarks/simulator_speed.py [--seconds 2]

The programs are the calibration loops of tests/simulator/programs, which run on one core, on two, four and eight, one
after the other. The first figures are of the part that eight cores execute: with nothing observed, with kernels traced,
with every access guarded. The last ones are of whole programs. The processor's time counts, not the clock on the wall,
and the best of several runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / folder) for folder in ("src", "tests")]

from simulator.cross import program  # noqa: E402
from simulator.test_calibration import KERNELS  # noqa: E402

from tilegrad.simulator import FC, Access, Region, Simulator  # noqa: E402

PROGRAMS = ("matmul", "dot", "dot4", "pairs", "sparse", "banks", "one_bank", "l2", "divide")
MODES = ("plain", "traced", "guarded")
STEP = 16
"""Cycles between two looks for the end of a round."""


@dataclass(frozen=True)
class Measurement:
    """One run, or the part of it that eight cores execute.

    Attributes:
        instructions: of all cores.
        cycles: of the cluster.
        seconds: of the host's processor.
    """

    instructions: int
    cycles: int
    seconds: float


def prepare(machine: Simulator, kernel: str, mode: str) -> None:
    """Chooses the program's loop, and has it observed; the guard allows all that a program may touch."""
    machine.write("kernel", np.uint32(KERNELS.index(kernel)))
    if mode == "traced":
        machine.kernels(["program"])
        machine.trace()
    elif mode == "guarded":
        memory = {"L1": (0x10000000, 256 << 10), "L2": (0x1C000000, 2 << 20), "weights": (0x10400000, 8 << 20)}
        machine.guard({"program": []}, [Region(name, *place, Access.BOTH) for name, place in memory.items()])


def instructions(machine: Simulator) -> int:
    """What all cores have executed."""
    return sum(machine.counters(core).instructions for core in range(FC + 1))


def measure(kernel: str, mode: str, begin: int, end: int) -> Measurement:
    """Runs a program to cycle `end`, and measures from cycle `begin`."""
    with Simulator(program("calibration")) as machine:
        prepare(machine, kernel, mode)
        if begin:
            machine.advance(begin)
        executed, began = instructions(machine), time.process_time()
        cycles = machine.advance(end - begin).cycles
        seconds = time.process_time() - began
        return Measurement(instructions(machine) - executed, cycles, seconds)


def rounds(kernel: str) -> tuple[int, int]:
    """The cycles between which eight cores execute a program's loop: its fourth round, behind the one of four cores."""
    with Simulator(program("calibration")) as machine:
        prepare(machine, kernel, "plain")
        ends: list[int] = []
        for row, cores in ((2, 4), (3, 8)):
            while not machine.read("elapsed", "<u4", (4, 8))[row, :cores].all():
                machine.advance(STEP)
            ends.append(machine.cycle)
        return ends[0], ends[1]


def best(kernel: str, mode: str, begin: int, end: int, seconds: float) -> Measurement:
    """The fastest of the runs that fit into some seconds."""
    until = time.monotonic() + seconds
    found = measure(kernel, mode, begin, end)
    while time.monotonic() < until:
        found = min(found, measure(kernel, mode, begin, end), key=lambda measurement: measurement.seconds)
    return found


def main() -> None:
    """Prints one line per program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each line")
    seconds = parser.parse_args().seconds
    runs = [(kernel, "plain", 8) for kernel in PROGRAMS] + [("matmul", mode, 8) for mode in MODES[1:]]
    runs += [("matmul", mode, 1) for mode in MODES]
    print(f"{'program':10}{'':9}{'cores':>6}{'instructions':>14}{'cycles':>12}{'M instr/s':>11}{'M cycles/s':>12}")
    for kernel, mode, least in runs:
        begin, end = rounds(kernel)
        found = best(kernel, mode, begin if least == 8 else 0, end, seconds)
        rates = f"{found.instructions / found.seconds / 1e6:11.1f}{found.cycles / found.seconds / 1e6:12.1f}"
        cores = "8" if least == 8 else "1-8"
        print(f"{kernel:10}{mode:9}{cores:>6}{found.instructions:14,}{found.cycles:12,}{rates}")


if __name__ == "__main__":
    main()
