"""The catalogue's cases of ATen operators that layers and losses are made of."""

from __future__ import annotations

import numpy as np
from tests.operators.case import Buffer, Case, aten, f, flags, i32, i64, inf, nan, put, ties, whole

CONVOLUTIONS: list[Case] = [
    aten("conv1d.default", f(2, 4, 17), f(6, 2, 3, seed=1), f(6, seed=2), [2], [3], [2], 2),
    aten("conv2d.default", f(2, 3, 9, 11), f(4, 3, 3, 2, seed=1), f(4, seed=2), [2, 1], [1, 2], [1, 3]),
    aten("conv2d.default", f(1, 6, 7, 8), f(6, 1, 3, 3, seed=1), None, [1, 1], [1, 1], [1, 1], 6),
    aten("conv2d.default", f(2, 5, 6, 6), f(4, 5, 1, 1, seed=1), f(4, seed=2), [2, 2]),
    aten("conv2d.default", f(3, 5, 5), f(2, 3, 5, 5, seed=1)),
    aten("conv3d.default", f(1, 2, 4, 5, 6), f(3, 2, 2, 3, 3, seed=1), f(3, seed=2), [2, 1, 3], [1, 0, 2], [1, 2, 1]),
    aten("conv1d.padding", f(2, 2, 7), f(3, 2, 5, seed=1), None, [1], "same", [2]),
    aten("conv2d.padding", f(1, 2, 6, 7), f(3, 2, 3, 3, seed=1), f(3, seed=2), [2, 1], "valid"),
    aten("conv_transpose1d.default", f(2, 4, 6), f(4, 3, 3, seed=1), f(6, seed=2), [3], [1], [2], 2, [2]),
    aten("conv_transpose2d.input", f(2, 3, 4, 5), f(3, 2, 3, 4, seed=1), f(2, seed=2), [2, 3], [1, 0], [1, 1]),
    aten("conv_transpose3d.input", f(1, 2, 2, 3, 2), f(2, 2, 2, 1, 3, seed=1), None, [2, 1, 2], [0, 0, 1]),
    aten(
        "convolution.default",
        f(2, 4, 7, 6),
        f(6, 2, 3, 2, seed=1),
        f(6, seed=2),
        [2, 1],
        [1, 0],
        [1, 2],
        False,
        [0, 0],
        2,
    ),
    aten("convolution.default", f(2, 4, 5), f(4, 2, 3, seed=1), None, [2], [1], [1], True, [1], 1),
]

#: Ties, NaN and infinities in a plane.
PLANE = put(ties(2, 2, 7, 8), _3=nan, _20=inf, _40=-inf, _41=-inf, _42=-inf, _49=-inf)

POOLS: list[Case] = [
    aten("max_pool1d.default", f(2, 3, 17), [3], [2], [1], [2], True),
    aten("max_pool2d.default", f(2, 3, 9, 10), [3, 2], [2, 2], [1, 1], [1, 2], True),
    aten("max_pool2d.default", PLANE, [3, 3], [2, 1], [1, 1]),
    aten("max_pool3d.default", f(1, 2, 5, 4, 6), [2, 3, 2], [2, 1, 2], [1, 1, 0]),
    aten("max_pool1d_with_indices.default", f(3, 11), [3]),
    aten("max_pool2d_with_indices.default", PLANE, [3, 3], [2, 2], [1, 1], [1, 1], True),
    # The dilated windows at the border hold no element: their maximum is -inf.
    aten("max_pool2d_with_indices.default", f(1, 1, 2, 4), [2, 2], [1, 1], [1, 0], [3, 1], comparable=False),
    aten("max_pool3d_with_indices.default", ties(1, 2, 3, 4, 5), [2, 2, 3], [1, 2, 2], [0, 1, 1]),
    aten("avg_pool1d.default", f(2, 3, 11), [4], [3], [2], True, False),
    aten("avg_pool2d.default", f(2, 2, 7, 8), [3, 2], [2, 3], [1, 1], True, True),
    aten("avg_pool2d.default", put(f(1, 2, 5, 6), _0=nan, _9=inf), [3, 3], [2, 2], [1, 1], False, False),
    aten("avg_pool3d.default", f(1, 2, 4, 5, 3), [2, 3, 2], [1, 2, 2], [1, 0, 1], False, True, 5),
    aten("adaptive_avg_pool1d.default", f(2, 3, 11), [4]),
    aten("adaptive_max_pool1d.default", ties(2, 3, 11), [4]),
    aten("adaptive_avg_pool2d.default", f(2, 2, 7, 9), [3, 3]),
    aten("adaptive_max_pool2d.default", put(f(2, 2, 7, 8), _0=nan, _9=-inf), [3, 4]),
    aten("adaptive_avg_pool3d.default", f(1, 2, 3, 5, 4), [2, 5, 3]),
    aten("adaptive_max_pool3d.default", f(1, 2, 3, 5, 4), [2, 3, 4]),
    aten("_adaptive_avg_pool2d.default", f(2, 6, 8), [2, 4]),
    aten("_adaptive_avg_pool3d.default", f(1, 2, 2, 3, 3), [3, 2, 5]),
]

PRODUCTS: list[Case] = [
    aten("linear.default", f(2, 3, 7), f(5, 7, seed=1), f(5, seed=2)),
    aten("linear.default", f(3, 7), f(7, seed=1)),
    aten("matmul.default", f(2, 1, 3, 70), f(4, 70, 5, seed=1)),
    aten("matmul.default", put(f(3), _0=inf), put(f(3, 4, seed=1), _0=0.0)),
    aten("linalg_matmul.default", f(2, 3, 4), f(4, seed=1)),
    aten("mm.default", f(17, 9), f(9, 20, seed=1)),
    aten("mm.default", whole(3, 4), whole(4, 2, seed=1)),
    aten("mm.default", np.zeros((3, 0)), np.zeros((0, 4))),
    aten("bmm.default", f(3, 4, 5), f(3, 5, 2, seed=1)),
    aten("mv.default", f(4, 5), f(5, seed=1)),
    aten("dot.default", f(150), f(150, seed=1)),
    aten("outer.default", f(4), f(5, seed=1)),
    aten("inner.default", f(2, 4), f(3, 4, seed=1)),
    aten("linalg_vecdot.default", f(3, 4, 5), f(4, 5, seed=1), dim=-2),
    aten("tensordot.default", f(3, 4, 5), f(5, 2, 3, seed=1), [0, 2], [2, 0]),
    aten("kron.default", f(2, 3), f(3, 2, seed=1)),
    aten("linalg_multi_dot.default", [f(3), f(3, 4, seed=1), f(4, 2, seed=2)]),
    aten("bilinear.default", f(2, 3, 4), f(2, 3, 5, seed=1), f(6, 4, 5, seed=2), f(6, seed=3)),
    aten("addmm.default", f(4), f(3, 5, seed=1), f(5, 4, seed=2), beta=0.5, alpha=2.5),
    aten("addmm.default", put(f(3, 4), _0=nan), f(3, 5, seed=1), f(5, 4, seed=2), beta=0),
    aten("baddbmm.default", f(2, 3, 4), f(2, 3, 5, seed=1), f(2, 5, 4, seed=2), beta=-1, alpha=0.5),
    aten("addbmm.default", f(3, 4), f(2, 3, 5, seed=1), f(2, 5, 4, seed=2), alpha=0.5),
    aten("addmv.default", f(3), f(3, 5, seed=1), f(5, seed=2), beta=2),
    aten("addr.default", f(3, 4), f(3, seed=1), f(4, seed=2), alpha=0.5),
    aten("einsum.default", "bij,bjk,k->ki", [f(2, 3, 4), f(2, 4, 5, seed=1), f(5, seed=2)]),
    aten("einsum.default", "iij->j", [f(3, 3, 4)]),
    aten("trace.default", f(4, 5)),
]

#: One masked row, one with infinities, one with NaN.
LOGITS = put(f(4, 6, high=5), **{f"_{k}": -inf for k in range(6, 12)}, _13=inf, _20=nan)

SOFTMAXES: list[Case] = [
    aten("softmax.int", f(3, 7, 4, low=-30, high=30), 1),
    aten("softmax.int", LOGITS, -1),
    aten("softmax.int", f(), 0),
    aten("_softmax.default", f(3, 4, low=1022, high=1026), 0, False),
    aten("_safe_softmax.default", LOGITS, -1),
    aten("log_softmax.int", LOGITS, -1),
    aten("log_softmax.int", f(3, 7, 4, low=-30, high=30), 1),
    aten("_log_softmax.default", f(3, 4, low=1022, high=1026), 0, False),
    aten("logsumexp.default", f(3, 4, 5), [0, -1], True),
    aten("logsumexp.default", LOGITS, [1]),
]

Q, K, V = f(2, 4, 5, 8), f(2, 4, 6, 8, seed=1), f(2, 4, 6, 3, seed=2)
ONE_MASKED_ROW = flags(5, 6) & (np.arange(5) != 2)[:, None]

ATTENTIONS: list[Case] = [
    aten("scaled_dot_product_attention.default", Q, K, V),
    aten("scaled_dot_product_attention.default", Q, f(2, 4, 5, 8, seed=1), f(2, 4, 5, 3, seed=2), None, 0.0, True),
    aten("scaled_dot_product_attention.default", Q, K, V, ONE_MASKED_ROW, scale=0.5),
    aten("scaled_dot_product_attention.default", Q, K, V, f(4, 5, 6, seed=3)),
    aten("scaled_dot_product_attention.default", Q, f(2, 2, 6, 8, seed=1), f(2, 2, 6, 3, seed=2), enable_gqa=True),
    aten("scaled_dot_product_attention.default", Q, K, V, None, 0.25, comparable=False),
]

#: Far from 0, where a variance of one pass would cancel.
BATCH = f(4, 3, 5, 2, low=126, high=130)
SCALE, SHIFT = f(3, seed=1), f(3, seed=2)
STATISTICS = (Buffer(f(3, seed=3)), Buffer(f(3, seed=4, low=0.5)))

NORMS: list[Case] = [
    aten("batch_norm.default", f(4, 3, 5), SCALE, SHIFT, *STATISTICS, True, 0.25, 2.0**-10, False),
    aten("batch_norm.default", BATCH, SCALE, SHIFT, *STATISTICS, False, 0.25, 2.0**-10, False),
    aten("batch_norm.default", BATCH, None, None, None, None, True, 0.25, 2.0**-10, False),
    aten(
        "_native_batch_norm_legit.default", f(7, 3), SCALE, None, *STATISTICS, True, 0.125, 2.0**-10, comparable=False
    ),
    aten("_native_batch_norm_legit.no_stats", f(4, 3, 5), SCALE, SHIFT, True, 0.125, 2.0**-10, comparable=False),
    aten(
        "_native_batch_norm_legit_no_training.default",
        f(4, 3),
        SCALE,
        SHIFT,
        *STATISTICS,
        0.1,
        2.0**-10,
        comparable=False,
    ),
    aten(
        "_native_batch_norm_legit_functional.default",
        f(4, 3, 2),
        SCALE,
        SHIFT,
        *STATISTICS,
        True,
        0.25,
        2.0**-10,
        comparable=False,
    ),
    aten("instance_norm.default", f(2, 3, 4, 5), SCALE, SHIFT, *STATISTICS, True, 0.25, 2.0**-10, False),
    aten("layer_norm.default", f(2, 3, 4, 5), [4, 5], f(4, 5, seed=1), f(4, 5, seed=2), 2.0**-10),
    aten("layer_norm.default", put(f(3, 6), _0=nan, _7=inf, **{f"_{k}": 1.0 for k in range(12, 18)}), [6]),
    aten("native_layer_norm.default", f(3, 6), [6], f(6, seed=1), None, 2.0**-10, comparable=False),
    aten("rms_norm.default", f(2, 3, 6), [6], f(6, seed=1)),
    aten("_fused_rms_norm.default", f(3, 6), [6], None, 2.0**-10, comparable=False),
    aten("group_norm.default", f(2, 6, 5), 3, f(6, seed=1), f(6, seed=2), 2.0**-10),
    aten("native_group_norm.default", f(2, 6, 5), f(6, seed=1), None, 2, 6, 5, 2, 2.0**-10, comparable=False),
]

#: Labels of which some do not count: the ignored one, and in LOST also ones out of range.
LABELS, LOST = i64([[0, 2, 4], [2, -100, 1]]), i32([[0, 7, 4], [-1, 2, 2**30]])
SCORES, WEIGHTS = f(2, 5, 3), Buffer(f(5, seed=1, low=0.5))

LOSSES: list[Case] = [
    aten("mse_loss.default", f(3, 4), f(3, 4, seed=1)),
    aten("l1_loss.default", put(f(3, 4), _0=0.5), put(f(3, 4, seed=1), _0=0.5), 2),
    aten("smooth_l1_loss.default", put(f(3, 4), _0=0.5), put(f(3, 4, seed=1), _0=0.75), 0, 0.25),
    aten("huber_loss.default", put(f(3, 4), _0=0.5), put(f(3, 4, seed=1), _0=0.0), 1, 0.5),
    aten(
        "binary_cross_entropy_with_logits.default",
        put(f(3, 4, low=-40, high=40), _0=0.0, _1=120.0, _2=-120.0),
        f(3, 4, seed=1, low=0, high=1),
        Buffer(f(4, seed=2, low=0.5)),
        Buffer(f(4, seed=3, low=0.5)),
    ),
    aten("binary_cross_entropy.default", f(7, low=0.1, high=0.9), f(7, seed=1, low=0, high=1), Buffer(f(7, seed=2)), 0),
    aten("binary_cross_entropy.default", np.array([0.0, 1.0, 0.5, 1.0]), np.array([0.0, 1.0, 1.0, 0.0])),
    aten("cross_entropy_loss.default", SCORES * 8.0, LABELS),
    aten("cross_entropy_loss.default", SCORES, i64([[0, 2, 4], [2, 3, 1]]), WEIGHTS, 2, 2, 0.125),
    aten("cross_entropy_loss.default", SCORES, LOST, None, 0, comparable=False),
    aten("cross_entropy_loss.default", f(4, 5), f(4, 5, seed=1, low=0, high=1), WEIGHTS, 1, -100, 0.125),
    aten("nll_loss.default", f(4, 5), i64(1, 0, -100, 4), WEIGHTS),
    aten("nll_loss_nd.default", SCORES, LABELS, None, 0),
    aten("nll_loss.default", f(4, 5), i32(1, 5, -1, 4), WEIGHTS, 2, comparable=False),
    aten("nll_loss2d.default", f(2, 5, 2, 2), whole(2, 2, 2, low=0, high=5), WEIGHTS, 2, 3),
    aten("nll_loss_forward.default", f(4, 5), i64(1, 0, 2, 4), WEIGHTS, 1, 2),
    aten("nll_loss2d_forward.default", f(2, 5, 2, 2), whole(2, 2, 2, low=0, high=5), None, 0, 3),
]

DROPOUTS: list[Case] = [
    aten("dropout.default", put(f(5, 9), _0=nan, _1=inf), 0.25, True, comparable=False),
    aten("native_dropout.default", f(5, 9), 0.75, True, comparable=False),
    aten("feature_dropout.default", f(4, 6, 3), 0.5, True, comparable=False),
    aten("alpha_dropout.default", f(4), 0.5, False),
]


def _parameters(gates: int, inputs: int, hidden: int, directions: int) -> list[np.ndarray]:
    shapes = [(gates * hidden, inputs), (gates * hidden, hidden), (gates * hidden,), (gates * hidden,)] * directions
    return [f(*shape, seed=k, low=-0.7, high=0.7) for k, shape in enumerate(shapes)]


RECURRENT: list[Case] = [
    aten(
        "lstm.input", f(2, 2, 3), [f(2, 2, 4, seed=1), f(2, 2, 4, seed=2)], _parameters(4, 3, 4, 2),
        True, 1, 0.0, True, True, False,
    ),
    *(
        aten(
            f"{name}.input", f(2, 2, 3), f(1, 2, 4, seed=1), _parameters(gates, 3, 4, 1),
            True, 1, 0.0, True, False, True,
        )
        for name, gates in (("gru", 3), ("rnn_tanh", 1), ("rnn_relu", 1))
    ),
    aten("lstm_cell.default", f(2, 3), [f(2, 4, seed=1), f(2, 4, seed=2)], *_parameters(4, 3, 4, 1)),
    *(
        aten(f"{name}_cell.default", f(2, 3), f(2, 4, seed=1), *_parameters(gates, 3, 4, 1))
        for name, gates in (("gru", 3), ("rnn_tanh", 1), ("rnn_relu", 1))
    ),
]  # fmt: skip

CASES = [
    *CONVOLUTIONS, *POOLS, *PRODUCTS, *SOFTMAXES, *ATTENTIONS, *NORMS, *LOSSES, *DROPOUTS, *RECURRENT,
]  # fmt: skip
