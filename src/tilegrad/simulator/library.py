"""Builds the simulator's C core on first use and declares its interface."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from tilegrad.errors import InternalError
from tilegrad.targets.base import Progress
from tilegrad.targets.cache import BuildCache
from tilegrad.targets.cbuild import Recipe, build_program
from tilegrad.targets.host.toolchain import Compiler, find_compiler

SOURCES = Path(__file__).parent / "native"
INTERFACE = 4
COUNTERS = (
    "cycles",
    "instructions",
    "loads",
    "stores",
    "branches",
    "taken",
    "jumps",
    "multiply_adds",
    "floats",
    "sleep",
)
STALL_KINDS = ("load use", "bank", "memory", "FPU", "divider", "fetch", "control", "multiply", "event")

_OPTIONS = ("-std=c11", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno")
_WARNINGS = ("-Wall", "-Wextra", "-Werror")


class StopRecord(ctypes.Structure):
    """`sim_stop_t` of simulator.h."""

    _fields_ = (
        ("reason", ctypes.c_uint32),
        ("core", ctypes.c_uint32),
        ("pc", ctypes.c_uint32),
        ("address", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("value", ctypes.c_uint32),
        ("detail", ctypes.c_uint32),
        ("kernel", ctypes.c_int32),
        ("tile", ctypes.c_uint32),
        ("transfer_core", ctypes.c_uint32),
        ("transfer_pc", ctypes.c_uint32),
        ("transfer_bytes", ctypes.c_uint32),
        ("transfer_inwards", ctypes.c_uint32),
        ("cycle", ctypes.c_uint64),
    )


class CounterRecord(ctypes.Structure):
    """`sim_counters_t` of simulator.h."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in COUNTERS),
        ("stalls", ctypes.c_uint64 * len(STALL_KINDS)),
    )


class HotRecord(ctypes.Structure):
    """`sim_hot_t` of simulator.h."""

    _fields_ = (
        ("count", ctypes.c_uint64),
        ("sleep", ctypes.c_uint64),
        ("stalls", ctypes.c_uint64 * len(STALL_KINDS)),
    )


class RangeRecord(ctypes.Structure):
    """`sim_range_t` of simulator.h."""

    _fields_ = (
        ("kernel", ctypes.c_int32),
        ("tile", ctypes.c_int32),
        ("first", ctypes.c_uint32),
        ("last", ctypes.c_uint32),
        ("access", ctypes.c_uint32),
        ("cores", ctypes.c_uint32),
    )


class TraceRecord(ctypes.Structure):
    """`sim_trace_t` of simulator.h."""

    _fields_ = (
        ("cycle", ctypes.c_uint64),
        ("kind", ctypes.c_uint32),
        ("core", ctypes.c_uint32),
        ("a", ctypes.c_uint32),
        ("b", ctypes.c_uint32),
        ("bytes", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("multiply_adds", ctypes.c_uint64),
        ("stalls", ctypes.c_uint64 * len(STALL_KINDS)),
    )


_U32, _U64, _SIM, _VOID, _INT = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p, None, ctypes.c_int
_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "sim_interface": (_U32, ()),
    "sim_create": (_SIM, (_U32,)),
    "sim_destroy": (_VOID, (_SIM,)),
    "sim_parameter_get": (_INT, (_SIM, _U32, ctypes.POINTER(_U32))),
    "sim_parameter_set": (_INT, (_SIM, _U32, _U32)),
    "sim_parameter_name": (ctypes.c_char_p, (_U32,)),
    "sim_read": (_INT, (_SIM, _U32, ctypes.c_void_p, _U32)),
    "sim_write": (_INT, (_SIM, _U32, ctypes.c_char_p, _U32)),
    "sim_scan_code": (_VOID, (_SIM, _U32, _U32)),
    "sim_start": (_VOID, (_SIM, _U32, _U32)),
    "sim_park": (_VOID, (_SIM, _U32)),
    "sim_set_stack": (_VOID, (_SIM, _U32, _U32)),
    "sim_breakpoint": (_INT, (_SIM, _U32, _INT)),
    "sim_run": (_VOID, (_SIM, _U64, ctypes.POINTER(StopRecord))),
    "sim_register_get": (_U32, (_SIM, _U32, _U32)),
    "sim_register_set": (_VOID, (_SIM, _U32, _U32, _U32)),
    "sim_cycle": (_U64, (_SIM,)),
    "sim_counters": (_VOID, (_SIM, _U32, ctypes.POINTER(CounterRecord))),
    "sim_output": (_U32, (_SIM, ctypes.c_char_p, _U32)),
    "sim_kernels": (_INT, (_SIM, ctypes.POINTER(_U32), _U32, _U32)),
    "sim_guard": (_INT, (_SIM, ctypes.POINTER(RangeRecord), _U32)),
    "sim_trace": (_VOID, (_SIM, _INT)),
    "sim_trace_read": (_U32, (_SIM, ctypes.POINTER(TraceRecord), _U32)),
    "sim_profile": (_INT, (_SIM, ctypes.POINTER(_U32), _U32, _INT)),
    "sim_hot_read": (_INT, (_SIM, _U32, ctypes.POINTER(HotRecord))),
    "sim_profile_read": (_INT, (_SIM, _U32, _U32, ctypes.POINTER(CounterRecord))),
}


def build_library(*, cc: str | None = None, cache: BuildCache | None = None, progress: Progress | None = None) -> Path:
    """Builds the C core as a shared library, or finds it in the build cache.

    Args:
        cc: the C compiler, the pinned zig by default.
        cache: where the library is kept, the user's build cache by default.
        progress: called with a line of text before anything is compiled.

    Raises:
        ToolchainError: there is no compiler, it fails, or the cache cannot be written.
    """
    compiler = find_compiler(cc)
    announce = None
    if progress is not None:
        said = progress

        def announce(text: str) -> None:
            said(f"building the simulator, once: {text}")

    built = build_program(SOURCES, _recipe(compiler), cache or BuildCache.default(), progress=announce)
    return built.executable


def _recipe(compiler: Compiler) -> Recipe:
    # zig turns its undefined-behaviour checks on by itself.
    own = ("-fno-sanitize=all",) if compiler.family == "zig" else ()
    return Recipe(
        description=compiler.description,
        command=compiler.command,
        identity=f"simulator {compiler.identity}",
        compile_options=(*_OPTIONS, *_WARNINGS, *compiler.cpu_options, *own),
        link_options=("-shared", "-O3", *compiler.cpu_options, *own),
        libraries=("-lm",),
    )


@functools.cache
def _load(path: str) -> ctypes.CDLL:
    library = ctypes.CDLL(path)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    if library.sim_interface() != INTERFACE:
        raise InternalError(f"the simulator library {path} has interface {library.sim_interface()}, not {INTERFACE}")
    return library


def load_library(*, cc: str | None = None, progress: Progress | None = None) -> ctypes.CDLL:
    """The C core's functions, built first if need be; arguments as `build_library`.

    Raises:
        ToolchainError: it could not be built.
    """
    return _load(str(build_library(cc=cc, progress=progress)))
