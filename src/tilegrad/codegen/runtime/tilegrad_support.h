/* Types and helpers that every generated source uses. */
#ifndef TILEGRAD_SUPPORT_H
#define TILEGRAD_SUPPORT_H

#include <stddef.h>
#include <stdint.h>
#if __STDC_HOSTED__
#include <string.h>
#else /* a freestanding tool chain need not have the header, but every one has these two */
void *memcpy(void *restrict target, const void *restrict source, size_t bytes);
void *memset(void *target, int byte, size_t bytes);
#endif

#include "tilegrad_math.h"

/* Tensors of different types take turns in one arena. Accesses through these types may alias any object, so that no
   compiler reorders an integer store with the float loads of the tensor that lived there before. */
typedef int32_t __attribute__((__may_alias__)) tg_i32;
typedef int64_t __attribute__((__may_alias__)) tg_i64;
typedef uint32_t __attribute__((__may_alias__)) tg_u32;

/* A kernel is called from one place, with constant addresses. GCC (12.2 at least) makes a clone for these addresses,
   forgets with the `restrict` parameters that it writes anything at all, and drops the call: so kernels stay as they are
   written. Not to merge them into one giant function also spares all compilers much time, and no speed is lost. */
#if defined(__clang__)
#define TG_KERNEL __attribute__((__noinline__))
#elif __GNUC__ >= 8
#define TG_KERNEL __attribute__((__noipa__))
#else
#define TG_KERNEL __attribute__((__noinline__, __noclone__))
#endif

/* In front of a loop that is unrolled as far as the instruction cache of the target rewards. */
#if defined(__clang__)
#define TG_NO_UNROLL _Pragma("clang loop unroll(disable)")
#elif __GNUC__ >= 8
#define TG_NO_UNROLL _Pragma("GCC unroll 1")
#else
#define TG_NO_UNROLL
#endif

/* Keeps a pointer that runs along with a loop in a register of its own: compilers that see through several of them go
   back to one counter and an addition for every load. */
#if defined(__GNUC__) || defined(__clang__)
#define TG_RUNNING(pointer) __asm__("" : "+r"(pointer))
#else
#define TG_RUNNING(pointer) (void)0
#endif

/* Code for several cores is executed by all of them together: loops over TG_FIRST(n) <= i < TG_LAST(n) are divided, and
   a barrier stands between operations. A target with cores or memories of its own names a header that says who and how
   many they are and how data moves; any other build runs the same code on one core in one memory. */
#ifdef TILEGRAD_TEAM_HEADER
#include TILEGRAD_TEAM_HEADER
#else
#define TG_CORE 0
#define TG_CORES 1
static inline void tg_barrier(void)
{
}

/* Where an array lives: in a definition, before its type. */
#define TG_IN_L1
#define TG_IN_L3

/* Transfers between memories, started by core 0. Those that follow tg_dma_begin form a group, and tg_dma_wait returns
   when all of the group are done; until then nobody may touch either side. Here they are done at once.
   In two dimensions the inner memory holds the lines one behind the other and the outer one every `stride` bytes;
   `bytes` is a multiple of `line`, the length of one. */
typedef uint32_t tg_dma_t;

static inline tg_dma_t tg_dma_begin(void)
{
    return 0;
}

static inline void tg_dma_in(void *l1, const void *from, uint32_t bytes)
{
    memcpy(l1, from, bytes);
}

static inline void tg_dma_out(void *to, const void *l1, uint32_t bytes)
{
    memcpy(to, l1, bytes);
}

static inline void tg_dma_in_2d(void *l1, const void *from, uint32_t bytes, uint32_t line, uint32_t stride)
{
    const char *at = (const char *)from;
    for (uint32_t done = 0; done < bytes; done += line, at += stride)
        memcpy((char *)l1 + done, at, line);
}

static inline void tg_dma_out_2d(void *to, const void *l1, uint32_t bytes, uint32_t line, uint32_t stride)
{
    char *at = (char *)to;
    for (uint32_t done = 0; done < bytes; done += line, at += stride)
        memcpy(at, (const char *)l1 + done, line);
}

static inline void tg_dma_wait(tg_dma_t id)
{
    (void)id;
}

/* Transfers between L2 and L3, done when they return. Addresses and sizes are multiples of four. */
static inline void tg_l3_in(void *l2, const void *l3, uint32_t bytes)
{
    memcpy(l2, l3, bytes);
}

static inline void tg_l3_out(void *l3, const void *l2, uint32_t bytes)
{
    memcpy(l3, l2, bytes);
}
#endif
#define TG_FIRST(n) ((n) * TG_CORE / TG_CORES)
#define TG_LAST(n) ((n) * (TG_CORE + 1) / TG_CORES)

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

/* Signed arithmetic that wraps instead of overflowing. */
static inline int32_t tg_add_i32(int32_t a, int32_t b)
{
    return (int32_t)((uint32_t)a + (uint32_t)b);
}

static inline int32_t tg_sub_i32(int32_t a, int32_t b)
{
    return (int32_t)((uint32_t)a - (uint32_t)b);
}

static inline int32_t tg_mul_i32(int32_t a, int32_t b)
{
    return (int32_t)((uint32_t)a * (uint32_t)b);
}

static inline int64_t tg_add_i64(int64_t a, int64_t b)
{
    return (int64_t)((uint64_t)a + (uint64_t)b);
}

static inline int64_t tg_sub_i64(int64_t a, int64_t b)
{
    return (int64_t)((uint64_t)a - (uint64_t)b);
}

static inline int64_t tg_mul_i64(int64_t a, int64_t b)
{
    return (int64_t)((uint64_t)a * (uint64_t)b);
}

/* Floats towards zero as integers, like tg_f32_to_i32: out-of-range values go to the nearest bound, NaN to 0. */
static inline int64_t tg_f32_to_i64(float x)
{
    const float inside = (x >= -0x1p+63f && x < 0x1p+63f) ? x : 0.0f;
    const int64_t converted = (int64_t)inside;
    const int64_t raised = x >= 0x1p+63f ? INT64_MAX : converted;
    return x < -0x1p+63f ? INT64_MIN : raised;
}

static inline uint32_t tg_f32_to_u32(float x)
{
    const float inside = (x > 0.0f && x < 0x1p+32f) ? x : 0.0f;
    const uint32_t converted = (uint32_t)inside;
    return x >= 0x1p+32f ? UINT32_MAX : converted;
}

/* Integer quotients towards zero without undefined behaviour: x / 0 is 0, and the smallest number / -1 wraps. */
static inline int32_t tg_div_i32(int32_t a, int32_t b)
{
    return b == 0 ? 0 : b == -1 ? (int32_t)(0u - (uint32_t)a) : a / b;
}

static inline int64_t tg_div_i64(int64_t a, int64_t b)
{
    return b == 0 ? 0 : b == -1 ? (int64_t)(UINT64_C(0) - (uint64_t)a) : a / b;
}

static inline uint32_t tg_div_u32(uint32_t a, uint32_t b)
{
    return b == 0 ? 0 : a / b;
}

#endif
