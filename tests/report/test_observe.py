"""Watching changes nothing; a planted error is caught by the names of kernel and buffer; the profile adds up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import tilegrad as tg
from tilegrad.models import build_model, synthetic_data
from tilegrad.report.guard import guarded
from tilegrad.report.observe import IMBALANCE, UNITS, record_step
from tilegrad.report.profile import kernel_table, phase_table, profile_json


def compiled(name: str, **options: Any) -> tuple[tg.Build, list[Any]]:
    module, inputs = build_model(name, seed=2)
    module.train()
    build = tg.compile(module, inputs, tg.losses.CrossEntropy(), tg.optim.SGD(), target="siracusa", **options)
    return build, [synthetic_data(name, 1, seed=3)]


def plant(build: tg.Build, entry: str, kernel: str, old: str, new: str) -> None:
    """Changes the one line of a generated kernel that has the text `old`."""
    path = build.c_project / "src" / f"tilegrad_{entry}.c"
    head, start, rest = path.read_text().partition(f"static TG_KERNEL void {kernel}(")
    body, end, tail = rest.partition("\n}\n")
    assert start and body.count(old) == 1, body
    path.write_text(head + start + body.replace(old, new) + end + tail)


def kernel_named(build: tg.Build, pattern: str) -> str:
    names = [k.name for entry in build.plan.entries for k in entry.kernels if re.fullmatch(pattern, k.name)]
    assert len(names) == 1, names
    return names[0]


def test_a_write_one_element_beyond_a_static_buffer_is_caught() -> None:
    build, batches = compiled("mlp")
    kernel = kernel_named(build, "optimize_.*_head_bias")
    plant(build, "optimize", kernel, "_2[i0] =", "_2[i0 + 1] =")
    guarded(build)
    with pytest.raises(
        tg.RunError, match=rf"kernel '{kernel}' writes 4 bytes.*offset 40 of its buffer 'parameter_head_bias'"
    ):
        build.run(batches, 1)


def test_a_write_one_element_beyond_a_buffer_of_the_arena_is_caught() -> None:
    """The write lands inside the arena, so nothing but the plan knows that it is wrong."""
    build, batches = compiled("mlp")
    plan = next(entry for entry in build.plan.entries if entry.name == "train")
    kernel = next(k for k in plan.kernels if k.name.endswith("forward_relu"))
    (storage,) = kernel.writes.values()
    assert storage.offset is not None
    plant(build, "train", kernel.name, "i1] = ", "i1 + 1] = ")
    guarded(build)
    expected = rf"kernel '{kernel.name}' writes 4 bytes.*offset 256 of its buffer '{storage.name}', which has 256 bytes"
    with pytest.raises(tg.RunError, match=expected):
        build.run(batches, 1)


def test_a_read_of_a_buffer_that_is_not_alive_is_caught() -> None:
    """What a kernel reads by mistake lies in the arena, too, but belongs to no operand of it."""
    build, batches = compiled("mlp")
    plan = next(entry for entry in build.plan.entries if entry.name == "train")
    place, kernel = next((i, k) for i, k in enumerate(plan.kernels) if k.name.endswith("forward_relu_1"))
    (source,) = (storage for storage in kernel.reads.values() if storage.offset is not None)
    used = {storage.name for storage in (*kernel.reads.values(), *kernel.writes.values())}
    dead = next(s for s in plan.storages if s.offset is not None and s.lower > place and s.name not in used)
    assert source.offset is not None and dead.offset is not None
    plant(build, "train", kernel.name, "x_hidden_1[i1]", f"x_hidden_1[i1 + ({(dead.offset - source.offset) // 4})]")
    guarded(build)
    with pytest.raises(tg.RunError, match=rf"kernel '{kernel.name}' reads 4 bytes at .*; buffer '.*' of kernel"):
        build.run(batches, 1)


def test_the_kernels_of_speechnet_keep_to_their_buffers_and_watching_changes_nothing(tmp_path: Path) -> None:
    build, batches = compiled("speechnet")
    plain = build.run(batches, 1)
    profile = record_step(build, batches, trace=tmp_path / "trace.json", guard=True)
    assert build.observe is None
    assert profile.cycles == (plain.train_cycles or 0) + (plain.opt_cycles or 0)
    assert sum(profile.phases.values()) == profile.cycles
    assert 0 < profile.phases["between kernels"] < profile.cycles / 100
    assert profile.phases["optimizer"] < profile.phases["forward"] < profile.phases["backward"]
    for kernel in profile.kernels:
        assert sum(kernel.losses.values()) <= kernel.core_cycles == kernel.cycles * 8
        assert kernel.losses[IMBALANCE] >= 0
        assert tuple(kernel.spent) == UNITS
        # The stall of a return may be counted to the kernel or behind it.
        assert 0 <= sum(kernel.spent.values()) - kernel.core_cycles <= 8 * kernel.calls, kernel
    trace = json.loads((tmp_path / "trace.json").read_text())
    shown = {(event["name"], event["tid"]) for event in trace["traceEvents"] if event.get("cat") == "kernel"}
    assert shown == {(kernel.name, core) for kernel in profile.kernels for core in range(8)}
    assert any("blocks_1_conv" in name for name, _ in shown)


def test_every_pass_of_a_step_is_in_the_profile() -> None:
    build, batches = compiled("mlp", accumulate=3)
    profile = record_step(build, batches)
    calls = {kernel.phase: kernel.calls for kernel in profile.kernels}
    assert (calls["forward"], calls["backward"]) == (3, 3)
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
