"""The lines that scripts of existing on-device training flows parse."""

from __future__ import annotations

from typing import Any

from tilegrad.verification.verification import Verification


def harness_lines(verification: Verification, run: Any, weight_bytes: int) -> list[str]:
    """One line per loss, the number of errors, and the cycles.

    A target without a cycle counter prints 0 cycles.

    Args:
        verification: the comparison.
        run: the run that was compared: ``train_cycles`` and ``opt_cycles``, totals over the run or None.
        weight_bytes: bytes of the trainable weights.
    """
    lines = [
        f"[loss {row.index}] computed={row.computed:.6f}  ref={row.reference:.6f}  diff={abs(row.difference):.6f}"
        for row in verification.losses
    ]
    lines.append(f"Errors: {count_errors(verification)} out of {len(verification.losses)}")
    cycles = f"train_cycles={run.train_cycles or 0} opt_cycles={run.opt_cycles or 0}"
    lines.append(f"BENCH {cycles} weight_sram={weight_bytes}")
    return lines


def count_errors(verification: Verification) -> int:
    """How many losses do not agree.

    It is at least 1 where anything else does not, so that a script that looks for 0 is not told that all is well.
    """
    wrong = sum(not row.ok for row in verification.losses)
    return wrong if verification.ok else max(wrong, 1)
