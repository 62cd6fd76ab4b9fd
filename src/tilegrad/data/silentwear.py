"""Windows from SilentWear recordings (surface EMG of silent and vocalized speech, 14 electrodes, 500 Hz).

The data set's filtered recordings, ``data_raw_and_filt/<subject>/<condition>/sess_<i>_batch_<j>.h5``, are pandas tables
in HDF5. That format can hold pickled Python objects, which the readers unpack: load only files that you trust.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.errors import UserError

KEY = "emg"
LABEL = "Label_int"
CLASSES = 9
# The order of the electrodes in the network's input; 10 to 15 are not contiguous because 11 and 12 do not exist.
ELECTRODES = (0, 1, 2, 5, 3, 4, 7, 6, 8, 15, 9, 14, 10, 13)
COLUMNS = tuple(f"Ch_{electrode}_filt" for electrode in ELECTRODES)


def load_silentwear(path: Path, *, samples: int = 700) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cut one window from every labelled run of a recording, starting at the run's first sample.

    A run is a maximal stretch of equal labels: a word, or the rest between two words (label 0). Runs whose window
    would reach beyond the end of the recording give none.

    Args:
        path: the HDF5 file, holding the pandas table ``emg`` with the columns ``Ch_<i>_filt`` and ``Label_int``.
        samples: samples per window.

    Returns:
        ``x``, float32 [n, 1, 14, samples], and ``y``, int64 [n], 0 (rest) to 8, in the order of the recording.

    Raises:
        UserError: pandas or PyTables is not installed, the file cannot be read, a column is missing or not numeric, a
            label is not one of the nine, a value is not finite, or no window fits.
    """
    table = _read_table(path)
    missing = [name for name in (*COLUMNS, LABEL) if name not in table.columns]
    if missing:
        raise UserError(
            f"{path}: the table {KEY!r} has no column {', '.join(missing)}; expected a SilentWear recording."
        )
    try:
        signal = table[list(COLUMNS)].to_numpy(np.float32)
        labels = table[LABEL].to_numpy(np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: a column of the table {KEY!r} is not numeric: {error}") from error
    strange = ~np.isin(labels, np.arange(CLASSES))
    if strange.any():
        row = int(strange.argmax())
        raise UserError(f"{path}: {LABEL} is {labels[row]} in row {row}; expected 0 (rest) to {CLASSES - 1}.")
    onsets = np.flatnonzero(np.diff(labels, prepend=-1.0))
    onsets = onsets[onsets + samples <= len(labels)]
    if not len(onsets):
        raise UserError(f"{path}: no window of {samples} samples fits the recording of {len(labels)}.")
    x = np.stack([signal[onset : onset + samples].T for onset in onsets])[:, None]
    if not np.isfinite(x).all():
        index = np.argwhere(~np.isfinite(x))[0]
        raise UserError(f"{path}: {COLUMNS[index[2]]} is not finite in row {onsets[index[0]] + index[3]}.")
    return np.ascontiguousarray(x), labels[onsets].astype(np.int64)


def _read_table(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path} is not a file.")
    missing = [package for package in ("pandas", "tables") if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            f"Reading {path} needs {' and '.join(missing)}. Install what is missing: pip install 'tilegrad[data]'"
        )
    pandas = importlib.import_module("pandas")
    tables = importlib.import_module("tables")
    try:
        table = pandas.read_hdf(path, key=KEY, mode="r")
    except KeyError as error:
        raise UserError(f"{path} has no table {KEY!r}; expected a SilentWear recording.") from error
    except (OSError, ValueError, TypeError, AttributeError, tables.HDF5ExtError) as error:
        raise UserError(f"{path} cannot be read as a pandas table in HDF5: {error}") from error
    if not isinstance(table, pandas.DataFrame):
        raise UserError(f"{path}: {KEY!r} is a {type(table).__name__}; expected a table.")
    return table
