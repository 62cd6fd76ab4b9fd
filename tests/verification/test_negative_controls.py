"""Verification cannot be fooled: every fault makes it fail, and the program without faults passes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.verification.fake_build import (
    Array,
    Arrays,
    FakeBuild,
    Run,
    change,
    drop_term,
    make_batches,
    make_build,
    make_net,
    standard_build,
)

from tilegrad.errors import UserError
from tilegrad.ir.graph import StructuredOp
from tilegrad.training.optimizers import SGD, Adam, AdamW
from tilegrad.verification import Verification, verify

BATCHES = make_batches()
MOMENTUM = SGD(lr=0.05, momentum=0.9)
ADAM = Adam(lr=1e-3)


def outcome(model: torch.nn.Module, build: FakeBuild, **options: Any) -> Verification:
    return verify(model, build, BATCHES, steps=3, **options)


def failing(verification: Verification) -> set[str]:
    assert not verification.ok
    assert verification.failures
    kinds = {row.what for row in verification.tensors if not row.ok}
    if not all(row.ok for row in verification.losses):
        kinds.add("loss")
    if verification.update_size is not None and not verification.update_size.ok:
        kinds.add("update size")
    return kinds


@pytest.mark.parametrize("optimizer", [SGD(lr=0.05), MOMENTUM, ADAM, AdamW(lr=1e-2, amsgrad=True)], ids=repr)
def test_the_untouched_program_passes(optimizer: Any) -> None:
    net, build = standard_build(optimizer=optimizer)
    verification = outcome(net, build)
    assert verification.failures == []
    assert verification.ok
    assert all(row.share < 0.7 for row in verification.tensors)
    assert all(abs(row.difference) < 0.5 * row.allowed for row in verification.losses)
    assert {row.name for row in verification.gradients} == {name for name, _ in net.named_parameters()}
    assert {row.name for row in verification.statistics} == {"norm.running_mean", "norm.running_var"}


def one_element(value: float) -> Callable[[Array], Array]:
    def put(array: Array) -> Array:
        array = array.copy()
        array.flat[array.size // 2] = value
        return array

    return put


@pytest.mark.parametrize("name", ["inner.weight", "norm.bias", "middle.weight", "head.weight", "head.bias"])
def test_a_dropped_gradient_term_fails(name: str) -> None:
    net = make_net()
    build = make_build(net)
    train = build.program.entries[0]
    stored = next(s.value for s in train.stores if s.target is build.program.gradient_buffers[name])
    drop_term(train, stored)
    assert "gradient" in failing(outcome(net, build))


def test_a_dropped_contribution_of_a_skip_connection_fails() -> None:
    net = make_net()
    build = make_build(net)
    sums = [
        op
        for op in build.program.entries[0].ops
        if isinstance(op, StructuredOp) and op.phase == "backward" and op.is_elementwise
        and op.nests[0].results[0].exprs[0].op == "add"
    ]  # fmt: skip
    assert sums, "the skip connection adds two gradients"
    nest = sums[0].nests[0]
    kept = nest.results[0].exprs[0].args[0]
    sums[0].nests = (replace(nest, results=(replace(nest.results[0], exprs=(kept,)),)),)
    assert "gradient" in failing(outcome(net, build))


def test_a_wrong_derivation_fails_although_the_program_follows_it() -> None:
    net = make_net()
    build = make_build(net)
    drop_term(build.training_graph, build.gradient_values["middle.weight"])
    drop_term(build.program.entries[0], build.gradient_values["middle.weight"])
    assert {"gradient", "derivation"} <= failing(outcome(net, build))


def test_a_parameter_that_the_derivation_forgot_fails() -> None:
    net, build = standard_build()
    program = replace(build.program, gradients={n: v for n, v in build.gradient_values.items() if n != "middle.bias"})
    assert "gradient" in failing(outcome(net, replace(build, program=program)))


GRADIENT_FAULTS = {
    "wrong sign": change("middle.weight", np.negative),
    "scaled by 1.001": change("middle.weight", lambda g: g * 1.001),
    "all zero": change("middle.weight", np.zeros_like),
    "one element zero": change("middle.weight", one_element(0.0)),
    "NaN": change("middle.weight", one_element(np.nan)),
    "all NaN": change("head.bias", lambda g: np.full_like(g, np.nan)),
    "infinite": change("middle.weight", one_element(np.inf)),
    "transposed": change("middle.weight", np.transpose),
    "two swapped": lambda g: g | {"middle.weight": g["again.weight"], "again.weight": g["middle.weight"]},
    "of the bias before batch norm, 1000 roundings": change("inner.bias", lambda g: g + 1e-4),
}


@pytest.mark.parametrize("fault", GRADIENT_FAULTS.values(), ids=GRADIENT_FAULTS)
def test_a_wrong_gradient_fails(fault: Callable[[Arrays], Arrays]) -> None:
    net, build = standard_build()
    assert "gradient" in failing(outcome(net, build.with_faults(gradients=fault)))


def test_a_gradient_that_is_wrong_only_where_it_is_handed_out_fails() -> None:
    net, build = standard_build()

    def hand_out(result: Run) -> Run:
        result.gradients["middle.weight"] = -result.gradients["middle.weight"]
        return result

    assert {"gradient", "optimizer"} <= failing(outcome(net, build.with_faults(result=hand_out)))


def mix(weight_of_before: float) -> Callable[[Arrays, Arrays], Arrays]:
    """Updates scaled by ``1 - weight_of_before``."""

    def updated(before: Arrays, after: Arrays) -> Arrays:
        return {n: (before[n] + (after[n] - before[n]) * np.float32(1 - weight_of_before)) for n in after}

    return updated


@pytest.mark.parametrize("optimizer", [SGD(lr=0.05), MOMENTUM, ADAM, SGD(lr=1e-5)], ids=repr)
def test_updates_that_are_skipped_reversed_or_a_little_off_fail(optimizer: Any) -> None:
    net, build = standard_build(optimizer=optimizer)
    for fault in (mix(1.0), mix(2.0), mix(0.01)):
        assert {"optimizer", "update size"} & failing(outcome(net, build.with_faults(updated=fault)))
    skipped = build.with_faults(forget=lambda name: name == "middle.weight")
    assert "optimizer" in failing(outcome(net, skipped))


@pytest.mark.parametrize("optimizer", [SGD(lr=0.05), ADAM], ids=repr)
@pytest.mark.parametrize("factor", [1.01, 0.99, -1.0, 0.0])
def test_a_wrong_learning_rate_fails(optimizer: Any, factor: float) -> None:
    net, build = standard_build(optimizer=optimizer)
    assert failing(outcome(net, build.with_faults(rate=lambda rate: rate * factor))) & {"optimizer", "update size"}


def test_a_learning_rate_that_stays_at_its_first_value_fails() -> None:
    net, build = standard_build()
    rates = [0.05, 0.0501, 0.0502]
    assert outcome(net, build, lr=rates).ok
    assert failing(outcome(net, build.with_faults(rate=lambda rate: 0.05), lr=rates)) == {"weight"}


@pytest.mark.parametrize(
    ("optimizer", "state"), [(MOMENTUM, "momentum_buffer"), (ADAM, "exp_avg"), (ADAM, "exp_avg_sq"), (ADAM, "step")]
)
def test_optimizer_state_that_is_not_kept_fails(optimizer: Any, state: str) -> None:
    net, build = standard_build(optimizer=optimizer)
    assert "weight" in failing(outcome(net, build.with_faults(forget=lambda name: name.endswith(f".{state}"))))


@pytest.mark.parametrize("name", ["norm.running_mean", "norm.running_var"])
def test_stale_running_statistics_fail(name: str) -> None:
    net, build = standard_build()
    assert failing(outcome(net, build.with_faults(forget=lambda stored: stored == name))) == {"statistic"}


def test_running_statistics_with_the_biased_variance_fail() -> None:
    net, build = standard_build()

    def biased(result: Run) -> Run:
        result.buffers["norm.running_var"] = result.buffers["norm.running_var"] * np.float32(0.99)
        return result

    assert failing(outcome(net, build.with_faults(result=biased))) == {"statistic"}


def spoil(kind: str, name: str, function: Callable[[Array], Array | None]) -> Callable[[Run], Run]:
    def result(run: Run) -> Run:
        arrays = dict(getattr(run, kind))
        changed = function(arrays.pop(name))
        if changed is not None:
            arrays[name] = changed
        return replace(run, **{kind: arrays})

    return result


@pytest.mark.parametrize("kind", ["gradients", "parameters"])
@pytest.mark.parametrize(
    "function",
    [one_element(np.nan), one_element(np.inf), lambda a: None, lambda a: a[1:], lambda a: a.T.reshape(-1)],
    ids=["NaN", "infinite", "missing", "too short", "flat"],
)
def test_broken_tensors_fail(kind: str, function: Callable[[Array], Array | None]) -> None:
    net, build = standard_build()
    assert failing(outcome(net, build.with_faults(result=spoil(kind, "middle.weight", function))))


@pytest.mark.parametrize("function", [one_element(np.nan), lambda a: None, lambda a: a[1:]])
def test_broken_statistics_fail(function: Callable[[Array], Array | None]) -> None:
    net, build = standard_build()
    broken = build.with_faults(result=spoil("buffers", "norm.running_var", function))
    assert failing(outcome(net, broken)) == {"statistic"}


@pytest.mark.parametrize("kind", ["parameters", "buffers", "gradients"])
def test_tensors_that_the_model_does_not_have_fail(kind: str) -> None:
    net, build = standard_build()

    def added(run: Run) -> Run:
        return replace(run, **{kind: getattr(run, kind) | {"ghost": np.ones(3, np.float32)}})

    assert failing(outcome(net, build.with_faults(result=added)))


LOSS_FAULTS: dict[str, Callable[[Array], Array]] = {
    "NaN": lambda losses: np.where(np.arange(losses.size) == 1, np.nan, losses),
    "infinite": lambda losses: np.where(np.arange(losses.size) == 2, np.inf, losses),
    "off by 0.01 %": lambda losses: losses * np.float32(1.0001),
    "constant": lambda losses: np.full_like(losses, losses[0]),
    "too few": lambda losses: losses[:-1],
    "too many": lambda losses: np.append(losses, losses[-1]),
}


@pytest.mark.parametrize("fault", LOSS_FAULTS.values(), ids=LOSS_FAULTS)
def test_wrong_losses_fail(fault: Callable[[Array], Array]) -> None:
    net, build = standard_build()
    verification = outcome(net, build.with_faults(result=lambda run: replace(run, losses=fault(run.losses))))
    failing(verification)


def test_frozen_parameters_are_compared_bit_by_bit() -> None:
    net = make_net()
    build = make_build(net, trainable=["middle.*", "head.*"])
    verification = outcome(net, build)
    assert verification.ok
    assert {row.name for row in verification.frozen} >= {"inner.weight", "again.bias"}

    def nudged(before: Arrays, after: Arrays) -> Arrays:
        moved = after["inner.weight"].copy()
        moved.flat[5] = np.nextafter(moved.flat[5], np.float32(9))
        return after | {"inner.weight": moved}

    assert "frozen" in failing(outcome(net, build.with_faults(updated=nudged)))


def test_frozen_statistics_are_compared_bit_by_bit() -> None:
    net = make_net()
    build = make_build(net, bn="frozen")
    verification = outcome(net, build)
    assert verification.ok
    assert verification.statistics == []
    moved = spoil("buffers", "norm.running_var", lambda a: np.nextafter(a, np.float32(9)))
    assert failing(outcome(net, build.with_faults(result=moved))) == {"frozen"}
    assert not outcome(net, replace(build, bn="batch")).ok


def test_mean_taken_for_sum_fails() -> None:
    net, build = standard_build(accumulate=2)
    assert outcome(net, build).ok
    assert "gradient" in failing(outcome(net, replace(build, accumulate_mode="sum")))
    net, build = standard_build(accumulate=2, accumulate_mode="sum")
    assert outcome(net, build).ok
    assert "gradient" in failing(outcome(net, replace(build, accumulate_mode="mean")))


def test_clipping_that_is_left_out_or_added_fails() -> None:
    net, build = standard_build(clip_norm=0.1)
    assert outcome(net, build).ok
    assert {"optimizer", "weight"} <= failing(outcome(net, replace(build, clip_norm=None)))
    assert {"optimizer", "weight"} <= failing(outcome(net, replace(build, clip_norm=0.102)))


def test_another_optimizer_fails() -> None:
    net, build = standard_build(optimizer=AdamW(lr=0.01, weight_decay=0.1))
    assert outcome(net, build).ok
    for other in (Adam(lr=0.01, weight_decay=0.1), AdamW(lr=0.01, weight_decay=0.0), AdamW(lr=0.01, eps=1e-3)):
        assert not outcome(net, replace(build, optimizer=other)).ok


def test_weights_that_are_not_those_of_the_model_fail() -> None:
    net, build = standard_build()
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.middle.weight.mul_(1.0001)
    assert not outcome(other, build).ok


def test_a_program_that_does_not_repeat_itself_fails() -> None:
    net, build = standard_build()
    calls = []

    def drifting(gradients: Arrays) -> Arrays:
        calls.append(0)
        return gradients | {"head.bias": gradients["head.bias"] + np.float32(len(calls) * 1e-8)}

    verification = outcome(net, build.with_faults(gradients=drifting))
    assert not verification.ok
    assert any("two runs" in problem for problem in verification.problems)


def test_other_dropout_masks_fail_and_the_same_ones_pass() -> None:
    net = make_net(dropout=0.4)
    build = make_build(net, accumulate=2)
    assert outcome(net, build).ok
    assert not outcome(net, replace(build, random_seed=build.random_seed + 1)).ok
    assert not outcome(net, build.with_faults(forget=lambda name: name == "random.step")).ok


def test_tied_weights_are_one_tensor() -> None:
    net = make_net(tied=True)
    build = make_build(net)
    verification = outcome(net, build)
    assert verification.ok
    assert sum("middle.weight" in row.name or "again.weight" in row.name for row in verification.gradients) == 1
    halved = change(next(n for n in build.gradient_values if n.endswith("e.weight")), lambda g: g * 0.5)
    assert "gradient" in failing(outcome(net, build.with_faults(gradients=halved)))


def test_a_fused_update_is_compared_by_its_weights() -> None:
    net = make_net()
    build = make_build(net, ADAM, fuse=True)
    verification = outcome(net, build)
    assert verification.ok
    assert verification.gradients == []
    assert len(verification.notes) == 1
    assert {row.what for row in verification.weights} == {"first weight", "weight"}
    assert "first weight" in failing(outcome(net, build.with_faults(rate=lambda rate: rate * 1.01)))


def test_a_reference_that_is_nan_never_passes() -> None:
    net, build = standard_build()
    batches = [(np.full_like(x, np.nan), y) for x, y in BATCHES]
    verification = verify(net, build, batches, steps=2)
    assert {"loss", "gradient", "weight"} <= failing(verification)


NO_MODULE = "model.onnx"


@pytest.mark.parametrize("optimizer", [MOMENTUM, ADAM], ids=repr)
def test_a_model_without_a_module_is_compared_with_the_interpreter(optimizer: Any) -> None:
    _, build = standard_build(optimizer=optimizer, accumulate=2, clip_norm=1.0)
    verification = verify(NO_MODULE, build, BATCHES, steps=3)
    assert verification.failures == []
    assert verification.reference.startswith("NumPy")
    assert len(verification.directions) == 3
    assert {row.name for row in verification.statistics} == {"norm.running_mean", "norm.running_var"}
    broken = {"optimizer": {"updated": mix(0.01)}, "gradient": {"gradients": GRADIENT_FAULTS["NaN"]}}
    broken["statistic"] = {"forget": lambda name: name == "norm.running_mean"}
    for kind, fault in broken.items():
        assert kind in failing(verify(NO_MODULE, build.with_faults(**fault), BATCHES, steps=1))


def test_without_a_module_a_wrong_derivation_fails_by_central_differences() -> None:
    build = make_build(make_net())
    for graph in (build.training_graph, build.program.entries[0]):
        drop_term(graph, build.gradient_values["middle.weight"])
    verification = verify(NO_MODULE, build, BATCHES, steps=1)
    assert not verification.ok
    assert all(row.ok for row in verification.tensors)
    assert not any(ok for _, ok in verification.directions)


def test_a_run_that_was_made_already_is_compared() -> None:
    net, build = standard_build(optimizer=MOMENTUM)
    build = build.with_faults()
    done = build.run(BATCHES, 3)
    runs = build.runs
    verification = outcome(net, build, run=done)
    assert verification.ok
    assert verification.run is done
    assert build.runs == runs + 1  # one step
    assert not outcome(net, build, run=build.run(BATCHES, 3, lr=0.051)).ok
    assert not outcome(net, build, run=build.run(BATCHES[::-1], 3)).ok
    assert not outcome(net, build, run=build.run(BATCHES, 2)).ok


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no batches"),
        ([(BATCHES[0][0],)], "1 input"),
        ([(BATCHES[0][0][:5], BATCHES[0][1][:5])], "shape"),
        ([(BATCHES[0][0], BATCHES[0][1] + 9)], "label"),
        ([(BATCHES[0][0].astype(int), BATCHES[0][1])], "element type"),
    ],
)
def test_batches_that_do_not_fit_are_named(batches: list[Any], message: str) -> None:
    net, build = standard_build()
    with pytest.raises(UserError, match=message):
        verify(net, build, batches)


def test_no_steps_are_refused() -> None:
    net, build = standard_build()
    with pytest.raises(UserError, match="steps"):
        verify(net, build, BATCHES, steps=0)
