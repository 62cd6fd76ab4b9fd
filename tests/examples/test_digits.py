"""The digits example reaches PyTorch's accuracy, and fails where it should."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits.py"


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_three_epochs_reach_the_accuracy_of_pytorch(digits: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    code = digits.main(["--epochs", "3"])
    output = capsys.readouterr().out
    assert code == 0, output
    rows = [line.split() for line in output.splitlines() if line.strip()[:1].isdigit() and "%" in line]
    assert [int(row[0]) for row in rows] == [1, 2, 3]
    losses = np.array([[float(row[1]), float(row[2])] for row in rows])
    assert (np.diff(losses, axis=0) < 0).all()
    assert np.allclose(losses[:, 0], losses[:, 1], rtol=0.02)
    assert "passed" in output


def test_a_network_that_did_not_learn_fails(digits: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert digits.main(["--epochs", "1", "--lr", "1e-9"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_accuracy_fills_the_last_batch_up(digits: ModuleType) -> None:
    x = np.arange(7, dtype=np.float32)[:, None]
    sizes = []

    def predict(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return np.eye(7)[images[:, 0].astype(int)]

    assert digits.accuracy(predict, x, np.arange(7), 4) == 1.0
    assert digits.accuracy(predict, x, np.array([0, 1, 2, 3, 4, 5, 0]), 4) == 6 / 7
    assert sizes == [4] * 4
