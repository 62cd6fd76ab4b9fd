"""Views and permutations: reshape, squeeze, transpose, expand, tile, and the shuffles made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilegrad.errors import ShapeError
from tilegrad.ir.builder import Domain, broadcast_shapes, broadcast_to, transpose
from tilegrad.ir.builder import reshape as view
from tilegrad.ir.graph import Value
from tilegrad.operators.arguments import axis_of, static_ints
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx


@aten(
    "aten.view.default", "aten.reshape.default", "aten._unsafe_view.default", "aten.view_copy.default",
)  # fmt: skip
def reshape(x: Value, shape: Sequence[int]) -> Value:
    """The same flat contents under another shape; one extent may be -1."""
    return view(x, static_ints(shape, "the shape of reshape"))


@aten("aten._reshape_alias.default")
def reshape_alias(x: Value, size: Sequence[int], stride: Sequence[int]) -> Value:
    """`reshape`; values are contiguous, so the strides say nothing new."""
    return reshape(x, size)


@aten("aten.view_as.default", "aten.reshape_as.default")
def reshape_as(x: Value, other: Value) -> Value:
    """`x` in the shape of `other`."""
    return view(x, other.shape)


@aten("aten.flatten.using_ints")
def flatten(x: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    """The axes from `start_dim` to `end_dim`, both included, as one."""
    if not x.rank:
        return view(x, (1,))
    first, last = axis_of(start_dim, x.rank, "flatten"), axis_of(end_dim, x.rank, "flatten")
    if first > last:
        raise ShapeError(f"flatten: start_dim {start_dim} is behind end_dim {end_dim} in {x.name} of shape {x.shape}")
    return view(x, (*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :]))


@aten("aten.ravel.default")
def ravel(x: Value) -> Value:
    """All axes as one."""
    return view(x, (x.size,))


@aten("aten.unflatten.int")
def unflatten(x: Value, dim: int, sizes: Sequence[int]) -> Value:
    """One axis split into several; one of the sizes may be -1."""
    axis = axis_of(dim, x.rank, "unflatten")
    extents = static_ints(sizes, "the sizes of unflatten")
    if extents.count(-1) == 1:
        known = math.prod(n for n in extents if n != -1)
        extents[extents.index(-1)] = x.shape[axis] // known if known else 0
    if math.prod(extents) != x.shape[axis]:
        raise ShapeError(f"unflatten: axis {dim} of {x.name} has extent {x.shape[axis]}, not that of {tuple(sizes)}")
    return view(x, (*x.shape[:axis], *extents, *x.shape[axis + 1 :]))


@aten(
    "aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims", "aten.squeeze_.default", "aten.squeeze_.dim",
    "aten.squeeze_.dims", "aten.squeeze_copy.default", "aten.squeeze_copy.dim", "aten.squeeze_copy.dims",
)  # fmt: skip
def squeeze(x: Value, dim: int | Sequence[int] | None = None) -> Value:
    """Without the axes of extent 1, or without those of them that `dim` names."""
    if dim is None:
        axes = list(range(x.rank))
    else:
        axes = [axis_of(axis, x.rank, "squeeze") for axis in static_ints(dim, "the axes of squeeze")]
    return view(x, [extent for axis, extent in enumerate(x.shape) if axis not in axes or extent != 1])


@aten("aten.unsqueeze.default", "aten.unsqueeze_.default", "aten.unsqueeze_copy.default")
def unsqueeze(x: Value, dim: int) -> Value:
    """With a new axis of extent 1 at `dim`."""
    axis = axis_of(dim, x.rank + 1, "unsqueeze")
    return view(x, (*x.shape[:axis], 1, *x.shape[axis:]))


@aten("aten.permute.default", "aten.permute_copy.default")
def permute(x: Value, dims: Sequence[int]) -> Value:
    """The axes in the order `dims`.

    Raises:
        ShapeError: if `dims` is not a permutation of the axes.
    """
    order = [axis_of(axis, x.rank, "permute") for axis in dims]
    if sorted(order) != list(range(x.rank)):
        raise ShapeError(f"permute: {tuple(dims)} is not a permutation of the {x.rank} axes of {x.name}")
    return transpose(x, order) if x.rank else x


@aten(
    "aten.transpose.int", "aten.transpose_.default", "aten.transpose_copy.int", "aten.swapaxes.default",
    "aten.swapdims.default",
)  # fmt: skip
def swap(x: Value, dim0: int, dim1: int) -> Value:
    """Two axes exchanged."""
    order = list(range(x.rank))
    if not x.rank:
        return x
    a, b = axis_of(dim0, x.rank, "transpose"), axis_of(dim1, x.rank, "transpose")
    order[a], order[b] = order[b], order[a]
    return transpose(x, order)


@aten("aten.t.default", "aten.t_.default", "aten.t_copy.default")
def matrix_transpose(x: Value) -> Value:
    """A matrix transposed; a vector as it is.

    Raises:
        ShapeError: for more than two axes.
    """
    if x.rank > 2:
        raise ShapeError(f"t: {x.name} has {x.rank} axes, expected at most 2")
    return swap(x, 0, 1) if x.rank == 2 else x


@aten("aten.mT.default", "aten.adjoint.default", "aten.mH.default")
def last_axes_transpose(x: Value) -> Value:
    """The last two axes exchanged."""
    return swap(x, -2, -1)


@aten("aten.numpy_T.default")
def reverse_axes(x: Value) -> Value:
    """The axes in reverse order."""
    return permute(x, range(x.rank)[::-1])


@aten("aten.movedim.int", "aten.movedim.intlist", "aten.moveaxis.int", "aten.moveaxis.intlist")
def movedim(x: Value, source: int | Sequence[int], destination: int | Sequence[int]) -> Value:
    """Axes moved to other positions; the others keep their order."""
    origins = [axis_of(axis, x.rank, "movedim") for axis in static_ints(source, "the source of movedim")]
    targets = [axis_of(axis, x.rank, "movedim") for axis in static_ints(destination, "the destination of movedim")]
    if len(set(origins)) != len(origins) or len(set(targets)) != len(targets) or len(origins) != len(targets):
        raise ShapeError(f"movedim: {source} and {destination} do not name the same number of distinct axes")
    placed = dict(zip(targets, origins, strict=True))
    rest = iter([axis for axis in range(x.rank) if axis not in origins])
    return permute(x, [placed[axis] if axis in placed else next(rest) for axis in range(x.rank)])


@aten("aten.expand.default", "aten.expand_copy.default", "aten.broadcast_to.default")
def expand(x: Value, size: Sequence[int], implicit: bool = False) -> Value:
    """Axes of extent 1 repeated to `size`; -1 keeps an extent; new axes come first.

    Raises:
        ShapeError: if `x` does not broadcast to `size`.
    """
    wanted = static_ints(size, "the size of expand")
    lead = len(wanted) - x.rank
    if lead < 0 or -1 in wanted[:lead]:
        raise ShapeError(f"expand: {x.name} of shape {x.shape} has no place in {tuple(wanted)}")
    return broadcast_to(x, [x.shape[k - lead] if n == -1 else n for k, n in enumerate(wanted)])


@aten("aten.expand_as.default")
def expand_as(x: Value, other: Value) -> Value:
    """`x` repeated to the shape of `other`."""
    return broadcast_to(x, other.shape)


@aten("aten.broadcast_tensors.default")
def broadcast_tensors(tensors: Sequence[Value]) -> list[Value]:
    """All operands repeated to their common shape."""
    shape = broadcast_shapes(*(tensor.shape for tensor in tensors))
    return [broadcast_to(tensor, shape) for tensor in tensors]


@aten("aten.meshgrid.default", "aten.meshgrid.indexing")
def meshgrid(tensors: Sequence[Value], indexing: str = "ij") -> list[Value]:
    """Every vector repeated over the grid that all of them span; "xy" exchanges the first two axes."""
    if indexing not in ("ij", "xy"):
        raise UnsupportedCall(f"meshgrid: indexing={indexing!r}; 'ij' and 'xy' are supported")
    order = list(range(len(tensors)))
    if indexing == "xy" and len(tensors) > 1:
        order[:2] = [1, 0]
    shape = [0] * len(tensors)
    for tensor, axis in zip(tensors, order, strict=True):
        shape[axis] = tensor.size
    return [
        broadcast_to(view(tensor, [tensor.size if k == axis else 1 for k in range(len(tensors))]), shape)
        for tensor, axis in zip(tensors, order, strict=True)
    ]


@aten("aten.repeat.default", "aten.tile.default")
def repeat(x: Value, repeats: Sequence[int]) -> Value:
    """The whole tensor repeated along every axis; missing axes of either come first.

    Raises:
        ShapeError: for a negative number of repetitions.
    """
    counts = static_ints(repeats, "the repetitions of tile")
    if any(count < 0 for count in counts):
        raise ShapeError(f"repeat: negative repetitions in {tuple(counts)}")
    counts = [1] * (x.rank - len(counts)) + counts
    shape = (1,) * (len(counts) - x.rank) + x.shape
    if all(count == 1 for count in counts):
        return view(x, shape)
    single = view(x, [n for extent in shape for n in (1, extent)])
    wide = broadcast_to(single, [n for pair in zip(counts, shape, strict=True) for n in pair])
    return view(wide, [count * extent for count, extent in zip(counts, shape, strict=True)])


@aten("aten.repeat_interleave.self_int")
def repeat_interleave(x: Value, repeats: int, dim: int | None = None, *, output_size: int | None = None) -> Value:
    """Every element repeated `repeats` times in a row along one axis, or flat."""
    if dim is None:
        x, dim = view(x, (x.size,)), 0
    axis = axis_of(dim, x.rank, "repeat_interleave")
    single = view(x, (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
    wide = broadcast_to(single, (*x.shape[: axis + 1], repeats, *x.shape[axis + 1 :]))
    return view(wide, (*x.shape[:axis], x.shape[axis] * repeats, *x.shape[axis + 1 :]))


@aten("aten.diagonal.default", "aten.diagonal_copy.default")
def diagonal(x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """The elements where the index along `dim2` is the one along `dim1` plus `offset`, as a new last axis."""
    rows, columns = axis_of(dim1, x.rank, "diagonal"), axis_of(dim2, x.rank, "diagonal")
    if rows == columns:
        raise ShapeError(f"diagonal: the axes {dim1} and {dim2} of {x.name} are the same")
    first = (max(-offset, 0), max(offset, 0))
    length = max(min(x.shape[rows] - first[0], x.shape[columns] - first[1]), 0)
    others = [axis for axis in range(x.rank) if axis not in (rows, columns)]
    d = Domain()
    index = d.parallel(*(x.shape[axis] for axis in others), length)
    place = dict(zip(others, index[:-1], strict=True))
    place |= {rows: index[-1] + first[0], columns: index[-1] + first[1]}
    return d.assign(x[tuple(place[axis] for axis in range(x.rank))], index)


def _shuffle(x: Value, split: Sequence[int], order: Sequence[int], joined: Sequence[int]) -> Value:
    """`x` viewed as `split`, its axes reordered, viewed as `joined`."""
    return view(transpose(view(x, split), order), joined)


@aten("aten.pixel_shuffle.default")
def pixel_shuffle(x: Value, upscale_factor: int) -> Value:
    """[..., C * r * r, H, W] as [..., C, H * r, W * r].

    Raises:
        ShapeError: if the channels are not a multiple of r * r.
    """
    r = upscale_factor
    if x.rank < 3 or x.shape[-3] % (r * r):
        raise ShapeError(f"pixel_shuffle: {x.name} of shape {x.shape} needs a multiple of {r * r} channels")
    *lead, c, h, w = x.shape
    n = len(lead)
    order = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    return _shuffle(x, (*lead, c // (r * r), r, r, h, w), order, (*lead, c // (r * r), h * r, w * r))


@aten("aten.pixel_unshuffle.default")
def pixel_unshuffle(x: Value, downscale_factor: int) -> Value:
    """[..., C, H * r, W * r] as [..., C * r * r, H, W].

    Raises:
        ShapeError: if height and width are not multiples of r.
    """
    r = downscale_factor
    if x.rank < 3 or x.shape[-2] % r or x.shape[-1] % r:
        raise ShapeError(f"pixel_unshuffle: height and width of {x.name}, {x.shape}, must be multiples of {r}")
    *lead, c, h, w = x.shape
    n = len(lead)
    order = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    return _shuffle(x, (*lead, c, h // r, r, w // r, r), order, (*lead, c * r * r, h // r, w // r))


@aten("aten.channel_shuffle.default", "aten.native_channel_shuffle.default")
def channel_shuffle(x: Value, groups: int) -> Value:
    """Channels [groups, C / groups] in the order [C / groups, groups].

    Raises:
        ShapeError: if the channels are not a multiple of the groups.
    """
    if x.rank < 3 or x.shape[1] % groups:
        raise ShapeError(f"channel_shuffle: {x.name} of shape {x.shape} has no {groups} groups of channels")
    split = (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    return _shuffle(x, split, [0, 2, 1, *range(3, x.rank + 1)], x.shape)


@onnx("Reshape")
def onnx_reshape(call: OnnxCall, x: Value, shape: Value) -> Value:
    """ONNX Reshape: 0 copies an extent unless allowzero is set."""
    wanted = static_ints(shape, "the shape of Reshape")
    if not call.attribute("allowzero", 0):
        wanted = [x.shape[k] if n == 0 and k < x.rank else n for k, n in enumerate(wanted)]
    return view(x, wanted)


@onnx("Flatten")
def onnx_flatten(call: OnnxCall, x: Value) -> Value:
    """ONNX Flatten: a matrix, split before `axis`."""
    axis = int(call.attribute("axis", 1))
    axis = axis + x.rank if axis < 0 else axis
    if not 0 <= axis <= x.rank:
        raise ShapeError(f"Flatten: axis {axis} does not exist in {x.name} of shape {x.shape}")
    return view(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@onnx("Squeeze")
def onnx_squeeze(call: OnnxCall, x: Value, axes: Value | None = None) -> Value:
    """ONNX Squeeze: the named axes must have extent 1."""
    if axes is None:
        return squeeze(x)
    named = [axis_of(axis, x.rank, "Squeeze") for axis in static_ints(axes, "the axes of Squeeze")]
    if any(x.shape[axis] != 1 for axis in named):
        raise ShapeError(f"Squeeze: axes {named} of {x.name} of shape {x.shape} must have extent 1")
    return squeeze(x, named)


@onnx("Unsqueeze")
def onnx_unsqueeze(call: OnnxCall, x: Value, axes: Value) -> Value:
    """ONNX Unsqueeze: the axes are positions in the result."""
    named = static_ints(axes, "the axes of Unsqueeze")
    rank = x.rank + len(named)
    places = {axis_of(axis, rank, "Unsqueeze") for axis in named}
    if len(places) != len(named):
        raise ShapeError(f"Unsqueeze: axes {named} name an axis twice")
    extents = iter(x.shape)
    return view(x, [1 if axis in places else next(extents) for axis in range(rank)])


@onnx("Transpose")
def onnx_transpose(call: OnnxCall, x: Value) -> Value:
    """ONNX Transpose: without `perm`, the axes in reverse order."""
    return permute(x, call.attribute("perm", list(range(x.rank))[::-1]))


@onnx("Expand")
def onnx_expand(call: OnnxCall, x: Value, shape: Value) -> Value:
    """ONNX Expand: both shapes broadcast."""
    return broadcast_to(x, broadcast_shapes(x.shape, static_ints(shape, "the shape of Expand")))


@onnx("Tile")
def onnx_tile(call: OnnxCall, x: Value, repeats: Value) -> Value:
    """ONNX Tile."""
    return repeat(x, static_ints(repeats, "the repetitions of Tile"))


@onnx("DepthToSpace")
def onnx_depth_to_space(call: OnnxCall, x: Value) -> Value:
    """ONNX DepthToSpace, modes DCR (default) and CRD.

    Raises:
        UnsupportedCall: for another mode.
    """
    r, mode = int(call.required("blocksize")), str(call.attribute("mode", "DCR"))
    if mode == "CRD":
        return pixel_shuffle(x, r)
    if mode != "DCR":
        raise UnsupportedCall(f"DepthToSpace: mode={mode!r}; 'DCR' and 'CRD' are supported")
    if x.rank != 4 or x.shape[1] % (r * r):
        raise ShapeError(
            f"DepthToSpace: {x.name} of shape {x.shape} needs four axes and a multiple of {r * r} channels"
        )
    n, c, h, w = x.shape
    return _shuffle(x, (n, r, r, c // (r * r), h, w), (0, 3, 4, 1, 5, 2), (n, c // (r * r), h * r, w * r))


@onnx("SpaceToDepth")
def onnx_space_to_depth(call: OnnxCall, x: Value) -> Value:
    """ONNX SpaceToDepth."""
    r = int(call.required("blocksize"))
    if x.rank != 4 or x.shape[2] % r or x.shape[3] % r:
        raise ShapeError(
            f"SpaceToDepth: {x.name} of shape {x.shape} needs four axes, height and width multiples of {r}"
        )
    n, c, h, w = x.shape
    return _shuffle(x, (n, c, h // r, r, w // r, r), (0, 3, 5, 1, 2, 4), (n, c * r * r, h // r, w // r))
