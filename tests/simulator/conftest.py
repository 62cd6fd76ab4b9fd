"""Runs of the programs in this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from simulator.cross import program

from tilegrad.simulator import Simulator


@pytest.fixture
def feature() -> Iterator[Callable[[int], Simulator]]:
    """Loads features.c, set to one of its features."""
    machines: list[Simulator] = []

    def load(which: int) -> Simulator:
        machines.append(Simulator(program("features")))
        machines[-1].write("feature", np.uint32(which))
        return machines[-1]

    yield load
    for machine in machines:
        machine.close()
