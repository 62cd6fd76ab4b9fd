"""What a profile of a step looks like on a terminal, and in a file."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from tilegrad.report.observe import KernelProfile, StepProfile
from tilegrad.report.tables import new_table


def phase_table(profile: StepProfile) -> Table:
    """One row per phase: cycles, multiply-adds, share of the step."""
    table = new_table("Cycles of the first step by phase")
    table.add_column("phase")
    for heading in ("cycles", "MAC", "MAC/cycle", "share"):
        table.add_column(heading, justify="right")
    for phase, cycles in profile.phases.items():
        work = sum(kernel.multiply_adds for kernel in profile.kernels if kernel.phase == phase)
        table.add_row(phase, *_numbers(cycles, work, cycles / profile.cycles if profile.cycles else 0.0))
    return table


def kernel_table(profile: StepProfile, limit: int | None = 20) -> Table:
    """One row per kernel, the longest first.

    Args:
        profile: the profile.
        limit: most rows; None shows all.
    """
    table = new_table("Cycles of the first step by kernel")
    table.add_column("kernel", overflow="fold")
    for heading in ("cycles", "MAC", "MAC/cycle", "share"):
        table.add_column(heading, justify="right")
    table.add_column("lost most to")
    order = sorted(profile.kernels, key=lambda kernel: -kernel.cycles)
    for kernel in order[:limit]:
        lost = f"{kernel.limit} {kernel.limit_share:.0%}" if kernel.limit else "-"
        table.add_row(Text(kernel.name), *_numbers(kernel.cycles, kernel.multiply_adds, kernel.share), lost)
    rest = order[len(order) if limit is None else limit :]
    caption = [
        "MAC: fused multiply-adds of sums of products, terms that guards exclude not counted",
        "lost most to: the largest cause of stalls, or the imbalance between cores, and its part of all cores' cycles",
    ]
    if rest:
        share = sum(kernel.share for kernel in rest)
        caption.append(f"{len(rest)} more kernels take {share:.1%} of the step; --json lists all")
    table.caption = "\n".join(caption)
    table.caption_justify = "left"
    return table


def profile_json(profile: StepProfile) -> dict[str, Any]:
    """The whole profile as JSON values."""
    return {
        "cycles": profile.cycles,
        "phases": profile.phases,
        "kernels": [_kernel_json(kernel) for kernel in profile.kernels],
    }


def _kernel_json(kernel: KernelProfile) -> dict[str, Any]:
    return {
        "name": kernel.name,
        "origin": kernel.origin,
        "phase": kernel.phase,
        "calls": kernel.calls,
        "cycles": kernel.cycles,
        "multiply_adds": kernel.multiply_adds,
        "share": kernel.share,
        "core_cycles": kernel.core_cycles,
        "losses": kernel.losses,
        "limit": kernel.limit,
    }


def _numbers(cycles: int, work: int, share: float) -> tuple[str, str, str, str]:
    rate = f"{work / cycles:.3f}" if work and cycles else ""
    return f"{cycles:,}", f"{work:,}" if work else "", rate, f"{share:.1%}"
