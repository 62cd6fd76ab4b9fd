from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tilegrad.errors import RunError, UserError
from tilegrad.targets import (
    Memory,
    Program,
    Session,
    Target,
    get_target,
    list_targets,
    register_target,
    unregister_target,
)
from tilegrad.targets.base import Progress, require_entry, require_symbol


class ToySession(Session):
    """Doubles `x` into `y`; counts 10 cycles a call. Only the four basic operations: the rest is inherited."""

    def __init__(self) -> None:
        self.memory = {"x": bytes(8), "y": bytes(8)}
        self.symbols = {name: len(data) for name, data in self.memory.items()}
        self.entries = ("double",)
        self.seconds = 0.0
        self.cycles = 0
        self.closed = False

    def write(self, symbol: str, data: npt.NDArray[Any]) -> None:
        require_symbol(self.symbols, symbol, data.nbytes)
        self.memory[symbol] = data.tobytes()

    def read(self, symbol: str, dtype: npt.DTypeLike, shape: Sequence[int]) -> npt.NDArray[Any]:
        return np.frombuffer(self.memory[symbol], dtype).reshape(tuple(shape)).copy()

    def call(self, entry: str, repeat: int = 1) -> int | None:
        require_entry(self.entries, entry, repeat)
        self.memory["y"] = (np.frombuffer(self.memory["x"], np.float32) * 2).tobytes()
        self.seconds += 0.5 * repeat
        return 10 * repeat

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True, kw_only=True)
class ToyProgram(Program):
    def start(self) -> ToySession:
        return ToySession()


@dataclass(frozen=True, kw_only=True)
class ToyTarget(Target):
    def build(
        self,
        project: Path,
        *,
        cc: str | None = None,
        sanitize: bool = False,
        optimization: str = "-O3",
        flags: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> ToyProgram:
        return ToyProgram(executable=project / "toy.elf", compiler=cc or self.default_compiler)


TOY = ToyTarget(
    name="toy",
    summary="two memories, four cores",
    memories=(Memory("L1", 4096, 4), Memory("L2", 1 << 20, 8, load_cycles=15.5)),
    cores=4,
    has_cycle_counter=True,
)


@pytest.fixture
def toy() -> Iterator[Target]:
    yield register_target(TOY)
    unregister_target("toy")


def test_the_host_is_built_in() -> None:
    host = get_target("host")
    assert host in list_targets()
    assert [memory.name for memory in host.memories] == ["ram"]
    assert host.memory("ram").capacity is None
    assert host.innermost == "parallel"
    assert not host.has_cycle_counter


def test_the_host_brings_its_driver_along() -> None:
    files = get_target("host").project_files()
    assert list(files) == ["host/main.c"]
    assert "int main(void)" in files["host/main.c"]


def test_a_target_is_registered_from_outside(toy: Target) -> None:
    assert get_target("toy") is toy
    assert [target.name for target in list_targets()] == ["host", "siracusa", "toy"]


def test_a_registered_target_builds_and_runs(toy: Target, tmp_path: Path) -> None:
    program = get_target("toy").build(tmp_path, cc="mycc")
    assert program.compiler == "mycc"
    with program.start() as session:
        x = np.array([1.5, -3.0], np.float32)
        done = session.transact({"x": x}, "double", {"y": (np.float32, (2,))}, repeat=3)
        assert done.values["y"].tolist() == [3.0, -6.0]
        assert (done.cycles, done.seconds) == (30, 1.5)
        assert session.transact({}, None, {}).cycles is None


def test_a_session_is_ended_however_the_block_is_left() -> None:
    session = ToySession()
    with pytest.raises(ZeroDivisionError), session:
        raise ZeroDivisionError
    assert session.closed


def test_a_taken_name_is_refused(toy: Target) -> None:
    for taken in (toy, replace(TOY, name="host")):
        with pytest.raises(UserError, match=f"{taken.name!r} already"):
            register_target(taken)
    with pytest.raises(UserError, match="no target called 'nothing'"):
        unregister_target("nothing")


def test_an_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no target 'hots'; did you mean 'host'\? known targets: host"):
        get_target("hots")


def declare(folder: Path, module: str, name: str, value: str) -> None:
    """Lays down what installing a package with one entry point leaves behind."""
    info = folder / "toy_package-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tilegrad.targets]\n{name} = {value}\n")
    (folder / "toy_package_targets.py").write_text(module)


def test_an_installed_package_declares_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = (
        "from dataclasses import replace\n"
        "from tilegrad.targets import get_target\n"
        "BOARD = replace(get_target('host'), name='board', cores=2)\n"
    )
    declare(tmp_path, module, "board", "toy_package_targets:BOARD")
    monkeypatch.syspath_prepend(tmp_path)
    assert get_target("board").cores == 2
    assert [target.name for target in list_targets()] == ["board", "host", "siracusa"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("toy_package_missing:BOARD", "'board' of toy-package .* cannot be loaded: No module named"),
        ("toy_package_targets:NUMBER", "declared as target 'board' is 7, not a tilegrad Target"),
    ],
)
def test_a_broken_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    declare(tmp_path, "NUMBER = 7\n", "board", value)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "toy_package_targets", raising=False)
    with pytest.raises(UserError, match=message):
        get_target("board")
    assert get_target("host").name == "host"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Memory("L1", 0, 4), "'L1': the capacity must be positive"),
        (lambda: Memory("L1", 64, 12), "'L1': the alignment must be a power of two, not 12"),
        (lambda: replace(TOY, memories=()), "needs memories with different names"),
        (lambda: replace(TOY, memories=(Memory("a", 8, 8), Memory("a", 9, 8))), "needs memories with different names"),
        (lambda: replace(TOY, cores=0), "at least one core"),
        (lambda: replace(TOY, innermost="outer"), "innermost is 'parallel' or 'reduction'"),
        (lambda: TOY.memory("L3"), "no memory 'L3'; it has L1, L2"),
    ],
)
def test_a_wrong_description_is_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_an_unknown_symbol_or_entry_is_explained() -> None:
    with pytest.raises(RunError, match=r"no symbol 'weigth'; did you mean 'weight'\?"):
        require_symbol({"weight": 4}, "weigth", 4)
    with pytest.raises(RunError, match="has 4 bytes, but the array given or asked for has 8"):
        require_symbol({"weight": 4}, "weight", 8)
    with pytest.raises(RunError, match="no entry point 'run'; it has none"):
        require_entry((), "run", 1)
    with pytest.raises(RunError, match="at least once, not 0 times"):
        require_entry(("run",), "run", 0)


def test_a_team_is_chosen_where_there_are_several_cores() -> None:
    several = replace(get_target("host"), cores=3, most_cores=4)
    assert [several.with_cores(cores).cores for cores in (1, 4)] == [1, 4]
    assert several.with_cores(1).with_cores(2).cores == 2
    for cores in (0, 5):
        with pytest.raises(UserError, match=f"1 to 4 cores, not {cores}"):
            several.with_cores(cores)
    with pytest.raises(UserError, match="one core"):
        get_target("host").with_cores(1)
