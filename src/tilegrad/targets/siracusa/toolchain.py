"""The cross compilers for the cluster: the pinned zig and the distribution's GCC for bare-metal RISC-V.

Both make the same bits of a program: they fuse only what the source fuses, and have no other float arithmetic than the
cores' own and IEEE 754 in software.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilegrad.errors import ToolchainError
from tilegrad.targets.host.toolchain import Compiler, find_compiler

#: What ``--cc gcc`` means here.
GCC = "riscv64-unknown-elf-gcc"

_LANGUAGE = (
    *("-std=gnu11", "-ffreestanding", "-ffp-contract=off", "-fno-math-errno"),
    *("-Wall", "-Wextra", "-Werror"),
    # What nobody calls is left out when linking.
    *("-ffunction-sections", "-fdata-sections"),
)
_ZIG = (
    *("-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m+f+c", "-mabi=ilp32f"),
    # zig turns UBSan on by itself at low optimisation levels.
    "-fno-sanitize=all",
)
# The older ISA specification has the control registers in its base: named apart they select the wrong libgcc.
_GNU = ("-march=rv32imfc", "-misa-spec=2.2", "-mabi=ilp32f")


@dataclass(frozen=True)
class CrossCompiler:
    """A compiler and its options for the cluster.

    Attributes:
        compiler: the compiler.
        compile_options: for one file.
        link_options: before the objects.
        libraries: behind the objects.
        run_time_library: the library that zig builds on its first link.
    """

    compiler: Compiler
    compile_options: tuple[str, ...]
    link_options: tuple[str, ...]
    libraries: tuple[str, ...] = ()
    run_time_library: str = ""


def find_cross_compiler(cc: str, script: str, flags: Sequence[str] = ()) -> CrossCompiler:
    """Finds a compiler and says how to use it.

    Args:
        cc: ``zig``, ``gcc`` for the distribution's cross compiler, or a cross GCC's name or path.
        script: the linker script's path in the project.
        flags: the user's further options.

    Raises:
        ToolchainError: there is no such compiler, or it cannot build for the cluster.
    """
    script_options = ("-Wl,--gc-sections", "-T", script)
    if cc == "zig":
        return CrossCompiler(
            find_compiler("zig"),
            (*_ZIG, *_LANGUAGE),
            (*_ZIG, *script_options),
            run_time_library="libcompiler_rt.a",
        )
    try:
        compiler = find_compiler(GCC if cc == "gcc" else cc, (*_GNU, *flags), native=False)
    except ToolchainError as error:
        raise ToolchainError(
            f"{error}\nThe target siracusa builds with zig, which comes with TileGrad, or with gcc: {GCC}, or the path "
            "of another GCC for bare-metal RISC-V."
        ) from error
    if compiler.family != "gcc":
        raise ToolchainError(
            f"the target siracusa builds with zig or with GCC for bare-metal RISC-V; {cc!r} is {compiler.family}"
        )
    return CrossCompiler(
        compiler,
        (*_GNU, *_LANGUAGE),
        (*_GNU, "-nostdlib", "-static", *script_options),
        libraries=("-lgcc",),
    )
