"""From a verified run to the text of a page."""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tilegrad.report.observe import StepProfile
from tilegrad.report.page import activity, cycles, losses, memory, schedule, svg
from tilegrad.report.page.content import Subject
from tilegrad.report.page.kinds import KINDS
from tilegrad.report.work import PASSES, work_json

#: What a name may not do to a page: control characters, lone surrogates, and marks that turn the direction of text.
_UNFIT = {
    code: "�"
    for code in [
        *range(0x20),
        *range(0x7F, 0xA0),
        *range(0xD800, 0xE000),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    ]
    if chr(code) not in "\n\t"
}


def render(subject: Subject) -> str:
    """The page: one file of HTML with its style, its script and its drawings inside.

    Equal subjects give equal text. Names from the model are escaped wherever they stand, and the page forbids itself
    every script and style but its own, and every request.
    """
    environment = Environment(
        loader=PackageLoader("tilegrad.report.page", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(integer=svg.integer, short=svg.short, size=svg.size, number=_number, percent=_percent)
    script, style = _own_file("page.js"), _own_file("page.css")
    text = environment.get_template("page.html").render(
        script=Markup(script),
        style=Markup(style),
        script_hash=_hash(script),
        style_hash=_hash(style),
        **_content(subject),
    )
    return text.translate(_UNFIT)


def _own_file(name: str) -> str:
    """A file of this package, whose text is put into the page as it is."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What the page's policy knows its own script and style by."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@dataclass(frozen=True)
class Card:
    """A figure at the head of the page."""

    label: str
    value: str
    detail: str
    state: str = ""


def _content(subject: Subject) -> dict[str, Any]:
    build, verification, profile = subject.build, subject.verification, subject.profile
    target = build.target
    rate = target.multiply_adds_per_cycle
    passes = {entry.name: build.accumulate if entry.name in PASSES else 1 for entry in build.plan.entries}
    levels = memory.levels(build.plan, target)
    steps = schedule.steps(build.plan, profile, passes)
    work = work_json(build, subject.run, subject.steps)
    cores = target.cores
    content: dict[str, Any] = {
        "subject": subject,
        "build": build,
        "target": target,
        "team": f"{cores} of {target.most_cores} cores" if target.most_cores else f"{cores} core{'s' * (cores > 1)}",
        "plan": build.plan,
        "verification": verification,
        "cards": _cards(subject, levels, work),
        "curve": losses.curve(verification.losses, verification.reference),
        "tensors": losses.tensor_rows(verification),
        "levels": levels,
        "kinds": KINDS,
        "steps": steps,
        "tiled": any(step.is_tiled for step in steps),
        "work": work,
        "parameters": sum(value.size for value in build.parameters.values()),
        "profile": profile,
        "has_profile": profile is not None and bool(profile.kernels),
        "phase_words": {phase: phase for phase in cycles.PHASES} | {"between kernels": "between kernels"},
        "unit_words": cycles.WORDS,
        "unit_notes": cycles.EXPLAINED,
    }
    if profile is None or not profile.kernels:
        content["static_work"] = cycles.static_work(build.plan)
    else:
        dma = next((m.dma_bytes_per_cycle for m in target.memories if m.dma_bytes_per_cycle), None)
        content |= {
            "phases": cycles.phase_rows(profile, rate),
            "phase_bar": cycles.split(profile.phases, content["phase_words"], prefix="p"),
            "spent_bar": cycles.split(cycles.spent(profile.kernels), cycles.WORDS),
            "nodes": cycles.node_rows(profile, rate),
            "kernels": cycles.ranked(profile.kernels),
            "mini": cycles.mini,
            "limit": cycles.limit,
            "activity": activity.activity(profile, steps, rate, dma),
            "rate": rate,
            "dma_words": _dma_words(profile, dma),
        }
    return content


def _dma_words(profile: StepProfile, dma: float | None) -> str:
    """What the DMA moved in the step, and how long that takes at least; nothing where it moved nothing."""
    moved = {
        inwards: sum(m.bytes for m in profile.timeline.movements if m.inwards is inwards) for inwards in (True, False)
    }
    if not any(moved.values()):
        return ""
    text = f"The DMA moved {moved[True]:,} bytes into L1 and {moved[False]:,} out of it"
    if not dma:
        return text + "."
    return (
        text
        + f"; at {dma:g} bytes a cycle in each direction that takes at least {max(moved.values()) / dma:,.0f} cycles."
    )


def _cards(subject: Subject, levels: list[memory.Level], work: dict[str, Any]) -> list[Card]:
    build, verification = subject.build, subject.verification
    tensors = verification.tensors
    agreeing = sum(row.ok for row in tensors)
    detail = f"{sum(row.ok for row in verification.losses)} of {len(verification.losses)} losses, {agreeing} of "
    detail += f"{len(tensors)} comparisons of tensors"
    verdict = ("agrees", "good") if verification.ok else ("does NOT agree", "bad")
    cards = [Card("Reference", verdict[0], detail, verdict[1])]
    passed, optimized = work["train_cycles_per_pass"], work["opt_cycles_per_step"]
    if passed is not None and optimized is not None:
        count = build.accumulate
        total = passed * count + optimized
        times = f"{count} × " if count > 1 else ""
        cards.append(
            Card("Cycles per step", svg.short(total), f"passes {times}{passed:,.0f}, optimizer {optimized:,.0f}")
        )
        if work["cycles_over_bound"] is not None:
            bound = f"{work['bound_cycles']:,.0f} cycles for {work['multiply_adds']:,} multiply-adds in a pass"
            cards.append(Card("Pass against the bound", f"{work['cycles_over_bound']:.2f} ×", bound))
            rate = work["multiply_adds"] / passed if passed else 0.0
            most = build.target.multiply_adds_per_cycle
            cards.append(Card("MAC per cycle", f"{rate:.2f}", f"of {most:g} that the machine can start"))
    for level in levels:
        use = level.use
        if not use.peak:
            continue
        limit = f"of {svg.size(use.capacity)}" if use.capacity is not None else "no limit"
        words = f"{limit}; lower bound {use.lower_bound:,}"
        cards.append(Card(f"Peak of {level.name}", svg.size(use.peak), words))
    if build.program.code_bytes is not None:
        words = (
            "machine code"
            if build.program.constant_bytes is None
            else f"and {build.program.constant_bytes:,} of constants"
        )
        cards.append(Card("Machine code", svg.size(build.program.code_bytes), words))
    weights = f"{sum(value.size for value in build.parameters.values()):,} parameters"
    return [*cards, Card("Trainable weights", svg.size(build.weight_bytes), weights)]


def _number(value: float, digits: str = ".1e") -> str:
    return format(value, digits) if math.isfinite(value) else str(value)


def _percent(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "–"
