"""Budgets of memory on the command line: numbers that are refused by name, and what a summary says of the plan."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from cli_harness import invoke, refused

from tilegrad.api import Build
from tilegrad.cli.summary import plan_notes


@pytest.mark.parametrize("value", ["abc", "0", "-5", "1.5", "64k"])
def test_what_is_no_number_of_bytes_is_refused(value: str) -> None:
    result = invoke("compile", "mlp", "--target", "siracusa", f"--l1={value}")
    refused(result, f"'{value}' is not a number of bytes")


def test_what_was_done_for_the_budget_is_told_with_the_sizes_of_the_program(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    budget = invoke("train", "mlp", "--target", "siracusa", "--steps", 1, "--l2", 75_000, "--json", file)
    assert budget.exit_code == 0, budget.output
    found = json.loads(file.read_text())
    assert found["plan_notes"], "the tensors of the network need more than the budget"
    for note in found["plan_notes"]:
        assert f"for the budget: {note}\n" in budget.stdout
    tensors = sum(use["peak"] for use in found["memory"].values())
    everything = tensors + found["code_bytes"] + found["constant_bytes"]
    sums = re.search(r"all memories together ([\d,]+) bytes, with code and constants ([\d,]+)$", budget.stdout, re.M)
    assert sums is not None
    assert [int(number.replace(",", "")) for number in sums.groups()] == [tensors, everything]


def test_nothing_is_told_where_the_target_measures_no_code() -> None:
    result = invoke("train", "mlp", "--steps", 1)
    assert result.exit_code == 0
    assert "for the budget" not in result.stdout and "all memories together" not in result.stdout


def test_compiling_tells_what_was_done_for_the_budget(tmp_path: Path) -> None:
    result = invoke("compile", "mlp", "--target", "siracusa", "--l2", 75_000, "--out", tmp_path / "c")
    assert result.exit_code == 0, result.output
    assert "for the budget: " in result.stdout


def test_targets_tell_runners_and_memories_that_only_transfers_reach() -> None:
    listed = invoke("targets").stdout
    assert "memory L3: 8,388,608 bytes, alignment 64, reached by transfers only" in listed
    assert "memory L2: 2,000,000 bytes of 2,031,616, alignment 64\n" in listed
    assert "runners: sim, gvsoc [default: sim]" in listed


def test_long_lists_of_what_was_done_are_cut() -> None:
    notes = tuple(f"tensor {k}" for k in range(11))
    lines = plan_notes(cast(Build, SimpleNamespace(plan=SimpleNamespace(notes=notes))))
    assert lines[:8] == [f"for the budget: tensor {k}" for k in range(8)]
    assert lines[8:] == ["for the budget: 3 more; `tilegrad inspect --plan` lists all"]
