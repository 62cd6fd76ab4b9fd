"""Choosing the reader by suffix, and cutting batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tilegrad.data import batches, load_data
from tilegrad.errors import UserError


def test_an_archive_by_its_suffix(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((2, 3)), y=np.array([0, 1]))
    for path in (tmp_path / "data.npz", str(tmp_path / "data.npz")):
        x, y = load_data(path)
        assert x.shape == (2, 3)
        assert y.tolist() == [0, 1]


def test_a_recording_by_its_suffix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"recording\.h5 is not a file"):
        load_data(tmp_path / "recording.h5")


def test_another_suffix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.csv: the suffix '\.csv' names no data format; expected \.npz"):
        load_data(tmp_path / "data.csv")


def test_batches_keep_the_order_and_drop_the_rest() -> None:
    x = np.arange(14.0).reshape(7, 2)
    y = np.arange(7)
    cut = batches(x, y, 3)
    assert [labels.tolist() for _, labels in cut] == [[0, 1, 2], [3, 4, 5]]
    for samples, labels in cut:
        assert np.array_equal(samples, x[labels])
        assert samples.flags.c_contiguous


def test_shuffled_batches_hold_every_sample_at_most_once() -> None:
    x = np.arange(100.0)[:, None]
    y = np.arange(100)
    cut = batches(x, y, 8, shuffle=np.random.default_rng(1))
    seen = np.concatenate([labels for _, labels in cut])
    assert len(cut) == 12
    assert len(set(seen)) == 96
    assert seen.tolist() != sorted(seen)
    assert all(np.array_equal(samples[:, 0], labels) for samples, labels in cut)


@pytest.mark.parametrize("batch", [0, 4])
def test_batch_sizes_that_do_not_fit(batch: int) -> None:
    with pytest.raises(UserError, match=f"batch size is {batch} and there are 3 samples; expected 1 to 3"):
        batches(np.ones((3, 1)), np.zeros(3), batch)


def test_numbers_of_samples_that_differ() -> None:
    with pytest.raises(UserError, match="3 samples and 2 targets"):
        batches(np.ones((3, 1)), np.zeros(2), 1)
