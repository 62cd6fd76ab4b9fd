"""ResNet-8 for 32x32 colour images: three residual stages of one block each.

The layout follows He et al., "Deep Residual Learning for Image Recognition" (2016), section 4.2, cut to one block a
stage, as used for image classification on microcontrollers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to a shortcut.

    Args:
        inputs: input channels.
        outputs: output channels.
        stride: stride of the first convolution and of the shortcut. The shortcut is the identity where shapes agree,
            else a 1x1 convolution with batch norm.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        if stride == 1 and inputs == outputs:
            self.shortcut: nn.Module = nn.Identity()
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, inputs, h, w] to [batch, outputs, h / stride, w / stride]."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet8(nn.Module):
    """A 3x3 stem, stages of 16, 32 and 64 channels, global average pooling and a linear classifier.

    Args:
        size: height and width of the images.
        classes: number of classes.
    """

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.size = size
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.stages = nn.Sequential(ResidualBlock(16, 16, 1), ResidualBlock(16, 32, 2), ResidualBlock(32, 64, 2))
        self.classifier = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, 3, size, size] to logits, float32 [batch, classes]."""
        features = self.stages(torch.relu(self.norm(self.stem(x)))).mean(dim=(2, 3))
        logits: Tensor = self.classifier(features)
        return logits

    def example_inputs(self, batch: int) -> tuple[Tensor, ...]:
        """Return one standard normal input, float32 [batch, 3, size, size]."""
        return (torch.randn(batch, 3, self.size, self.size),)


def resnet8(size: int = 32, classes: int = 10) -> ResNet8:
    """Build ResNet-8; see `ResNet8` for the arguments."""
    return ResNet8(size, classes)
