"""Spans against enumeration: what tiles touch, and the images of that under affine indices."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilegrad.ir.affine import Affine, Lookup
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType, Kind
from tilegrad.planning.span import Span, TileLoop, image

loops_drawn = st.lists(
    st.integers(1, 12).flatmap(lambda extent: st.builds(TileLoop, st.just(extent), st.integers(1, extent))),
    min_size=1, max_size=2,
)  # fmt: skip


@st.composite
def spans(draw: st.DrawFn, loops: list[TileLoop]) -> Span:
    """A whole axis, or one that a loop cuts with any scale; the last range of the axis may be short."""
    loop = draw(st.integers(-1, len(loops) - 1))
    if loop < 0:
        return Span.whole(draw(st.integers(1, 6)))
    scale = draw(st.integers(1, 3))
    full = loops[loop].extent * scale
    return Span.tile(loop, draw(st.integers(max(full - scale + 1, 1), full)), scale)


def tiles_of(loops: list[TileLoop]) -> list[tuple[tuple[int, int], ...]]:
    return [
        tuple(loop.range(k) for loop, k in zip(loops, numbers, strict=True))
        for numbers in itertools.product(*(range(loop.count) for loop in loops))
    ]


@given(st.data())
def test_tiles_divide_an_axis(data: st.DataObject) -> None:
    """Ranges of a span without halo follow each other and cover the axis, each within the size of its buffer."""
    (loop,) = data.draw(loops_drawn.filter(lambda found: len(found) == 1))
    scale = data.draw(st.integers(1, 3))
    full = loop.extent * scale
    span = Span.tile(0, data.draw(st.integers(max(full - scale + 1, 1), full)), scale)
    covered: list[int] = []
    for tile in tiles_of([loop]):
        first, last = span.bounds(tile)
        assert last - first <= span.size([loop])
        covered.extend(range(first, last))
    assert covered == list(range(span.extent))
    assert loop.exact == (len({loop.range(k)[1] for k in range(loop.count)}) == 1)


@given(st.data())
def test_an_image_contains_every_index_and_begins_and_ends_with_one(data: st.DataObject) -> None:
    """For tiles of full size that stay within their axes the image is the hull; for all others it contains it."""
    loops = data.draw(loops_drawn)
    ranges = [data.draw(spans(loops)) for _ in range(data.draw(st.integers(1, 3)))]
    coefficients = [data.draw(st.integers(-3, 3)) for _ in ranges]
    row = Affine(tuple((k, c) for k, c in enumerate(coefficients) if c), data.draw(st.integers(-4, 4)))
    extent = data.draw(st.integers(1, 30))
    found = image(row, ranges, extent)
    if found is None:
        moving: dict[int, set[bool]] = {}
        for k, c in row.terms:
            for loop, _ in ranges[k].terms:
                moving.setdefault(loop, set()).add(c > 0)
        assert any(len(directions) == 2 for directions in moving.values())
        return
    for tile in tiles_of(loops):
        clipped = [span.bounds(tile) for span in ranges]
        touched = {
            row.constant + sum(c * point[k] for k, c in row.terms)
            for point in itertools.product(*(range(*bounds) for bounds in clipped))
        }
        inside = [index for index in touched if 0 <= index < extent]
        first, last = found.bounds(tile)
        assert 0 <= first <= last <= extent
        assert not inside or (first <= min(inside) and max(inside) < last)
        unclipped = all(
            last - first == sum(abs(s) * tile[loop][1] for loop, s in span.terms) + span.extra
            for span, (first, last) in zip(ranges, clipped, strict=True)
        )
        if unclipped and touched:
            assert (first, last) == (
                min(max(min(touched), 0), extent),
                max(min(max(touched) + 1, extent), min(max(min(touched), 0), extent)),
            )
        # The buffer of a load holds all of it, wherever the window leaves the tensor.
        size, origin = found.size(loops), found.origin(tile, loops)
        assert origin >= 0 and origin + size <= extent
        assert first == last or (origin <= first and last <= origin + size)


def test_the_halo_of_a_convolution() -> None:
    loop = TileLoop(10, 4)
    row = Affine(((0, 2), (1, 1)), -1)  # stride 2, three taps, one element of padding
    found = image(row, [Span.tile(0, 10), Span.whole(3)], 20)
    assert found == Span(((0, 2),), -1, 1, 20)
    assert found is not None and found.size([loop]) == 9 and found.depth == 1
    assert [found.bounds([loop.range(k)]) for k in range(3)] == [(0, 8), (7, 16), (15, 20)]
    assert [found.origin([loop.range(k)], [loop]) for k in range(3)] == [0, 7, 11]


def test_a_reversed_axis_moves_backwards() -> None:
    loop = TileLoop(10, 4)
    found = image(Affine(((0, -1),), 9), [Span.tile(0, 10)], 10)
    assert found is not None
    assert [found.bounds([loop.range(k)]) for k in range(3)] == [(6, 10), (2, 6), (0, 2)]


def test_opposite_movements_and_lookups_may_touch_all() -> None:
    tile = Span.tile(0, 8)
    assert image(Affine(((0, 1), (1, -1)), 4), [tile, tile], 16) is None
    table = Value("t", (8,), DType.I32, Kind.INPUT)
    assert image(Affine((), 0, (Lookup(1, table, (Affine.iterator(0),)),)), [tile], 16) is None


@pytest.mark.parametrize(
    ("span", "whole", "depth"),
    [
        (Span.whole(5), True, 0),
        (Span((), -1, 7, 5), True, 0),
        (Span((), 1, 4, 5), False, 0),
        (Span.tile(1, 5), False, 2),
    ],
)
def test_whole_axes_do_not_move(span: Span, whole: bool, depth: int) -> None:
    assert (span.is_whole, span.depth) == (whole, depth)
