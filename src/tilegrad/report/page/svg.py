"""Drawings as text: elements whose attributes and contents are escaped, round ticks, numbers for readers."""

from __future__ import annotations

import math
from collections.abc import Iterable

from markupsafe import Markup, escape


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element; whatever is not markup already is escaped.

    Args:
        name: of the element.
        children: its contents, in order.
        attributes: None leaves one out; ``class_`` stands for ``class``, an underscore for a hyphen.
    """
    parts = [
        Markup(' {}="{}"').format(_name(key), _text(value)) for key, value in attributes.items() if value is not None
    ]
    head = Markup("<") + name + Markup("").join(parts)
    if not children:
        return head + Markup("/>")
    return head + Markup(">") + Markup("").join(map(escape, children)) + Markup("</{}>").format(name)


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-") if key != "viewBox" else key


def _text(value: object) -> str:
    return coordinate(value) if isinstance(value, float) else str(value)


def coordinate(number: float) -> str:
    """A number with two decimals at most, the same on every machine."""
    text = f"{number:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("", "-0") else text


def drawing(width: float, height: float, title: str, description: str, *children: object) -> Markup:
    """A drawing with a name and a text that stands for it."""
    return tag(
        "svg", tag("title", title), tag("desc", description), *children,
        viewBox=f"0 0 {coordinate(width)} {coordinate(height)}", role="img", class_="drawing",
        aria_label=f"{title}. {description}",
    )  # fmt: skip


def hint(text: str) -> Markup:
    """What appears when a pointer rests on the element that it is the first child of."""
    return tag("title", text)


def text(x: float, y: float, content: object, **attributes: object) -> Markup:
    """A line of text."""
    return tag("text", content, x=float(x), y=float(y), **attributes)


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> Markup:
    """A straight line."""
    return tag("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), **attributes)


def box(x: float, y: float, width: float, height: float, *children: object, **attributes: object) -> Markup:
    """A rectangle."""
    return tag(
        "rect",
        *children,
        x=float(x),
        y=float(y),
        width=float(max(width, 0)),
        height=float(max(height, 0)),
        **attributes,
    )


def path(points: Iterable[tuple[float, float]], *, close: bool = False, **attributes: object) -> Markup:
    """Straight lines from point to point."""
    steps = [f"{'M' if k == 0 else 'L'}{coordinate(x)} {coordinate(y)}" for k, (x, y) in enumerate(points)]
    return tag("path", d="".join(steps) + ("Z" if close else ""), **attributes)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them: 1, 2 or 5 times a power of ten apart."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def integer(number: float) -> str:
    """A whole number with separators."""
    return f"{number:,.0f}"


def short(number: float) -> str:
    """Three digits and a unit: 1.23 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size * 0.9995:
            return f"{_three(number / size)} {unit}"
    return _three(number)


def size(number: float) -> str:
    """Bytes for readers: kB and MB are powers of ten, as budgets are."""
    return f"{short(number)}{'B' if abs(number) >= 999.5 else ' B'}"


def _three(number: float) -> str:
    if number == int(number) and abs(number) < 1000:
        return f"{number:.0f}"
    digits = 0 if abs(number) >= 99.95 else 1 if abs(number) >= 9.995 else 2
    return f"{number:.{digits}f}"


def fit(content: str, width: float, letter: float = 6.1) -> str:
    """As much of a text as a width holds; nothing where that would say nothing."""
    room = int(width / letter)
    if len(content) <= room:
        return content
    return content[: room - 1] + "…" if room >= 5 else ""
