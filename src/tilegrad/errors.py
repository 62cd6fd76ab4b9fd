"""The exception hierarchy: every error that TileGrad raises on purpose derives from `TileGradError`.

A message says what was wrong, where (file, node, tensor), what was expected, and what the user can do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class TileGradError(Exception):
    """Root of all errors raised on purpose."""


class UserError(TileGradError):
    """The request cannot be carried out as given: a wrong option, a missing file, a mismatched shape."""


class ModelError(TileGradError):
    """The model cannot be read: unreadable, truncated, hostile, or with shapes that stay dynamic."""


class ShapeError(TileGradError):
    """Shapes or dtypes do not fit an operation."""


class InternalError(TileGradError):
    """An invariant of the compiler does not hold; please report it with the model."""


class ToolchainError(TileGradError):
    """A compiler is missing or rejected the generated code."""


class RunError(TileGradError):
    """The compiled program failed while it ran."""


class DoesNotFitError(TileGradError):
    """The tensors do not fit the memory that the target or the user grants."""


@dataclass(frozen=True)
class UnsupportedNode:
    """One node of a model that no registered operator implements.

    Attributes:
        operator: the operator's name as the frontend spells it, e.g. ``aten.fft_fft.default`` or ``ai.onnx::STFT``.
        node: the node's name in the model.
        reason: what in particular is unsupported, or an empty string where the operator as a whole is.
    """

    operator: str
    node: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.operator} (node {self.node!r})" + (f": {self.reason}" if self.reason else "")


class UnsupportedOperatorError(TileGradError):
    """The model uses operators that TileGrad does not implement.

    Attributes:
        operators: the distinct operator names, in order of first appearance.
        nodes: every unsupported node.
    """

    def __init__(self, nodes: Sequence[UnsupportedNode]) -> None:
        self.nodes = tuple(nodes)
        self.operators = tuple(dict.fromkeys(node.operator for node in self.nodes))
        listing = "\n".join(f"  - {node}" for node in self.nodes)
        super().__init__(
            f"{len(self.nodes)} node(s) use operators that are not supported:\n{listing}\n"
            "`tilegrad operators` lists what is; docs/architecture.md shows how to add one."
        )
