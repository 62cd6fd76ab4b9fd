"""The catalogue's cases of ATen operators that move, choose or reduce elements, and of tensors made from nothing."""

from __future__ import annotations

import numpy as np
import torch
from tests.operators.case import Case, Known, aten, f, flags, i32, i64, inf, nan, put, ties, whole

X = f(3, 4, 5)
#: Rows with ties, with NaN twice, with infinities of both signs, of -inf alone.
ROWS = put(ties(6, 7), _8=nan, _10=nan, _15=inf, _17=inf, _22=-inf, **{f"_{k}": -inf for k in range(28, 35)})
#: Integers that float32 does not tell apart.
CLOSE = np.array([[2**24, 2**24 + 1, 2**24 - 1], [-(2**60), 2**60 + 1, 2**60], [-(2**24) - 1, -(2**24), -(2**25)]])

EXTREMA: list[Case] = [
    *(
        case
        for name in ("max", "min")
        for case in (
            aten(f"{name}.dim", ROWS, 1),
            aten(f"{name}.dim", X, -2, True),
            aten(f"{name}.dim", CLOSE, 1),
            aten(f"{name}.dim", i64([-(2**63), 5, 2**63 - 1], [7, 8, 7]), 1),
            aten(f"{name}.dim", flags(3, 4), 0),
            aten(f"{name}.dim", f(), 0),
            aten(f"{name}.default", X),
            aten(f"{name}.default", ROWS),
            aten(f"{name}.default", i32(2**24, 2**24 + 1)),
            aten(f"a{name}.default", ROWS, [-1], True, comparable=False),
            aten(f"a{name}.default", ties(6, 7), [-1], True),
            aten(f"a{name}.default", X, [0, 2]),
            aten(f"a{name}.default", CLOSE, [1]),
            aten(f"arg{name}.default", ROWS, 1),
            aten(f"arg{name}.default", X, None, True),
            aten(f"arg{name}.default", CLOSE, -1, True),
        )
    ),
    aten("aminmax.default", X, dim=1, keepdim=True),
    aten("aminmax.default", ties(9)),
]

REDUCTIONS: list[Case] = [
    aten("sum.dim_IntList", X, [0, -1], True),
    aten("sum.dim_IntList", f(3, 9, 40), [0, 2]),
    aten("sum.dim_IntList", whole(3, 4, dtype="int32"), None),
    aten("sum.dim_IntList", np.zeros((0, 3)), [0]),
    aten("sum.default", flags(9)),
    aten("mean.dim", X, [1], True),
    aten("mean.dim", whole(3, 4), [-1], dtype=torch.float32),
    aten("mean.default", X),
    aten("mean.dim", np.zeros((3, 0)), [1]),
    *(
        case
        for name in ("var", "var_mean", "std", "std_mean")
        for case in (
            aten(f"{name}.default", f(9, low=126, high=130), False),
            aten(f"{name}.dim", X, [0, -1], True, True),
            aten(f"{name}.correction", X, [1], correction=0.5, keepdim=False),
        )
    ),
    aten("std.default", np.full(5, 1.5)),
    aten("prod.dim_int", put(X, _3=0.0, _8=0.0, _23=0.0, _40=inf), 1, True),
    aten("prod.dim_int", whole(3, 5, dtype="int32"), -1),
    aten("prod.default", put(f(7), _2=0.0)),
    aten("cumsum.default", X, 1),
    aten("cumsum.default", whole(3, 4, dtype="int32"), -1),
    aten("cumprod.default", put(f(3, 11), _3=0.0, _14=0.0, _18=0.0), -1),
    *(aten("linalg_vector_norm.default", put(X, _0=0.0), p, [0, -1], True) for p in (0, 1, 2, 3.5, inf, -inf)),
    aten("linalg_vector_norm.default", np.zeros((2, 3)), 2, [1]),
    aten("norm.Scalar", X, 3),
    aten("norm.ScalarOpt_dim", X, None, [1], True),
    aten("norm.ScalarOpt_dim_dtype", f(3, 4), 1.5, [0], False, dtype=torch.float32, comparable=False),
    aten("norm.ScalarOpt_dtype", f(3, 4), 2, dtype=torch.float32, comparable=False),
    aten("frobenius_norm.dim", X, [0, 2], True),
    aten("any.default", put(np.zeros(9), _4=nan)),
    aten("any.dim", flags(3, 4), -1, True),
    aten("any.dims", whole(3, 4, 2, low=-1, high=2), [0, 2]),
    aten("all.default", np.ones(9)),
    aten("all.dim", put(ties(3, 4), _0=-0.0), 0),
    aten("all.dims", whole(3, 4, 2, low=-1, high=2), [0, 2], True),
    aten("count_nonzero.default", put(ties(9), _0=nan, _1=-0.0)),
    aten("count_nonzero.dim_IntList", ties(3, 4, 5), [0, -1]),
]

SHAPES: list[Case] = [
    *(aten(f"{name}.default", X, [4, -1]) for name in ("view", "reshape", "_unsafe_view", "view_copy")),
    aten("_reshape_alias.default", X, [12, 5], [5, 1]),
    aten("view_as.default", X, f(20, 3)),
    aten("reshape_as.default", X, f(5, 12)),
    aten("flatten.using_ints", X, 1, -1),
    aten("ravel.default", X),
    aten("unflatten.int", X, 1, [2, -1]),
    aten("squeeze.default", f(1, 3, 1)),
    aten("squeeze.dim", f(1, 3, 1), -1),
    aten("squeeze_copy.dims", f(1, 3, 1), [0, 1]),
    aten("unsqueeze.default", f(3, 4), -2),
    aten("permute.default", X, [2, 0, -2]),
    aten("transpose.int", X, 0, -1),
    aten("swapaxes.default", X, 0, 1),
    aten("t.default", f(3, 4)),
    aten("t_copy.default", f(3)),
    aten("mT.default", X),
    aten("adjoint.default", f(3, 4)),
    aten("numpy_T.default", f(3, 4)),
    aten("movedim.int", X, 0, -1),
    aten("movedim.intlist", X, [0, 1], [-1, 0]),
    aten("expand.default", f(4, 1), [3, -1, 5]),
    aten("broadcast_to.default", f(1, 5), [4, 5]),
    aten("expand_as.default", f(4, 1), X),
    aten("broadcast_tensors.default", [f(4, 1), f(5, seed=1), f(seed=2)]),
    aten("meshgrid.default", [f(3), f(4, seed=1)]),
    aten("meshgrid.indexing", [f(3), f(4, seed=1), f(2)], indexing="xy"),
    aten("repeat.default", f(3, 4), [2, 1, 3]),
    aten("tile.default", f(3, 4), [2]),
    aten("repeat_interleave.self_int", X, 3, 1),
    aten("repeat_interleave.self_int", f(2, 3), 2),
    aten("diagonal.default", X, 1, 0, -1),
    aten("diagonal_copy.default", f(5, 4), -2),
    aten("pixel_shuffle.default", f(2, 12, 3, 2), 2),
    aten("pixel_unshuffle.default", f(2, 4, 6), 2),
    aten("channel_shuffle.default", f(2, 6, 2, 3), 3),
]

SLICES: list[Case] = [
    aten("slice.Tensor", f(3, 11), 1, -9, 100, 3),
    aten("slice_copy.Tensor", X, 0, 5, 9),
    aten("narrow.default", X, -1, 1, 3),
    aten("split.Tensor", f(3, 11), 4, 1),
    aten("split_with_sizes.default", f(9, 2), [2, 3, 4]),
    aten("split.sizes", f(9, 2), [9, 0], 0),
    aten("chunk.default", f(3, 11), 4, -1),
    aten("tensor_split.sections", f(11, 2), 3),
    aten("tensor_split.indices", f(3, 11), [2, -3], 1),
    aten("unbind.int", X, 1),
    aten("cat.default", [X, f(3, 2, 5, seed=1), f(3, 1, 5, seed=2)], -2),
    aten("cat.default", [f(3), whole(2, dtype="int32")]),
    aten("cat.default", [np.zeros(0), X]),
    aten("concat.default", [whole(3), whole(2, dtype="int32")]),
    aten("stack.default", [f(3, 4), f(3, 4, seed=1)], -1),
    aten("hstack.default", [f(3, 4), f(3, 2)]),
    aten("vstack.default", [f(4), f(2, 4)]),
    aten("slice_scatter.default", X, f(3, 2, 5, seed=1), 1, 1, -1),
    aten("select_scatter.default", X, f(3, 5, seed=1), 1, -2),
    aten("flip.default", X, [0, -1]),
    aten("fliplr.default", X),
    aten("flipud.default", f(4, 3)),
    aten("roll.default", X, [2, -7], [0, 2]),
    aten("roll.default", f(3, 4), [5]),
    aten("unfold.default", f(3, 11), 1, 4, 3),
    aten("im2col.default", f(2, 3, 7, 6), [3, 2], [2, 1], [2, 1], [2, 3]),
    aten("select.int", X, 1, -2),
]

PADS: list[Case] = [
    aten("constant_pad_nd.default", X, [1, 2, -1, 3], 2.5),
    aten("constant_pad_nd.default", whole(3, 4), [0, 1], -7),
    aten("reflection_pad1d.default", f(2, 3, 7), [6, 2]),
    aten("reflection_pad2d.default", f(2, 2, 5, 6), [1, 4, 3, 0]),
    aten("replication_pad1d.default", f(3, 4), [5, 2]),
    aten("replication_pad3d.default", f(2, 2, 3, 2, 3), [1, 0, 2, 3, 0, 1]),
    aten("_pad_circular.default", f(2, 3, 4, 5), [2, 3, 1, 4]),
    aten("pad.default", X, [2, 1], "replicate"),
    *(aten("_pad_enum.default", X, [2, 1], mode) for mode in range(4)),
]

RESIZES: list[Case] = [
    *(
        case
        for rank, shape, size in ((1, (2, 3, 7), [11]), (2, (1, 2, 5, 4), [3, 9]), (3, (1, 2, 3, 4, 2), [6, 3, 5]))
        for case in (
            aten(f"upsample_nearest{rank}d.default", f(*shape), size),
            aten(f"_upsample_nearest_exact{rank}d.default", f(*shape), size),
            aten(f"upsample_nearest{rank}d.vec", f(*shape), None, [2.0] * rank),
            aten(f"_upsample_nearest_exact{rank}d.vec", f(*shape), None, [1.5] * rank),
        )
    ),
    aten("upsample_linear1d.default", f(2, 3, 7), [11], False),
    aten("upsample_bilinear2d.default", f(1, 2, 5, 4), [3, 9], True),
    aten("upsample_trilinear3d.default", f(1, 2, 3, 4, 2), [5, 3, 6], False),
    aten("upsample_bicubic2d.default", f(1, 2, 5, 4), [7, 3], True),
    aten("upsample_linear1d.vec", f(2, 3, 7), None, True, [2.0]),
    aten("upsample_bilinear2d.vec", f(1, 2, 5, 4), None, False, [0.5, 1.75]),
    aten("upsample_trilinear3d.vec", f(1, 2, 3, 4, 2), [5, 3, 6], True, None),
    aten("upsample_bicubic2d.vec", f(1, 2, 5, 4), None, False, [2.0, 1.5]),
]

#: Positions in range, ends and repetitions among them.
HERE, HERE32 = i64([0, 3, 1, 3]), i32([[2, 0], [3, 2]])
#: Positions of which some are out of range; read, they give 0, written, nothing.
OUT, OUT32 = i64([4, -1, 2**32 + 1, 1, -(2**40)]), i32([[0, 4, 3], [-5, 2, 2**31 - 1], [1, 1, -(2**31)]])
TABLE = f(4, 3)

GATHERS: list[Case] = [
    aten("embedding.default", TABLE, HERE32),
    aten("embedding.default", TABLE, HERE, 3, differentiable=False),
    aten("embedding.default", TABLE, OUT, comparable=False),
    aten("index_select.default", X, 1, HERE),
    aten("index_select.default", X, -2, OUT32[0], comparable=False),
    aten("gather.default", X, 1, whole(2, 6, 5, low=0, high=4)),
    aten("gather.default", f(3, 4), 0, OUT32, comparable=False),
    aten("take_along_dim.default", f(3, 4), whole(1, 4, low=-3, high=3), 0),
    aten("take_along_dim.default", f(3, 4), whole(5, low=0, high=12)),
    aten("take.default", f(3, 4), whole(2, 2, low=-12, high=12)),
    aten("take.default", f(3, 4), OUT, comparable=False),
    aten("index.Tensor", X, [None, HERE, i64([[0], [2]])]),
    aten("index.Tensor", X, [i64([0, -1]), None, i32([2, -5])], comparable=False),
    aten("index.Tensor", X, [Known(flags(3, 4))], comparable=False),
    aten("index.Tensor", f(4, 3), [OUT], comparable=False),
    aten("one_hot.default", i64([[0, 4], [2, 1]]), 5),
    aten("one_hot.default", OUT, 5, comparable=False),
]

SCATTERS: list[Case] = [
    aten("scatter_add.default", X, 1, whole(3, 7, 4, low=0, high=4), f(3, 7, 4, seed=1)),
    aten("scatter_add.default", X, 1, whole(3, 7, 4, low=0, high=4), f(3, 8, 5, seed=1), comparable=False),
    aten("scatter_add.default", f(4, 3), 0, OUT32, f(3, 3, seed=1), comparable=False),
    aten("scatter_add.default", whole(4, 3), 0, i64([[1, 1, 2], [1, 3, 2]]), whole(2, 3, seed=1)),
    aten("scatter.src", X, 2, i64([[[4, 0], [1, 2]]]), f(1, 2, 2, seed=1)),
    aten("scatter.src", f(4, 3), 0, i64([[1, 1, 2], [1, 3, 2], [4, -1, 0]]), f(3, 3, seed=1), comparable=False),
    aten("scatter.value", f(4, 3), 1, i64([[0, 2], [1, 1]]), -2.5),
    aten("scatter_reduce.two", X, 1, whole(3, 7, 4, low=0, high=4), f(3, 7, 4, seed=1), "sum"),
    aten("index_add.default", X, 1, HERE, f(3, 4, 5, seed=1), alpha=0.5),
    aten("index_add.default", f(4, 3), 0, OUT, f(5, 3, seed=1), comparable=False),
    aten("index_copy.default", X, 1, i64([3, 0]), f(3, 2, 5, seed=1)),
    aten("index_copy.default", f(4, 3), 0, i64([1, 1, 7]), f(3, 3, seed=1), comparable=False),
    aten("index_fill.int_Scalar", X, -1, i64([4, -5]), inf),
    aten("index_put.default", X, [HERE, i64([0, 1, 3, 1])[::-1].copy()], f(4, 5, seed=1), True, comparable=False),
    aten("index_put.default", X, [None, i64([3, 0]), i64([[-1], [2]])], f(2, 1, seed=1)),
    aten("index_put.default", X, [i64([2, 0])], f(4, 5, seed=1), True),
]

CREATIONS: list[Case] = [
    aten("full.default", [2, 3], 2.5),
    aten("full.default", [2, 3], 7, dtype=torch.float32),
    aten("full.default", [2], True),
    aten("zeros.default", [2, 3], dtype=torch.int32),
    aten("empty.memory_format", [2, 3], comparable=False),
    aten("empty_permuted.default", [2, 3], [1, 0], comparable=False),
    aten("ones.default", [2, 3]),
    aten("zeros_like.default", f(2, 3)),
    aten("ones_like.default", f(2, 3), dtype=torch.int64),
    aten("full_like.default", whole(2, 3), 5),
    aten("new_zeros.default", f(2), [3, 1]),
    aten("new_ones.default", whole(2, dtype="int32"), [3]),
    aten("new_full.default", f(2), [3], -inf),
    aten("scalar_tensor.default", 2.5),
    aten("arange.default", 7),
    aten("arange.start", 2.5, 7.0),
    aten("arange.start_step", 7, -4, -3),
    aten("linspace.default", -1.0, 2.0, 7),
    aten("eye.default", 3),
    aten("eye.m", 3, 5, dtype=torch.bool),
    aten("tril.default", put(X, _0=nan, _1=inf), -1),
    aten("triu.default", whole(3, 4), 1),
    aten("tril_indices.default", 3, 4, 1),
    aten("triu_indices.default", 4, 3, -1, dtype=torch.int32),
]

CASES = [*EXTREMA, *REDUCTIONS, *SHAPES, *SLICES, *PADS, *RESIZES, *GATHERS, *SCATTERS, *CREATIONS]
