"""Arithmetic faults of a runner: those that it is known for pass, all others end a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tests.targets.siracusa.projects import write_project

from tilegrad.api import _initialise
from tilegrad.errors import RunError
from tilegrad.targets import Session, get_target
from tilegrad.targets.base import Array
from tilegrad.targets.siracusa.batch_session import BatchSession
from tilegrad.targets.siracusa.session import ClusterSession


class Faulty(Session):
    """A program that reports arithmetic faults."""

    def __init__(self, faults: int, known: int) -> None:
        self.faults, self.known_faults = faults, known
        self.seconds, self.cycles = 0.0, 0

    def write(self, symbol: str, data: Array) -> None:
        raise AssertionError(symbol)

    def read(self, symbol: str, dtype: npt.DTypeLike, shape: Sequence[int]) -> Array:
        assert symbol == "tilegrad_faults"
        return np.full(tuple(shape), self.faults, dtype)

    def call(self, entry: str, repeat: int = 1) -> int:
        assert entry == "tilegrad_init"
        return 0

    def close(self) -> None:
        """Nothing to end."""


@pytest.mark.parametrize(("faults", "known"), [(0, 0), (0, 2), (2, 2)])
def test_known_faults_pass(faults: int, known: int) -> None:
    _initialise(Faulty(faults, known))


@pytest.mark.parametrize(
    ("faults", "known", "reason"),
    [(2, 0, "its fma rounds twice"), (4, 2, "flushes subnormal"), (3, 2, "fuses separate multiplies and adds")],
)
def test_other_faults_end_the_run(faults: int, known: int, reason: str) -> None:
    with pytest.raises(RunError, match=reason):
        _initialise(Faulty(faults, known))


def test_only_gvsoc_is_known_to_round_twice(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "gvsoc"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "gvsoc").touch()
    monkeypatch.setenv("GVSOC_HOME", str(home))
    target = get_target("siracusa")
    project = write_project(tmp_path / "project", target, "uint32_t tilegrad_x[1];", ["x"], [])
    program = target.with_runner("gvsoc").build(project)
    assert any("rounds fused multiply-adds twice" in notice for notice in program.notices)
    with program.start() as session:
        assert isinstance(session, BatchSession) and session.known_faults == 2
    assert not target.build(project).notices
    assert ClusterSession.known_faults == BatchSession.known_faults == 0
