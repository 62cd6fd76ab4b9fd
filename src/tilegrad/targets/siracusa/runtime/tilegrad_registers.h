/* The platform's registers, and the load that sleeps until an event. */
#ifndef TILEGRAD_REGISTERS_H
#define TILEGRAD_REGISTERS_H

#include <stdint.h>

#define TG_REGISTER(address) (*(volatile uint32_t *)(address))

/* Every core of the cluster sees its own event unit and DMA queue at these addresses. */
#define TG_EVENT_UNIT 0x00204000u
#define TG_BARRIER (TG_EVENT_UNIT + 0x200u)
#define TG_DMA 0x00204400u
#define TG_EVENTS 0x70000u /* barriers, mutexes, dispatch; not the DMA, whose events would end a barrier */

#define TG_CLUSTER_CONTROL 0x10200000u
#define TG_CLUSTER_TIMER 0x10200400u
#define TG_UDMA 0x1a102000u
#define TG_HYPER (TG_UDMA + 0x280u)
#define TG_HYPER_CLOCKS (7u << 4) /* of both register sets of the HyperBus and the common one */

/* Loads from a register of the event unit; the core sleeps until the load is answered. */
static inline uint32_t tg_wait_load(uint32_t address)
{
    uint32_t value;
    __asm__ volatile(".insn i 0x03, 6, %0, 0(%1)" : "=r"(value) : "r"(address) : "memory");
    return value;
}

#endif
