"""Activations against PyTorch."""

import torch
from operator_harness import check, draw

from tilegrad.operators import activation


def test_relu_forward_and_gradient() -> None:
    check(activation.relu, torch.relu, draw(3, 5))
