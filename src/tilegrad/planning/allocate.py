"""Static allocation: addresses for buffers with known lifetimes in one memory.

A greedy placement is tried first (`greedy.py`). What it misses by anything goes to an exact search (`packing.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from tilegrad.errors import DoesNotFitError
from tilegrad.planning.buffers import Buffer, lower_bound, peak_of
from tilegrad.planning.greedy import greedy
from tilegrad.planning.packing import Outcome, Verdict, search

__all__ = ["Buffer", "allocate", "lower_bound", "peak_of"]

#: The search's limit when a capacity is to be met.
_LIMIT_TO_FIT = 100_000_000
#: The limit of all searches together when the peak is only to become lower: so much per buffer, and so much at most.
_LIMIT_PER_BUFFER = 50_000
_LIMIT_TO_LOWER = 20_000_000
#: More buffers than this are left to the greedy placement unless a capacity is to be met.
_MOST_TO_LOWER = 1_000


def allocate(
    buffers: Sequence[Buffer],
    capacity: int | None = None,
    *,
    effort: Literal["quick", "exact"] = "exact",
    limit: int | None = None,
) -> list[int]:
    """Assign an offset to every buffer such that no two overlap in both time and space.

    The result depends on the arguments only, not on the machine or its load.

    Args:
        buffers: what to place. Buffers that have an offset keep it; those that are never alive, or have no size, are
            at 0 otherwise.
        capacity: size of the memory; the search ends as soon as everything fits. None for unlimited: the search tries
            to bring the peak down to the lower bound (up to a thousand buffers).
        effort: "quick" for the greedy placement alone, "exact" for the search too, where that misses.
        limit: how much work the search may spend, in buffers looked at, a few million of which take a second. By
            default one hundred million with a capacity; without one fifty thousand per buffer, but twenty million at
            most.

    Returns:
        The offsets, in the order of `buffers`.

    Raises:
        DoesNotFitError: if the buffers do not fit the capacity, or no way to fit them was found; the message says
            which. Also if buffers with given offsets are in each other's way.
    """
    bound = lower_bound(buffers)
    if capacity is not None and bound > capacity:
        raise DoesNotFitError(
            f"the buffers need at least {bound} of {capacity}: so much is alive at one moment, or below the end of "
            "a buffer with a given offset"
        )
    _check_given(buffers)
    offsets = greedy(buffers, bound if capacity is None else capacity)
    peak = peak_of(buffers, offsets)
    if capacity is None:
        if effort == "quick" or peak == bound or len(buffers) > _MOST_TO_LOWER:
            return offsets
        if limit is None:
            limit = min(_LIMIT_PER_BUFFER * len(buffers), _LIMIT_TO_LOWER)
        return _lowered(buffers, offsets, bound, limit)
    if peak <= capacity:
        return offsets
    needs = f"the greedy placement needs {peak} of {capacity}, and at least {bound} are alive at one moment"
    if effort == "quick":
        raise DoesNotFitError(f"{needs}; effort='exact' would search for a better one")
    outcome = search(buffers, capacity, _LIMIT_TO_FIT if limit is None else limit)
    if outcome.verdict is not Verdict.FITS:
        raise DoesNotFitError(f"{needs}; {_explain(outcome)}")
    return outcome.offsets


def _explain(outcome: Outcome) -> str:
    figures = f"after {outcome.nodes} decisions and {outcome.work} units of work"
    if outcome.verdict is Verdict.IMPOSSIBLE:
        return f"an exhaustive search proved {figures} that no placement fits"
    return f"a search neither found a placement that fits nor proved that there is none {figures}; raise its limit"


def _lowered(buffers: Sequence[Buffer], offsets: list[int], bound: int, limit: int) -> list[int]:
    """The best of `offsets` and what searches below its peak find: first at the bound, then by bisection.

    Each search may spend half of what is left of the limit.
    """
    unit = math.gcd(
        *(b.size for b in buffers if b.occupies),
        *(b.alignment for b in buffers if b.occupies and b.alignment > 1),
        *(b.offset for b in buffers if b.occupies and b.offset is not None),
    )  # every peak that can be needed is a multiple of it
    peak = peak_of(buffers, offsets)
    floor = target = bound
    while floor < peak and limit > 0:
        outcome = search(buffers, target, -(-limit // 2))
        limit -= outcome.work
        if outcome.verdict is Verdict.FITS:
            offsets, peak = outcome.offsets, peak_of(buffers, outcome.offsets)
        else:
            floor = target + unit
        target = floor + (peak - floor) // unit // 2 * unit
    return offsets


def _check_given(buffers: Sequence[Buffer]) -> None:
    given = sorted(
        (buffer.offset, position)
        for position, buffer in enumerate(buffers)
        if buffer.occupies and buffer.offset is not None
    )
    for index, (offset, a) in enumerate(given):
        for other, b in given[index + 1 :]:
            if other >= offset + buffers[a].size:
                break
            if buffers[a].lower < buffers[b].upper and buffers[b].lower < buffers[a].upper:
                raise DoesNotFitError(
                    f"buffers {a} and {b} have given offsets and are in each other's way: {buffers[a]}, {buffers[b]}"
                )
