"""The allocator: nothing overlaps, and the peak is what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilegrad.errors import DoesNotFitError
from tilegrad.planning import Buffer, allocate, lower_bound
from tilegrad.planning.allocate import peak_of

BUFFERS = st.lists(
    st.builds(
        lambda lower, length, size: Buffer(lower, lower + length, size),
        st.integers(0, 12), st.integers(0, 8), st.integers(0, 40),
    ),
    max_size=25,
)  # fmt: skip


def conflicts(buffers: list[Buffer], offsets: list[int]) -> list[tuple[int, int]]:
    """Pairs that share a moment and an address."""
    found = []
    for a, (x, p) in enumerate(zip(buffers, offsets, strict=True)):
        for b, (y, q) in enumerate(zip(buffers[:a], offsets[:a], strict=True)):
            together = max(x.lower, y.lower) < min(x.upper, y.upper)
            if together and max(p, q) < min(p + x.size, q + y.size):
                found.append((b, a))
    return found


@given(BUFFERS)
@settings(max_examples=150, derandomize=True, deadline=None)
def test_no_two_buffers_overlap(buffers: list[Buffer]) -> None:
    offsets = allocate(buffers)
    assert not conflicts(buffers, offsets)
    assert all(offset >= 0 for offset in offsets)
    assert peak_of(buffers, offsets) >= lower_bound(buffers)


@given(BUFFERS)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_the_lower_bound_is_the_busiest_moment(buffers: list[Buffer]) -> None:
    alive = [sum(b.size for b in buffers if b.lower <= moment < b.upper) for moment in range(21)]
    assert lower_bound(buffers) == max(alive, default=0)


@given(BUFFERS, st.integers(0, 200))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_the_capacity_holds_or_is_reported(buffers: list[Buffer], capacity: int) -> None:
    try:
        offsets = allocate(buffers, capacity)
    except DoesNotFitError as error:
        assert f"of {capacity}" in str(error) and str(lower_bound(buffers)) in str(error)
        assert peak_of(buffers, allocate(buffers)) > capacity
    else:
        assert peak_of(buffers, offsets) <= capacity


def test_disjoint_lives_share_memory() -> None:
    buffers = [Buffer(0, 2, 100), Buffer(2, 4, 100), Buffer(4, 5, 60)]
    assert allocate(buffers) == [0, 0, 0]


def test_a_stack_of_lives_reaches_the_bound() -> None:
    """As in training: what the forward pass keeps dies in reverse order."""
    buffers = [Buffer(k, 20 - k, 10 + k) for k in range(10)] + [Buffer(k, k + 1, 5) for k in range(20)]
    assert peak_of(buffers, allocate(buffers)) == lower_bound(buffers)


def test_the_result_does_not_depend_on_anything_but_the_list() -> None:
    rng = np.random.default_rng(0)
    starts, sizes = rng.integers(0, 50, 200), rng.integers(1, 1000, 200)
    buffers = [Buffer(int(a), int(a) + 1 + k % 7, int(s)) for k, (a, s) in enumerate(zip(starts, sizes, strict=True))]
    assert allocate(buffers) == allocate(list(buffers))


def test_nothing_to_place() -> None:
    assert allocate([]) == [] and lower_bound([]) == 0
    with pytest.raises(DoesNotFitError):
        allocate([Buffer(0, 1, 1)], 0)
