/* How data moves between the memories of the cluster; for core 0 of the team. */
#ifndef TILEGRAD_DMA_H
#define TILEGRAD_DMA_H

#include <stdint.h>

#include "tilegrad_registers.h"

/* Where an array lives: in a definition, before its type. Every array has a section of its own, so that constant and
   variable ones may stand in one file and the linker can leave out what nobody uses. L1 starts undefined. L3 is no
   memory for loads and stores: its addresses, from 0x80000000, are for tg_l3_in and tg_l3_out only. */
#define TG_SECTION_TEXT(name, number) name #number
#define TG_SECTION(name, number) __attribute__((__section__(TG_SECTION_TEXT(name, number))))
#define TG_IN_L1 TG_SECTION(".l1.array", __COUNTER__)
#define TG_IN_L3 TG_SECTION(".l3.array", __COUNTER__)
#define TG_L3_BASE 0x80000000u

/* The length field of a command has 17 bits; long transfers go in pieces of this size. */
#define TG_DMA_MOST 0x10000u
#define TG_DMA_TO_L1 (1u << 17)
#define TG_DMA_PLAIN (1u << 18) /* addresses count up; the end raises no event */
#define TG_DMA_2D (1u << 19)

/* A group of transfers. */
typedef uint32_t tg_dma_t;

/* Opens a group: the transfers that follow belong to it. There are 16 at a time. */
static inline tg_dma_t tg_dma_begin(void)
{
    return TG_REGISTER(TG_DMA);
}

static inline void tg_dma_line(uint32_t direction, uint32_t l1, uint32_t outer, uint32_t bytes)
{
    while (bytes) {
        const uint32_t now = bytes < TG_DMA_MOST ? bytes : TG_DMA_MOST;
        TG_REGISTER(TG_DMA) = now | direction | TG_DMA_PLAIN;
        TG_REGISTER(TG_DMA) = l1;
        TG_REGISTER(TG_DMA) = outer;
        l1 += now;
        outer += now;
        bytes -= now;
    }
}

static inline void tg_dma_lines(uint32_t direction, uint32_t l1, uint32_t outer, uint32_t bytes, uint32_t line,
                                uint32_t stride)
{
    if (line == stride || line >= bytes) {
        tg_dma_line(direction, l1, outer, bytes);
        return;
    }
    if (line > TG_DMA_MOST) {
        for (; bytes; bytes -= line, l1 += line, outer += stride)
            tg_dma_line(direction, l1, outer, line);
        return;
    }
    const uint32_t most = TG_DMA_MOST / line;
    while (bytes) {
        const uint32_t now = bytes <= TG_DMA_MOST ? bytes : most * line;
        TG_REGISTER(TG_DMA) = now | direction | TG_DMA_PLAIN | TG_DMA_2D;
        TG_REGISTER(TG_DMA) = l1;
        TG_REGISTER(TG_DMA) = outer;
        TG_REGISTER(TG_DMA) = line;
        TG_REGISTER(TG_DMA) = stride;
        l1 += now;
        outer += most * stride;
        bytes -= now;
    }
}

/* What a transfer reads must have been written, and what it writes must not be in registers. */
#define TG_MEMORY_SETTLES() __asm__ volatile("" ::: "memory")

static inline void tg_dma_in(void *l1, const void *from, uint32_t bytes)
{
    TG_MEMORY_SETTLES();
    tg_dma_line(TG_DMA_TO_L1, (uint32_t)l1, (uint32_t)from, bytes);
}

static inline void tg_dma_out(void *to, const void *l1, uint32_t bytes)
{
    TG_MEMORY_SETTLES();
    tg_dma_line(0, (uint32_t)l1, (uint32_t)to, bytes);
}

/* In two dimensions L1 holds the lines one behind the other and the outer memory every `stride` bytes; `bytes` is a
   multiple of `line`, the length of one. */
static inline void tg_dma_in_2d(void *l1, const void *from, uint32_t bytes, uint32_t line, uint32_t stride)
{
    TG_MEMORY_SETTLES();
    tg_dma_lines(TG_DMA_TO_L1, (uint32_t)l1, (uint32_t)from, bytes, line, stride);
}

static inline void tg_dma_out_2d(void *to, const void *l1, uint32_t bytes, uint32_t line, uint32_t stride)
{
    TG_MEMORY_SETTLES();
    tg_dma_lines(0, (uint32_t)l1, (uint32_t)to, bytes, line, stride);
}

/* Waits until all transfers of a group are done, and frees it. It asks again and again: to sleep until the DMA's event
   takes about 40 cycles more, a good part of a short transfer, and that event, let through for the sleep, would end a
   barrier too early if it came late. */
static inline void tg_dma_wait(tg_dma_t id)
{
    while (TG_REGISTER(TG_DMA + 4u) >> id & 1u)
        ;
    TG_REGISTER(TG_DMA + 4u) = 1u << id;
    TG_MEMORY_SETTLES();
}

/* The uDMA's HyperBus channel. A size has 20 bits; the peripheral bus takes accesses from the cluster, too. */
#define TG_L3_MOST 0x80000u

static inline void tg_hyper(uint32_t to_l2, uint32_t l2, uint32_t l3, uint32_t bytes)
{
    TG_MEMORY_SETTLES();
    while (bytes) {
        const uint32_t now = bytes < TG_L3_MOST ? bytes : TG_L3_MOST, first = TG_HYPER + (to_l2 ? 0x0u : 0xcu);
        TG_REGISTER(first) = l2;
        TG_REGISTER(first + 4u) = now;
        TG_REGISTER(TG_HYPER + 0x18u) = to_l2 ? 5u : 1u; /* linear burst, memory space; bit 2: read */
        TG_REGISTER(TG_HYPER + 0x1cu) = l3;
        TG_REGISTER(first + 8u) = 1u << 4; /* go */
        while (TG_REGISTER(TG_HYPER + 0x24u) & 1u)
            ;
        l2 += now;
        l3 += now;
        bytes -= now;
    }
    TG_MEMORY_SETTLES();
}

/* Transfers between L2 and L3, done when they return. Addresses and sizes are multiples of four: the uDMA moves words. */
static inline void tg_l3_in(void *l2, const void *l3, uint32_t bytes)
{
    tg_hyper(1, (uint32_t)l2, (uint32_t)l3 - TG_L3_BASE, bytes);
}

static inline void tg_l3_out(void *l3, const void *l2, uint32_t bytes)
{
    tg_hyper(0, (uint32_t)l2, (uint32_t)l3 - TG_L3_BASE, bytes);
}

#endif
