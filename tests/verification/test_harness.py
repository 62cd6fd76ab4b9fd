"""The lines that scripts of existing on-device training flows parse."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
from tests.verification.fake_build import change, make_batches, standard_build

from tilegrad.verification import verify
from tilegrad.verification.harness import harness_lines

LOSS = re.compile(r"\[loss (\d+)\] computed=(-?\d+\.\d{6})  ref=(-?\d+\.\d{6})  diff=(\d+\.\d{6})")
ERRORS = re.compile(r"Errors: (\d+) out of (\d+)")
BENCH = re.compile(r"BENCH train_cycles=(\d+) opt_cycles=(\d+) weight_sram=(\d+)")
BATCHES = make_batches()


def test_a_run_that_agrees() -> None:
    net, build = standard_build(accumulate=2)
    verification = verify(net, build, BATCHES, steps=2)
    run = replace(verification.run, train_cycles=2**40, opt_cycles=429083)
    *losses, errors, bench = harness_lines(verification, run, 61956)
    found = [LOSS.fullmatch(line) for line in losses]
    assert [match and int(match[1]) for match in found] == [0, 1, 2, 3]
    assert [match and float(match[2]) for match in found] == [round(float(x), 6) for x in run.losses]
    assert errors == "Errors: 0 out of 4"
    assert bench == f"BENCH train_cycles={2**40} opt_cycles=429083 weight_sram=61956"


def test_wrong_losses_are_counted() -> None:
    net, build = standard_build()
    broken = build.with_faults(result=lambda run: replace(run, losses=run.losses + np.array([0, 1, 1], np.float32)))
    verification = verify(net, broken, BATCHES, steps=3)
    assert "Errors: 2 out of 3" in harness_lines(verification, verification.run, 0)


def test_a_program_that_is_wrong_elsewhere_does_not_report_zero_errors() -> None:
    net, build = standard_build()
    broken = build.with_faults(gradients=change("inner.bias", lambda g: g + np.float32(1e-3)))
    verification = verify(net, broken, BATCHES, steps=1)
    assert all(row.ok for row in verification.losses)
    assert "Errors: 1 out of 1" in harness_lines(verification, verification.run, 0)


def test_targets_without_a_counter_and_losses_that_are_nan_keep_the_form() -> None:
    net, build = standard_build()
    broken = build.with_faults(result=lambda run: replace(run, losses=run.losses * np.float32(np.nan)))
    verification = verify(net, broken, BATCHES, steps=1)
    loss, errors, bench = harness_lines(verification, verification.run, 7)
    assert loss.startswith("[loss 0] computed=nan  ref=")
    assert ERRORS.fullmatch(errors)
    match = BENCH.fullmatch(bench)
    assert match is not None
    assert match.groups() == ("0", "0", "7")
