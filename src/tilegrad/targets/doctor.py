"""What is installed, what is missing, and how to get it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from tilegrad.errors import ToolchainError
from tilegrad.targets.cache import BuildCache, cache_folder
from tilegrad.targets.host.toolchain import SLOW_FMA_NOTICE, cpu_has_fma, find_compiler, install_hint
from tilegrad.targets.siracusa.gvsoc import REMEDY, find_gvsoc
from tilegrad.targets.siracusa.toolchain import GCC as CROSS_GCC


@dataclass(frozen=True)
class Check:
    """One thing that TileGrad can use.

    Attributes:
        name: what was looked for.
        found: whether it is there and works.
        version: its version, or an empty string.
        detail: where it is, or what was wrong.
        remedy: how to get it, where it is missing; otherwise an empty string.
        required: whether TileGrad's main job needs it.
    """

    name: str
    found: bool
    version: str
    detail: str
    remedy: str
    required: bool


def doctor() -> tuple[Check, ...]:
    """Looks for compilers, CPU features, Python packages and a writable cache.

    Returns:
        The checks in a fixed order. Nothing is raised: what fails is a check with its remedy.
    """
    return (
        _compiler("zig", required=True),
        _compiler("gcc", required=False),
        _compiler("clang", required=False),
        _compiler(CROSS_GCC, required=False),
        _gvsoc(),
        _fma(),
        _package("torch", "PyTorch models and verification against PyTorch: `pip install 'tilegrad[torch]'`"),
        _package("onnx", "ONNX models: `pip install onnx`"),
        _cache(),
    )


def _compiler(name: str, *, required: bool) -> Check:
    try:
        compiler = find_compiler(name, native=name != CROSS_GCC)
    except ToolchainError as error:
        return Check(name, False, "", str(error).splitlines()[0], install_hint(name), required)
    called = "" if name.endswith(compiler.family) else f" (this is {compiler.family})"
    return Check(name, True, compiler.version, compiler.command[0] + called, "", required)


def _gvsoc() -> Check:
    try:
        program = find_gvsoc()
    except ToolchainError as error:
        return Check(
            "gvsoc", False, "", str(error).partition(";")[0], f"for --target siracusa --runner gvsoc, {REMEDY}", False
        )
    return Check("gvsoc", True, "", str(program), "", False)


def _fma() -> Check:
    has = cpu_has_fma()
    if has:
        return Check("CPU fused multiply-add", True, "", "the CPU has the instructions", "", False)
    detail = "the CPU has no such instructions" if has is False else "this system does not say"
    return Check(
        "CPU fused multiply-add", False, "", detail, f"none; programs run all the same: {SLOW_FMA_NOTICE}", False
    )


def _package(name: str, purpose: str) -> Check:
    if importlib.util.find_spec(name) is None:
        return Check(name, False, "", "not installed", purpose, False)
    try:
        return Check(name, True, version(name), "installed", "", False)
    except PackageNotFoundError:
        return Check(name, True, "", "importable, but not installed as a package", "", False)


def _cache() -> Check:
    try:
        folder = cache_folder()
        with BuildCache(folder).working_folder() as work:
            (work / "probe").write_bytes(b"x" * 4096)
    except (ToolchainError, OSError) as error:
        remedy = "set TILEGRAD_CACHE to a folder that can be written"
        return Check("build cache", False, "", str(error), remedy, True)
    return Check("build cache", True, "", str(folder), "", True)
