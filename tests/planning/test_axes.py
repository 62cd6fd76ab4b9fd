"""Axes of groups: every tile is self-contained, and together the tiles are the whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from tests.transforms.test_random_networks import Network

from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import Domain, Pieces, elementwise, lookup, reduce_sum, reshape, transpose
from tilegrad.ir.graph import Graph, Nest, Store, StructuredOp, Value, clone
from tilegrad.ir.types import DType, Kind
from tilegrad.planning.axes import Axis, Views, find_axis, split_row
from tilegrad.planning.span import Span, TileLoop
from tilegrad.planning.storages import views_of
from tilegrad.transforms.pipeline import transform

Element = tuple[int, ...]


def tensor(*shape: int) -> Value:
    return Value("x", shape, DType.F32, Kind.PARAMETER)


def traced(body: Callable[[], object]) -> tuple[list[StructuredOp], Views]:
    graph = Graph("train")
    with graph.building():
        body()
    return [op for op in graph.ops if isinstance(op, StructuredOp)], views_of(graph)


def convolution(x: Value, outputs: int, taps: int, stride: int = 1, pad: int = 0) -> Value:
    d = Domain()
    k, i = d.parallel(outputs, (x.shape[1] + 2 * pad - taps) // stride + 1)
    c, r = d.reduction(x.shape[0], taps)
    return d.sum(x[c, i * stride + r - pad] * tensor(outputs, x.shape[0], taps)[k, c, r], (k, i))


def pooling(x: Value, size: int) -> Value:
    d = Domain()
    c, i = d.parallel(x.shape[0], x.shape[1] // size)
    (r,) = d.reduction(size)
    return d.max(x[c, i * size + r], (c, i))


def relu(x: Value) -> Value:
    return elementwise(lambda v: sc.select(v > 0.0, v, 0.0), x)


# What the iterators of a convolution, a normalisation and a pooling have in common


def test_channels_and_places_run_through_elementwise_operations_and_statistics() -> None:
    x = tensor(3, 16)

    def body() -> None:
        y = convolution(x, 4, 3, pad=1)
        mean = reduce_sum(y, 1, True)
        relu(elementwise(lambda v, m: v - m, y, mean))

    ops, views = traced(body)
    channels = find_axis(ops, views, ((0, 0), 0))
    assert channels is not None and channels.extent == 4 and not channels.cuts
    assert [channels.iterators[k, 0] for k in range(len(ops))] == [(0, 1)] * len(ops)
    assert channels.dims[ops[0].outputs[0]] == (0, 1)
    # Places do not: the mean needs all of them before anything reads it.
    assert find_axis(ops, views, ((0, 0), 1)) is None
    # Without the statistics they do.
    places = find_axis(ops[:1], views, ((0, 0), 1))
    assert places is not None and places.extent == 16


def test_an_axis_has_the_scale_of_a_pooling() -> None:
    x = tensor(3, 24)
    ops, views = traced(lambda: pooling(relu(x), 4))
    for seed in (((1, 0), 1), ((0, 0), 1)):
        axis = find_axis(ops, views, seed)
        assert axis is not None
        assert axis.extent == 6
        assert axis.iterators == {(0, 0): (1, 4), (1, 0): (1, 1)}
        assert axis.dims == {ops[0].outputs[0]: (1, 4), ops[1].outputs[0]: (1, 1)}


def test_windows_that_overlap_are_not_cut() -> None:
    x = tensor(3, 24)
    ops, views = traced(lambda: convolution(relu(x), 2, 3))
    assert find_axis(ops, views, ((1, 0), 1)) is None  # a tile would need elements of its neighbours
    assert find_axis(ops[1:], views, ((0, 0), 1)) is not None  # what comes from outside may overlap
    reduced = find_axis(ops, views, ((1, 0), 2))  # channels of the input: the sum runs over tiles
    assert reduced is not None and reduced.cuts == {1} and reduced.iterators == {(0, 0): (0, 1), (1, 0): (2, 1)}


def test_what_nobody_has_seen_completely_is_not_read() -> None:
    x = tensor(3, 24)
    ops, views = traced(lambda: relu(reduce_sum(x, 1)))
    assert find_axis(ops, views, ((0, 0), 1)) is None  # the sum is complete in the last tile only
    alone = find_axis(ops[:1], views, ((0, 0), 1))
    assert alone is not None and alone.cuts == {0}


def test_only_the_slowest_reduction_is_cut() -> None:
    """Its ranges continue each other in the order of the terms; those of the others would not."""
    x = tensor(2, 3, 4)
    ops, views = traced(lambda: reduce_sum(x, (1, 2)))
    assert find_axis(ops, views, ((0, 0), 1)) is not None
    assert find_axis(ops, views, ((0, 0), 2)) is None


def test_maxima_and_their_positions_are_cut_where_the_outputs_can_keep_them() -> None:
    x = tensor(2, 8)

    def body() -> None:
        d = Domain()
        (i,) = d.parallel(2)
        (r,) = d.reduction(8)
        d.argmax(x[i, r], (i,))

    (op,), views = traced(body)
    axis = find_axis([op], views, ((0, 0), 1))
    assert axis is not None and axis.cuts == {0}
    (nest,) = op.nests
    outputs = (op.outputs[0], Value("position", (2,), DType.U8, Kind.TEMPORARY))
    narrow = replace(op, outputs=outputs, nests=(replace(nest, results=(replace(nest.results[0], outputs=outputs),)),))
    assert find_axis([narrow], views, ((0, 0), 1)) is None
    assert find_axis([narrow], views, ((0, 0), 0)) is not None


def test_pieces_by_residue_share_one_axis() -> None:
    """The gradient of a strided convolution: even and odd elements are written by nests of their own."""
    x = tensor(7)

    def body() -> None:
        pieces = Pieces((14,))
        for residue in range(2):
            d = Domain()
            (i,) = d.parallel(7)
            pieces.assign(d, x[i] * float(residue + 1), (i * 2 + residue,))
        relu(pieces.finish())

    ops, views = traced(body)
    axis = find_axis(ops, views, ((0, 1), 0))
    assert axis is not None and axis.extent == 7
    assert axis.iterators == {(0, 0): (0, 1), (0, 1): (0, 1), (1, 0): (0, 2)}


def test_pieces_one_behind_the_other_share_none() -> None:
    x = tensor(2, 7)

    def body() -> None:
        pieces = Pieces((2, 14))
        for half in range(2):
            d = Domain()
            c, i = d.parallel(2, 7)
            pieces.assign(d, x[c, i], (c, i + 7 * half))
        pieces.finish()

    ops, views = traced(body)
    assert find_axis(ops, views, ((0, 0), 1)) is None
    rows = find_axis(ops, views, ((0, 0), 0))
    assert rows is not None and rows.extent == 2


def test_views_keep_axes_with_the_same_extent_and_stride() -> None:
    x = tensor(2, 3, 4)
    ops, views = traced(lambda: relu(reshape(relu(x), (2, 12))))
    axis = find_axis(ops, views, ((0, 0), 0))
    assert axis is not None and axis.iterators == {(0, 0): (0, 1), (1, 0): (0, 1)}
    assert find_axis(ops, views, ((0, 0), 1)) is None
    assert find_axis(ops, views, ((1, 0), 1)) is None
    seen = ops[1].operands[0]
    assert axis.dims[seen] == (0, 1)
    assert views.aligned(ops[0].outputs[0], seen) == {0: 0}


def test_a_transposition_moves_an_axis() -> None:
    x = tensor(3, 5)
    ops, views = traced(lambda: relu(transpose(relu(x), (1, 0))))
    axis = find_axis(ops, views, ((0, 0), 1))
    assert axis is not None and axis.dims[ops[0].outputs[0]] == (1, 1) and axis.dims[ops[-1].outputs[0]] == (0, 1)


def test_a_tensor_read_at_two_places_is_not_cut_there() -> None:
    x = tensor(5, 5)
    ops, views = traced(lambda: elementwise(lambda a, b: a + b, y := relu(x), transpose(y, (1, 0))))
    assert all(find_axis(ops, views, ((0, 0), iterator)) is None for iterator in (0, 1))


def test_lookups_read_all() -> None:
    x, table = tensor(6, 4), Value("t", (5,), DType.I32, Kind.INPUT)

    def body() -> None:
        y = relu(x)
        d = Domain()
        i, j = d.parallel(5, 4)
        d.assign(y[lookup(table, i), j], (i, j), init=0)

    ops, views = traced(body)
    assert find_axis(ops, views, ((1, 0), 0)) is None
    columns = find_axis(ops, views, ((1, 0), 1))
    assert columns is not None and columns.iterators == {(0, 0): (1, 1), (1, 0): (1, 1)}


@pytest.mark.parametrize(
    ("row", "extents", "expected"),
    [
        (Affine(((0, 1),)), (5,), 1),
        (Affine(((0, 4), (1, 1))), (5, 4), 4),
        (Affine(((0, 4), (1, 1))), (5, 5), None),  # windows overlap
        (Affine(((0, 4), (1, 1)), 1), (5, 4), None),  # and reach into the next
        (Affine(((0, 4), (1, 1)), 1), (5, 3), 4),
        (Affine(((0, 2),), -1), (5,), None),
        (Affine(((0, -1),), 4), (5,), None),
        (Affine(((0, 1),), 3), (5,), None),
    ],
)
def test_ranges_map_to_ranges_where_the_rest_of_an_index_stays_within_a_step(
    row: Affine, extents: tuple[int, ...], expected: int | None
) -> None:
    assert split_row(row, extents, 0) == expected


# Against enumeration


def drawn_ops(seed: int, *, optimize: bool) -> tuple[list[StructuredOp], Views]:
    """A drawn network, forward and backward."""
    network = Network(seed)
    graph = clone(network.graph, "train")
    graph.stores = [Store(Value("o", v.shape, v.dtype, Kind.OUTPUT), v) for v in network.outputs]
    if optimize:
        transform(graph)
    return [op for op in graph.ops if isinstance(op, StructuredOp)], views_of(graph)


def points(nest: Nest, spans: Sequence[Span], tile: tuple[int, int]) -> Iterator[Element]:
    yield from itertools.product(*(range(*span.bounds([tile])) for span in spans))


def at(index: Sequence[Affine], point: Element) -> Element:
    return tuple(row.constant + sum(c * point[i] for i, c in row.terms) for row in index)


class Tiles:
    """The tiles of a group along an axis, enumerated.

    Args:
        ops: the group.
        views: the views of the graph.
        axis: the axis.
        step: elements of a tile.
    """

    def __init__(self, ops: Sequence[StructuredOp], views: Views, axis: Axis, step: int) -> None:
        self.ops, self.views, self.axis = ops, views, axis
        self.loop = TileLoop(axis.extent, step)
        self.inside = {output for op in ops for output in op.outputs}
        self.nests = [((k, n), nest) for k, op in enumerate(ops) for n, nest in enumerate(op.nests)]

    def part(self, value: Value, tile: tuple[int, int]) -> range:
        """What a tile holds of a tensor, along the axis of it that is cut."""
        dim, scale = self.axis.dims[value]
        return range(*Span.tile(0, value.shape[dim], scale).bounds([tile]))

    def holds(self, value: Value, element: Element, tile: tuple[int, int]) -> bool:
        return value not in self.axis.dims or element[self.axis.dims[value][0]] in self.part(value, tile)

    def points(self, place: tuple[int, int], nest: Nest, tile: tuple[int, int]) -> Iterator[Element]:
        spans = [Span.whole(extent) for extent in nest.extents]
        iterator, scale = self.axis.iterators[place]
        spans[iterator] = Span.tile(0, nest.extents[iterator], scale)
        return points(nest, spans, tile)

    def check_reads(self, nest: Nest, point: Element, tile: tuple[int, int]) -> None:
        for access in nest.accesses():
            if self.views.root(access.value) not in self.inside or any(row.lookups for row in access.index):
                continue
            element = at(access.index, point)
            if all(0 <= e < s for e, s in zip(element, access.value.shape, strict=True)):
                assert self.holds(access.value, element, tile)

    def check(self) -> None:
        """What a tile reads of the group's own tensors is in the tile; every point runs once; all is initialised."""
        covered: dict[Value, list[int]] = {output: [] for output in self.inside if output in self.axis.dims}
        ran: dict[tuple[int, int], list[Element]] = {place: [] for place, _ in self.nests}
        for tile in map(self.loop.range, range(self.loop.count)):
            for place, nest in self.nests:
                for point in self.points(place, nest, tile):
                    ran[place].append(point)
                    self.check_reads(nest, point, tile)
                    for result in nest.results:
                        assert all(self.holds(output, at(result.index, point), tile) for output in result.outputs)
            for output, found in covered.items():
                found.extend(self.part(output, tile))
        for output, found in covered.items():
            assert found == list(range(output.shape[self.axis.dims[output][0]]))
        for place, nest in self.nests:
            assert sorted(ran[place]) == list(itertools.product(*map(range, nest.extents)))


@pytest.mark.parametrize("seed", range(12))
def test_tiles_of_drawn_groups_are_self_contained_and_complete(seed: int) -> None:
    ops, views = drawn_ops(seed, optimize=seed % 2 == 0)
    found = 0
    for length in (1, 2, 3):
        for begin in range(0, len(ops) - length + 1, 3):
            group = ops[begin : begin + length]
            if sum(nest.points for op in group for nest in op.nests) > 4000:
                continue
            for iterator in range(len(group[0].nests[0].extents)):
                axis = find_axis(group, views, ((0, 0), iterator))
                if axis is not None and axis.extent > 1:
                    Tiles(group, views, axis, 1 + (begin + iterator) % 3).check()
                    found += 1
    assert found


def test_tiles_cover_what_no_nest_writes() -> None:
    """The gradient of a convolution whose stride leaves elements at the end untouched: they are zero, in some tile."""
    x = tensor(6)

    def body() -> None:
        pieces = Pieces((20,), init=0)
        d = Domain()
        (i,) = d.parallel(6)
        pieces.assign(d, x[i], (i * 3,))
        pieces.finish()

    ops, views = traced(body)
    axis = find_axis(ops, views, ((0, 0), 0))
    assert axis is not None
    assert axis.extent == 7  # 7 * 3 elements reach the end
    Tiles(ops, views, axis, 2).check()
