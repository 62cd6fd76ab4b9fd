from __future__ import annotations

import platform
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from tests.targets.conftest import address_sanitizers, alive, installed_compilers

from tilegrad.errors import InternalError, RunError
from tilegrad.targets import get_target
from tilegrad.targets.host.session import HostSession
from tilegrad.targets.host.toolchain import SLOW_FMA_NOTICE, ZIG_SANITIZE_NOTICE

HOST = get_target("host")
FOUR = (np.float32, (4,))
X = np.array([1.0, -2.5, 3.0, 0.0], np.float32)


@pytest.fixture
def session(project: Path) -> HostSession:
    opened = HOST.build(project).start()
    assert isinstance(opened, HostSession)
    return opened


@pytest.mark.parametrize("cc", installed_compilers())
def test_write_call_read(project: Path, cc: str) -> None:
    with HOST.build(project, cc=cc).start() as session:
        assert session.symbols == {"x": 16, "y": 16, "big": 800000, "index": 4}
        assert session.entries[0] == "scale" and len(session.entries) == 13
        session.write("x", X)
        assert session.call("scale") is None
        assert session.read("y", np.float32, (4,)).tolist() == [2.0, -5.0, 6.0, 0.0]
        assert session.read("y", np.float32, (2, 2)).tolist() == [[2.0, -5.0], [6.0, 0.0]]
        assert session.cycles is None


def test_one_transaction_writes_calls_and_reads(session: HostSession) -> None:
    with session:
        done = session.transact({"x": X, "index": np.int32(3)}, "scale", {"y": FOUR, "index": (np.int32, ())})
        assert done.values["y"].tolist() == (2 * X).tolist()
        assert done.values["index"] == 3
        assert list(done.values) == ["y", "index"]
        assert done.cycles is None and session.seconds == done.seconds > 0
        assert session.transact({}, None, {"x": FOUR}).seconds == 0


def test_a_call_can_be_repeated(session: HostSession) -> None:
    with session:
        session.call("overflow", repeat=5)
        assert session.read("index", np.int32, ()) == 5


def test_arrays_of_any_layout_and_byte_order_arrive_in_order(session: HostSession) -> None:
    with session:
        for array in (np.stack([X, X], axis=1)[:, 0], X.astype(">f4"), X.reshape(2, 2).T.copy().T, X[::-1][::-1]):
            session.write("x", array)
            assert session.read("x", np.float32, array.shape).tolist() == array.tolist()


def test_arrays_larger_than_a_pipe_pass_both_ways(session: HostSession) -> None:
    big = np.arange(200000, dtype=np.float32)
    with session:
        for _ in range(3):
            back = session.transact({"big": big}, "reverse", {"big": (np.float32, (400, 500))}).values["big"]
            assert np.array_equal(back.ravel(), big[::-1])


def test_many_reads_of_large_symbols_do_not_block_either_side(session: HostSession) -> None:
    big = np.arange(200000, dtype=np.float32)
    with session:
        done = session.transact({"big": big, "x": X}, "scale", {"big": (np.float32, (200000,)), "y": FOUR})
        assert np.array_equal(done.values["big"], big) and done.values["y"].tolist() == (2 * X).tolist()


def test_wrong_names_and_sizes_are_explained_and_change_nothing(session: HostSession) -> None:
    with session:
        session.write("x", X)
        with pytest.raises(RunError, match="no symbol 'z'; it has 'x', 'y', 'big', 'index'"):
            session.write("z", X)
        with pytest.raises(RunError, match="symbol 'x' has 16 bytes, but the array given or asked for has 32"):
            session.transact({"y": X, "x": X.astype(np.float64)}, "scale", {})
        with pytest.raises(RunError, match="symbol 'y' has 16 bytes"):
            session.read("y", np.float32, (3,))
        with pytest.raises(RunError, match=r"no entry point 'scal'; did you mean 'scale'\?"):
            session.call("scal")
        with pytest.raises(RunError, match="dtype object: give it numbers"):
            session.write("x", np.array([None, None]))
        done = session.transact({}, None, {"x": FOUR, "y": FOUR})
        assert done.values["x"].tolist() == X.tolist() and not done.values["y"].any()


@pytest.mark.parametrize(
    ("symbol", "size", "entry", "message"),
    [
        (99, 16, "scale", "no symbol number 99"),
        (0, 8, "scale", "symbol x has 16 bytes, not 8"),
        (0, 16, 99, "entry number 99"),
    ],
)
def test_the_driver_itself_refuses_a_mistake_and_goes_on(
    session: HostSession, symbol: int, size: int, entry: int | str, message: str
) -> None:
    with session:
        numbers, sizes = dict(session._symbol_numbers), dict(session.symbols)
        session._symbol_numbers = {"x": symbol}
        session.symbols = {"x": size}
        session._entry_numbers = {"scale": 0 if entry == "scale" else int(entry)}
        with pytest.raises(InternalError, match=message):
            session.transact({"x": np.ones(size // 4, np.float32)}, "scale", {})
        session._symbol_numbers, session.symbols = numbers, sizes
        session._entry_numbers = {"scale": 0}
        assert session.transact({"x": X}, "scale", {"y": FOUR}).values["y"].tolist() == (2 * X).tolist()


def test_a_crash_names_the_signal_and_the_entry(session: HostSession) -> None:
    with pytest.raises(RunError, match=r"was ended by SIG(SEGV|BUS|TRAP|ILL) .* while 'crash' ran"):
        session.call("crash")
    with pytest.raises(RunError, match="is over: start the program again"):
        session.call("scale")
    session.close()


def test_a_crash_that_nobody_waited_for_is_reported(session: HostSession) -> None:
    session._process.terminate()
    with pytest.raises(RunError, match="SIGTERM"):
        session.close()


def test_leaving_the_block_with_an_error_hides_nothing(session: HostSession) -> None:
    with pytest.raises(ZeroDivisionError), session:
        raise ZeroDivisionError
    assert not alive(session._process.pid)


def test_the_program_ends_with_the_session(session: HostSession) -> None:
    session.close()
    session.close()
    assert session._process.returncode == 0


def test_ctrl_c_ends_the_program(session: HostSession) -> None:
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    session.write("index", np.int32(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            session.call("spin")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert session._process.returncode == -signal.SIGKILL


def test_what_a_kernel_prints_does_not_disturb(session: HostSession) -> None:
    with session:
        session.call("print")
        assert session.transact({"x": X}, "scale", {"y": FOUR}).values["y"].tolist() == (2 * X).tolist()


def test_sessions_are_independent(project: Path) -> None:
    program = HOST.build(project)

    def train(seed: int) -> bool:
        with program.start() as session:
            for step in range(50):
                x = np.full(4, seed * 1000 + step, np.float32)
                if session.transact({"x": x}, "scale", {"y": FOUR}).values["y"].tolist() != (2 * x).tolist():
                    return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(train, range(4)))


def test_a_file_that_is_no_program_is_explained(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot be started: .*No such file"):
        HostSession(tmp_path / "nothing")
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho a program that is none of ours, and says so\n")
    script.chmod(0o755)
    with pytest.raises(RunError, match="not a program built for this version"):
        HostSession(script)
    script.write_text("#!/bin/sh\necho something is missing >&2\nexit 4\n")
    with pytest.raises(RunError, match=r"(?s)ended with exit status 4 as it started.*something is missing"):
        HostSession(script)


SUBNORMAL = np.full(4, 3e-39, np.float32)


def test_a_kernel_that_flushes_subnormals_does_not_spoil_the_next_call(session: HostSession) -> None:
    with session:
        session.write("x", SUBNORMAL)
        session.call("flush_to_zero")
        session.call("halve")
        assert np.array_equal(session.read("y", np.float32, (4,)), SUBNORMAL * np.float32(0.5))


def test_a_parent_that_flushes_subnormals_changes_no_bit(project: Path) -> None:
    pytest.importorskip("torch")
    script = (
        "import sys, torch, numpy as np; from pathlib import Path\n"
        "from tilegrad.targets import get_target\n"
        "torch.set_num_threads(1); assert torch.set_flush_denormal(True)\n"
        "with get_target('host').build(Path(sys.argv[1])).start() as session:\n"
        "    x = np.full(4, 0x200000, np.uint32)\n"
        "    y = session.transact({'x': x}, 'halve', {'y': (np.uint32, (4,))}).values['y']\n"
        "assert y.tolist() == [0x100000] * 4, y\n"
    )
    if platform.machine().lower() not in ("x86_64", "amd64", "aarch64", "arm64"):
        pytest.skip("PyTorch cannot flush subnormals here")
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", script, str(project)], check=True, cwd=root / "src")


def fused_bits(project: Path, cc: str, optimization: str, flags: tuple[str, ...] = ()) -> list[int]:
    """One step of a sum in which every rounding shows."""
    random = np.random.default_rng(0)
    values = np.exp(random.uniform(-3, 3, (50, 4))).astype(np.float32)
    with HOST.build(project, cc=cc, optimization=optimization, flags=flags).start() as session:
        for row in values:
            session.transact({"x": row}, "fused", {})
        return [int(bits) for bits in session.read("y", np.uint32, (4,))]


def exact_fused_bits() -> list[int]:
    random = np.random.default_rng(0)
    values = np.exp(random.uniform(-3, 3, (50, 4))).astype(np.float32)
    sums = [np.float32(0)] * 4
    for row in values:
        sums = [_rounded(Fraction(float(v)) ** 2 + Fraction(float(s))) for v, s in zip(row, sums, strict=True)]
    return [int(value.view(np.uint32)) for value in sums]


def _rounded(exact: Fraction) -> np.float32:
    """The float32 nearest to a positive fraction, ties to even, rounded once."""
    near = np.float32(float(exact))
    candidates = [np.nextafter(near, np.float32(0)), near, np.nextafter(near, np.float32(np.inf))]
    return min(candidates, key=lambda c: (abs(Fraction(float(c)) - exact), int(c.view(np.uint32)) & 1))


@pytest.mark.parametrize("optimization", ["-O0", "-O3"])
@pytest.mark.parametrize("cc", installed_compilers())
def test_every_compiler_fuses_with_one_rounding(project: Path, cc: str, optimization: str) -> None:
    assert fused_bits(project, cc, optimization) == exact_fused_bits()


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="other CPUs always fuse")
@pytest.mark.parametrize("cc", installed_compilers())
def test_without_fma_instructions_the_bits_are_the_same_and_a_notice_says_slow(project: Path, cc: str) -> None:
    flags = ("-mcpu=x86_64",) if cc == "zig" else ("-march=x86-64",)
    assert HOST.build(project, cc=cc, flags=flags).notices == (SLOW_FMA_NOTICE,)
    assert fused_bits(project, cc, "-O3", flags) == exact_fused_bits()


@pytest.mark.parametrize("wrong", ["(a) * (b) + (c)", "(float)((double)(a) * (b) + (c))"])
def test_a_multiply_add_that_rounds_twice_stops_the_program(project: Path, wrong: str) -> None:
    program = HOST.build(project, flags=(f"-D__builtin_fmaf(a, b, c)=({wrong})",))
    with pytest.raises(RunError, match=r"exit status 3 as it started: driver: fmaf .* rounds twice"):
        program.start()


@pytest.mark.parametrize("cc", address_sanitizers())
def test_the_address_sanitizer_reports_a_store_out_of_bounds(project: Path, cc: str) -> None:
    program = HOST.build(project, cc=cc, sanitize=True, optimization="-O1")
    with pytest.raises(RunError, match=r"(?s)while 'store' ran: .*(global-buffer-overflow|out of bounds).*toy\.c"):
        session = program.start()
        session.write("index", np.int32(4))
        session.call("store")
    with program.start() as session:
        assert session.transact({"x": X}, "scale", {"y": FOUR}).values["y"].tolist() == (2 * X).tolist()


UNDEFINED = {
    "overflow": ("signed integer overflow", 2**31 - 1),
    "store": ("index.* out of bounds", 4),
    "shift": ("shift", 33),
    "cast": ("outside the range", 0),
    "divide": ("division by zero", 0),
}


@pytest.mark.parametrize("cc", installed_compilers())
def test_undefined_behaviour_is_reported(project: Path, cc: str) -> None:
    program = HOST.build(project, cc=cc, sanitize=True)
    assert (ZIG_SANITIZE_NOTICE in program.notices) == (cc == "zig")
    for entry, (what, index) in UNDEFINED.items():
        session = program.start()
        session.write("index", np.int32(index))
        session.write("x", np.full(4, 1e20, np.float32))
        with pytest.raises(RunError, match=rf"while '{entry}' ran: .*toy\.c:\d+:\d+: runtime error: .*{what}"):
            session.call(entry)
    with program.start() as session:
        session.write("index", np.int32(3))
        for entry in ("overflow", "divide", "scale"):
            session.call(entry)


def test_every_ubsan_check_that_zig_may_call_is_answered(project: Path) -> None:
    """A handler that were missing would be an undefined symbol when linking."""
    (project / "src" / "many.c").write_text(MANY_CHECKS)
    tables = project / "src" / "tables.c"
    tables.write_text("void many0(void);\n" + tables.read_text().replace('{"scale", scale}', '{"scale", many0}'))
    with HOST.build(project, sanitize=True).start() as session:
        session.call("scale")


MANY_CHECKS = """\
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
static bool flags[4];
static int32_t numbers[4];
void many0(void);
static int32_t __attribute__((noinline)) many(int32_t n, int32_t *volatile p, void (*volatile f)(void), float x)
{
    int32_t local[n + 1];
    memset(local, 0, sizeof local);
    memcpy(numbers, p, sizeof numbers);
    if (f != many0) f();
    if (n > 100) __builtin_unreachable();
    int32_t *aligned = __builtin_assume_aligned(p + n, 4);
    return -n + n * p[n] - n / (n + 1) + (n << 1) + local[n] + flags[n] + (int32_t)x + *aligned
        + __builtin_ctz((unsigned)n + 1u);
}
void many0(void) { volatile int32_t n = 2; numbers[3] = many(n, numbers, many0, (float)n); }
"""
