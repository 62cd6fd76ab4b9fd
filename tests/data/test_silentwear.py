"""SilentWear recordings, on small files of the data set's layout."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tilegrad.data import load_silentwear
from tilegrad.errors import UserError

WORDS = ["rest", "up", "down", "left", "right", "forward", "backward", "start", "stop"]
ORDER = [0, 1, 2, 5, 3, 4, 7, 6, 8, 15, 9, 14, 10, 13]


def recording(runs: list[tuple[int, int]]) -> pd.DataFrame:
    """Make a recording of (label, length) runs; a sample's value is 100000 x electrode + row."""
    labels = np.concatenate([np.full(length, label) for label, length in runs])
    rows = np.arange(len(labels))
    columns: dict[str, Any] = {}
    for electrode in range(16):
        columns[f"Ch_{electrode}"] = np.full(len(labels), -1.0)
        columns[f"Ch_{electrode}_filt"] = 100000.0 * electrode + rows
    columns |= {"Label_int": labels, "Label_str": [WORDS[max(label, 0) % 9] for label in labels]}
    columns |= {"batch_id": 1, "session_id": 1}
    return pd.DataFrame(columns)


def save(folder: Path, table: Any) -> Path:
    file = folder / "sess_1_batch_1.h5"
    table.to_hdf(file, key="emg")
    return file


@pytest.mark.filterwarnings("ignore::pandas.errors.PerformanceWarning")
@pytest.mark.parametrize("samples", [700, 400])
def test_a_window_starts_at_every_onset(tmp_path: Path, samples: int) -> None:
    runs = [(0, 300), (3, 700), (0, 900), (8, 650), (1, 50), (0, 720)]
    x, y = load_silentwear(save(tmp_path, recording(runs)), samples=samples)
    assert (x.shape, x.dtype) == ((6, 1, 14, samples), np.float32)
    assert y.dtype == np.int64
    assert y.tolist() == [0, 3, 0, 8, 1, 0]
    for window, onset in zip(x[:, 0], [0, 300, 1000, 1900, 2550, 2600], strict=True):
        assert window[:, 0].tolist() == [100000 * electrode + onset for electrode in ORDER]
        assert (np.diff(window, axis=1) == 1).all()


@pytest.mark.filterwarnings("ignore::pandas.errors.PerformanceWarning")
def test_a_window_beyond_the_end_is_left_out(tmp_path: Path) -> None:
    file = save(tmp_path, recording([(0, 100), (2, 700)]))
    assert load_silentwear(file)[1].tolist() == [0, 2]
    file = save(tmp_path, recording([(0, 100), (2, 699)]))
    assert load_silentwear(file)[1].tolist() == [0]
    file = save(tmp_path, recording([(0, 100), (2, 599)]))
    with pytest.raises(UserError, match="no window of 700 samples fits the recording of 699"):
        load_silentwear(file)


@pytest.mark.filterwarnings("ignore::pandas.errors.PerformanceWarning")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns=["Ch_15_filt", "Label_int"]), "no column Ch_15_filt, Label_int"),
        (lambda t: t.assign(Label_int=9), r"Label_int is 9.0 in row 0; expected 0 \(rest\) to 8"),
        (lambda t: t.assign(Label_int=0.5), "Label_int is 0.5 in row 0"),
        (lambda t: t.assign(Label_int=np.nan), "Label_int is nan in row 0"),
        (lambda t: t.assign(Ch_5_filt="loud"), "a column of the table 'emg' is not numeric"),
        (lambda t: t.assign(Ch_5_filt=np.where(t.index == 7, np.nan, 1.0)), "Ch_5_filt is not finite in row 7"),
        (lambda t: t["Ch_5_filt"], "'emg' is a Series; expected a table"),
    ],
)
def test_contents_are_checked(tmp_path: Path, change: Any, message: str) -> None:
    file = save(tmp_path, change(recording([(0, 800)])))
    with pytest.raises(UserError, match=message):
        load_silentwear(file)


def test_damaged_files(tmp_path: Path) -> None:
    file = tmp_path / "recording.h5"
    with pytest.raises(UserError, match="is not a file"):
        load_silentwear(file)
    pd.DataFrame({"a": [1.0]}).to_hdf(file, key="other")
    with pytest.raises(UserError, match="has no table 'emg'"):
        load_silentwear(file)
    whole = file.read_bytes()
    for damaged in (b"", b"not HDF5", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read as a pandas table"):
            load_silentwear(file)


def test_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "recording.h5"
    file.touch()
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tables" else find_spec(name))
    with pytest.raises(UserError, match=r"needs tables\. .*pip install 'tilegrad\[data\]'"):
        load_silentwear(file)
