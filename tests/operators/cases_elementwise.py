"""The catalogue's cases of elementwise ATen operators: activations, functions, arithmetic, choices, conversions."""

from __future__ import annotations

import torch
from tests.operators.case import UNARY, Case, aten, f, flags, i32, i64, inf, nan, put, ties, whole

#: Two operands that broadcast to [3, 4, 5]: drawn numbers, and ties, NaN, infinities and zeros.
PAIR = (f(3, 4, 5), f(4, 1, seed=1))
ODD = (
    put(ties(3, 4, 5), _0=nan, _1=inf, _2=-inf, _3=-0.0, _7=nan, _11=inf),
    put(ties(4, 1, seed=1), _1=inf, _2=0.0),
)
#: Integers of both widths that broadcast, with the ends of their ranges.
INTEGERS = (put(whole(3, 4), _0=2.0**62, _1=-9.0), put(whole(4, low=1, seed=1, dtype="int32"), _0=3.0))
SAME = (f(4, 5), f(4, 5, seed=1))

ACTIVATIONS: list[Case] = [
    *(
        aten(f"{name}.default", UNARY)
        for name in (
            "relu",
            "relu6",
            "selu",
            "sigmoid",
            "special_expit",
            "log_sigmoid",
            "tanh",
            "silu",
            "mish",
            "hardswish",
            "hardsigmoid",
            "gelu",
            "softplus",
            "hardshrink",
            "softshrink",
            "logit",
        )
    ),
    aten("gelu.default", UNARY, approximate="tanh"),
    aten("hardtanh.default", UNARY, -0.5, 1.5),
    aten("leaky_relu.default", UNARY, 0.25),
    aten("elu.default", UNARY, 0.75, 1.25, 0.5),
    aten("celu.default", UNARY, 0.5),
    aten("softplus.default", UNARY, 2.0, 3.0),
    aten("threshold.default", UNARY, 0.25, -3.0),
    aten("hardshrink.default", UNARY, 1.0),
    aten("softshrink.default", UNARY, 1.0),
    aten("logit.default", UNARY, 0.125),
    aten("log_sigmoid_forward.default", f(7), comparable=False),
    aten("rrelu.default", UNARY, 0.25, 0.5),
    aten("_prelu_kernel.default", put(f(2, 3, 4), _0=0.0, _1=nan, _2=-inf), f(1, 3, 1, seed=1)),
    aten("prelu.default", put(f(2, 3, 4), _0=0.0, _1=nan, _2=-inf), f(3, seed=1)),
    aten("prelu.default", f(2, 3), f(1, seed=1)),
    aten("glu.default", f(3, 6, 5), 1),
    aten("glu.default", f(3, 4)),
]

FUNCTIONS: list[Case] = [
    *(
        aten(f"{name}.default", UNARY)
        for name in (
            "exp",
            "exp2",
            "expm1",
            "log",
            "log1p",
            "log2",
            "log10",
            "sqrt",
            "rsqrt",
            "reciprocal",
            "square",
            "neg",
            "abs",
            "sign",
            "sin",
            "cos",
            "erf",
            "erfc",
            "floor",
            "ceil",
            "round",
            "trunc",
            "frac",
            "isnan",
            "isinf",
            "isfinite",
        )
    ),
    aten("nan_to_num.default", UNARY, comparable=False),
    *(aten(f"{name}.default", whole(9)) for name in ("abs", "neg", "sign", "square", "exp", "floor", "isfinite")),
    aten("negative.default", whole(5, dtype="int32")),
    aten("sgn.default", f(5)),
    aten("nan_to_num.default", UNARY, 1.5, 2.5, -3.5),
    aten("round.decimals", UNARY, decimals=0),
]

ARITHMETIC: list[Case] = [
    aten("add.Tensor", *PAIR, alpha=2.5),
    aten("add.Tensor", *ODD),
    aten("add.Tensor", f(), f(seed=1)),
    aten("add.Tensor", *INTEGERS, alpha=3),
    aten("add.Tensor", flags(3, 4), flags(4, seed=1)),
    aten("add.Scalar", whole(5), 1.5),
    aten("add_.Scalar", f(5), 1.5, 2),
    aten("sub.Tensor", *PAIR),
    aten("sub.Tensor", *ODD, alpha=0.5),
    aten("sub.Scalar", f(5), 3, 2),
    aten("subtract.Tensor", *INTEGERS),
    aten("subtract.Scalar", f(5), 0.5),
    aten("rsub.Tensor", *PAIR, alpha=2),
    aten("rsub.Scalar", f(5), 1.0),
    aten("mul.Tensor", *PAIR),
    aten("mul.Tensor", *ODD),
    aten("mul.Tensor", *INTEGERS),
    aten("mul.Scalar", whole(5, dtype="int32"), 3),
    aten("multiply.Tensor", flags(4), flags(4, seed=1)),
    aten("multiply.Scalar", f(5), -2.5),
    aten("div.Tensor", *PAIR),
    aten("div.Tensor", *ODD),
    aten("div.Tensor", *INTEGERS),
    aten("div.Scalar", f(5), 3),
    aten("div.Tensor_mode", *ODD, rounding_mode="trunc"),
    aten("div.Tensor_mode", *PAIR, rounding_mode="floor"),
    aten("div.Tensor_mode", *INTEGERS, rounding_mode="trunc"),
    aten("div.Scalar_mode", whole(9), -4, rounding_mode="floor"),
    aten("divide.Tensor", *PAIR),
    aten("divide.Scalar", f(5), 0.125),
    aten("divide.Tensor_mode", *INTEGERS, rounding_mode="floor"),
    aten("divide.Scalar_mode", f(5), 0.75, rounding_mode="trunc"),
    aten("true_divide.Tensor", *PAIR),
    aten("true_divide.Scalar", whole(5), 4),
    aten("floor_divide.default", *PAIR),
    aten("floor_divide.default", *INTEGERS),
    aten("floor_divide.Scalar", f(7, low=-9, high=9), -0.75),
    aten("remainder.Tensor", *PAIR),
    aten("remainder.Tensor", *INTEGERS),
    aten("remainder.Scalar", f(7, low=-9, high=9), 0.75),
    aten("remainder.Scalar", whole(7), -4),
    aten("remainder.Scalar_Tensor", 7, f(5, low=0.3), comparable=False),
    aten("fmod.Tensor", *PAIR),
    aten("fmod.Tensor", *INTEGERS),
    aten("fmod.Scalar", f(7, low=-9, high=9), -0.75),
    aten("pow.Tensor_Tensor", f(3, 4, 5, low=0.1), f(4, 1, seed=1)),
    aten("pow.Tensor_Tensor", put(ties(20), _0=0.0, _1=inf, _2=-inf), put(ties(20, seed=3), _3=inf, _4=-inf)),
    aten("pow.Tensor_Scalar", f(7), 3),
    aten("pow.Tensor_Scalar", f(7), -2),
    aten("pow.Tensor_Scalar", f(7, low=0.1), 0.5),
    aten("pow.Tensor_Scalar", f(7, low=0.1), 1.75),
    aten("pow.Tensor_Scalar", put(f(4), _0=0.0, _1=nan), 0),
    aten("pow.Tensor_Scalar", whole(7, dtype="int32"), 5),
    aten("pow.Scalar", 2.5, f(7)),
    aten("pow.Scalar", 0.0, ties(7)),
    aten("lerp.Scalar", *SAME, 0.75),
    aten("lerp.Tensor", f(3, 4), f(4, seed=1), f(3, 1, seed=2, low=-0.2, high=1.2)),
    aten("addcmul.default", f(4, 5), f(4, 5, seed=1), f(5, seed=2), value=0.5),
    aten("addcmul.default", whole(4), whole(4, seed=1), whole(4, seed=2), value=3),
    aten("addcdiv.default", f(4, 5), f(4, 5, seed=1), f(4, 1, seed=2, low=0.5), value=-0.5),
]

SELECTIONS: list[Case] = [
    *(
        case
        for name in ("maximum.default", "max.other", "minimum.default", "min.other")
        for case in (aten(name, *PAIR), aten(name, *ODD))
    ),
    aten("maximum.default", *INTEGERS),
    aten("minimum.default", flags(5), flags(5, seed=1)),
    aten("clamp.default", UNARY, -0.5, 2.5),
    aten("clamp.default", whole(9), None, 3),
    aten("clamp.Tensor", *ODD, f(5, seed=2)),
    aten("clip.default", f(9), 0.5),
    aten("clip.Tensor", f(3, 4, 5), None, f(4, 1, seed=1)),
    aten("clamp_min.default", put(f(9), _0=0.5, _1=nan), 0.5),
    aten("clamp_min.Tensor", *ODD),
    aten("clamp_max.default", put(f(9), _0=0.5, _1=nan), 0.5),
    aten("clamp_max.Tensor", *PAIR),
    aten("where.self", flags(3, 1, 5), *ODD),
    aten("where.ScalarOther", flags(5), f(3, 5), 2.5),
    aten("where.ScalarSelf", flags(5), 2.5, f(3, 5)),
    aten("where.Scalar", flags(5), 1.0, 0.0),
    aten("masked_fill.Scalar", f(3, 5), flags(5), -inf),
    aten("masked_fill.Tensor", f(3, 5), flags(3, 1), f(seed=1)),
    *(
        case
        for name in ("lt", "le", "gt", "ge", "eq", "ne")
        for case in (
            aten(f"{name}.Tensor", *ODD),
            aten(f"{name}.Scalar", UNARY, 0.5),
            aten(f"{name}.Tensor", *INTEGERS),
        )
    ),
    aten("less.Tensor", whole(5), f(5)),
    aten("less_equal.Scalar", whole(5, dtype="int32"), 1),
    aten("greater.Tensor", *PAIR),
    aten("greater_equal.Scalar", f(5), 0),
    aten("not_equal.Tensor", flags(5), flags(5, seed=1)),
    *(
        case
        for name in ("and", "or", "xor")
        for case in (
            aten(f"logical_{name}.default", put(ties(3, 4), _0=nan), flags(4)),
            aten(f"logical_{name}_.default", f(3, 4), flags(4)),
            aten(f"bitwise_{name}.Tensor", *INTEGERS),
            aten(f"bitwise_{name}.Scalar", whole(5, dtype="int32"), 6),
            aten(f"bitwise_{name}.Scalar_Tensor", 6, whole(5)),
            aten(f"__{name}__.Tensor", flags(4), flags(4, seed=1)),
            aten(f"__{name}__.Scalar", whole(5), -2),
        )
    ),
    aten("logical_not.default", UNARY),
    aten("bitwise_not.default", whole(5, dtype="int32")),
    aten("bitwise_not.default", flags(5)),
]

#: Beyond the ranges of the integer types, halves, NaN: what conversions have to decide.
WIDE = put(f(19, low=-9, high=9), _0=2.0**40, _1=-(2.0**40), _2=2.0**31, _3=0.5, _4=-0.5, _5=-0.0)

CONVERSIONS: list[Case] = [
    aten("_to_copy.default", f(9, low=-9, high=9), dtype=torch.int32),
    aten("_to_copy.default", WIDE, dtype=torch.int64),
    aten("to.dtype", put(UNARY, _28=1.0, _29=2.0, _30=3.0), torch.bool),
    aten("to.dtype", i64(2**33 + 5, -1, 7), torch.int32),
    aten("to.device", whole(5), "cpu", torch.float32, comparable=False),
    aten("to.dtype_layout", flags(5), dtype=torch.int64),
    aten("to.other", whole(5, dtype="int32"), f(2), comparable=False),
    aten("type_as.default", put(WIDE, _6=nan, _7=inf, _8=-inf), i32(1), comparable=False),
    aten("type_as.default", put(WIDE, _6=nan, _7=inf, _8=-inf), i64(1), comparable=False),
    *(
        aten(f"{name}.default", f(2, 3))
        for name in (
            "clone",
            "contiguous",
            "alias",
            "alias_copy",
            "lift_fresh_copy",
            "positive",
            "resolve_conj",
            "resolve_neg",
        )
    ),
    aten("detach.default", f(2, 3), differentiable=False),
    aten("copy.default", f(3, 4), f(4, seed=1), comparable=False),
    aten("copy.default", whole(3, 4), f(4, seed=1, low=-9, high=9)),
    aten("fill.Scalar", f(3, 4), -inf),
    aten("fill.Tensor", f(3, 4), f(seed=1)),
    aten("zero.default", whole(3, 4)),
]

CASES = [*ACTIVATIONS, *FUNCTIONS, *ARITHMETIC, *SELECTIONS, *CONVERSIONS]
