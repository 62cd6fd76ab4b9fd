"""How tests compile a graph to C and run it: every form of the code against the interpreter and the plain C oracle."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.codegen.project import ProjectInfo, symbol, write_project
from tilegrad.ir.graph import Graph, Store, Value, clone
from tilegrad.ir.types import Kind
from tilegrad.ir.verifier import verify_graph
from tilegrad.planning.planner import Options, plan_program
from tilegrad.planning.validate import validate_plan
from tilegrad.targets import get_target
from tilegrad.transforms.pipeline import transform

Array = NDArray[Any]


@dataclass(frozen=True)
class Project:
    """A generated C project of one entry point.

    Attributes:
        folder: where it is.
        symbols: the C symbols of the persistent tensors.
        places: where the wanted values are found after a call.
    """

    folder: Path
    symbols: Mapping[Value, str]
    places: Sequence[Value]

    def run(
        self,
        feeds: Mapping[Value, Array],
        *,
        cc: str | None = None,
        sanitize: bool = False,
        optimization: str = "-O3",
        flags: Sequence[str] = (),
    ) -> list[Array]:
        """Build the project for the host, call it once and return the wanted values."""
        target = get_target("host")
        program = target.build(self.folder, cc=cc, sanitize=sanitize, optimization=optimization, flags=flags)
        writes = {
            self.symbols[value]: np.asarray(array).astype(value.dtype.numpy)
            for value, array in feeds.items()
            if value in self.symbols and value.size
        }
        reads = {self.symbols[place]: (place.dtype.numpy, place.shape) for place in self.places}
        with program.start() as session:
            found = session.transact(writes, "tilegrad_train", reads).values
        return [found[self.symbols[place]] for place in self.places]


def write_graph(graph: Graph, outputs: Sequence[Value], folder: Path, *, optimize: bool = True) -> Project:
    """Write the C project of a graph, verified at every stage, that keeps the contents of `outputs`."""
    target = get_target("host")
    entry = clone(graph, "train")
    places = []
    for position, value in enumerate(outputs):
        places.append(Value(f"result{position}", value.shape, value.dtype, Kind.OUTPUT))
        entry.stores.append(Store(places[-1], value))
    verify_graph(entry)
    transform(entry, optimize=optimize)
    verify_graph(entry)
    plan = plan_program([entry], target, Options(plain=not optimize))
    validate_plan(plan, [entry])
    write_project(plan, folder, ProjectInfo("test"), target.project_files())
    return Project(folder, {s.persistent: symbol(s) for s in plan.persistent if s.persistent is not None}, places)


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
    with tempfile.TemporaryDirectory() as folder:
        project = write_graph(graph, outputs, Path(folder) / "project", optimize=optimize)
        return project.run(feeds, cc=cc, optimization=optimization, flags=flags)


def same_bits(a: Array, b: Array) -> bool:
    """True where two arrays hold the same bits, all NaN counting as one."""
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    return bool(np.all((a.view(np.int32) == b.view(np.int32)) | (np.isnan(a) & np.isnan(b))))
