/* IEEE 754 single precision as RISC-V wants it: every rounding mode, every flag, one NaN. */
#ifndef TILEGRAD_FLOAT_H
#define TILEGRAD_FLOAT_H

#include <stdint.h>

enum { FLAG_INEXACT = 1, FLAG_UNDERFLOW = 2, FLAG_OVERFLOW = 4, FLAG_DIVIDE = 8, FLAG_INVALID = 16 };
enum { ROUND_NEAREST_EVEN, ROUND_ZERO, ROUND_DOWN, ROUND_UP, ROUND_NEAREST_AWAY };

#define FLOAT_NAN 0x7fc00000u

static inline int float_is_nan(uint32_t a)
{
    return (a & 0x7fffffffu) > 0x7f800000u;
}

static inline int float_is_signalling(uint32_t a)
{
    return float_is_nan(a) && !(a & 0x00400000u);
}

/* The operations FMADD to FSQRT and the conversions of decode.h, with rounding mode and flags (ored into *flags). The
 * operand of a conversion is `a`. */
uint32_t float_operate(unsigned operation, unsigned mode, uint32_t a, uint32_t b, uint32_t c, uint32_t *flags);
uint32_t float_minmax(int want_max, uint32_t a, uint32_t b, uint32_t *flags);
/* FEQ, FLT or FLE. */
uint32_t float_compare(unsigned operation, uint32_t a, uint32_t b, uint32_t *flags);
uint32_t float_class(uint32_t a);

#endif
