"""DS-CNN: keyword spotting on speech features with depthwise-separable convolutions.

Zhang et al., "Hello Edge: Keyword Spotting on Microcontrollers" (2017), the small variant: 49 frames of 10 MFCC
coefficients, 64 channels, four separable blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tilegrad.models.mobilenet import SeparableBlock

FRAMES = 49
COEFFICIENTS = 10


class DsCnn(nn.Module):
    """A strided 10x4 stem, four separable blocks, global average pooling, dropout and a linear classifier.

    Args:
        channels: channels of all blocks.
        blocks: number of separable blocks.
        classes: number of keywords.
    """

    def __init__(self, channels: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, (10, 4), stride=2, padding=(5, 1), bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential(*(SeparableBlock(channels, channels, 1) for _ in range(blocks)))
        self.dropout = nn.Dropout(0.4)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, 1, 49, 10] to logits, float32 [batch, classes]."""
        features = self.blocks(torch.relu(self.norm(self.stem(x)))).mean(dim=(2, 3))
        logits: Tensor = self.classifier(self.dropout(features))
        return logits

    def example_inputs(self, batch: int) -> tuple[Tensor, ...]:
        """Return one standard normal input, float32 [batch, 1, 49, 10]."""
        return (torch.randn(batch, 1, FRAMES, COEFFICIENTS),)


def ds_cnn(channels: int = 64, blocks: int = 4, classes: int = 12) -> DsCnn:
    """Build DS-CNN; see `DsCnn` for the arguments."""
    return DsCnn(channels, blocks, classes)
