"""What a comparison and a plan look like on a terminal, and in a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from rich import box
from rich.table import Table
from rich.text import Text

from tilegrad.verification.compare import TensorRow
from tilegrad.verification.verification import Verification


class LevelUse(Protocol):
    """Use of one memory level, in bytes."""

    @property
    def peak(self) -> int:
        """Most bytes in use at once."""
        ...

    @property
    def lower_bound(self) -> int:
        """Bytes below which no plan can go."""
        ...

    @property
    def capacity(self) -> int | None:
        """Bytes there are; None for no limit."""
        ...


def new_table(title: str) -> Table:
    """An empty table without vertical lines: on a terminal of 80 columns most names of tensors stay whole."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def loss_table(verification: Verification) -> Table:
    """One row per micro-batch: loss, reference, difference, ULP."""
    table = new_table(f"Losses (reference: {verification.reference})")
    accumulates = any(row.index != row.step for row in verification.losses)
    for heading in [
        "step",
        *(["pass"] if accumulates else []),
        "loss",
        "reference",
        "difference",
        "ULP",
        "float32",
        "",
    ]:
        table.add_column(heading, justify="right")
    for row in verification.losses:
        cells = [str(row.step), *([str(row.index)] if accumulates else [])]
        cells += [_loss(row.computed), _loss(row.reference), f"{row.difference:+.1e}", f"{row.ulps:+.1f}"]
        table.add_row(*cells, f"{row.float32 - row.reference:+.1e}", _mark(row.ok))
    table.caption = f"float32: how far {verification.float32} itself is from the reference"
    table.caption_justify = "left"
    return table


def error_table(verification: Verification, limit: int | None = 12) -> Table:
    """The worst errors by tensor: gradients, optimizer, weights and running statistics, beside PyTorch float32's own.

    Args:
        verification: the comparison.
        limit: most rows; those that fail are always shown. None shows all.
    """
    groups: dict[str, dict[str, TensorRow]] = {}
    for row in verification.tensors:
        groups.setdefault(row.name, {})[row.what] = row
    order = sorted(groups, key=lambda name: _rank(groups[name].values()), reverse=True)
    failing = sum(not all(row.ok for row in rows.values()) for rows in groups.values())
    shown = order if limit is None else order[: max(limit, failing)]
    table = new_table("Worst errors by tensor")
    table.add_column("tensor", overflow="fold")
    for heading in ("gradient", "float32", "step", "value", "float32", "granted", ""):
        table.add_column(heading, justify="right")
    for name in shown:
        rows = groups[name]
        gradient, step = rows.get("gradient"), rows.get("optimizer")
        value = next((rows[what] for what in ("weight", "statistic", "frozen") if what in rows), None)
        share = _rank(rows.values())[1]
        table.add_row(
            Text(name),
            _number(gradient, "rms"), _number(gradient, "float32_rms"), _number(step, "error"),
            _number(value, "error"), _number(value, "float32_error"),
            f"{share:.0%}" if math.isfinite(share) else "-", _mark(all(row.ok for row in rows.values())),
        )  # fmt: skip
    rest = len(groups) - len(shown)
    caption = [
        "gradient: error / sum |terms|, in root mean square",
        "step: weights after one step against the optimizer in float64 on our gradients",
        "value: weights or statistics after the last step",
        f"float32: {verification.float32}'s own error",
        "granted: the largest share of what is granted to an element that an error uses",
    ]
    if rest:
        caption.append(f"{rest} more tensors agree better")
    table.caption = "\n".join(caption)
    table.caption_justify = "left"
    return table


def memory_table(memory: Mapping[str, LevelUse]) -> Table:
    """Peak, lower bound and capacity of every memory level."""
    table = new_table("Memory in bytes")
    table.add_column("level")
    for heading in ("peak", "lower bound", "peak / bound", "capacity"):
        table.add_column(heading, justify="right")
    for name, use in memory.items():
        ratio = f"{use.peak / use.lower_bound:.3f}" if use.lower_bound else "-"
        capacity = "-" if use.capacity is None else f"{use.capacity:,}"
        table.add_row(Text(name), f"{use.peak:,}", f"{use.lower_bound:,}", ratio, capacity)
    return table


def memory_lines(memory: Mapping[str, LevelUse]) -> list[str]:
    """The same as plain text, one line per level."""
    return [
        f"{name}: peak {use.peak:,} bytes, lower bound {use.lower_bound:,}"
        + ("" if use.capacity is None else f", capacity {use.capacity:,}")
        for name, use in memory.items()
    ]


def verdict_lines(verification: Verification, limit: int = 20) -> list[str]:
    """What agrees, or what does not: at most `limit` failures, then how many more there are."""
    lines = [f"note: {note}" for note in verification.notes]
    size = verification.update_size
    if size is not None and math.isfinite(size.ratio):
        lines.append(f"first update / the optimizer's in float64: {size.ratio:.8f}")
    failures = verification.failures
    if verification.ok:
        return [*lines, f"everything agrees with {verification.reference}"]
    lines += [f"wrong: {failure}" for failure in failures[:limit]]
    if len(failures) > limit:
        lines.append(f"... and {len(failures) - limit} more")
    return [*lines, f"does NOT agree with {verification.reference}"]


def to_json(
    verification: Verification, run: Any, memory: Mapping[str, LevelUse], weight_bytes: int, seconds: float
) -> dict[str, Any]:
    """Everything that was found, as JSON values; numbers that are not finite become strings.

    Args:
        verification: the comparison.
        run: the run that was compared.
        memory: use of every level.
        weight_bytes: bytes of the trainable weights.
        seconds: time the whole took.
    """
    size = verification.update_size
    return {
        "ok": verification.ok,
        "reference": verification.reference,
        "float32_reference": verification.float32,
        "losses": [_json(row.computed) for row in verification.losses],
        "reference_losses": [_json(row.reference) for row in verification.losses],
        "float32_losses": [_json(row.float32) for row in verification.losses],
        "loss_differences": [_json(row.difference) for row in verification.losses],
        "loss_ulps": [_json(row.ulps) for row in verification.losses],
        "errors": {
            "gradients": _rows(verification.gradients),
            "derivation": _rows(verification.derivation),
            "optimizer": _rows(verification.optimizer),
            "weights": _rows(verification.weights),
            "statistics": _rows(verification.statistics),
            "frozen": _rows(verification.frozen),
            "update_ratio": None if size is None else _json(size.ratio),
            "directions": [
                {"derived": _json(d.derived), "measured": _json(d.measured), "ok": ok}
                for d, ok in verification.directions
            ],
        },
        "failures": verification.failures,
        "notes": list(verification.notes),
        "train_cycles": run.train_cycles,
        "opt_cycles": run.opt_cycles,
        "weight_bytes": weight_bytes,
        "memory": {
            name: {"peak": use.peak, "lower_bound": use.lower_bound, "capacity": use.capacity}
            for name, use in memory.items()
        },
        "seconds": seconds,
    }


def _rows(rows: Sequence[TensorRow]) -> list[dict[str, Any]]:
    return [
        {
            "name": row.name, "what": row.what, "elements": row.elements, "ok": row.ok, "error": _json(row.error),
            "relative": _json(row.relative), "rms": _json(row.rms), "share": _json(row.share),
            "float32_error": _json(row.float32_error), "float32_relative": _json(row.float32_relative),
            "float32_rms": _json(row.float32_rms), "note": row.note,
        }
        for row in rows
    ]  # fmt: skip


def _json(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)


def _rank(rows: Iterable[TensorRow]) -> tuple[bool, float]:
    """Worst first: what fails, then what uses most of what is granted.

    One step of the optimizer always uses half of it, the rounding of the weight, and says nothing while it passes.
    """
    listed = list(rows)
    shares = [row.share for row in listed if row.what != "optimizer" or not row.ok]
    largest = max((math.inf if math.isnan(share) else share for share in shares), default=0.0)
    return not all(row.ok for row in listed), largest


def _loss(number: float) -> str:
    return f"{number:.7f}" if abs(number) < 1e6 else f"{number:.6e}"


def _number(row: TensorRow | None, field: str) -> str:
    return "" if row is None else f"{getattr(row, field):.1e}"


def _mark(ok: bool) -> Text:
    return Text("ok", "green") if ok else Text("WRONG", "bold red")
