"""How tests compare an ATen adapter with the PyTorch operator of the same name: values, types, every gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from operator_harness import check

from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators import registry

_TYPES = {
    torch.float64: DType.F32,
    torch.float32: DType.F32,
    torch.int64: DType.I64,
    torch.int32: DType.I32,
    torch.bool: DType.BOOL,
}


def find(name: str) -> Callable[..., Any]:
    """The adapter of ``aten.<name>``."""
    function = registry.find_aten(f"aten.{name}")
    assert function is not None, f"aten.{name} is not registered"
    return function


def aten_op(name: str) -> Any:
    """PyTorch's own operator; in-place ones work on a copy, since leaves cannot be overwritten."""
    operator, overload = name.split(".")
    function = getattr(getattr(torch.ops.aten, operator), overload)
    if not operator.endswith("_") or operator.startswith("_"):
        return function
    return lambda x, *args, **kwargs: function(x.clone(), *args, **kwargs)


def _arrays(arguments: Any) -> Iterator[np.ndarray]:
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _arrays(argument)


def _rebuild(arguments: Any, tensors: Iterator[Any]) -> Any:
    return [
        next(tensors)
        if isinstance(argument, np.ndarray)
        else _rebuild(argument, tensors)
        if isinstance(argument, list | tuple)
        else argument
        for argument in arguments
    ]


def check_aten(name: str, *arguments: Any, tolerance: float = 1e-6, gradient: bool = True, **keywords: Any) -> None:
    """Compare adapter and operator on the same arguments; arrays among them, also in lists, are the tensors.

    Args:
        name: operator and overload, such as ``add.Tensor``.
        arguments: positional arguments.
        tolerance: as in `operator_harness.check`; literals are rounded to float32.
        gradient: compare gradients too.
        keywords: keyword arguments without arrays.
    """
    types: list[DType] = []
    wanted: list[DType] = []

    def function(*values: Value) -> Any:
        found = find(name)(*_rebuild(arguments, iter(values)), **keywords)
        results = list(found) if isinstance(found, tuple | list) else [found]
        types[:] = [result.dtype for result in results]
        return results

    def reference(*tensors: torch.Tensor) -> Any:
        found = aten_op(name)(*_rebuild(arguments, iter(tensors)), **keywords)
        results = list(found) if isinstance(found, tuple | list) else [found]
        wanted[:] = [_TYPES[result.dtype] for result in results]
        return results

    check(function, reference, *_arrays(arguments), tolerance=tolerance, gradient=gradient)
    assert types == wanted
