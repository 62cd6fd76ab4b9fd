"""What a page is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tilegrad.api import Build, Run
    from tilegrad.report.observe import StepProfile
    from tilegrad.verification import Verification


@dataclass(frozen=True)
class Subject:
    """A verified run.

    Attributes:
        name: of the model; like all names from a model, data.
        build: the compiled program.
        verification: the comparison of its run with the reference.
        data: what it was trained on, for readers.
        steps: optimizer steps of the run.
        profile: the first step's cycles, or None where the target is not simulated.
        note: a remark below the title, such as the date; none by default, so that equal runs give equal pages.
    """

    name: str
    build: Build
    verification: Verification
    data: str
    steps: int
    profile: StepProfile | None = None
    note: str = ""

    @property
    def run(self) -> Run:
        """The run that was compared."""
        run: Run = self.verification.run
        return run
