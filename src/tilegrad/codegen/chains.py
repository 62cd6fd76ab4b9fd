"""Accumulators: how sums and maxima begin, take up terms and are stored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from tilegrad.codegen.c_expr import add, least, literal, local_type
from tilegrad.codegen.nest import NestWriter, Offsets
from tilegrad.errors import InternalError
from tilegrad.ir.affine import Affine
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Nest, Result
from tilegrad.planning.identities import branch_of, floor_of


def accumulate(result: Result, terms: Sequence[str], accumulator: str) -> str:
    """C text of a sum with one more term."""
    if result.combiner == "dot":
        return f"__builtin_fmaf({terms[0]}, {terms[1]}, {accumulator})"
    return add(accumulator, terms[0], result.dtype)


def position(nest: Nest) -> Affine:
    """The row-major position of a term among the reduction iterators."""
    found, step = Affine(), 1
    for iterator in reversed(range(nest.parallel, len(nest.extents))):
        if nest.extents[iterator] > 1:
            found = found + Affine.iterator(iterator) * step
        step *= nest.extents[iterator]
    return found


class ChainWriter(NestWriter):
    """A nest of sums or maxima whose accumulators are local variables."""

    def start_all(self, lanes: Sequence[Offsets]) -> None:
        """Declare the accumulators of a register tile with what they begin with."""
        if self.chain is None:
            self._identities(lanes, declare=True)
            return
        for number, _ in enumerate(lanes):
            for r, result in enumerate(self.nest.results):
                self.out.line(f"{local_type(result.dtype)} {self.accumulator(r, number)};")
                if result.combiner == "argmax":
                    self.out.line(f"int32_t {self.accumulator(r, number)}_at;")
        with self.scoped(f"if ({self.chain.start})"):
            self._identities(lanes, declare=False)
        with self.scoped("else"):
            for number, lane in enumerate(lanes):
                for r, result in enumerate(self.nest.results):
                    name = self.accumulator(r, number)
                    if result.final is not None and result.final.dtype is not result.dtype:
                        raise InternalError("a sum over several tiles is kept in an output of another type")
                    self.out.line(f"{name} = {self.element(result, 0, lane)};")
                    if result.combiner == "argmax":
                        self.out.line(f"{name}_at = {self.element(result, 1, lane)};")

    def _identities(self, lanes: Sequence[Offsets], *, declare: bool) -> None:
        """The accumulators take their first values."""
        for r, result in enumerate(self.nest.results):
            kind = f"{local_type(result.dtype)} " if declare else ""
            texts = [self._least(result) if result.combiner in ("max", "argmax") else literal(0, result.dtype)]
            texts *= len(lanes)
            if result.start is not None:
                texts = self.scope.evaluate([self.at(result.start, lane) for lane in lanes], self.out.line)
            for number, text in enumerate(texts):
                name = self.accumulator(r, number)
                self.out.line(f"{kind}{name} = {text};")
                if result.combiner == "argmax":
                    first = 0 if self._always else -1
                    self.out.line(f"{'int32_t ' if declare else ''}{name}_at = {first};")

    def accumulator(self, result: int, lane: int) -> str:
        """The local variable of a lane."""
        return f"acc{result}_{lane}"

    @property
    def _always(self) -> bool:
        """Whether every element is sure to have its first term, at position 0."""
        return self.chain is None and not self.nest.guards and 0 not in self.nest.extents[self.nest.parallel :]

    def _least(self, result: Result) -> str:
        """What a maximum begins with: what no term falls below."""
        bound = floor_of(result.exprs[0]) if self._raises(result) else None
        return least(result.dtype) if bound is None else literal(bound[1], result.dtype)

    def _raises(self, result: Result) -> bool:
        """Whether terms of a maximum that are cut off from below can be taken as they are."""
        return self._always and self.mapping.hoist and result.combiner in ("max", "argmax") and result.dtype.is_float

    def term(self, result: Result) -> tuple[Expr, ...]:
        """The expressions of a term as `combine` wants them."""
        bound = floor_of(result.exprs[0]) if self._raises(result) else None
        return result.exprs if bound is None else (bound[0],)

    def skips_zeros(self, result: Result) -> bool:
        """Whether terms that are +0.0 need not be added.

        They change only an accumulator that is -0.0, and a sum that begins with +0.0 never is: it would take two terms
        of -0.0. (A product that is added by a fused multiply-add can round to -0.0.)
        """
        if not self.mapping.hoist or result.combiner != "sum" or result.start is not None:
            return False
        branch = branch_of(result.exprs[0])
        return branch is not None and result.dtype.is_float and str(branch.other.attr) == "0.0"

    def name_terms(self, result: Result, texts: Sequence[str]) -> list[str]:
        """Terms of a maximum as locals, which are compared more than once."""
        names = [self.scope.fresh("v") for _ in texts]
        for name, text in zip(names, texts, strict=True):
            self.out.line(f"const {local_type(result.dtype)} {name} = {text};")
        return names

    def combine(self, result: Result, name: str, terms: Sequence[str], lane: Offsets) -> None:
        """Take up one term; for a maximum, the name of a local."""
        if result.combiner not in ("max", "argmax"):
            self.out.line(f"{name} = {accumulate(result, terms, name)};")
            return
        at = self.scope.affine(self.index_at([position(self.nest)], lane)[0])
        term = terms[0]
        # A maximum that is NaN stays, and a term that is NaN replaces any other.
        if result.dtype.is_float:
            larger = f"!({term} <= {name})"
            rarely = f"__builtin_expect({larger}, 0)" if self.mapping.hoist else larger
            larger = f"{rarely} && {name} == {name}"
        else:
            larger = f"{term} > {name}"
        if result.combiner == "max":
            self.out.line(f"{name} = ({larger}) ? {term} : {name};")
            return
        with self.out.block(f"if ({larger})" if self._always else f"if (({larger}) || {name}_at < 0)"):
            self.out.line(f"{name} = {term};")
            self.out.line(f"{name}_at = {at};")

    def store_all(self, lanes: Sequence[Offsets]) -> None:
        """Store the accumulators of a register tile."""
        for r, result in enumerate(self.nest.results):
            self.store([(result, self.accumulator(r, number), lane) for number, lane in enumerate(lanes)])

    def store(self, finished: Sequence[tuple[Result, str, Offsets]]) -> None:
        """Store finished accumulators, or those that the next tile of their chain goes on with.

        Args:
            finished: of one result: the result, C text of the accumulator, the element.
        """
        result = finished[0][0]
        elements = [self.element(result, 0, lane) for _, _, lane in finished]
        names = [name for _, name, _ in finished]
        if result.final is None or self.chain is not None:
            with self.scoped(f"if (!{self.chain.end})") if self.chain and result.final else nullcontext():
                for element, name in zip(elements, names, strict=True):
                    self.out.line(f"{element} = {name};")
        if result.final is not None:
            with self.scoped(f"if ({self.chain.end})" if self.chain is not None else None):
                texts = []
                for _, name, lane in finished:
                    self.scope.accumulator = name
                    texts.extend(self.scope.evaluate([self.at(result.final, lane)], self.out.line))
                # All operands are read before the first element is stored: it may take the place of one of them.
                for element, text in zip(elements, texts, strict=True):
                    self.out.line(f"{element} = {text};")
        if result.combiner == "argmax":
            for _, name, lane in finished:
                self.out.line(f"{self.element(result, 1, lane)} = {name}_at;")
