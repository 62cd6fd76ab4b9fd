"""Data files by their suffix, and batches of fixed size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.data.npz import load_npz
from tilegrad.data.silentwear import load_silentwear
from tilegrad.errors import UserError


def load_data(path: str | Path, *, samples: int = 700) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read samples and targets from a file.

    Args:
        path: an ``.npz`` archive with the arrays ``x`` and ``y``, or a SilentWear recording (``.h5``, ``.hdf5``).
        samples: samples per window of a SilentWear recording; other files fix their own shapes.

    Returns:
        ``x``, [n, ...], and ``y``, [n] or [n, ...].

    Raises:
        UserError: the suffix is another one, or the file is not as it should be.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".npz":
            return load_npz(path)
        case ".h5" | ".hdf5":
            return load_silentwear(path, samples=samples)
        case suffix:
            raise UserError(
                f"{path}: the suffix {suffix!r} names no data format; expected .npz (arrays x and y) or "
                ".h5 (a SilentWear recording)."
            )


def batches(
    x: NDArray[Any], y: NDArray[Any], batch: int, *, shuffle: np.random.Generator | None = None
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Cut samples into batches of one fixed size, as a compiled step needs them.

    Args:
        x: samples, [n, ...].
        y: targets, [n, ...].
        batch: samples per batch. What is left at the end is dropped (with ``shuffle``: another rest each time).
        shuffle: draws the order of the samples; without it they keep theirs.

    Returns:
        ``n // batch`` pairs of contiguous arrays ([batch, ...], [batch, ...]).

    Raises:
        UserError: the numbers of samples differ, or there are fewer than one batch needs.
    """
    if len(x) != len(y):
        raise UserError(f"There are {len(x)} samples and {len(y)} targets; expected the same number.")
    if not 1 <= batch <= len(x):
        raise UserError(f"The batch size is {batch} and there are {len(x)} samples; expected 1 to {len(x)}.")
    order = np.arange(len(x)) if shuffle is None else shuffle.permutation(len(x))
    chosen = order[: len(x) // batch * batch].reshape(-1, batch)
    return [(x[rows], y[rows]) for rows in chosen]
