"""The plan: everything that code generation needs to know and does not decide.

It is data: it prints as text and saves as JSON. Every tensor has a storage; every entry point is a list of kernels in
execution order, each a loop nest list over storages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tilegrad.ir.graph import StructuredOp, Value
from tilegrad.ir.printer import format_nest


@dataclass(eq=False)
class Storage:
    """A range of memory that one or several values occupy, one after the other or as views.

    Attributes:
        name: C identifier, unique in the project.
        bytes: its size.
        level: name of the memory it lives in.
        values: the tensors that occupy it.
        persistent: the persistent tensor it belongs to, or None for a range of the arena.
        offset: byte offset in the arena of its level; for a persistent one, None: the linker places it by name.
        lower: first kernel of the entry point that uses it.
        upper: first kernel after its life.
    """

    name: str
    bytes: int
    level: str
    values: list[Value] = field(default_factory=list)
    persistent: Value | None = None
    offset: int | None = None
    lower: int = 0
    upper: int = 0


@dataclass(eq=False)
class Kernel:
    """One C function: the nests of one operation.

    Attributes:
        name: C identifier.
        op: the operation.
        reads: the storage behind every operand.
        writes: the storage behind every output.
        in_place: storages that are both read and written.
    """

    name: str
    op: StructuredOp
    reads: dict[Value, Storage]
    writes: dict[Value, Storage]
    in_place: list[Storage]


@dataclass(frozen=True)
class Copy:
    """A persistent tensor is replaced by a copy at the end of the entry point."""

    target: Storage
    source: Storage
    bytes: int


@dataclass(eq=False)
class EntryPlan:
    """One entry point of the generated program.

    Attributes:
        name: ``train``, ``optimize``, ``predict``.
        kernels: in execution order.
        copies: executed after the last kernel.
        storages: all storages it uses.
        arena_bytes: bytes of the arena that it needs.
        lower_bound: the most bytes of the arena that are alive at one moment.
    """

    name: str
    kernels: list[Kernel]
    copies: list[Copy]
    storages: list[Storage]
    arena_bytes: int
    lower_bound: int


@dataclass(frozen=True)
class LevelUse:
    """Memory of one level: `peak` and `lower_bound` in bytes, `capacity` in bytes or None for no limit."""

    peak: int
    lower_bound: int
    capacity: int | None


@dataclass(eq=False)
class Plan:
    """The plan of a whole program.

    Attributes:
        target: name of the target.
        level: name of the memory that holds the tensors.
        cores: how many cores execute every kernel together.
        entries: the entry points.
        persistent: storage of every persistent tensor, in a fixed order.
        constants: storage of every constant tensor.
        arena_bytes: size of the arena, shared by the entry points.
        memory: use of every level.
    """

    target: str
    level: str
    entries: list[EntryPlan]
    persistent: list[Storage]
    constants: list[Storage]
    arena_bytes: int
    memory: dict[str, LevelUse]
    cores: int = 1

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON-compatible data."""
        return {
            "target": self.target,
            "memory": {
                level: {"peak": use.peak, "lower_bound": use.lower_bound, "capacity": use.capacity}
                for level, use in self.memory.items()
            },
            "cores": self.cores,
            "arena_bytes": self.arena_bytes,
            "persistent": [{"name": s.name, "bytes": s.bytes, "level": s.level} for s in self.persistent],
            "constants": [{"name": s.name, "bytes": s.bytes} for s in self.constants],
            "entries": [_entry_json(entry) for entry in self.entries],
        }

    def as_text(self) -> str:
        """The plan as text: memories, storages with lifetimes, kernels."""
        lines = [f"plan for {self.target}"]
        for level, use in self.memory.items():
            limit = "unlimited" if use.capacity is None else f"{use.capacity:,}"
            lines.append(
                f"  memory {level}: peak {use.peak:,} bytes, lower bound {use.lower_bound:,}, capacity {limit}"
            )
        lines.append(f"  arena: {self.arena_bytes:,} bytes shared by the entry points")
        for storage in self.persistent:
            lines.append(f"  static {storage.name}: {storage.bytes:,} bytes")
        for storage in self.constants:
            lines.append(f"  constant {storage.name}: {storage.bytes:,} bytes")
        for entry in self.entries:
            lines.append(f"entry {entry.name}: arena {entry.arena_bytes:,} bytes, lower bound {entry.lower_bound:,}")
            for storage in entry.storages:
                if storage.offset is not None:
                    lines.append(
                        f"  {storage.name}: [{storage.offset:,}, {storage.offset + storage.bytes:,})"
                        f" alive in kernels [{storage.lower}, {storage.upper})"
                    )
            for position, kernel in enumerate(entry.kernels):
                note = f" in place over {', '.join(s.name for s in kernel.in_place)}" if kernel.in_place else ""
                lines.append(f"  {position}: {kernel.name}  # {kernel.op.phase} {kernel.op.origin}{note}")
                for nest in kernel.op.nests:
                    lines.extend("      " + line for line in format_nest(nest))
            lines.extend(f"  copy {copy.target.name} <- {copy.source.name}" for copy in entry.copies)
        return "\n".join(lines) + "\n"


def _entry_json(entry: EntryPlan) -> dict[str, Any]:
    return {
        "name": entry.name,
        "arena_bytes": entry.arena_bytes,
        "lower_bound": entry.lower_bound,
        "storages": [
            {"name": s.name, "offset": s.offset, "bytes": s.bytes, "lower": s.lower, "upper": s.upper}
            for s in entry.storages
            if s.offset is not None
        ],
        "kernels": [
            {
                "name": kernel.name,
                "origin": kernel.op.origin,
                "phase": kernel.op.phase,
                "reads": sorted({s.name for s in kernel.reads.values()}),
                "writes": sorted({s.name for s in kernel.writes.values()}),
            }
            for kernel in entry.kernels
        ],
        "copies": [{"target": copy.target.name, "source": copy.source.name} for copy in entry.copies],
    }
