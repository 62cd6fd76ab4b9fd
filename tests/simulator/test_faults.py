"""What goes wrong stops the run and says where."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from simulator.cross import program

from tilegrad.errors import RunError
from tilegrad.simulator import Simulator

Load = Callable[[int], Simulator]

FAULTS = {
    0: r"core 2 at pc 0x1c01.*store to 0x20000000 \(4 bytes\), where there is neither memory nor a device",
    1: r"core 2 at pc 0x1c01.*load from 0x10060000 \(4 bytes\)",
    2: r"core 2 at pc 0x1c01.*illegal instruction 0xffffffff",
    3: r"core 2 .*no code at 0x30000000",
    5: r"core 2 .*DMA's L1 range of 64 bytes at 0x1003fff0 is not inside L1",
    6: r"core 2 .*DMA's external range of 64 bytes at 0x1c1ffff0 is not inside L2",
    9: r"core 2 .*load from the device register 0x10200408 with 2 bytes",
    10: r"core 2 .*executed 0x100073|core 2 .*executed 0x9002",
    11: r"core 2 .*store to 0x10200c00 \(4 bytes\)",
    12: r"core 2 .*a barrier got its targets 0x4 before the mask of who triggers it",
}


@pytest.mark.parametrize("which", FAULTS)
def test_a_fault_names_core_code_and_address(feature: Load, which: int) -> None:
    machine = feature(100 + which)
    with pytest.raises(RunError, match=FAULTS[which]) as caught:
        machine.run(100_000)
    if which != 3:
        # Compilers inline as they like: the function is one of these.
        assert re.search(r"\((fault|program|worker|dma_start|print|recurse)[^)]*\)", str(caught.value))
    with pytest.raises(RunError, match="cannot go on"):
        machine.run(100_000)


def test_float_instructions_on_the_fabric_controller(feature: Load) -> None:
    with pytest.raises(RunError, match=r"the fabric controller at .*a float instruction"):
        feature(23).run(100_000)


def test_a_barrier_that_a_core_misses_is_a_deadlock(feature: Load) -> None:
    with pytest.raises(RunError, match="deadlocked") as caught:
        feature(107).run(100_000)
    text = str(caught.value)
    assert "core 2 waits for an interrupt" in text
    assert "core 3 waits at a barrier" in text
    assert "the fabric controller waits for an interrupt" in text


def test_a_program_that_does_not_end(feature: Load) -> None:
    with pytest.raises(RunError, match=r"did not end within 20000 cycles.*core 2 at"):
        feature(108).run(20_000)


def test_a_stack_that_overflows() -> None:
    image = program("features")
    base = image.symbols["worker_stacks"].address if "worker_stacks" in image.symbols else 0
    with Simulator(image, stacks={2: base + 2 * 2048}) as machine:
        machine.write("feature", (104).to_bytes(4, "little"))
        with pytest.raises(RunError, match="stack overflow: the stack pointer went to"):
            machine.run(100_000)
