"""Simulated cycles of single kernels on the Siracusa cluster, all operands in L1: convolutions and the rest.

    python benchmarks/cluster_kernels.py [--kernel conv1] [--cores 8] [--tile 0:4,2:4 --unroll 4:4] [--hot]

Prints for every kernel its cycles, those that the planner expects, the loop structure, multiply-adds per cycle and the
part of the bound of the float units. `--tile` and `--unroll` try other structures; `--hot` shows where cycles go.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np

from tilegrad.codegen.c_expr import CScope, Place
from tilegrad.codegen.loops import Writer, write_op
from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import Domain
from tilegrad.ir.expr import Expr, accumulator
from tilegrad.ir.graph import Graph, StructuredOp, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.planning.mapping import Mapping, choose_mapping, nest_cycles
from tilegrad.targets import get_target
from tilegrad.targets.base import Target


def tensor(name: str, *shape: int, dtype: DType = DType.F32) -> Value:
    """An operand."""
    return Value(name, shape, dtype, Kind.PARAMETER)


def forward(k: int, c: int, h: int, w: int, taps: int, pad: int) -> None:
    """A convolution of c channels of h rows to k channels of w columns, its bias in the epilogue."""
    x, weight = tensor("x_in", c, h, w + taps - 1 - 2 * pad), tensor("w_in", k, c, taps)
    bias = tensor("b_in", k)
    d = Domain()
    o, i, j = d.parallel(k, h, w)
    q, r = d.reduction(c, taps)
    d.sum(x[q, i, j + r - pad] * weight[o, q, r], (o, i, j))
    epilogue(lambda acc: acc + bias[Affine.iterator(0)])


def forward_rows(k: int, c: int, h: int, w: int, taps: int) -> None:
    """A convolution with a kernel of `taps` rows, without padding."""
    x, weight = tensor("x_in", c, h + taps - 1, w), tensor("w_in", k, c, taps)
    bias = tensor("b_in", k)
    d = Domain()
    o, i, j = d.parallel(k, h, w)
    q, r = d.reduction(c, taps)
    d.sum(x[q, i + r, j] * weight[o, q, r], (o, i, j))
    epilogue(lambda acc: acc + bias[Affine.iterator(0)])


def epilogue(final: Callable[[Expr], Expr]) -> None:
    """Give the operation made last a final expression."""
    from tilegrad.ir.graph import current_graph

    op = current_graph().ops[-1]
    assert isinstance(op, StructuredOp)
    (nest,) = op.nests
    (result,) = nest.results
    changed = dataclasses.replace(result, final=final(accumulator(DType.F32)))
    op.nests = (dataclasses.replace(nest, results=(changed,)),)


def weights(k: int, c: int, h: int, w: int, taps: int, pad: int) -> None:
    """The gradient of the kernel of `forward`."""
    x, dy = tensor("x_in", c, h, w + taps - 1 - 2 * pad), tensor("dy_in", k, h, w)
    d = Domain()
    o, q, r = d.parallel(k, c, taps)
    i, j = d.reduction(h, w)
    d.sum(dy[o, i, j] * x[q, i, j + r - pad], (o, q, r))


def weights_partial(k: int, h: int, w: int, taps: int, pad: int) -> None:
    """The gradient of the kernel of a convolution of one channel, one sum per row."""
    x, dy = tensor("x_in", h, w + taps - 1 - 2 * pad), tensor("dy_in", k, h, w)
    d = Domain()
    o, r, i = d.parallel(k, taps, h)
    (j,) = d.reduction(w)
    d.sum(dy[o, i, j] * x[i, j + r - pad], (o, r, i))


def weights_rows(k: int, c: int, h: int, w: int, taps: int) -> None:
    """The gradient of the kernel of `forward_rows`."""
    x, dy = tensor("x_in", c, h + taps - 1, w), tensor("dy_in", k, h, w)
    d = Domain()
    o, q, r = d.parallel(k, c, taps)
    i, j = d.reduction(h, w)
    d.sum(dy[o, i, j] * x[q, i + r, j], (o, q, r))


def inputs(k: int, c: int, h: int, w: int, taps: int, pad: int) -> None:
    """The gradient of the input of `forward`."""
    weight, dy = tensor("w_in", k, c, taps), tensor("dy_in", k, h, w)
    d = Domain()
    q, i, j = d.parallel(c, h, w + taps - 1 - 2 * pad)
    o, r = d.reduction(k, taps)
    d.sum(dy[o, i, j - r + pad] * weight[o, q, r], (q, i, j))


def inputs_rows(k: int, c: int, h: int, w: int, taps: int) -> None:
    """The gradient of the input of `forward_rows`."""
    weight, dy = tensor("w_in", k, c, taps), tensor("dy_in", k, h, w)
    d = Domain()
    q, i, j = d.parallel(c, h + taps - 1, w)
    o, r = d.reduction(k, taps)
    d.sum(dy[o, i - r, j] * weight[o, q, r], (q, i, j))


def mean(c: int, h: int, w: int) -> None:
    """Partial sums of the elements of rows."""
    z = tensor("z_in", c, h, w)
    d = Domain()
    q, i = d.parallel(c, h)
    (j,) = d.reduction(w)
    d.sum(z[q, i, j], (q, i))


def variance(c: int, h: int, w: int) -> None:
    """Partial sums of the squared distances from the mean."""
    z, m = tensor("z_in", c, h, w), tensor("m_in", c)
    d = Domain()
    q, i = d.parallel(c, h)
    (j,) = d.reduction(w)
    d.sum((z[q, i, j] - m[q]) * (z[q, i, j] - m[q]), (q, i))


def _normalised(z: Value, q: Affine, i: Affine, j: Affine, m: Value, s: Value) -> Expr:
    b = tensor("b_in", m.shape[0])
    return sc.fma(z[q, i, j] - m[q], s[q], b[q])


def pool(c: int, h: int, w: int, window: int) -> None:
    """Batch normalisation, ReLU and maximum with its position."""
    z, m, s = tensor("z_in", c, h, w), tensor("m_in", c), tensor("s_in", c)
    d = Domain()
    q, i, j = d.parallel(c, h, w // window)
    (r,) = d.reduction(window)
    y = _normalised(z, q, i, j * window + r, m, s)
    d.argmax(sc.select((y > 0.0) | y.differs(y), y, 0.0), (q, i, j))


def unpool(c: int, h: int, w: int, window: int) -> None:
    """The gradient of the maximum."""
    at, dp = tensor("at_in", c, h, w // window, dtype=DType.I32), tensor("dp_in", c, h, w // window)
    d = Domain()
    q, i, j, r = d.parallel(c, h, w // window, window)
    from tilegrad.ir.builder import Pieces

    pieces = Pieces([c, h, w], init=None if w % window == 0 else 0)
    body = sc.select(at[q, i, j].equals(sc.index(r)), dp[q, i, j], 0.0)
    pieces.assign(d, body, (q, i, j * window + r))
    pieces.finish()


def normalisation_gradient(c: int, h: int, w: int) -> None:
    """The gradient of batch normalisation behind ReLU, elementwise."""
    z, dy = tensor("z_in", c, h, w), tensor("dy_in", c, h, w)
    s, m, e, f = tensor("s_in", c), tensor("m_in", c), tensor("e_in", c), tensor("f_in", c)
    d = Domain()
    q, i, j = d.parallel(c, h, w)
    y = _normalised(z, q, i, j, m, s)
    gradient = sc.select((y > 0.0) | y.differs(y), dy[q, i, j], 0.0)
    d.assign(sc.fma(s[q], gradient, sc.fma(z[q, i, j] - m[q], e[q], f[q])), (q, i, j))


def gradient_sums(c: int, h: int, w: int) -> None:
    """Partial sums of the gradient behind ReLU."""
    z, dy, m, s = tensor("z_in", c, h, w), tensor("dy_in", c, h, w), tensor("m_in", c), tensor("s_in", c)
    d = Domain()
    q, i = d.parallel(c, h)
    (j,) = d.reduction(w)
    y = _normalised(z, q, i, j, m, s)
    d.sum(sc.select((y > 0.0) | y.differs(y), dy[q, i, j], 0.0), (q, i))


def update(n: int) -> None:
    """A step of stochastic gradient descent."""
    p, g, rate = tensor("p_in", n), tensor("g_in", n), tensor("rate_in")
    d = Domain()
    (k,) = d.parallel(n)
    d.assign(sc.fma(-rate[()], g[k], p[k]), (k,))


KERNELS: dict[str, tuple[Callable[..., None], tuple[int, ...]]] = {
    "conv0-1": (forward, (1, 1, 14, 701, 4, 2)),
    "conv0-2": (forward, (2, 1, 14, 701, 4, 2)),
    "conv0-dw-1": (weights_partial, (1, 14, 701, 4, 2)),
    "conv0-dw-2": (weights_partial, (2, 14, 701, 4, 2)),
    "conv0-dw-row": (weights_partial, (8, 1, 701, 4, 2)),
    "conv1-4": (forward, (4, 8, 14, 88, 16, 8)),
    "conv1-8": (forward, (8, 8, 14, 88, 16, 8)),
    "conv1-dw-4": (weights, (4, 8, 14, 88, 16, 8)),
    "conv1-dw-8": (weights, (8, 8, 14, 88, 16, 8)),
    "conv1-dw-rows": (weights, (16, 8, 4, 88, 16, 8)),
    "conv1-dx-rows": (inputs, (16, 8, 2, 88, 16, 8)),
    "conv1-dx-4": (inputs, (16, 4, 8, 88, 16, 8)),
    "conv2": (forward, (16, 16, 14, 23, 8, 4)),
    "conv2-dw": (weights, (16, 16, 14, 23, 8, 4)),
    "conv2-dx": (inputs, (16, 16, 14, 23, 8, 4)),
    "conv3": (forward_rows, (32, 16, 8, 5, 7)),
    "conv3-dw": (weights_rows, (32, 16, 8, 5, 7)),
    "conv3-dx": (inputs_rows, (32, 16, 8, 5, 7)),
    "conv4": (forward_rows, (32, 32, 2, 5, 7)),
    "conv4-dw": (weights_rows, (32, 32, 2, 5, 7)),
    "conv4-dx": (inputs_rows, (32, 32, 2, 5, 7)),
    "mean0": (mean, (2, 14, 701)),
    "mean1": (mean, (16, 14, 88)),
    "variance0": (variance, (2, 14, 701)),
    "variance1": (variance, (16, 14, 88)),
    "pool0": (pool, (2, 14, 696, 8)),
    "pool1": (pool, (8, 14, 88, 4)),
    "unpool1": (unpool, (8, 14, 88, 4)),
    "dz1": (normalisation_gradient, (8, 14, 88)),
    "sums1": (gradient_sums, (8, 14, 88)),
    "sgd": (update, (7200,)),
    "small": (update, (32,)),
}


def operation(name: str) -> StructuredOp:
    """The operation of a kernel."""
    graph = Graph("kernel")
    make, shape = KERNELS[name]
    with graph.building():
        make(*shape)
    op = graph.ops[-1]
    assert isinstance(op, StructuredOp)
    return op


def multiply_adds(op: StructuredOp) -> int:
    """Terms that exist."""
    (nest,) = op.nests
    count = 0
    grid = np.indices(nest.extents, sparse=True)
    inside = np.ones((1,) * len(nest.extents), bool)
    for guard in nest.guards:
        value = guard.index.constant + sum(c * grid[k] for k, c in guard.index.terms)
        inside = inside & (value >= guard.lower) & (value < guard.upper)
    count = int(np.broadcast_to(inside, nest.extents).sum())
    return count


def project(op: StructuredOp, mapping: Mapping, target: Target, folder: Path) -> tuple[str, dict[Value, str]]:
    """Write a program whose only entry point calls the kernel; returns the text of the kernel and the operands."""
    values = list(dict.fromkeys([*op.operands, *op.outputs]))
    names = {value: f"{'out' if value in op.outputs else value.name}_{k}" for k, value in enumerate(values)}
    writer = Writer()
    write_op(op, [mapping], CScope({v: Place(name, v.strides) for v, name in names.items()}), writer)
    parameters = ", ".join(
        f"{'' if v in op.outputs else 'const '}{v.dtype.c_type} *restrict {names[v]}" for v in values
    )
    kernel = "\n".join([f"static TG_KERNEL void kernel({parameters})", "{", *writer.lines, "}"])
    lines = ['#include "tilegrad_support.h"', "", kernel, ""]
    lines += [f"TG_IN_L1 {v.dtype.c_type} data_{names[v]}[{max(v.size, 1)}];" for v in values]
    arguments = ", ".join(f"data_{names[v]}" for v in values)
    lines += [
        "void tilegrad_run(void) {", f"    kernel({arguments});", "}",
        "typedef struct { const char *name; void (*run)(void); } tilegrad_entry_t;",
        'const tilegrad_entry_t tilegrad_entries[] = {{"tilegrad_run", tilegrad_run}};',
        "const uint32_t tilegrad_entry_count = 1;", "",
    ]  # fmt: skip
    files = {"src/tilegrad_kernel.c": "\n".join(lines), **target.project_files()}
    runtime = resources.files("tilegrad.codegen") / "runtime"
    for name in ("tilegrad_math.h", "tilegrad_support.h"):
        files[f"src/{name}"] = (runtime / name).read_text(encoding="utf-8")
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return kernel, {value: f"data_{names[value]}" for value in op.operands}


def pairs(text: str | None) -> tuple[tuple[int, int], ...]:
    """``0:4,2:4`` as pairs."""
    return tuple((int(k), int(n)) for k, n in (part.split(":") for part in text.split(","))) if text else ()


def measure(name: str, target: Target, options: argparse.Namespace) -> None:
    """Build, run and print one kernel."""
    op = operation(name)
    (nest,) = op.nests
    mapping = choose_mapping(nest, target)
    if options.tile is not None:
        mapping = dataclasses.replace(mapping, tile=pairs(options.tile))
    if options.unroll is not None:
        mapping = dataclasses.replace(mapping, unroll=pairs(options.unroll))
    if options.divided is not None:
        mapping = dataclasses.replace(mapping, divided=options.divided)
    with tempfile.TemporaryDirectory() as folder:
        text, symbols = project(op, mapping, target, Path(folder))
        if options.source:
            print(text)
        program = target.build(Path(folder), cc=options.cc)
        if options.keep:
            Path(options.keep).write_bytes(Path(program.executable).read_bytes())
        with program.start() as session:
            rng = np.random.default_rng(0)
            for value, symbol in symbols.items():
                data = rng.uniform(-1, 1, value.size) if value.dtype.is_float else rng.integers(0, 4, value.size)
                session.simulator.write(symbol, data.astype(value.dtype.numpy))
            session.call("tilegrad_run")
            if options.hot:
                session.simulator.profile(instructions=True)
            cycles = session.call("tilegrad_run")
            if options.hot:
                for hot in sorted(session.simulator.hot("kernel"), key=lambda spot: spot.pc):
                    print(f"{hot.pc:#x} {hot.count:9} {hot.cycles:9} {hot.stalls}")
    assert cycles is not None
    count = multiply_adds(op)
    expected = nest_cycles(nest, target, nest.extents, mapping)
    peak = target.multiply_adds_per_cycle or 1.0
    print(
        f"{name:14} {cycles:9,} cycles, expected {expected:9,.0f} ({expected / cycles:4.2f}), {count:9,} terms,"
        f" {count / cycles:5.2f} per cycle, {count / cycles / peak:4.0%}; tile {mapping.tile} unroll {mapping.unroll}"
        f" divided {mapping.divided}",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", nargs="+", default=list(KERNELS), help="kernels, or beginnings of their names")
    parser.add_argument("--cores", type=int, default=8)
    parser.add_argument("--cc", default=None)
    parser.add_argument("--tile", default=None)
    parser.add_argument("--unroll", default=None)
    parser.add_argument("--divided", type=int, default=None)
    parser.add_argument("--hot", action="store_true")
    parser.add_argument("--source", action="store_true")
    parser.add_argument("--keep", default=None, help="where to put the program")
    options = parser.parse_args()
    target = get_target("siracusa").with_cores(options.cores)
    for name in KERNELS:
        if any(name == wanted or name.startswith(f"{wanted}-") for wanted in options.kernel):
            measure(name, target, options)


if __name__ == "__main__":
    main()
