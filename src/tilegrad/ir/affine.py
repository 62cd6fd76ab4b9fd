"""Affine index expressions over the iterators of a loop nest.

An index along one axis is ``constant + sum(coefficient * iterator) + sum(coefficient * table[...])``. The lookups make
gathers, scatters and constant tables (adaptive pooling, interpolation) instances of the same structured operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tilegrad.ir.graph import Value


@dataclass(frozen=True, slots=True)
class Lookup:
    """``coefficient * value[index]``: an integer tensor read inside an index."""

    coefficient: int
    value: Value
    index: tuple[Affine, ...]


@dataclass(frozen=True, slots=True)
class Affine:
    """``constant + sum(c * iterator) + sum(lookups)``; an iterator is its position in the domain of its nest.

    Attributes:
        terms: pairs (iterator, coefficient), sorted by iterator, no coefficient zero.
        constant: the constant term.
        lookups: integer tensors read at affine indices.
    """

    terms: tuple[tuple[int, int], ...] = ()
    constant: int = 0
    lookups: tuple[Lookup, ...] = ()

    @staticmethod
    def iterator(position: int) -> Affine:
        """The iterator at `position` of the domain."""
        return Affine(((position, 1),))

    @staticmethod
    def of(value: Affine | int) -> Affine:
        """An integer as a constant index; an `Affine` as it is."""
        return value if isinstance(value, Affine) else Affine((), int(value))

    def __add__(self, other: Affine | int) -> Affine:
        if isinstance(other, int):
            return Affine(self.terms, self.constant + other, self.lookups)
        merged = dict(self.terms)
        for iterator, coefficient in other.terms:
            merged[iterator] = merged.get(iterator, 0) + coefficient
        terms = tuple(sorted((i, c) for i, c in merged.items() if c))
        return Affine(terms, self.constant + other.constant, self.lookups + other.lookups)

    __radd__ = __add__

    def __mul__(self, factor: int) -> Affine:
        if factor == 0:
            return Affine()
        lookups = tuple(Lookup(x.coefficient * factor, x.value, x.index) for x in self.lookups)
        return Affine(tuple((i, c * factor) for i, c in self.terms), self.constant * factor, lookups)

    __rmul__ = __mul__

    def __neg__(self) -> Affine:
        return self * -1

    def __sub__(self, other: Affine | int) -> Affine:
        return self + (-other)

    def __rsub__(self, other: int) -> Affine:
        return -self + other

    def coefficient(self, iterator: int) -> int:
        """The coefficient of `iterator`, zero where it does not occur outside lookups."""
        for i, c in self.terms:
            if i == iterator:
                return c
        return 0

    @property
    def is_constant(self) -> bool:
        """True where neither an iterator nor a lookup occurs."""
        return not self.terms and not self.lookups

    @property
    def single(self) -> int | None:
        """The iterator that this index is, or None where it is anything else."""
        if len(self.terms) == 1 and self.terms[0][1] == 1 and not self.constant and not self.lookups:
            return self.terms[0][0]
        return None

    def iterators(self) -> Iterator[int]:
        """All iterators that the index depends on, lookups included."""
        for iterator, _ in self.terms:
            yield iterator
        for lookup in self.lookups:
            for row in lookup.index:
                yield from row.iterators()

    @property
    def depth(self) -> int:
        """How deep lookups are nested: 0 where there are none."""
        return max((1 + max((row.depth for row in x.index), default=0) for x in self.lookups), default=0)

    def tables(self) -> Iterator[Value]:
        """All tensors that are read inside the index, at any depth."""
        for lookup in self.lookups:
            yield lookup.value
            for row in lookup.index:
                yield from row.tables()

    def substitute(self, mapping: Mapping[int, Affine] | Sequence[Affine]) -> Affine:
        """Replace every iterator by an index over another domain; mappings may leave iterators out."""
        result = Affine((), self.constant)
        for iterator, coefficient in self.terms:
            if isinstance(mapping, Mapping):
                replacement = mapping.get(iterator, Affine.iterator(iterator))
            else:
                replacement = mapping[iterator]
            result = result + replacement * coefficient
        for lookup in self.lookups:
            index = tuple(row.substitute(mapping) for row in lookup.index)
            result = result + Affine((), 0, (Lookup(lookup.coefficient, lookup.value, index),))
        return result

    def replace_values(self, replace: Callable[[Value], Value]) -> Affine:
        """Replace the tensors that lookups read."""
        if not self.lookups:
            return self
        lookups = tuple(
            Lookup(x.coefficient, replace(x.value), tuple(row.replace_values(replace) for row in x.index))
            for x in self.lookups
        )
        return Affine(self.terms, self.constant, lookups)

    def interval(self, extents: Sequence[int] | Mapping[int, int]) -> tuple[int, int] | None:
        """Smallest and largest value over the box of `extents`, both inclusive.

        Returns:
            The bounds, or None where a lookup reads a tensor whose contents are known only at run time.
        """
        low = high = self.constant
        for iterator, coefficient in self.terms:
            span = coefficient * (extents[iterator] - 1)
            low, high = low + min(span, 0), high + max(span, 0)
        for lookup in self.lookups:
            data = lookup.value.data
            if data is None or not lookup.value.is_constant or not data.size:
                return None
            ends = (lookup.coefficient * int(data.min()), lookup.coefficient * int(data.max()))
            low, high = low + min(ends), high + max(ends)
        return low, high


@dataclass(frozen=True, slots=True)
class Guard:
    """The predicate ``lower <= index < upper``: a term of a nest that fails one of its guards does not exist."""

    index: Affine
    lower: int
    upper: int

    def substitute(self, mapping: Mapping[int, Affine] | Sequence[Affine]) -> Guard:
        """The same predicate over another domain."""
        return Guard(self.index.substitute(mapping), self.lower, self.upper)

    def always_holds(self, extents: Sequence[int] | Mapping[int, int]) -> bool:
        """True where every point of the box satisfies the predicate, which is so if there is none."""
        if any(extents[iterator] == 0 for iterator in self.index.iterators()):
            return True
        bounds = self.index.interval(extents)
        return bounds is not None and bounds[0] >= self.lower and bounds[1] < self.upper
