/* What the test programs share: start-up, barrier, DMA, time. The workers call program(core) once. */
#ifndef RUNTIME_H
#define RUNTIME_H

#include <stdint.h>

#define L1_DATA __attribute__((section(".l1"), aligned(64)))
#define REGISTER(address) (*(volatile uint32_t *)(address))

#define EVENT_UNIT 0x00204000u
#define DMA 0x00204400u
#define CLUSTER_TIMER 0x10200400u
#define FC_TIMER 0x1a10b000u

extern volatile uint32_t team; /* cores that take part */

void program(uint32_t core);
/* Runs on the fabric controller before the cluster is started. */
void fabric_program(void);

static inline uint32_t wait_load(uint32_t address)
{
    uint32_t value;
    __asm__ volatile(".insn i 0x03, 6, %0, 0(%1)" : "=r"(value) : "r"(address) : "memory");
    return value;
}

static inline void barrier(void)
{
    (void)wait_load(EVENT_UNIT + 0x21c);
}

static inline uint32_t cycles(void)
{
    return REGISTER(CLUSTER_TIMER + 8);
}

static inline void leave(uint32_t code)
{
    REGISTER(0x1a1040a0u) = 0x80000000u | code;
    for (;;)
        __asm__ volatile("wfi");
}

void print(const char *text);

static inline uint32_t dma_start(uint32_t command, uint32_t local, uint32_t remote)
{
    const uint32_t id = REGISTER(DMA);
    REGISTER(DMA) = command;
    REGISTER(DMA) = local;
    REGISTER(DMA) = remote;
    return id;
}

static inline void dma_wait(uint32_t id)
{
    while (REGISTER(DMA + 4) >> id & 1)
        ;
    REGISTER(DMA + 4) = 1u << id;
}

#endif
