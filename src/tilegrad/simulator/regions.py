"""What the guard lets each kernel touch."""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tilegrad.simulator.library import RangeRecord


class Access(enum.IntFlag):
    """How a kernel may use a region.

    `LAST`, beside one of the others, says that what the region holds is dead after the call: until something writes it
    anew, no kernel may read it, whatever its own regions allow. It is known of L1 only.
    """

    READ = 1
    WRITE = 2
    BOTH = 3
    LAST = 4


@dataclass(frozen=True)
class Region:
    """A range of memory that a kernel may touch.

    Attributes:
        buffer: the buffer's name, for messages.
        address: its first byte.
        size: its bytes.
        access: how it may be used.
        cores: mask of the cores that may, all by default.
        tile: in which call of the kernel, counted from 0 since the entry point began; None for every call.
    """

    buffer: str
    address: int
    size: int
    access: Access
    cores: int = 0x3FF
    tile: int | None = None

    def holds(self, address: int, size: int) -> bool:
        """Whether some bytes are all in the region."""
        return self.address <= address and address + size <= self.address + self.size


def range_records(
    kernels: Sequence[str], regions: Mapping[str, Sequence[Region]], common: Sequence[Region]
) -> ctypes.Array[RangeRecord]:
    """The guard table as the C core wants it: by kernel, by tile within, what all may touch last."""
    tagged = [(index, region) for index, name in enumerate(kernels) for region in regions[name]]
    tagged.sort(key=lambda entry: (entry[0], -1 if entry[1].tile is None else entry[1].tile))
    tagged += [(-1, region) for region in common]
    kept = [(kernel, region) for kernel, region in tagged if region.size > 0]
    records = (RangeRecord * len(kept))()
    for index, (kernel, region) in enumerate(kept):
        tile = -1 if region.tile is None else region.tile
        last = region.address + region.size - 1
        records[index] = RangeRecord(kernel, tile, region.address, last, int(region.access), region.cores)
    return records
