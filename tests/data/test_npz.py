"""NumPy archives: what is read, and what is refused with a clear message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tilegrad.data import load_npz
from tilegrad.errors import UserError


def save(path: Path, **arrays: Any) -> Path:
    file = path / "data.npz"
    np.savez(file, **arrays)
    return file


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float32),
        (np.uint8, np.int64),
        (np.int32, np.int64),
        (np.int64, np.int64),
    ],
)
def test_dtypes(tmp_path: Path, given: type, read: type) -> None:
    x = np.arange(6).reshape(3, 2)
    loaded_x, loaded_y = load_npz(save(tmp_path, x=x.astype(given), y=np.array([0, 1, 2], np.uint8)))
    assert loaded_x.dtype == read
    assert loaded_y.dtype == np.int64
    assert np.array_equal(loaded_x, x)
    assert np.array_equal(loaded_y, [0, 1, 2])


def test_targets_may_be_real(tmp_path: Path) -> None:
    _, y = load_npz(save(tmp_path, x=np.ones((2, 3)), y=np.array([[0.5], [1.5]])))
    assert y.dtype == np.float32
    assert y.shape == (2, 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones(3)}, "no array 'y', only x"),
        ({}, "no array 'x', only nothing"),
        ({"x": np.ones((3, 2)), "y": np.zeros(2, int)}, "x has 3 samples and y has 2"),
        ({"x": np.ones((0, 2)), "y": np.zeros(0, int)}, r"x has shape \[0, 2\]; expected at least one sample"),
        ({"x": np.float32(1), "y": np.zeros(1, int)}, r"x has shape \[\]"),
        ({"x": np.ones((1, 2), complex), "y": np.zeros(1, int)}, "x has dtype complex128"),
        ({"x": np.ones((1, 2)), "y": np.array(["rest"])}, "y has dtype <U4"),
        ({"x": np.ones((1, 2)), "y": np.array([True])}, "y has dtype bool"),
        ({"x": np.array([[1.0], [np.nan]]), "y": np.zeros(2, int)}, r"x is nan at \[1, 0\]; expected finite"),
        ({"x": np.full((1, 1), 1e300), "y": np.zeros(1, int)}, "beyond float32's range"),
        ({"x": np.ones((1, 1)), "y": np.array([2**63], np.uint64)}, "beyond int64's range"),
    ],
)
def test_contents_are_checked(tmp_path: Path, arrays: dict[str, NDArray[Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_npz(save(tmp_path, **arrays))


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    file = save(tmp_path, x=np.array([{"a": 1}], object), y=np.zeros(1, int))
    with pytest.raises(UserError, match=r"cannot be read as an \.npz archive.*pickle"):
        load_npz(file)


def test_damaged_files(tmp_path: Path) -> None:
    file = save(tmp_path, x=np.arange(1000.0), y=np.zeros(1000, int))
    whole = file.read_bytes()
    for damaged in (b"", b"text, not an archive", whole[: len(whole) // 2], whole[:200] + b"\xff" * 50 + whole[250:]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read"):
            load_npz(file)
    with pytest.raises(UserError, match="cannot be read"):
        load_npz(tmp_path / "missing.npz")
    with pytest.raises(UserError, match="cannot be read"):
        load_npz(tmp_path)


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    with file.open("wb") as stream:
        np.save(stream, np.ones(3))
    with pytest.raises(UserError, match="holds a single array"):
        load_npz(file)
