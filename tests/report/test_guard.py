"""Errors planted in the generated C are caught, with the names of kernel, tile and buffer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tilegrad as tg
from tilegrad.models import build_model, synthetic_data
from tilegrad.planning.plan import Group, Kernel, Storage
from tilegrad.report.guard import guarded


def compiled(**options: Any) -> tuple[tg.Build, list[Any]]:
    module, inputs = build_model("mlp", seed=2)
    module.train()
    build = tg.compile(module, inputs, tg.losses.CrossEntropy(), tg.optim.SGD(), target="siracusa", **options)
    return build, [synthetic_data("mlp", 1, seed=3)]


def change(build: tg.Build, entry: str, function: str, edit: Callable[[str], str]) -> None:
    """Edits the body of a function of the generated C; it has to change."""
    path = build.c_project / "src" / f"tilegrad_{entry}.c"
    head, start, rest = path.read_text().partition(f" {function}(")
    while start and not re.match(r"[^;{]*\)\s*\{", rest):  # a call, not the definition
        more, start, rest = rest.partition(f" {function}(")
        head += f" {function}(" + more
    assert start, function
    body, end, tail = rest.partition("\n}\n")
    changed = edit(body)
    assert changed != body, body
    path.write_text(head + start + changed + end + tail)


def replace_once(old: str, new: str) -> Callable[[str], str]:
    def edit(body: str) -> str:
        assert body.count(old) == 1, (old, body)
        return body.replace(old, new)

    return edit


def at(storage: Storage) -> str:
    """The C text of a pointer to a storage of the arena in L1."""
    assert storage.level == "L1" and storage.offset is not None
    return f"tilegrad_arena_l1 + {storage.offset // 4}"


def double_buffered_store(build: tg.Build) -> tuple[Group, Kernel, Storage]:
    """A group whose one kernel writes an output that two buffers take turns to hold."""
    for group in next(entry for entry in build.plan.entries if entry.name == "train").groups:
        for transfer in group.stores:
            if transfer.storage.copies == 2 and group.overlap and len(group.kernels) == 1:
                return group, group.kernels[0], transfer.storage
    raise AssertionError(build.plan.as_text())


def double_buffered_load(build: tg.Build) -> tuple[Group, Storage]:
    for entry in build.plan.entries:
        for group in entry.groups:
            for transfer in group.loads:
                if transfer.storage.copies == 2 and group.overlap:
                    return group, transfer.storage
    raise AssertionError(build.plan.as_text())


def fails(build: tg.Build, batches: list[Any], pattern: str) -> None:
    guarded(build)
    with pytest.raises(tg.RunError) as caught:
        build.run(batches, 1)
    assert re.search(pattern, str(caught.value)), caught.value


def test_nothing_is_found_where_nothing_is_wrong_and_no_cycle_changes() -> None:
    build, batches = compiled()
    plain = build.run(batches, 2)
    guarded(build)
    watched = build.run(batches, 2)
    assert watched.train_cycles == plain.train_cycles and watched.opt_cycles == plain.opt_cycles
    assert watched.losses.tobytes() == plain.losses.tobytes()


def test_a_write_one_element_beyond_a_tile_buffer() -> None:
    build, batches = compiled()
    group, kernel, storage = double_buffered_store(build)
    change(build, "train", group.name, replace_once(f"{at(storage)} + v1", f"{at(storage)} + 1 + v1"))
    fails(
        build, batches, rf"kernel '{kernel.name}' writes 4 bytes at \w+ in tile 0: .*buffer '{storage.name} \(copy 0\)'"
    )


def test_the_buffer_of_another_tile() -> None:
    build, batches = compiled()
    group, kernel, storage = double_buffered_store(build)
    change(build, "train", group.name, replace_once(f"{at(storage)} + v1 *", f"{at(storage)} + (1 - v1) *"))
    fails(build, batches, rf"kernel '{kernel.name}' writes 4 bytes at \w+ in tile 0: .*'{storage.name} \(copy 1\)'")


def test_a_store_of_the_wrong_copy() -> None:
    build, batches = compiled()
    group, _, storage = double_buffered_store(build)
    name = f"{group.name}_store"
    change(build, "train", name, replace_once(f"{at(storage)} + v1 *", f"{at(storage)} + (1 - v1) *"))
    fails(build, batches, rf"'{name}' starts a DMA transfer that reads .* in tile 0: .*'{storage.name} \(copy 1\)'")


def test_a_store_beyond_its_tensor() -> None:
    build, batches = compiled()
    group, _, _ = double_buffered_store(build)
    (home,) = {transfer.home for transfer in group.stores}
    name = f"{group.name}_store"
    symbol = f"(char *)tilegrad_{home.name}"
    change(build, "train", name, replace_once(symbol, f"{symbol} + 4"))
    last = group.tiles - 1
    fails(build, batches, rf"'{name}' starts a DMA transfer that writes .* in tile {last}: .*'{home.name}'")


def test_predictions_are_guarded() -> None:
    build, batches = compiled()
    plain = build.predict(batches[0][0])
    entry = next(entry for entry in build.plan.entries if entry.name == "predict")
    group = next(group for group in entry.groups if group.stores)
    guarded(build)
    assert build.predict(batches[0][0]).tobytes() == plain.tobytes()

    build, batches = compiled()
    home = f"(char *)tilegrad_{group.stores[0].home.name}"
    name = f"{group.name}_store"
    change(build, "predict", name, lambda body: body.replace(home, f"{home} + 4"))
    guarded(build)
    with pytest.raises(tg.RunError, match=rf"'{name}' starts a DMA transfer that writes"):
        build.predict(batches[0][0])


class Delay(nn.Module):
    """Remembers its last two inputs: nothing computes them, so that the program has to copy them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.register_buffer("last", torch.zeros(3, 5))
        self.register_buffer("older", torch.zeros(3, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.older.copy_(self.last)
        self.last.copy_(x)
        return x * self.scale


@pytest.mark.parametrize("number", [0, 1])
def test_copies_at_the_end_of_an_entry_point(number: int) -> None:
    batch = (np.ones((3, 5), np.float32), np.arange(3))
    build = tg.compile(Delay(), (torch.ones(3, 5),), tg.losses.CrossEntropy(), tg.optim.SGD(), target="siracusa")
    copies = next(entry for entry in build.plan.entries if entry.name == "train").copies
    assert len(copies) == 2
    guarded(build)
    assert build.run([batch], 2).buffers["older"].tobytes() == batch[0].tobytes()
    target = f"memcpy(tilegrad_{copies[number].target.name}, "
    change(build, "train", "tilegrad_train", replace_once(target, target.replace(",", " + 1,")))
    build._program = None  # to be built from what the folder holds now
    fails(build, [batch], rf"'tilegrad_train' writes 4 bytes .* offset 60 of its buffer '{copies[number].target.name}'")


def test_a_load_that_nobody_waits_for() -> None:
    build, batches = compiled()
    group, storage = double_buffered_load(build)
    entry = next(entry.name for entry in build.plan.entries if group in entry.groups)
    change(build, entry, group.name, replace_once("tg_dma_wait(in);", "(void)in;"))
    names = "|".join(sorted(transfer.storage.name for transfer in group.loads))
    assert storage.name in names
    fails(build, batches, rf"missing wait for the DMA: kernel '.*' reads 4 bytes .* in tile 0: .*'({names})\b")


def test_a_load_that_is_forgotten() -> None:
    """The address is right, but nothing has brought what should be there."""
    build, batches = compiled()
    group, storage = double_buffered_load(build)
    entry = next(entry.name for entry in build.plan.entries if group in entry.groups)
    change(build, entry, group.name, lambda body: body.replace(f"{group.name}_load(tile + 1);", ""))
    fails(build, batches, rf"'{storage.name} \(copy 1\)', offset \d+; nothing has written it")


def test_a_read_one_element_beyond_a_static_tensor() -> None:
    build, batches = compiled()
    group, kernel, storage = next(
        (group, kernel, storage)
        for group in next(entry for entry in build.plan.entries if entry.name == "train").groups
        for kernel in group.kernels
        for storage in kernel.reads.values()
        if storage.name.endswith("_bias") and storage.offset is None  # behind it lies what is not the kernel's own
    )
    target = f"tilegrad_{storage.name}"
    change(build, "train", group.name, lambda body: _in_call(body, kernel.name, target, f"{target} + 1"))
    size = storage.bytes
    fails(build, batches, rf"kernel '{kernel.name}' reads 4 bytes .* offset {size} of its buffer '{storage.name}'")


def _in_call(body: str, kernel: str, old: str, new: str) -> str:
    head, start, rest = body.partition(f"{kernel}(")
    call, end, tail = rest.partition(");")
    assert start and call.count(old) == 1, body
    return head + start + call.replace(old, new) + end + tail


def test_a_read_of_a_range_of_the_arena_that_is_not_alive() -> None:
    build, batches = compiled()
    group, kernel, source, dead = _kernel_and_dead_range(build)
    change(build, "train", group.name, lambda body: _in_call(body, kernel.name, at(source), at(dead)))
    fails(build, batches, rf"kernel '{kernel.name}' reads 4 bytes at \w+ in tile 0: no buffer of this kernel")


def _kernel_and_dead_range(build: tg.Build) -> tuple[Group, Kernel, Storage, Storage]:
    """A kernel, a storage that it reads, and one of at least that size that is not alive yet."""
    plan = next(entry for entry in build.plan.entries if entry.name == "train")
    position = 0
    for group in plan.groups:
        for place, kernel in enumerate(group.kernels, position):
            sources = [
                s for s in kernel.reads.values() if s.level == "L1" and s.copies == 1 and s not in kernel.in_place
            ]
            for source in sources:
                for dead in plan.storages:
                    fits = dead.level == "L1" and dead.lower > place and dead.bytes >= source.bytes
                    if fits and _is_free(plan.storages, dead, place):
                        return group, kernel, source, dead
        position += len(group.kernels)
    raise AssertionError(build.plan.as_text())


def _is_free(storages: list[Storage], candidate: Storage, place: int) -> bool:
    """Whether nothing alive at a kernel lies where a storage will."""
    assert candidate.offset is not None
    return not any(
        s.level == "L1" and s.offset is not None and s.lower <= place < s.upper
        and s.offset < candidate.offset + candidate.total and candidate.offset < s.offset + s.total
        for s in storages
    )  # fmt: skip


def test_a_program_on_the_machine_itself_cannot_be_guarded() -> None:
    module, inputs = build_model("mlp")
    build = tg.compile(module, inputs, tg.losses.CrossEntropy(), tg.optim.SGD())
    guarded(build)
    with pytest.raises(tg.UserError, match="cannot be watched"):
        build.run([synthetic_data("mlp", 1)], 1)
