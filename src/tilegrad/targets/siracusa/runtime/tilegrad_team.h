/* Who and how many the cores of the cluster are that execute a kernel together, and how its memories are used. */
#ifndef TILEGRAD_TEAM_H
#define TILEGRAD_TEAM_H

#include <stdint.h>

#include "tilegrad_dma.h"
#include "tilegrad_registers.h"

#define TG_CORES TILEGRAD_CORES

#if TILEGRAD_CORES == 1
#define TG_CORE 0
#else
#define TG_CORE tg_core()
#endif

/* Bytes of stack that every core of the team has in L1. */
#ifndef TILEGRAD_STACK_BYTES
#define TILEGRAD_STACK_BYTES 1024
#endif
#define TG_STACK_BYTES TILEGRAD_STACK_BYTES

/* The core's number in the cluster, from mhartid. */
static inline int tg_core(void)
{
    int hart;
    __asm__("csrr %0, 0xf14" : "=r"(hart));
    return hart & 0x1f;
}

/* Waits until every core of the team is here: one p.elw, the core sleeps meanwhile. */
static inline void tg_barrier(void)
{
    (void)tg_wait_load(TG_BARRIER + 0x1cu);
}

#endif
