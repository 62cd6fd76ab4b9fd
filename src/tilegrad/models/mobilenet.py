"""MobileNetV1: depthwise-separable convolutions for colour images.

Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications" (2017), table 1,
with the width multiplier 0.25 and 96x96 images of visual-wake-word networks by default.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tilegrad.errors import UserError

# Output channels at width 1 and stride of the thirteen separable blocks.
_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)) + ((512, 1),) * 5 + ((1024, 2), (1024, 1))
_STEM = 32
_TOTAL_STRIDE = 32


class SeparableBlock(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, each with batch norm and ReLU.

    Args:
        inputs: input channels.
        outputs: output channels.
        stride: stride of the depthwise convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride=stride, padding=1, groups=inputs, bias=False)
        self.norm1 = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, inputs, h, w] to [batch, outputs, h / stride, w / stride]."""
        y = torch.relu(self.norm1(self.depthwise(x)))
        return torch.relu(self.norm2(self.pointwise(y)))


class MobileNet(nn.Module):
    """A strided stem, thirteen separable blocks, global average pooling and a linear classifier.

    Args:
        width: factor on all channel counts; they stay a multiple of 8.
        size: height and width of the images.
        classes: number of classes.
    """

    def __init__(self, width: float, size: int, classes: int) -> None:
        super().__init__()
        self.size = size
        channels = [max(8, int(count * width) // 8 * 8) for count in (_STEM, *(count for count, _ in _BLOCKS))]
        self.stem = nn.Conv2d(3, channels[0], 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels[0])
        self.blocks = nn.Sequential(
            *(SeparableBlock(channels[k], channels[k + 1], stride) for k, (_, stride) in enumerate(_BLOCKS))
        )
        self.classifier = nn.Linear(channels[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, 3, size, size] to logits, float32 [batch, classes]."""
        features = self.blocks(torch.relu(self.norm(self.stem(x)))).mean(dim=(2, 3))
        logits: Tensor = self.classifier(features)
        return logits

    def example_inputs(self, batch: int) -> tuple[Tensor, ...]:
        """Return one standard normal input, float32 [batch, 3, size, size]."""
        return (torch.randn(batch, 3, self.size, self.size),)


def mobilenet(width: float = 0.25, size: int = 96, classes: int = 2) -> MobileNet:
    """Build MobileNetV1; see `MobileNet` for the arguments.

    Raises:
        UserError: the size is no positive multiple of 32, the total stride.
    """
    if size <= 0 or size % _TOTAL_STRIDE:
        raise UserError(f"mobilenet: size is {size}, expected a positive multiple of {_TOTAL_STRIDE} such as 96.")
    return MobileNet(width, size, classes)
