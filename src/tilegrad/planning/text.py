"""A plan as text and as JSON."""

from __future__ import annotations

from typing import Any

from tilegrad.ir.printer import format_nest
from tilegrad.planning.plan import EntryPlan, Group, Kernel, Plan, Storage, Transfer, Window
from tilegrad.planning.span import Span


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON-compatible data."""
    return {
        "target": plan.target,
        "memory": {
            level: {
                "peak": use.peak, "lower_bound": use.lower_bound, "capacity": use.capacity, "static": use.static,
                "reserved": use.reserved,
            }
            for level, use in plan.memory.items()
        },
        "cores": plan.cores,
        "notes": list(plan.notes),
        "arenas": dict(plan.arenas),
        "persistent": [{"name": s.name, "bytes": s.bytes, "level": s.level} for s in plan.persistent],
        "constants": [{"name": s.name, "bytes": s.bytes} for s in plan.constants],
        "entries": [_entry_json(entry) for entry in plan.entries],
    }  # fmt: skip


def _entry_json(entry: EntryPlan) -> dict[str, Any]:
    return {
        "name": entry.name,
        "arenas": dict(entry.arenas),
        "lower_bounds": dict(entry.lower_bounds),
        "storages": [
            {
                "name": s.name, "level": s.level, "offset": s.offset, "bytes": s.bytes, "copies": s.copies,
                "lower": s.lower, "upper": s.upper,
            }
            for s in entry.storages
            if s.offset is not None
        ],
        "groups": [_group_json(group) for group in entry.groups],
        "copies": [{"target": copy.target.name, "source": copy.source.name} for copy in entry.copies],
    }  # fmt: skip


def _group_json(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "loops": [{"extent": loop.extent, "step": loop.step} for loop in group.loops],
        "overlap": group.overlap,
        "cycles": round(group.cycles),
        "reason": group.reason,
        "loads": [_transfer_json(transfer) for transfer in group.loads],
        "kernels": [_kernel_json(kernel) for kernel in group.kernels],
        "stores": [_transfer_json(transfer) for transfer in group.stores],
    }


def _transfer_json(transfer: Transfer) -> dict[str, Any]:
    return {
        "buffer": transfer.storage.name,
        "home": transfer.home.name,
        "via": transfer.via.name if transfer.via is not None else None,
        "tensor": transfer.value.name,
        "shape": list(transfer.value.shape),
        "window": [format_span(span) for span in transfer.window.spans],
        "depth": transfer.window.depth,
    }


def _kernel_json(kernel: Kernel) -> dict[str, Any]:
    return {
        "name": kernel.name,
        "origin": kernel.op.origin,
        "phase": kernel.op.phase,
        "reads": sorted({s.name for s in kernel.reads.values()}),
        "writes": sorted({s.name for s in kernel.writes.values()}),
        "ranges": [[format_span(span) for span in ranges] for ranges in kernel.ranges],
        "cut": list(kernel.cut),
        "filled": {value.name: [format_span(span) for span in spans] for value, spans in kernel.filled.items()},
    }


def format_span(span: Span) -> str:
    """A span as text: ``:`` for a whole axis, else begin and length; ``T0`` and ``n0`` are those of the first loop."""
    if span.is_whole:
        return ":"
    begin = " + ".join(
        f"{'' if scale == 1 else f'{scale}*'}{f'T{loop}' if scale > 0 else f'(T{loop} + n{loop})'}"
        for loop, scale in span.terms
    )
    size = " + ".join(f"{'' if abs(scale) == 1 else f'{abs(scale)}*'}n{loop}" for loop, scale in span.terms)
    return f"[{_plus(begin, span.offset)}; {_plus(size, span.extra)}]"


def _plus(text: str, constant: int) -> str:
    if not text:
        return str(constant)
    return text if not constant else f"{text} {'-' if constant < 0 else '+'} {abs(constant)}"


def plan_text(plan: Plan) -> str:
    """The plan as text: memories, storages with lifetimes, groups with their transfers and kernels."""
    lines = [f"plan for {plan.target}, {plan.cores} core{'s' if plan.cores > 1 else ''}"]
    for level, use in plan.memory.items():
        limit = "unlimited" if use.capacity is None else f"{use.capacity:,}"
        lines.append(
            f"  memory {level}: peak {use.peak:,} bytes, lower bound {use.lower_bound:,}, capacity {limit}; "
            f"static {use.static:,}, arena {plan.arenas.get(level, 0):,}, runtime and stacks {use.reserved:,}"
        )
    lines.extend(f"  {note}" for note in plan.notes)
    for storage in plan.persistent:
        lines.append(f"  static {storage.name}: {storage.bytes:,} bytes in {storage.level}")
    for storage in plan.constants:
        lines.append(f"  constant {storage.name}: {storage.bytes:,} bytes in {storage.level}")
    for entry in plan.entries:
        lines.extend(_entry_text(entry))
    return "\n".join(lines) + "\n"


def _entry_text(entry: EntryPlan) -> list[str]:
    sizes = ", ".join(
        f"{level} {size:,} bytes (lower bound {entry.lower_bounds[level]:,})" for level, size in entry.arenas.items()
    )
    lines = [f"entry {entry.name}: {sizes}"]
    lines.extend(_storage_text(storage) for storage in entry.storages if storage.offset is not None)
    position = 0
    for group in entry.groups:
        lines.extend(_group_text(group, position))
        position += len(group.kernels)
    lines.extend(f"  copy {copy.target.name} <- {copy.source.name}" for copy in entry.copies)
    return lines


def _storage_text(storage: Storage) -> str:
    assert storage.offset is not None
    twice = " twice" if storage.copies > 1 else ""
    return (
        f"  {storage.level} {storage.name}: [{storage.offset:,}, {storage.offset + storage.total:,}){twice}"
        f" alive in kernels [{storage.lower}, {storage.upper})"
    )


def _group_text(group: Group, position: int) -> list[str]:
    loops = ", ".join(f"T{k} in 0..{loop.extent} by {loop.step}" for k, loop in enumerate(group.loops)) or "one tile"
    overlap = ", transfers overlap" if group.overlap else ""
    lines = [f"  {group.name}: {loops}{overlap}; about {group.cycles:,.0f} cycles{_reason(group)}"]
    lines.extend(f"    load {_transfer_text(transfer)}" for transfer in group.loads)
    for k, kernel in enumerate(group.kernels):
        note = f" in place over {', '.join(s.name for s in kernel.in_place)}" if kernel.in_place else ""
        cut = f", sums cut by {', '.join(f'T{loop}' for loop in kernel.cut)}" if kernel.cut else ""
        lines.append(f"    {position + k}: {kernel.name}  # {kernel.op.phase} {kernel.op.origin}{note}{cut}")
        for nest, ranges in zip(kernel.op.nests, kernel.ranges, strict=True):
            lines.extend("        " + line for line in format_nest(nest))
            tiled = [f"i{i} in {format_span(span)}" for i, span in enumerate(ranges) if not span.is_whole]
            if tiled:
                lines.append(f"        tile: {', '.join(tiled)}")
        for value, spans in kernel.filled.items():
            lines.append(f"        {value.name}: initialised in {', '.join(format_span(span) for span in spans)}")
        for value, window in kernel.windows.items():
            lines.append(f"        {value.name}: {_window_text(window)}")
    lines.extend(f"    store {_transfer_text(transfer)}" for transfer in group.stores)
    return lines


def _reason(group: Group) -> str:
    return f"; {group.reason}" if group.reason else ""


def _window_text(window: Window) -> str:
    return "window " + ", ".join(format_span(span) for span in window.spans)


def _transfer_text(transfer: Transfer) -> str:
    arrow = "<-" if transfer.inward else "->"
    via = f" via {transfer.via.name}" if transfer.via is not None else ""
    when = "once" if transfer.window.depth == 0 else f"with T{transfer.window.depth - 1}"
    return (
        f"{transfer.storage.name} {arrow} {transfer.home.name}{via}: {transfer.value.name} "
        f"{_window_text(transfer.window)}, {when}"
    )
