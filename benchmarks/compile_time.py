"""How long compiling takes, stage by stage, in a fresh process: from the PyTorch module to C text, and the C build.

python benchmarks/compile_time.py [--model speechnet] [--target host] [--cc zig]
"""

from __future__ import annotations

import argparse
import time

START = time.perf_counter()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="speechnet")
    parser.add_argument("--target", default="host")
    parser.add_argument("--cc", default=None)
    options = parser.parse_args()
    import torch

    import tilegrad as tg
    from tilegrad.models import build_model

    print(f"{time.perf_counter() - START:7.2f} s  import of torch {torch.__version__}")
    module, inputs = build_model(options.model)
    module.train()
    marks: list[tuple[str, float]] = []
    begin = time.perf_counter()
    build = tg.compile(
        module, inputs, tg.losses.CrossEntropy(), tg.optim.SGD(lr=1e-3), target=options.target,
        cc=options.cc, progress=lambda line: marks.append((line, time.perf_counter())),
    )  # fmt: skip
    end = time.perf_counter()
    for (line, at), (_, after) in zip(marks, [*marks[1:], ("", end)], strict=True):
        print(f"{after - at:7.2f} s  {line}")
    print(f"{end - begin:7.2f} s  compile, export to C text")
    begin = time.perf_counter()
    program = build.program
    print(f"{time.perf_counter() - begin:7.2f} s  C build, {program.compiler}, {program.compiled} files compiled")


if __name__ == "__main__":
    main()
