"""Philox4x32-10 in NumPy, equal to ``tg_philox`` of the generated C bit for bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilegrad.errors import ShapeError

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_WORD = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_ROUNDS = 10


def philox(
    c0: ArrayLike, c1: ArrayLike, c2: ArrayLike, c3: ArrayLike, k0: ArrayLike, k1: ArrayLike
) -> NDArray[np.uint32]:
    """First word of Philox4x32-10 for every counter and key.

    The generator is that of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).

    Args:
        c0: least significant word of the counter; uint32, or integers in its range, of any shape.
        c1: second word of the counter; all six arguments broadcast.
        c2: third word of the counter.
        c3: most significant word of the counter.
        k0: first word of the key.
        k1: second word of the key.

    Returns:
        uint32 array of the broadcast shape.

    Raises:
        ShapeError: if an argument is not integral, has an element outside [0, 2^32), or the shapes do not broadcast.
    """
    names = ("c0", "c1", "c2", "c3", "k0", "k1")
    words = [_words(name, value) for name, value in zip(names, (c0, c1, c2, c3, k0, k1), strict=True)]
    try:
        shape = np.broadcast_shapes(*(word.shape for word in words))
    except ValueError as error:
        shapes = ", ".join(f"{name} {word.shape}" for name, word in zip(names, words, strict=True))
        raise ShapeError(
            f"philox: the shapes of counter and key do not broadcast: {shapes}; make them agree"
        ) from error
    x0, x1, x2, x3, y0, y1 = words
    for _ in range(_ROUNDS):
        even, odd = _MULTIPLIERS[0] * x0, _MULTIPLIERS[1] * x2
        x0, x1, x2, x3 = (odd >> _SHIFT) ^ x1 ^ y0, odd & _WORD, (even >> _SHIFT) ^ x3 ^ y1, even & _WORD
        y0, y1 = (y0 + _KEY_STEPS[0]) & _WORD, (y1 + _KEY_STEPS[1]) & _WORD
    return np.broadcast_to(x0, shape).astype(np.uint32)


def _words(name: str, value: ArrayLike) -> NDArray[np.uint64]:
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise ShapeError(f"philox: {name} has dtype {array.dtype}, expected uint32; convert it first")
    if array.dtype != np.uint32 and array.size and (array.min() < 0 or array.max() > 0xFFFFFFFF):
        raise ShapeError(f"philox: {name} has elements outside [0, 2^32); reduce them modulo 2^32 first")
    return array.astype(np.uint64)
