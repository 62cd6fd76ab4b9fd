#include "runtime.h"

volatile uint32_t team __attribute__((section(".data"))) = 8;
extern uint32_t bss_begin[], bss_end[];

static L1_DATA uint32_t worker_stacks[9][512];
static uint32_t fabric_stack[512] __attribute__((section(".data"))) = {1};
uint32_t *const fabric_stack_top __attribute__((used)) = fabric_stack + 512;
uint32_t *const worker_stacks_base __attribute__((used)) = worker_stacks[1];

void worker(uint32_t core);
void fabric(void);

__attribute__((naked, section(".text.start"))) void _start(void)
{
    __asm__ volatile("lw sp, fabric_stack_top\n j fabric\n");
}

__attribute__((naked, aligned(4))) void worker_start(void)
{
    __asm__ volatile("csrr a0, 0xf14\n"
                     "lw sp, worker_stacks_base\n"
                     "slli a1, a0, 11\n"
                     "add sp, sp, a1\n"
                     "j worker\n");
}

void worker(uint32_t core)
{
    REGISTER(EVENT_UNIT) = 0x70000;
    if (core >= team)
        for (;;)
            __asm__ volatile("wfi");
    if (core == 0) {
        /* Barrier 0, from core 0's private view: barriers have no registers on the bus. Who triggers comes first, because
         * a barrier with targets that nobody triggers ends at once. The others may already be waiting. */
        REGISTER(EVENT_UNIT + 0x200) = (1u << team) - 1;
        REGISTER(EVENT_UNIT + 0x20c) = (1u << team) - 1;
        REGISTER(CLUSTER_TIMER) = 3;
    }
    program(core);
    barrier();
    if (core == 0)
        leave(0);
    for (;;)
        __asm__ volatile("wfi");
}

void fabric(void)
{
    for (uint32_t *word = bss_begin; word < bss_end; word++)
        *word = 0;
    fabric_program();
    for (uint32_t core = 0; core < 9; core++)
        REGISTER(0x10200040u + 4 * core) = (uint32_t)worker_start;
    REGISTER(0x10201400u) = ~0u;
    REGISTER(0x10200008u) = 0x1ff;
    for (;;)
        __asm__ volatile("wfi");
}

__attribute__((weak)) void fabric_program(void)
{
}

void print(const char *text)
{
    uint32_t hart;
    __asm__ volatile("csrr %0, 0xf14" : "=r"(hart));
    for (; *text; text++)
        *(volatile uint8_t *)(0x1a10f000u + (hart >> 5 << 7) + ((hart & 7) << 3)) = (uint8_t)*text;
}
