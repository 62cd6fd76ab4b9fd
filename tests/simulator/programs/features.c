/* One feature of the machine per run: `feature` says which, `results` is what came of it. */
#include "runtime.h"

volatile uint32_t feature __attribute__((section(".data"))) = 1;
volatile uint32_t results[64] __attribute__((section(".data"), aligned(16))) = {1};
uint32_t source[1024] __attribute__((section(".data"), aligned(64))) = {1};
uint32_t target[1024] __attribute__((section(".data"), aligned(64))) = {1};
L1_DATA uint32_t buffer[1024];
L1_DATA uint32_t neighbour[64];
L1_DATA volatile uint32_t shared;

void mailbox(void);
void copy_words(uint32_t *to, const uint32_t *from, uint32_t count);
void sum_words(const uint32_t *from, uint32_t count);
void fetch_and_sum(uint32_t wait);

__attribute__((noinline)) void mailbox(void)
{
    __asm__ volatile("" ::: "memory");
}

__attribute__((noinline)) void copy_words(uint32_t *to, const uint32_t *from, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        ((volatile uint32_t *)to)[i] = from[i];
}

__attribute__((noinline)) void sum_words(const uint32_t *from, uint32_t count)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += ((const volatile uint32_t *)from)[i];
    results[0] = sum;
}

__attribute__((noinline)) void fetch_and_sum(uint32_t wait)
{
    const uint32_t id = dma_start(256 | 3u << 17, (uint32_t)buffer, (uint32_t)source);
    if (wait)
        dma_wait(id);
    else
        for (volatile uint32_t i = 0; i < 200; i++)
            ;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 64; i++)
        sum += ((volatile uint32_t *)buffer)[i];
    results[0] = sum;
}

/* Each core adds its number a hundred times, under a lock. */
static void mutex(uint32_t core)
{
    if (core == 0)
        shared = 0;
    barrier();
    for (uint32_t i = 0; i < 100; i++) {
        (void)wait_load(EVENT_UNIT + 0xc0);
        shared += core;
        REGISTER(EVENT_UNIT + 0xc0) = 0;
    }
    barrier();
    if (core == 0)
        results[0] = shared;
}

/* Core 0 gives three values to the others, which work for different times. */
static void dispatch(uint32_t core)
{
    if (core == 0) {
        REGISTER(EVENT_UNIT + 0x84) = ((1u << team) - 1) & ~1u;
        for (uint32_t value = 1; value <= 3; value++)
            REGISTER(EVENT_UNIT + 0x80) = value * 10;
    } else {
        uint32_t sum = 0;
        for (uint32_t turn = 0; turn < 3; turn++) {
            sum = sum * 100 + wait_load(EVENT_UNIT + 0x80);
            for (volatile uint32_t i = 0; i < core * 7; i++)
                ;
        }
        results[core] = sum;
    }
}

/* Core 1 sleeps until core 0 sends it event 3. */
static void event(uint32_t core)
{
    if (core == 1) {
        REGISTER(EVENT_UNIT) = 1u << 3;
        results[1] = wait_load(EVENT_UNIT + 0x3c);
        results[2] = shared;
        REGISTER(EVENT_UNIT) = 0x70000;
    } else if (core == 0) {
        for (volatile uint32_t i = 0; i < 100; i++)
            ;
        shared = 77;
        REGISTER(EVENT_UNIT + 0x100 + 4 * 3) = 1u << 1;
    }
}

static void strided(uint32_t core)
{
    if (core)
        return;
    for (uint32_t inwards = 0; inwards < 2; inwards++) {
        const uint32_t id = dma_start(192 | inwards << 17 | 1u << 18 | 1u << 19, (uint32_t)(buffer + 64 * (1 - inwards)) + 2,
                                      (uint32_t)(inwards ? source : target) + 1);
        REGISTER(DMA) = 48;
        REGISTER(DMA) = 100;
        dma_wait(id);
    }
}

/* More commands than the queues hold: the core has to wait, and every word arrives. */
static void many(uint32_t core)
{
    uint32_t id = 0;
    if (core)
        return;
    id = dma_start(64 | 3u << 17, (uint32_t)buffer, (uint32_t)source);
    for (uint32_t i = 1; i < 32; i++) {
        REGISTER(DMA) = 64 | 3u << 17;
        REGISTER(DMA) = (uint32_t)(buffer + 16 * i);
        REGISTER(DMA) = (uint32_t)(source + 16 * i);
    }
    dma_wait(id);
}

static void counters(uint32_t core)
{
    uint32_t instructions, cycles_before, cycles_after;
    if (core)
        return;
    __asm__ volatile("li t0, 3\n csrw 0xcc0, t0\n li t0, 1\n csrw 0xcc1, t0\n csrw 0x79f, x0\n"
                     "csrr %1, 0x780\n .rept 20\n nop\n .endr\n csrr %2, 0x780\n csrr %0, 0x781\n"
                     : "=r"(instructions), "=r"(cycles_before), "=r"(cycles_after) : : "t0");
    results[0] = instructions;
    results[1] = cycles_after - cycles_before;
}

__attribute__((noinline)) static uint32_t recurse(uint32_t depth)
{
    volatile uint32_t space[16];
    space[0] = depth;
    return depth > 1000 ? space[0] : recurse(depth + 1) + space[0];
}

static void fault(uint32_t core, uint32_t which)
{
    if (core != 2)
        return;
    switch (which) {
    case 0: REGISTER(0x20000000u) = 1; break;
    case 1: results[0] = REGISTER(0x10060000u); break;
    case 2: __asm__ volatile(".word 0xffffffff"); break;
    case 3: ((void (*)(void))0x30000000u)(); break;
    case 4: results[0] = recurse(0); break;
    case 5: (void)dma_start(64 | 3u << 17, 0x1003fff0u, (uint32_t)source); break;
    case 6: (void)dma_start(64 | 3u << 17, (uint32_t)buffer, 0x1c1ffff0u); break;
    case 7: for (;;) __asm__ volatile("wfi");
    case 8: for (;;) ;
    case 9: results[0] = *(volatile uint16_t *)(CLUSTER_TIMER + 8); break;
    case 11: REGISTER(0x10200c00u) = 1; break; /* a barrier's trigger mask, as if it were on the bus */
    case 12: REGISTER(EVENT_UNIT + 0x22c) = 4; break; /* a barrier's targets, without a trigger mask */
    default: __asm__ volatile("ebreak"); break;
    }
}

void program(uint32_t core)
{
    const uint32_t which = feature;
    if (which >= 100) {
        fault(core, which - 100);
        return;
    }
    switch (which) {
    case 2: mutex(core); break;
    case 3: dispatch(core); break;
    case 4: event(core); break;
    case 5: strided(core); break;
    case 6: many(core); break;
    case 7: counters(core); break;
    case 8:
        if (core == 0)
            copy_words(buffer, source, 65);
        break;
    case 9:
        if (core == 0)
            sum_words(neighbour, 64);
        break;
    case 10: case 11:
        if (core == 0)
            fetch_and_sum(which == 10);
        break;
    default: break;
    }
}

static void l3(void)
{
    const uint32_t base = 0x1a102280u;
    for (uint32_t inwards = 0; inwards < 2; inwards++) {
        REGISTER(base + (inwards ? 0x00 : 0x0c)) = (uint32_t)(inwards ? target : source);
        REGISTER(base + (inwards ? 0x04 : 0x10)) = sizeof source;
        REGISTER(base + 0x18) = inwards ? 5 : 1;
        REGISTER(base + 0x1c) = 0x1000;
        REGISTER(base + (inwards ? 0x08 : 0x14)) = 0x10;
        while (REGISTER(base + 0x24) & 1)
            ;
    }
}

void fabric_program(void)
{
    if (feature == 20)
        l3();
    if (feature == 21) {
        print("hello from the fabric controller\n");
        print("and a line that does not end");
        leave(7);
    }
    if (feature == 22)
        for (uint32_t turn = 0; turn < 3; turn++) {
            mailbox();
            results[turn] = source[0] * 2;
        }
    if (feature == 23)
        __asm__ volatile("fadd.s fa0, fa0, fa0");
}
