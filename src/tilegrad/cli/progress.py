"""What goes on, on standard error: a spinner on a terminal, a line per stage elsewhere; and the time of every stage."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.text import Text

#: How the progress lines of stages begin, and the keys that their times are summed under.
STAGES = {
    "loading the model": "load",
    "importing the model": "import",
    "deriving the training graph": "derive",
    "optimising and planning": "plan",
    "writing C": "write",
    "preparing the data": "data",
    "reference": "reference",
    "running": "run",
}


class Progress:
    """Follows the stages of one command.

    Attributes:
        seconds: time spent in every stage that has ended, by key, in the order of their beginnings.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._console = Console(stderr=True)
        self._status: Status | None = None
        self._stage: tuple[str, str] | None = None
        self._started = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = Status("", console=self._console)
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.end()
        if self._status is not None:
            self._status.stop()

    def compiler(self, line: str) -> None:
        """Take a line from the compiler, which may come from the thread that builds: a stage's name, or a remark."""
        if _key(line) is None:
            self.note(line)
        else:
            self.stage(line)

    def stage(self, text: str) -> None:
        """Begin a stage; the one before ends, unless both count as the same."""
        key = _key(text) or text
        if self._status is not None:
            self._status.update(Text(text))
        if self._stage is not None and self._stage[1] == key:
            return
        self.end()
        self._stage, self._started = (text, key), time.monotonic()
        if self._status is None:
            self.note(f"{text} ...")

    def note(self, text: str) -> None:
        """Print one line, from whatever thread."""
        self._console.print(Text(text), soft_wrap=True)

    def end(self) -> None:
        """End the present stage, if there is one."""
        if self._stage is None:
            return
        text, key = self._stage
        self._stage = None
        spent = time.monotonic() - self._started
        self.seconds[key] = self.seconds.get(key, 0.0) + spent
        if self._status is not None:
            self.note(f"{text}: {spent:.1f} s")


def _key(line: str) -> str | None:
    return next((key for start, key in STAGES.items() if line.startswith(start)), None)
