"""A program on the simulated cluster, driven through its memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tilegrad.simulator.elf import Image, read_elf
from tilegrad.simulator.machine import Simulator
from tilegrad.targets.base import Array, Progress, Session, require_entry, require_symbol
from tilegrad.targets.siracusa.image import data_symbols, entry_points, section_bytes

_IDLE = "tilegrad_idle"


class ClusterSession(Session):
    """Entry points run to completion between two stops in the runtime's idle function.

    Args:
        executable: the program.
        cores: the team that it was built for.
        progress: called with a line of text when the simulator has to be built first.
    """

    def __init__(self, executable: Path, cores: int, progress: Progress | None = None) -> None:
        image = read_elf(executable)
        self._machine = Simulator(image, cores=cores, stacks=_stacks(image, cores), progress=progress)
        address, contents = section_bytes(executable, ".l3")
        if contents:
            self._machine.write(address, contents)
        self._machine.breakpoint(_IDLE)
        self.output = self._machine.run().output
        self.symbols = data_symbols(image)
        self._entry_points = entry_points(image, self._machine.read_bytes)
        self.entries = list(self._entry_points)
        self.seconds = 0.0
        self.cycles = 0

    @property
    def simulator(self) -> Simulator:
        """See `Session.simulator`."""
        return self._machine

    def write(self, symbol: str, data: Array) -> None:
        """See `Session.write`."""
        require_symbol(self.symbols, symbol, np.asarray(data).nbytes)
        self._machine.write(symbol, np.asarray(data))

    def read(self, symbol: str, dtype: npt.DTypeLike, shape: Sequence[int]) -> npt.NDArray[Any]:
        """See `Session.read`."""
        require_symbol(self.symbols, symbol, np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64)))
        return self._machine.read(symbol, dtype, shape)

    def call(self, entry: str, repeat: int = 1) -> int:
        """See `Session.call`; the cycles are those of the cluster's timer."""
        require_entry(self.entries, entry, repeat)
        before = int(self._machine.read("tilegrad_cycles", "<u8", ()))
        self._machine.write("tilegrad_command", np.array(self._entry_points[entry], np.uint32))
        began = time.perf_counter()
        for _ in range(repeat):
            self.output += self._machine.run().output
        self.seconds += time.perf_counter() - began
        cycles = int(self._machine.read("tilegrad_cycles", "<u8", ())) - before
        self.cycles = (self.cycles or 0) + cycles
        return cycles

    def close(self) -> None:
        """See `Session.close`."""
        self._machine.close()


def _stacks(image: Image, cores: int) -> dict[int, int]:
    """The lowest address of the stack of every core of the team."""
    stacks = image.symbols["tilegrad_stacks"]
    return {core: stacks.address + core * (stacks.size // cores) for core in range(cores)}
