"""The C math runtime: accuracy, special cases, and the same bits from every compiler and every set of options."""

from __future__ import annotations

import functools
import importlib.util
import math
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tilegrad.errors import ShapeError
from tilegrad.interpreter.philox import philox

HEADER = Path(__file__).parents[2] / "src" / "tilegrad" / "codegen" / "runtime" / "tilegrad_math.h"
X86 = platform.machine().lower() in ("x86_64", "amd64")
NAN, INF = math.nan, math.inf
MAX, MIN, TINY = float.fromhex("0x1.fffffep127"), 2.0**-126, 2.0**-149

Words = NDArray[np.uint32]
Floats = NDArray[np.float32]

UNARY: dict[str, Callable[[NDArray[np.float64]], Any]] = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "erf": lambda x: np.array([math.erf(value) for value in x]),
    "sin": np.sin,
    "cos": np.cos,
    "sqrt": np.sqrt,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "round_even": np.rint,
}
SHARED_OPTIONS = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow", "-Wpedantic")
PROJECT_OPTIONS = ("-ffp-contract=off", "-fno-math-errno")


# ---- Building and running -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compiler:
    name: str
    command: tuple[str, ...]
    native: tuple[str, ...]
    baseline: tuple[str, ...]
    checked: tuple[str, ...]  # traps on undefined behaviour, without a run-time library


def _compilers() -> list[Compiler]:
    found = []
    if importlib.util.find_spec("ziglang") is not None:
        command = (sys.executable, "-m", "ziglang", "cc")
        found.append(Compiler("zig", command, (), ("-mcpu=baseline",), ("-fsanitize-trap=undefined",)))
    for name in ("gcc", "clang"):
        path = shutil.which(name)
        if path is not None:
            found.append(Compiler(name, (path,), ("-march=native",) if X86 else (), (), ()))
    return found


COMPILERS = _compilers()
pytestmark = pytest.mark.skipif(not COMPILERS, reason="no C compiler")


@dataclass(frozen=True)
class Build:
    """One way to compile the header; `guarded` false removes its pragmas, and leaves it to its own arithmetic."""

    compiler: Compiler
    title: str
    options: tuple[str, ...]
    guarded: bool = True

    def __str__(self) -> str:
        return f"{self.compiler.name}-{self.title}"


def _builds() -> list[Build]:
    builds = []
    for compiler in COMPILERS:
        contract = ("-O2", "-ffp-contract=fast", *compiler.native)
        builds += [
            Build(compiler, "O3", ("-O3", *PROJECT_OPTIONS, *compiler.native)),
            Build(compiler, "O0", ("-O0", *PROJECT_OPTIONS, *compiler.native, *compiler.checked)),
            Build(compiler, "user-contract-fast", contract),
            Build(compiler, "no-pragma-contract-fast", contract, guarded=False),
            Build(compiler, "library-fmaf", ("-O2", *PROJECT_OPTIONS, *compiler.baseline)),
        ]
    return builds


BUILDS = _builds()

_LOOP = "  for (size_t i = 0; i < n; ++i) {{ out[i] = {expression}; }}\n  put(out, n);\n"
_BINARY = {
    "pow": "tg_bits_of(tg_pow(F(0), F(1)))",
    "fma": "tg_bits_of(tg_fma(F(0), F(1), F(2)))",
    "f32_to_i32": "(uint32_t)tg_f32_to_i32(F(0))",
    "floor_div": "(uint32_t)tg_floor_div_i32((int32_t)in[0][i], (int32_t)in[1][i])",
    "floor_mod": "(uint32_t)tg_floor_mod_i32((int32_t)in[0][i], (int32_t)in[1][i])",
    "philox": "tg_philox(in[0][i], in[1][i], in[2][i], in[3][i], in[4][i], in[5][i])",
}
_PHILOX4 = "(tg_philox4(in[0][i], in[1][i], in[2][i], in[3][i], in[4][i], in[5][i], words), words[{}])"
EXPRESSIONS = (
    {name: f"tg_bits_of(tg_{name}(F(0)))" for name in UNARY}
    | _BINARY
    | {f"philox4_{word}": _PHILOX4.format(word) for word in range(4)}
    | {"faults": "tg_arithmetic_faults()", "can_fuse": "CAN_FUSE", "is_gcc": "IS_GCC"}
)
PROPERTIES = ("faults", "can_fuse", "is_gcc")  # of a build, not functions
HARNESS = f"""#include "tilegrad_math.h"
#include <stdio.h>
#include <stdlib.h>
#define CAPACITY 400000u
#if defined(__FMA__) || defined(__aarch64__)
#define CAN_FUSE 1u
#else
#define CAN_FUSE 0u
#endif
#if defined(__clang__)
#define IS_GCC 0u
#else
#define IS_GCC 1u
#endif
#define F(k) tg_from_bits(in[k][i])
static uint32_t in[6][CAPACITY];
static uint32_t out[CAPACITY];
static FILE *file;
static void put(const uint32_t *data, size_t n) {{
  if (fwrite(data, 4, n, file) != n) {{ exit(3); }}
}}
int main(int argc, char **argv) {{
  uint32_t words[4];
  const size_t n = (size_t)strtoul(argv[1], NULL, 10);
  if (argc < 4 || n > CAPACITY) {{ return 2; }}
  file = fopen(argv[2], "rb");
  for (int k = 0; k < 6; ++k) {{
    if (file == NULL || fread(in[k], 4, n, file) != n) {{ return 2; }}
  }}
  fclose(file);
  file = fopen(argv[3], "wb");
  if (file == NULL) {{ return 2; }}
#if defined(__x86_64__)
  if (argc > 4) {{ __builtin_ia32_ldmxcsr((unsigned)strtoul(argv[4], NULL, 16)); }}
#endif
{"".join(_LOOP.format(expression=expression) for expression in EXPRESSIONS.values())}
  return fclose(file) == 0 ? 0 : 3;
}}
"""


def _compile(build: Build, folder: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    header = HEADER.read_text()
    if not build.guarded:
        header, removed = re.subn(r"^#pragma (STDC|GCC) .*$", "", header, flags=re.MULTILINE)
        assert removed == 2
    (folder / "tilegrad_math.h").write_text(header)
    (folder / "main.c").write_text(HARNESS)
    command = [*build.compiler.command, *SHARED_OPTIONS, *build.options, *extra, "main.c", "-o", "main", "-lm"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@functools.cache
def _program(build: Build) -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    folder = tempfile.TemporaryDirectory(prefix="tilegrad-math-")
    result = _compile(build, Path(folder.name))
    assert result.returncode == 0, result.stderr
    return Path(folder.name), folder


def run(build: Build, *arguments: Any, control: str | None = None) -> dict[str, Words]:
    """Every function over the argument words (floats are taken by their bits); missing ones are 0.

    `control` is the x86 floating-point control word to run under.
    """
    folder, _ = _program(build)
    words = [np.asarray(argument).view(np.uint32) for argument in arguments]
    n = len(words[0])
    words += [np.zeros(n, np.uint32)] * (6 - len(words))
    np.concatenate(words).tofile(folder / "in.bin")
    command = [str(folder / "main"), str(n), "in.bin", "out.bin", *([] if control is None else [control])]
    subprocess.run(command, cwd=folder, check=True)
    return dict(zip(EXPRESSIONS, np.fromfile(folder / "out.bin", np.uint32).reshape(-1, n), strict=True))


def one_nan(words: Words) -> Words:
    """The words of floats with every NaN made the same."""
    return np.where(np.isnan(words.view(np.float32)), np.uint32(0x7FC00000), words).astype(np.uint32)


# ---- Samples --------------------------------------------------------------------------------------------------------


def _floats(*values: float) -> Floats:
    return np.array(values, np.float32)


@functools.cache
def sample() -> Words:
    """A stride through all bit patterns, and the neighbourhoods of every point where a formula changes."""
    stride = np.arange(0, 2**32, 14_503, dtype=np.uint64).astype(np.uint32)
    points = _floats(
        0, TINY, MIN, 2**-25, 2**-12, 0.34657, 0.5, 2 / 3, 0.70711, 0.75, 1, 4 / 3, math.sqrt(2), 1.5, 2, 3.9192, 4,
        9.0109, 9.1, 16.6356, 17.3287, 18, 87.3365, 88.7228, 89, 103.9721, 104, 1e5, 2**22, 2**23, 2**24, 2**31, MAX,
        math.pi / 4, math.pi / 2, math.pi, 33 * math.pi, 31415.926, 1e5 * math.pi,
    ).view(np.uint32)  # fmt: skip
    near = (points[:, None] + np.arange(-64, 65, dtype=np.int64)).astype(np.uint32).reshape(-1)
    return np.concatenate([stride, near, near | np.uint32(0x80000000)])


@functools.cache
def exponents() -> Words:
    """For each of `sample()` an exponent for pow: any float, one that keeps the result in range, or a small integer."""
    bits = sample()
    rng = np.random.default_rng(20110)
    anything = rng.integers(0, 2**32, bits.size, dtype=np.uint32)
    with np.errstate(all="ignore"):
        scale = np.log2(np.abs(bits.view(np.float32).astype(np.float64)))
        in_range = (rng.uniform(-151, 130, bits.size) / scale).astype(np.float32).view(np.uint32)
    integral = rng.integers(-9, 10, bits.size).astype(np.float32).view(np.uint32)
    return np.choose(np.arange(bits.size) % 4, [anything, in_range, integral, in_range]).astype(np.uint32)


@functools.cache
def counters() -> tuple[Words, ...]:
    rng = np.random.default_rng(2011)
    return tuple(rng.integers(0, 2**32, sample().size, dtype=np.uint32) for _ in range(4))


def outputs(build: Build) -> dict[str, Words]:
    return run(build, sample(), exponents(), *counters())


@functools.cache
def reference() -> dict[str, Words]:
    return outputs(BUILDS[0])


# ---- Accuracy -------------------------------------------------------------------------------------------------------


def documented_errors() -> dict[str, float]:
    """The table in the header's first comment."""
    rows = re.findall(r"^ \*   tg_(\w+) +(\d\.\d+) ", HEADER.read_text(), flags=re.MULTILINE)
    return {name: float(ulp) for name, ulp in rows}


def errors_in_ulp(got: Floats, want: NDArray[np.float64]) -> NDArray[np.float64]:
    """|got - want| in units in the last place of `want`; infinite for a wrong NaN, infinity or sign of zero."""
    overflow = float.fromhex("0x1.ffffffp127")  # from here on a result rounds to infinity
    with np.errstate(all="ignore"):
        exponent = np.maximum(np.frexp(want)[1] - 1, -126)
        error = np.abs(got.astype(np.float64) - want) / np.ldexp(1.0, exponent - 23)
    error = np.where(np.isinf(got), np.where((np.abs(want) >= overflow) & (got * want > 0), 0.0, np.inf), error)
    error = np.where((got == 0) & (np.signbit(got) != np.signbit(want)), np.inf, error)
    return np.where(np.isnan(want), np.where(np.isnan(got), 0.0, np.inf), np.where(np.isnan(got), np.inf, error))


def test_every_function_documents_its_error_and_keeps_the_promise() -> None:
    documented = documented_errors()
    assert set(documented) == {*UNARY, "pow"}
    promised = dict.fromkeys(documented, 1.5) | {"pow": 2.0, "sqrt": 0.5}
    promised |= dict.fromkeys(("floor", "ceil", "trunc", "round_even"), 0.0)
    assert {name: ulp for name, ulp in documented.items() if ulp > promised[name]} == {}


@pytest.mark.parametrize("name", UNARY)
def test_error_stays_below_the_documented_one(name: str) -> None:
    x = sample().view(np.float32)
    with np.errstate(all="ignore"):
        error = errors_in_ulp(reference()[name].view(np.float32), UNARY[name](x.astype(np.float64)))
    worst = int(np.argmax(error))
    assert error[worst] <= documented_errors()[name], f"{name}({float(x[worst]).hex()}): {error[worst]} ulp"


def test_pow_error_stays_below_the_documented_one() -> None:
    x, y = sample().view(np.float32), exponents().view(np.float32)
    with np.errstate(all="ignore"):
        want = np.power(x.astype(np.float64), y.astype(np.float64))
    error = errors_in_ulp(reference()["pow"].view(np.float32), want)
    worst = int(np.argmax(error))
    assert error[worst] <= documented_errors()["pow"], f"pow({x[worst]}, {y[worst]}): {error[worst]} ulp"


def test_the_error_measure_can_fail() -> None:
    want = np.array([1.0, 1.0, 0.0, NAN, 1.0, INF, 2.0**129, 3 * TINY])
    got = _floats(1 + 2**-23, 1 - 2**-24, -0.0, 1.0, NAN, MAX, INF, 5 * TINY)
    assert errors_in_ulp(got, want).tolist() == [1.0, 0.5, INF, INF, INF, INF, 0.0, 2.0]


# ---- Special cases --------------------------------------------------------------------------------------------------

SPECIAL_RESULTS = {
    "exp": [(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (NAN, NAN), (MAX, INF), (-MAX, 0.0), (-104.0, 0.0),
            (TINY, 1.0), (-103.97208, 2.0**-149)],
    "expm1": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -1.0), (NAN, NAN), (MAX, INF), (-MAX, -1.0), (TINY, TINY),
              (-TINY, -TINY), (MIN, MIN)],
    "log": [(1.0, 0.0), (0.0, -INF), (-0.0, -INF), (-1.0, NAN), (-TINY, NAN), (-INF, NAN), (INF, INF), (NAN, NAN)],
    "log1p": [(0.0, 0.0), (-0.0, -0.0), (-1.0, -INF), (-1.0000001, NAN), (-INF, NAN), (INF, INF), (NAN, NAN),
              (TINY, TINY), (-TINY, -TINY)],
    "tanh": [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (NAN, NAN), (TINY, TINY), (-TINY, -TINY), (MAX, 1.0)],
    "erf": [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (NAN, NAN), (MAX, 1.0), (-4.5, -1.0)],
    "sin": [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN), (NAN, NAN), (TINY, TINY), (-TINY, -TINY)],
    "cos": [(0.0, 1.0), (-0.0, 1.0), (INF, NAN), (-INF, NAN), (NAN, NAN), (TINY, 1.0)],
    "sqrt": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-1.0, NAN), (NAN, NAN), (4.0, 2.0)],
    "floor": [(-0.0, -0.0), (0.5, 0.0), (-0.5, -1.0), (-INF, -INF), (NAN, NAN), (-MAX, -MAX)],
    "ceil": [(-0.0, -0.0), (-0.5, -0.0), (0.5, 1.0), (INF, INF), (NAN, NAN), (MAX, MAX)],
    "trunc": [(-0.0, -0.0), (-0.5, -0.0), (1.75, 1.0), (-1.75, -1.0), (INF, INF), (NAN, NAN)],
    "round_even": [(-0.0, -0.0), (-0.5, -0.0), (0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-2.5, -2.0), (8388607.5, 8388608.0),
                   (INF, INF), (NAN, NAN)],
}  # fmt: skip


@pytest.mark.parametrize("name", SPECIAL_RESULTS)
def test_special_arguments(name: str) -> None:
    arguments, results = zip(*SPECIAL_RESULTS[name], strict=True)
    got = run(BUILDS[0], _floats(*arguments))[name]
    assert one_nan(got).tolist() == one_nan(_floats(*results).view(np.uint32)).tolist()


POW_RESULTS = [  # C11, F.10.4.4
    *[(x, y, 1.0) for x in (0.0, -0.0, 2.0, -3.0, INF, -INF, NAN, TINY) for y in (0.0, -0.0)],
    *[(1.0, y, 1.0) for y in (NAN, INF, -INF, 0.5, -MAX)],
    (-1.0, INF, 1.0), (-1.0, -INF, 1.0), (-1.0, 3.0, -1.0), (-1.0, 4.0, 1.0), (-1.0, 16777217.0, 1.0), (-1.0, MAX, 1.0),
    (0.0, -3.0, INF), (-0.0, -3.0, -INF), (0.0, -2.0, INF), (-0.0, -2.0, INF), (-0.0, -0.5, INF), (0.0, -INF, INF),
    (0.0, 3.0, 0.0), (-0.0, 3.0, -0.0), (-0.0, 2.0, 0.0), (-0.0, 0.5, 0.0), (-0.0, INF, 0.0), (-0.0, -INF, INF),
    (-2.0, 0.5, NAN), (-TINY, 1.5, NAN), (-MAX, -0.25, NAN), (NAN, 1.0, NAN), (2.0, NAN, NAN), (-INF, NAN, NAN),
    (0.5, -INF, INF), (-0.5, -INF, INF), (2.0, -INF, 0.0), (-2.0, -INF, 0.0),
    (0.5, INF, 0.0), (-0.5, INF, 0.0), (2.0, INF, INF), (-2.0, INF, INF),
    (-INF, -3.0, -0.0), (-INF, -2.0, 0.0), (-INF, -0.5, 0.0), (-INF, 3.0, -INF), (-INF, 2.0, INF), (-INF, 0.5, INF),
    (INF, -0.5, 0.0), (INF, TINY, INF), (INF, -INF, 0.0), (INF, INF, INF), (-INF, INF, INF), (-INF, -INF, 0.0),
    (-2.0, 3.0, -8.0), (-2.0, -3.0, -0.125), (2.0, 128.0, INF), (-2.0, 129.0, -INF), (2.0, -149.0, TINY),
    (-2.0, -149.0, -TINY), (2.0, -151.0, 0.0), (-2.0, -151.0, -0.0), (TINY, 1.0, TINY), (MAX, 1.0, MAX),
    (MAX, MAX, INF), (MAX, -MAX, 0.0), (TINY, MAX, 0.0), (TINY, -MAX, INF), (TINY, 2.0, 0.0), (9.0, 0.5, 3.0),
    (3.0, 2.0, 9.0),
]  # fmt: skip


def test_special_arguments_of_pow() -> None:
    x, y, results = zip(*POW_RESULTS, strict=True)
    got = one_nan(run(BUILDS[0], _floats(*x), _floats(*y))["pow"])
    want = one_nan(_floats(*results).view(np.uint32))
    wrong = np.flatnonzero(got != want)
    assert [(POW_RESULTS[index], float(got.view(np.float32)[index])) for index in wrong] == []


def test_float_to_int_truncates_and_clamps() -> None:
    with np.errstate(invalid="ignore"):  # signalling NaN
        x = sample().view(np.float32).astype(np.float64)
    want = np.clip(np.trunc(np.nan_to_num(x, nan=0.0)), -(2**31), 2**31 - 1).astype(np.int32)
    assert np.array_equal(reference()["f32_to_i32"].view(np.int32), want)


def test_integer_division_rounds_down() -> None:
    values = np.array([-(2**31), -(2**31) + 1, -7, -6, -2, -1, 0, 1, 2, 3, 6, 7, 2**31 - 1], np.int32)
    a, b = (grid.reshape(-1).astype(np.int32) for grid in np.meshgrid(values, values))
    got = run(BUILDS[0], a, b)
    quotients, remainders = got["floor_div"].view(np.int32), got["floor_mod"].view(np.int32)
    for x, y, quotient, remainder in zip(a.tolist(), b.tolist(), quotients.tolist(), remainders.tolist(), strict=True):
        expected = (0, 0) if y == 0 else divmod(x, y)
        wrapped = -(2**31) if expected[0] == 2**31 else expected[0]
        assert (quotient, remainder) == (wrapped, expected[1]), (x, y)


# ---- The same bits everywhere ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDS[1:], ids=str)
def test_every_build_gives_the_same_bits(build: Build) -> None:
    got = outputs(build)
    different = {}
    for name in EXPRESSIONS:
        if name in PROPERTIES:
            continue
        is_float = name in UNARY or name in ("pow", "fma")
        mine, theirs = (one_nan(w[name]) if is_float else w[name] for w in (got, reference()))
        different[name] = int(np.count_nonzero(mine != theirs))
    assert {name: count for name, count in different.items() if count} == {}


@pytest.mark.parametrize("build", BUILDS, ids=str)
def test_fma_rounds_once(build: Build) -> None:
    # a * b is 1 - 2^-46 and c is odd in the last place: the sum lies just below a tie, which a double cannot tell
    up, down = np.arange(-40, 41), np.arange(40, -41, -1)
    a = np.ldexp(np.float32(1 + 2**-23), up).astype(np.float32)
    b = np.ldexp(np.float32(1 - 2**-23), down).astype(np.float32)
    c = np.full(a.shape, 2**24 + 2, np.float32)
    through_double = (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(np.float32)
    assert np.all(through_double == 2**24 + 4), "the triple does not tell the two apart"
    assert run(build, a, b, c)["fma"].view(np.float32).tolist() == c.tolist()


@pytest.mark.parametrize("compiler", COMPILERS, ids=lambda compiler: compiler.name)
@pytest.mark.parametrize("option", ["-ffast-math", "-ffinite-math-only"])
def test_fast_math_is_refused(compiler: Compiler, option: str, tmp_path: Path) -> None:
    result = _compile(Build(compiler, "fast", ("-O2",)), tmp_path, option)
    assert result.returncode != 0
    assert "fast-math options change the results" in result.stderr


CROSS_TARGETS = {
    "riscv32": (("-target", "riscv32-freestanding", "-mcpu=generic_rv32+m+f+c"), "fmadd.s", r"\b(?:call|tail)\s+(\w+)"),
    "arm": (("-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m4+vfp4d16sp"), "vfma.f32", r"\bblx?\s+(\w+)"),
}


@pytest.mark.skipif(not COMPILERS or COMPILERS[0].name != "zig", reason="needs zig, which compiles for every target")
@pytest.mark.parametrize("target", CROSS_TARGETS)
@pytest.mark.parametrize("level", ["-Os", "-O3"])
def test_microcontrollers_need_no_library(target: str, level: str, tmp_path: Path) -> None:
    options, instruction, call = CROSS_TARGETS[target]
    functions = "".join(
        f"uint32_t use_{name}(uint32_t (*in)[1]);\n"
        f"uint32_t use_{name}(uint32_t (*in)[1]) {{ const int i = 0; uint32_t words[4]; (void)words;"
        f" return {expression}; }}\n"
        for name, expression in EXPRESSIONS.items()
        if name not in PROPERTIES
    )
    source = tmp_path / "use.c"
    source.write_text(f'#include "{HEADER}"\n#define F(k) tg_from_bits(in[k][i])\n{functions}')
    command = [*COMPILERS[0].command, *options, level, *PROJECT_OPTIONS, "-fno-sanitize=all", "-S", "use.c"]
    result = subprocess.run([*command, "-o", "use.s"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assembly = (tmp_path / "use.s").read_text(errors="replace")
    assert instruction in assembly
    called = {name for name in re.findall(call, assembly) if not name.startswith(("tg_", "use_"))}
    assert called == set()


# ---- The check of the arithmetic ------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [build for build in BUILDS if build.title in ("O0", "O3", "library-fmaf")], ids=str)
def test_a_proper_build_has_no_arithmetic_faults(build: Build) -> None:
    assert run(build, _floats(1.0))["faults"].tolist() == [0]


@pytest.mark.parametrize("build", [build for build in BUILDS if not build.guarded], ids=str)
def test_contraction_is_noticed(build: Build) -> None:
    got = run(build, _floats(1.0))
    assert got["faults"].tolist() == got["can_fuse"].tolist()


@pytest.mark.parametrize("build", [build for build in BUILDS if build.title == "user-contract-fast"], ids=str)
def test_gcc_is_kept_from_contracting_and_clang_is_caught(build: Build) -> None:
    # told to contract, Clang may disregard the pragma
    got = run(build, _floats(1.0))
    assert got["faults"].tolist() == [0] or (got["is_gcc"].tolist(), got["faults"].tolist()) == ([0], [1])


@pytest.mark.skipif(not X86, reason="sets the x86 control word")
@pytest.mark.parametrize(
    ("control", "fault"), [("1f80", 0), ("9f80", 4), ("1fc0", 4), ("3f80", 8), ("5f80", 8), ("7f80", 8)]
)
def test_flushed_subnormals_and_rounding_modes_are_noticed(control: str, fault: int) -> None:
    assert run(BUILDS[0], _floats(1.0), control=control)["faults"].tolist() == [fault]


# ---- Random numbers -------------------------------------------------------------------------------------------------

PHILOX_VECTORS = [  # known answers published with the Random123 library: counter, key, result
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def _hex_words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def test_philox_known_answers() -> None:
    arguments = np.array([_hex_words(counter + " " + key) for counter, key, _ in PHILOX_VECTORS], np.uint32).T
    got = run(BUILDS[0], *[np.ascontiguousarray(row) for row in arguments])
    for index, (_, _, result) in enumerate(PHILOX_VECTORS):
        assert [int(got[f"philox4_{word}"][index]) for word in range(4)] == _hex_words(result)
        assert int(got["philox"][index]) == _hex_words(result)[0]
    assert philox(*arguments).tolist() == [_hex_words(result)[0] for *_, result in PHILOX_VECTORS]


def test_philox_in_numpy_equals_the_c() -> None:
    twin = philox(sample(), exponents(), *counters())
    assert twin.dtype == np.uint32
    assert np.array_equal(twin, reference()["philox"])


def test_philox_in_numpy_broadcasts() -> None:
    c0 = np.arange(6, dtype=np.uint32).reshape(3, 1, 2)
    c1 = np.arange(4, dtype=np.uint32).reshape(4, 1)
    got = philox(c0, c1, 0, 0, 7, 9)
    assert got.shape == (3, 4, 2)
    assert int(got[2, 3, 1]) == int(philox(5, 3, 0, 0, 7, 9))
    assert philox(np.zeros(0, np.uint32), 0, 0, 0, 0, 0).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.5, 0, 0, 0, 0, 0), "c0 has dtype float64"),
        ((0, -1, 0, 0, 0, 0), "c1 has elements outside"),
        ((0, 0, 0, 0, 0, 2**32), "k1 has elements outside"),
        ((np.zeros(2, np.uint32), np.zeros(3, np.uint32), 0, 0, 0, 0), "do not broadcast"),
    ],
)
def test_philox_in_numpy_refuses_what_is_no_counter(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        philox(*arguments)
