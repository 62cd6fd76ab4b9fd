"""What a range of memory is for, as colours and legends tell it."""

from __future__ import annotations

from collections.abc import Iterable

from tilegrad.ir.types import Kind
from tilegrad.planning.plan import EntryPlan, Storage

#: What a storage is for: key (its colour in the style sheet) to words, in the order of legends and of static tensors.
KINDS = {
    "weight": "weights",
    "state": "optimizer state",
    "buffer": "running statistics and other buffers",
    "gradient": "gradients of weights",
    "input": "inputs, targets, settings",
    "output": "outputs",
    "saved": "activations that the backward pass reads",
    "activation": "other activations",
    "delta": "gradients of activations, temporaries of the backward pass",
    "update": "temporaries of the optimizer",
    "tile": "tile buffers, filled or emptied by DMA",
    "bounce": "bounce buffers between L3 and L1",
    "runtime": "runtime and stacks",
}

_STATIC = {
    Kind.PARAMETER: "weight",
    Kind.OPTIMIZER: "state",
    Kind.BUFFER: "buffer",
    Kind.GRADIENT: "gradient",
    Kind.INPUT: "input",
    Kind.SETTING: "input",
    Kind.CONSTANT: "buffer",
    Kind.OUTPUT: "output",
}


def static_kind(storage: Storage) -> str:
    """The key of a static tensor."""
    assert storage.persistent is not None
    return _STATIC[storage.persistent.kind]


def transient_kinds(entry: EntryPlan) -> dict[Storage, str]:
    """The key of every storage of an entry point's arenas."""
    found: dict[Storage, str] = {}
    phases: dict[Storage, list[str]] = {}
    for kernel in entry.kernels:
        # What is written first says what it is; who reads it later, whether it is kept.
        for storage in [*kernel.writes.values(), *kernel.reads.values()]:
            phases.setdefault(storage, []).append(kernel.op.phase)
    for group in entry.groups:
        for transfer in [*group.loads, *group.stores]:
            found[transfer.storage] = "tile"
            if transfer.via is not None:
                found[transfer.via] = "bounce"
            phases.setdefault(transfer.home, []).extend(kernel.op.phase for kernel in group.kernels)
    for storage in entry.storages:
        if storage.persistent is None and storage not in found:
            found[storage] = _by_phases(phases.get(storage, []))
    return found


def _by_phases(phases: Iterable[str]) -> str:
    seen = list(phases)
    if not seen or seen[0] == "forward":
        return "saved" if "backward" in seen else "activation"
    return "delta" if seen[0] == "backward" else "update"
