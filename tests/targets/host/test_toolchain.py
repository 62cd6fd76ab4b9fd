from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.targets.conftest import installed_compilers, write_project

from tilegrad.errors import ToolchainError, UserError
from tilegrad.targets import get_target
from tilegrad.targets.host import toolchain
from tilegrad.targets.host.toolchain import SLOW_FMA_NOTICE, cpu_has_fma, find_compiler

HOST = get_target("host")


def object_times(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (cache / "objects").iterdir()}


@pytest.mark.parametrize("cc", installed_compilers())
def test_a_compiler_is_identified(cc: str) -> None:
    compiler = find_compiler(cc)
    assert compiler.version[0].isdigit()
    assert compiler.family == cc or sys.platform == "darwin"
    assert compiler == find_compiler(cc)


def test_zig_is_the_default() -> None:
    assert find_compiler().family == "zig"
    assert find_compiler() == find_compiler("zig")


@pytest.mark.parametrize("cc", installed_compilers())
def test_a_compiler_is_found_by_its_path(cc: str) -> None:
    compiler = find_compiler(cc)
    assert find_compiler(compiler.command[0]).family == compiler.family


def test_what_a_compiler_is_does_not_depend_on_what_it_is_called(tmp_path: Path) -> None:
    disguised = tmp_path / "gcc"
    zig = find_compiler("zig").command
    disguised.write_text(f'#!/bin/sh\nexec {" ".join(zig)} "$@"\n')
    disguised.chmod(0o755)
    assert find_compiler(str(disguised)).family == "clang"  # which is what `zig cc` is


@pytest.mark.skipif(cpu_has_fma() is not True, reason="the CPU has no fused multiply-add")
@pytest.mark.parametrize("cc", installed_compilers())
def test_the_cpu_s_fused_multiply_add_is_used(cc: str) -> None:
    assert find_compiler(cc).fused


def test_a_missing_compiler_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match=r"'gcc' was not found: install it .*apt install gcc"):
        find_compiler("gcc")
    with pytest.raises(ToolchainError, match="'/no/such/cc' was not found: give its full path"):
        find_compiler("/no/such/cc")


def test_a_missing_zig_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ToolchainError, match=r"pip install ziglang==0\.17\.1.*--cc gcc"):
        find_compiler()


def test_a_program_that_is_no_compiler_is_refused(tmp_path: Path) -> None:
    liar = tmp_path / "liar"
    liar.write_text("#!/bin/sh\necho I am no compiler >&2\nexit 7\n")
    liar.chmod(0o755)
    with pytest.raises(ToolchainError, match=r"(?s)does not work as a C compiler.*I am no compiler"):
        find_compiler(str(liar))


def test_the_pinned_version_is_the_one_recommended() -> None:
    metadata = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert toolchain.install_hint("zig").split("`")[1].split()[-1] in metadata


@pytest.mark.parametrize(
    ("text", "expected"),
    [("processor: 0\nflags\t\t: fpu fma avx2\n", {"fpu", "fma", "avx2"}), ("Features : asimd\n", set())],
)
def test_cpu_flags_are_read(tmp_path: Path, text: str, expected: set[str]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert toolchain._cpu_flags(tmp_path / "cpuinfo") == expected


@pytest.mark.parametrize("cc", installed_compilers())
def test_the_second_build_compiles_nothing(project: Path, cache: Path, cc: str) -> None:
    said: list[str] = []
    first = HOST.build(project, cc=cc, progress=said.append)
    assert first.compiled == 3 and said[0].startswith(f"compiling 3 C files with {first.compiler}")
    before = object_times(cache)
    second = HOST.build(project, cc=cc, progress=said.append)
    assert second.compiled == 0 and len(said) == 1
    assert second.executable == first.executable
    assert object_times(cache) == before
    assert first.notices == second.notices == (() if find_compiler(cc).fused else (SLOW_FMA_NOTICE,))


def test_only_what_changed_is_compiled_again(project: Path) -> None:
    first = HOST.build(project)
    source = project / "src" / "toy.c"
    text = source.read_text()
    source.write_text(text.replace("2.0f", "3.0f"))
    changed = HOST.build(project)
    assert changed.compiled == 1 and changed.executable != first.executable
    (project / "src" / "toy.h").write_text((project / "src" / "toy.h").read_text() + "/* a comment */\n")
    assert HOST.build(project).compiled == 3
    assert HOST.build(project, optimization="-O0").compiled == 3


def test_the_place_of_a_project_does_not_matter(project: Path, tmp_path: Path) -> None:
    first = HOST.build(project)
    again = HOST.build(write_project(tmp_path / "a folder with spaces"))
    assert again.compiled == 0 and again.executable == first.executable


def test_a_build_leaves_the_project_and_the_working_folder_alone(project: Path, cache: Path) -> None:
    before = sorted(project.rglob("*"))
    HOST.build(project)
    assert sorted(project.rglob("*")) == before
    assert list((cache / "work").iterdir()) == []


def test_builds_at_the_same_time_share_the_cache(project: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        programs = list(pool.map(lambda _: HOST.build(project), range(4)))
    assert len({program.executable for program in programs}) == 1
    with programs[0].start() as session:
        assert session.call("scale") is None


@pytest.mark.parametrize("cc", installed_compilers())
def test_a_compiler_s_complaint_is_shown(project: Path, cache: Path, cc: str) -> None:
    (project / "src" / "toy.c").write_text("int broken(void) { return missing_name; }\n")
    with pytest.raises(ToolchainError) as caught:
        HOST.build(project, cc=cc)
    message = str(caught.value)
    for part in ("compiling src/toy.c", str(project), "missing_name", "The command was", "-ffp-contract=off"):
        assert part in message
    assert not (cache / "programs").exists()


def test_a_warning_is_an_error(project: Path) -> None:
    (project / "src" / "more.c").write_text("static int unused(void) { return 1; }\n")
    with pytest.raises(ToolchainError, match="unused"):
        HOST.build(project)


def test_a_long_complaint_is_cut(project: Path) -> None:
    (project / "src" / "more.c").write_text("".join(f"int f{i}(void) {{ return name{i}; }}\n" for i in range(20)))
    with pytest.raises(ToolchainError, match=r"\.\.\. and \d+ lines more"):
        HOST.build(project)


def test_an_unresolved_name_is_shown(project: Path) -> None:
    source = project / "src" / "toy.c"
    source.write_text(
        source.read_text().replace("void print(void) {", "void elsewhere(void);\nvoid print(void) { elsewhere();")
    )
    with pytest.raises(ToolchainError, match=r"(?s)linking in .*elsewhere"):
        HOST.build(project)


def test_a_folder_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="not a generated project: it has no C files"):
        HOST.build(tmp_path / "nothing")


@pytest.mark.parametrize("optimization", ["-Ofast", "3", ""])
def test_an_optimization_that_is_none_is_refused(project: Path, optimization: str) -> None:
    with pytest.raises(UserError, match="must be one of -O0, -O1"):
        HOST.build(project, optimization=optimization)


def test_an_option_that_the_compiler_does_not_know_is_shown(project: Path) -> None:
    with pytest.raises(ToolchainError, match="no-such-option"):
        HOST.build(project, flags=("--no-such-option",))


def test_a_cache_that_cannot_be_written_is_explained(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TILEGRAD_CACHE", str(tmp_path / "file"))
    with pytest.raises(ToolchainError, match=r"cannot be written: .*set TILEGRAD_CACHE to another folder"):
        HOST.build(project)


@pytest.mark.parametrize("cc", installed_compilers())
def test_a_full_disk_leaves_nothing_half_written(project: Path, cache: Path, cc: str) -> None:
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from tilegrad.errors import ToolchainError; from tilegrad.targets import get_target\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: get_target('host').build(Path(sys.argv[1]), cc=sys.argv[2])\n"
        "except ToolchainError as error: print(error); sys.exit(9)\n"
    )
    source = Path(__file__).parents[3] / "src"
    done = subprocess.run(
        [sys.executable, "-c", script, str(project), cc],
        env=os.environ | {"PYTHONPATH": str(source)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 9, done.stderr
    assert f"the build cache {cache} cannot be written: File too large; free some space" in done.stdout
    assert not (cache / "objects").exists() and not (cache / "programs").exists()
    assert HOST.build(project, cc=cc).compiled == 3
