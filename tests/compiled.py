"""How tests compile a graph to C and run it: every form of the code against the interpreter and the plain C oracle."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.codegen.mapping import choose_mapping, plain_mapping
from tilegrad.codegen.project import ProjectInfo, symbol, write_project
from tilegrad.ir.graph import Graph, Store, Value, clone
from tilegrad.ir.types import Kind
from tilegrad.ir.verifier import verify_graph
from tilegrad.planning.planner import plan_program
from tilegrad.planning.validate import validate_plan
from tilegrad.targets import get_target
from tilegrad.transforms.pipeline import transform

Array = NDArray[Any]


def run_compiled(
    graph: Graph,
    outputs: Sequence[Value],
    feeds: Mapping[Value, Array],
    *,
    optimize: bool = True,
    cc: str | None = None,
    optimization: str = "-O3",
    flags: Sequence[str] = (),
) -> list[Array]:
    """Compile a graph for the host and return the contents of `outputs` after one call."""
    target = get_target("host")
    entry = clone(graph, "train")
    places = {}
    for position, value in enumerate(outputs):
        places[value] = Value(f"result{position}", value.shape, value.dtype, Kind.OUTPUT)
        entry.stores.append(Store(places[value], value))
    verify_graph(entry)
    transform(entry, optimize=optimize)
    verify_graph(entry)
    plan = plan_program([entry], target)
    validate_plan(plan, [entry])
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        choose = (lambda nest: choose_mapping(nest, target)) if optimize else plain_mapping
        write_project(plan, project, choose, ProjectInfo("test"), target.project_files())
        program = target.build(project, cc=cc, optimization=optimization, flags=flags)
    symbols = {storage.persistent: symbol(storage) for storage in plan.persistent}
    with program.start() as session:
        for value, array in feeds.items():
            if value in symbols:
                session.write(symbols[value], np.asarray(array).astype(value.dtype.numpy))
        session.call("tilegrad_train")
        return [session.read(symbols[places[v]], v.dtype.numpy, v.shape) for v in outputs]


def same_bits(a: Array, b: Array) -> bool:
    """True where two arrays hold the same bits, all NaN counting as one."""
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    return bool(np.all((a.view(np.int32) == b.view(np.int32)) | (np.isnan(a) & np.isnan(b))))
