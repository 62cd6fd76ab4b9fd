"""Simulated cycles against figures taken on the platform model: within 5 %, with either compiler."""

from __future__ import annotations

import numpy as np
import pytest
from simulator.cross import compilers, program

from tilegrad.simulator import Simulator

KERNELS = (
    *("dot", "dot4", "stream", "pairs", "sparse", "divide", "banks", "one_bank", "l2", "weights", "matmul"),
    *("dma 256", "dma 4096", "dma 65536", "2d in", "2d out"),
)
CORES = (1, 2, 4, 8)
TOLERANCE = 0.05

PUBLISHED = {
    ("dot", 1): 8243,
    ("dot", 8): (8204 + 8225) / 2,
    ("dot4", 1): 4396,
    ("dot4", 8): (4374 + 4388) / 2,
    ("stream", 1): 3454,
    ("stream", 2): 3093,
    ("stream", 4): 2900,
    ("stream", 8): 5421,
    ("pairs", 1): 5953,
    ("pairs", 2): 5821,
    ("pairs", 4): 5811,
    ("pairs", 8): 5813,
    ("sparse", 1): 4595,
    ("sparse", 2): 4510,
    ("sparse", 4): 4513,
    ("sparse", 8): 5644,
    ("divide", 1): 7500,
    ("divide", 8): 57400,
    ("banks", 8): 3100,
    ("one_bank", 8): 16400,
    ("l2", 1): 2048 * 15.5,
    ("weights", 1): 2048 * 9,
    ("matmul", 8): 92200,
}
PUBLISHED_DMA = {"dma 256": 56, "dma 4096": 536, "dma 65536": 8216, "2d in": 2073, "2d out": 2328}
PUBLISHED_L3 = {"out": 5316, "in": 3050}


def elapsed(cc: str, kernel: str) -> np.ndarray:
    """Cycles by round (1, 2, 4, 8 cores) and core."""
    with Simulator(program("calibration", cc)) as machine:
        machine.write("kernel", np.uint32(KERNELS.index(kernel)))
        machine.run(10_000_000)
        return machine.read("elapsed", "<u4", (4, 8))


@pytest.mark.parametrize("cc", compilers())
@pytest.mark.parametrize("kernel", dict.fromkeys(name for name, _ in PUBLISHED))
def test_loops_take_the_published_cycles(cc: str, kernel: str) -> None:
    measured = elapsed(cc, kernel)
    for index, cores in enumerate(CORES):
        if (kernel, cores) in PUBLISHED:
            assert measured[index, :cores].mean() == pytest.approx(PUBLISHED[kernel, cores], rel=TOLERANCE), cores


@pytest.mark.parametrize("cc", compilers())
@pytest.mark.parametrize("kernel", PUBLISHED_DMA)
def test_transfers_take_the_published_cycles(cc: str, kernel: str) -> None:
    # The program polls, every six cycles or so; the first round finds the caches cold.
    warm = elapsed(cc, kernel)[1:, 0]
    assert warm.mean() == pytest.approx(PUBLISHED_DMA[kernel], rel=TOLERANCE)


@pytest.mark.parametrize("cc", compilers())
@pytest.mark.parametrize("direction", PUBLISHED_L3)
def test_l3_transfers_take_the_published_cycles(cc: str, direction: str) -> None:
    with Simulator(program("calibration", cc)) as machine:
        machine.write("kernel", np.uint32(100 + (direction == "in")))
        machine.run(10_000_000)
        measured = int(machine.read("fabric_elapsed", "<u4", ()))
    assert measured == pytest.approx(PUBLISHED_L3[direction], rel=TOLERANCE)


def test_the_same_program_takes_the_same_cycles() -> None:
    first, second = elapsed("zig", "matmul"), elapsed("zig", "matmul")
    assert (first == second).all()
