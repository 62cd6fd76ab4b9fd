"""The comparison of a compiled training program with the truth."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tilegrad.errors import UserError
from tilegrad.verification.compare import (
    TINY,
    LossRow,
    Spread,
    TensorRow,
    compare_frozen,
    compare_losses,
    compare_tensor,
    failed_row,
)
from tilegrad.verification.graph_reference import (
    Direction,
    GradientScales,
    central_differences,
    gradient_scales,
)
from tilegrad.verification.replay import UpdateSize, compare_update
from tilegrad.verification.sources import BuildLike, Source, graph_source, is_module, torch_source, training_graph
from tilegrad.verification.tolerances import EPS, Tolerances
from tilegrad.verification.trajectory import (
    Array,
    Batches,
    Job,
    Perturbation,
    Trajectory,
    learning_rates,
    prepare_batches,
)


@dataclass
class Verification:
    """The outcome of a comparison.

    Attributes:
        reference: where the truth comes from.
        float32: what runs in float32 beside ours.
        losses: one row per micro-batch.
        gradients: one row per trained parameter: the gradients of the first step.
        derivation: one row per trained parameter: the derived training graph in float64 against the reference; empty
            where the reference is that graph.
        optimizer: one row per trained parameter: the weights after one step against the optimizer in float64 on our own
            gradients.
        update_size: the size of that step as a whole; None where gradients are not handed out.
        weights: one row per trained parameter: the weights after the last step, and where gradients are not handed out
            also those after the first.
        statistics: one row per buffer that training changes.
        frozen: one row per tensor that training must not change.
        directions: derivatives along random directions, for models without a PyTorch module.
        problems: what else is wrong.
        notes: what to know about the comparison.
        run: the run that was compared.
    """

    reference: str
    float32: str
    losses: list[LossRow] = field(default_factory=list)
    gradients: list[TensorRow] = field(default_factory=list)
    derivation: list[TensorRow] = field(default_factory=list)
    optimizer: list[TensorRow] = field(default_factory=list)
    update_size: UpdateSize | None = None
    weights: list[TensorRow] = field(default_factory=list)
    statistics: list[TensorRow] = field(default_factory=list)
    frozen: list[TensorRow] = field(default_factory=list)
    directions: list[tuple[Direction, bool]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    run: Any = None

    @property
    def tensors(self) -> list[TensorRow]:
        """All rows of tensors."""
        return [*self.gradients, *self.derivation, *self.optimizer, *self.weights, *self.statistics, *self.frozen]

    @property
    def failures(self) -> list[str]:
        """Everything that does not agree, one line each."""
        found = [
            f"loss {row.index}: {row.computed:.9g} instead of {row.reference:.9g} (granted: {row.allowed:.2g})"
            for row in self.losses
            if not row.ok
        ]
        found += [f"{row.what} {row.name}: {row.note}" for row in self.tensors if not row.ok]
        if self.update_size is not None and not self.update_size.ok:
            size = self.update_size
            found.append(
                f"the first update is {size.ratio:.6g} times the optimizer's (granted: 1 +- {size.allowed:.2g})"
            )
        found += [
            f"derivative along a direction: {d.derived:.9g} derived, {d.measured:.9g} measured"
            for d, ok in self.directions
            if not ok
        ]
        return found + self.problems

    @property
    def ok(self) -> bool:
        """Whether everything agrees."""
        return bool(self.losses) and not self.failures


def verify(
    model: Any,
    build: BuildLike,
    batches: Batches,
    steps: int = 4,
    *,
    lr: float | Sequence[float] | None = None,
    run: Any = None,
    tolerances: Tolerances | None = None,
    progress: Callable[[str], None] | None = None,
) -> Verification:
    """Compare a compiled training program with the truth: PyTorch in float64, or for ONNX models the interpreter.

    Compared are the losses, all gradients of the first step, the optimizer step made of them, all weights and running
    statistics after the last step, and that nothing else changed. docs/verification.md explains how much is granted.

    Args:
        model: what the build was compiled from, unchanged since.
        build: the build.
        batches: micro-batches ``(inputs..., target)``, cycled.
        steps: optimizer steps.
        lr: learning rate, one number or one per step; None uses the optimizer's.
        run: what ``build.run(batches, steps, lr=lr)`` returned, if it has been called already.
        tolerances: None uses the default ones.
        progress: called with a line of text when a stage begins.

    Raises:
        UserError: if the batches do not fit, or the model does not run in float64.
    """
    if steps < 1:
        raise UserError(f"steps must be at least 1, not {steps}")
    return _Verifier(model, build, batches, steps, lr, tolerances or Tolerances(), progress or _silent).verify(run)


def _silent(line: str) -> None:
    pass


class _Verifier:
    def __init__(
        self, model: Any, build: BuildLike, batches: Batches, steps: int, lr: float | Sequence[float] | None,
        tolerances: Tolerances, progress: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.build, self.batches, self.steps, self.lr = build, batches, steps, lr
        self.t, self.tell = tolerances, progress
        self.source: Source = torch_source(model, build) if is_module(model) else graph_source(build)
        self.program = training_graph(build)
        _check_batches(batches, build)
        seed = build.random_seed
        self.job = Job(
            batches=prepare_batches(batches),
            rates=learning_rates(lr, build.optimizer.lr, steps),
            accumulate=build.accumulate,
            mean=build.accumulate_mode == "mean",
            loss=build.loss,
            optimizer=build.optimizer,
            clip_norm=build.clip_norm,
            frozen_bn=build.bn == "frozen",
            trainable=frozenset(build.trainable_names),
            seed=(seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF),
        )
        self.found = Verification(self.source.title, self.source.float32_title)

    def verify(self, run: Any) -> Verification:
        # The references come first: a program that is being built in another thread is ready when they are.
        self.tell(f"reference: {self.source.title}")
        truth = self.source.train(self.job, np.float64, None)
        self.tell(f"reference: {self.source.float32_title}")
        float32 = self.source.train(self.job, np.float32, None)
        self.tell("reference: the scale of the gradients")
        scales = gradient_scales(self.program, self.job)
        spread = Spread(truth, [*self._samples(scales), float32])
        first = run
        if run is None or self.steps > 1:
            self.tell("running one step")
            with _predictions_kept(self.build, run is not None):
                first = self.build.run(self.batches, 1, lr=self.job.rates[:1])
        if run is None:
            run = first
            if self.steps > 1:
                self.tell(f"running {self.steps} steps")
                run = self.build.run(self.batches, self.steps, lr=self.lr)
        self.found.run = run
        self._losses(run, truth, float32, scales, spread)
        gradients = self._handed_out(run)
        if gradients is not None:
            self._gradients(gradients, truth, float32, scales, spread)
            self._optimizer(gradients, first, truth)
            self._repeatable(run, first, gradients)
        else:
            self._weights(first.parameters, "first weight", "first", 1, truth, float32, spread)
        self._weights(run.parameters, "weight", "parameters", self.steps, truth, float32, spread)
        self._frozen(run.parameters, truth)
        self._statistics(run.buffers, truth, float32, spread)
        if not self.source.independent:
            self._directions()
        return self.found

    def _samples(self, scales: GradientScales) -> list[Trajectory]:
        found = []
        count = min(self.t.samples, self.source.samples)
        for number in range(count):
            self.tell(f"reference: float64 with float32's noise, {number + 1} of {count}")
            noise = Perturbation(self.t.noise * EPS, number, scales.magnitudes)
            found.append(self.source.train(self.job, np.float64, noise))
        return found

    def _handed_out(self, run: Any) -> Mapping[str, Array] | None:
        try:
            gradients: Mapping[str, Array] = run.gradients
        except UserError:
            self.found.notes.append(
                "this build updates weights behind their gradients and hands none out: the weights after one step are "
                "compared instead of gradients and optimizer"
            )
            return None
        return gradients

    def _losses(self, run: Any, truth: Trajectory, float32: Trajectory, scales: GradientScales, spread: Spread) -> None:
        size = np.maximum(np.abs(truth.losses), scales.loss)
        allowed = self.t.rounding * EPS * size + self.t.factor * spread.losses()
        self.found.losses = compare_losses(run.losses, truth, float32, allowed, self.job.accumulate)
        if len(run.losses) != len(truth.losses):
            self.found.problems.append(f"{len(run.losses)} losses were computed, {len(truth.losses)} were expected")

    def _gradients(
        self, ours: Mapping[str, Array], truth: Trajectory, float32: Trajectory, scales: GradientScales, spread: Spread
    ) -> None:
        for name in _unexpected(ours, truth.gradients):
            if np.any(ours[name] != 0.0):  # zeros and NaN apart: PyTorch has no gradient here
                self.found.gradients.append(failed_row(name, "gradient", "the loss does not depend on this parameter"))
        for name, exact in truth.gradients.items():
            scale = scales.magnitudes.get(name)
            if scale is None or scale.shape != exact.shape:
                self.found.gradients.append(failed_row(name, "gradient", "missing in the derived graph"))
                continue
            noise = self.t.factor * spread.gradient(name, scale) + TINY
            allowed = self.t.sum_error(scales.chains[name]) * scale + noise
            self.found.gradients.append(
                compare_tensor(name, "gradient", ours.get(name), exact, allowed, scale, float32.gradients.get(name))
            )
            if self.source.independent:
                allowed = self.t.derivation * scale + noise
                self.found.derivation.append(
                    compare_tensor(name, "derivation", scales.gradients[name], exact, allowed, scale, None)
                )

    def _optimizer(self, gradients: Mapping[str, Array], first: Any, truth: Trajectory) -> None:
        usable = {
            name: np.asarray(gradients[name], np.float64)
            for name, exact in truth.gradients.items()
            if name in gradients and gradients[name].shape == exact.shape
        }
        if not usable:
            return
        rate = self.job.rates[0]
        self.found.optimizer, self.found.update_size = compare_update(
            self.source.parameters,
            usable,
            first.parameters,
            self.source.update(rate, "float64"),
            self.source.update(rate, "float32"),
            self.t.update if self.job.clip_norm is None else self.t.clipped_update,
            self.t,
        )
        if np.isnan(self.found.update_size.ratio):
            self.found.notes.append("the first update is below the resolution of float32 weights")

    def _repeatable(self, run: Any, first: Any, gradients: Mapping[str, Array]) -> None:
        """The run of one step and the long one begin alike, bit for bit."""
        if first is run:
            return
        again = self._handed_out(first) or {}
        for name, array in gradients.items():
            if name not in again or again[name].tobytes() != array.tobytes():
                self.found.problems.append(f"two runs from the same start give different gradients of {name}")
        count = min(len(first.losses), len(run.losses))
        if np.asarray(first.losses)[:count].tobytes() != np.asarray(run.losses)[:count].tobytes():
            self.found.problems.append("two runs from the same start give different losses")

    def _weights(
        self, ours: Mapping[str, Array], what: str, kind: str, steps: int, truth: Trajectory, float32: Trajectory,
        spread: Spread,
    ) -> None:  # fmt: skip
        exact: dict[str, Array] = getattr(truth, kind)
        single: dict[str, Array] = getattr(float32, kind)
        for name in truth.gradients:
            start, end, path = self.source.parameters[name], exact[name], truth.travel[name]
            relative = self.t.update if self.job.clip_norm is None else self.t.clipped_update
            allowed = steps * EPS * np.maximum(np.abs(start), np.abs(end)) + relative * path
            allowed = allowed + self.t.factor * spread.tensor(kind, name) + TINY
            self.found.weights.append(compare_tensor(name, what, ours.get(name), end, allowed, path, single.get(name)))

    def _frozen(self, ours: Mapping[str, Array], truth: Trajectory) -> None:
        for name in _unexpected(ours, self.source.parameters):
            self.found.frozen.append(failed_row(name, "frozen", "the model has no such parameter"))
        for name, before in self.source.parameters.items():
            if name not in truth.gradients:
                self.found.frozen.append(compare_frozen(name, ours.get(name), before))

    def _statistics(self, ours: Mapping[str, Array], truth: Trajectory, float32: Trajectory, spread: Spread) -> None:
        for name in _unexpected(ours, self.source.buffers):
            self.found.statistics.append(failed_row(name, "statistic", "the model has no such buffer"))
        for name, exact in truth.buffers.items():
            before = self.source.buffers[name]
            if exact.dtype.kind != "f":
                if name in ours and not np.array_equal(ours[name], exact):
                    self.found.statistics.append(failed_row(name, "statistic", f"{ours[name]} instead of {exact}"))
            elif np.array_equal(exact, before.astype(np.float64), equal_nan=True):
                if name in ours:
                    self.found.frozen.append(compare_frozen(name, ours[name], before))
            else:
                size = np.abs(exact)
                allowed = self.t.statistics * EPS * size + self.t.factor * spread.tensor("buffers", name) + TINY
                self.found.statistics.append(
                    compare_tensor(name, "statistic", ours.get(name), exact, allowed, size, float32.buffers.get(name))
                )

    def _directions(self) -> None:
        self.tell("reference: central differences of the loss")
        for direction in central_differences(self.program, self.job):
            ok = abs(direction.measured - direction.derived) <= self.t.direction * direction.scale
            self.found.directions.append((direction, bool(ok)))


def _check_batches(batches: Batches, build: BuildLike) -> None:
    """Check every micro-batch before the references use it; PyTorch's own messages would not name it.

    Raises:
        UserError: for a wrong number of arrays, wrong shapes or types, and impossible targets.
    """
    from tilegrad.api import as_array, fit

    graph = build.training_graph
    for batch in batches:
        if len(batch) != len(graph.inputs):
            raise UserError(f"a batch is {len(graph.inputs) - 1} input(s) and the target; got {len(batch)} array(s)")
        for array, value in zip(batch, graph.inputs, strict=True):
            fit(as_array(array, value.name), value)
        build.loss.check_target(as_array(batch[-1], "target"), graph.results[0].shape)


def _unexpected(ours: Mapping[str, Array], expected: Mapping[str, Array]) -> list[str]:
    return [name for name in ours if name not in expected]


@contextlib.contextmanager
def _predictions_kept(build: Any, keep: bool) -> Iterator[None]:
    """Leave alone what ``build.predict`` uses: the weights after the caller's last run."""
    last = getattr(build, "_last", None)
    yield
    if keep and last is not None:
        build._last = last
