"""The loss curve beside the reference, and how far everything is from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from tilegrad.report.page import svg
from tilegrad.verification.compare import LossRow, TensorRow
from tilegrad.verification.verification import Verification

WIDTH, HEIGHT = 1080.0, 256.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 74.0, 16.0, 14.0, 40.0


def curve(rows: Sequence[LossRow], reference: str) -> Markup:
    """Loss by micro-batch: ours as points on the reference's line."""
    values = [v for row in rows for v in (row.computed, row.reference) if math.isfinite(v)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = (high - low) * 0.08 or max(abs(high) * 0.05, 1e-6)
    low, high = low - margin, high + margin
    right, floor = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    step = (right - _LEFT) / max(len(rows) - 1, 1)

    def place(row: LossRow, value: float) -> tuple[float, float]:
        x = _LEFT + row.index * step if len(rows) > 1 else (_LEFT + right) / 2
        return x, floor - (value - low) / (high - low) * (floor - _TOP)

    drawn: list[Markup] = []
    for tick in svg.ticks(low, high, 5):
        at = floor - (tick - low) / (high - low) * (floor - _TOP)
        drawn.append(svg.line(_LEFT - 4, at, right, at, class_="grid"))
        drawn.append(svg.text(_LEFT - 8, at + 4, f"{tick:.6g}", class_="axis", text_anchor="end"))
    for index in _marked(len(rows)):
        x = place(rows[index], low)[0]
        drawn.append(svg.line(x, floor, x, floor + 4, class_="grid"))
        drawn.append(svg.text(x, floor + 17, index, class_="axis", text_anchor="middle"))
    accumulates = any(row.index != row.step for row in rows)
    name = "micro-batch" if accumulates else "step"
    drawn.append(svg.text((_LEFT + right) / 2, HEIGHT - 3, name, class_="axis", text_anchor="middle"))
    for piece in _pieces([place(row, row.reference) if math.isfinite(row.reference) else None for row in rows]):
        drawn.append(svg.path(piece, class_="reference"))
    for row in rows:
        if not math.isfinite(row.computed):
            continue
        x, y = place(row, row.computed)
        words = f"{name} {row.index}: {row.computed:.9g}, reference {row.reference:.9g} ({row.ulps:+.1f} ULP)"
        drawn.append(
            svg.tag("circle", svg.hint(words), cx=x, cy=y, r=4.0 if len(rows) <= 60 else 2.0,
                    class_="point" if row.ok else "point wrong")
        )  # fmt: skip
    if rows:
        first, last = rows[0].computed, rows[-1].computed
        description = f"{len(rows)} losses from {first:.6g} to {last:.6g}; the line is {reference}."
    else:
        description = "No losses."
    return svg.drawing(WIDTH, HEIGHT, "Loss", description, *drawn)


def _marked(count: int) -> list[int]:
    return [int(tick) for tick in svg.ticks(0, count - 1, 10) if tick == int(tick)] if count > 1 else [0] * count


def _pieces(points: Iterable[tuple[float, float] | None]) -> list[list[tuple[float, float]]]:
    """Runs of points without gaps."""
    found: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            found.append([])
        else:
            found[-1].append(point)
    return [piece for piece in found if piece]


def tensor_rows(verification: Verification) -> list[tuple[str, dict[str, TensorRow], float, bool]]:
    """Every tensor with its rows by what was compared, the largest share of what is granted, and the verdict.

    Those that fail come first, then those that use most of what is granted. One optimizer step always uses half, the
    rounding of the weight, and says nothing while it passes.
    """
    groups: dict[str, dict[str, TensorRow]] = {}
    for row in verification.tensors:
        groups.setdefault(row.name, {})[row.what] = row
    found = []
    for name, rows in groups.items():
        shares = [row.share for row in rows.values() if row.what != "optimizer" or not row.ok]
        share = max((math.inf if math.isnan(share) else share for share in shares), default=0.0)
        value = next((rows[what] for what in ("weight", "statistic", "frozen") if what in rows), None)
        if value is not None:
            rows = {**rows, "value": value}
        found.append((name, rows, share, all(row.ok for row in rows.values())))
    return sorted(found, key=lambda entry: (entry[3], -entry[2]))
