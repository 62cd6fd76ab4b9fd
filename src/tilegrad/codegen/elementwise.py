"""Nests without sums: assignments, and terms that are scattered into memory."""

from __future__ import annotations

from tilegrad.codegen.chains import accumulate
from tilegrad.codegen.nest import NestWriter


class ElementwiseWriter(NestWriter):
    """One term per element; several neighbours are evaluated before the first of them is stored."""

    def write(self) -> None:
        """Write the nest."""
        for _ in self.sections():
            lanes = self.lanes()
            self.roots = [self.at(e, lane) for lane in lanes for result in self.nest.results for e in result.exprs]
            self.divide(self.steps(), self._assign, guarded=True)

    def _assign(self) -> None:
        lanes = self.lanes()
        targets = [self.element(result, 0, lane) for lane in lanes for result in self.nest.results]
        for target, text in zip(targets, self.scope.evaluate(self.roots, self.out.line), strict=True):
            self.out.line(f"{target} = {text};")


class ScatterWriter(NestWriter):
    """Terms are added into memory in the order of the domain."""

    def write(self) -> None:
        """Write the nest."""
        reductions = [(k, 1) for k in self.reductions]
        self.divide(
            [(k, 1) for k in self.parallel],
            lambda: self.loops(reductions, self._scatter, guarded=True),
            guarded=True,
        )

    def _scatter(self) -> None:
        for result in self.nest.results:
            target = self.element(result, 0, {})
            terms = self.scope.evaluate(result.exprs, self.out.line)
            self.out.line(f"{target} = {accumulate(result, terms, target)};")
