"""How command-line tests run a command: in this process, or as a user's shell does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from tilegrad.cli import main

SOURCE = Path(__file__).parents[1] / "src"


def invoke(*arguments: object) -> Result:
    """Runs the command line in this process; an unexpected exception is raised."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="tilegrad")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def start(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """Starts the command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from tilegrad.cli import main; main(prog_name='tilegrad')", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"} | environment,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def refused(result: Result, *parts: str) -> None:
    """A user error: exit code 2, one message on standard error with these parts, no traceback, no result."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr, result.stderr
