"""A correct program passes where rounding decides on which side of a kink an activation falls."""

from __future__ import annotations

import numpy as np
import torch
from tests.verification.fake_build import change, make_build
from torch import nn

from tilegrad.training.losses import MSE
from tilegrad.training.optimizers import SGD, Adam
from tilegrad.verification import verify


class Kink(nn.Module):
    """The activation of the first sample is 7e-9 in exact arithmetic and 0 in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 1, bias=False)
        self.outer = nn.Linear(1, 1)
        with torch.no_grad():
            self.inner.weight.copy_(torch.tensor([[-0.1, -0.2, 0.3]]))
            self.outer.weight.fill_(1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.outer(torch.relu(self.inner(x)))
        return y


X = np.array([[1.0, 1.0, 1.0], [2.0, -3.0, 0.5]], np.float32)
Y = np.array([[2.0], [1.0]], np.float32)


def test_an_activation_at_a_kink_may_fall_on_either_side() -> None:
    model = Kink()
    for optimizer in (SGD(lr=0.01), Adam(lr=0.01)):
        build = make_build(model, optimizer, loss=MSE(), inputs=(X,))
        verification = verify(model, build, [(X, Y)], steps=1)
        (row,) = [row for row in verification.gradients if row.name == "inner.weight"]
        assert row.relative > 0.1, "the float32 program is on the other side"
        assert verification.failures == []


def test_what_the_kink_does_not_explain_still_fails() -> None:
    model = Kink()
    build = make_build(model, SGD(lr=0.01), loss=MSE(), inputs=(X,))
    for name in ("outer.weight", "outer.bias"):
        broken = build.with_faults(gradients=change(name, lambda g: g * 1.001))
        assert not verify(model, broken, [(X, Y)], steps=1).ok
