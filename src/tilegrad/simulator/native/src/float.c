/* The exact value of each operation is held as a double and the sign of what the double leaves out; then it is rounded
 * once, in integers. So no result depends on the host's rounding mode, flags or compiler. A float operation's exact
 * value never leaves the range of normal doubles, and 53 bits rounded to odd decide every rounding to 24. */
#include "float.h"

#include <math.h>
#include <string.h>

#include "decode.h"

static double to_double(uint32_t a)
{
    float value;
    memcpy(&value, &a, sizeof value);
    return (double)value;
}

static uint64_t double_bits(double value)
{
    uint64_t result;
    memcpy(&result, &value, sizeof result);
    return result;
}

static int rounds_up(unsigned mode, uint32_t sign, uint64_t kept, uint64_t lost, uint64_t half)
{
    switch (mode) {
    case ROUND_ZERO: return 0;
    case ROUND_DOWN: return sign && lost;
    case ROUND_UP: return !sign && lost;
    case ROUND_NEAREST_AWAY: return lost >= half;
    default: return lost > half || (lost == half && (kept & 1));
    }
}

static uint64_t rounded_shift(uint64_t mantissa, unsigned shift, unsigned mode, uint32_t sign)
{
    const uint64_t kept = mantissa >> shift, lost = mantissa & ((1ull << shift) - 1);
    return kept + (uint64_t)rounds_up(mode, sign, kept, lost, 1ull << (shift - 1));
}

static uint32_t overflowed(unsigned mode, uint32_t sign, uint32_t *flags)
{
    *flags |= FLAG_OVERFLOW | FLAG_INEXACT;
    const int to_largest = mode == ROUND_ZERO || (mode == ROUND_DOWN && !sign) || (mode == ROUND_UP && sign);
    return sign << 31 | (to_largest ? 0x7f7fffffu : 0x7f800000u);
}

/* Rounds value + rest, where |rest| is below half a unit of value's last place and only its sign counts; value != 0. */
static uint32_t round_float(double value, double rest, unsigned mode, uint32_t *flags)
{
    uint64_t bits = double_bits(value);
    if (rest != 0.0 && !(bits & 1))
        bits = (rest > 0.0) == (value > 0.0) ? bits + 1 : bits - 1;
    const uint32_t sign = (uint32_t)(bits >> 63);
    const int exponent = (int)(bits >> 52 & 0x7ff) - 1023;
    const uint64_t mantissa = (bits & ((1ull << 52) - 1)) | 1ull << 52;
    unsigned shift = 29;
    int tiny = 0;
    if (exponent < -126) {
        /* Tiny is what rounding with an unbounded exponent would leave below the least normal number. */
        tiny = !(exponent == -127 && rounded_shift(mantissa, 29, mode, sign) == 1ull << 24);
        shift += (unsigned)(-126 - exponent);
        if (shift > 60)
            shift = 60;
    }
    const uint64_t kept = rounded_shift(mantissa, shift, mode, sign);
    const int inexact = (mantissa & ((1ull << shift) - 1)) != 0;
    /* The implicit bit of a normal number adds one to the exponent field, and so does a carry. */
    const int64_t field = exponent < -126 ? 0 : (int64_t)(exponent + 126);
    const uint64_t result = ((uint64_t)field << 23) + kept;
    if (result >= 0x7f800000u)
        return overflowed(mode, sign, flags);
    if (inexact)
        *flags |= FLAG_INEXACT | (tiny ? FLAG_UNDERFLOW : 0);
    return sign << 31 | (uint32_t)result;
}

static uint32_t invalid(uint32_t *flags)
{
    *flags |= FLAG_INVALID;
    return FLOAT_NAN;
}

static uint32_t infinite(double value)
{
    return value < 0.0 ? 0xff800000u : 0x7f800000u;
}

/* a + b with a and b finite, exact in double except for their sum. */
static uint32_t add_rounded(double a, double b, unsigned mode, uint32_t *flags)
{
    const double sum = a + b;
    if (sum == 0.0) {
        const int negative_a = signbit(a) != 0, negative_b = signbit(b) != 0;
        return (negative_a == negative_b ? negative_a : mode == ROUND_DOWN) ? 0x80000000u : 0;
    }
    const double part = sum - a;
    const double rest = (a - (sum - part)) + (b - part);
    return round_float(sum, rest, mode, flags);
}

static uint32_t operate_fused(unsigned operation, unsigned mode, uint32_t a, uint32_t b, uint32_t c, uint32_t *flags)
{
    const uint32_t flip_product = operation == OP_FNMSUB || operation == OP_FNMADD ? 0x80000000u : 0;
    const uint32_t flip_addend = operation == OP_FMSUB || operation == OP_FNMADD ? 0x80000000u : 0;
    const double x = to_double(a ^ flip_product), y = to_double(b), z = to_double(c ^ flip_addend);
    if (float_is_signalling(a) || float_is_signalling(b) || float_is_signalling(c))
        *flags |= FLAG_INVALID;
    if ((isinf(x) && y == 0.0) || (x == 0.0 && isinf(y)))
        return invalid(flags);
    if (isnan(x) || isnan(y) || isnan(z))
        return FLOAT_NAN;
    const double product = x * y;
    if (isinf(product) && isinf(z) && (product > 0.0) != (z > 0.0))
        return invalid(flags);
    if (isinf(product) || isinf(z))
        return infinite(isinf(product) ? product : z);
    return add_rounded(product, z, mode, flags);
}

static uint32_t operate_add(unsigned mode, uint32_t a, uint32_t b, uint32_t *flags)
{
    const double x = to_double(a), y = to_double(b);
    if (isinf(x) && isinf(y) && (x > 0.0) != (y > 0.0))
        return invalid(flags);
    if (isinf(x) || isinf(y))
        return infinite(isinf(x) ? x : y);
    return add_rounded(x, y, mode, flags);
}

static uint32_t operate_multiply(unsigned mode, uint32_t a, uint32_t b, uint32_t *flags)
{
    const double x = to_double(a), y = to_double(b);
    if ((isinf(x) && y == 0.0) || (x == 0.0 && isinf(y)))
        return invalid(flags);
    const double product = x * y;
    if (isinf(product))
        return infinite(product);
    return product == 0.0 ? (a ^ b) & 0x80000000u : round_float(product, 0.0, mode, flags);
}

static uint32_t operate_divide(unsigned mode, uint32_t a, uint32_t b, uint32_t *flags)
{
    const double x = to_double(a), y = to_double(b);
    const uint32_t sign = (a ^ b) & 0x80000000u;
    if ((isinf(x) && isinf(y)) || (x == 0.0 && y == 0.0))
        return invalid(flags);
    if (isinf(x))
        return sign | 0x7f800000u;
    if (y == 0.0) {
        *flags |= FLAG_DIVIDE;
        return sign | 0x7f800000u;
    }
    if (x == 0.0 || isinf(y))
        return sign;
    const double quotient = x / y, rest = fma(-quotient, y, x);
    return round_float(quotient, y < 0.0 ? -rest : rest, mode, flags);
}

static uint32_t operate_root(unsigned mode, uint32_t a, uint32_t *flags)
{
    const double x = to_double(a);
    if (x == 0.0)
        return a;
    if (x < 0.0)
        return invalid(flags);
    if (isinf(x))
        return a;
    const double root = sqrt(x);
    return round_float(root, fma(-root, root, x), mode, flags);
}

static uint32_t to_integer(int is_signed, unsigned mode, uint32_t a, uint32_t *flags)
{
    const uint32_t highest = is_signed ? 0x7fffffffu : 0xffffffffu, lowest = is_signed ? 0x80000000u : 0;
    const double x = to_double(a);
    if (isnan(x) || x > 8e9 || x < -8e9) {
        *flags |= FLAG_INVALID;
        return isnan(x) || x > 0.0 ? highest : lowest;
    }
    const uint32_t sign = x < 0.0;
    /* Thirty fractional bits hold every float down to 2^-6; smaller ones need only be seen. */
    const double magnitude = fabs(x);
    uint64_t scaled = (uint64_t)(magnitude * 1073741824.0);
    if ((double)scaled != magnitude * 1073741824.0)
        scaled |= 1;
    const int64_t whole = (int64_t)rounded_shift(scaled, 30, mode, sign), value = sign ? -whole : whole;
    if (value > (is_signed ? INT32_MAX : (int64_t)UINT32_MAX) || value < (is_signed ? INT32_MIN : 0)) {
        *flags |= FLAG_INVALID;
        return sign ? lowest : highest;
    }
    if (scaled & ((1u << 30) - 1))
        *flags |= FLAG_INEXACT;
    return (uint32_t)value;
}

uint32_t float_operate(unsigned operation, unsigned mode, uint32_t a, uint32_t b, uint32_t c, uint32_t *flags)
{
    switch (operation) {
    case OP_FMADD: case OP_FMSUB: case OP_FNMSUB: case OP_FNMADD:
        return operate_fused(operation, mode, a, b, c, flags);
    case OP_FCVT_W: case OP_FCVT_WU: return to_integer(operation == OP_FCVT_W, mode, a, flags);
    case OP_FCVT_S_W: return a ? round_float((double)(int32_t)a, 0.0, mode, flags) : 0;
    case OP_FCVT_S_WU: return a ? round_float((double)a, 0.0, mode, flags) : 0;
    default: break;
    }
    const int two = operation != OP_FSQRT;
    if (float_is_nan(a) || (two && float_is_nan(b))) {
        if (float_is_signalling(a) || (two && float_is_signalling(b)))
            *flags |= FLAG_INVALID;
        return FLOAT_NAN;
    }
    switch (operation) {
    case OP_FADD: return operate_add(mode, a, b, flags);
    case OP_FSUB: return operate_add(mode, a, b ^ 0x80000000u, flags);
    case OP_FMUL: return operate_multiply(mode, a, b, flags);
    case OP_FDIV: return operate_divide(mode, a, b, flags);
    default: return operate_root(mode, a, flags);
    }
}

/* Floats in the order of their values, -0 below +0, as integers. */
static int32_t ordered(uint32_t a)
{
    return (int32_t)(a & 0x80000000u ? ~(a & 0x7fffffffu) : a);
}

uint32_t float_minmax(int want_max, uint32_t a, uint32_t b, uint32_t *flags)
{
    if (float_is_signalling(a) || float_is_signalling(b))
        *flags |= FLAG_INVALID;
    if (float_is_nan(a))
        return float_is_nan(b) ? FLOAT_NAN : b;
    if (float_is_nan(b))
        return a;
    return (ordered(a) > ordered(b)) == (want_max != 0) ? a : b;
}

uint32_t float_compare(unsigned operation, uint32_t a, uint32_t b, uint32_t *flags)
{
    const double x = to_double(a), y = to_double(b);
    if (float_is_nan(a) || float_is_nan(b)) {
        if (operation != OP_FEQ || float_is_signalling(a) || float_is_signalling(b))
            *flags |= FLAG_INVALID;
        return 0;
    }
    return operation == OP_FEQ ? x == y : operation == OP_FLT ? x < y : x <= y;
}

uint32_t float_class(uint32_t a)
{
    const uint32_t negative = a >> 31, exponent = a >> 23 & 0xff, fraction = a & 0x7fffff;
    if (exponent == 0xff)
        return fraction ? (fraction & 0x400000 ? 1u << 9 : 1u << 8) : negative ? 1u << 0 : 1u << 7;
    if (exponent)
        return negative ? 1u << 1 : 1u << 6;
    if (fraction)
        return negative ? 1u << 2 : 1u << 5;
    return negative ? 1u << 3 : 1u << 4;
}
