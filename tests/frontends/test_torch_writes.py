"""Programs that write in place, through views and without gradients, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from frontend_harness import check_gradients, check_module
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tilegrad.errors import UnsupportedOperatorError
from tilegrad.frontends.torch_export import import_torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Scaled(nn.Module):
    """A function of the input times a parameter, so that gradients flow through whatever it does."""

    def __init__(self, function: Callable[[Tensor], Any], *shape: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(*shape))
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x * self.scale)


def check(function: Callable[[Tensor], Any], *shape: int) -> None:
    """The function's results and gradient agree with PyTorch's."""
    module, x = Scaled(function, *shape), torch.randn(*shape)
    check_module(module, x)
    check_gradients(module, x)


def through(view: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Any]:
    """Write through a view, and look at the tensor through other views made before and after."""

    def function(x: Tensor) -> Any:
        flat, transposed = x.reshape(-1), x.transpose(0, 1)
        part = view(x)
        part.mul_(part + 0.5)
        return x, flat * 2.0, transposed * transposed, part, view(x)

    return function


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x.view(-1),
        lambda x: x.view(2, 2, 3),
        lambda x: x.t(),
        lambda x: x.t().unsqueeze(1).squeeze(1).t(),
        lambda x: x[1],
        lambda x: x[:, -1],
        lambda x: x[1:3],
        lambda x: x[:, 1:],
        lambda x: x[::2],
        lambda x: x[1::3],
        lambda x: x[:, ::2],
        lambda x: x[3:, 1:2],
        lambda x: x[2:2],
        lambda x: x[0:4],
        lambda x: x.narrow(1, 1, 2),
        lambda x: x.view(2, 2, 3)[1].t()[1:],
        lambda x: x.view(2, 6)[:, 1::2],
        lambda x: x.permute(1, 0).select(0, 2),
        lambda x: x.unflatten(0, (2, 2)).movedim(2, 0)[1:, 0],
    ],
)  # fmt: skip
def test_writes_through_views(view: Callable[[Tensor], Tensor]) -> None:
    check(through(view), 4, 3)


def test_a_tensor_that_is_filled_step_by_step() -> None:
    def recurrence(x: Tensor) -> Tensor:
        out = torch.zeros(4, 3)
        state = x[0]
        for step in range(4):
            state = torch.tanh(state + x[step])
            out[step] = state
        return out

    check(recurrence, 4, 3)


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.fill_(2.5),
        lambda x: x.zero_(),
        lambda x: x.copy_(torch.arange(3)),
        lambda x: x.add_(1, alpha=2),
        lambda x: x.clamp_(-0.5, 0.5),
        lambda x: torch.relu_(x),
        lambda x: x.masked_fill_(x > 0, -1.0),
        lambda x: x.sin_().neg_().mul_(2.0),
    ],
)  # fmt: skip
def test_operators_in_place(write: Callable[[Tensor], Tensor]) -> None:
    def function(x: Tensor) -> Tensor:
        y = x * 1.5
        write(y)
        return y + x

    check(function, 2, 3)


def test_what_was_read_before_a_write_keeps_its_contents() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2.0
        before = y + 0.0
        copy = y.clone()
        y.add_(1.0)
        return before * y, copy

    check(function, 3, 2)


def test_chunks_see_writes_to_the_whole() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():  # elsewhere PyTorch refuses
            y = x * 2.0
            first, second = y.chunk(2, 1)
            rows = y.unbind(0)
            y.mul_(y)
            first.neg_()
            return first, second + 1.0, rows[1], y

    check_module(Scaled(function, 2, 4), torch.randn(2, 4))


def test_dropout_outside_training_returns_the_tensor_itself() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2.0
        z = nn.functional.dropout(y, 0.5, training=False)
        z.clamp_(min=0.0)
        return y, z

    check(function, 2, 4)


def test_a_write_into_an_input_stays_inside() -> None:
    module = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3))
    graph, _ = check_module(module, torch.randn(2, 3))
    assert not graph.stores


class State(nn.Module):
    """Buffers that the module writes itself, in and out of the region without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("average", torch.zeros(4))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("history", torch.zeros(3, 4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        with torch.no_grad():
            self.average.mul_(0.9).add_(y.mean(0), alpha=0.1)
            self.count += 1
            self.history[1:] = self.history[:-1].clone()
            self.history[0] = self.average
        z: Tensor = y * self.average + self.count + self.history.sum()
        return z


def test_buffers_are_stored_once_at_the_end() -> None:
    graph, _ = check_module(State(), torch.randn(3, 4))
    assert sorted(store.target.name for store in graph.stores) == ["average", "count", "history"]
    check_gradients(State(), torch.randn(3, 4))


class Detached(nn.Module):
    """Values without gradients, in every way PyTorch has."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            fixed = torch.tanh(self.a(x))
            weight = self.c.weight.view(-1)
            with torch.enable_grad():
                live = self.b(x) * fixed
            dead = live * 2.0
        y: Tensor = live * fixed + dead + self.c(x).detach() * weight.sum() + self.c.bias
        return y


def test_no_gradient_flows_out_of_regions_without_gradients() -> None:
    found = check_gradients(Detached(), torch.randn(2, 3))
    assert sorted(found) == ["b.bias", "b.weight", "c.bias"]
    check_module(Detached(), torch.randn(2, 3))


class Clamped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))
        self.table = torch.zeros(3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.clamp_(-1.0, 1.0)
        return x * self.weight


def test_writes_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match="it writes into the parameter weight"):
        import_torch(Clamped(), [torch.randn(3)], training=True)

    def diagonal(x: Tensor) -> Tensor:
        y = x * 2.0
        y.diagonal().zero_()
        return y

    with pytest.raises(UnsupportedOperatorError, match=r"it writes in place through aten.diagonal"):
        import_torch(Scaled(diagonal, 3, 3), [torch.randn(3, 3)], training=True)


SLICES = st.builds(slice, st.integers(0, 4), st.integers(1, 6), st.integers(1, 3))


@settings(derandomize=True, deadline=None, max_examples=20)
@given(first=SLICES, second=SLICES, third=SLICES)
def test_any_sequence_of_slices(first: slice, second: slice, third: slice) -> None:
    def function(x: Tensor) -> Tensor:
        y = x * 1.0
        y[first, second].mul_(2.0)
        y[third] = y[third] * y[third]
        y[:, first].add_(y[:, first])
        return y

    check_module(Scaled(function, 5, 5), torch.randn(5, 5))
