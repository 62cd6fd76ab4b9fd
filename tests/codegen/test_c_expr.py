"""Scalars as C: literals denote exactly their number, integers never overflow, selects are vectorised right."""

from __future__ import annotations

import math
import random
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.compiled import run_compiled, same_bits, write_graph

from tilegrad.codegen.c_expr import format_sum, literal, literals
from tilegrad.interpreter.execute import run
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import Domain, elementwise, lookup
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType, Kind

COMPILERS = ["zig", *(cc for cc in ("gcc", "clang") if shutil.which(cc))]
FLOATS = np.concatenate([
    np.array([0.0, -0.0, 1.0, -1.0, 0.1, 1e10, 123456789.0, math.inf, -math.inf, math.nan, 2.0**-149, -(2.0**-149),
              2.0**-126, 1.1754942e-38, 3.4028235e38, -3.4028235e38, 16777216.0, 1e-7, 33554430.0], np.float32),
    np.random.default_rng(0).integers(0, 2**32, 400, np.uint32).view(np.float32),
])  # fmt: skip


def constant(array: np.ndarray, dtype: DType) -> Value:
    return Value("c", array.shape, dtype, Kind.CONSTANT, array)


def test_literals_denote_exactly_their_number() -> None:
    """In bodies and in tables, subnormal numbers, infinities, NaN and signed zeros included."""
    graph = Graph()
    with graph.building():
        d = Domain()
        (i,) = d.parallel(len(FLOATS))
        table = d.assign(constant(FLOATS, DType.F32)[i], (i,))
        bodies = [elementwise(lambda n=n: sc.constant(n, DType.F32)) for n in FLOATS[:60].tolist()]
        whole = {
            dtype: elementwise(lambda v: v, constant(np.tile(np.array(numbers, dtype.numpy), 30000), dtype))
            for dtype, numbers in {
                DType.I32: [-(2**31), -1, 0, 2**31 - 1], DType.I64: [-(2**63), -1, 0, 2**63 - 1],
                DType.U32: [0, 2**32 - 1, 2**31, 7], DType.BOOL: [True, False, True, True],
            }.items()
        }  # fmt: skip
    stored = [v for v in bodies if not v.is_constant]
    found = run_compiled(graph, [table, *whole.values(), *stored], {}, cc=COMPILERS[-1], optimization="-O1")
    assert same_bits(found[0], FLOATS)
    for dtype, array in zip(whole, found[1:5], strict=True):
        assert array[:4].tolist() == array[-4:].tolist() and array.dtype == dtype.numpy
    assert found[2][:4].tolist() == [-(2**63), -1, 0, 2**63 - 1]
    assert found[1][:4].tolist() == [-(2**31), -1, 0, 2**31 - 1]


@pytest.mark.parametrize("dtype", [DType.I32, DType.I64, DType.U32, DType.BOOL])
def test_tables_are_written_like_single_numbers(dtype: DType) -> None:
    array = np.array([0, 1, 1, 0]).astype(dtype.numpy)
    assert literals(array, dtype) == [literal(x, dtype) for x in array.tolist()]


def test_sums_are_readable() -> None:
    assert format_sum([("i0", 1), ("i1", -2)], -3) == "i0 - 2 * i1 - 3"
    assert format_sum([("i0", -1)], 0) == "-i0"
    assert format_sum([], 0) == "0"


INTEGERS = (DType.I32, DType.I64, DType.U32)
OPERATIONS = ("add", "sub", "mul", "div", "and", "or", "xor")


def integers(dtype: DType) -> tuple[Graph, list[Value], dict[Value, np.ndarray]]:
    """Arithmetic, maxima, sums and casts at the ends of the range of an integer type."""
    limits = np.iinfo(dtype.numpy.name)
    rng = np.random.default_rng(0)
    x = Value("x", (6, 40), dtype, Kind.INPUT)
    y = Value("y", (6, 40), dtype, Kind.INPUT)
    f = Value("f", (12,), DType.F32, Kind.INPUT)
    numbers = rng.integers(limits.min, limits.max, (2, 6, 40), dtype.numpy, endpoint=True)
    numbers[:, 0, :4] = [limits.min, limits.max, limits.min + 1, limits.max - 1]
    numbers[1, 1, :3] = [0, limits.max, limits.min]
    floats = np.array(
        [0.0, -0.9, 1.9, -1.9, 2**31, -(2.0**31), 2**32, 3e9, -1e30, 1e30, math.inf, math.nan], np.float32
    )
    graph = Graph()
    with graph.building():
        d = Domain()
        (i,) = d.parallel(6)
        (r,) = d.reduction(42)
        largest, at = d.argmax(x[i, r - 1], (i,))
        d = Domain()
        (i,) = d.parallel(6)
        (r,) = d.reduction(40)
        d.require(i, 0, 5)
        top, none_at = d.argmax(x[i, r], (i,))
        d = Domain()
        (i,) = d.parallel(6)
        (r,) = d.reduction(40)
        outputs = [
            largest, at, top, none_at, d.max(x[i, r], (i,)), d.sum(x[i, r], (i,)), d.sum(x[i, r] * y[i, r], (i,)),
            *(elementwise(lambda a, b, op=op: sc.binary(op, a, b), x, y) for op in OPERATIONS),
            elementwise(lambda a: sc.cast(a, DType.F32), x),
            elementwise(lambda a: sc.cast(a, DType.BOOL), y),
            *(elementwise(lambda a, t=t: sc.cast(a, t), x) for t in INTEGERS if t is not dtype),
            elementwise(lambda a: sc.cast(a, dtype), f),
        ]  # fmt: skip
        if dtype is not DType.U32:
            outputs += [elementwise(lambda a: -a, x), elementwise(sc.absolute, x)]
    return graph, outputs, {x: numbers[0], y: numbers[1], f: floats}


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_are_exact_and_wrap(dtype: DType) -> None:
    """As the interpreter, also under a sanitizer: no maximum goes through a float, nothing overflows."""
    graph, outputs, feeds = integers(dtype)
    env = run(graph, feeds)
    with tempfile.TemporaryDirectory() as folder:
        project = write_graph(graph, outputs, Path(folder) / "project")
        found = project.run(feeds, cc="gcc" if "gcc" in COMPILERS else "zig", sanitize=True, optimization="-O1")
    for output, array in zip(outputs, found, strict=True):
        expected = env[output].astype(output.dtype.numpy)
        assert np.array_equal(array, expected), (output.name, array, expected)


def test_positions_beyond_32_bits_do_not_exist() -> None:
    """A guard judges the whole number, not its low half."""
    graph = Graph()
    x, table = Value("x", (4,), DType.F32, Kind.INPUT), Value("t", (5,), DType.I64, Kind.INPUT)
    with graph.building():
        d = Domain()
        (i,) = d.parallel(5)
        y = d.assign(x[lookup(table, i)], (i,), init=-1.0)
        d = Domain()
        (i,) = d.parallel(5)
        z = d.sum(x[2 * lookup(table, i) - lookup(table, i - 1)], (i,))
    feeds = {x: np.array([1, 2, 3, 4], np.float32), table: np.array([2**32 + 1, 3, -(2**32), 2**62, 1])}
    env = run(graph, feeds)
    assert env[y].tolist() == [-1, 4, -1, -1, 2]
    for found, output in zip(run_compiled(graph, [y, z], feeds, cc=COMPILERS[-1]), (y, z), strict=True):
        assert found.tolist() == env[output].tolist()


class Artist:
    """Draws bodies of selects over floats with many NaN, and truth values."""

    def __init__(self, seed: int, floats: Sequence[Expr], truths: Sequence[Expr]) -> None:
        self.random, self.floats, self.truths = random.Random(seed), floats, truths

    def number(self, depth: int) -> Expr:
        kind = self.random.random()
        if depth == 0 or kind < 0.15:
            special = sc.constant(self.random.choice([0.0, -0.0, 1.5, math.nan]), DType.F32)
            return special if self.random.random() < 0.15 else self.random.choice(self.floats)
        if kind < 0.6:
            return sc.select(self.truth(depth - 1), self.number(depth - 1), self.number(depth - 1))
        if kind < 0.75:
            return -self.number(depth - 1) if kind < 0.7 else sc.absolute(self.number(depth - 1))
        return sc.binary(
            self.random.choice(["add", "sub", "mul", "div"]), self.number(depth - 1), self.number(depth - 1)
        )

    def truth(self, depth: int) -> Expr:
        kind = self.random.random()
        if kind < 0.12:
            return self.random.choice(self.truths)
        if depth > 0 and kind < 0.3:
            return ~self.truth(depth - 1) if kind < 0.2 else self.truth(depth - 1) & self.truth(depth - 1)
        operator = self.random.choice(["lt", "le", "gt", "ge", "eq", "ne"])
        return sc.binary(operator, self.number(max(depth - 1, 0)), self.number(max(depth - 1, 0)))


def select_graph() -> tuple[Graph, list[Value], dict[Value, np.ndarray]]:
    """The gradient of relu in all its spellings, and drawn selects, over a few hundred elements with NaN."""
    rng = np.random.default_rng(7)
    graph, feeds, outputs = Graph(), {}, []

    def draw(name: str, shape: tuple[int, ...], dtype: DType) -> Value:
        shape = tuple(1 if rng.random() < 0.2 else extent for extent in shape)
        value = Value(name, shape, dtype, Kind.INPUT)
        data = rng.integers(-2, 3, shape)
        feeds[value] = (
            data > 0 if dtype is DType.BOOL else np.where(rng.random(shape) < 0.2, np.nan, data).astype(np.float32)
        )
        return value

    x, g = Value("x", (317,), DType.F32, Kind.INPUT), Value("g", (317,), DType.F32, Kind.INPUT)
    feeds[x] = np.where(np.arange(317) % 5 == 1, np.nan, np.arange(317) % 7 - 3.0).astype(np.float32)
    feeds[g] = rng.normal(size=317).astype(np.float32)
    with graph.building():
        for operator in ("lt", "le", "gt", "ge", "eq", "ne"):
            outputs += [
                elementwise(lambda a, b, op=operator: sc.select(sc.binary(op, a, 0.0), 0.0, b), x, g),
                elementwise(lambda a, b, op=operator: sc.select(sc.binary(op, a, 0.0), b, 0.0), x, g),
                elementwise(lambda a, b, op=operator: sc.select(~sc.binary(op, a, 0.0), b * 2.0, b), x, g),
            ]
        for k in range(24):
            shape = [(317,), (5, 37), (3, 4, 16), (2, 100)][k % 4]
            operands = [draw(f"{name}{k}", shape, DType.F32) for name in "abc"] + [draw(f"p{k}", shape, DType.BOOL)]
            if k % 3:
                outputs.append(elementwise(lambda a, b, c, p, k=k: Artist(k, [a, b, c], [p]).number(4), *operands))
                continue
            d = Domain()
            outer, inner = d.parallel(*shape[:-1]), d.reduction(shape[-1])
            index = (*outer, *inner)
            reads = [v[tuple(0 if n == 1 else row for n, row in zip(v.shape, index, strict=True))] for v in operands]
            outputs += d.argmax(Artist(k, reads[:3], reads[3:]).number(3), outer)
    return graph, [output for output in outputs if not output.is_constant], feeds


@pytest.mark.parametrize("cc", COMPILERS)
def test_selects_on_nan_under_full_optimisation(cc: str) -> None:
    """GCC 12 has turned conditional reads into masked ones whose mask was wrong for NaN."""
    graph, outputs, feeds = select_graph()
    env = run(graph, feeds)
    for output, found in zip(outputs, run_compiled(graph, outputs, feeds, cc=cc, optimization="-O3"), strict=True):
        assert same_bits(found, env[output].astype(output.dtype.numpy)), output.name


def test_helpers_of_the_support_header_need_no_library(tmp_path: Path) -> None:
    from importlib import resources

    runtime = resources.files("tilegrad.codegen") / "runtime"
    for name in ("tilegrad_math.h", "tilegrad_support.h"):
        (tmp_path / name).write_text((runtime / name).read_text())
    source = tmp_path / "a.c"
    source.write_text(
        '#include "tilegrad_support.h"\n#include <stdio.h>\nint main(void) {\n'
        '    for (int a = -9; a <= 9; ++a) for (int b = 1; b <= 4; ++b) printf("%d ", tg_ceil_div(a, b));\n'
        "    const long long low = tg_f32_to_i64(-1e30f), high = tg_f32_to_i64(3e18f);\n"
        '    printf("%lld %u %lld %u\\n", low, tg_f32_to_u32(-3.0f), high, tg_f32_to_u32(4e9f));\n}\n'
    )
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs gcc or clang")
    subprocess.run(
        [compiler, "-Wall", "-Wextra", "-Werror", "-pedantic", str(source), "-o", str(tmp_path / "a"), "-lm"],
        check=True,
    )
    words = subprocess.run([str(tmp_path / "a")], check=True, capture_output=True, text=True).stdout.split()
    assert [int(w) for w in words[:-4]] == [-(-a // b) for a in range(-9, 10) for b in range(1, 5)]
    assert words[-4:] == [str(-(2**63)), "0", str(int(np.float32(3e18))), "4000000000"]
