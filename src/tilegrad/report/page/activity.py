"""One step as it went: which group ran, how busy the float units and the DMA were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from tilegrad.report.observe import StepProfile
from tilegrad.report.page import svg
from tilegrad.report.page.schedule import Step
from tilegrad.report.timeline import rates, stretches

WIDTH = 1080.0
_LEFT, _RIGHT = 104.0, 8.0
_BINS = 484
_ROW, _SPACE = 56.0, 16.0


def activity(profile: StepProfile, steps: Sequence[Step], rate: float | None, dma: float | None) -> Markup | None:
    """Groups, fused multiply-adds in a cycle and bytes of the DMA in a cycle over the time of a step.

    Args:
        profile: what was recorded.
        steps: the groups of kernels.
        rate: multiply-adds that the machine can start in one cycle.
        dma: bytes that the DMA moves in one cycle and direction at most.
    """
    timeline = profile.timeline
    begin, end = timeline.begin, timeline.end
    if end <= begin:
        return None
    kernels = timeline.of(kernel.name for kernel in profile.kernels)
    right = WIDTH - _RIGHT
    scale = (right - _LEFT) / (end - begin)
    drawn: list[Markup] = list(_groups(profile, steps, begin, scale))
    top = 40.0
    work = rates([(e.begin, e.end, e.multiply_adds) for e in kernels.executions], begin, end, _BINS)
    # A core that waits for the others has left the kernel: what is inside is busy.
    cores = rates([(e.begin, e.end, e.end - e.begin) for e in kernels.executions], begin, end, _BINS)
    team = len({execution.core for execution in kernels.executions})
    rows = [
        ("FMA/cycle", work, rate or float(max(work.max(), 1.0)), "work"),
        ("cores in kernels", cores, team, "cores"),
    ]
    for words, inwards in (("DMA in, B/cycle", True), ("DMA out, B/cycle", False)):
        moved = [(m.begin, m.end, m.bytes) for m in timeline.movements if m.inwards is inwards]
        if moved:
            amount = rates(moved, begin, end, _BINS)
            rows.append((words, amount, dma or float(amount.max()), "dma"))
    for words, amount, limit, style in rows:
        drawn += _row(words, amount, limit, style, top)
        top += _ROW + _SPACE
    for tick in svg.ticks(0, end - begin, 8):
        x = _LEFT + tick * scale
        drawn.append(svg.line(x, 36, x, top - _SPACE, class_="grid"))
        drawn.append(svg.text(x, top, svg.short(tick), class_="axis", text_anchor="middle"))
    drawn.append(svg.text(right, top + 16, "cycles from the beginning of the step", class_="axis", text_anchor="end"))
    average = sum(e.multiply_adds for e in kernels.executions) / (end - begin)
    moved_bytes = sum(movement.bytes for movement in timeline.movements)
    description = (
        f"{end - begin:,} cycles; {average:.2f} fused multiply-adds in a cycle on average; "
        f"{moved_bytes:,} bytes moved by DMA."
    )
    return svg.drawing(WIDTH, top + 22, "One step over time", description, *drawn)


def _groups(profile: StepProfile, steps: Sequence[Step], begin: int, scale: float) -> Iterator[Markup]:
    """The groups one after the other, in the colour of the phase that most of their kernels belong to."""
    by_name = {step.name: step for step in steps}
    group_of = {kernel: step.name for step in steps for kernel, _, _ in step.kernels}
    for stretch in stretches(profile.timeline, group_of):
        step = by_name[stretch.group]
        phases = [phase for _, phase, _ in step.kernels]
        phase = max(dict.fromkeys(phases), key=phases.count)
        nodes = ", ".join(dict.fromkeys(node for _, _, node in step.kernels))
        cycles = stretch.end - stretch.begin
        x, width = _LEFT + (stretch.begin - begin) * scale, cycles * scale
        words = svg.hint(f"{step.name}: {nodes}\n{cycles:,} cycles, {step.tiles} tiles")
        yield svg.box(x, 8, max(width, 0.3), 22, words, class_=f"phase p-{phase} edged")
        yield svg.text(x + 4, 23, svg.fit(nodes, width - 6), class_="inside small")


def _row(words: str, amount: NDArray[np.float64], limit: float, style: str, top: float) -> Iterator[Markup]:
    floor = top + _ROW
    width = (WIDTH - _RIGHT - _LEFT) / len(amount)
    yield svg.box(_LEFT, top, WIDTH - _RIGHT - _LEFT, _ROW, class_="track")
    points = [(_LEFT, floor)]
    for place, value in enumerate(amount.tolist()):
        y = floor - min(value / limit, 1.0) * _ROW
        points += [(_LEFT + place * width, y), (_LEFT + (place + 1) * width, y)]
    points.append((WIDTH - _RIGHT, floor))
    mean = float(np.mean(amount))
    yield svg.path(points, close=True, class_=f"a-{style}")
    y = floor - min(mean / limit, 1.0) * _ROW
    yield svg.line(_LEFT, y, WIDTH - _RIGHT, y, class_="mark dashed")
    yield svg.text(_LEFT - 8, top + 12, f"{limit:g}", class_="axis", text_anchor="end")
    yield svg.text(_LEFT - 8, floor - 16, words, class_="axis", text_anchor="end")
    yield svg.text(_LEFT - 8, floor - 2, f"mean {mean:.2f}", class_="axis", text_anchor="end")
