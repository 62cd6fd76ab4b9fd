"""The same bits everywhere: compilers, optimisation levels, users' own flags, plain and optimised C, fused updates."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.compiled import same_bits
from torch import nn

import tilegrad as tg

ROOT = Path(__file__).resolve().parents[2]
COMPILERS = ["zig", *(cc for cc in ("gcc", "clang") if shutil.which(cc))]


class Net(nn.Module):
    """Padding, strides, batch statistics, overlapping maxima, a transcendental activation, dropout, a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, (1, 5), padding=(0, 2), groups=2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.head = nn.Linear(8 * 4 * 5, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = self.pool(x + nn.functional.gelu(self.second(x)))
        return self.head(nn.functional.dropout(x.flatten(1), 0.25, self.training))


def network() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(3)
    return Net().train(), torch.randn(2, 2, 15, 18)


def batches(count: int = 3) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(5)
    return [(rng.normal(size=(2, 2, 15, 18)).astype(np.float32), rng.integers(0, 6, 2)) for _ in range(count)]


def compiled(**options: Any) -> tg.Build:
    module, x = network()
    options.setdefault("optimizer", tg.optim.AdamW(lr=1e-2))
    return tg.compile(module, (x,), tg.losses.CrossEntropy(), **options)


def assert_same(a: tg.Run, b: tg.Run, *, gradients: bool = True) -> None:
    assert same_bits(a.losses, b.losses)
    for name in a.parameters:
        assert same_bits(a.parameters[name], b.parameters[name]), name
    for name in a.buffers:
        assert same_bits(a.buffers[name], b.buffers[name]), name
    if gradients:
        for name in a.gradients:
            assert same_bits(a.gradients[name], b.gradients[name]), name


@pytest.fixture(scope="module")
def oracle() -> tg.Run:
    """The plainest C at -O0: one loop nest per operation, nothing fused, nothing blocked."""
    return compiled(optimize=False, cc=COMPILERS[-1], optimization="-O0").run(batches(), 3)


@pytest.mark.parametrize("cc", COMPILERS)
@pytest.mark.parametrize("optimization", ["-O0", "-O3"])
def test_compilers_and_levels(oracle: tg.Run, cc: str, optimization: str) -> None:
    assert_same(compiled(cc=cc, optimization=optimization).run(batches(), 3), oracle)


@pytest.mark.parametrize("cc", COMPILERS)
@pytest.mark.parametrize("flags", [("-O2",), ("-O1", "-ffp-contract=on"), ("-Os", "-fmath-errno")])
def test_users_own_flags(oracle: tg.Run, cc: str, flags: tuple[str, ...]) -> None:
    assert_same(compiled(cc=cc, flags=flags).run(batches(), 3), oracle)


@pytest.mark.parametrize("cc", COMPILERS)
def test_the_source_guards_itself_against_contraction(oracle: tg.Run, cc: str) -> None:
    build = compiled(cc=cc, flags=("-O2", "-ffp-contract=fast"))
    if cc == "gcc":
        assert_same(build.run(batches(), 3), oracle)
    else:  # told this, Clang disregards every pragma: the program notices and refuses to train
        with pytest.raises(tg.RunError, match="ffp-contract=off"):
            build.run(batches(), 3)


@pytest.mark.parametrize("cc", [cc for cc in COMPILERS if cc != "zig"])
def test_fast_math_is_refused(cc: str) -> None:
    with pytest.raises(tg.ToolchainError, match="fast-math"):
        compiled(cc=cc, flags=("-ffast-math",)).run(batches(), 1)


def test_fused_update_equals_the_build_that_hands_gradients_out() -> None:
    for optimizer in (tg.optim.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3), tg.optim.Adam(lr=1e-2)):
        kept = compiled(optimizer=optimizer).run(batches(), 4)
        fused_build = compiled(optimizer=optimizer, fuse_update=True)
        fused = fused_build.run(batches(), 4)
        assert_same(kept, fused, gradients=False)
        with pytest.raises(tg.UserError, match="fuse"):
            _ = fused.gradients


def test_a_run_that_continues_equals_one_that_was_not_interrupted() -> None:
    build = compiled(accumulate=2)
    whole = build.run(batches(), 5, lr=[0.1, 0.02, 0.03, 0.01, 0.05])
    first = build.run(batches(), 2, lr=[0.1, 0.02])
    second = build.run(batches(), 3, lr=[0.03, 0.01, 0.05], state=first.state)
    assert same_bits(np.concatenate([first.losses, second.losses]), whole.losses)
    for name in whole.parameters:
        assert same_bits(second.parameters[name], whole.parameters[name]), name
    for name in whole.buffers:
        assert same_bits(second.buffers[name], whole.buffers[name]), name


_COMPILE = """
import sys
import tilegrad as tg
from tests.end_to_end.test_same_bits import network
module, x = network()
tg.compile(module, (x,), tg.losses.CrossEntropy(), tg.optim.Adam(), out=sys.argv[1])
"""


def test_hash_seeds_do_not_change_a_byte(tmp_path: Path) -> None:
    contents = []
    for seed in ("1", "2"):
        folder = tmp_path / seed / "project"
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        subprocess.run([sys.executable, "-c", _COMPILE, str(folder)], check=True, env=environment, cwd=ROOT)
        contents.append({str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()})
    assert contents[0].keys() == contents[1].keys()
    assert contents[0] == contents[1]
