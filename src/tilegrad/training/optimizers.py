"""Optimizers with the semantics and the parameter names of ``torch.optim``.

Every optimizer is described three times: `build` appends it to a graph, `replay` is the textbook formula in float64,
and `reference` is PyTorch's own. The last two are what verification compares the first with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilegrad.errors import UserError
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import elementwise
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Store, Value, current_graph
from tilegrad.ir.types import DType, Kind

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]
#: State tensors of one parameter in a replay, by name; empty before the first step.
ReplayState = dict[str, Array]

STEP_NAME = "optimizer.step"


class Optimizer(Protocol):
    """What an optimizer provides; users may bring their own."""

    @property
    def lr(self) -> float:
        """The learning rate where a run names no other."""
        ...

    @property
    def counts_steps(self) -> bool:
        """Whether the update depends on how many steps were taken."""
        ...

    def build(self, parameter: Value, gradient: Value, lr: Value, step: StepCounters) -> list[Store]:
        """Append the update of one parameter to the graph under construction.

        Args:
            parameter: the weights.
            gradient: of their shape.
            lr: f32 scalar setting.
            step: what the updates of all parameters share.

        Returns:
            The stores: optimizer state first, in a fixed order, the parameter last.
        """
        ...

    def replay(
        self, parameter: Array, gradient: Array, lr: float, step: int, state: ReplayState
    ) -> tuple[Array, ReplayState]:
        """One update in float64 NumPy: the new parameter and the new state; `step` counts from 1."""
        ...

    def reference(self, parameters: Iterable[Any]) -> torch.optim.Optimizer:
        """The same optimizer of ``torch.optim`` over PyTorch parameters."""
        ...


class StepCounters:
    """What the updates of all parameters share in one graph: the step count and the scalars derived from it.

    Make it while the graph is under construction; `stores` is complete from the start.

    Attributes:
        lr: the learning rate, f32 scalar.
        state: u32 scalar, steps taken before this one; None where the optimizer does not count.
    """

    def __init__(self, optimizer: Optimizer, lr: Value) -> None:
        self.lr = lr
        self.state: Value | None = None
        self._step: Value | None = None
        self._derived: dict[tuple[object, ...], Value] = {}
        if optimizer.counts_steps:
            self.state = Value(STEP_NAME, (), DType.U32, Kind.OPTIMIZER)
            with current_graph().scope("optimizer", "optimizer"):
                self._step = elementwise(lambda t: t + sc.constant(1, DType.U32), self.state, name=f"{STEP_NAME}.next")

    @property
    def stores(self) -> list[Store]:
        """The store of the step count, where there is one."""
        return [] if self.state is None or self._step is None else [Store(self.state, self._step)]

    @property
    def step(self) -> Value:
        """Number of this step, u32 scalar, 1 at the first.

        Raises:
            UserError: if the optimizer said that it does not count steps.
        """
        if self._step is None:
            raise UserError("the optimizer uses the step count; its `counts_steps` must be True")
        return self._step

    def derived(self, key: tuple[object, ...], body: Callable[..., Expr], *values: Value) -> Value:
        """A scalar computed once per step for all parameters, identified by `key` and what it is computed from."""
        full_key = (*key, *values)
        if full_key not in self._derived:
            with current_graph().scope("optimizer", "optimizer"):
                self._derived[full_key] = elementwise(body, *values, name=f"optimizer.{key[0]}")
        return self._derived[full_key]


def _check(holds: bool, optimizer: object, message: str) -> None:
    if not holds:
        raise UserError(f"{type(optimizer).__name__}: {message}")


def _check_rates(optimizer: object, **values: float) -> None:
    """Raise UserError, in PyTorch's words, for numbers that are negative, NaN or beyond float32."""
    names = {"lr": "learning rate", "eps": "epsilon value"}
    for key, value in values.items():
        inside = 0.0 <= value <= float(np.finfo(np.float32).max)
        _check(inside, optimizer, f"Invalid {names.get(key, f'{key} value')}: {value}, expected a number >= 0")


def _state(parameter: Value, name: str) -> Value:
    """A state tensor of a parameter, zeros at the start."""
    return Value(f"{parameter.name}.{name}", parameter.shape, DType.F32, Kind.OPTIMIZER)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, as ``torch.optim.SGD``.

    Attributes:
        lr: learning rate; a run may name others.
        momentum: factor of the momentum buffer.
        dampening: what part of the gradient does not enter the momentum buffer (from the second step on).
        weight_decay: L2 penalty, added to the gradient.
        nesterov: Nesterov momentum; needs momentum and no dampening.
        maximize: ascend instead of descend.

    Raises:
        UserError: for the values that PyTorch rejects, and numbers that a float32 does not hold.
    """

    lr: float = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False

    def __post_init__(self) -> None:
        _check_rates(self, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        _check(math.isfinite(self.dampening), self, f"Invalid dampening value: {self.dampening}")
        allowed = not self.nesterov or (self.momentum > 0 and self.dampening == 0)
        _check(allowed, self, "Nesterov momentum requires a momentum and zero dampening")

    @property
    def counts_steps(self) -> bool:
        """True with dampening, which the first step does not apply."""
        return self.momentum != 0 and self.dampening != 0

    def _direction(self, w: Expr, g: Expr) -> Expr:
        g = -g if self.maximize else g
        return sc.fma(w, self.weight_decay, g) if self.weight_decay else g

    def build(self, parameter: Value, gradient: Value, lr: Value, step: StepCounters) -> list[Store]:
        """Append the update; see `Optimizer.build`. The state is ``NAME.momentum_buffer``."""
        if self.momentum == 0:
            updated = elementwise(lambda w, g, r: sc.fma(-r, self._direction(w, g), w), parameter, gradient, lr)
            return [Store(parameter, updated)]
        buffer = _state(parameter, "momentum_buffer")
        if self.counts_steps:
            # The first step takes the gradient as it is; the buffer is zero then.
            rest = 1.0 - self.dampening
            gain = step.derived(
                ("gain",), lambda t: sc.select(t.equals(1), sc.constant(1.0, DType.F32), rest), step.step
            )
            moved = elementwise(
                lambda w, g, b, c: sc.fma(b, self.momentum, c * self._direction(w, g)),
                parameter, gradient, buffer, gain,
            )  # fmt: skip
        else:
            moved = elementwise(
                lambda w, g, b: sc.fma(b, self.momentum, self._direction(w, g)), parameter, gradient, buffer
            )
        if self.nesterov:
            updated = elementwise(
                lambda w, g, b, r: sc.fma(-r, sc.fma(b, self.momentum, self._direction(w, g)), w),
                parameter, gradient, moved, lr,
            )  # fmt: skip
        else:
            updated = elementwise(lambda w, b, r: sc.fma(-r, b, w), parameter, moved, lr)
        return [Store(buffer, moved), Store(parameter, updated)]

    def replay(
        self, parameter: Array, gradient: Array, lr: float, step: int, state: ReplayState
    ) -> tuple[Array, ReplayState]:
        """One update in float64; see `Optimizer.replay`."""
        direction = -gradient if self.maximize else gradient
        direction = direction + self.weight_decay * parameter if self.weight_decay else direction
        if self.momentum == 0:
            return parameter - lr * direction, {}
        buffer = direction
        if step > 1:
            buffer = self.momentum * state["momentum_buffer"] + (1.0 - self.dampening) * direction
        taken = direction + self.momentum * buffer if self.nesterov else buffer
        return parameter - lr * taken, {"momentum_buffer": buffer}

    def reference(self, parameters: Iterable[Any]) -> torch.optim.Optimizer:
        """``torch.optim.SGD`` with these values."""
        import torch

        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, dampening=self.dampening, weight_decay=self.weight_decay,
            nesterov=self.nesterov, maximize=self.maximize, foreach=False,
        )  # fmt: skip


def _bias_correction(t: Expr, beta: float) -> Expr:
    """``1 - beta**t``, without cancellation, for a u32 step `t` and a `beta` below 1.

    ``1 - 0.999f`` is off by 3e-5, so neither beta nor its power is ever subtracted from 1. The logarithm is kept as the
    sum of two constants, so that its own rounding does not show in the result.
    """
    if beta == 0.0:
        return sc.constant(1.0, DType.F32)
    exact = math.log(beta)
    high = float(np.float32(exact))
    count = sc.cast(t, DType.F32)
    return -sc.expm1(sc.fma(count, high, count * (exact - high)))


class _AdamRule:
    """What Adam and AdamW share: they differ in where the weight decay goes."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    amsgrad: bool
    maximize: bool
    #: Whether the decay shrinks the weights directly instead of entering the gradient.
    _decoupled: bool = False

    def __post_init__(self) -> None:
        _check_rates(self, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay)
        _check(len(self.betas) == 2, self, f"betas are two numbers, not {self.betas}")
        for position, beta in enumerate(self.betas):
            _check(0.0 <= beta < 1.0, self, f"Invalid beta parameter at index {position}: {beta}")
        object.__setattr__(self, "betas", (float(self.betas[0]), float(self.betas[1])))

    @property
    def counts_steps(self) -> bool:
        """True: the bias corrections depend on the step."""
        return True

    def _direction(self, w: Expr, g: Expr) -> Expr:
        g = -g if self.maximize else g
        return sc.fma(w, self.weight_decay, g) if self.weight_decay and not self._decoupled else g

    def build(self, parameter: Value, gradient: Value, lr: Value, step: StepCounters) -> list[Store]:
        """Append the update; see `Optimizer.build`.

        The state is ``NAME.exp_avg``, ``NAME.exp_avg_sq`` and with amsgrad ``NAME.max_exp_avg_sq``.
        """
        beta1, beta2 = self.betas
        step_size = step.derived(("step_size", beta1), lambda r, t: r / _bias_correction(t, beta1), lr, step.step)
        denominator_scale = step.derived(
            ("denominator_scale", beta2),
            lambda t: sc.constant(1.0, DType.F32) / sc.sqrt(_bias_correction(t, beta2)),
            step.step,
        )

        def mean(w: Expr, g: Expr, m: Expr) -> Expr:
            d = self._direction(w, g)
            if 1.0 - beta1 < 0.5:
                return sc.fma(d - m, 1.0 - beta1, m)
            return sc.fma(m - d, beta1, d)  # from the nearer end, so that beta1 = 0 gives exactly d

        def square(w: Expr, g: Expr, v: Expr) -> Expr:
            d = self._direction(w, g)
            return sc.fma(v, beta2, (d * (1.0 - beta2)) * d)

        exp_avg, exp_avg_sq = _state(parameter, "exp_avg"), _state(parameter, "exp_avg_sq")
        new_mean = elementwise(mean, parameter, gradient, exp_avg)
        new_square = elementwise(square, parameter, gradient, exp_avg_sq)
        stores = [Store(exp_avg, new_mean), Store(exp_avg_sq, new_square)]
        bound = new_square
        if self.amsgrad:
            largest = _state(parameter, "max_exp_avg_sq")
            bound = elementwise(lambda a, b: sc.maximum(a, b), largest, new_square)
            stores.append(Store(largest, bound))

        def taken(m: Expr, v: Expr, scale: Expr) -> Expr:
            return m / sc.fma(sc.sqrt(v), scale, self.eps)

        if self._decoupled and self.weight_decay:
            # Decay and step are added before they leave the weight: one rounding at the weight's magnitude, not two.
            decay = step.derived(("decay",), lambda r: r * self.weight_decay, lr)
            updated = elementwise(
                lambda w, m, v, size, scale, c: w - sc.fma(size, taken(m, v, scale), c * w),
                parameter, new_mean, bound, step_size, denominator_scale, decay,
            )  # fmt: skip
        else:
            updated = elementwise(
                lambda w, m, v, size, scale: sc.fma(-size, taken(m, v, scale), w),
                parameter, new_mean, bound, step_size, denominator_scale,
            )  # fmt: skip
        return [*stores, Store(parameter, updated)]

    def replay(
        self, parameter: Array, gradient: Array, lr: float, step: int, state: ReplayState
    ) -> tuple[Array, ReplayState]:
        """One update in float64; see `Optimizer.replay`."""
        beta1, beta2 = self.betas
        direction = -gradient if self.maximize else gradient
        if self.weight_decay and self._decoupled:
            parameter = parameter * (1.0 - lr * self.weight_decay)
        elif self.weight_decay:
            direction = direction + self.weight_decay * parameter
        zeros = np.zeros_like(parameter)
        after = {
            "exp_avg": beta1 * state.get("exp_avg", zeros) + (1.0 - beta1) * direction,
            "exp_avg_sq": beta2 * state.get("exp_avg_sq", zeros) + (1.0 - beta2) * direction**2,
        }
        bound = after["exp_avg_sq"]
        if self.amsgrad:
            bound = after["max_exp_avg_sq"] = np.maximum(state.get("max_exp_avg_sq", zeros), bound)
        denominator = np.sqrt(bound) / math.sqrt(1.0 - beta2**step) + self.eps
        return parameter - lr / (1.0 - beta1**step) * after["exp_avg"] / denominator, after

    def _torch(self, kind: type[torch.optim.Optimizer], parameters: Iterable[Any]) -> torch.optim.Optimizer:
        arguments: dict[str, Any] = {
            "lr": self.lr, "betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay,
            "amsgrad": self.amsgrad, "maximize": self.maximize, "foreach": False,
        }  # fmt: skip
        return kind(parameters, **arguments)


@dataclass(frozen=True)
class Adam(_AdamRule):
    """Adam, as ``torch.optim.Adam``.

    Attributes:
        lr: learning rate; a run may name others.
        betas: decay rates of the running mean of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: L2 penalty, added to the gradient.
        amsgrad: divide by the largest running mean of the square so far.
        maximize: ascend instead of descend.

    Raises:
        UserError: for the values that PyTorch rejects, and numbers that a float32 does not hold.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    maximize: bool = False

    def reference(self, parameters: Iterable[Any]) -> torch.optim.Optimizer:
        """``torch.optim.Adam`` with these values."""
        import torch

        return self._torch(torch.optim.Adam, parameters)


@dataclass(frozen=True)
class AdamW(_AdamRule):
    """Adam with decoupled weight decay, as ``torch.optim.AdamW``.

    Attributes:
        lr: learning rate; a run may name others.
        betas: decay rates of the running mean of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: part of the weights, times the learning rate, that every step takes away.
        amsgrad: divide by the largest running mean of the square so far.
        maximize: ascend instead of descend.

    Raises:
        UserError: for the values that PyTorch rejects, and numbers that a float32 does not hold.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2
    amsgrad: bool = False
    maximize: bool = False

    _decoupled = True

    def reference(self, parameters: Iterable[Any]) -> torch.optim.Optimizer:
        """``torch.optim.AdamW`` with these values."""
        import torch

        return self._torch(torch.optim.AdamW, parameters)
