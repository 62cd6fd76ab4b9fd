"""The program ``tilegrad``: finds the command, turns errors into one message and an exit code.

Exit codes: 0 done and everything agrees, 1 the comparison failed, 2 the request cannot be carried out, 130 interrupted.
Commands are imported when they are needed, and they import the compiler when they run: ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import importlib
from difflib import get_close_matches
from typing import IO, Any

import click

import tilegrad
from tilegrad.errors import TileGradError

COMMANDS = ("train", "compile", "inspect", "report", "models", "operators", "targets", "doctor")
INTERRUPTED = 130
_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


class Failure(click.ClickException):
    """One clear message on standard error and exit code 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message."""
        click.echo(f"error: {self.message}", err=True, file=file)


class Application(click.Group):
    """The group of all commands, each in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of the help text."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or None."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"tilegrad.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments begin with.

        Raises:
            click.UsageError: if there is none; the message names the nearest.
        """
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            close = get_close_matches(name, COMMANDS, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(COMMANDS)}."
            raise click.UsageError(f"No such command {name!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was chosen; errors raised on purpose become messages."""
        try:
            return super().invoke(ctx)
        except TileGradError as error:
            raise Failure(str(error)) from error
        except MemoryError as error:
            raise Failure("this machine has too little memory for the model; try a smaller batch") from error
        except OSError as error:
            if error.errno not in _STORAGE_ERRORS:
                raise
            where = f"{error.filename}: " if error.filename else ""
            raise Failure(f"{where}{error.strerror}; free some space there, or choose another folder") from error
        except KeyboardInterrupt as interrupt:
            click.echo("\ninterrupted", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from interrupt


@click.group(cls=Application, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tilegrad.__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Compile the training of neural networks to bare-metal C and prove every number against PyTorch.

    Start with `tilegrad train speechnet --steps 4`.
    """
