"""Element types and the kinds of tensors."""

from __future__ import annotations

import enum

import numpy as np


class DType(enum.Enum):
    """Element type of a value or of a scalar expression.

    U8 is for storage: positions that fit. Expressions convert it to I32 before they compute with it.
    """

    F32 = "f32"
    I32 = "i32"
    I64 = "i64"
    U32 = "u32"
    U8 = "u8"
    BOOL = "bool"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy dtype that stores it."""
        return np.dtype(_NUMPY[self])

    @property
    def c_type(self) -> str:
        """The C type that stores it in memory."""
        return _C_TYPE[self]

    @property
    def size(self) -> int:
        """Size of one element in bytes."""
        return int(self.numpy.itemsize)

    @property
    def is_float(self) -> bool:
        """True for floating-point types, the only ones that carry gradients."""
        return self is DType.F32

    @staticmethod
    def of(array: np.ndarray) -> DType:
        """The type that stores `array`; float64 and float16 arrays become f32.

        Raises:
            KeyError: if no type of the compiler stores such elements.
        """
        if array.dtype.kind == "f":
            return DType.F32
        if array.dtype.kind in "i" and array.dtype.itemsize < 4:
            return DType.I32
        return _FROM_NUMPY[array.dtype.name]


_NUMPY = {
    DType.F32: "float32",
    DType.I32: "int32",
    DType.I64: "int64",
    DType.U32: "uint32",
    DType.U8: "uint8",
    DType.BOOL: "bool",
}
_C_TYPE = {
    DType.F32: "float",
    DType.I32: "tg_i32",
    DType.I64: "tg_i64",
    DType.U32: "tg_u32",
    DType.U8: "uint8_t",
    DType.BOOL: "uint8_t",
}
_FROM_NUMPY = {name: dtype for dtype, name in _NUMPY.items()} | {"uint8": DType.I32, "uint16": DType.I32}


class Kind(enum.Enum):
    """What a tensor is for; every kind but TEMPORARY outlives a call of an entry point."""

    INPUT = "input"
    PARAMETER = "parameter"
    BUFFER = "buffer"
    GRADIENT = "gradient"
    OPTIMIZER = "optimizer"
    SETTING = "setting"
    OUTPUT = "output"
    CONSTANT = "constant"
    TEMPORARY = "temporary"

    @property
    def persistent(self) -> bool:
        """True for tensors that keep their contents between entry points."""
        return self is not Kind.TEMPORARY
