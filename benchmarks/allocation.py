"""The static allocator on instances of the allocation problem: what it needs beside the lower bound, and how long.

    python benchmarks/allocation.py [--unlimited] [FILE.CSV ...]

A file has the columns id, lower, upper and size, as those of the MiniMalloc benchmarks; a number in its name, as in
`A.1048576.csv`, is the capacity. Without files: generated perfect packings, rectangles of 1 MiB cut at random, which
fit only without any waste. With --unlimited no capacity is given, and the allocator goes as low as it can.
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from collections.abc import Iterator
from pathlib import Path

import tilegrad as tg
from tilegrad.planning.allocate import Buffer, allocate, lower_bound, peak_of

MEBIBYTE = 1 << 20


def perfect_packing(count: int, length: int, height: int, seed: int, unit: int = 1) -> list[Buffer]:
    """Cuts a rectangle, `length` moments long and `height` high, into `count` buffers, which are then shuffled.

    Each cut goes through one of the larger pieces, at a random position that is a multiple of `unit` in the direction
    of the height. The buffers fit `height` exactly: at every moment their sizes sum to it.
    """
    rng = random.Random(seed)
    pieces = [(0, length, 0, height)]
    while len(pieces) < count:
        pieces.sort(key=lambda piece: (piece[1] - piece[0]) / length * (piece[3] - piece[2]) / height)
        cut = [
            position
            for position, (lower, upper, bottom, top) in enumerate(pieces)
            if upper - lower > 1 or top - bottom > unit
        ][-8:]
        lower, upper, bottom, top = pieces.pop(rng.choice(cut))
        if top - bottom == unit or (upper - lower > 1 and rng.random() < 0.5):
            middle = rng.randrange(lower + 1, upper)
            pieces += [(lower, middle, bottom, top), (middle, upper, bottom, top)]
        else:
            middle = rng.randrange(bottom + unit, top, unit)
            pieces += [(lower, upper, bottom, middle), (lower, upper, middle, top)]
    rng.shuffle(pieces)
    return [Buffer(lower, upper, top - bottom) for lower, upper, bottom, top in pieces]


def read(path: Path) -> tuple[str, list[Buffer], int | None]:
    """The name, the buffers and the capacity of an instance in a file."""
    with path.open(newline="") as file:
        buffers = [Buffer(int(row["lower"]), int(row["upper"]), int(row["size"])) for row in csv.DictReader(file)]
    numbers = [int(part) for part in path.name.split(".") if part.isdigit()]
    return path.stem, buffers, numbers[0] if numbers else None


def generated() -> Iterator[tuple[str, list[Buffer], int | None]]:
    """Perfect packings of 1 MiB, cut at multiples of 1 KiB."""
    for count in (50, 100, 150, 200, 250, 300, 400, 500):
        for seed in range(2):
            yield f"cuts-{count}-{seed}", perfect_packing(count, 1000, MEBIBYTE, seed, 1024), MEBIBYTE


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--unlimited", action="store_true")
    options = parser.parse_args()
    instances = (read(path) for path in options.files) if options.files else generated()
    print(
        f"{'instance':<16} {'buffers':>7} {'capacity':>10} {'peak':>10} {'bound':>10} {'peak/bound':>10} {'seconds':>8}"
    )
    for name, buffers, capacity in instances:
        given = None if options.unlimited else capacity
        bound = lower_bound(buffers)
        begin = time.perf_counter()
        try:
            peak = peak_of(buffers, allocate(buffers, given))
        except tg.DoesNotFitError as error:
            peak, reason = 0, str(error)
        seconds = time.perf_counter() - begin
        limit = "none" if given is None else str(given)
        found, ratio = (str(peak), f"{peak / bound:.4f}") if peak else ("-", "-")
        print(
            f"{name:<16} {len(buffers):>7} {limit:>10} {found:>10} {bound:>10} {ratio:>10} {seconds:>8.2f}", flush=True
        )
        if not peak:
            print(f"  {reason}")


if __name__ == "__main__":
    main()
