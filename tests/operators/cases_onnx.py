"""The catalogue's cases of ONNX operators."""

from __future__ import annotations

import numpy as np
from tests.operators.case import UNARY, Buffer, Case, Known, f, flags, i32, i64, inf, nan, onnx, put, ties, whole
from tests.operators.cases_elementwise import ODD, PAIR, WIDE
from tests.operators.cases_network import LABELS, SCORES, WEIGHTS
from tests.operators.cases_tensors import CLOSE, OUT, ROWS, X

#: Beyond the largest int32.
UNSIGNED = (whole(3, 4, low=0, high=2**32, dtype="uint32"), whole(4, low=1, high=2**32, seed=1, dtype="uint32"))


def known(*numbers: int) -> Known:
    """Static int64 numbers: axes, shapes, amounts."""
    return Known(i64(list(numbers)))


ELEMENTWISE: list[Case] = [
    *(
        onnx(name, UNARY)
        for name in (
            "Relu",
            "Sigmoid",
            "Tanh",
            "Gelu",
            "HardSwish",
            "Softplus",
            "Softsign",
            "Mish",
            "Exp",
            "Log",
            "Sqrt",
            "Reciprocal",
            "Neg",
            "Abs",
            "Sign",
            "Sin",
            "Cos",
            "Erf",
            "Floor",
            "Ceil",
            "Round",
            "IsNaN",
            "Identity",
        )
    ),
    onnx("LeakyRelu", UNARY, alpha=0.25),
    onnx("PRelu", f(2, 3, 4), f(3, 1, seed=1)),
    onnx("Elu", UNARY, alpha=0.5),
    onnx("Celu", UNARY, alpha=0.5),
    onnx("Selu", UNARY, alpha=2.0, gamma=0.5),
    onnx("Gelu", UNARY, approximate="tanh"),
    onnx("HardSigmoid", UNARY, alpha=0.25, beta=0.5),
    onnx("Swish", UNARY, alpha=0.5, opset=24),
    onnx("ThresholdedRelu", UNARY, alpha=0.5),
    onnx("Shrink", UNARY, lambd=0.5, bias=0.25),
    onnx("IsInf", UNARY, detect_negative=0),
    onnx("Add", *PAIR),
    onnx("Sub", *ODD),
    onnx("Mul", whole(3, 4), whole(4, seed=1)),
    onnx("Div", whole(3, 4), whole(4, low=-5, high=0, seed=1)),
    onnx("Div", *ODD),
    onnx("Mod", whole(3, 4), whole(4, low=-5, high=0, seed=1)),
    onnx("Mod", *PAIR, fmod=1),
    onnx("Pow", f(3, 4, low=0.1), f(4, seed=1)),
    onnx("Pow", f(3, 4), Known(i64(3))),
    onnx("Sum", X, f(4, 1, seed=1), f(5, seed=2)),
    onnx("Mean", X, f(4, 1, seed=1), f(5, seed=2)),
    *(onnx(name, *ODD) for name in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")),
    *(onnx(name, flags(3, 4), flags(4, seed=1)) for name in ("And", "Or", "Xor")),
    *(onnx(name, whole(3, 4), whole(4, seed=1)) for name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    onnx("Not", flags(5)),
    onnx("BitwiseNot", whole(5, dtype="int32")),
    onnx("Where", flags(3, 1, 5), *ODD),
    onnx("Max", *ODD, f(5, seed=2)),
    onnx("Min", whole(3, 4), whole(4, seed=1)),
    onnx("Clip", UNARY, Known(np.array(-0.5)), Known(np.array(2.5))),
    onnx("Clip", f(3, 4), None, f(seed=1)),
    onnx("Cast", put(WIDE, _6=nan, _7=inf), to=6),
    onnx("Cast", put(WIDE, _6=nan, _7=inf), to=12),
    *(onnx(n, *UNSIGNED) for n in ("Add", "Sub", "Mul", "Div", "Mod", "Less", "Equal", "Max", "BitwiseXor", "And")),
    onnx("BitwiseNot", UNSIGNED[0]),
    onnx("Sign", put(UNSIGNED[0], _0=0)),
    onnx("Abs", UNSIGNED[0]),
    onnx("Cast", UNSIGNED[0], to=1),
    onnx("Cast", UNSIGNED[0], to=6),
    onnx("CastLike", put(UNARY, _0=0.5), Known(flags(1))),
    onnx("Dropout", f(5, 9), Known(np.array(0.25)), Known(np.array(True)), outputs=2, training=True),
]

CREATIONS: list[Case] = [
    onnx("Constant", value=np.float32([[1.5, -inf], [nan, -0.0]])),
    onnx("Constant", value_ints=[2**40, -1]),
    onnx("ConstantOfShape", known(2, 3), value=np.array([7], np.int64)),
    onnx("Range", Known(np.array(1.5)), Known(np.array(-4.0)), Known(np.array(-1.25))),
    onnx("Shape", X, start=-2),
    onnx("Size", X),
    onnx("EyeLike", f(3, 4), k=1, dtype=7),
    onnx("Trilu", put(X, _0=nan), known(-1), upper=0),
]

MOVES: list[Case] = [
    onnx("Reshape", X, known(0, -1)),
    onnx("Flatten", X, axis=-1),
    onnx("Squeeze", f(1, 3, 1), known(-1)),
    onnx("Unsqueeze", f(3, 4), known(0, -1)),
    onnx("Transpose", X, perm=[2, 0, 1]),
    onnx("Expand", f(3, 1), known(2, 1, 4)),
    onnx("Tile", f(3, 4), known(2, 3)),
    onnx("DepthToSpace", f(1, 8, 2, 3), blocksize=2),
    onnx("DepthToSpace", f(1, 8, 2, 3), blocksize=2, mode="CRD"),
    onnx("SpaceToDepth", f(1, 2, 4, 6), blocksize=2),
    onnx("Concat", X, f(3, 2, 5, seed=1), axis=-2),
    onnx("Split", f(3, 11), known(2, 9), axis=1, outputs=2),
    onnx("Split", f(7, 2), num_outputs=3, outputs=3),
    onnx("Slice", f(5, 11), known(-1, 9), known(-6, 0), known(0, 1), known(-2, -3)),
    onnx("Pad", f(3, 4), known(1, -1, 2, 3), Known(np.array(2.5))),
    *(onnx("Pad", X, known(2, 1), None, known(-1), mode=mode) for mode in ("reflect", "edge", "wrap")),
    onnx("Resize", f(1, 2, 5, 4), None, None, known(1, 2, 8, 3), mode="nearest", nearest_mode="ceil",
         coordinate_transformation_mode="asymmetric"),
    onnx("Resize", f(1, 2, 5, 4), None, Known(np.array([1.0, 1.0, 1.5, 0.75])), mode="linear"),
    onnx("Resize", f(1, 2, 5, 4), None, None, known(7, 9), mode="cubic", axes=[2, 3], exclude_outside=1),
    onnx("Upsample", f(1, 2, 3, 4), Known(np.array([1.0, 1.0, 2.0, 1.5])), mode="linear", opset=9),
    onnx("Gather", X, i64([[0, -1], [3, 1]]), axis=1),
    onnx("Gather", f(4, 3), OUT),
    onnx("GatherElements", f(3, 4), whole(2, 4, low=-3, high=3), axis=0),
    onnx("GatherND", X, i64([[[0, 4], [-1, 1]], [[2, 0], [7, 0]], [[3, 2], [1, -5]]]), batch_dims=1),
    onnx("OneHot", i64([[0, -1], [9, 2]]), known(4), f(2), axis=1),
    onnx("ScatterElements", f(4, 3), i64([[1, -1, 2], [1, 3, 9]]), f(2, 3, seed=1), axis=0, reduction="add"),
    onnx("ScatterElements", f(4, 3), i32([[1, -1], [0, 2]]), f(2, 2, seed=1), axis=1),
    onnx("ScatterND", X, i64([[0, 1], [-1, 3], [0, 1], [2, 9]]), f(4, 5, seed=1)),
    onnx("ScatterND", X, i64([[1], [-3]]), f(2, 4, 5, seed=1), reduction="add"),
]  # fmt: skip

REDUCTIONS: list[Case] = [
    *(
        onnx(name, X, known(0, -1), keepdims=0)
        for name in (
            "ReduceSum",
            "ReduceMean",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceMax",
            "ReduceMin",
            "ReduceLogSumExp",
        )
    ),
    onnx("ReduceLogSum", f(3, 4, low=0.1), known(1)),
    onnx("ReduceSum", X, noop_with_empty_axes=1),
    onnx("ReduceMax", CLOSE, known(1)),
    onnx("ReduceMin", put(UNSIGNED[0], _0=0), known(1)),
    onnx("ReduceMax", put(UNSIGNED[0], _0=0), known(1)),
    onnx("ReduceSum", UNSIGNED[0], known(0)),
    onnx("ReduceMin", ROWS, axes=[1], opset=13),
    onnx("CumSum", X, known(1), exclusive=1, reverse=1),
    onnx("ArgMax", ROWS, axis=1, select_last_index=1),
    onnx("ArgMin", CLOSE, axis=-1, keepdims=0),
]

LAYERS: list[Case] = [
    onnx("Conv", f(2, 4, 9, 10), f(6, 2, 3, 2, seed=1), f(6, seed=2), group=2, strides=[2, 1], pads=[0, 1, 2, 0],
         dilations=[1, 3]),
    onnx("Conv", f(1, 2, 8), f(3, 2, 4, seed=1), auto_pad="SAME_LOWER", strides=[3]),
    onnx("ConvTranspose", f(2, 4, 5, 3), f(4, 2, 3, 3, seed=1), f(4, seed=2), group=2, strides=[2, 3],
         pads=[1, 0, 0, 2], output_padding=[1, 0]),
    onnx("ConvTranspose", f(1, 2, 5), f(2, 3, 4, seed=1), auto_pad="SAME_UPPER", strides=[2]),
    onnx("MaxPool", ties(2, 2, 7, 9), kernel_shape=[3, 2], strides=[2, 3], pads=[1, 0, 1, 1], ceil_mode=1, outputs=2),
    onnx("AveragePool", f(2, 2, 7, 9), kernel_shape=[3, 2], strides=[2, 3], auto_pad="SAME_UPPER", count_include_pad=0),
    onnx("GlobalAveragePool", f(2, 3, 4, 5)),
    onnx("GlobalMaxPool", put(ties(2, 3, 4, 5), _0=nan)),
    onnx("MatMul", f(2, 1, 3, 4), f(3, 4, 5, seed=1)),
    onnx("Gemm", f(4, 3), f(5, 4, seed=1), f(5, seed=2), transA=1, transB=1, alpha=0.5, beta=2.0),
    onnx("Einsum", f(2, 3, 4), f(2, 5, 4, seed=1), equation="bij,bkj->bik"),
    onnx("Softmax", f(3, 7, low=-30, high=30), axis=0),
    onnx("LogSoftmax", f(3, 7, low=-30, high=30)),
    onnx("Attention", f(2, 5, 12), f(2, 5, 6, seed=1), f(2, 5, 4, seed=2), q_num_heads=4, kv_num_heads=2, softcap=2.0,
         is_causal=1, opset=23),
    onnx("BatchNormalization", f(4, 3, 5), f(3, seed=1), f(3, seed=2), Buffer(f(3, seed=3)), Buffer(f(3, low=0.5)),
         training=True, momentum=0.75),
    onnx("BatchNormalization", f(4, 3, 5), f(3, seed=1), f(3, seed=2), Buffer(f(3, seed=3)), Buffer(f(3, low=0.5)),
         training=True, training_mode=1, outputs=3),
    onnx("BatchNormalization", f(4, 3), f(3, seed=1), f(3, seed=2), f(3, seed=3), f(3, low=0.5)),
    onnx("InstanceNormalization", f(2, 3, 4), f(3, seed=1), f(3, seed=2), epsilon=2.0**-7),
    onnx("LayerNormalization", f(2, 3, 4), f(3, 4, seed=1), f(3, 4, seed=2), axis=-2, outputs=3),
    onnx("RMSNormalization", f(2, 3, 4), f(4, seed=1), opset=23),
    onnx("GroupNormalization", f(2, 6, 3), f(2, seed=1), f(2, seed=2), num_groups=2, opset=18),
    onnx("LpNormalization", put(f(3, 4), _0=0.0, _1=0.0, _2=0.0, _3=0.0), axis=1),
    onnx("LpNormalization", f(3, 4), axis=0, p=1),
    onnx("LRN", f(2, 7, 3), size=4, alpha=0.5, beta=0.75, bias=2.0),
    onnx("SoftmaxCrossEntropyLoss", SCORES, LABELS, WEIGHTS, ignore_index=2, outputs=2),
    onnx("NegativeLogLikelihoodLoss", SCORES, LABELS, reduction="sum"),
    onnx("LSTM", f(2, 2, 3), f(2, 16, 3, low=-0.7, high=0.7), f(2, 16, 4, low=-0.7, high=0.7), f(2, 32), None,
         f(2, 2, 4), f(2, 2, 4, seed=1), hidden_size=4, direction="bidirectional", outputs=3),
    onnx("GRU", f(2, 2, 3), f(1, 12, 3, low=-0.7, high=0.7), f(1, 12, 4, low=-0.7, high=0.7), f(1, 24), None,
         f(1, 2, 4), hidden_size=4, direction="reverse", linear_before_reset=1, outputs=2),
    onnx("GRU", f(2, 2, 3), f(1, 12, 3, low=-0.7, high=0.7), f(1, 12, 4, low=-0.7, high=0.7), hidden_size=4, outputs=2),
    onnx("RNN", f(3, 2, 3), f(1, 4, 3), f(1, 4, 4), hidden_size=4, outputs=2),
]  # fmt: skip

CASES = [*ELEMENTWISE, *CREATIONS, *MOVES, *REDUCTIONS, *LAYERS]
