"""Lines of C, and the ranges that loops run over."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Dictionary
from contextlib import contextmanager
from dataclasses import dataclass


class Writer:
    """Lines of C with indentation."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 1

    def line(self, text: str) -> None:
        """Append one line."""
        self.lines.append("    " * self.depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """A braced block."""
        self.line(f"{head} {{" if head else "{")
        self.depth += 1
        yield
        self.depth -= 1
        self.line("}")


@dataclass(frozen=True)
class Range:
    """The part of an iterator, or of an axis, that a tile covers.

    Attributes:
        first: C text of its first index.
        last: C text of the index behind its last.
        count: how many there are, where that is the same in every tile; else None.
        most: the most there are in any tile.
        short: how many there are in tiles that do not have the most, where these all have the same number; else None.
    """

    first: str
    last: str
    count: int | None
    most: int
    short: int | None = None

    @staticmethod
    def whole(extent: int) -> Range:
        """All of it."""
        return Range("0", str(extent), extent, extent)

    @property
    def literal(self) -> tuple[int, int] | None:
        """First index and the one behind the last as numbers, or None where they differ from tile to tile."""
        return (int(self.first), int(self.last)) if self.first.isdigit() and self.last.isdigit() else None

    @property
    def size(self) -> str:
        """C text of how many there are."""
        return str(self.count) if self.count is not None else f"({self.last} - {self.first})"

    def exactly(self, count: int) -> Range:
        """The range in a tile that has this many."""
        return Range(self.first, f"({self.first} + {count})", count, count)

    def blocks(self, step: int) -> str:
        """C text of how many whole blocks of `step` elements there are."""
        if self.count is not None:
            return str(self.count // step)
        return self.size if step == 1 else f"({self.size} / {step})"

    def sections(self, step: int) -> list[tuple[Range, int]]:
        """Cut into ranges that are whole numbers of blocks: pairs (range, size of its blocks); empty ones left out."""
        if step == 1 or (self.count is not None and self.count % step == 0):
            return [(self, step)] if self.count != 0 else []
        if self.count is None:
            middle = f"({self.first} + {self.size} / {step} * {step})"
            return [
                (Range(self.first, middle, None, self.most // step * step), step),
                (Range(middle, self.last, None, step - 1), 1),
            ]
        rest = self.count % step
        whole = self.count - rest
        numbers = self.literal
        middle = str(numbers[0] + whole) if numbers is not None else f"({self.first} + {whole})"
        first = [(Range(self.first, middle, whole, whole), step)] if whole else []
        return [*first, (Range(middle, self.last, rest, rest), rest)]


#: Ranges of the iterators that tiles cut, by position.
Ranges = Dictionary[int, Range]


@dataclass(frozen=True)
class Chain:
    """Sums that run over several tiles, the accumulators in the outputs between them.

    Attributes:
        start: C text of a condition: this is the first tile of the sum.
        end: C text of a condition: this is the last one.
    """

    start: str = "tg_start"
    end: str = "tg_end"


def product(counts: Sequence[str]) -> str:
    """C text of a product, its literal factors multiplied."""
    fixed = math.prod(int(count) for count in counts if count.isdigit())
    texts = [count for count in counts if not count.isdigit()]
    if not texts or fixed == 0:
        return str(fixed)
    text = " * ".join([str(fixed), *texts] if fixed != 1 else texts)
    return f"({text})" if len(texts) > 1 or fixed != 1 else text


def offset(base: str, distance: str) -> str:
    """C text of a sum of which one part may be 0 or both may be numbers."""
    if base.isdigit() and distance.isdigit():
        return str(int(base) + int(distance))
    if "0" in (base, distance):
        return base if distance == "0" else distance
    return f"{base} + {distance}"


def fold(function: str, texts: Sequence[str]) -> str:
    """A function of two operands applied to all texts; repeated ones and numbers are folded."""
    pick = max if function == "tg_max" else min
    numbers = [int(text) for text in texts if text.lstrip("-").isdigit()]
    others = [text for text in dict.fromkeys(texts) if not text.lstrip("-").isdigit()]
    found = [*others, *([str(pick(numbers))] if numbers else [])]
    result = found[0]
    for text in found[1:]:
        result = f"{function}({result}, {text})"
    return result
