"""What the guard lets each kernel touch."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Access(enum.IntFlag):
    """How a kernel may use a region."""

    READ = 1
    WRITE = 2
    BOTH = 3


@dataclass(frozen=True)
class Region:
    """A range of memory that a kernel may touch.

    Attributes:
        buffer: the buffer's name, for messages.
        address: its first byte.
        size: its bytes.
        access: how it may be used.
        cores: mask of the cores that may, all by default.
    """

    buffer: str
    address: int
    size: int
    access: Access
    cores: int = 0x3FF
