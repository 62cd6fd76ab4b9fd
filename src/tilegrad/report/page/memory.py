"""Memory over time: for every level who lives where while which kernel runs, with peak and lower bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from markupsafe import Markup

from tilegrad.planning.plan import EntryPlan, LevelUse, Plan, Storage
from tilegrad.report.page import svg
from tilegrad.report.page.kinds import KINDS, static_kind, transient_kinds
from tilegrad.targets import Target

WIDTH = 1080.0
_LEFT, _RIGHT, _TOP = 74.0, 8.0, 44.0
_MAP, _GAP, _STRIP = 330.0, 30.0, 64.0
_SPACE = 10.0

Scale = Callable[[int], float]


@dataclass(frozen=True)
class Area:
    """A range of addresses during some kernels of an entry point; one row of the table under the drawing.

    Attributes:
        name: of the storage.
        kind: key of `KINDS`.
        begin: first byte in the level's picture: runtime, static tensors, arena, from the bottom up.
        size: bytes, all copies together.
        lower: first kernel that uses it.
        upper: first kernel after its life.
        holds: the tensors in it.
        where: its place in words.
    """

    name: str
    kind: str
    begin: int
    size: int
    lower: int
    upper: int
    holds: str
    where: str


@dataclass(frozen=True)
class Panel:
    """An entry point in the picture of a level.

    Attributes:
        entry: its name.
        kernels: how many it has.
        phases: phase of every kernel.
        names: name of every kernel.
        areas: what is alive in the arena.
        alive: bytes of the arena that are alive while each kernel runs.
        arena: bytes of the arena that it needs.
    """

    entry: str
    kernels: int
    phases: tuple[str, ...]
    names: tuple[str, ...]
    areas: tuple[Area, ...]
    alive: tuple[int, ...]
    arena: int


@dataclass(frozen=True)
class Level:
    """A level of memory: figures, picture and table.

    Attributes:
        name: of the level.
        use: the plan's figures.
        bar: what it is used for at its peak, against its capacity.
        picture: addresses over time; None where nothing of the plan lives there.
        statics: the static tensors.
        panels: one per entry point.
        kinds: keys of `KINDS` in the picture.
    """

    name: str
    use: LevelUse
    bar: Markup
    picture: Markup | None
    statics: tuple[Area, ...]
    panels: tuple[Panel, ...]
    kinds: tuple[str, ...]

    @property
    def ratio(self) -> str:
        """Peak over lower bound."""
        return f"{self.use.peak / self.use.lower_bound:.3f}" if self.use.lower_bound else "–"

    @property
    def rows(self) -> list[tuple[str, Area]]:
        """Entry point and area of every row of the table."""
        return [("all", area) for area in self.statics] + [(p.entry, area) for p in self.panels for area in p.areas]


def levels(plan: Plan, target: Target) -> list[Level]:
    """All levels of memory, fastest first."""
    order = [memory.name for memory in target.memories if memory.name in plan.memory]
    order += [name for name in plan.memory if name not in order]
    alignments = {memory.name: memory.alignment for memory in target.memories}
    return [_level(plan, name, alignments.get(name, 1)) for name in order]


def _level(plan: Plan, name: str, alignment: int) -> Level:
    use = plan.memory[name]
    statics = tuple(_statics(plan, name, alignment, use.reserved))
    base = max((area.begin + _up(area.size, alignment) for area in statics), default=use.reserved)
    panels = tuple(_panel(entry, name, alignment, base) for entry in plan.entries)
    kinds = {area.kind for area in statics} | {area.kind for panel in panels for area in panel.areas}
    if use.reserved:
        kinds.add("runtime")
    shown = tuple(key for key in KINDS if key in kinds)
    drawn = bool(statics) or any(panel.areas for panel in panels)
    picture = _picture(name, use, base, statics, panels) if drawn else None
    arena = plan.arenas.get(name, 0)
    return Level(name, use, _bar(name, use, statics, arena), picture, statics, panels, shown)


def _up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _statics(plan: Plan, level: str, alignment: int, begin: int) -> Iterator[Area]:
    order = {key: place for place, key in enumerate(KINDS)}
    here = [storage for storage in plan.persistent if storage.level == level and storage.bytes]
    for storage in sorted(here, key=lambda storage: order[static_kind(storage)]):
        yield Area(storage.name, static_kind(storage), begin, storage.bytes, 0, 0, _holds(storage), "static")
        begin += _up(storage.bytes, alignment)


def _panel(entry: EntryPlan, level: str, alignment: int, base: int) -> Panel:
    kernels = entry.kernels
    kinds = transient_kinds(entry)
    count = len(kernels)
    areas, alive = [], [0] * max(count, 1)
    for storage in entry.storages:
        if storage.level != level or storage.offset is None or not storage.bytes:
            continue
        where = f"arena + {storage.offset:,}" + (f", {storage.copies} copies" if storage.copies > 1 else "")
        begin = base + storage.offset
        area = Area(
            storage.name, kinds[storage], begin, storage.total, storage.lower, storage.upper, _holds(storage), where
        )
        areas.append(area)
        for place in range(max(storage.lower, 0), min(storage.upper, count)):
            alive[place] += _up(storage.total, alignment)
    return Panel(
        entry.name, count, tuple(k.op.phase for k in kernels), tuple(k.name for k in kernels), tuple(areas),
        tuple(alive), entry.arenas.get(level, 0),
    )  # fmt: skip


def _holds(storage: Storage) -> str:
    values = dict.fromkeys([*([storage.persistent] if storage.persistent else []), *storage.values])
    return "; ".join(f"{value.name} {list(value.shape)}" for value in values)


def _bar(name: str, use: LevelUse, statics: tuple[Area, ...], arena: int) -> Markup:
    """One line: what the level is used for at its peak, against its capacity."""
    height, top, bar = 58.0, 20.0, 22.0
    total = max(use.capacity or 0, use.peak, 1)
    scale = WIDTH / total
    parts: dict[str, int] = {"runtime": use.reserved} if use.reserved else {}
    for area in statics:
        parts[area.kind] = parts.get(area.kind, 0) + area.size
    parts["arena"] = arena
    drawn, x = [svg.box(0, top, WIDTH, bar, class_="free", rx=3)], 0.0
    for key, size in parts.items():
        words = KINDS.get(key, "arena: everything that does not outlive a call")
        drawn.append(svg.box(x, top, size * scale, bar, svg.hint(f"{words}: {size:,} bytes"), class_=f"k-{key}"))
        label = svg.fit(f"{key} {svg.size(size)}", size * scale - 8)
        drawn.append(svg.text(x + 5, top + 15, label if label.endswith("B") else "", class_="inside"))
        x += size * scale
    for mark in sorted({use.lower_bound, use.peak}):
        drawn.append(svg.line(mark * scale, top - 4, mark * scale, top + bar + 4, class_="mark"))
    at = use.peak * scale
    anchor = "start" if at < WIDTH * 0.3 else "end"
    drawn.append(svg.text(at, top - 7, _limits_text(use), class_="label", text_anchor=anchor))
    limit = "no limit" if use.capacity is None else f"{use.capacity:,} bytes"
    if use.capacity is not None:
        drawn.append(svg.text(WIDTH, top + bar + 15, f"capacity {use.capacity:,}", class_="axis", text_anchor="end"))
    description = f"Peak {use.peak:,} bytes, lower bound {use.lower_bound:,} bytes, capacity {limit}."
    return svg.drawing(WIDTH, height, f"Use of {name}", description, *drawn)


def _limits_text(use: LevelUse) -> str:
    if use.peak == use.lower_bound:
        return f"peak = lower bound {use.peak:,}"
    return f"lower bound {use.lower_bound:,}, peak {use.peak:,}"


def _picture(name: str, use: LevelUse, base: int, statics: tuple[Area, ...], panels: tuple[Panel, ...]) -> Markup:
    top = max(use.peak, base + max((panel.arena for panel in panels), default=0), 1)
    places = list(_places(panels))
    scale = _MAP / top

    def y(address: int) -> float:
        return _TOP + _MAP - address * scale

    drawn: list[Markup] = [*_address_axis(top, y)]
    left, right = _LEFT, WIDTH - _RIGHT
    if use.reserved:
        hint = svg.hint(f"runtime and stacks: {use.reserved:,} bytes")
        drawn.append(svg.box(left, y(use.reserved), right - left, use.reserved * scale, hint, class_="area k-runtime"))
    for area in statics:
        drawn += _area(area, left, right, y, "static, alive all the time")
    for panel, x, step in places:
        drawn += _phases(panel, x, step)
        for area in panel.areas:
            life = f"alive in kernels {area.lower} to {area.upper - 1} of {panel.entry}"
            begin, end = x + area.lower * step, x + min(area.upper, panel.kernels) * step
            drawn += _area(area, begin, max(end, begin + 0.6), y, f"{area.where}; {life}")
    drawn += _limits(use, y, left, right)
    drawn += _alive(places, left, right)
    height = _TOP + _MAP + _GAP + _STRIP + 26
    description = (
        f"Addresses from bottom to top, kernels from left to right: {len(statics)} static tensors and "
        f"{sum(len(panel.areas) for panel in panels)} ranges of the arena. Peak {use.peak:,} bytes, lower bound "
        f"{use.lower_bound:,} bytes. The table below lists every range."
    )
    return svg.drawing(WIDTH, height, f"Memory {name} over time", description, *drawn)


def _places(panels: tuple[Panel, ...]) -> Iterator[tuple[Panel, float, float]]:
    """Where every panel begins, and how wide one of its kernels is."""
    shown = [panel for panel in panels if panel.kernels]
    room = WIDTH - _LEFT - _RIGHT - _SPACE * (len(shown) - 1)
    # Short entry points get enough room to be seen.
    weights = [max(panel.kernels, sum(p.kernels for p in shown) / 12) for panel in shown]
    x = _LEFT
    for panel, weight in zip(shown, weights, strict=True):
        width = room * weight / sum(weights)
        yield panel, x, width / panel.kernels
        x += width + _SPACE


def _address_axis(top: int, y: Scale) -> Iterator[Markup]:
    for tick in svg.ticks(0, top, 6):
        at = y(int(tick))
        yield svg.line(_LEFT - 4, at, WIDTH - _RIGHT, at, class_="grid")
        yield svg.text(_LEFT - 8, at + 4, svg.size(tick), class_="axis", text_anchor="end")


def _area(area: Area, begin: float, end: float, y: Scale, life: str) -> Iterator[Markup]:
    upper, height = y(area.begin + area.size), y(area.begin) - y(area.begin + area.size)
    hint = svg.hint(f"{area.name}: {area.size:,} bytes ({KINDS[area.kind]})\n{life}\nholds {area.holds}")
    yield svg.box(begin, upper, end - begin, height, hint, class_=f"area k-{area.kind}")
    label = svg.fit(area.name, end - begin - 6)
    if height >= 12 and label:
        yield svg.text(begin + 4, upper + height / 2 + 4, label, class_="inside")


def _phases(panel: Panel, x: float, step: float) -> Iterator[Markup]:
    """Name of the entry point, and which phase its kernels belong to."""
    width = panel.kernels * step
    yield svg.text(x, 14, svg.fit(f"{panel.entry} ({panel.kernels} kernels)", width, 7.3), class_="label strong")
    first = 0
    for place in range(1, panel.kernels + 1):
        if place == panel.kernels or panel.phases[place] != panel.phases[first]:
            phase = panel.phases[first]
            hint = svg.hint(f"{phase}: kernels {first} to {place - 1} of {panel.entry}")
            yield svg.box(x + first * step, 22, (place - first) * step, 16, hint, class_=f"phase p-{phase}")
            yield svg.text(x + first * step + 4, 34, svg.fit(phase, (place - first) * step - 6), class_="inside small")
            first = place


def _limits(use: LevelUse, y: Scale, left: float, right: float) -> Iterator[Markup]:
    if use.peak != use.lower_bound:
        yield svg.line(left, y(use.lower_bound), right, y(use.lower_bound), class_="mark dashed")
    yield svg.line(left, y(use.peak), right, y(use.peak), class_="mark")
    yield svg.text(right - 4, y(use.peak) + 14, _limits_text(use), class_="label halo", text_anchor="end")


def _alive(places: list[tuple[Panel, float, float]], left: float, right: float) -> Iterator[Markup]:
    """How much of the arena is alive while each kernel runs, with the highest point marked."""
    floor = _TOP + _MAP + _GAP + _STRIP
    most = max((max(panel.alive) for panel, _, _ in places), default=0)
    yield svg.line(left, floor, right, floor, class_="grid")
    yield svg.text(left - 8, floor + 4, "0", class_="axis", text_anchor="end")
    yield svg.text(left, floor + 20, "alive in the arena while each kernel runs, in order", class_="axis")
    if not most:
        return
    yield svg.line(left - 4, floor - _STRIP, right, floor - _STRIP, class_="grid")
    yield svg.text(left - 8, floor - _STRIP + 4, svg.size(most), class_="axis", text_anchor="end")
    for panel, x, step in places:
        if not any(panel.alive):
            continue
        points = [(x, floor)]
        for place, size in enumerate(panel.alive):
            height = floor - size / most * _STRIP
            points += [(x + place * step, height), (x + (place + 1) * step, height)]
        points.append((x + panel.kernels * step, floor))
        yield svg.path(points, close=True, class_="alive")
        peak = panel.alive.index(max(panel.alive))
        at = x + (peak + 0.5) * step
        words = f"{panel.entry}: most alive in kernel {peak}, {panel.names[peak]}: {panel.alive[peak]:,} bytes"
        dot = floor - panel.alive[peak] / most * _STRIP
        yield svg.line(at, _TOP, at, floor, class_="moment")
        yield svg.tag("circle", svg.hint(words), cx=at, cy=dot, r=4.0, class_="dot")
        if panel.alive[peak] < most:
            continue  # one label: others would cover each other, and hints tell the same
        anchor = "start" if at < WIDTH * 0.7 else "end"
        yield svg.text(
            at + (8 if anchor == "start" else -8), max(dot + 4, floor - _STRIP + 12),
            svg.fit(f"{panel.alive[peak]:,} in {panel.names[peak]}", 320), class_="label halo", text_anchor=anchor,
        )  # fmt: skip
