/* Types and helpers that every generated source uses. */
#ifndef TILEGRAD_SUPPORT_H
#define TILEGRAD_SUPPORT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "tilegrad_math.h"

/* Tensors of different types take turns in one arena. Accesses through these types may alias any object, so that no
   compiler reorders an integer store with the float loads of the tensor that lived there before. */
typedef int32_t __attribute__((__may_alias__)) tg_i32;
typedef int64_t __attribute__((__may_alias__)) tg_i64;
typedef uint32_t __attribute__((__may_alias__)) tg_u32;

static inline int tg_min(int a, int b)
{
    return a < b ? a : b;
}

static inline int tg_max(int a, int b)
{
    return a > b ? a : b;
}

/* The smallest integer that is at least a / b, for b > 0. */
static inline int tg_ceil_div(int a, int b)
{
    return a > 0 ? (a + b - 1) / b : -(-a / b);
}

#endif
