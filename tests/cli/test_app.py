"""The program itself: help, typos, exit codes, and what a command costs before it does anything."""

from __future__ import annotations

import errno
import subprocess
import sys

import click
import pytest
from cli_harness import invoke, refused, start

from tilegrad.cli import app
from tilegrad.errors import ToolchainError


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_has_a_help_text_and_a_line_in_the_overview(name: str) -> None:
    overview = invoke("--help")
    assert overview.exit_code == 0
    [line] = [line for line in overview.stdout.splitlines() if line.strip().startswith(f"{name} ")]
    assert len(line.split()) > 2
    own = invoke(name, "--help")
    assert own.exit_code == 0
    assert own.stdout.startswith(f"Usage: tilegrad {name}")


def test_the_version_is_the_packages() -> None:
    import tilegrad

    result = invoke("--version")
    assert result.exit_code == 0
    assert tilegrad.__version__ in result.stdout


def test_a_mistyped_command_gets_a_suggestion() -> None:
    refused(invoke("trian", "speechnet"), "trian", "Did you mean 'train'?")
    refused(invoke("zzz"), "zzz", "train, compile, inspect")


def test_a_mistyped_option_gets_a_suggestion() -> None:
    refused(invoke("train", "speechnet", "--step", "3"), "--step", "--steps")
    refused(invoke("train", "speechnet", "--optimizer", "adamm"), "adamm", "adam")


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from click.testing import CliRunner
from tilegrad.cli import main
assert CliRunner().invoke(main, ["--help"]).exit_code == 0
heavy = [name for name in ("torch", "onnx", "numpy", "rich", "tilegrad.api") if name in sys.modules]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": "src"})


def _command_that_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command("doctor")
    def command() -> None:
        raise error

    monkeypatch.setattr(app.Application, "get_command", lambda self, ctx, name: command)


def test_an_error_raised_on_purpose_is_one_message_and_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    _command_that_raises(monkeypatch, ToolchainError("no compiler: install one"))
    result = invoke("doctor")
    refused(result, "error: no compiler: install one")
    assert result.stderr == "error: no compiler: install one\n"


def test_a_full_disk_is_one_message_that_names_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    _command_that_raises(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "/some/where"))
    refused(invoke("doctor"), "/some/where: No space left on device")


def test_an_unexpected_error_is_not_dressed_up_as_a_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    _command_that_raises(monkeypatch, OSError(errno.EBADF, "Bad file descriptor"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        invoke("doctor")


def test_an_interrupt_is_a_short_message_and_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    _command_that_raises(monkeypatch, KeyboardInterrupt())
    result = invoke("doctor")
    assert result.exit_code == 130
    assert result.stderr == "\ninterrupted\n"


def test_a_user_error_leaves_a_real_process_with_exit_code_2() -> None:
    process = start("train", "speechnit")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert "did you mean 'speechnet'?" in err
    assert "Traceback" not in err
