"""The host's C compilers: how they are found, what they are, and the options that keep bits the same among them.

Measured on an AVX-512 machine with row-wise convolution kernels: building for the machine at hand ("native") is as
fast as any fixed instruction set with gcc, and up to twice as fast with zig, which also schedules for the CPU; 512-bit
vectors brought nothing beyond that, and compilers hold them back by themselves where they slow a CPU down. All gave
the same bits, so native it is.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tilegrad.errors import ToolchainError, UserError
from tilegrad.targets.cache import digest

Family = Literal["zig", "gcc", "clang"]

OPTIMIZATIONS = ("-O0", "-O1", "-O2", "-O3", "-Os")

SLOW_FMA_NOTICE = (
    "no fused multiply-add instruction is used for this CPU and these options: every multiply-add is a call of the C "
    "library's fmaf, the same bits but about 80 times slower"
)

ZIG_SANITIZE_NOTICE = (
    "zig has no address sanitizer: this build stops at undefined behaviour (UBSan) only; "
    "use gcc or clang to find wrong addresses too"
)

_INSTALL = {
    "zig": "install it with `pip install ziglang==0.17.1`",
    "gcc": "install it with your package manager (Debian: `apt install gcc libc6-dev`; Fedora: `dnf install gcc`)",
    "clang": "install it with your package manager (Debian: `apt install clang`; Fedora: `dnf install clang`; "
    "macOS: `xcode-select --install`)",
    "riscv64-unknown-elf-gcc": "for --target siracusa --cc gcc, install it with your package manager (Debian, Ubuntu: "
    "`apt install gcc-riscv64-unknown-elf`)",
}

# A compiler defines one of these where __builtin_fmaf is an instruction.
_FUSED_MACROS = ("__FMA__", "__FP_FAST_FMAF", "__ARM_FEATURE_FMA", "__aarch64__", "__riscv_flen")


@dataclass(frozen=True)
class Compiler:
    """A C compiler on this machine, with the options that select its instruction set.

    Attributes:
        family: what it really is, whatever it is called.
        version: its version.
        command: how it is started.
        cpu_options: options that build for this machine's CPU.
        fused: whether a multiply-add becomes one instruction.
        identity: changes with the compiler, its version and the CPU it builds for.
    """

    family: Family
    version: str
    command: tuple[str, ...]
    cpu_options: tuple[str, ...]
    fused: bool
    identity: str

    @property
    def description(self) -> str:
        """Name and version for people."""
        return f"{self.family} {self.version}"


def install_hint(name: str) -> str:
    """How to get the compiler called `name`."""
    return _INSTALL.get(name, "give its full path, or use zig, gcc or clang")


def find_compiler(cc: str | None = None, options: Sequence[str] = (), *, native: bool = True) -> Compiler:
    """Finds and identifies a compiler.

    Args:
        cc: ``zig`` (the pinned wheel, also for None), ``gcc``, ``clang``, or the name or path of one of these.
        options: the user's further options; they take part in what the compiler is asked about itself.
        native: whether it is to build for this machine.

    Raises:
        ToolchainError: there is no such compiler, or it is none that is known; the message says how to get one.
    """
    name = cc or "zig"
    command = _locate(name)
    status = os.stat(command[0])
    return _identify(name, command, tuple(options), native, status.st_size, status.st_mtime_ns)


def compile_options(compiler: Compiler, *, sanitize: bool, optimization: str) -> tuple[str, ...]:
    """Options for compiling one C file so that the bits are the same with every compiler.

    Raises:
        UserError: `optimization` is none of `OPTIMIZATIONS`.
    """
    if optimization not in OPTIMIZATIONS:
        raise UserError(f"optimization must be one of {', '.join(OPTIMIZATIONS)}, not {optimization!r}")
    return (
        "-std=c11",
        optimization,
        # Multiply-adds are fused where the program says so, and nowhere else.
        "-ffp-contract=off",
        # Otherwise clang calls the C library for fmaf and sqrtf, which may set errno.
        "-fno-math-errno",
        "-Wall",
        "-Wextra",
        "-Werror",
        *compiler.cpu_options,
        *_sanitizer_options(compiler, sanitize),
        *(("-g", "-fno-omit-frame-pointer") if sanitize else ()),
    )


def link_options(compiler: Compiler, *, sanitize: bool) -> tuple[str, ...]:
    """Options for linking.

    With zig they are always the same, because for each new combination zig builds its run-time libraries anew; what a
    sanitized build needs of them is `driver/ubsan_report.c`.
    """
    return ("-O3", *compiler.cpu_options, *_sanitizer_options(compiler, sanitize and compiler.family != "zig"))


def _sanitizer_options(compiler: Compiler, sanitize: bool) -> tuple[str, ...]:
    if not sanitize:
        # zig turns UBSan on by itself at low optimisation levels.
        return ("-fno-sanitize=all",) if compiler.family == "zig" else ()
    kinds = "undefined,float-cast-overflow" if compiler.family == "zig" else "address,undefined,float-cast-overflow"
    options = (f"-fsanitize={kinds}", "-fno-sanitize-recover=all")
    # zig traps without a word unless it is told to report.
    return (*options, "-fno-sanitize-trap=all") if compiler.family == "zig" else options


def _locate(name: str) -> tuple[str, ...]:
    if name == "zig":
        return (str(_wheel_zig()), "cc")
    found = shutil.which(name)
    if found is None:
        raise ToolchainError(f"the C compiler {name!r} was not found: {install_hint(name)}")
    resolved = str(Path(found).absolute())
    return (resolved, "cc") if Path(found).name.startswith("zig") else (resolved,)


def _wheel_zig() -> Path:
    """The program that `python -m ziglang` starts, without a Python around it each time."""
    spec = importlib.util.find_spec("ziglang")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        program = Path(folder) / "zig"
        if program.is_file():
            return program
    raise ToolchainError(
        f"the default C compiler, the `ziglang` package, is not installed: {_INSTALL['zig']}, "
        "or choose another with `--cc gcc` or `--cc clang`"
    )


@functools.cache
def _identify(
    name: str, command: tuple[str, ...], options: tuple[str, ...], native: bool, size: int, changed: int
) -> Compiler:
    """Asks a compiler what it is; size and time of change tell an upgraded one from its predecessor."""
    zig = command[1:] == ("cc",)
    own = _native_options(zig) if native else ()
    attempts = [own, ()] if own else [()]
    output = ""
    for cpu_options in attempts:
        macros, output = _macros(command, (*cpu_options, *options))
        if macros is None:
            continue
        family, version = _family(macros, zig, command)
        identity = digest([str(Path(command[0]).resolve()), str(size), str(changed), family, version, output])
        fused = any(macro in macros for macro in _FUSED_MACROS)
        return Compiler(family, version, command, cpu_options, fused, identity)
    raise ToolchainError(
        f"{name!r} ({' '.join(command)}) does not work as a C compiler; asked to preprocess nothing, it said:\n"
        + "\n".join(f"  {line}" for line in output.strip().splitlines()[:10])
        + "\nUse zig, gcc or clang, by name or by path."
    )


def _native_options(zig: bool) -> tuple[str, ...]:
    """The options that gcc and clang need to build for this CPU; zig does so by itself."""
    machine = platform.machine().lower()
    if zig:
        return ()
    if machine in ("x86_64", "amd64", "i686"):
        return ("-march=native",)
    if machine in ("aarch64", "arm64"):
        return ("-mcpu=native",)
    return ()


def _macros(command: tuple[str, ...], options: tuple[str, ...]) -> tuple[dict[str, str] | None, str]:
    """The predefined macros, and the text they came in; None and the error text where the compiler fails."""
    try:
        done = subprocess.run(
            [*command, *options, "-dM", "-E", "-x", "c", os.devnull],
            env=os.environ | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        return None, str(error)
    text = done.stdout.decode(errors="replace")
    if done.returncode != 0 or "#define __STDC_VERSION__" not in text:
        return None, done.stderr.decode(errors="replace") or f"exit status {done.returncode}"
    lines = (line.split(" ", 2) for line in text.splitlines() if line.startswith("#define "))
    return {parts[1]: parts[2] if len(parts) > 2 else "" for parts in lines}, text


def _family(macros: dict[str, str], zig: bool, command: tuple[str, ...]) -> tuple[Family, str]:
    if zig:
        done = subprocess.run([command[0], "version"], capture_output=True, text=True, check=False)
        return "zig", done.stdout.strip() or "of unknown version"
    if "__clang__" in macros:
        return "clang", ".".join(macros[f"__clang_{part}__"] for part in ("major", "minor", "patchlevel"))
    if "__GNUC__" in macros:
        return "gcc", ".".join(macros[f"__GNUC{part}__"] for part in ("", "_MINOR", "_PATCHLEVEL"))
    raise ToolchainError(f"{command[0]} is neither gcc nor clang nor zig: use one of these, by name or by path")


def cpu_has_fma() -> bool | None:
    """Whether this machine's CPU has fused multiply-add instructions; None where nothing says."""
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64", "riscv64", "ppc64le", "s390x"):
        return True
    if machine in ("x86_64", "amd64", "i686"):
        if platform.system() == "Linux":
            return "fma" in _cpu_flags(Path("/proc/cpuinfo"))
        if platform.system() == "Darwin":
            done = subprocess.run(["sysctl", "-n", "machdep.cpu.features"], capture_output=True, text=True, check=False)
            return "FMA" in done.stdout.split()
    return None


def _cpu_flags(cpuinfo: Path) -> frozenset[str]:
    for line in cpuinfo.read_text(errors="replace").splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()
