"""Which ATen operators return views, and how a write through a view changes the tensor it looks at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

from tilegrad.frontends.views import assign_permuted, assign_reshaped, assign_slice
from tilegrad.ir.graph import Value
from tilegrad.operators.registry import UnsupportedCall

#: View operators by what they do to the elements.
RESHAPING = {
    "view", "reshape", "_unsafe_view", "view_as", "reshape_as", "unsqueeze", "squeeze", "flatten", "unflatten", "ravel",
    "alias", "detach", "contiguous", "to", "_to_copy", "lift_fresh", "type_as", "dropout", "expand_as", "expand",
}  # fmt: skip
PERMUTING = {
    "permute", "transpose", "t", "numpy_T", "mT", "movedim", "moveaxis", "swapaxes", "swapdims", "adjoint", "matrix_H",
}  # fmt: skip
SLICING = {"slice", "select", "narrow", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "unsafe_chunk"}
#: Operators that give new memory, also where tracing shares it between the copy and a constant.
_COPYING = {"lift_fresh_copy", "clone"}
_DROPOUT = {"dropout", "feature_dropout", "alpha_dropout"}


def packet(target: OpOverload) -> str:
    """The operator's name without namespace and overload: ``add_``."""
    return str(target._schema.name).split("::")[-1]


def is_view(target: OpOverload, args: list[Any], before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether a result shares memory with the first argument.

    Args:
        target: the operator.
        args: its arguments.
        before: the first argument as it was traced.
        after: the result as it was traced.
    """
    name = packet(target)
    if name in _DROPOUT and len(args) > 2 and args[2] is False:
        return True  # outside training it returns its argument itself, which tracing does not show
    return name not in _COPYING and before.untyped_storage() is after.untyped_storage()


def assignment(
    target: OpOverload, args: list[Any], before: torch.Tensor, after: Any, position: int | None
) -> Callable[[Value, Value], Value]:
    """How a write through a view changes its parent."""
    name = packet(target)
    view = after if position is None else after[position]
    if view.numel() == 0:
        return lambda parent, _: parent
    if name in RESHAPING and view.numel() == before.numel():
        return assign_reshaped
    if name in PERMUTING:
        probe = torch.empty(tuple(range(2, 2 + before.ndim)), device="meta")
        return assign_permuted([extent - 2 for extent in target(probe, *args[1:]).shape])
    if name in SLICING:
        # Every slice is a first element and a stride in the parent's memory; a strided probe shows them.
        probe = torch.empty(tuple(before.shape), device="meta")
        found = target(probe, *args[1:])
        part = found if position is None else found[position]
        return _slice_assignment(probe, part)

    def refuse(parent: Value, value: Value) -> Value:
        raise UnsupportedCall(f"it writes in place through {target}")

    return refuse


def _slice_assignment(parent: torch.Tensor, part: torch.Tensor) -> Callable[[Value, Value], Value]:
    offset = part.storage_offset()
    for axis in range(parent.ndim):
        stride = parent.stride(axis)
        start = offset // stride
        if offset % stride or start >= parent.shape[axis]:
            continue
        if part.ndim == parent.ndim:
            changed = part.shape[axis] != parent.shape[axis] or part.stride(axis) != stride
            others = all(part.shape[k] == parent.shape[k] for k in range(parent.ndim) if k != axis)
            if changed and others:
                return assign_slice(axis, start, part.stride(axis) // stride, part.shape[axis])
        elif part.shape == (*parent.shape[:axis], *parent.shape[axis + 1 :]) and part.stride() == (
            *parent.stride()[:axis],
            *parent.stride()[axis + 1 :],
        ):
            return assign_slice(axis, start, 1, 1)
    return assign_reshaped  # the slice takes everything
