/* SPDX-License-Identifier: Apache-2.0
 *
 * tilegrad_math.h: elementary functions whose bits are the same on every target.
 *
 * Only float32 and integer arithmetic and no libm: a call of any function here is a fixed sequence of IEEE
 * operations (+ - * / sqrt fma, round to nearest even), so every compiler, optimisation level, vector width and machine
 * gives the same bits. All NaN count as one: only their payload and sign may differ. NaN in gives NaN out, except
 * pow(x, 0) = pow(1, y) = 1. Where one formula does not serve the whole range, both are evaluated and a ternary
 * selects, so that compilers can vectorise loops over any function (sin and cos branch for |x| > 1e5).
 *
 * Largest error against the true value, in units in the last place (ulp) of the result (2^-149 for subnormal ones):
 *
 *   function       ulp   measured over
 *   tg_exp         0.990 all floats
 *   tg_expm1       1.049 all floats
 *   tg_log         0.820 all floats
 *   tg_log1p       0.900 all floats
 *   tg_tanh        1.058 all floats
 *   tg_erf         0.986 all floats
 *   tg_sin         0.723 all floats
 *   tg_cos         0.721 all floats
 *   tg_pow         0.987 5e8 random pairs; three quarters have results over all binades, subnormal ones included
 *   tg_sqrt        0.500 by IEEE 754
 *   tg_floor       0.000 all floats (exact, like the three below)
 *   tg_ceil        0.000 all floats
 *   tg_trunc       0.000 all floats
 *   tg_round_even  0.000 all floats
 *
 * Polynomials: the unconstrained minimax polynomial comes from the Remez exchange algorithm in extended precision,
 * weighted so that the error is relative to the function's result; then one coefficient after the other, lowest power
 * first, is rounded to float32 and the remaining ones are fitted again (a linear programme). The error beside each
 * polynomial is that of the rounded coefficients in exact arithmetic.
 *
 * Contraction: a multiply and an add that the source keeps apart must not be fused. The pragmas below see to that under
 * GCC with any -ffp-contract and under Clang unless it is told -ffp-contract=fast, with which Clang disregards every
 * pragma. This header is immune even then: no product here is an operand of an addition or a subtraction unless the
 * product is exact. Code that includes it may not be: use -ffp-contract=off, and tg_arithmetic_faults() to check.
 * Include this header before any function, so that GCC compiles all of a file under the same options and may inline.
 */
#ifndef TILEGRAD_MATH_H
#define TILEGRAD_MATH_H

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0) || \
    defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || defined(__NO_SIGNED_ZEROS__)
#error "tilegrad_math.h: fast-math options change the results; compile without -ffast-math, -Ofast and their parts."
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0 && __FLT_EVAL_METHOD__ != 16
#error "tilegrad_math.h: float must be evaluated in float (on 32-bit x86: -msse2 -mfpmath=sse)."
#endif

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
/* no-math-errno, no-trapping-math: nobody reads errno or the exception flags; both only stand in the way of inlining
   sqrt and of vectorising selects, and change no result */
#pragma GCC optimize("fp-contract=off", "no-math-errno", "no-trapping-math")
#else
#error "tilegrad_math.h: needs GCC or Clang (__builtin_fmaf, __builtin_sqrtf)."
#endif

#include <stdint.h>

/* ---- Bits, signs, selects ------------------------------------------------------------------------------------ */

typedef union {
  float value;
  uint32_t bits;
} tg_float_bits_t;

#define TG_SIGN_BIT 0x80000000u
#define TG_FLOAT_MAX 0x1.fffffep+127f
#define TG_ROUNDING_SHIFT 0x1.8p+23f /* adding it rounds |x| < 2^22 to an integer, ties to even, in the low bits */

/** The bit pattern of x. */
static inline uint32_t tg_bits_of(float x) {
  tg_float_bits_t pun;
  pun.value = x;
  return pun.bits;
}

/** The float with this bit pattern. */
static inline float tg_from_bits(uint32_t bits) {
  tg_float_bits_t pun;
  pun.bits = bits;
  return pun.value;
}

static inline float tg_infinity(void) { return tg_from_bits(0x7f800000u); }

static inline float tg_nan(void) { return tg_from_bits(0x7fc00000u); }

/** |x|, for every x including NaN. */
static inline float tg_abs(float x) { return tg_from_bits(tg_bits_of(x) & ~TG_SIGN_BIT); }

/** The magnitude (a float whose sign bit is clear) with the sign bit of `sign`. */
static inline float tg_with_sign_of(float magnitude, float sign) {
  return tg_from_bits(tg_bits_of(magnitude) | (tg_bits_of(sign) & TG_SIGN_BIT));
}

/* ---- Correctly rounded operations ---------------------------------------------------------------------------- */

/** a * b + c with one rounding. */
static inline float tg_fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

/** The correctly rounded square root. */
static inline float tg_sqrt(float x) { return __builtin_sqrtf(x); }

/** The nearest integer, ties to the even one. Exact; keeps -0, infinities and NaN. */
static inline float tg_round_even(float x) {
  const float magnitude = tg_abs(x);
  const float rounded = (magnitude + 0x1p+23f) - 0x1p+23f;
  return tg_with_sign_of(magnitude < 0x1p+23f ? rounded : magnitude, x);
}

/** The integer part, towards zero. Exact; keeps -0, infinities and NaN. */
static inline float tg_trunc(float x) {
  const float magnitude = tg_abs(x);
  const float rounded = tg_abs(tg_round_even(x));
  const float truncated = rounded > magnitude ? rounded - 1.0f : rounded;
  return tg_with_sign_of(truncated, x);
}

/** The largest integer not above x. Exact; keeps -0, infinities and NaN. */
static inline float tg_floor(float x) {
  const float rounded = tg_round_even(x);
  return rounded > x ? rounded - 1.0f : rounded;
}

/** The smallest integer not below x. Exact; keeps -0, infinities and NaN; ceil of (-1, 0) is -0. */
static inline float tg_ceil(float x) {
  const float rounded = tg_round_even(x);
  const float raised = rounded < x ? rounded + 1.0f : rounded;
  return tg_from_bits(tg_bits_of(raised) | (tg_bits_of(x) & (raised == 0.0f ? TG_SIGN_BIT : 0u)));
}

/** x towards zero as an int32; out-of-range values go to the nearest bound, NaN to 0. */
static inline int32_t tg_f32_to_i32(float x) {
  const float inside = (x >= -0x1p+31f && x < 0x1p+31f) ? x : 0.0f;
  const int32_t converted = (int32_t)inside;
  const int32_t raised = x >= 0x1p+31f ? INT32_MAX : converted;
  return x < -0x1p+31f ? INT32_MIN : raised;
}

/** The quotient rounded towards minus infinity; 0 if b is 0, and -2^31 / -1 wraps. */
static inline int32_t tg_floor_div_i32(int32_t a, int32_t b) {
  if (b == 0) {
    return 0;
  }
  if (b == -1) {
    return (int32_t)(0u - (uint32_t)a);
  }
  return a / b - ((a % b != 0 && (a < 0) != (b < 0)) ? 1 : 0);
}

/** a - b * tg_floor_div_i32(a, b): the remainder with the sign of b, as in Python; 0 if b is 0. */
static inline int32_t tg_floor_mod_i32(int32_t a, int32_t b) {
  if (b == 0 || b == -1) {
    return 0;
  }
  const int32_t remainder = a % b;
  return (remainder != 0 && (remainder < 0) != (b < 0)) ? remainder + b : remainder;
}

/** What this build or this machine breaks of the arithmetic that reproducible results rest on; 0 if nothing. A sum of
 *  1: a separate multiply and add were fused (compile with -ffp-contract=off),
 *  2: fma rounds twice (an emulation through double),
 *  4: subnormal numbers are flushed to zero,
 *  8: the rounding mode is not to nearest (then 1 and 2 cannot be told and are left out). */
static inline uint32_t tg_arithmetic_faults(void) {
  volatile float a = 0x1.001p+0f;
  volatile float b = -0x1.002p+0f; /* -a^2 rounded: a * a + b is 0, fused it is 2^-24 */
  const float separate = a * a + b;
  volatile float above = 0x1.000002p+0f;
  volatile float below = 0x1.fffffcp-1f; /* above * below = 1 - 2^-46 */
  volatile float odd = 0x1.000002p+24f;
  const float fused = __builtin_fmaf(above, below, odd); /* just below the tie between 2^24 + 2 and 2^24 + 4 */
  volatile float smallest = 0x1p-126f;
  volatile float subnormal = 0x1p-149f;
  volatile float half = 0.5f;
  volatile float large = 0x1p+100f;
  const float result = smallest * half;
  const float operand = subnormal * large;
  volatile float one = 1.0f;
  volatile float tiny = 0x1p-30f;
  const float up = one + tiny;
  const float down = -one - tiny;
  const float back = one - tiny;
  const uint32_t flushed = (result == 0.0f || operand == 0.0f) ? 4u : 0u;
  if (up != 1.0f || down != -1.0f || back != 1.0f) {
    return flushed + 8u;
  }
  return flushed + (separate != 0.0f ? 1u : 0u) + (fused != 0x1.000002p+24f ? 2u : 0u);
}

/* ---- exp, expm1 ---------------------------------------------------------------------------------------------- */

#define TG_LOG2_E 0x1.715476p+0f
#define TG_LN2_HIGH 0x1.62e43p-1f /* 21 significant bits: k * TG_LN2_HIGH is exact for |k| <= 256 */
#define TG_LN2_LOW -0x1.05c61p-29f

/** (exp(r) - 1 - r) / r^2 for |r| <= 0.3468; relative error of exp(r) - 1: 2^-28.2. */
static inline float tg_exp_tail(float r) {
  float q = 0x1.39113ap-13f;
  q = __builtin_fmaf(q, r, 0x1.6d2e2p-10f);
  q = __builtin_fmaf(q, r, 0x1.11567ep-7f);
  q = __builtin_fmaf(q, r, 0x1.555502p-5f);
  q = __builtin_fmaf(q, r, 0x1.55552cp-3f);
  return __builtin_fmaf(q, r, 0.5f);
}

/** exp(r) - 1 for |r| <= 0.3468. */
static inline float tg_expm1_reduced(float r) { return __builtin_fmaf(r * r, tg_exp_tail(r), r); }

/** e to the power x = n * ln 2 + r (Cody and Waite's reduction): 2^n * exp(r). */
static inline float tg_exp(float x) {
  const float below = x > 89.0f ? 89.0f : x; /* both bounds already overflow or underflow; NaN passes */
  const float a = below < -104.0f ? -104.0f : below;
  const float shifted = __builtin_fmaf(a, TG_LOG2_E, TG_ROUNDING_SHIFT);
  const float n = shifted - TG_ROUNDING_SHIFT;
  const float r = __builtin_fmaf(n, -TG_LN2_LOW, __builtin_fmaf(n, -TG_LN2_HIGH, a));
  const float p = tg_expm1_reduced(r);
  /* 2^n in two factors, each in range: only the last product rounds, into the subnormals too */
  const uint32_t biased = tg_bits_of(shifted) - tg_bits_of(TG_ROUNDING_SHIFT) + 254u;
  const uint32_t half = biased >> 1;
  return (1.0f + p) * tg_from_bits(half << 23) * tg_from_bits((biased - half) << 23);
}

/** exp(x) - 1 without cancellation. */
static inline float tg_expm1(float x) {
  const float below = x > 89.0f ? 89.0f : x;
  const float a = below < -18.0f ? -18.0f : below;
  const float shifted = __builtin_fmaf(a, TG_LOG2_E, TG_ROUNDING_SHIFT);
  const float n = shifted - TG_ROUNDING_SHIFT;
  /* where 2^n * exp(r) - 1 cancels, the roundings of r and of the sums would show: carry them along */
  const float r_high = __builtin_fmaf(n, -TG_LN2_HIGH, a);
  const float r = __builtin_fmaf(n, -TG_LN2_LOW, r_high);
  const float r_low = __builtin_fmaf(n, -TG_LN2_LOW, r_high - r);
  const float p_low = __builtin_fmaf(r * r, tg_exp_tail(r), r_low);
  /* half of 2^n, because 2^128 is not a float */
  const float scale = tg_from_bits((tg_bits_of(shifted) - tg_bits_of(TG_ROUNDING_SHIFT) + 126u) << 23);
  const float base = scale - 0.5f;
  const float sum = __builtin_fmaf(r, scale, base);
  const float sum_low = __builtin_fmaf(r, scale, base - sum);
  const float y = 2.0f * (sum + __builtin_fmaf(p_low, scale, sum_low));
  return tg_abs(x) < 0x1p-25f ? x : y;
}

/* ---- log, log1p ---------------------------------------------------------------------------------------------- */

/** log(2^k * (1 + f + g)) for integral k, f in [-1/3, 1/3] and g below half a unit in the last place of f.
 *  log(1 + f) = f + f^2 * q(f); relative error 2^-30.1. */
static inline float tg_log_reduced(float k, float f, float g) {
  float q = 0x1.e9d32ap-4f;
  q = __builtin_fmaf(q, f, -0x1.06c2bap-3f);
  q = __builtin_fmaf(q, f, 0x1.b91ea8p-4f);
  q = __builtin_fmaf(q, f, -0x1.f3b02cp-4f);
  q = __builtin_fmaf(q, f, 0x1.24eb7p-3f);
  q = __builtin_fmaf(q, f, -0x1.55978cp-3f);
  q = __builtin_fmaf(q, f, 0x1.9997eep-3f);
  q = __builtin_fmaf(q, f, -0x1.ffff18p-3f);
  q = __builtin_fmaf(q, f, 0x1.555556p-2f);
  q = __builtin_fmaf(q, f, -0.5f);
  /* k * ln 2 + f as an unevaluated sum: the rounding of `high` is recovered exactly in `low` */
  const float high = __builtin_fmaf(k, TG_LN2_HIGH, f);
  const float low = (__builtin_fmaf(k, TG_LN2_HIGH, -high) + f) + __builtin_fmaf(-f, g, g); /* g / (1 + f) */
  return high + __builtin_fmaf(f * f, q, __builtin_fmaf(k, TG_LN2_LOW, low));
}

/** The exponent part of x relative to [2/3, 4/3), still in place: x = 2^k * m has k * 2^23 here. */
static inline uint32_t tg_log_exponent(float x) { return (tg_bits_of(x) - 0x3f2aaaabu) & 0xff800000u; }

/** The natural logarithm. */
static inline float tg_log(float x) {
  const int subnormal = x < 0x1p-126f;
  const float a = subnormal ? x * 0x1p+23f : x;
  const uint32_t exponent = tg_log_exponent(a);
  const float k = __builtin_fmaf((float)(int32_t)exponent, 0x1p-23f, subnormal ? -23.0f : 0.0f);
  const float f = tg_from_bits(tg_bits_of(a) - exponent) - 1.0f;
  const float y = tg_log_reduced(k, f, 0.0f);
  const float positive = x > TG_FLOAT_MAX ? x : y;
  return x > 0.0f ? positive : (x == 0.0f ? -tg_infinity() : tg_nan());
}

/** log(1 + x) without cancellation. */
static inline float tg_log1p(float x) {
  const uint32_t exponent = tg_log_exponent(1.0f + x);
  const float k = (float)(int32_t)exponent * 0x1p-23f;
  /* f + g = x * 2^-k + (2^-k - 1), with 4 * 2^-k because 2^-128 is subnormal */
  const float scale = tg_from_bits(0x40800000u - exponent);
  const float quarter = 0.25f * x;
  const float shift = __builtin_fmaf(0.25f, scale, -1.0f);
  const float f = __builtin_fmaf(quarter, scale, shift);
  const float g = __builtin_fmaf(quarter, scale, shift - f);
  const float y = tg_log_reduced(k, f, g);
  const float finite = tg_abs(x) < 0x1p-25f ? x : y;
  const float above = x > TG_FLOAT_MAX ? x : finite;
  return x > -1.0f ? above : (x == -1.0f ? -tg_infinity() : tg_nan());
}

/* ---- tanh, erf ----------------------------------------------------------------------------------------------- */

/** The hyperbolic tangent. */
static inline float tg_tanh(float x) {
  const float a = tg_abs(x);
  /* below 0.75: x + x^3 * q(x^2); relative error 2^-29.1 */
  const float z = a * a;
  float q = 0x1.c8975p-10f;
  q = __builtin_fmaf(q, z, -0x1.f662fep-8f);
  q = __builtin_fmaf(q, z, 0x1.5f9082p-6f);
  q = __builtin_fmaf(q, z, -0x1.b98108p-5f);
  q = __builtin_fmaf(q, z, 0x1.110ddap-3f);
  q = __builtin_fmaf(q, z, -0x1.55554ap-2f);
  const float near = __builtin_fmaf(a, z * q, a);
  /* from there: 1 - 2 / (exp(2x) + 1); 1 - 2^-25 and above round to 1 from x = 9.02 on */
  const float b = a > 9.1f ? 18.2f : 2.0f * a;
  const float shifted = __builtin_fmaf(b, TG_LOG2_E, TG_ROUNDING_SHIFT);
  const float n = shifted - TG_ROUNDING_SHIFT;
  const float r = __builtin_fmaf(n, -TG_LN2_LOW, __builtin_fmaf(n, -TG_LN2_HIGH, b));
  const float p = tg_expm1_reduced(r);
  const float scale = tg_from_bits((tg_bits_of(shifted) - tg_bits_of(TG_ROUNDING_SHIFT) + 127u) << 23);
  const float far = 1.0f - 2.0f / __builtin_fmaf(p, scale, scale + 1.0f);
  return tg_with_sign_of(a < 0.75f ? near : far, x);
}

/** The error function. */
static inline float tg_erf(float x) {
  const float a = tg_abs(x);
  /* below 1: x + x * q(x^2); relative error 2^-29.4 */
  const float z = a * a;
  float q = 0x1.4771fep-14f;
  q = __builtin_fmaf(q, z, -0x1.a3515ep-11f);
  q = __builtin_fmaf(q, z, 0x1.53f224p-8f);
  q = __builtin_fmaf(q, z, -0x1.b7f71ap-6f);
  q = __builtin_fmaf(q, z, 0x1.ce2ce6p-4f);
  q = __builtin_fmaf(q, z, -0x1.81273ep-2f);
  q = __builtin_fmaf(q, z, 0x1.06eba8p-3f);
  const float near = __builtin_fmaf(a, q, a);
  /* from there: 1 - exp(-t(x)), t fitted to -log(erfc(x)) on [1, 4]; relative error 2^-29.8; 1 from x = 3.92 on */
  const float b = a > 4.0f ? 4.0f : a;
  float t = -0x1.86dc6cp-13f;
  t = __builtin_fmaf(t, b, 0x1.825a3cp-9f);
  t = __builtin_fmaf(t, b, -0x1.65cb1cp-6f);
  t = __builtin_fmaf(t, b, 0x1.a6531ap-4f);
  t = __builtin_fmaf(t, b, 0x1.46bafp-1f);
  t = __builtin_fmaf(t, b, 0x1.2088eap+0f);
  t = __builtin_fmaf(t, b, 0x1.661d56p-12f);
  const float shifted = __builtin_fmaf(t, -TG_LOG2_E, TG_ROUNDING_SHIFT);
  const float n = shifted - TG_ROUNDING_SHIFT;
  const float r = __builtin_fmaf(n, -TG_LN2_LOW, __builtin_fmaf(n, -TG_LN2_HIGH, -t));
  const float p = tg_expm1_reduced(r);
  const float scale = tg_from_bits((tg_bits_of(shifted) - tg_bits_of(TG_ROUNDING_SHIFT) + 127u) << 23);
  const float far = __builtin_fmaf(-p, scale, 1.0f - scale);
  return tg_with_sign_of(a < 1.0f ? near : far, x);
}

/* ---- sin, cos ------------------------------------------------------------------------------------------------ */

#define TG_TWO_OVER_PI 0x1.45f306p-1f
#define TG_HALF_PI_1 0x1.921fb6p+0f
#define TG_HALF_PI_2 -0x1.777a5cp-25f
#define TG_HALF_PI_3 -0x1.ee59dap-50f

/** An angle as quadrant * pi/2 + (high + low), |high| <= 0.788. */
typedef struct {
  float high;
  float low;
  uint32_t quadrant; /* only its two low bits count */
} tg_angle_t;

/** Cody-Waite with three parts of pi/2, for 0 <= a <= 1e5; NaN and infinity give NaN. */
static inline tg_angle_t tg_reduce_angle(float a) {
  tg_angle_t angle;
  const float shifted = __builtin_fmaf(a, TG_TWO_OVER_PI, TG_ROUNDING_SHIFT);
  const float n = shifted - TG_ROUNDING_SHIFT;
  /* exact: both terms are multiples of 2^-24, the result is below 1 */
  const float first = __builtin_fmaf(n, -TG_HALF_PI_1, a);
  /* the rest of n * pi/2 as part + part_low; `first` is a multiple of the last place of `part`, so the rounding of
     their difference is recovered exactly, however much cancels */
  const float part = __builtin_fmaf(n, TG_HALF_PI_2, n * TG_HALF_PI_3);
  const float part_low = __builtin_fmaf(n, TG_HALF_PI_3, __builtin_fmaf(n, TG_HALF_PI_2, -part));
  const float second = first - part;
  const float error = ((first - second) - part) - part_low;
  angle.high = second + error;
  angle.low = error - (angle.high - second);
  angle.quadrant = tg_bits_of(shifted);
  return angle;
}

/** Payne-Hanek in integers, for finite a >= 2^16: a * 2/pi modulo 4 from the 96 bits of 2/pi that matter. */
static inline tg_angle_t tg_reduce_large_angle(float a) {
  static const uint32_t two_over_pi[] = {0x00000000u, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u,
                                         0xdb629599u, 0x3c439041u, 0xfe5163abu};
  const uint32_t bits = tg_bits_of(a);
  const uint32_t mantissa = (bits & 0x007fffffu) | 0x00800000u;
  /* a = mantissa * 2^e; the first bit of 2/pi whose product is not a multiple of 4 has the weight 2^(1-e) */
  const uint32_t position = (bits >> 23) - 150u + 30u;
  const uint32_t word = position >> 5;
  const uint32_t shift = position & 31u;
  const uint32_t w0 = (two_over_pi[word] << shift) | ((two_over_pi[word + 1u] >> 1) >> (31u - shift));
  const uint32_t w1 = (two_over_pi[word + 1u] << shift) | ((two_over_pi[word + 2u] >> 1) >> (31u - shift));
  const uint32_t w2 = (two_over_pi[word + 2u] << shift) | ((two_over_pi[word + 3u] >> 1) >> (31u - shift));
  const uint64_t middle = (uint64_t)mantissa * w1 + (((uint64_t)mantissa * w2) >> 32);
  const uint64_t turns = ((uint64_t)(mantissa * w0) << 32) + middle; /* 2 integer bits, 62 of fraction, modulo 4 */
  const uint64_t quadrant = (turns + 0x2000000000000000u) >> 62;
  const uint64_t remainder = turns - (quadrant << 62); /* in [-2^61, 2^61), two's complement */
  const uint32_t sign = (uint32_t)(remainder >> 32) & TG_SIGN_BIT;
  const uint64_t fraction = sign != 0u ? 0u - remainder : remainder;
  /* |remainder| as a sum of three exact floats, then as high + low, then times pi/2 */
  const float top = (float)(int32_t)(uint32_t)(fraction >> 40) * 0x1p-22f;
  const float mid = (float)(int32_t)(uint32_t)((fraction >> 16) & 0x00ffffffu) * 0x1p-46f;
  const float end = (float)(int32_t)(uint32_t)(fraction & 0x0000ffffu) * 0x1p-62f;
  const float sum = top + mid;
  const float tail = (mid - (sum - top)) + end;
  const float unit_high = sum + tail;
  const float unit_low = tail - (unit_high - sum);
  const float high = __builtin_fmaf(unit_high, TG_HALF_PI_1, unit_high * TG_HALF_PI_2);
  const float error = __builtin_fmaf(unit_high, TG_HALF_PI_1, -high);
  const float low = __builtin_fmaf(unit_low, TG_HALF_PI_1, __builtin_fmaf(unit_high, TG_HALF_PI_2, error));
  tg_angle_t angle;
  angle.high = tg_from_bits(tg_bits_of(high) ^ sign);
  angle.low = tg_from_bits(tg_bits_of(low) ^ sign);
  angle.quadrant = (uint32_t)quadrant;
  return angle;
}

/** sin(quadrant * pi/2 + high + low). */
static inline float tg_sin_reduced(uint32_t quadrant, float high, float low) {
  const float z = high * high;
  const float first = __builtin_fmaf(-0.5f, z, 1.0f);
  /* sin(high) + low * cos(high); relative error 2^-32.5 for |high| <= 0.7885 */
  float s = 0x1.7c1b22p-19f;
  s = __builtin_fmaf(s, z, -0x1.a05932p-13f);
  s = __builtin_fmaf(s, z, 0x1.111174p-7f);
  s = __builtin_fmaf(s, z, -0x1.555556p-3f);
  const float sine = high + __builtin_fmaf(high * z, s, first * low);
  /* 1 - (high + low)^2 / 2 with the roundings of the square and of the difference recovered, then the rest;
     relative error 2^-32.9 */
  float c = 0x1.99e524p-16f;
  c = __builtin_fmaf(c, z, -0x1.6c0c22p-10f);
  c = __builtin_fmaf(c, z, 0x1.55554ap-5f);
  const float z_low = __builtin_fmaf(2.0f * high, low, __builtin_fmaf(high, high, -z));
  const float first_low = __builtin_fmaf(-0.5f, z_low, __builtin_fmaf(-0.5f, z, 1.0f - first));
  const float cosine = first + __builtin_fmaf(z * z, c, first_low);
  const float y = (quadrant & 1u) != 0u ? cosine : sine;
  return tg_from_bits(tg_bits_of(y) ^ ((quadrant & 2u) << 30));
}

static inline tg_angle_t tg_reduce_any_angle(float a) {
  return (a > 100000.0f && a <= TG_FLOAT_MAX) ? tg_reduce_large_angle(a) : tg_reduce_angle(a);
}

/** The sine of x radians. */
static inline float tg_sin(float x) {
  const tg_angle_t angle = tg_reduce_any_angle(tg_abs(x));
  const float y = tg_sin_reduced(angle.quadrant, angle.high, angle.low);
  return tg_from_bits(tg_bits_of(y) ^ (tg_bits_of(x) & TG_SIGN_BIT));
}

/** The cosine of x radians. */
static inline float tg_cos(float x) {
  const tg_angle_t angle = tg_reduce_any_angle(tg_abs(x));
  return tg_sin_reduced(angle.quadrant + 1u, angle.high, angle.low);
}

/* ---- pow ----------------------------------------------------------------------------------------------------- */

/** x to the power y, with the special cases of C99 Annex F. */
static inline float tg_pow(float x, float y) {
  const float a = tg_abs(x);

  /* log2(a) as high + low, to about 2^-35 of itself. a = 2^k * m, sqrt(1/2) <= m < sqrt(2). */
  const int subnormal = a < 0x1p-126f;
  const float normal = subnormal ? a * 0x1p+23f : a;
  const uint32_t exponent = (tg_bits_of(normal) - 0x3f3504f3u) & 0xff800000u;
  const float k = __builtin_fmaf((float)(int32_t)exponent, 0x1p-23f, subnormal ? -23.0f : 0.0f);
  const float m = tg_from_bits(tg_bits_of(normal) - exponent);
  /* s = (m - 1) / (m + 1) = s + s_low */
  const float f = m - 1.0f;
  const float divisor = m + 1.0f;
  const float divisor_low = m - (divisor - 1.0f);
  const float reciprocal = 1.0f / divisor;
  const float s = __builtin_fmaf(f, reciprocal, 0.0f); /* no plain product: a subtraction below could absorb it */
  const float residual = __builtin_fmaf(-s, divisor_low, __builtin_fmaf(-s, divisor, f));
  const float s_low = residual * reciprocal;
  /* log(m) / 2 = atanh(s) = s + s * (z/3 + z^2 * q(z)), z = s^2; relative error 2^-36.8 */
  const float z = s * s;
  const float z_low = __builtin_fmaf(2.0f * s, s_low, __builtin_fmaf(s, s, -z));
  float q = 0x1.dfa254p-4f;
  q = __builtin_fmaf(q, z, 0x1.24527cp-3f);
  q = __builtin_fmaf(q, z, 0x1.999ap-3f);
  const float third = z * 0x1.555556p-2f;
  const float third_low = __builtin_fmaf(z_low, 0x1.555556p-2f, __builtin_fmaf(z, 0x1.555556p-2f, -third));
  const float rest = __builtin_fmaf(z, __builtin_fmaf(z, q, -0x1.555556p-27f), third_low);
  const float half_log = __builtin_fmaf(s, third, s);
  float half_log_low = __builtin_fmaf(s, third, s - half_log);
  half_log_low = __builtin_fmaf(s, rest, half_log_low);
  half_log_low = __builtin_fmaf(residual, reciprocal, half_log_low);
  half_log_low = __builtin_fmaf(s_low, third, half_log_low);
  /* times 2 / ln 2, plus k */
  const float high = __builtin_fmaf(half_log, 0x1.715476p+1f, k);
  float low = __builtin_fmaf(half_log, 0x1.715476p+1f, k - high);
  low = __builtin_fmaf(half_log_low, 0x1.715476p+1f, low);
  low = __builtin_fmaf(half_log, 0x1.4ae0cp-25f, low);

  /* 2 to the power y * log2(a); an infinite y acts like the largest finite one */
  const float y_below = y > TG_FLOAT_MAX ? TG_FLOAT_MAX : y;
  const float b = y_below < -TG_FLOAT_MAX ? -TG_FLOAT_MAX : y_below;
  const float power = __builtin_fmaf(b, high, b * low);
  const float power_low = __builtin_fmaf(b, low, __builtin_fmaf(b, high, -power));
  const float shifted = power + TG_ROUNDING_SHIFT;
  const float r = (power - (shifted - TG_ROUNDING_SHIFT)) + power_low;
  /* 2^r for |r| <= 0.5; relative error 2^-28.3 */
  float p = 0x1.416b82p-13f;
  p = __builtin_fmaf(p, r, 0x1.5f0838p-10f);
  p = __builtin_fmaf(p, r, 0x1.3b2dep-7f);
  p = __builtin_fmaf(p, r, 0x1.c6af7cp-5f);
  p = __builtin_fmaf(p, r, 0x1.ebfbdcp-3f);
  p = __builtin_fmaf(p, r, 0x1.62e43p-1f);
  const uint32_t biased = tg_bits_of(shifted) - tg_bits_of(TG_ROUNDING_SHIFT) + 254u;
  const uint32_t half = biased >> 1;
  const float scaled = __builtin_fmaf(p, r, 1.0f) * tg_from_bits(half << 23) * tg_from_bits((biased - half) << 23);
  const float in_range = power < -151.0f ? 0.0f : (power > 129.0f ? tg_infinity() : scaled);

  /* a = 0 or infinity; y = 0; signs; NaN */
  const int extreme = a == 0.0f || a > TG_FLOAT_MAX;
  const float limit = ((a == 0.0f) == (y < 0.0f)) ? tg_infinity() : 0.0f;
  const float magnitude = extreme ? limit : in_range;
  const float y_abs = tg_abs(y);
  const uint32_t y_integer = (uint32_t)(y_abs < 0x1p+24f ? y_abs : 0.0f);
  const int y_integral = y_abs >= 0x1p+24f || (float)y_integer == y_abs;
  const int y_odd = y_abs < 0x1p+24f && y_integral && (y_integer & 1u) != 0u;
  const float with_sign = tg_with_sign_of(magnitude, y_odd ? x : 0.0f);
  const float real = (x < 0.0f && a <= TG_FLOAT_MAX && !y_integral) ? tg_nan() : with_sign;
  const float number = (x != x || y != y) ? tg_nan() : real;
  return (x == 1.0f || y == 0.0f) ? 1.0f : number;
}

/* ---- Random numbers ------------------------------------------------------------------------------------------ */

/** The four words of Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011)
 *  for the counter c0..c3 and the key k0, k1. */
static inline void tg_philox4(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1,
                              uint32_t words[4]) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t even = (uint64_t)0xd2511f53u * c0;
    const uint64_t odd = (uint64_t)0xcd9e8d57u * c2;
    c0 = (uint32_t)(odd >> 32) ^ c1 ^ k0;
    c1 = (uint32_t)odd;
    c2 = (uint32_t)(even >> 32) ^ c3 ^ k1;
    c3 = (uint32_t)even;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

/** The first word of Philox4x32-10 for the counter c0..c3 and the key k0, k1. */
static inline uint32_t tg_philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
  uint32_t words[4];
  tg_philox4(c0, c1, c2, c3, k0, k1, words);
  return words[0];
}

#endif /* TILEGRAD_MATH_H */
