"""GVSoC, the platform's simulator by its makers, as a runner: found, started, its output read."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tilegrad.errors import RunError, ToolchainError

HOME = "GVSOC_HOME"
REMEDY = (
    f"set {HOME} to the folder that GVSoC was installed in (with bin/gvsoc inside), or put gvsoc on PATH; "
    "https://github.com/gvsoc/gvsoc says how to build it for the target siracusa. The built-in simulator "
    "(--runner sim) needs nothing"
)
#: GVSoC computes a fused multiply-add in double precision and rounds the result to float, so that it rounds twice: what
#: `tg_arithmetic_faults` reports as 2.
KNOWN_FAULTS = 2
NOTICE = (
    "GVSoC rounds fused multiply-adds twice: results differ from those of other runners in last digits; verification "
    "compares them within its tolerances all the same"
)
_SHOWN_LINES = 30


def find_gvsoc() -> Path:
    """The GVSoC that the environment names.

    Raises:
        ToolchainError: there is none; the message says how to point at one.
    """
    if home := os.environ.get(HOME):
        program = Path(home).absolute() / "bin" / "gvsoc"
        if not program.is_file():
            raise ToolchainError(f"GVSoC was not found: {HOME} is {home}, which has no bin/gvsoc; {REMEDY}")
        return program
    found = shutil.which("gvsoc")
    if found is None:
        raise ToolchainError(f"GVSoC was not found: {REMEDY}")
    return Path(found).absolute()


def run_on_gvsoc(program: Path, executable: Path) -> str:
    """Runs a program's file to its end and returns what it printed.

    Args:
        program: GVSoC.
        executable: the file; GVSoC's own files go into its folder.

    Raises:
        ToolchainError: GVSoC cannot be started.
        RunError: it failed.
    """
    folder = executable.parent
    arguments = ["--target=siracusa", f"--binary={executable}", f"--work-dir={folder}", "image", "flash", "run"]
    try:
        done = subprocess.run(
            [program, *arguments], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError as error:
        raise ToolchainError(f"{program} cannot be started: {error.strerror or error}; {REMEDY}") from error
    printed = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        said = (printed + done.stderr.decode(errors="replace")).strip().splitlines()
        tail = "\n".join(f"  {line[:200]}" for line in said[-_SHOWN_LINES:])
        raise RunError(f"{program} ended with exit status {done.returncode}:\n{tail}")
    return printed
