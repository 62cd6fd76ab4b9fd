"""Contents of ONNX tensors, stored inside the model or in files beside it."""

from __future__ import annotations

import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tilegrad.errors import ModelError
from tilegrad.ir.types import DType

#: Most elements of one tensor; 2 GiB of float32.
MAX_ELEMENTS = 1 << 29


@dataclass(frozen=True)
class TensorType:
    """How an element type is stored.

    Attributes:
        dtype: the type that holds it.
        raw: NumPy's little-endian type of the raw bytes.
        field: the message's field where elements are not stored as bytes.
    """

    dtype: DType
    raw: str
    field: str


#: By TensorProto.DataType.
TYPES: dict[int, TensorType] = {
    onnx.TensorProto.FLOAT: TensorType(DType.F32, "<f4", "float_data"),
    onnx.TensorProto.INT32: TensorType(DType.I32, "<i4", "int32_data"),
    onnx.TensorProto.INT64: TensorType(DType.I64, "<i8", "int64_data"),
    onnx.TensorProto.BOOL: TensorType(DType.BOOL, "|u1", "int32_data"),
}
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def type_name(code: int) -> str:
    """The name of a TensorProto.DataType."""
    try:
        return str(onnx.TensorProto.DataType.Name(code)).lower()
    except ValueError:
        return f"number {code}"


def read_tensor(tensor: onnx.TensorProto, where: str, folder: Path | None) -> NDArray[Any]:
    """The contents of a tensor.

    Args:
        tensor: the message.
        where: how messages name it.
        folder: where external data may be; None where there is no folder.

    Raises:
        ModelError: on unsupported types, unsound sizes, and external data that is missing or outside of the folder.
    """
    found = TYPES.get(tensor.data_type)
    if found is None:
        raise ModelError(
            f"{where} is of type {type_name(tensor.data_type)}, expected float, int32, int64 or bool; convert the model"
        )
    if tensor.HasField("segment"):
        raise ModelError(f"{where} is stored in segments, which is not supported")
    dims = tuple(int(dim) for dim in tensor.dims)
    if any(dim < 0 for dim in dims):
        raise ModelError(f"{where} has a negative dimension: {dims}")
    count = math.prod(dims)
    if count > MAX_ELEMENTS:
        raise ModelError(f"{where} of shape {dims} has more than {MAX_ELEMENTS} elements")
    raw_type = np.dtype(found.raw)
    wanted = count * raw_type.itemsize
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        data = _flat(_external(tensor, where, folder, wanted), raw_type)
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != wanted:
            raise ModelError(f"{where} of shape {dims} has {len(tensor.raw_data)} bytes, expected {wanted}")
        data = _flat(tensor.raw_data, raw_type)
    else:
        data = _listed(tensor, found, where, count)
    if found.dtype is DType.BOOL:
        data = data != 0
    return np.ascontiguousarray(data.astype(found.dtype.numpy)).reshape(dims)


def _flat(data: bytes, raw_type: np.dtype[Any]) -> NDArray[Any]:
    return np.frombuffer(data, raw_type)


def _listed(tensor: onnx.TensorProto, found: TensorType, where: str, count: int) -> NDArray[Any]:
    filled = [field for field in _FIELDS if len(getattr(tensor, field)) and field != found.field]
    if filled:
        raise ModelError(f"{where} of type {found.dtype.value} has its elements in {filled[0]}, expected {found.field}")
    elements = getattr(tensor, found.field)
    if len(elements) != count:
        raise ModelError(f"{where} of shape {tuple(tensor.dims)} has {len(elements)} elements, expected {count}")
    return np.array(elements, np.int64 if found.dtype is DType.BOOL else found.dtype.numpy)


def _external(tensor: onnx.TensorProto, where: str, folder: Path | None, wanted: int) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise ModelError(f"{where} is stored in another file, {location!r}; pass the path of the model instead")
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", str(wanted)))
    except ValueError as error:
        raise ModelError(f"{where} has external data with an offset or length that is no number") from error
    if offset < 0 or length != wanted:
        raise ModelError(f"{where} has {length} bytes of external data at {offset}, expected {wanted} bytes")
    path = _inside(folder, location, where)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size < offset + length:
            raise ModelError(f"{where}: its external data {location!r} is no file of at least {offset + length} bytes")
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(length)
    except (OSError, OverflowError) as error:
        raise ModelError(f"{where}: its external data {location!r} cannot be read: {error}") from error
    if len(data) != length:
        raise ModelError(f"{where}: its external data {location!r} ends early")
    return data


def _inside(folder: Path, location: str, where: str) -> Path:
    """The file that external data is in; links are followed before it is judged.

    Raises:
        ModelError: if it is not inside `folder`.
    """
    refusal = ModelError(f"{where}: its external data {location!r} is not a file inside the model's folder")
    parts = location.replace("\\", "/").split("/")
    if not location or "\0" in location or os.path.isabs(location) or ".." in parts or ":" in parts[0]:
        raise refusal
    root = os.path.realpath(folder)
    resolved = os.path.realpath(os.path.join(root, location))
    if os.path.commonpath([root, resolved]) != root or resolved == root:
        raise refusal
    return Path(resolved)
