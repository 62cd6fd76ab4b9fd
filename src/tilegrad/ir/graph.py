"""Values, structured operations and graphs: the intermediate representation of one entry point.

A graph is purely functional. State that outlives a call (weights, running statistics, optimizer state, results) is
read through its persistent `Value` and replaced at the end by a `Store`; whether that happens in place is the
planner's choice.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from tilegrad.errors import InternalError
from tilegrad.ir.affine import Affine, Guard
from tilegrad.ir.expr import Access, Expr, ExprLike, accesses
from tilegrad.ir.types import DType, Kind


@dataclass(eq=False)
class Value:
    """A tensor of static shape; contiguous, row-major.

    Attributes:
        name: the name it has in the model, or one derived from the node that makes it. Data, not an identifier.
        shape: its extents; empty for a scalar.
        dtype: element type.
        kind: what it is for.
        data: initial contents of persistent tensors, contents of constants, else None (zeros at the start).
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType = DType.F32
    kind: Kind = Kind.TEMPORARY
    data: NDArray[Any] | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return self.size * self.dtype.size

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def is_constant(self) -> bool:
        """True where the contents are known at compile time."""
        return self.kind is Kind.CONSTANT

    @property
    def strides(self) -> tuple[int, ...]:
        """Distance in elements between neighbours along each axis."""
        strides, step = [], 1
        for extent in reversed(self.shape):
            strides.append(step)
            step *= extent
        return tuple(reversed(strides))

    def __getitem__(self, index: Affine | int | tuple[Affine | int, ...]) -> Expr:
        from tilegrad.ir.expr import read

        return read(self, index if isinstance(index, tuple) else (index,))

    def __hash__(self) -> int:
        return id(self)

    def __add__(self, other: Value | float) -> Value:
        return _elementwise("add", self, other)

    def __radd__(self, other: float) -> Value:
        return _elementwise("add", other, self)

    def __sub__(self, other: Value | float) -> Value:
        return _elementwise("sub", self, other)

    def __rsub__(self, other: float) -> Value:
        return _elementwise("sub", other, self)

    def __mul__(self, other: Value | float) -> Value:
        return _elementwise("mul", self, other)

    def __rmul__(self, other: float) -> Value:
        return _elementwise("mul", other, self)

    def __truediv__(self, other: Value | float) -> Value:
        return _elementwise("div", self, other)

    def __rtruediv__(self, other: float) -> Value:
        return _elementwise("div", other, self)

    def __neg__(self) -> Value:
        from tilegrad.ir.builder import elementwise

        return elementwise(lambda x: -x, self)


def _elementwise(op: str, a: Value | float, b: Value | float) -> Value:
    from tilegrad.ir.builder import elementwise
    from tilegrad.ir.expr import binary

    if isinstance(a, Value) and isinstance(b, Value):
        return elementwise(lambda x, y: binary(op, x, y), a, b)
    if isinstance(a, Value):
        return elementwise(lambda x: binary(op, x, _literal(b)), a)
    if isinstance(b, Value):
        return elementwise(lambda y: binary(op, _literal(a), y), b)
    raise InternalError(f"{op} of two numbers is not a tensor operation")


def _literal(x: Value | float) -> ExprLike:
    assert not isinstance(x, Value)
    return x


@dataclass(frozen=True, slots=True)
class Result:
    """What a nest computes for one output, or for two in the case of ``argmax``.

    Attributes:
        outputs: the tensors written.
        index: where, over the iterators of the nest.
        combiner: ``assign`` (one term per element), ``sum`` (``acc + e0``), ``dot`` (``fma(e0, e1, acc)``), ``max``
            (NaN propagates), ``argmax`` (value and i32 position of the first maximum among the reduction iterators,
            row-major).
        exprs: the term: two factors for ``dot``, else one expression.
        start: the accumulator's first value for ``sum`` and ``dot``; None is +0.0.
        final: what is stored in place of the finished accumulator of ``sum``, ``dot`` and ``max``: an expression over
            the parallel iterators in which ``acc`` stands for the accumulator. Transformations make it; what is
            differentiated has none.
    """

    outputs: tuple[Value, ...]
    index: tuple[Affine, ...]
    combiner: str
    exprs: tuple[Expr, ...]
    start: Expr | None = None
    final: Expr | None = None

    @property
    def dtype(self) -> DType:
        """The type of the terms and of the accumulator; what is stored can have another one where `final` is given."""
        return self.exprs[0].dtype

    def map_exprs(self, change: Callable[[Expr], Expr]) -> Result:
        """The result with all of its expressions changed."""
        return replace(
            self,
            exprs=tuple(map(change, self.exprs)),
            start=None if self.start is None else change(self.start),
            final=None if self.final is None else change(self.final),
        )


@dataclass(frozen=True, slots=True)
class Nest:
    """One loop nest: a box domain whose leading iterators are parallel, the others reductions in canonical order.

    Attributes:
        extents: trip counts, parallel iterators first.
        parallel: how many of them are parallel.
        guards: a term exists only where all of them hold.
        results: what it computes; several results share domain and guards.
        scatter: terms are added into zeroed memory in domain order, because the output index is not a function of the
            parallel iterators alone; such a nest runs sequentially in its reduction iterators.
    """

    extents: tuple[int, ...]
    parallel: int
    guards: tuple[Guard, ...]
    results: tuple[Result, ...]
    scatter: bool = False

    @property
    def points(self) -> int:
        """Number of points of the box, guards not considered."""
        return math.prod(self.extents)

    @property
    def exprs(self) -> tuple[Expr, ...]:
        """All expressions of all results, start values and final ones included."""
        found: list[Expr] = []
        for result in self.results:
            found.extend(result.exprs)
            found.extend(expr for expr in (result.start, result.final) if expr is not None)
        return tuple(found)

    def accesses(self) -> list[Access]:
        """The distinct accesses of the nest, lookups inside indices excluded."""
        return accesses(*self.exprs)

    def indices(self) -> Iterator[Affine]:
        """Every index the nest uses: of reads, index expressions, writes and guards."""
        from tilegrad.ir.expr import walk

        for node in walk(*self.exprs):
            if node.op == "read":
                yield from node.attr.index
            elif node.op == "index":
                yield node.attr
        for result in self.results:
            yield from result.index
        for guard in self.guards:
            yield guard.index

    def operands(self) -> list[Value]:
        """The distinct tensors it reads, those inside indices included, in a fixed order."""
        return list(dict.fromkeys([access.value for access in self.accesses()] + self.tables()))

    def tables(self) -> list[Value]:
        """The distinct tensors that its indices read, in a fixed order."""
        return list(dict.fromkeys(table for row in self.indices() for table in row.tables()))


@dataclass(eq=False)
class StructuredOp:
    """Defines its outputs by one or several nests that write disjoint parts of them.

    Attributes:
        outputs: the tensors it defines.
        nests: the pieces.
        init: what elements that no nest writes contain; None where the nests cover the outputs.
        origin: the node of the model it came from, for comments and traces.
        phase: ``forward``, ``backward`` or ``optimizer``.
    """

    outputs: tuple[Value, ...]
    nests: tuple[Nest, ...]
    init: float | int | None = None
    origin: str = ""
    phase: str = "forward"

    @property
    def operands(self) -> list[Value]:
        """The distinct tensors it reads, in a fixed order."""
        return list(dict.fromkeys(value for nest in self.nests for value in nest.operands()))

    @property
    def is_elementwise(self) -> bool:
        """True for one guard-free nest without reduction whose single output index is the identity."""
        if len(self.nests) != 1 or len(self.outputs) != 1 or self.init is not None:
            return False
        nest = self.nests[0]
        if nest.guards or nest.scatter or nest.parallel != len(nest.extents) or len(nest.results) != 1:
            return False
        result = nest.results[0]
        if result.combiner != "assign":
            return False
        shape = result.outputs[0].shape
        singles = [row.single for row in result.index]
        trivial = [
            single is not None or (row.is_constant and extent == 1)
            for single, row, extent in zip(singles, result.index, shape, strict=True)
        ]
        used = [single for single in singles if single is not None]
        return all(trivial) and len(set(used)) == len(used) == len(nest.extents)


@dataclass(eq=False)
class ReshapeOp:
    """A view: `output` is the flat contents of `source` under another shape."""

    source: Value
    output: Value
    origin: str = ""
    phase: str = "forward"

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The view, as a tuple like that of a structured operation."""
        return (self.output,)

    @property
    def operands(self) -> list[Value]:
        """The tensor it looks at."""
        return [self.source]


Op = StructuredOp | ReshapeOp


@dataclass(frozen=True, slots=True)
class Store:
    """At the end of the entry point, the persistent tensor `target` takes the contents of `value`."""

    target: Value
    value: Value


@dataclass(frozen=True, slots=True)
class GradientRule:
    """A composite's own gradient, in place of the one derived from its operations.

    Attributes:
        inputs: the tensors that receive gradients.
        outputs: the composite's outputs; the derived gradient is cut off there.
        vjp: from the gradients of the outputs (None where one is not used) to those of the inputs (None for none).
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    vjp: Callable[..., Sequence[Value | None]]


@dataclass(eq=False)
class Graph:
    """One entry point: inputs and state in, operations in execution order, stores at the end.

    Attributes:
        name: the entry point's name.
        ops: operations in a topological order.
        inputs: tensors the caller fills.
        parameters: trainable tensors by their name in the model, frozen ones included.
        buffers: running statistics and other state of the model by name.
        stores: what happens to persistent tensors at the end.
        rules: gradients that composites define themselves, keyed by output.
        results: what the model returns.
        training: whether operators that behave differently in training do so.
        random_seed: u32[2] setting, the key of the random numbers, once an operator draws some.
        random_step: u32[1] setting, which pass this is; part of the counter of the random numbers.
        random_streams: how many operators draw random numbers; the index of the next one.
        aliases: further names of parameters and buffers that the model holds once under several names, to the first.
        frozen: names of the parameters that the model itself excludes from training.
    """

    name: str = "graph"
    ops: list[Op] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    parameters: dict[str, Value] = field(default_factory=dict)
    buffers: dict[str, Value] = field(default_factory=dict)
    stores: list[Store] = field(default_factory=list)
    rules: dict[Value, GradientRule] = field(default_factory=dict)
    results: list[Value] = field(default_factory=list)
    training: bool = True
    random_seed: Value | None = None
    random_step: Value | None = None
    random_streams: int = 0
    aliases: dict[str, str] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    _origin: str = ""
    _phase: str = "forward"
    _names: dict[str, int] = field(default_factory=dict)

    def add(self, op: Op) -> None:
        """Append an operation; it takes the current origin and phase."""
        op.origin = op.origin or self._origin
        op.phase = self._phase
        self.ops.append(op)

    def fresh_name(self, hint: str = "") -> str:
        """A name for a temporary, unique in the graph, derived from the current origin."""
        base = hint or self._origin or "t"
        count = self._names.get(base, 0)
        self._names[base] = count + 1
        return base if count == 0 else f"{base}.{count}"

    @contextlib.contextmanager
    def building(self) -> Iterator[Graph]:
        """Make this the graph to which tensor arithmetic appends."""
        token = _CURRENT.set(self)
        try:
            yield self
        finally:
            _CURRENT.reset(token)

    @contextlib.contextmanager
    def scope(self, origin: str | None = None, phase: str | None = None) -> Iterator[None]:
        """Label the operations added inside with a node's name and a phase."""
        before = self._origin, self._phase
        self._origin = origin if origin is not None else self._origin
        self._phase = phase if phase is not None else self._phase
        try:
            yield
        finally:
            self._origin, self._phase = before

    def producers(self) -> dict[Value, Op]:
        """The operation that defines each temporary."""
        return {output: op for op in self.ops for output in op.outputs}

    def roots(self) -> list[Value]:
        """Values that must be computed: what stores keep."""
        return [store.value for store in self.stores]

    def persistent(self) -> list[Value]:
        """Every persistent tensor the graph touches, in order of first use."""
        found: dict[Value, None] = {}
        for op in self.ops:
            for value in op.operands:
                if value.kind.persistent:
                    found[value] = None
        for store in self.stores:
            found[store.target] = None
            if store.value.kind.persistent:
                found[store.value] = None
        return list(found)


_CURRENT: contextvars.ContextVar[Graph | None] = contextvars.ContextVar("tilegrad_graph", default=None)


def current_graph() -> Graph:
    """The graph under construction.

    Raises:
        InternalError: outside `Graph.building`.
    """
    graph = _CURRENT.get()
    if graph is None:
        raise InternalError("tensor arithmetic outside `Graph.building()`")
    return graph


def clone(graph: Graph, name: str) -> Graph:
    """A graph of its own with copies of the operations; values are shared."""
    ops: list[Op] = [replace(op) for op in graph.ops]
    return replace(
        graph, name=name, ops=ops, inputs=list(graph.inputs), stores=list(graph.stores), results=list(graph.results)
    )


def replace_nest_values(nest: Nest, substitute: Callable[[Value], Value]) -> Nest:
    """The nest with the tensors it reads and writes replaced; reads of another type are converted."""
    from tilegrad.ir.expr import cast, index, read, rewrite

    def leaf(node: Expr) -> Expr:
        if node.op == "read":
            rows = [row.replace_values(substitute) for row in node.attr.index]
            return cast(read(substitute(node.attr.value), rows), node.dtype)
        if node.op == "index":
            return index(node.attr.replace_values(substitute))
        return node

    results = tuple(
        replace(
            result.map_exprs(lambda expr: rewrite(expr, leaf)),
            outputs=tuple(substitute(value) for value in result.outputs),
            index=tuple(row.replace_values(substitute) for row in result.index),
        )
        for result in nest.results
    )
    guards = tuple(Guard(g.index.replace_values(substitute), g.lower, g.upper) for g in nest.guards)
    return replace(nest, results=results, guards=guards)
