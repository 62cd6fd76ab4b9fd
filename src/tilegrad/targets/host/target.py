"""The host as a target: one core, one memory, vectors over parallel iterators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tilegrad.targets.base import Memory, Program, Progress, Target
from tilegrad.targets.cache import BuildCache
from tilegrad.targets.cbuild import Recipe, build_program
from tilegrad.targets.host import toolchain
from tilegrad.targets.host.session import HostSession

DRIVER = Path(__file__).parent / "driver" / "main.c"
UBSAN_REPORT = DRIVER.with_name("ubsan_report.c")


@dataclass(frozen=True, kw_only=True)
class HostProgram(Program):
    """An executable of this machine."""

    def start(self) -> HostSession:
        """Starts the program in a process of its own.

        Raises:
            RunError: it did not come up.
        """
        return HostSession(self.executable)


@dataclass(frozen=True, kw_only=True)
class HostTarget(Target):
    """The machine that TileGrad runs on."""

    def project_files(self) -> Mapping[str, str]:
        """The driver that makes a program of the project, so that the folder also builds on its own."""
        return {"host/main.c": DRIVER.read_text()}

    def build(
        self,
        project: Path,
        *,
        cc: str | None = None,
        sanitize: bool = False,
        optimization: str = "-O3",
        flags: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> HostProgram:
        """Builds a project for this machine; see `Target.build`.

        The driver is this package's own, whatever the project's folder holds: it speaks this package's protocol.

        Raises:
            ToolchainError: the compiler is missing or rejected the project, or the cache cannot be written.
            UserError: `optimization` is not an optimisation option.
        """
        compiler = toolchain.find_compiler(cc or self.default_compiler, flags)
        project = project.absolute()
        recipe = Recipe(
            description=compiler.description,
            command=compiler.command,
            # Debug information names the project's folder.
            identity=compiler.identity + (str(project) if sanitize else ""),
            compile_options=(
                *toolchain.compile_options(compiler, sanitize=sanitize, optimization=optimization),
                *flags,
            ),
            link_options=toolchain.link_options(compiler, sanitize=sanitize),
            libraries=("-lm",),
            run_time_library="libcompiler_rt.a" if compiler.family == "zig" else "",
            failure_hint=_SANITIZER_HINT if sanitize and compiler.family != "zig" else "",
        )
        notices = [] if compiler.fused else [toolchain.SLOW_FMA_NOTICE]
        sources = [DRIVER]
        if sanitize and compiler.family == "zig":
            sources.append(UBSAN_REPORT)
            notices.append(toolchain.ZIG_SANITIZE_NOTICE)
        built = build_program(project, recipe, BuildCache.default(), extra_sources=sources, progress=progress)
        return HostProgram(
            executable=built.executable,
            compiler=compiler.description,
            notices=tuple(notices),
            seconds=built.seconds,
            compiled=built.compiled,
        )


_SANITIZER_HINT = (
    "If the sanitizer's run-time library is what is missing, install it "
    "(Debian: libasan comes with gcc, libclang-rt-dev for clang)."
)

TARGET = HostTarget(
    name="host",
    summary="the machine TileGrad runs on: one core, no memory limit",
    memories=(Memory("ram", capacity=None, alignment=64),),
    # Part of the description and not of the machine at hand: the generated C is the same on every host.
    vector_width_bytes=32,
    innermost="parallel",
    compilers=("zig", "gcc", "clang"),
    default_compiler="zig",
)
