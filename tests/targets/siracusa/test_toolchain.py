"""Both cross compilers build the same program, and only what is used of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.compiled import same_bits
from tests.targets.siracusa.projects import write_project

import tilegrad as tg
from tilegrad.models import build_model, synthetic_data
from tilegrad.targets import get_target
from tilegrad.targets.siracusa.image import read_sections
from tilegrad.targets.siracusa.target import RUNTIME_L2_BYTES
from tilegrad.targets.siracusa.toolchain import GCC

TARGET = get_target("siracusa")
COMPILERS = ["zig", pytest.param("gcc", marks=pytest.mark.skipif(shutil.which(GCC) is None, reason=f"no {GCC}"))]

EMPTY = "void tilegrad_nothing(void) {}\nuint32_t tilegrad_word[1];\n"

COPIES = """
uint8_t tilegrad_bytes[300], tilegrad_other[300];
uint32_t tilegrad_cut[4];
void *memmove(void *target, const void *source, size_t bytes);
int memcmp(const void *left, const void *right, size_t bytes);

/* cut: from, to, length; the result of the comparison replaces the first. */
void tilegrad_copy(void)
{
    if (TG_CORE == 0)
        memcpy(tilegrad_other + tilegrad_cut[1], tilegrad_bytes + tilegrad_cut[0], tilegrad_cut[2]);
}

void tilegrad_move(void)
{
    if (TG_CORE == 0)
        memmove(tilegrad_bytes + tilegrad_cut[1], tilegrad_bytes + tilegrad_cut[0], tilegrad_cut[2]);
}

void tilegrad_fill(void)
{
    if (TG_CORE == 0)
        memset(tilegrad_bytes + tilegrad_cut[1], 0x1a5, tilegrad_cut[2]);
}

void tilegrad_compare(void)
{
    if (TG_CORE == 0) {
        const int found = memcmp(tilegrad_bytes + tilegrad_cut[0], tilegrad_bytes + tilegrad_cut[1], tilegrad_cut[2]);
        tilegrad_cut[0] = (uint32_t)((found > 0) - (found < 0) + 1);
    }
}
"""


def trained(cc: str) -> tg.Run:
    module, inputs = build_model("mlp", seed=2)
    module.train()
    x, y = synthetic_data("mlp", 2, seed=3)
    loss, optimizer = tg.losses.CrossEntropy(), tg.optim.Adam(lr=1e-3)
    build = tg.compile(module, inputs, loss, optimizer, target="siracusa", cc=cc, clip_norm=0.5)
    assert cc in build.program.compiler
    return build.run([(x[:1], y[:1]), (x[1:], y[1:])], 2)


@pytest.mark.skipif(shutil.which(GCC) is None, reason=f"no {GCC}")
def test_both_compilers_train_to_the_same_bits() -> None:
    zig, gcc = trained("zig"), trained("gcc")
    assert same_bits(zig.losses, gcc.losses)
    for name in zig.gradients:
        assert same_bits(zig.gradients[name], gcc.gradients[name]), name
    for name in zig.parameters:
        assert same_bits(zig.parameters[name], gcc.parameters[name]), name


@pytest.mark.parametrize("cc", COMPILERS)
def test_only_code_that_is_used_is_linked(cc: str) -> None:
    module, inputs = build_model("speechnet", seed=2)
    module.train()
    loss, optimizer = tg.losses.CrossEntropy(), tg.optim.SGD(lr=1e-3)
    program = tg.compile(module, inputs, loss, optimizer, target=TARGET, cc=cc).program
    assert 4_000 < (program.code_bytes or 0) < 100_000
    assert 1_000 < (program.constant_bytes or 0) < 20_000


@pytest.mark.parametrize("cc", COMPILERS)
def test_the_run_time_code_fits_what_is_reserved_for_it(cc: str, tmp_path: Path) -> None:
    project = write_project(tmp_path, TARGET, EMPTY, ["word"], ["nothing"])
    program = TARGET.build(project, cc=cc)
    sections = read_sections(program.executable.read_bytes())
    assert program.code_bytes and program.constant_bytes and program.data_bytes is not None
    assert program.code_bytes + program.constant_bytes + program.data_bytes <= RUNTIME_L2_BYTES
    assert sections[".l1"].size == TARGET.reserved["L1"]


@pytest.mark.parametrize("cc", COMPILERS)
def test_copies_are_right_for_every_alignment(cc: str, tmp_path: Path) -> None:
    entries = ["copy", "move", "fill", "compare"]
    project = write_project(tmp_path, TARGET, COPIES, ["bytes", "other", "cut"], entries)
    start = (np.arange(300) * 7 % 251).astype(np.uint8)
    with TARGET.build(project, cc=cc).start() as session:

        def call(entry: str, *cut: int) -> list[int]:
            session.write("tilegrad_cut", np.array([*cut, 0], np.uint32))
            session.call(f"tilegrad_{entry}")
            return session.read("tilegrad_cut", np.uint32, (4,)).tolist()

        def contents(name: str) -> np.ndarray:
            return session.read(f"tilegrad_{name}", np.uint8, (300,))

        for source, target, length in [(0, 0, 0), (0, 4, 64), (8, 0, 67), (1, 0, 40), (3, 2, 5), (0, 1, 299)]:
            session.write("tilegrad_bytes", start)
            session.write("tilegrad_other", np.zeros(300, np.uint8))
            call("copy", source, target, length)
            expected = np.zeros(300, np.uint8)
            expected[target : target + length] = start[source : source + length]
            assert np.array_equal(contents("other"), expected), (source, target, length)
        for source, target, length in [(0, 4, 200), (4, 0, 200), (0, 1, 99), (9, 2, 50), (5, 5, 7)]:
            session.write("tilegrad_bytes", start)
            call("move", source, target, length)
            expected = start.copy()
            expected[target : target + length] = start[source : source + length]
            assert np.array_equal(contents("bytes"), expected), (source, target, length)
        for target, length in [(0, 300), (3, 1), (5, 90), (8, 7)]:
            session.write("tilegrad_bytes", start)
            call("fill", 0, target, length)
            expected = start.copy()
            expected[target : target + length] = 0xA5
            assert np.array_equal(contents("bytes"), expected), (target, length)
        session.write("tilegrad_bytes", np.concatenate([start[:100], start[:100], np.full(100, 200, np.uint8)]))
        assert call("compare", 0, 100, 100)[0] == 1
        assert call("compare", 0, 200, 3)[0] == 0
        assert call("compare", 200, 0, 3)[0] == 2
        assert call("compare", 0, 200, 0)[0] == 1


def test_a_missing_gcc_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = write_project(tmp_path / "project", TARGET, EMPTY, ["word"], ["nothing"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(tg.ToolchainError, match="apt install gcc-riscv64-unknown-elf"):
        TARGET.build(project, cc="gcc")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_a_compiler_for_another_machine_is_refused(tmp_path: Path) -> None:
    project = write_project(tmp_path, TARGET, EMPTY, ["word"], ["nothing"])
    with pytest.raises(tg.ToolchainError, match="siracusa builds with zig"):
        TARGET.build(project, cc=shutil.which("gcc"))


def test_a_program_too_large_for_l2_is_refused_with_advice(tmp_path: Path) -> None:
    source = "uint8_t tilegrad_word[2100000];\nvoid tilegrad_nothing(void) { tilegrad_word[0]++; }\n"
    project = write_project(tmp_path, TARGET, source, ["word"], ["nothing"])
    with pytest.raises(tg.ToolchainError, match=r"(?s)L2.*overflowed.*share the 2,031,616 bytes"):
        TARGET.build(project)
