"""Tables and JSON say what was found, also where it is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from tests.verification.fake_build import change, make_batches, standard_build

from tilegrad.report.tables import (
    error_table,
    loss_table,
    memory_lines,
    memory_table,
    to_json,
    verdict_lines,
)
from tilegrad.verification import Verification, verify

BATCHES = make_batches()


@dataclass(frozen=True)
class Level:
    peak: int
    lower_bound: int
    capacity: int | None


MEMORY = {"l2": Level(302_644, 251_108, 1_572_864), "[ram]": Level(0, 0, None)}


def text(table: Any, width: int = 110) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def verification(gradients: Callable[..., Any] | None = None, **options: Any) -> Verification:
    net, build = standard_build(**options)
    if gradients is not None:
        build = build.with_faults(gradients=gradients)
    return verify(net, build, BATCHES, steps=2)


def test_losses_stand_beside_their_reference() -> None:
    found = verification(accumulate=2)
    shown = text(loss_table(found))
    for row in found.losses:
        assert f"{row.computed:.7f}" in shown
        assert f"{row.reference:.7f}" in shown
    assert "ULP" in shown
    assert "pass" in shown
    assert "pass" not in text(loss_table(verification()))


def test_tensors_are_listed_worst_first_and_failures_always() -> None:
    found = verification(change("head.bias", lambda g: g * 1.01))
    shown = text(error_table(found, limit=1))
    lines = shown.splitlines()
    first = lines[next(number for number, line in enumerate(lines) if "───" in line) + 1]
    assert "head.bias" in first
    assert "WRONG" in first
    everything = text(error_table(verification(), limit=None))
    for name in ("inner.weight", "norm.running_mean", "head.bias"):
        assert name in everything
    assert "WRONG" not in everything
    assert "more tensors agree better" in text(error_table(verification(), limit=2))


def test_memory_is_shown_with_bound_and_capacity() -> None:
    shown = text(memory_table(MEMORY))
    for part in ("l2", "302,644", "251,108", "1.205", "1,572,864", "[ram]"):
        assert part in shown
    assert memory_lines(MEMORY) == [
        "l2: peak 302,644 bytes, lower bound 251,108, capacity 1,572,864",
        "[ram]: peak 0 bytes, lower bound 0",
    ]


def test_the_verdict() -> None:
    good = verdict_lines(verification())
    assert good[-1].startswith("everything agrees with PyTorch")
    bad = verdict_lines(verification(lambda g: {name: -array for name, array in g.items()}), limit=3)
    assert bad[-1].startswith("does NOT agree")
    assert sum(line.startswith("wrong: ") for line in bad) == 3
    assert any("more" in line for line in bad)


def test_json_holds_everything() -> None:
    found = verification()
    content = json.loads(json.dumps(to_json(found, found.run, MEMORY, 61956, 1.5), allow_nan=False))
    assert {"ok", "losses", "reference_losses", "errors", "train_cycles", "opt_cycles", "weight_bytes", "memory"} < set(
        content
    )
    assert content["ok"] is True
    assert content["losses"] == [float(loss) for loss in found.run.losses]
    assert content["seconds"] == 1.5
    assert content["weight_bytes"] == 61956
    assert content["memory"]["l2"] == {"peak": 302_644, "lower_bound": 251_108, "capacity": 1_572_864}
    names = [row["name"] for row in content["errors"]["gradients"]]
    assert names == [row.name for row in found.gradients]
    assert content["errors"]["weights"][0]["share"] <= 1


def test_json_has_no_nan() -> None:
    found = verification(change("head.bias", lambda g: g * np.nan))
    content = json.loads(json.dumps(to_json(found, found.run, MEMORY, 0, 0.0), allow_nan=False))
    assert content["ok"] is False
    (row,) = [row for row in content["errors"]["gradients"] if row["name"] == "head.bias"]
    assert row["error"] == "nan"
    assert "NaN" in row["note"]
    assert content["failures"]
