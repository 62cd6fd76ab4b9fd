"""The JSON file: complete or not at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from tilegrad.cli.output import JsonFile
from tilegrad.errors import UserError


def test_the_file_appears_with_its_content(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with JsonFile(str(path)) as file:
        assert not path.exists()
        file.write({"a": np.float32(1.5), "b": np.arange(3), "c": (True, None), "d": {"e": "ü"}})
    assert json.loads(path.read_text()) == {"a": 1.5, "b": [0, 1, 2], "c": [True, None], "d": {"e": "ü"}}
    assert os.listdir(tmp_path) == ["result.json"]


def test_what_is_not_finite_becomes_text_that_json_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with JsonFile(str(path)) as file:
        file.write({"losses": np.array([math.nan, math.inf, -math.inf])})
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["losses"] == ["nan", "inf", "-inf"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_work_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(error), JsonFile(str(path)):
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


@pytest.mark.parametrize("place", ["missing/result.json", "."])
def test_a_place_that_cannot_be_written_is_found_out_before_the_work(tmp_path: Path, place: str) -> None:
    worked = False
    with pytest.raises(UserError, match="cannot write"), JsonFile(str(tmp_path / place)):
        worked = True
    assert not worked
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"), JsonFile(str(tmp_path / "result.json")) as file:
        file.write({})
    assert os.listdir(tmp_path) == []


def test_a_device_is_written_to_and_stays_a_device() -> None:
    with JsonFile("/dev/null") as file:
        file.write({"a": 1})
    assert not Path("/dev/null").is_file()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to("real.json")
    with JsonFile(str(tmp_path / "link.json")) as file:
        file.write({"a": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text()) == {"a": 1}
