"""How many instructions and cycles the simulator of the Siracusa cluster simulates per second, on one host core.

    python benchmarks/simulator_speed.py [--seconds 2]

The programs are the calibration loops of tests/simulator/programs, run by one core, by two, four and eight, one after
the other; "checked" runs them with kernels traced. The best of several runs counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / folder) for folder in ("src", "tests")]

from simulator.cross import program  # noqa: E402
from simulator.test_calibration import KERNELS  # noqa: E402

from tilegrad.simulator import FC, Simulator  # noqa: E402

PROGRAMS = ("matmul", "dot", "dot4", "pairs", "one_bank", "l2", "divide")


def measure(kernel: str, checked: bool) -> tuple[int, int, float]:
    """Instructions, cycles and seconds of one run."""
    with Simulator(program("calibration")) as machine:
        machine.write("kernel", np.uint32(KERNELS.index(kernel)))
        machine.trace(checked)
        begin = time.perf_counter()
        machine.run(10_000_000)
        seconds = time.perf_counter() - begin
        return sum(machine.counters(core).instructions for core in range(FC + 1)), machine.cycle, seconds


def main() -> None:
    """Prints one line per program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each line")
    seconds = parser.parse_args().seconds
    print(f"{'program':12}{'':10}{'instructions':>14}{'cycles':>12}{'M instr/s':>11}{'M cycles/s':>12}")
    for checked in (False, True):
        for kernel in PROGRAMS if not checked else PROGRAMS[:1]:
            end = time.monotonic() + seconds
            instructions, cycles, best = measure(kernel, checked)
            while time.monotonic() < end:
                best = min(best, measure(kernel, checked)[2])
            rates = f"{instructions / best / 1e6:11.1f}{cycles / best / 1e6:12.1f}"
            print(f"{kernel:12}{'checked' if checked else '':10}{instructions:14,}{cycles:12,}{rates}")


if __name__ == "__main__":
    main()
