"""Builds the programs of this folder for the simulated machine, through the build cache."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

from tilegrad.simulator.elf import Image, read_elf
from tilegrad.targets.cache import BuildCache, digest
from tilegrad.targets.cbuild import Recipe, build_program
from tilegrad.targets.host.toolchain import find_compiler

PROGRAMS = Path(__file__).parent / "programs"
_COMMON = (
    *("-O3", "-std=gnu11", "-ffreestanding", "-ffp-contract=off", "-fno-math-errno", "-mabi=ilp32f"),
    *("-Wall", "-Wextra", "-Werror"),
)
_ZIG = ("-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m+f+c", "-fno-sanitize=all")
_GCC = ("-march=rv32imfc", "-misa-spec=2.2")


def compilers() -> list[str]:
    """What can build the programs here: always zig, gcc where it is installed."""
    return ["zig", *(["gcc"] if shutil.which("riscv64-unknown-elf-gcc") else [])]


@functools.cache
def program(name: str, cc: str = "zig", extra: tuple[str, ...] = ()) -> Image:
    """The program in programs/`name`.c, linked with the start-up code; `extra` are further compiler options."""
    return read_elf(built(name, cc, extra))


def built(name: str, cc: str = "zig", extra: tuple[str, ...] = ()) -> Path:
    """The same as a file."""
    script = PROGRAMS / "link.ld"
    if cc == "zig":
        zig = find_compiler("zig")
        command, identity, options, linking = zig.command, zig.identity, _ZIG, _ZIG
    else:
        command, identity = (str(shutil.which("riscv64-unknown-elf-gcc")),), "riscv64-unknown-elf-gcc"
        options, linking = _GCC, (*_GCC, "-nostartfiles", "-nostdlib")
    recipe = Recipe(
        description=cc,
        command=command,
        identity=digest([identity, script.read_bytes()]),
        compile_options=(*_COMMON, *options, *extra),
        link_options=("-mabi=ilp32f", *linking, "-T", str(script)),
    )
    sources = [PROGRAMS / f"{name}.c"]
    return build_program(PROGRAMS, recipe, BuildCache.default(), extra_sources=sources).executable
