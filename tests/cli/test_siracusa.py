"""`tilegrad train --target siracusa`: real cycles, the number of cores, the machine's bound; watching the program."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from cli_harness import invoke, refused

from tilegrad.planning.plan import Plan
from tilegrad.report import guard
from tilegrad.simulator import Region
from tilegrad.simulator.elf import Image


def test_cycles_and_the_bound_are_reported(tmp_path: Path) -> None:
    result = invoke("train", "mlp", "--target", "siracusa", "--cores", 2, "--steps", 2, "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    assert "target: siracusa with 2 of 8 cores" in result.stdout
    assert "Errors: 0 out of 2" in result.stdout
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["train_cycles"] > 0 and found["opt_cycles"] > 0
    assert f"BENCH train_cycles={found['train_cycles']} opt_cycles={found['opt_cycles']} " in result.stdout
    work = found["work"]
    assert found["cores"] == 2
    assert work["train_cycles_per_pass"] * 2 == found["train_cycles"]
    assert work["bound_cycles"] == work["multiply_adds"] / 4
    assert work["cycles_over_bound"] > 2, "two cores cannot start four multiply-adds in a cycle"
    step = f"{(found['train_cycles'] + found['opt_cycles']) / 2:,.0f}"
    assert re.search(
        rf"^cycles per step: {step} \(forward and backward [\d,]+, optimizer [\d,]+\)$", result.stdout, re.M
    )
    assert f"{work['cycles_over_bound']:.2f} times that" in result.stdout


def test_the_team_of_the_generated_code_is_the_one_asked_for(tmp_path: Path) -> None:
    for cores in (1, 4):
        out = tmp_path / str(cores)
        result = invoke("compile", "mlp", "--target", "siracusa", "--cores", cores, "--out", out)
        assert result.exit_code == 0, result.output
        assert json.loads((out / "plan.json").read_text())["cores"] == cores


def test_cores_that_the_target_does_not_have_are_refused() -> None:
    refused(invoke("train", "mlp", "--cores", 2), "target 'host' has one core")
    refused(invoke("compile", "mlp", "--target", "siracusa", "--cores", 9), "1 to 8 cores, not 9")


def test_profile_trace_and_guard_of_a_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    result = invoke(
        "train", "mlp", "--target", "siracusa", "--steps", 1, "--profile", "--guard", "--trace", trace,
        "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for part in (
        "Cycles of the first step by phase",
        "optimizer",
        "lost most to",
        "forward_hidden_0",
        f"is in {trace}",
    ):
        assert part in result.stdout
    found = json.loads((tmp_path / "r.json").read_text())
    profile = found["profile"]
    assert profile["cycles"] == found["train_cycles"] + found["opt_cycles"]
    assert sum(kernel["multiply_adds"] for kernel in profile["kernels"]) == found["work"]["multiply_adds"]
    assert any(event.get("cat") == "kernel" for event in json.loads(trace.read_text())["traceEvents"])


def test_a_kernel_that_leaves_its_buffer_ends_a_guarded_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan that the guard knows gives a buffer one element less than the code uses."""
    regions = guard.regions

    def less(plan: Plan, image: Image) -> dict[str, list[Region]]:
        return {
            kernel: [
                replace(region, size=region.size - 4) if region.buffer == "parameter_head_bias" else region
                for region in found
            ]
            for kernel, found in regions(plan, image).items()
        }

    monkeypatch.setattr(guard, "regions", less)
    assert invoke("train", "mlp", "--target", "siracusa", "--steps", 1).exit_code == 0
    result = invoke("train", "mlp", "--target", "siracusa", "--steps", 1, "--guard")
    refused(result, "offset 36 of its buffer 'parameter_head_bias', which has 36 bytes")


def test_watching_needs_a_simulated_target_and_a_folder(tmp_path: Path) -> None:
    refused(invoke("train", "mlp", "--guard", "--profile"), "--guard and --profile", "'host'", "siracusa")
    trace = tmp_path / "nowhere" / "trace.json"
    refused(invoke("train", "mlp", "--target", "siracusa", "--trace", trace), "there is no folder")
