"""The state of a replay: what every storage holds, which storages are alive, and what was used of each."""

from __future__ import annotations

from collections.abc import Sequence

from tilegrad.errors import InternalError
from tilegrad.ir.graph import ReshapeOp, Value
from tilegrad.planning.plan import Storage
from tilegrad.planning.validation.contents import Content, Elements


class Memory:
    """All storages of an entry point.

    Args:
        views: the views of the graph.
        statics: storage of every persistent tensor and constant.

    Attributes:
        elements: the numbers of the elements.
        needed: bytes of one copy that are used of every storage.
        tenants: tensors that are accessed in every storage.
        lives: the first kernel in which every storage of an arena must be alive, and the one behind the last.
    """

    def __init__(self, views: Sequence[ReshapeOp], statics: dict[Value, Storage]) -> None:
        self.elements = Elements(views)
        self.statics = statics
        self.needed: dict[Storage, int] = {}
        self.tenants: dict[Storage, dict[Value, None]] = {}
        self.lives: dict[Storage, tuple[int, int]] = {}
        self._contents: dict[Storage, list[Content]] = {}
        for value, storage in statics.items():
            self.copies_of(storage)[0].fill(self.elements.base(value), value)

    def copies_of(self, storage: Storage) -> list[Content]:
        """What every copy of a storage holds."""
        if storage not in self._contents:
            self._contents[storage] = [Content() for _ in range(storage.copies)]
        return self._contents[storage]

    def use(self, storage: Storage, value: Value, size: int) -> None:
        """Note that a tensor is accessed in the first `size` bytes of a storage."""
        self.needed[storage] = max(self.needed.get(storage, 0), size)
        self.tenants.setdefault(storage, {})[value] = None

    def alive(self, storage: Storage, first: int, last: int, who: str) -> None:
        """A storage must be alive in the kernels ``[first, last)``, or one of the static ones.

        Raises:
            InternalError: if it is not.
        """
        if storage.offset is None:
            if storage.persistent is None or self.statics.get(storage.persistent) is not storage:
                raise InternalError(f"{who}: {storage.name} is not among the static storages")
        elif not (storage.lower <= first and last <= storage.upper):
            life = f"[{storage.lower}, {storage.upper})"
            raise InternalError(f"{who}: {storage.name} is used in kernels [{first}, {last}), alive in {life}")
        else:
            lower, upper = self.lives.get(storage, (first, last))
            self.lives[storage] = min(lower, first), max(upper, last)

    def check_lives(self, groups: Sequence[tuple[int, int, int]], home: str) -> None:
        """No storage is alive longer than it must.

        What lies in the home memory is alive for whole groups, and so is what is kept for another group where the group
        has several tiles; tile buffers come and go with their kernels.

        Args:
            groups: the kernels of every group, first and behind the last, and its number of tiles; the copies at the
                end come as one more.
            home: name of the home memory.

        Raises:
            InternalError: if one is.
        """
        for storage, (first, last) in self.lives.items():
            inside = storage.level != home
            if not (inside and any(begin <= first and last <= end for begin, end, _ in groups)):
                for begin, end, tiles in groups:
                    if inside and tiles == 1:
                        continue
                    first = begin if begin < first < end else first
                    last = end if begin < last < end else last
            if (storage.lower, storage.upper) != (first, last):
                life = f"[{storage.lower}, {storage.upper})"
                raise InternalError(f"{storage.name} is needed in kernels [{first}, {last}), alive in {life}")
