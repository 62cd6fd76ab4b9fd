"""A fault names the function of the source that it happened in, with file and line, where the program knows them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from simulator.cross import PROGRAMS, compilers, program

from tilegrad.errors import RunError
from tilegrad.simulator import Simulator
from tilegrad.simulator.elf import Image

SOURCE = (PROGRAMS / "features.c").read_text().splitlines()
DEBUG = [(cc, option) for cc in compilers() for option in ("-gdwarf-4", "-gdwarf-5")]


def line_with(text: str) -> int:
    [found] = [number for number, line in enumerate(SOURCE, 1) if text in line]
    return found


def message(image: Image, feature: int) -> str:
    with Simulator(image) as machine:
        machine.write("feature", feature.to_bytes(4, "little"))
        with pytest.raises(RunError) as caught:
            machine.run(100_000)
        return str(caught.value)


@pytest.mark.parametrize(("cc", "option"), DEBUG)
def test_a_fault_names_the_functions_that_were_inlined(cc: str, option: str) -> None:
    text = message(program("features", cc, (option,)), 101)
    line, call = line_with("results[0] = REGISTER(0x10060000u)"), line_with("fault(core, which - 100)")
    expected = rf"\(program\+0x\w+, in fault at \S*features.c:{line}, inlined into program at \S*features.c:{call}\)"
    assert re.search(expected, text), text


@pytest.mark.parametrize(("cc", "option"), DEBUG)
def test_functions_of_headers(cc: str, option: str) -> None:
    text = message(program("features", cc, (option,)), 105)
    line = line_with("(void)dma_start(64 | 3u << 17, 0x1003fff0u")
    assert re.search(rf"in dma_start at \S*runtime.h:\d+, inlined into fault at \S*features.c:{line}", text), text


@pytest.mark.parametrize(("cc", "option"), DEBUG)
def test_a_deadlock_names_where_each_core_waits(cc: str, option: str) -> None:
    text = message(program("features", cc, (option,)), 107)
    line = line_with("case 7: for (;;)")
    assert re.search(rf"core 2 waits for an interrupt, .*in fault at \S*features.c:{line}, inlined into program", text)
    assert re.search(
        r"core 3 waits at a barrier, .*inlined into barrier at \S*runtime.h:\d+, inlined into worker", text
    )


@pytest.mark.parametrize(("cc", "option"), DEBUG)
def test_every_instruction_of_a_function_belongs_to_it(cc: str, option: str) -> None:
    image = program("features", cc, (option,))
    symbol = image.symbols["copy_words"]
    first = line_with("__attribute__((noinline)) void copy_words(")
    last = first + 4
    for address in range(symbol.address, symbol.address + symbol.size, 2):
        [frame] = image.frames(address)
        assert frame.function == "copy_words"
        assert frame.line == 0 or first <= frame.line <= last


def test_a_program_without_debug_information_has_symbols_only() -> None:
    image = program("features", "zig", ("-g0",))
    assert not image.debug
    assert image.frames(image.symbols["program"].address) == ()
    assert re.search(r"\(program\+0x\w+\), cycle", message(image, 101))


def test_debug_information_that_is_damaged_hides_no_fault() -> None:
    image = program("features", "zig", ("-gdwarf-4",))
    cut = {name: content[: len(content) // 2] for name, content in image.debug.items()}
    text = message(replace(image, debug=cut), 101)
    assert "load from 0x10060000" in text
    assert "its debug information cannot be read: it ends in the middle of" in text


def test_other_versions_are_not_guessed_at() -> None:
    image = program("features", "zig", ("-gdwarf-4",))
    units = bytearray(image.debug[".debug_info"])
    units[4] = 6
    changed = replace(image, debug={**image.debug, ".debug_info": bytes(units)})
    assert "cannot be read: it is of version 6" in message(changed, 101)


@pytest.mark.parametrize("address", [0, 0x20000000])
def test_addresses_that_are_no_code_have_no_source(address: int) -> None:
    assert program("features", "zig", ("-gdwarf-5",)).frames(address) == ()
