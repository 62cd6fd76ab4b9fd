"""PULP Siracusa as a target: memories, cores, tool chain, and the simulator that runs its programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

from tilegrad.errors import ToolchainError, UserError
from tilegrad.targets.base import Memory, Program, Progress, Session, Target
from tilegrad.targets.cache import BuildCache, digest
from tilegrad.targets.cbuild import Recipe, build_program
from tilegrad.targets.siracusa.batch_session import BatchSession
from tilegrad.targets.siracusa.gvsoc import KNOWN_FAULTS, NOTICE, find_gvsoc, run_on_gvsoc
from tilegrad.targets.siracusa.image import program_sizes
from tilegrad.targets.siracusa.session import ClusterSession
from tilegrad.targets.siracusa.toolchain import find_cross_compiler

RUNTIME = Path(__file__).parent / "runtime"
SOURCES = ("runtime.c", "batch.c", "memory.c")
#: Cores of the cluster that a team may have.
MOST_CORES = 8

#: Bytes of stack that every core of a team has in L1: the kernels keep no arrays there.
STACK_BYTES = 1024
#: Bytes of L2 that start-up code, its data and the fabric controller's stack take at most.
RUNTIME_L2_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class SiracusaProgram(Program):
    """A program for the cluster.

    Attributes:
        cores: the team that it was built for.
        runner: what runs it: ``sim``, the built-in simulator, or ``gvsoc``.
        progress: told when the simulator has to be built.
    """

    cores: int
    runner: str = "sim"
    progress: Progress | None = None

    def start(self) -> Session:
        """Starts the program.

        Raises:
            ToolchainError: the runner is missing.
            RunError: the program did not come up.
        """
        if self.runner == "sim":
            return ClusterSession(self.executable, self.cores, self.progress)
        return BatchSession(self.executable, partial(run_on_gvsoc, find_gvsoc()), KNOWN_FAULTS)


@dataclass(frozen=True, kw_only=True)
class SiracusaTarget(Target):
    """The Siracusa platform: a fabric controller and a cluster of eight cores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cores > MOST_CORES:
            raise UserError(f"the cluster has {MOST_CORES} cores; a team of {self.cores} is too large")

    def with_runner(self, name: str) -> Self:
        """See `Target.with_runner`; what runs on GVSoC cannot be watched from here."""
        return replace(super().with_runner(name), simulated=name == "sim")

    @property
    def reserved(self) -> Mapping[str, int]:
        """See `Target.reserved`: stacks in L1, the runtime in L2."""
        return {**super().reserved, "L1": self.cores * STACK_BYTES, "L2": RUNTIME_L2_BYTES}

    def project_files(self) -> Mapping[str, str]:
        """The runtime: start-up code, the headers of team and memories, and the linker script."""
        headers = ("tilegrad_team.h", "tilegrad_dma.h", "tilegrad_registers.h", "tilegrad_print.h")
        return {
            **{f"src/{name}": (RUNTIME / name).read_text() for name in headers},
            **{f"siracusa/{name}": (RUNTIME / name).read_text() for name in (*SOURCES, "link.ld")},
        }

    def build(
        self,
        project: Path,
        *,
        cc: str | None = None,
        sanitize: bool = False,
        optimization: str = "-O3",
        flags: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> SiracusaProgram:
        """Cross-compiles a project; see `Target.build`.

        Raises:
            ToolchainError: the project is rejected, the compiler is missing or builds for something else, sanitizers
                are asked for, or the cache cannot be written.
        """
        if sanitize:
            raise ToolchainError("sanitizers need an operating system: use --target host to run with them")
        cross = find_cross_compiler(cc or self.default_compiler, "siracusa/link.ld", flags)
        recipe = Recipe(
            description=f"{cross.compiler.description} for RV32IMFC",
            command=cross.compiler.command,
            identity=digest([cross.compiler.identity, (RUNTIME / "link.ld").read_bytes()]),
            compile_options=(
                *cross.compile_options,
                optimization,
                f"-DTILEGRAD_CORES={self.cores}",
                f"-DTILEGRAD_STACK_BYTES={STACK_BYTES}",
                '-DTILEGRAD_TEAM_HEADER="tilegrad_team.h"',
                *flags,
            ),
            link_options=cross.link_options,
            libraries=cross.libraries,
            run_time_library=cross.run_time_library,
            failure_hint=_LINK_HINT,
        )
        built = build_program(
            project,
            recipe,
            BuildCache.default(),
            extra_sources=[project / "siracusa" / name for name in SOURCES],
            progress=progress,
        )
        sizes = program_sizes(built.executable)
        return SiracusaProgram(
            executable=built.executable,
            compiler=recipe.description,
            seconds=built.seconds,
            compiled=built.compiled,
            code_bytes=sizes.code,
            constant_bytes=sizes.constants,
            data_bytes=sizes.data,
            notices=(NOTICE,) if self.runner == "gvsoc" else (),
            cores=self.cores,
            runner=self.runner,
            progress=progress,
        )


_LINK_HINT = (
    "If a region overflowed: code, constants and tensors share the 2,031,616 bytes of L2 that programs have; use a "
    "smaller model, or a smaller budget with --l2."
)

TARGET = SiracusaTarget(
    name="siracusa",
    summary="PULP Siracusa: a cluster of 8 RISC-V cores with float units, on the built-in simulator",
    memories=(
        Memory("L1", capacity=128_000, physical=256 << 10, alignment=8, load_cycles=1),
        # Private banks of the fabric controller come first and are left to it.
        Memory(
            "L2",
            capacity=2_000_000,
            physical=(2 << 20) - (64 << 10),
            alignment=64,
            load_cycles=15.5,
            dma_bytes_per_cycle=8,
            dma_setup_cycles=25,
        ),
        # 1.4 bytes a cycle towards L2, 0.8 from there: this is what one of each takes.
        Memory(
            "L3",
            capacity=8 << 20,
            physical=8 << 20,
            alignment=64,
            load_cycles=float("inf"),
            mapped=False,
            dma_bytes_per_cycle=1.0,
            dma_setup_cycles=100,
        ),
    ),
    cores=8,
    vector_width_bytes=4,
    innermost="reduction",
    has_cycle_counter=True,
    compilers=("zig", "gcc"),
    default_compiler="zig",
    most_cores=MOST_CORES,
    multiply_adds_per_cycle=4,
    simulated=True,
    runners=("sim", "gvsoc"),
    runner="sim",
)
