"""Cycles on GVSoC's model of the platform and on the built-in simulator, of the same program files.

    GVSOC_HOME=/opt/gvsoc python benchmarks/gvsoc_accuracy.py [--loops dot matmul] [--model speechnet] [--cores 8]

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

from simulator.cross import PROGRAMS  # noqa: E402
from simulator.test_calibration import CORES, KERNELS, PUBLISHED_L3  # noqa: E402

import tilegrad as tg  # noqa: E402
from tilegrad.errors import TileGradError, ToolchainError  # noqa: E402
from tilegrad.models import build_model, synthetic_data  # noqa: E402
from tilegrad.simulator import Simulator  # noqa: E402
from tilegrad.simulator.elf import read_elf  # noqa: E402
from tilegrad.targets import get_target  # noqa: E402
from tilegrad.targets.cache import BuildCache, digest  # noqa: E402
from tilegrad.targets.cbuild import Recipe, build_program  # noqa: E402
from tilegrad.targets.host.toolchain import find_compiler  # noqa: E402
from tilegrad.targets.siracusa.gvsoc import find_gvsoc, run_on_gvsoc  # noqa: E402

_MACHINE = ("-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m+f+c", "-mabi=ilp32f", "-fno-sanitize=all")
_LANGUAGE = (
    "-O3",
    "-std=gnu11",
    "-ffreestanding",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
    "-Werror",
)
_L3 = {f"L3 4096 {direction}": 100 + index for index, direction in enumerate(PUBLISHED_L3)}
_LOOPS = {**{name: index for index, name in enumerate(KERNELS)}, **_L3}

# calibration.c as it is, with its results printed, and with the barrier set up by core 0: GVSoC cannot reach barriers
# from the bus, so the start-up code's way of doing it, from the fabric controller, would end the run there.
_PRINTING = """
#include "runtime.h"

extern volatile uint32_t fabric_elapsed __attribute__((section(".data")));
void worker_start(void);

static void print_number(uint32_t value)
{
    char text[12];
    uint32_t at = sizeof text - 1;
    text[at] = 0;
    do
        text[--at] = (char)('0' + value % 10);
    while (value /= 10);
    text[--at] = ' ';
    print(text + at);
}

static void finish(uint32_t code)
{
    print("cycles");
    print_number(fabric_elapsed);
    print("\\n");
    leave(code);
}

#define leave finish
#define program measured
#define fabric_program measured_by_fabric
void measured(uint32_t core);
void measured_by_fabric(void);
#include "calibration.c"
#undef program
#undef fabric_program

void fabric_program(void)
{
    REGISTER(0x1a102000u) |= 7u << 4; /* the clocks of the HyperBus */
    measured_by_fabric();
    for (uint32_t core = 0; core < 9; core++)
        REGISTER(0x10200040u + 4 * core) = (uint32_t)worker_start;
    REGISTER(0x10201400u) = ~0u;
    REGISTER(0x10200008u) = 0x1ff;
    for (;;)
        __asm__ volatile("wfi");
}

void program(uint32_t core)
{
    if (core == 0) { /* who triggers comes first: nobody yet is not all of nobody */
        REGISTER(EVENT_UNIT + 0x200) = (1u << team) - 1;
        REGISTER(EVENT_UNIT + 0x20c) = (1u << team) - 1;
    }
    measured(core);
    barrier();
    for (uint32_t round = 0; core == 0 && round < 4; round++) {
        print("cycles");
        for (uint32_t other = 0; other < 8; other++)
            print_number(elapsed[round][other]);
        print("\\n");
    }
}
"""


def calibration(folder: Path) -> Path:
    """The program file of the calibration loops, built with zig."""
    source = folder / "calibration_printing.c"
    source.write_text(_PRINTING)
    zig, script = find_compiler("zig"), PROGRAMS / "link.ld"
    recipe = Recipe(
        description="zig",
        command=zig.command,
        identity=digest([zig.identity, script.read_bytes(), (PROGRAMS / "calibration.c").read_bytes()]),
        compile_options=(*_MACHINE, *_LANGUAGE, f"-I{PROGRAMS}"),
        link_options=(*_MACHINE, "-T", str(script)),
    )
    return build_program(PROGRAMS, recipe, BuildCache.default(), extra_sources=[source]).executable


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


def compare_loops(gvsoc: Path, names: Sequence[str]) -> None:
    """The calibration loops, on both."""
    with tempfile.TemporaryDirectory(prefix="tilegrad-gvsoc-") as folder:
        program = calibration(Path(folder))
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
    parser.add_argument("--model", default="speechnet", help="an empty name leaves the training step out")
    parser.add_argument("--cores", type=int, nargs="+", default=[8], help="for the training step")
    options = parser.parse_args()
    try:
        gvsoc = find_gvsoc()
    except ToolchainError as error:
        print(f"skipped: no GVSoC ({error})")
        return
    print(f"{'':22}{'cores':>6}{'GVSoC':>14}{'simulator':>14}{'ratio':>10}")
    compare_loops(gvsoc, options.loops)
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
