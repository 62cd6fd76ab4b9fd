"""Samples from a NumPy archive with the arrays ``x`` and ``y``."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.errors import UserError


def load_npz(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read ``x`` and ``y`` from an ``.npz`` file. Pickled objects are never loaded.

    Args:
        path: the file, as `numpy.savez` writes it.

    Returns:
        ``x``, [n, ...]: float32 (from float16, float32 or float64) or int64 (from other integers; tokens, for
        example), and ``y``, [n] or [n, ...]: float32 for regression targets or int64 for labels.

    Raises:
        UserError: the file cannot be read, an array is missing or empty, has another dtype, the numbers of samples
            differ, or a value is not finite or too large for its dtype.
    """
    arrays = {}
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError(f"{path} holds a single array; expected an .npz archive with the arrays x and y.")
        with archive:
            missing = [name for name in ("x", "y") if name not in archive.files]
            if missing:
                found = ", ".join(archive.files) or "nothing"
                raise UserError(f"{path} has no array {missing[0]!r}, only {found}; save it with numpy.savez(x=, y=).")
            for name in ("x", "y"):
                arrays[name] = archive[name]
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read as an .npz archive: {error}") from error
    x, y = (_checked(path, name, array) for name, array in arrays.items())
    if len(x) != len(y):
        raise UserError(f"{path}: x has {len(x)} samples and y has {len(y)}; expected the same number.")
    return x, y


def _checked(path: Path, name: str, array: NDArray[Any]) -> NDArray[Any]:
    where = f"{path}: {name}"
    if array.ndim == 0 or array.size == 0:
        raise UserError(f"{where} has shape {list(array.shape)}; expected at least one sample, [n, ...].")
    if array.dtype.kind == "f" and array.dtype.itemsize <= 8:
        if not np.isfinite(array).all():
            index = np.argwhere(~np.isfinite(array))[0].tolist()
            raise UserError(f"{where} is {array[tuple(index)]} at {index}; expected finite values.")
        if np.abs(array).max() > np.finfo(np.float32).max:
            raise UserError(f"{where} has values beyond float32's range; scale the data.")
        return array.astype(np.float32)
    if array.dtype.kind in "iu":
        if array.max() > np.iinfo(np.int64).max:
            raise UserError(f"{where} has values beyond int64's range.")
        return array.astype(np.int64)
    raise UserError(f"{where} has dtype {array.dtype}; expected float16, float32, float64 or an integer type.")
