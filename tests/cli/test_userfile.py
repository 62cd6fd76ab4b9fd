"""`file.py:factory`: what a user's file may do, and how its mistakes are told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tilegrad.cli.source import resolve
from tilegrad.cli.userfile import load_factory
from tilegrad.errors import UserError

GOOD = """
import torch
from torch import nn

def make():
    return nn.Linear(3, 2), (torch.randn(4, 3),)
"""


def write(folder: Path, text: str, name: str = "model.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_factory_gives_module_and_inputs(tmp_path: Path) -> None:
    source = resolve(f"{write(tmp_path, GOOD)}:make", {}, batch=None, seed=0)
    assert source.name == "make"
    assert source.example_inputs is not None
    assert source.example_inputs[0].shape == (4, 3)


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    weights = [resolve(f"{path}:make", {}, batch=None, seed=seed).model.weight for seed in (1, 1, 2)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])


def test_one_tensor_may_stand_alone_as_input(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("(torch.randn(4, 3),)", "torch.randn(4, 3)"))
    source = resolve(f"{path}:make", {}, batch=None, seed=0)
    assert source.example_inputs is not None
    assert len(source.example_inputs) == 1


def test_the_file_may_be_called_like_a_package_and_import_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    write(tmp_path, "WIDTH = 5\n", "neighbour_of_numpy.py")
    path = write(tmp_path, "from neighbour_of_numpy import WIDTH\ndef make(): return WIDTH\n", "numpy.py")
    import numpy

    assert load_factory(path, "make")() == 5
    assert sys.modules["numpy"] is numpy


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    assert load_factory(write(tmp_path, "def make(): return 1\n"), "make")() == 1
    assert load_factory(write(tmp_path, "def make(): return 2\n"), "make")() == 2


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("def make():\n    return 1 / 0\n", ["ZeroDivisionError", "line 2, in make", "return 1 / 0"]),
        ("import no_such_package\n", ["ModuleNotFoundError", "no_such_package", "line 1"]),
        ("def make(:\n", ["not valid Python", "line 1"]),
        ("def helper(): raise ValueError('odd')\ndef make():\n    helper()\n", ["odd", "line 3", "line 1, in helper"]),
        ("import sys\nsys.exit(0)\n", ["SystemExit", "line 2"]),
        ("def made(): pass\n", ["no function 'make'", "did you mean 'made'?"]),
        ("make = 3\n", ["int", "expected a function"]),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_line(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_factory(path, "make")()
    message = str(caught.value)
    for part in [str(path), *parts]:
        assert part in message
    assert "tilegrad/cli" not in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (GOOD.replace("nn.Linear(3, 2), ", ""), ["returned a tuple of 1", "two things"]),
        (GOOD.replace("return nn", "nn"), ["returned nothing"]),
        (GOOD.replace("nn.Linear(3, 2)", "'linear'"), ["a str first", "torch.nn.Module"]),
        (GOOD.replace("torch.randn(4, 3)", "4"), ["example input 0 is a int", "expected a tensor"]),
    ],
)
def test_a_factory_that_returns_something_else_is_refused(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        resolve(f"{path}:make", {}, batch=None, seed=0)
    for part in ["make in", *parts]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("missing.py:make", ["missing.py", "cannot be read"]),
        ("model.py", ["name the function", "model.py:make_model"]),
        ("speechnt", ["no model 'speechnt'", "did you mean 'speechnet'?", "FILE.onnx"]),
        ("missing.onnx", ["missing.onnx"]),
    ],
)
def test_a_model_that_is_not_there_is_refused(tmp_path: Path, model: str, parts: list[str]) -> None:
    with pytest.raises(Exception) as caught:
        resolve(model, {}, batch=None, seed=0)
    for part in parts:
        assert part in str(caught.value)


def test_the_batch_of_a_users_model_is_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert resolve(f"{path}:make", {}, batch=4, seed=0).example_inputs is not None
    with pytest.raises(UserError, match=r"--batch 5 does not fit .*\[4, 3\]"):
        resolve(f"{path}:make", {}, batch=5, seed=0)


def test_an_option_of_another_model_is_refused_with_the_models_that_have_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mlp has no option --pool; it is one of speechnet"):
        resolve("mlp", {"pool": "max"}, batch=None, seed=0)
    with pytest.raises(UserError, match="no option --hidden; it is one of mlp"):
        resolve(f"{write(tmp_path, GOOD)}:make", {"hidden": "3"}, batch=None, seed=0)
