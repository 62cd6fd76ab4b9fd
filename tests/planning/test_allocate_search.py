"""The search against trying everything, its limit, and the two forms of the greedy placement."""

from __future__ import annotations

import random
from itertools import product

import pytest
from benchmarks.allocation import perfect_packing
from hypothesis import given, settings
from hypothesis import strategies as st

from tilegrad.errors import DoesNotFitError
from tilegrad.planning import greedy as greedy_module
from tilegrad.planning.allocate import Buffer, allocate, lower_bound, peak_of
from tilegrad.planning.greedy import greedy
from tilegrad.planning.packing import Verdict, search

SMALL = st.lists(
    st.builds(
        lambda lower, length, size, alignment, offset: Buffer(
            lower, lower + length, size, alignment, None if offset is None else offset * alignment
        ),
        st.integers(0, 4), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 1, 1, 2]),
        st.sampled_from([None, None, None, None, None, 0, 1, 2]),
    ),
    max_size=7,
)  # fmt: skip


def disjoint(x: Buffer, p: int, y: Buffer, q: int) -> bool:
    """Whether two buffers at these offsets never share an address."""
    return x.upper <= y.lower or y.upper <= x.lower or p + x.size <= q or q + y.size <= p


def possible(buffers: list[Buffer], capacity: int) -> bool:
    """By trying every offset of every buffer."""
    offsets: list[int] = []

    def extend() -> bool:
        if len(offsets) == len(buffers):
            return True
        x = buffers[len(offsets)]
        for offset in range(0, capacity - x.size + 1, x.alignment):
            if x.offset in (None, offset) and all(
                disjoint(x, offset, y, q) for y, q in zip(buffers, offsets, strict=False)
            ):
                offsets.append(offset)
                if extend():
                    return True
                offsets.pop()
        return False

    return extend()


@given(SMALL, st.integers(0, 9))
@settings(max_examples=600, derandomize=True, deadline=None)
def test_the_search_finds_what_there_is_and_proves_the_rest(buffers: list[Buffer], capacity: int) -> None:
    outcome = search(buffers, capacity, 10**6)
    assert outcome.verdict is (Verdict.FITS if possible(buffers, capacity) else Verdict.IMPOSSIBLE)
    if outcome.verdict is Verdict.FITS:
        assert peak_of(buffers, outcome.offsets) <= capacity
        pairs = list(zip(buffers, outcome.offsets, strict=True))
        assert all(disjoint(*x, *y) for k, x in enumerate(pairs) for y in pairs[:k])


#: At most 7 are alive at any moment, but 8 are needed.
GAP = [
    Buffer(0, 1, 3), Buffer(0, 3, 1), Buffer(0, 4, 2), Buffer(1, 2, 2), Buffer(1, 5, 2), Buffer(2, 4, 1),
    Buffer(3, 5, 2), Buffer(4, 5, 3),
]  # fmt: skip


def test_the_lower_bound_cannot_always_be_reached() -> None:
    assert lower_bound(GAP) == 7
    assert possible(GAP, 8) and not possible(GAP, 7)
    assert peak_of(GAP, allocate(GAP)) == 8
    with pytest.raises(DoesNotFitError, match="exhaustive search proved"):
        allocate(GAP, 7)


@pytest.mark.parametrize("limit", [0, 1, 5_000])
def test_the_limit_ends_a_search(limit: int) -> None:
    buffers = perfect_packing(200, 100, 10007, 0)
    outcome = search(buffers, 10007, limit)
    assert outcome.verdict is Verdict.UNDECIDED and outcome.offsets == []
    sections = sum(b.upper - b.lower for b in buffers)
    assert outcome.work <= limit + 100 * sections


def test_small_buffers_do_not_climb_a_large_memory_one_by_one() -> None:
    """Buffers that rest on each other could lift each other by their sizes until they hit a capacity far above."""
    lives = [(2, 4, 5), (3, 6, 4), (0, 3, 7), (4, 5, 1), (4, 6, 6), (3, 5, 4)]
    buffers = [Buffer(lower, upper, size * 10**8) for lower, upper, size in lives]
    buffers += [Buffer(*b) for b in [(5, 6, 1), (2, 4, 1), (0, 2, 2), (4, 6, 1), (4, 5, 1), (0, 3, 1)]]
    outcome = search(buffers, lower_bound(buffers), 10**6)
    assert outcome.verdict is Verdict.FITS
    assert outcome.work < 10**6


def test_parts_that_nothing_connects_decide_together() -> None:
    """Five parts that share no moment; the last one does not fit 1008, while all fit 1152."""
    buffers = [Buffer(b.lower + 200, b.upper + 200, b.size * 144) for b in GAP]
    for part in range(4):
        easy = perfect_packing(20, 50, 1008, part)
        buffers = [*(Buffer(b.lower + 50 * part, b.upper + 50 * part, b.size) for b in easy), *buffers]
    assert search(buffers, 1008, 10**6).verdict is Verdict.IMPOSSIBLE
    outcome = search(buffers, 1152, 10**6)
    assert outcome.verdict is Verdict.FITS
    pairs = list(zip(buffers, outcome.offsets, strict=True))
    assert all(disjoint(*x, *y) for k, x in enumerate(pairs) for y in pairs[:k])


@pytest.mark.parametrize("seed", range(6))
def test_both_forms_of_the_greedy_placement_agree(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    buffers = [
        Buffer(a := rng.randrange(40), a + rng.randrange(12), rng.randrange(30), rng.choice([1, 1, 4]))
        for _ in range(150)
    ]
    fixed = [Buffer(k * 10, k * 10 + 5, 7, offset=9 * k) for k in range(4)]
    few = greedy([*buffers, *fixed], 0)
    monkeypatch.setattr(greedy_module, "_MANY", 0)
    assert greedy([*buffers, *fixed], 0) == few


def test_greedy_takes_the_smallest_gap() -> None:
    """Gaps of 4 and 2 units between three given buffers; the smaller one takes the small gap, whatever the order."""
    fixed = [Buffer(0, 9, 2, offset=0), Buffer(0, 9, 2, offset=6), Buffer(0, 9, 2, offset=10)]
    for first, second in product([2, 4], [2, 4]):
        if first != second:
            offsets = greedy([*fixed, Buffer(0, 9, first), Buffer(0, 9, second)], 0)
            assert offsets[3:] == [8 if first == 2 else 2, 8 if second == 2 else 2]
