"""The generated folder: names from hostile models, warnings, C++, CMake, libraries, and how it reaches the disk."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.compiled import Project, same_bits, write_graph

import tilegrad as tg
import tilegrad.codegen.project as project_module
from tilegrad.codegen.project import comment_text
from tilegrad.errors import UserError
from tilegrad.interpreter.execute import run
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import Domain, Pieces, constant, elementwise, lookup, reduce_max, reduce_sum, reshape
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.models.speechnet import speechnet
from tilegrad.targets.host.toolchain import find_compiler

HOSTILE = [
    "*/ int evil; /*", "*\\ int evil;", "/\\*", "//\\", "??/", "*??/", "???/", '"; system("x"); "', "new\nline\r",
    "ä", "日本", "", "_", "9", "int", "first", "last", "linux", "unix", "asm", "size_t", "int32_t", "INT32_MIN", "NULL",
    "memcpy", "true", "k", "i0", "t1", "v1", "row0", "acc0_0", "tg_max", "share1", "tilegrad_arena", "tilegrad_init",
    "train_000", "x" * 300, "Name", "name", "a.b", "a-b", "a b", "%s%n", "\x00\x1b[31m", "static_assert",
    "thread_local", "typeof", "nullptr", "main", "errno", "I", "_Complex_I", "__builtin_nanf", "const_value_t",
]  # fmt: skip
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]
#: A project, what it computes, and from what.
Generated = tuple[Project, list[np.ndarray], dict[Value, np.ndarray]]
COMPILERS = ["zig", *(cc for cc in ("gcc", "clang") if shutil.which(cc))]


def everything() -> tuple[Graph, list[Value], dict[Value, np.ndarray]]:
    """All forms of loops, all types and combiners, tables, scalars, empty tensors, weights with special numbers."""
    graph = Graph("everything")
    rng = np.random.default_rng(0)
    x = Value("x", (3, 4, 40), DType.F32, Kind.INPUT)
    n = Value("n", (5,), DType.I64, Kind.INPUT)
    w = Value("w", (8, 3), DType.F32, Kind.PARAMETER, np.linspace(-1, 1, 24, dtype=np.float32).reshape(8, 3))
    empty = Value("e", (0, 4), DType.F32, Kind.INPUT)
    numbers = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45, 3.4028235e38, -1.0], np.float32)
    special = Value("special", (8,), DType.F32, Kind.PARAMETER, numbers)
    zeros = Value("zeros", (4,), DType.F32, Kind.PARAMETER, np.full(4, -0.0, np.float32))
    with graph.building():
        d = Domain()
        b, k, i = d.parallel(3, 8, 40)
        c, r = d.reduction(4, 3)
        rows = d.sum(x[b, c, i + r - 1] * w[k, r], (b, k, i))
        d = Domain()
        b, c = d.parallel(3, 4)
        (i,) = d.reduction(40)
        chains = d.sum(x[b, c, i], (b, c))
        d = Domain()
        b, c = d.parallel(3, 4)
        (i,) = d.reduction(42)
        largest, position = d.argmax(x[b, c, i - 1], (b, c))
        pieces = Pieces((50,), init=-0.0)
        d = Domain()
        (j,) = d.reduction(5)
        pieces.sum(d, x[0, 0, j], (lookup(n, j),), scatter=True)
        scattered = pieces.finish()
        outputs = [
            rows, chains, largest, position, scattered, special * 1.0, zeros * 1.0,
            elementwise(lambda v: sc.exp(v) > 0.5, chains),
            elementwise(lambda v: sc.cast(v, DType.F32) * 0.5, n),
            elementwise(lambda a, b: a + b, x, constant(rng.normal(size=(4, 40)).astype(np.float32))),
            reduce_sum(x), reduce_max(n), empty * 2.0, reduce_sum(empty), reduce_sum(empty, 0),
            reshape(x, (12, 40)) + 1.0,
        ]  # fmt: skip
    feeds = {x: rng.normal(size=x.shape).astype(np.float32), n: np.array([0, 49, 3, -1, 50]), empty: np.zeros((0, 4))}
    return graph, outputs, feeds


@pytest.fixture(scope="module")
def generated(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Generated]:
    graph, outputs, feeds = everything()
    env = run(graph, feeds)
    project = write_graph(graph, outputs, tmp_path_factory.mktemp("everything") / "project")
    expected = [env[output].astype(output.dtype.numpy) for output in outputs]
    yield project, expected, feeds


def compile_sources(folder: Path, compiler: list[str], options: list[str], scratch: Path) -> None:
    """Compile every source, optimised, so that warnings that need analysis come too."""
    for source in sorted(folder.glob("src/*.c")):
        command = [*compiler, *options, "-O2", "-Iinclude", "-Isrc", "-c", str(source), "-o", str(scratch / "object.o")]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:3000]


@pytest.mark.parametrize("cc", COMPILERS)
def test_all_forms_compile_and_agree(cc: str, generated: Generated) -> None:
    project, expected, feeds = generated
    for found, wanted in zip(project.run(feeds, cc=cc), expected, strict=True):
        assert found.shape == wanted.shape
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(found, wanted)
    assert same_bits(project.run(feeds, cc=cc)[5], np.array(expected[5]))
    assert np.signbit(project.run(feeds, cc=cc)[6]).all()


@pytest.mark.parametrize("cc", COMPILERS)
@pytest.mark.parametrize("dialect", ["-std=c11", "-std=gnu17"])
def test_no_warnings(cc: str, dialect: str, generated: Generated, tmp_path: Path) -> None:
    compile_sources(
        generated[0].folder, list(find_compiler(cc).command), [*WARNINGS, dialect, "-Wshadow", "-Wundef"], tmp_path
    )


@pytest.mark.parametrize("cc", COMPILERS)
def test_hostile_names(cc: str, tmp_path: Path) -> None:
    """Whatever a model calls its tensors and nodes, the C compiles without a warning and computes the same."""
    graph = Graph("hostile")
    feeds: dict[Value, np.ndarray] = {}
    outputs = []
    for k, name in enumerate(HOSTILE):
        x, w = Value(name, (2, 8), DType.F32, Kind.INPUT), Value(name, (8,), DType.F32, Kind.PARAMETER)
        feeds |= {x: np.full((2, 8), k, np.float32), w: np.arange(8, dtype=np.float32)}
        with graph.building(), graph.scope(name):
            d = Domain()
            (n,) = d.parallel(2)
            (i,) = d.reduction(10)
            inner = elementwise(lambda a, b: a + b, x, w, name=name)
            outputs.append(d.sum(inner[n, i - 1] * w[i - 1], (n,), name))
    env = run(graph, feeds)
    project = write_graph(graph, outputs, tmp_path / "project")
    compile_sources(project.folder, list(find_compiler(cc).command), WARNINGS, tmp_path)
    compile_sources(project.folder, list(find_compiler(cc).command), [*WARNINGS, "-std=gnu17"], tmp_path)
    if cc == COMPILERS[-1]:
        for found, output in zip(project.run(feeds, cc=cc), outputs, strict=True):
            np.testing.assert_allclose(found, env[output], rtol=1e-6)


@pytest.mark.parametrize("text", [*HOSTILE, "*" * 5 + "/" * 5, "/" * 4 + "*" * 4, "\\" * 3 + "/", "?" * 9 + "/"])
def test_comments_stay_comments(text: str) -> None:
    safe = comment_text(text)
    assert "*/" not in safe and "/*" not in safe and "??" not in safe and "\\" not in safe
    assert safe.isascii() and safe.isprintable()


def test_the_header_is_c_and_cplusplus(tmp_path: Path, generated: Generated) -> None:
    include = generated[0].folder / "include"
    for suffix, compiler, options in (
        (".c", list(find_compiler("zig").command), WARNINGS),
        (".cpp", [*find_compiler("zig").command[:1], "c++"], ["-std=c++14", *WARNINGS[1:]]),
        (".cpp", ["g++"], ["-std=c++11", *WARNINGS[1:]]),
    ):
        if shutil.which(compiler[0]) is None:
            continue
        source = tmp_path / f"user{suffix}"
        source.write_text(
            '#include "tilegrad_model.h"\n#include "tilegrad_model.h"\nint main(void) { tilegrad_init(); return 0; }\n'
        )
        done = subprocess.run(
            [*compiler, *options, f"-I{include}", "-c", str(source), "-o", str(tmp_path / "object.o")],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def test_nothing_but_freestanding_c(generated: Generated) -> None:
    """No allocation, no library beyond three headers, no recursion, no variable-length arrays."""
    folder = generated[0].folder
    files = [*folder.glob("src/*"), *folder.glob("include/*")]
    assert len(files) >= 5
    for path in files:
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        includes = set(re.findall(r"#\s*include\s*<([^>]+)>", text))
        assert includes <= {"stdint.h", "stddef.h", "string.h"}, path.name
        called = set(re.findall(r"\b([A-Za-z_]\w*)\s*\(", text))
        assert not called & {
            "malloc",
            "calloc",
            "realloc",
            "free",
            "alloca",
            "printf",
            "exit",
            "abort",
            "fmaf",
            "sqrtf",
            "expf",
        }
        libraries = {name for name in called if name.startswith(("mem", "str"))}
        assert libraries <= {"memcpy", "memset"}, path.name
    assert path.read_text().isascii()


def test_kernels_are_called_as_they_are_written(generated: Generated) -> None:
    """GCC specialises them for their addresses otherwise, and then drops calls."""
    for path in generated[0].folder.glob("src/tilegrad_train.c"):
        functions = re.findall(r"^(?:static|void).*$", path.read_text(), re.MULTILINE)
        assert len(functions) > 10
        assert all(line.startswith(("static TG_KERNEL void ", "void tilegrad_")) for line in functions)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_no_call_is_dropped() -> None:
    """A long chain of kernels over one arena at -O2, where GCC 12 has dropped some that it had specialised."""
    x = torch.linspace(-1, 1, 14 * 700).reshape(1, 1, 14, 700)
    runs = []
    for cc, level in (("gcc", "-O2"), ("zig", "-O1")):
        torch.manual_seed(0)
        module = speechnet(pool="max").train()
        build = tg.compile(module, (x,), tg.losses.CrossEntropy(), tg.optim.SGD(lr=0.1), cc=cc, optimization=level)
        runs.append(build.run([(x.numpy(), np.array([1]))], 2))
    assert same_bits(runs[0].losses, runs[1].losses)
    for name, gradient in runs[0].gradients.items():
        assert same_bits(gradient, runs[1].gradients[name]), name


def test_sizes_are_literals(generated: Generated) -> None:
    folder = generated[0].folder
    for path in folder.glob("src/tilegrad_[dt]*.c"):
        for size in re.findall(
            r"^\s*(?:_Alignas\(64\) )?(?:const )?float \w+\[(.+?)\]", path.read_text(), re.MULTILINE
        ):
            assert size.isdigit(), size


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs CMake")
def test_the_folder_builds_with_cmake(tmp_path: Path, generated: Generated) -> None:
    project, _, _ = generated
    compiler = next((shutil.which(cc) for cc in ("gcc", "clang") if shutil.which(cc)), None)
    if compiler is None:
        pytest.skip("needs gcc or clang")
    configure = [
        "cmake",
        "-S",
        str(project.folder),
        "-B",
        str(tmp_path),
        f"-DCMAKE_C_COMPILER={compiler}",
        "-DCMAKE_C_FLAGS=-Werror",
    ]
    for command in (configure, ["cmake", "--build", str(tmp_path)]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "libtilegrad_model.a").exists()


def small(folder: Path) -> Project:
    graph = Graph("small")
    x = Value("x", (4,), DType.F32, Kind.INPUT)
    with graph.building():
        y = x * 2.0
    return write_graph(graph, [y], folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_older_project_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "project"
    small(folder)
    first = contents(folder)
    (folder / "src" / "stale.c").write_text("stale")
    small(folder)
    assert contents(folder) == first
    assert [path.name for path in folder.parent.iterdir()] == ["project"]


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    small(tmp_path / "project")
    assert (tmp_path / "project" / "CMakeLists.txt").exists()


def test_other_peoples_folders_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a generated project"):
        small(folder)
    assert contents(tmp_path) == {"home/thesis.tex": b"years of work"}


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "project"):
        with pytest.raises(UserError, match="cannot write the C project"):
            small(folder)
    assert contents(tmp_path) == {"file": b"x"}


def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        (tmp_path / "probe").mkdir()
    except OSError:
        with pytest.raises(UserError, match="Permission denied"):
            small(tmp_path / "project")
        assert not list(tmp_path.iterdir())
    else:
        pytest.skip("this user may write anywhere")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, count = Path.write_text, 0

    def write_text(self: Path, *arguments: str, **options: str) -> int:
        nonlocal count
        count += 1
        if count == 3:
            raise error
        return original(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.raises((UserError, KeyboardInterrupt)):
        small(tmp_path / "project")
    assert count == 3
    assert not list(tmp_path.iterdir())


def test_a_failed_replacement_keeps_the_older_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "project"
    small(folder)
    before = contents(folder)
    original = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if Path(target) == folder and self.name != "project":
            raise OSError(5, "Input/output error")
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(UserError, match="Input/output error"):
        small(folder)
    monkeypatch.undo()
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["project"]


def test_large_constants_are_written_in_time() -> None:
    """A million weights are formatted a whole array at a time."""
    array = np.random.default_rng(0).normal(size=(1000, 1000)).astype(np.float32)
    text = project_module._initialiser(Value("w", array.shape, DType.F32, Kind.CONSTANT, array))
    numbers = np.array(text.replace("f", "").strip(" ={}\n,").split(","), np.float64).astype(np.float32)
    assert np.array_equal(numbers, array.reshape(-1))
