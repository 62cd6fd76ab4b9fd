"""docs/c-api.md does what it says: its example is compiled, built and run, and gives the bits of the Python run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli_harness import invoke
from tests.docs.blocks import DOCS, blocks

import tilegrad as tg
from tilegrad.cli.userfile import load_factory

PAGE = DOCS / "c-api.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the example, its project compiled by the command that the page shows."""
    folder = tmp_path_factory.mktemp("gesture")
    (folder / "gesture.py").write_text(blocks(PAGE, "python")[0])
    (folder / "main.c").write_text(blocks(PAGE, "c")[0])
    (folder / "CMakeLists.txt").write_text(blocks(PAGE, "cmake")[0])
    command = next(block for block in blocks(PAGE, "console") if "tilegrad compile" in block)
    _, *arguments = shlex.split(command.removeprefix("$ "))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        invoke(*arguments)
    return folder


def expected(folder: Path) -> list[np.float32]:
    """What the program prints, from Python: the losses of two steps, and a score after the first."""
    torch.manual_seed(0)
    model, example = load_factory(folder / "gesture.py", "gesture")()
    build = tg.compile(model, example, tg.losses.CrossEntropy(), tg.optim.SGD(lr=0.05, momentum=0.9))
    window = ((np.arange(32) % 7) * 0.25 - 0.75).astype(np.float32).reshape(1, 2, 16)
    batch = (window, np.array([2]))
    first = build.run([batch], 1, lr=0.125)
    scores = build.predict(window)
    second = build.run([batch], 1, state=first.state)
    return [first.losses[0], second.losses[0], scores[0, 2]]


def printed(program: Path) -> list[np.float32]:
    done = subprocess.run([program], check=True, capture_output=True, text=True)
    return [np.float32(number) for number in re.findall(r": +(\S+)$", done.stdout, re.MULTILINE)]


def test_the_example_trains_and_gives_the_bits_of_the_python_run(folder: Path) -> None:
    program = folder / "gesture"
    sources = sorted(str(path) for path in (folder / "gesture_c" / "src").glob("*.c"))
    options = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-I", "gesture_c/include"]
    command = [sys.executable, "-m", "ziglang", "cc", *options, "main.c", *sources, "-lm", "-o", str(program)]
    subprocess.run(command, check=True, cwd=folder)
    numbers = printed(program)
    assert numbers == expected(folder)
    assert numbers[1] < numbers[0]


@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("cc") is None, reason="needs cmake and a C compiler")
def test_the_cmake_project_builds_and_gives_the_same_bits(folder: Path) -> None:
    build = folder / "build"
    subprocess.run(["cmake", "-S", folder, "-B", build, "-DCMAKE_C_FLAGS=-Werror"], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", build], check=True, capture_output=True)
    assert printed(build / "firmware") == expected(folder)


def test_the_page_names_symbols_and_entry_points_that_exist(folder: Path) -> None:
    text = PAGE.read_text()
    header = (folder / "gesture_c" / "include" / "tilegrad_model.h").read_text()
    for line in re.findall(r"^extern .*$", text, re.MULTILINE):
        assert line in header
    for name in re.findall(r"^\| `(tilegrad_[a-z]+)` \|", text, re.MULTILINE):
        assert f"void {name}(void)" in header or name == "tilegrad_step"
    for file in re.findall(r"^\| `((?:include|src|host)/[a-z_./]+|plan\.json)`", text, re.MULTILINE):
        assert (folder / "gesture_c" / file).is_file(), file
