"""Planted errors in kernels are caught by name, and the trace shows what ran."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tilegrad.errors import RunError
from tilegrad.simulator import Access, Region, Simulator

Load = Callable[[int], Simulator]


def common(machine: Simulator) -> list[Region]:
    image = machine.image
    data = [segment for segment in image.segments if segment.executable]
    stacks = image.symbols["worker_stacks"]
    return [
        Region("stacks", stacks.address, stacks.size, Access.BOTH),
        *(Region("constants", part.address, len(part.data), Access.READ) for part in data),
    ]


def region(machine: Simulator, symbol: str, size: int, access: Access) -> Region:
    return Region(symbol, machine.address(symbol), size, access)


def test_an_overflow_by_one_element(feature: Load) -> None:
    machine = feature(8)
    table = {"copy_words": [region(machine, "buffer", 256, Access.WRITE), region(machine, "source", 4096, Access.READ)]}
    machine.guard(table, common(machine))
    expected = r"kernel 'copy_words' writes 4 bytes at 0x.*offset 256 of its buffer 'buffer', which has 256 bytes"
    with pytest.raises(RunError, match=expected):
        machine.run(100_000)


def test_the_same_kernel_inside_its_buffers(feature: Load) -> None:
    machine = feature(8)
    table = {"copy_words": [region(machine, "buffer", 260, Access.WRITE), region(machine, "source", 4096, Access.READ)]}
    machine.guard(table, common(machine))
    assert machine.run(100_000).exit_code == 0


def test_a_read_of_a_buffer_that_is_not_the_kernels(feature: Load) -> None:
    machine = feature(9)
    table = {
        "sum_words": [region(machine, "results", 256, Access.WRITE)],
        "copy_words": [region(machine, "neighbour", 256, Access.BOTH)],
    }
    machine.guard(table, common(machine))
    expected = "kernel 'sum_words' reads 4 bytes at .*buffer 'neighbour' of kernel 'copy_words' is there, offset 0"
    with pytest.raises(RunError, match=expected):
        machine.run(100_000)


def test_a_buffer_used_against_its_direction(feature: Load) -> None:
    machine = feature(8)
    table = {"copy_words": [region(machine, "buffer", 4096, Access.READ), region(machine, "source", 4096, Access.READ)]}
    machine.guard(table, common(machine))
    with pytest.raises(RunError, match="buffer 'buffer', offset 0, which the kernel may only read"):
        machine.run(100_000)


def dma_table(machine: Simulator) -> dict[str, list[Region]]:
    return {
        "fetch_and_sum": [
            region(machine, "buffer", 256, Access.BOTH),
            region(machine, "source", 256, Access.READ),
            region(machine, "results", 256, Access.WRITE),
        ]
    }


def test_a_missing_wait_for_a_transfer(feature: Load) -> None:
    """Even where the transfer is long done by the time of the access: nobody made sure."""
    machine = feature(11)
    machine.guard(dma_table(machine), common(machine))
    expected = (
        r"missing wait for the DMA: kernel 'fetch_and_sum' reads 4 bytes at \w+ in tile 0: buffer 'buffer', offset 0"
    )
    with pytest.raises(RunError, match=expected):
        machine.run(100_000)


def test_a_transfer_that_is_waited_for(feature: Load) -> None:
    machine = feature(10)
    machine.write("source", np.arange(1024, dtype=np.uint32))
    machine.guard(dma_table(machine), common(machine))
    machine.run(100_000)
    assert int(machine.read("results", "<u4", ())) == sum(range(64))


def test_a_transfer_beyond_a_buffer(feature: Load) -> None:
    machine = feature(10)
    table = dma_table(machine)
    table["fetch_and_sum"][1] = region(machine, "source", 252, Access.READ)
    machine.guard(table, common(machine))
    with pytest.raises(RunError, match="starts a DMA transfer that reads 256 bytes at"):
        machine.run(100_000)


def test_checking_changes_no_cycle(feature: Load) -> None:
    plain, guarded = feature(10), feature(10)
    guarded.guard(dma_table(guarded), common(guarded))
    guarded.trace()
    assert plain.run(100_000).cycles == guarded.run(100_000).cycles


def test_trace_has_kernels_waits_and_transfers(feature: Load, tmp_path: Path) -> None:
    machine = feature(10)
    machine.kernels(["fetch_and_sum"])
    machine.trace()
    machine.run(100_000)
    machine.write_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    [kernel] = [event for event in spans if event["cat"] == "kernel"]
    assert (kernel["name"], kernel["tid"]) == ("fetch_and_sum", 0)
    assert kernel["args"]["stalls: control"] >= 2 * 63
    assert kernel["args"]["multiply-adds"] == 0
    [transfer] = [event for event in spans if event["cat"] == "dma"]
    assert transfer["name"] == "256 bytes"
    assert kernel["ts"] < transfer["ts"] < transfer["ts"] + transfer["dur"] < kernel["ts"] + kernel["dur"]
    waits = [event for event in spans if event["name"] == "waits at a barrier" and event["tid"] == 5]
    done = kernel["ts"] + kernel["dur"]
    assert any(event["ts"] < done < event["ts"] + event["dur"] for event in waits)
