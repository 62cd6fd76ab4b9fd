"""Errors planted in a step over tiles, double buffered, are caught with kernel, tile, buffer and offset."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from simulator.cross import PROGRAMS, program

from tilegrad.errors import RunError
from tilegrad.simulator import Access, Region, Simulator

TILES, WORDS = 4, 64
SOURCE = (PROGRAMS / "tiles.c").read_text()
PLANTS = re.findall(r"^    ([A-Z_]+),? ", SOURCE[SOURCE.index("    NONE,") :].replace("NONE,", "NONE, "), re.MULTILINE)
NUMBERS = np.arange(TILES * WORDS, dtype=np.uint32) * 7 + 5


@pytest.fixture
def machine() -> Iterator[Simulator]:
    with Simulator(program("tiles")) as machine:
        machine.write("input", NUMBERS)
        yield machine


def region(machine: Simulator, symbol: str, access: Access, tile: int | None = None, offset: int = 0) -> Region:
    return Region(symbol, machine.address(symbol) + 4 * offset, 4 * WORDS, access, tile=tile)


def plan(machine: Simulator) -> dict[str, list[Region]]:
    """What a planner knows: a tile has one of two buffers for its input, which is dead afterwards, and its output."""
    regions = [region(machine, "scratch", Access.BOTH | Access.LAST)]
    for tile in range(TILES):
        regions.append(region(machine, "in_odd" if tile & 1 else "in_even", Access.READ | Access.LAST, tile))
        regions.append(region(machine, "out_odd" if tile & 1 else "out_even", Access.WRITE, tile))
    return {"scale": regions}


def common(machine: Simulator) -> list[Region]:
    stacks = machine.image.symbols["worker_stacks"]
    code = [segment for segment in machine.image.segments if segment.executable]
    return [
        Region("stacks", stacks.address, stacks.size, Access.BOTH),
        *(Region("literals", part.address, len(part.data), Access.READ) for part in code),
    ]


def failure(machine: Simulator, plant: str, entries: tuple[str, ...] = ("step",)) -> str:
    machine.write("plant", np.uint32(PLANTS.index(plant)))
    machine.guard(plan(machine), common(machine), entries)
    with pytest.raises(RunError) as caught:
        machine.run(1_000_000)
    return str(caught.value)


def test_a_program_without_errors_runs(machine: Simulator) -> None:
    plain = Simulator(program("tiles"))
    machine.guard(plan(machine), common(machine), ["step"])
    assert machine.run(1_000_000).cycles == plain.run(1_000_000).cycles
    assert (machine.read("output", "<u4", (TILES * WORDS,)) == 3 * NUMBERS + 1).all()
    plain.close()


def test_an_overflow_by_one_element_of_a_scratch_buffer(machine: Simulator) -> None:
    text = failure(machine, "OVERFLOW")
    expected = (
        r"core 7 at .*\(scale\+\w+, in scale at \S*tiles.c:\d+\).*kernel 'scale' writes 4 bytes at \w+ in tile 2: "
        r"offset 256 of its buffer 'scratch', which has 256 bytes; symbol: behind_scratch"
    )
    assert re.search(expected, text), text


def test_a_read_of_the_buffer_of_another_tile(machine: Simulator) -> None:
    text = failure(machine, "OTHER_BUFFER")
    expected = (
        r"kernel 'scale' reads 4 bytes at \w+ in tile 2: .*; "
        r"buffer 'in_odd' of kernel 'scale', tile 1 is there, offset \d+"
    )
    assert re.search(expected, text), text


def test_a_read_of_contents_that_are_dead(machine: Simulator) -> None:
    """The buffer is the tile's own, but still has what the tile two before it was done with."""
    text = failure(machine, "MISSING_TRANSFER")
    expected = (
        r"kernel 'scale' reads 4 bytes at \w+ in tile 2: buffer 'in_even', offset \d+; "
        r"nothing has written it since its contents died"
    )
    assert re.search(expected, text), text


def test_a_read_of_scratch_space_before_anything_is_written(machine: Simulator) -> None:
    text = failure(machine, "UNWRITTEN_SCRATCH")
    assert re.search(r"in tile 0: buffer 'scratch', offset \d+; nothing has written it", text), text


def test_a_missing_wait_for_an_input(machine: Simulator) -> None:
    text = failure(machine, "MISSING_WAIT")
    expected = (
        r"missing wait for the DMA: kernel 'scale' reads 4 bytes at \w+ in tile 1: buffer 'in_odd', offset \d+; "
        r"neither core \d nor one that it met at a barrier has waited for the transfer of 256 bytes into L1 "
        r"that core 0 started at pc \w+ \(step\+\w+, in dma_start at \S*runtime.h:\d+, "
        r"inlined into fetch at \S*tiles.c:\d+"
    )
    assert re.search(expected, text), text


def test_a_wait_that_the_other_cores_do_not_wait_for(machine: Simulator) -> None:
    text = failure(machine, "LATE_WAIT")
    assert re.search(
        r"core [1-7] at .*missing wait for the DMA: kernel 'scale' reads .* in tile 1: buffer 'in_odd'", text
    )


def test_a_missing_wait_for_an_output(machine: Simulator) -> None:
    text = failure(machine, "MISSING_WAIT_OUT")
    expected = (
        r"missing wait for the DMA: kernel 'scale' writes 4 bytes at \w+ in tile 2: buffer 'out_even', offset \d+; "
        r".*transfer of 256 bytes out of L1"
    )
    assert re.search(expected, text), text


def test_a_transfer_into_a_buffer_that_another_one_still_fills(machine: Simulator) -> None:
    text = failure(machine, "EARLY_TRANSFER")
    expected = (
        r"missing wait for the DMA: code outside the kernels starts a DMA transfer that writes 256 bytes at \w+: "
        r".*buffer 'in_even' of kernel 'scale', tile 0 is there, offset 0; .*transfer of 256 bytes into L1"
    )
    assert re.search(expected, text), text


def test_a_call_that_the_plan_does_not_have(machine: Simulator) -> None:
    text = failure(machine, "UNPLANNED_TILE")
    expected = (
        r"in tile 4, of which nothing is known \(tiles 0 to 3 are\): .*buffer 'in_even' of kernel 'scale', tile 0"
    )
    assert re.search(expected, text), text


def test_calls_are_counted_from_where_an_entry_point_begins(machine: Simulator) -> None:
    """Without entry points the second step's first call is the fifth, of which the plan knows nothing."""
    assert "in tile 4, of which nothing is known" in failure(machine, "NONE", ())


def test_the_trace_has_tiles(machine: Simulator) -> None:
    machine.kernels(["scale"], ["step"])
    machine.trace()
    machine.run(1_000_000)
    spans = [span for span in machine.spans() if span.core == 3]
    assert [span.tile for span in spans] == 2 * list(range(TILES))
