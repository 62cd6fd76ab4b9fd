"""A small transformer encoder that classifies token sequences.

Vaswani et al., "Attention Is All You Need" (2017), with the normalisation in front of each sub-layer and learned
positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tilegrad.errors import UserError


class EncoderBlock(nn.Module):
    """Self-attention and a GELU perceptron, each behind a layer norm and added to its input.

    Args:
        width: features per token.
        heads: attention heads; they divide the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, length, width] to the same shape."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.projection(attended.transpose(1, 2).reshape(batch, length, width))
        y: Tensor = x + self.contract(functional.gelu(self.expand(self.norm2(x))))
        return y


class Transformer(nn.Module):
    """Token and position embeddings, encoder blocks, a mean over the tokens and a linear classifier.

    Args:
        vocabulary: number of distinct tokens.
        length: tokens per sequence.
        width: features per token.
        heads: attention heads.
        layers: encoder blocks.
        classes: number of classes.
    """

    def __init__(self, vocabulary: int, length: int, width: int, heads: int, layers: int, classes: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.length = length
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens, int64 [batch, length] below the vocabulary size, to logits, float32 [batch, classes]."""
        encoded = self.norm(self.blocks(self.tokens(tokens) + self.positions))
        logits: Tensor = self.classifier(encoded.mean(dim=1))
        return logits

    def example_inputs(self, batch: int) -> tuple[Tensor, ...]:
        """Return uniformly drawn tokens, int64 [batch, length]."""
        return (torch.randint(0, self.vocabulary, (batch, self.length)),)


def transformer(
    vocabulary: int = 64, length: int = 16, width: int = 32, heads: int = 4, layers: int = 2, classes: int = 4
) -> Transformer:
    """Build the encoder; see `Transformer` for the arguments.

    Raises:
        UserError: the heads do not divide the width.
    """
    if width % heads:
        raise UserError(f"transformer: {heads} heads do not divide the width {width}; choose a multiple of {heads}.")
    return Transformer(vocabulary, length, width, heads, layers, classes)
