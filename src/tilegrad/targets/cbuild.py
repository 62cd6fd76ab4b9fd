"""Compiles the C files of a project in parallel and links them, through the build cache.

Shared by all targets that build with a command-line C compiler; a target brings the command, its options and an
identity string that changes whenever the same files and options could give another program.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tilegrad.errors import ToolchainError
from tilegrad.targets.base import Progress
from tilegrad.targets.cache import BuildCache, digest, storage_error

_SHOWN_LINES = 30
_PROBE_BYTES = 4 << 20


@dataclass(frozen=True)
class Recipe:
    """How to turn C files into a program.

    Attributes:
        description: compiler name and version, for messages.
        command: the compiler.
        identity: changes with anything outside the files and options that decides the output: the compiler's version,
            the machine that "native" options refer to.
        compile_options: for compiling one file.
        link_options: before the objects when linking.
        libraries: behind the objects when linking.
        run_time_library: the library that zig builds on its first link, which takes long enough to be announced.
        failure_hint: a sentence added to the message where linking fails, or nothing.
    """

    description: str
    command: tuple[str, ...]
    identity: str
    compile_options: tuple[str, ...]
    link_options: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    run_time_library: str = ""
    failure_hint: str = ""


@dataclass(frozen=True)
class Built:
    """A program in the cache.

    Attributes:
        executable: its path.
        compiled: how many files were compiled for it.
        seconds: how long that took.
    """

    executable: Path
    compiled: int
    seconds: float


def build_program(
    project: Path,
    recipe: Recipe,
    cache: BuildCache,
    *,
    extra_sources: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Built:
    """Builds ``src/**/*.c`` of a project, and further files, with ``include`` and ``src`` on the include path.

    Args:
        project: the project's folder; it is only read.
        recipe: the compiler and its options.
        cache: where objects and programs are looked up and kept.
        extra_sources: C files from outside the project.
        progress: called with a line of text before compiling.

    Raises:
        ToolchainError: the project has no C files, the compiler fails, or the cache cannot be written.
    """
    started = time.monotonic()
    sources = _read_sources(project, extra_sources)
    headers = _read_headers(project)
    # A linker goes by the ending of a name.
    keys = [
        digest(["object", recipe.identity, *recipe.compile_options, headers, source.name, source.text]) + ".o"
        for source in sources
    ]
    program_key = digest(["program", recipe.identity, *recipe.link_options, *recipe.libraries, *keys])
    if executable := cache.find("programs", program_key):
        return Built(executable, 0, time.monotonic() - started)

    objects = [cache.find("objects", key) for key in keys]
    missing = [index for index, found in enumerate(objects) if found is None]
    if progress is not None:
        progress(_announcement(recipe, len(missing), cache))
    with cache.working_folder() as work:

        def compile_one(index: int) -> Path:
            output = work / f"{index}.o"
            options = (*recipe.compile_options, "-Iinclude", "-Isrc", "-c", sources[index].name, "-o", str(output))
            _run(recipe, options, project, work, cache, f"compiling {sources[index].name}")
            return cache.publish("objects", keys[index], output)

        for index, path in zip(missing, _in_parallel(compile_one, missing), strict=True):
            objects[index] = path
        output = work / "program"
        inputs = [str(path) for path in objects if path is not None]
        options = (*recipe.link_options, *inputs, *recipe.libraries, "-o", str(output))
        _run(recipe, options, project, work, cache, "linking", recipe.failure_hint)
        executable = cache.publish("programs", program_key, output)
    cache.prune()
    return Built(executable, len(missing), time.monotonic() - started)


@dataclass(frozen=True)
class _Source:
    name: str
    text: bytes


def _read_sources(project: Path, extra: Sequence[Path]) -> list[_Source]:
    try:
        own = [_Source(str(path.relative_to(project)), path.read_bytes()) for path in _files(project, "src", ".c")]
        others = [_Source(str(path.absolute()), path.read_bytes()) for path in extra]
    except OSError as error:
        raise ToolchainError(f"the project {project} cannot be read: {error}") from error
    if not own:
        raise ToolchainError(f"{project} is not a generated project: it has no C files in src/")
    return own + others


def _read_headers(project: Path) -> str:
    """The digest of whatever a C file of the project can include."""
    parts: list[str | bytes] = []
    try:
        for path in (*_files(project, "include", ""), *_files(project, "src", "")):
            if path.suffix != ".c":
                parts += [str(path.relative_to(project)), path.read_bytes()]
    except OSError as error:
        raise ToolchainError(f"the project {project} cannot be read: {error}") from error
    return digest(parts)


def _files(project: Path, folder: str, suffix: str) -> list[Path]:
    return sorted(path for path in (project / folder).rglob(f"*{suffix}") if path.is_file())


def _announcement(recipe: Recipe, missing: int, cache: BuildCache) -> str:
    text = f"compiling {missing} C file{'' if missing == 1 else 's'} with {recipe.description}"
    if recipe.run_time_library and not any((cache.folder / "zig" / "o").glob(f"*/{recipe.run_time_library}")):
        text += f" (its first use also builds {recipe.run_time_library}, which takes a while)"
    return text


def _in_parallel(work: Callable[[int], Path], indices: Sequence[int]) -> list[Path]:
    """Maps over indices with as many compilers at a time as there are processors; the first failure stops the rest."""
    with ThreadPoolExecutor(max_workers=max(1, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(work, index) for index in indices]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run(
    recipe: Recipe, options: Sequence[str], project: Path, work: Path, cache: BuildCache, doing: str, hint: str = ""
) -> None:
    command = [*recipe.command, *options]
    environment = os.environ | {
        "LC_ALL": "C",
        # What zig keeps for good is its run-time library, a few files per kind of build; the rest goes with this build.
        "ZIG_GLOBAL_CACHE_DIR": str(cache.folder / "zig"),
        "ZIG_LOCAL_CACHE_DIR": str(work / "zig"),
        "TMPDIR": str(work),
    }
    try:
        done = subprocess.run(
            command, cwd=project, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError as error:
        raise ToolchainError(f"{recipe.description} cannot be started: {error}") from error
    if done.returncode == 0:
        return
    output = (done.stderr + done.stdout).decode(errors="replace")
    raise ToolchainError(
        _failure(recipe, command, project, doing, done.returncode, output, _storage_advice(work, cache) or hint)
    )


def _failure(
    recipe: Recipe, command: Sequence[str], project: Path, doing: str, status: int, output: str, advice: str
) -> str:
    lines = output.strip().splitlines()
    ended = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"gave exit status {status}"
    parts = [f"{doing} in {project}: {recipe.description} {ended}"]
    parts += [f"  {line}" for line in lines[:_SHOWN_LINES]]
    if len(lines) > _SHOWN_LINES:
        parts.append(f"  ... and {len(lines) - _SHOWN_LINES} lines more")
    parts.append(f"The command was: {' '.join(command)}")
    return "\n".join([*parts, advice] if advice else parts)


def _storage_advice(work: Path, cache: BuildCache) -> str:
    """What to do where the compiler had no room to write; compilers put that in many ways, so it is tried."""
    try:
        with tempfile.TemporaryFile(dir=work) as probe:
            probe.write(bytes(_PROBE_BYTES))
    except OSError as error:
        return str(storage_error(error, cache.folder))
    return ""
