"""PyTorch's dtypes and tensors as values of the compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tilegrad.errors import ModelError
from tilegrad.ir.types import DType

_DTYPES = {torch.float32: DType.F32, torch.int32: DType.I32, torch.int64: DType.I64, torch.bool: DType.BOOL}


def dtype_of(dtype: torch.dtype) -> DType | None:
    """The element type that stores a ``torch.dtype``, or None where there is none."""
    return _DTYPES.get(dtype)


def trainable_array(name: str, tensor: torch.Tensor) -> NDArray[np.float32]:
    """A copy of the contents of a parameter.

    Raises:
        ModelError: unless it is a dense float32 tensor with contents.
    """
    if tensor.dtype is not torch.float32:
        raise ModelError(
            f"parameter {name!r} is {_short(tensor.dtype)}, expected float32: convert the module first, "
            "with `module.float()`"
        )
    return np.asarray(_contents(f"parameter {name!r}", tensor), np.float32)


def stored_array(what: str, tensor: torch.Tensor) -> NDArray[Any]:
    """A copy of the contents of a buffer or of a constant, float64 ones rounded to float32.

    Raises:
        ModelError: if no type of the compiler stores such elements.
    """
    if tensor.dtype is torch.float64:
        return np.asarray(_contents(what, tensor), np.float32)
    if dtype_of(tensor.dtype) is None:
        raise ModelError(
            f"{what} is {_short(tensor.dtype)}, expected float32, int32, int64 or bool: convert it in the model"
        )
    return _contents(what, tensor)


def _contents(what: str, tensor: torch.Tensor) -> NDArray[Any]:
    if tensor.layout is not torch.strided:
        raise ModelError(f"{what} is sparse ({tensor.layout}), expected a dense tensor: call `.to_dense()` on it")
    if tensor.is_meta or tensor.is_quantized:
        raise ModelError(f"{what} has no plain contents (meta or quantized tensor): load or dequantize the model first")
    return np.array(tensor.detach().cpu().numpy(), order="C", copy=True)


def example_tensor(position: int, array: object) -> torch.Tensor:
    """An example input as the tensor the program is exported with; float64 becomes float32.

    Raises:
        ModelError: on anything but dense arrays and tensors of a supported type.
    """
    if isinstance(array, torch.Tensor):
        tensor = array.detach()
    elif isinstance(array, np.ndarray | np.generic):
        if array.dtype.kind not in "fiub" or array.dtype.name == "float16":
            raise ModelError(f"example input {position} is {array.dtype}, {_EXPECTED}")
        if array.dtype.name in ("uint16", "uint32", "uint64"):
            raise ModelError(f"example input {position} is {array.dtype}, {_EXPECTED}")
        tensor = torch.from_numpy(np.array(array, order="C", copy=True))
    else:
        raise ModelError(f"example input {position} is a {type(array).__name__}; expected a tensor or an array")
    if tensor.dtype is torch.float64:
        tensor = tensor.float()
    if dtype_of(tensor.dtype) is None:
        raise ModelError(f"example input {position} is {_short(tensor.dtype)}, {_EXPECTED}")
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise ModelError(f"example input {position} has no dense contents; pass an ordinary tensor")
    return tensor.cpu().contiguous().clone()


_EXPECTED = "expected float32, int32, int64 or bool: convert it, and what the model does with it"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
