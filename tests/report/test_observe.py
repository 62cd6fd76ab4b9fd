"""Watching changes nothing; the profile adds up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tilegrad as tg
from tilegrad.models import build_model, synthetic_data
from tilegrad.report.observe import IMBALANCE, UNITS, record_step
from tilegrad.report.profile import kernel_table, phase_table, profile_json


def compiled(name: str, **options: Any) -> tuple[tg.Build, list[Any]]:
    module, inputs = build_model(name, seed=2)
    module.train()
    build = tg.compile(module, inputs, tg.losses.CrossEntropy(), tg.optim.SGD(), target="siracusa", **options)
    return build, [synthetic_data(name, 1, seed=3)]


def test_the_kernels_of_speechnet_keep_to_their_buffers_and_watching_changes_nothing(tmp_path: Path) -> None:
    build, batches = compiled("speechnet")
    plain = build.run(batches, 1)
    profile = record_step(build, batches, trace=tmp_path / "trace.json", guard=True)
    assert build.observe is None
    assert profile.cycles == (plain.train_cycles or 0) + (plain.opt_cycles or 0)
    assert sum(profile.phases.values()) == profile.cycles
    assert 0 < profile.phases["between kernels"] < profile.cycles / 20
    assert profile.phases["optimizer"] < profile.phases["forward"] < profile.phases["backward"]
    for kernel in profile.kernels:
        assert sum(kernel.losses.values()) <= kernel.core_cycles == kernel.cycles * 8
        assert kernel.losses[IMBALANCE] >= 0
        assert tuple(kernel.spent) == UNITS
        # The stall of a return may be counted to the kernel or behind it.
        assert 0 <= sum(kernel.spent.values()) - kernel.core_cycles <= 8 * kernel.calls, kernel
    trace = json.loads((tmp_path / "trace.json").read_text())
    shown = {(event["name"], event["tid"]) for event in trace["traceEvents"] if event.get("cat") == "kernel"}
    kernels = {kernel.name for kernel in profile.kernels}
    assert {span for span in shown if span[0] in kernels} == {(name, core) for name in kernels for core in range(8)}
    entries = {f"tilegrad_{entry.name}" for entry in build.plan.entries}
    movers = {name for name, _ in shown} - kernels - entries  # one core moves the data
    assert movers and all(name.endswith(("_load", "_store")) for name in movers)
    assert {core for name, core in shown if name in movers} == {0}
    assert any("blocks_1_conv" in name for name, _ in shown)


def test_every_pass_of_a_step_is_in_the_profile() -> None:
    build, batches = compiled("mlp", accumulate=3)
    profile = record_step(build, batches)
    tiles = {k.name: group.tiles for entry in build.plan.entries for group in entry.groups for k in group.kernels}
    for kernel in profile.kernels:
        assert kernel.calls == (1 if kernel.phase == "optimizer" else 3) * tiles[kernel.name]
    hidden = next(kernel for kernel in profile.kernels if kernel.multiply_adds)
    assert hidden.multiply_adds == 3 * 64 * 64
    assert len(phase_table(profile).rows) == 4
    assert len(kernel_table(profile, 5).rows) == 5
    assert "more kernels" in str(kernel_table(profile, 5).caption)
    assert json.loads(json.dumps(profile_json(profile)))["kernels"][0]["name"] == profile.kernels[0].name


def test_a_program_on_the_machine_itself_cannot_be_watched() -> None:
    module, inputs = build_model("mlp")
    build = tg.compile(module, inputs, tg.losses.CrossEntropy(), tg.optim.SGD())
    with pytest.raises(tg.UserError, match="cannot be watched"):
        record_step(build, [synthetic_data("mlp", 1)])
