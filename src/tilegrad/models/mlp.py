"""A multi-layer perceptron."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Hidden linear layers with ReLU and a linear head.

    Args:
        features: input features.
        hidden: width of the hidden layers.
        depth: number of hidden layers.
        classes: outputs.
    """

    def __init__(self, features: int, hidden: int, depth: int, classes: int) -> None:
        super().__init__()
        self.features = features
        widths = [features] + [hidden] * depth
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, features] to logits, float32 [batch, classes]."""
        for layer in self.hidden:
            x = torch.relu(layer(x))
        logits: Tensor = self.head(x)
        return logits

    def example_inputs(self, batch: int) -> tuple[Tensor, ...]:
        """Return one standard normal input, float32 [batch, features]."""
        return (torch.randn(batch, self.features),)


def mlp(features: int = 64, hidden: int = 64, depth: int = 2, classes: int = 10) -> MLP:
    """Build the perceptron; see `MLP` for the arguments."""
    return MLP(features, hidden, depth, classes)
