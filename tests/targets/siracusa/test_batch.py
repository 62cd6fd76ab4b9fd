"""Programs that run by themselves: the bits of an ordinary session, from what the program prints."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.compiled import same_bits
from tests.targets.siracusa.projects import write_project

import tilegrad as tg
from tilegrad.errors import RunError, ToolchainError, UserError
from tilegrad.models import build_model, synthetic_data
from tilegrad.simulator import Simulator
from tilegrad.targets import Target, get_target
from tilegrad.targets.siracusa import batch_session
from tilegrad.targets.siracusa.batch import Call, Show, Write, parse_output, with_script
from tilegrad.targets.siracusa.batch_session import BatchSession

TARGET = get_target("siracusa")

SOURCE = """
uint32_t tilegrad_counter[1];
uint8_t tilegrad_odd[7];
uint32_t tilegrad_in[200], tilegrad_out[200];
TG_IN_L3 uint32_t tilegrad_far[3000] = {5, 6, 7};
TG_IN_L3 uint8_t tilegrad_far_odd[3] = {1, 2, 3};
TG_IN_L1 uint32_t tilegrad_near[16];

void tilegrad_count(void)
{
    if (TG_CORE == 0)
        tilegrad_counter[0]++;
    tg_barrier();
}

void tilegrad_double(void)
{
    for (int i = TG_FIRST(200); i < TG_LAST(200); i++)
        tilegrad_out[i] = 2 * tilegrad_in[i];
    tg_barrier();
}

void tilegrad_fetch(void)
{
    if (TG_CORE == 0)
        tg_l3_in(tilegrad_out, tilegrad_far, sizeof tilegrad_out);
    tg_barrier();
}
"""
SYMBOLS = ["counter", "odd", "in", "out", "far", "far_odd", "near"]
ENTRIES = ["count", "double", "fetch"]


class Runs:
    """Runs files on the built-in simulator, which is told nothing but the file, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, executable: Path) -> str:
        self.count += 1
        with Simulator(executable) as machine:
            result = machine.run()
        assert result.exit_code == 0
        return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batch")


@pytest.fixture(autouse=True)
def shared_cache(cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for the whole module: the simulator is built once."""
    monkeypatch.setenv("TILEGRAD_CACHE", str(folder / "cache"))


@pytest.fixture
def program(shared_cache: None, folder: Path) -> Path:
    project = write_project(folder / "project", TARGET, SOURCE, SYMBOLS, ENTRIES)
    return TARGET.build(project).executable


@pytest.fixture
def runs() -> Runs:
    return Runs()


def test_results_are_those_of_the_calls_before(program: Path, runs: Runs) -> None:
    with BatchSession(program, runs) as session:
        assert session.entries == ["tilegrad_count", "tilegrad_double", "tilegrad_fetch"]
        assert session.call("tilegrad_count", repeat=3) > 0
        assert session.read("tilegrad_counter", np.uint32, ()) == 3
        session.write("tilegrad_counter", np.array([40], np.uint32))
        assert session.call("tilegrad_count") > 0
        assert session.read("tilegrad_counter", np.uint32, (1,)).tolist() == [41]
        assert session.cycles > 0 and session.seconds > 0
    assert runs.count == 4


def test_one_run_answers_all_that_is_asked_for_late(program: Path, runs: Runs) -> None:
    with BatchSession(program, runs) as session:
        done = []
        for turn in range(5):
            values = np.arange(200, dtype=np.uint32) * np.uint32(turn % 2 + 1)
            session.transact({"tilegrad_in": values}, "tilegrad_double", {})
            reads = {"tilegrad_out": (np.uint32, (10, 20)), "tilegrad_counter": (np.uint32, ())}
            done.append(session.transact({}, "tilegrad_count", reads))
        assert runs.count == 0
        for turn, transaction in enumerate(done):
            expected = 2 * np.arange(200, dtype=np.uint32).reshape(10, 20) * (turn % 2 + 1)
            assert np.array_equal(transaction.values["tilegrad_out"], expected)
            assert transaction.values["tilegrad_counter"] == turn + 1
            assert (transaction.cycles or 0) > 0
    assert runs.count == 1


def test_known_results_stay_when_the_program_is_run_again(program: Path, runs: Runs) -> None:
    with BatchSession(program, runs) as session:
        first = session.transact({}, "tilegrad_count", {"tilegrad_counter": (np.uint32, ())})
        assert first.values["tilegrad_counter"] == 1
        cycles = first.cycles
        second = session.transact({}, "tilegrad_count", {"tilegrad_counter": (np.uint32, ())})
        assert second.values["tilegrad_counter"] == 2
        assert (first.values["tilegrad_counter"], first.cycles) == (1, cycles)


def test_all_memories_are_read_and_written(program: Path, runs: Runs) -> None:
    generator = np.random.default_rng(3)
    with BatchSession(program, runs) as session:
        assert session.read("tilegrad_far_odd", np.uint8, (3,)).tolist() == [1, 2, 3]
        session.write("tilegrad_far_odd", np.array([7, 8, 9], np.uint8))
        far = session.transact({}, "tilegrad_fetch", {"tilegrad_out": (np.uint32, (200,))})
        written = {
            "tilegrad_far": generator.integers(0, 1 << 32, 3000, np.uint32),
            "tilegrad_near": generator.integers(0, 1 << 32, 16, np.uint32),
            "tilegrad_odd": generator.integers(0, 256, 7, np.uint8),
        }
        reads = {name: (data.dtype, data.shape) for name, data in written.items()}
        back = session.transact(written, "tilegrad_fetch", reads | {"tilegrad_out": (np.uint32, (200,))})
        assert far.values["tilegrad_out"].tolist() == [5, 6, 7, *[0] * 197]
        for name, data in written.items():
            assert np.array_equal(back.values[name], data), name
        assert np.array_equal(back.values["tilegrad_out"], written["tilegrad_far"][:200])
        assert session.read("tilegrad_far_odd", np.uint8, (3,)).tolist() == [7, 8, 9]


def test_many_reads_in_a_row_take_two_runs(program: Path, runs: Runs) -> None:
    with BatchSession(program, runs) as session:
        session.write("tilegrad_in", np.arange(200, dtype=np.uint32))
        session.transact({}, "tilegrad_double", {})
        assert session.read("tilegrad_counter", np.uint32, ()) == 0
        for name, size in [("in", 200), ("out", 200), ("far", 3000), ("counter", 1), ("in", 200)]:
            session.read(f"tilegrad_{name}", np.uint32, (size,))
        assert runs.count == 2
        assert session.read("tilegrad_out", np.uint32, (200,))[7] == 14
        session.write("tilegrad_in", np.full(200, 9, np.uint32))
        assert session.read("tilegrad_in", np.uint32, (200,))[7] == 9
        assert runs.count == 3


def test_wrong_names_and_sizes_are_refused_at_once(program: Path, runs: Runs) -> None:
    with BatchSession(program, runs) as session:
        with pytest.raises(RunError, match="no symbol 'tilegrad_counte'; did you mean 'tilegrad_counter'"):
            session.write("tilegrad_counte", np.zeros(1, np.uint32))
        with pytest.raises(RunError, match="has 4 bytes"):
            session.transact({}, None, {"tilegrad_counter": (np.uint32, (2,))})
        with pytest.raises(RunError, match="no entry point"):
            session.call("tilegrad_cuont")
    with pytest.raises(RunError, match="over"):
        session.write("tilegrad_counter", np.zeros(1, np.uint32))
    assert runs.count == 0


def test_data_beyond_l2_goes_to_the_weight_memory(program: Path, runs: Runs, tmp_path: Path) -> None:
    image_end = 0x1C200000
    generator = np.random.default_rng(5)
    data = generator.integers(0, 256, 800, np.uint8).tobytes()
    with BatchSession(program, runs) as session:
        addresses = session._addresses
    operations = [
        Write(addresses["tilegrad_in"], data),
        Call(session._entry_points["tilegrad_double"], 1),
        Show(addresses["tilegrad_out"], 800),
    ]
    for free in (addresses["tilegrad_bss_end"], image_end - 100):
        patched = tmp_path / f"{free:x}"
        patched.write_bytes(with_script(program.read_bytes(), operations, addresses["tilegrad_script"], free))
        (shown,) = parse_output(runs(patched)).shown
        assert np.array_equal(np.frombuffer(shown, np.uint32), 2 * np.frombuffer(data, np.uint32))
    with pytest.raises(RunError, match="weight memory"):
        huge = Write(addresses["tilegrad_in"], generator.integers(0, 256, 9 << 20, np.uint8).tobytes())
        with_script(program.read_bytes(), [huge], addresses["tilegrad_script"], image_end)


def test_what_a_program_prints_is_checked() -> None:
    good = "hello\n@call 0000000000000010\n@show 00000003\n@:0102ff\n@end\nbye\n"
    results = parse_output(good)
    assert (results.cycles, results.shown, results.output) == ((16,), (b"\x01\x02\xff",), "hello\nbye")
    with pytest.raises(RunError, match=r"(?s)did not come to its end; 1 calls were done.*hello"):
        parse_output(good.replace("@end\n", ""))
    with pytest.raises(RunError, match="fewer bytes"):
        parse_output(good.replace("@:0102ff\n", ""))
    with pytest.raises(RunError, match="damaged line"):
        parse_output(good.replace("0102ff", "0102fx"))


def trained(target: Target, model: str, steps: int) -> tg.Run:
    module, inputs = build_model(model, seed=2)
    module.train()
    x, y = synthetic_data(model, 2, seed=3)
    build = tg.compile(module, inputs, tg.losses.CrossEntropy(), tg.optim.Adam(lr=1e-3), target=target)
    return build.run([(x[:1], y[:1]), (x[1:], y[1:])], steps)


#: Stands for GVSoC: takes its arguments and runs the file on the built-in simulator, prints, and ends as the program.
FAKE = """#!{python}
import sys
sys.path.insert(0, {source!r})
from pathlib import Path
from tilegrad.simulator import Simulator
options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--"))
assert options["target"] == "siracusa" and sys.argv[-1] == "run" and Path(options["work-dir"]).is_dir()
with Simulator(Path(options["binary"])) as machine:
    result = machine.run()
print("a warning of the simulator\\n" + result.output, end="")
sys.exit(result.exit_code)
"""


@pytest.fixture
def gvsoc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "install" / "bin" / "gvsoc"
    program.parent.mkdir(parents=True)
    source = str(Path(batch_session.__file__).parents[3])
    program.write_text(FAKE.format(python=sys.executable, source=source))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("GVSOC_HOME", str(tmp_path / "install"))
    return program


def test_training_through_gvsoc_s_command_line_has_the_bits_of_a_session(gvsoc: Path) -> None:
    target = TARGET.with_runner("gvsoc")
    assert not target.simulated and target.with_runner("sim") == TARGET
    batch, session = trained(target, "mlp", 2), trained(TARGET, "mlp", 2)
    assert same_bits(batch.losses, session.losses)
    for name in session.gradients:
        assert same_bits(batch.gradients[name], session.gradients[name]), name
    for name in session.parameters:
        assert same_bits(batch.parameters[name], session.parameters[name]), name
    assert (batch.train_cycles or 0) > 0 and (batch.opt_cycles or 0) > 0


def test_gvsoc_is_found_on_the_path(gvsoc: Path, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GVSOC_HOME")
    monkeypatch.setenv("PATH", str(gvsoc.parent))
    with _program(program).start() as session:
        session.call("tilegrad_count")
        assert session.read("tilegrad_counter", np.uint32, ()) == 1


def test_a_missing_gvsoc_says_how_to_point_at_one(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GVSOC_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match="GVSoC was not found: set GVSOC_HOME"):
        _program(program).start()
    monkeypatch.setenv("GVSOC_HOME", str(tmp_path))
    with pytest.raises(ToolchainError, match="has no bin/gvsoc"):
        _program(program).start()


def test_a_gvsoc_that_fails_is_reported(gvsoc: Path, program: Path) -> None:
    gvsoc.write_text("#!/bin/sh\necho no such target >&2\nexit 3\n")
    with _program(program).start() as session, pytest.raises(RunError, match=r"(?s)exit status 3:.*no such target"):
        session.call("tilegrad_count")


def test_an_unknown_runner_is_refused() -> None:
    with pytest.raises(UserError, match="no runner 'board': its runners are sim, gvsoc"):
        TARGET.with_runner("board")
    with pytest.raises(UserError, match="one way only"):
        get_target("host").with_runner("sim")


def _program(executable: Path) -> tg.targets.Program:
    from tilegrad.targets.siracusa.target import SiracusaProgram

    return SiracusaProgram(executable=executable, compiler="", cores=8, runner="gvsoc")
