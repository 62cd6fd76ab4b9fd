/* Who and how many the cores of the cluster are that execute a kernel together. */
#ifndef TILEGRAD_TEAM_H
#define TILEGRAD_TEAM_H

#include <stdint.h>

#define TG_EVENT_UNIT 0x00204000u /* every core sees its own at this address */
#define TG_BARRIER (TG_EVENT_UNIT + 0x200u)

#define TG_CORE tg_core()
#define TG_CORES TILEGRAD_CORES

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
    uint32_t value;
    __asm__ volatile(".insn i 0x03, 6, %0, 0(%1)" : "=r"(value) : "r"(TG_BARRIER + 0x1cu) : "memory");
}

#endif
