"""Operations under drawn loop structures and tiles, called core by core, beside their plain form: equal in bits."""

from __future__ import annotations

import ctypes
import itertools
import math
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.compiled import same_bits

from tilegrad.codegen.c_expr import CScope, Place
from tilegrad.codegen.loops import Chain, Range, Writer, write_op
from tilegrad.ir.graph import Nest, StructuredOp, Value
from tilegrad.planning.mapping import Mapping, plain_mapping, tile_allowed

Array = NDArray[Any]
CORES = 3

TEAM = f"""
#include <pthread.h>
static _Thread_local int test_core;
static pthread_barrier_t test_barrier;
#define TG_CORES {CORES}
#define TG_CORE test_core
static inline void tg_barrier(void)
{{
    pthread_barrier_wait(&test_barrier);
}}
"""


@dataclass
class Variant:
    """One way to compute an operation.

    Attributes:
        mappings: for every nest.
        steps: for every nest, elements per tile of the iterators that tiles cut.
        even: whether the code knows the size of tiles where that is the same for all of them or all but the last.
        padded: whether operands and outputs lie with gaps between their rows, away from the pointer.
    """

    mappings: tuple[Mapping, ...]
    steps: dict[int, int]
    even: bool
    padded: bool


def draw_mapping(nest: Nest, rng: np.random.Generator) -> Mapping:
    """Any loop structure that is allowed."""
    parallel = [int(k) for k in rng.permutation(nest.parallel)]
    order = (*parallel, *range(nest.parallel, len(nest.extents)))
    if nest.scatter:
        return plain_mapping(nest, CORES)
    tile: list[tuple[int, int]] = []
    for k in rng.permutation(nest.parallel):
        if nest.extents[k] > 1 and tile_allowed(nest, [int(k), *(j for j, _ in tile)]) and rng.random() < 0.7:
            tile.append((int(k), int(rng.integers(1, min(nest.extents[k], 5) + 1))))
    guarded = {i for guard in nest.guards for i in guard.index.iterators()}
    if nest.results[0].combiner == "assign":
        tile = [(k, size) for k, size in tile if k not in guarded]
    unroll: list[tuple[int, int]] = []
    for k in reversed([k for k in range(nest.parallel, len(nest.extents)) if nest.extents[k] > 1]):
        steps = int(rng.integers(1, min(nest.extents[k], 6) + 1))
        unroll.insert(0, (k, steps))
        if steps < nest.extents[k] or k in guarded:
            break
    loops = sum(1 for k in range(nest.parallel) if nest.extents[k] > 1)
    divided = int(rng.integers(0, loops + 1))
    return Mapping(
        order, tile=tuple(tile[:3]), unroll=tuple(unroll), hoist=bool(rng.random() < 0.8), team=True, divided=divided,
        cyclic=bool(rng.random() < 0.3),
    )  # fmt: skip


def draw_variant(op: StructuredOp, rng: np.random.Generator) -> Variant:
    """Any loop structure, and tiles where the operation is one nest that writes all of its outputs."""
    mappings = tuple(draw_mapping(nest, rng) for nest in op.nests)
    steps: dict[int, int] = {}
    if len(op.nests) == 1 and op.init is None and not op.nests[0].scatter and rng.random() < 0.8:
        (nest,) = op.nests
        for k in range(nest.parallel):
            if nest.extents[k] > 1 and rng.random() < 0.6:
                steps[k] = int(rng.integers(1, nest.extents[k] + 1))
        reductions = [k for k in range(nest.parallel, len(nest.extents)) if nest.extents[k] > 1]
        keeps = all(r.final is None or r.final.dtype is r.dtype for r in nest.results)
        if reductions and keeps and rng.random() < 0.5:
            cut = int(rng.integers(len(reductions)))
            steps |= dict.fromkeys(reductions[:cut], 1)
            steps[reductions[cut]] = int(rng.integers(1, nest.extents[reductions[cut]] + 1))
    even = bool(rng.random() < 0.4)
    if even and rng.random() < 0.5:
        steps = {k: math.gcd(step, op.nests[0].extents[k]) for k, step in steps.items()}
    return Variant(mappings, steps, even, bool(rng.random() < 0.5))


def _strides(value: Value, padded: bool) -> tuple[int, ...]:
    if not padded:
        return value.strides
    strides, step = [], 1
    for extent in reversed(value.shape):
        strides.append(step)
        step *= extent + 1
    return tuple(reversed(strides))


def _function(name: str, op: StructuredOp, variant: Variant) -> str:
    """A function of the places of all tensors, and of the bounds of the tile."""
    values = list(dict.fromkeys([*op.operands, *op.outputs]))
    lines = []
    for place, value in enumerate(values):
        constant = "" if value in op.outputs else "const "
        lines.append(f"    {constant}{value.dtype.c_type} *restrict x_{place} = data[{place}];")
    ranges: dict[int, Range] = {}
    for place, (k, step) in enumerate(sorted(variant.steps.items())):
        first = f"i{k}_first"
        lines.append(f"    const int {first} = tile[{2 * place}];")
        extent = op.nests[0].extents[k]
        if variant.even and extent % step == 0:
            ranges[k] = Range(first, f"({first} + {step})", step, step)
        else:
            lines.append(f"    const int i{k}_last = tile[{2 * place + 1}];")
            ranges[k] = Range(first, f"i{k}_last", None, step, extent % step or None if variant.even else None)
    chain = None
    if variant.steps and max(variant.steps) >= op.nests[0].parallel:
        chain = Chain()
        lines.append("    const int tg_start = ends[0], tg_end = ends[1];")
    origin = "(-7)" if variant.padded else ""
    places = {v: Place(f"x_{n}", _strides(v, variant.padded), origin) for n, v in enumerate(values)}
    writer = Writer()
    write_op(op, variant.mappings, CScope(places), writer, [ranges] * len(op.nests), chain)
    # Parameters of a kernel may be idle; what the body declares itself may not.
    names = [line.split("=")[0].split()[-1].lstrip("*") for line in lines if "tg_start" not in line]
    idle = "".join(f" (void){given};" for given in ["tile", "ends", "data", *names])
    head = f"void {name}(void **data, const int *tile, const int *ends, int core)"
    return "\n".join([f"{head};", head, "{", *lines, f"   {idle}", "    test_core = core;", *writer.lines, "}", ""])


class Library:
    """Compiled variants of operations.

    Args:
        ops: the operations.
        variants: for each, the ways to compute it beside the plain one.
        folder: where to build.
        compiler: the C compiler.
    """

    def __init__(
        self, ops: Sequence[StructuredOp], variants: Sequence[Sequence[Variant]], folder: Path, compiler: Sequence[str]
    ) -> None:
        self.ops, self.variants = ops, variants
        text = '#define TILEGRAD_TEAM_HEADER "team.h"\n#include "tilegrad_support.h"\n'
        text += f"void start(void);\nvoid start(void)\n{{ pthread_barrier_init(&test_barrier, 0, {CORES}); }}\n"
        for n, op in enumerate(ops):
            plain = Variant(tuple(plain_mapping(nest) for nest in op.nests), {}, False, False)
            text += _function(f"plain_{n}", op, plain)
            for m, variant in enumerate(variants[n]):
                text += _function(f"variant_{n}_{m}", op, variant)
        (folder / "team.h").write_text(TEAM)
        (folder / "kernels.c").write_text(text)
        runtime = resources.files("tilegrad.codegen") / "runtime"
        for name in ("tilegrad_math.h", "tilegrad_support.h"):
            (folder / name).write_text((runtime / name).read_text(encoding="utf-8"))
        options = "-std=c11 -D_POSIX_C_SOURCE=200112L -O1 -ffp-contract=off -fno-math-errno -march=native -Wall -Wextra"
        build = "-Werror -pthread -shared -fPIC -o kernels.so kernels.c -lm"
        command = [*compiler, *options.split(), *build.split()]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:6000]
        self.library = ctypes.CDLL(str(folder / "kernels.so"))
        self.library.start()

    def check(self, n: int, feeds: dict[Value, Array]) -> None:
        """Compare all variants of an operation with its plain form."""
        op = self.ops[n]
        values = list(dict.fromkeys([*op.operands, *op.outputs]))
        expected = {v: feeds[v].copy() if v in feeds else _poison(v) for v in values}
        self._call(f"plain_{n}", [expected[v] for v in values], [], [1, 1])
        for m, variant in enumerate(self.variants[n]):
            found = {v: _laid(feeds[v] if v in feeds else _poison(v), v, variant.padded) for v in values}
            pointers = [found[v] for v in values]
            for tile, ends in _tiles(op, variant):
                self._call(f"variant_{n}_{m}", pointers, tile, ends, CORES)
            for output in op.outputs:
                got = _view(found[output], output, variant.padded)
                assert same_bits(expected[output], np.array(got)), (n, m, variant, op.nests)

    def _call(
        self, name: str, arrays: Sequence[Array], tile: Sequence[int], ends: Sequence[int], cores: int = 1
    ) -> None:
        """Call a function on several threads, which are its cores."""
        function = getattr(self.library, name)
        pointers = (ctypes.c_void_p * max(len(arrays), 1))(*(array.ctypes.data for array in arrays))
        bounds = (ctypes.c_int * max(len(tile), 1))(*tile)
        flags = (ctypes.c_int * 2)(*ends)
        list(_THREADS.map(lambda core: function(pointers, bounds, flags, core), range(cores)))


_THREADS = ThreadPoolExecutor(CORES)


def _poison(value: Value) -> Array:
    return np.full(value.shape, 77, value.dtype.numpy)


def _laid(array: Array, value: Value, padded: bool) -> Array:
    """The contents of a tensor as a variant expects them."""
    if not padded:
        return array.copy()
    strides = _strides(value, True)
    last = sum((extent - 1) * stride for extent, stride in zip(value.shape, strides, strict=True))
    memory = np.full(7 + max(last, 0) + 1, 99, array.dtype)
    _window(memory, value)[...] = array
    return memory


def _view(memory: Array, value: Value, padded: bool) -> Array:
    return _window(memory, value) if padded else memory


def _window(memory: Array, value: Value) -> Array:
    strides = tuple(stride * memory.itemsize for stride in _strides(value, True))
    return np.lib.stride_tricks.as_strided(memory[7:], value.shape, strides)


def _tiles(op: StructuredOp, variant: Variant) -> Iterator[tuple[list[int], list[int]]]:
    """Bounds of all tiles in an order that keeps the chains, and whether they are first and last of them."""
    if not variant.steps:
        yield [], [1, 1]
        return
    nest = op.nests[0]
    loops = sorted(variant.steps.items())
    starts = [range(0, nest.extents[k], step) for k, step in loops]
    cut = [place for place, (k, _) in enumerate(loops) if k >= nest.parallel]
    for at in itertools.product(*starts):
        tile = []
        for (k, step), first in zip(loops, at, strict=True):
            tile += [first, min(first + step, nest.extents[k])]
        begin = all(at[place] == 0 for place in cut)
        end = all(tile[2 * place + 1] == nest.extents[loops[place][0]] for place in cut)
        yield tile, [int(begin), int(end)]
