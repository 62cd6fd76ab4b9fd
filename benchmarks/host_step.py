"""One training step on the host against PyTorch eager, both on one thread, in alternating pairs.

    python benchmarks/host_step.py [--model speechnet] [--pairs 15] [--steps 40] [--cc zig]

Prints the milliseconds per step of both (median over the pairs) and the ratio; above 1 TileGrad is faster. The step is
forward, backward and SGD on one window; PyTorch's includes zero_grad.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

import tilegrad as tg
from tilegrad.models import build_model, synthetic_data


def pytorch_step_ms(module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int) -> float:
    """Milliseconds of one eager step."""
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    begin = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    return (time.perf_counter() - begin) / steps * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="speechnet")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--cc", default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    module, inputs = build_model(options.model)
    module.train()
    x, y = synthetic_data(options.model, inputs[0].shape[0])
    build = tg.compile(module, inputs, tg.losses.CrossEntropy(), tg.optim.SGD(lr=1e-3), cc=options.cc)
    batch = [(np.asarray(x), np.asarray(y))]
    tensors = torch.as_tensor(x), torch.as_tensor(y)
    build.run(batch, 3)
    pytorch_step_ms(module, *tensors, 3)
    ours, theirs = [], []
    for _ in range(options.pairs):
        ours.append(build.run(batch, options.steps).seconds / options.steps * 1e3)
        theirs.append(pytorch_step_ms(module, *tensors, options.steps))
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    print(f"{options.model}, batch {inputs[0].shape[0]}, {build.program.compiler}, one thread")
    print(f"TileGrad  {statistics.median(ours):8.3f} ms per step (min {min(ours):.3f})")
    print(f"PyTorch   {statistics.median(theirs):8.3f} ms per step (min {min(theirs):.3f})")
    print(f"ratio     {statistics.median(ratios):8.2f} (min {min(ratios):.2f}, max {max(ratios):.2f})")


if __name__ == "__main__":
    main()
