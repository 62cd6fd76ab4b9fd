"""Train a small CNN on scikit-learn's handwritten digits in generated C, beside PyTorch from the same start.

The training step is compiled once; every epoch streams freshly shuffled batches into it. PyTorch trains a copy of the
network on the same batches. The exit code is 0 if TileGrad's test accuracy is at least 95 % and within half a
percentage point of PyTorch's, else 1.

    pip install 'tilegrad[examples]'
    python examples/digits.py
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

import tilegrad as tg
from tilegrad.data import batches

Batch = tuple[NDArray[np.float32], NDArray[np.int64]]
TEST_SAMPLES = 360
REQUIRED_ACCURACY = 0.95
PERMITTED_DIFFERENCE = 0.005


def load() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the 1,797 images, float32 [n, 1, 8, 8] in [0, 1], and their digits, int64 [n], shuffled."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = (digits.images[order, None] / 16).astype(np.float32)
    return images, digits.target[order].astype(np.int64)


def network() -> nn.Sequential:
    """Return a CNN of two convolutional blocks and a linear classifier: 6,138 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def train_torch_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, epoch: Sequence[Batch]) -> float:
    """Train PyTorch's copy on the batches of one epoch and return the mean loss."""
    losses = []
    for x, y in epoch:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def accuracy(
    predict: Callable[[NDArray[np.float32]], NDArray[Any]], x: NDArray[np.float32], y: NDArray[np.int64], batch: int
) -> float:
    """Return the fraction of samples whose largest logit is the right one.

    The compiled network takes batches of one size, so the last one is filled up with repeated samples.
    """
    correct = 0
    for start in range(0, len(y), batch):
        rows = np.arange(start, start + batch)
        logits = predict(x[rows % len(y)])
        correct += int((logits.argmax(axis=1) == y[rows % len(y)])[rows < len(y)].sum())
    return correct / len(y)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8, help="passes over the training set (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="samples per step (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=2e-3, help="Adam's learning rate (default: %(default)s)")
    options = parser.parse_args(arguments)

    x, y = load()
    test_x, test_y = x[:TEST_SAMPLES], y[:TEST_SAMPLES]
    train_x, train_y = x[TEST_SAMPLES:], y[TEST_SAMPLES:]

    model = network()
    reference = copy.deepcopy(model)
    reference_optimizer = torch.optim.Adam(reference.parameters(), lr=options.lr)
    build = tg.compile(
        model,
        example_inputs=(train_x[: options.batch],),
        loss=tg.losses.CrossEntropy(),
        optimizer=tg.optim.Adam(lr=options.lr),
    )
    print(f"{len(train_y)} training and {len(test_y)} test images; the training step is compiled to {build.c_project}")

    def predict_torch(images: NDArray[np.float32]) -> NDArray[Any]:
        with torch.no_grad():
            logits: NDArray[Any] = reference(torch.from_numpy(images)).numpy()
        return logits

    print("        mean loss              test accuracy")
    print("epoch   TileGrad   PyTorch     TileGrad   PyTorch")
    shuffle = np.random.default_rng(1)
    state = None
    ours = theirs = 0.0
    for epoch in range(1, options.epochs + 1):
        stream = batches(train_x, train_y, options.batch, shuffle=shuffle)
        run = build.run(stream, steps=len(stream), state=state)
        state = run.state
        reference.train()
        reference_loss = train_torch_epoch(reference, reference_optimizer, stream)
        reference.eval()
        ours = accuracy(build.predict, test_x, test_y, options.batch)
        theirs = accuracy(predict_torch, test_x, test_y, options.batch)
        print(
            f"{epoch:5d}   {run.losses.mean():8.5f}  {reference_loss:8.5f}     {ours:8.2%}  {theirs:8.2%}", flush=True
        )

    passed = ours >= REQUIRED_ACCURACY and abs(ours - theirs) <= PERMITTED_DIFFERENCE
    print(
        f"Test accuracy {ours:.2%}, PyTorch {theirs:.2%}: {'passed' if passed else 'FAILED'} "
        f"(required: {REQUIRED_ACCURACY:.0%}, within {100 * PERMITTED_DIFFERENCE} points of PyTorch)"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
