"""The allocator: nothing overlaps, the peak is what it says, and tight capacities are met."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from benchmarks.allocation import perfect_packing
from hypothesis import given, settings
from hypothesis import strategies as st

import tilegrad as tg
from tilegrad.errors import DoesNotFitError, UserError
from tilegrad.planning import Buffer, allocate, lower_bound
from tilegrad.planning.allocate import peak_of

BUFFERS = st.lists(
    st.builds(
        lambda lower, length, size: Buffer(lower, lower + length, size),
        st.integers(0, 12), st.integers(0, 8), st.integers(0, 40),
    ),
    max_size=25,
)  # fmt: skip
ALIGNED = st.lists(
    st.builds(
        lambda lower, length, size, alignment, offset: Buffer(
            lower, lower + length, size, alignment, None if offset is None else offset * alignment
        ),
        st.integers(0, 6), st.integers(0, 5), st.integers(0, 12), st.sampled_from([1, 2, 3, 8]),
        st.sampled_from([None, None, None, None, 0, 1, 5]),
    ),
    max_size=9,
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


@given(BUFFERS, st.sampled_from(["quick", "exact"]))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_no_two_buffers_overlap(buffers: list[Buffer], effort: str) -> None:
    offsets = allocate(buffers, effort=effort)  # type: ignore[arg-type]
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
        assert not conflicts(buffers, offsets)
        assert peak_of(buffers, offsets) <= capacity


@given(ALIGNED, st.integers(0, 60))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_alignments_and_given_offsets_are_kept(buffers: list[Buffer], capacity: int) -> None:
    for limit in (None, capacity):
        try:
            offsets = allocate(buffers, limit)
        except DoesNotFitError:
            continue
        assert not conflicts(buffers, offsets)
        assert limit is None or peak_of(buffers, offsets) <= limit
        for buffer, offset in zip(buffers, offsets, strict=True):
            assert offset % buffer.alignment == 0
            assert buffer.offset in (None, offset)


def test_disjoint_lives_share_memory() -> None:
    buffers = [Buffer(0, 2, 100), Buffer(2, 4, 100), Buffer(4, 5, 60)]
    assert allocate(buffers) == [0, 0, 0]


def test_a_stack_of_lives_reaches_the_bound() -> None:
    """As in training: what the forward pass keeps dies in reverse order."""
    buffers = [Buffer(k, 20 - k, 10 + k) for k in range(10)] + [Buffer(k, k + 1, 5) for k in range(20)]
    assert peak_of(buffers, allocate(buffers)) == lower_bound(buffers)


@pytest.mark.parametrize("count", [20, 60, 120, 150])
@pytest.mark.parametrize("seed", range(3))
def test_a_perfect_packing_is_found(count: int, seed: int) -> None:
    """At every moment the whole capacity is taken; the cuts need not be at round numbers."""
    buffers = perfect_packing(count, 100, 10007, seed)
    assert lower_bound(buffers) == 10007
    assert sum(b.size * (b.upper - b.lower) for b in buffers) == 100 * 10007
    offsets = allocate(buffers, 10007)
    assert peak_of(buffers, offsets) == 10007
    assert not conflicts(buffers, offsets)


@pytest.mark.parametrize("count", [20, 60, 120])
def test_without_a_capacity_the_search_goes_down_to_the_bound(count: int) -> None:
    buffers = perfect_packing(count, 100, 10007, 0)
    offsets = allocate(buffers)
    assert peak_of(buffers, offsets) == 10007
    assert not conflicts(buffers, offsets)


def test_some_perfect_packings_need_the_search() -> None:
    """Otherwise the test above says nothing about it."""
    buffers = perfect_packing(200, 100, 10007, 0)
    assert peak_of(buffers, allocate(buffers, effort="quick")) > 10007
    with pytest.raises(DoesNotFitError, match=r"of 10007.*exact"):
        allocate(buffers, 10007, effort="quick")


def test_a_perfect_packing_does_not_fit_one_unit_less() -> None:
    buffers = perfect_packing(60, 100, 10007, 0)
    with pytest.raises(DoesNotFitError, match="at least 10007 of 10006"):
        allocate(buffers, 10006)


def test_the_result_does_not_depend_on_anything_but_the_list() -> None:
    rng = np.random.default_rng(0)
    starts, sizes = rng.integers(0, 50, 200), rng.integers(1, 1000, 200)
    buffers = [Buffer(int(a), int(a) + 1 + k % 7, int(s)) for k, (a, s) in enumerate(zip(starts, sizes, strict=True))]
    assert allocate(buffers) == allocate(list(buffers))


def test_the_result_does_not_depend_on_hashes() -> None:
    script = (
        "from benchmarks.allocation import perfect_packing\n"
        "from tilegrad.planning import allocate\n"
        "print(allocate(perfect_packing(200, 100, 10007, 0), 10007))"
    )
    outputs = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(["src", "."])}
        command = [sys.executable, "-c", script]
        outputs.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(outputs) == 1


def test_the_order_of_the_list_is_the_order_of_the_offsets() -> None:
    buffers = perfect_packing(100, 100, 10007, 0)
    offsets = allocate(buffers[::-1], 10007)[::-1]
    assert not conflicts(buffers, offsets)


def test_nothing_to_place() -> None:
    assert allocate([]) == [] and lower_bound([]) == 0
    assert allocate([], 0) == []
    with pytest.raises(DoesNotFitError):
        allocate([Buffer(0, 1, 1)], 0)


def test_buffers_without_size_or_life_need_nothing() -> None:
    buffers = [Buffer(0, 4, 0), Buffer(2, 2, 50), Buffer(9, 3, 50), Buffer(0, 4, 10), Buffer(3, 4, 0, 8, 64)]
    assert allocate(buffers, 10) == [0, 0, 0, 0, 64]
    assert lower_bound(buffers) == 10


def test_alignment_costs_what_it_must() -> None:
    buffers = [Buffer(0, 2, 3, 8), Buffer(0, 2, 3, 8), Buffer(0, 2, 5, 1)]
    assert peak_of(buffers, allocate(buffers)) == 11
    with pytest.raises(DoesNotFitError, match="proved"):
        allocate([Buffer(0, 2, 3, 8), Buffer(0, 2, 3, 8)], 10)


def test_others_keep_clear_of_a_given_offset() -> None:
    buffers = [Buffer(0, 4, 4, offset=4), Buffer(0, 2, 4), Buffer(1, 4, 4), Buffer(3, 5, 8, offset=8)]
    offsets = allocate(buffers)
    assert offsets[0] == 4 and offsets[3] == 8 and not conflicts(buffers, offsets)
    assert lower_bound(buffers) == 16


def test_given_offsets_in_each_others_way_are_reported() -> None:
    buffers = [Buffer(0, 2, 4, offset=0), Buffer(2, 3, 4, offset=0), Buffer(1, 3, 4, offset=2)]
    with pytest.raises(DoesNotFitError, match="buffers 0 and 2"):
        allocate(buffers)


@pytest.mark.parametrize(
    "arguments",
    [{"size": -1}, {"size": 1, "alignment": 0}, {"size": 1, "offset": -4}, {"size": 1, "alignment": 4, "offset": 2}],
)
def test_buffers_that_make_no_sense_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(UserError):
        Buffer(0, 1, **arguments)


def test_giving_up_is_told_from_a_proof() -> None:
    buffers = perfect_packing(200, 100, 10007, 0)
    with pytest.raises(tg.DoesNotFitError, match=r"neither found .* nor proved .* raise its limit"):
        allocate(buffers, 10007, limit=1000)


def test_the_search_can_be_left_out_without_a_capacity() -> None:
    buffers = perfect_packing(200, 100, 10007, 0)
    assert allocate(buffers, limit=0) == allocate(buffers, effort="quick")


@pytest.mark.parametrize("longest", [40, 2500])
def test_many_buffers(longest: int) -> None:
    """Some thousand buffers are placed in about a second; what counts here is that they are placed right."""
    rng = np.random.default_rng(1)
    lower, length, size = rng.integers(0, 5000, 5000), rng.integers(1, longest, 5000), rng.integers(1, 1000, 5000)
    buffers = [Buffer(int(a), int(a + d), int(s)) for a, d, s in zip(lower, length, size, strict=True)]
    offsets = np.array(allocate(buffers))
    assert peak_of(buffers, offsets.tolist()) <= 1.15 * lower_bound(buffers)
    for k in range(5000):
        together = (lower < lower[k] + length[k]) & (lower[k] < lower + length)
        overlap = together & (offsets < offsets[k] + size[k]) & (offsets[k] < offsets + size)
        assert np.flatnonzero(overlap).tolist() == [k]
