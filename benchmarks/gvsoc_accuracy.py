"""Cycles on GVSoC's model of the platform and on the built-in simulator, of the same program files.

    GVSOC_HOME=/opt/gvsoc python benchmarks/gvsoc_accuracy.py [--loops dot matmul] [--cc gcc] [--cores 8]

Runs the calibration loops of tests/simulator/programs, then one training step of a model, and prints both cycle counts
and their ratio. Needs GVSoC with the target siracusa, found by GVSOC_HOME or on PATH; without it, it does nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / folder) for folder in ("src", "tests")]

from simulator.cross import built, compilers  # noqa: E402
from simulator.test_calibration import CORES, KERNELS, L3_DIRECTIONS  # noqa: E402

import tilegrad as tg  # noqa: E402
from tilegrad.errors import TileGradError, ToolchainError  # noqa: E402
from tilegrad.models import build_model, synthetic_data  # noqa: E402
from tilegrad.simulator import Simulator  # noqa: E402
from tilegrad.simulator.elf import read_elf  # noqa: E402
from tilegrad.targets import get_target  # noqa: E402
from tilegrad.targets.siracusa.gvsoc import find_gvsoc, run_on_gvsoc  # noqa: E402

_L3 = {f"L3 4096 {direction}": 100 + index for index, direction in enumerate(L3_DIRECTIONS)}
_LOOPS = {**{name: index for index, name in enumerate(KERNELS)}, **_L3}


def with_kernel(program: Path, kernel: int) -> bytes:
    """The program's file with another initial value of its variable `kernel`."""
    contents, image = bytearray(program.read_bytes()), read_elf(program)
    address = image.symbols["kernel"].address
    segment = next(part for part in image.segments if part.address <= address < part.address + len(part.data))
    place = contents.index(segment.data) + address - segment.address
    contents[place : place + 4] = kernel.to_bytes(4, "little")
    return bytes(contents)


def printed_cycles(output: str) -> list[list[int]]:
    """The numbers of each line that begins with "cycles"."""
    return [[int(word) for word in line.split()[1:]] for line in output.splitlines() if line.startswith("cycles ")]


def rows(kernel: str, lines: Sequence[Sequence[int]]) -> dict[str, float]:
    """Label to cycles: means over the cores that took part, for transfers over the rounds with warm caches."""
    if kernel in _L3:
        return {"FC": float(lines[0][0])}
    if "dma" in kernel or "2d" in kernel:
        return {"1": float(np.mean([line[0] for line in lines[1:]]))}
    return {str(cores): float(np.mean(line[:cores])) for cores, line in zip(CORES, lines, strict=True)}


def report(name: str, cores: str, gvsoc: float, simulator: float) -> None:
    """One line of the table."""
    print(f"{name:22}{cores:>6}{gvsoc:14,.0f}{simulator:14,.0f}{simulator / gvsoc:10.3f}", flush=True)


def compare_loops(gvsoc: Path, names: Sequence[str], cc: str) -> None:
    """The calibration loops, on both."""
    with tempfile.TemporaryDirectory(prefix="tilegrad-gvsoc-") as folder:
        program = built("calibration", cc)
        for name in names:
            work = Path(folder) / "run"
            work.mkdir()
            (work / "program.elf").write_bytes(with_kernel(program, _LOOPS[name]))
            theirs = rows(name, printed_cycles(run_on_gvsoc(gvsoc, work / "program.elf")))
            with Simulator(work / "program.elf") as machine:
                ours = rows(name, printed_cycles(machine.run(10_000_000).output))
            for cores, cycles in theirs.items():
                report(name, cores, cycles, ours[cores])
            shutil.rmtree(work)


def step(model: str, cores: int, runner: str) -> tuple[int, int]:
    """Cycles of forward and backward pass, and of SGD, of one training step."""
    module, inputs = build_model(model)
    module.train()
    target = dataclasses.replace(get_target("siracusa"), cores=cores).with_runner(runner)
    build = tg.compile(module, inputs, tg.losses.CrossEntropy(), tg.optim.SGD(lr=1e-3), target=target)
    x, y = synthetic_data(model, 1)
    run = build.run([(np.asarray(x), np.asarray(y))], 1)
    assert run.train_cycles is not None and run.opt_cycles is not None
    return run.train_cycles, run.opt_cycles


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", nargs="*", choices=_LOOPS, default=list(_LOOPS), metavar="LOOP")
    parser.add_argument("--cc", choices=compilers(), default="zig", help="builds the loops")
    parser.add_argument("--model", default="speechnet", help="an empty name leaves the training step out")
    parser.add_argument("--cores", type=int, nargs="+", default=[8], help="for the training step")
    options = parser.parse_args()
    try:
        gvsoc = find_gvsoc()
    except ToolchainError as error:
        print(f"skipped: no GVSoC ({error})")
        return
    print(f"{'':22}{'cores':>6}{'GVSoC':>14}{'simulator':>14}{'ratio':>10}")
    compare_loops(gvsoc, options.loops, options.cc)
    for cores in options.cores if options.model else ():
        ours = step(options.model, cores, "sim")
        try:
            theirs = step(options.model, cores, "gvsoc")
        except TileGradError as error:
            sys.exit(f"{options.model} on {cores} cores, on GVSoC: {error}")
        for name, *cycles in zip(("step", "SGD"), theirs, ours, strict=True):
            report(f"{options.model} {name}", str(cores), *cycles)


if __name__ == "__main__":
    main()
