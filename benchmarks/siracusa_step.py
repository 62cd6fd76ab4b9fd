"""Simulated cycles of one training step on the Siracusa cluster, for several team sizes.

    python benchmarks/siracusa_step.py [--model speechnet] [--cores 1 2 4 8]

Prints the cycles of forward and backward pass and of SGD, and how fast the simulator ran. Cycles are deterministic.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import numpy as np

import tilegrad as tg
from tilegrad.models import build_model, synthetic_data
from tilegrad.targets import get_target


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="speechnet")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parser.parse_args()
    x, y = synthetic_data(options.model, 1)
    for cores in options.cores:
        module, inputs = build_model(options.model)
        module.train()
        target = dataclasses.replace(get_target("siracusa"), cores=cores)
        build = tg.compile(module, inputs, tg.losses.CrossEntropy(), tg.optim.SGD(lr=1e-3), target=target)
        _ = build.program
        begin = time.perf_counter()
        run = build.run([(np.asarray(x), np.asarray(y))], 1)
        seconds = time.perf_counter() - begin
        assert run.train_cycles is not None and run.opt_cycles is not None
        print(
            f"{options.model}, {cores} cores: {run.train_cycles:,} cycles forward and backward,"
            f" {run.opt_cycles:,} SGD; simulated in {seconds:.2f} s"
        )


if __name__ == "__main__":
    main()
