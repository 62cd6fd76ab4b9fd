/* Start-up of the Siracusa platform and the loop that runs entry points on the cluster.

   The fabric controller clears .bss, starts the cluster and sleeps. Core 0 of the cluster then waits in tilegrad_idle
   for a command; the other cores wait at a barrier. A debugger or the simulator stops in tilegrad_idle, fills the
   inputs, puts the address of an entry point into tilegrad_command and lets core 0 go on: the whole team executes the
   entry point, and core 0 comes back to tilegrad_idle. Where nobody can stop a program, a list of commands in memory
   takes that place: see batch.c. */
#include <stddef.h>
#include <stdint.h>

#include "tilegrad_team.h"

#define WORKERS 9u /* eight and a spare */
#define TEAM_MASK ((1u << TILEGRAD_CORES) - 1u)
#define TEXT_OF(macro) #macro
#define TEXT(macro) TEXT_OF(macro)

void (*volatile tilegrad_command)(void);
volatile uint64_t tilegrad_cycles; /* spent in entry points since the start */

/* The address of a list of commands, or 0; set in the program's file, so it has to have a place there. */
volatile uint32_t tilegrad_script __attribute__((used, section(".data.tilegrad_script"))) = 0;
void tilegrad_batch(void);

/* One stack for each core of the team; the others park without one. */
TG_IN_L1 __attribute__((aligned(64), used)) uint8_t tilegrad_stacks[TILEGRAD_CORES * TILEGRAD_STACK_BYTES];
_Static_assert(TILEGRAD_STACK_BYTES % 16 == 0, "stack pointers are multiples of 16");

static uint32_t fabric_stack[256] __attribute__((section(".data"))) = {1};
uint32_t *const tilegrad_fabric_stack_top __attribute__((used)) = fabric_stack + 256;
uint8_t *const tilegrad_first_stack_top __attribute__((used)) = tilegrad_stacks + TILEGRAD_STACK_BYTES;

extern uint32_t tilegrad_bss_begin[], tilegrad_bss_end[];
void tilegrad_worker(uint32_t core);
void tilegrad_fabric(void);

__attribute__((naked, used, section(".text.start"))) void _start(void)
{
    __asm__ volatile("lw sp, tilegrad_fabric_stack_top\n"
                     "j tilegrad_fabric\n");
}

__attribute__((naked, used, aligned(4))) void tilegrad_worker_start(void)
{
    __asm__ volatile("csrr a0, 0xf14\n"
                     "andi a0, a0, 0x1f\n"
                     "li a1, " TEXT(TILEGRAD_CORES) "\n"
                     "bltu a0, a1, 2f\n"
                     "1: wfi\n"
                     "j 1b\n"
                     "2: li a1, " TEXT(TILEGRAD_STACK_BYTES) "\n"
                     "mul a1, a1, a0\n"
                     "lw sp, tilegrad_first_stack_top\n"
                     "add sp, sp, a1\n"
                     "j tilegrad_worker\n");
}

/* Where core 0 waits for a command. */
__attribute__((noinline)) void tilegrad_idle(void)
{
    __asm__ volatile("" ::: "memory");
}

/* What every core of the team does. */
__attribute__((used)) void tilegrad_worker(uint32_t core)
{
    TG_REGISTER(TG_EVENT_UNIT) = TG_EVENTS;
    if (core == 0) {
        /* Barrier 0: who triggers comes first, because one that waits for nobody ends as soon as it has targets. The
           others may already be waiting. Its registers are in the cores' private views only. */
        TG_REGISTER(TG_BARRIER) = TEAM_MASK;
        TG_REGISTER(TG_BARRIER + 0xcu) = TEAM_MASK;
    }
    for (;;) {
        if (core == 0) {
            if (tilegrad_script)
                tilegrad_batch();
            else
                tilegrad_idle();
            TG_REGISTER(TG_CLUSTER_TIMER) = 3u; /* from 0 */
        }
        tg_barrier();
        void (*const run)(void) = tilegrad_command;
        if (run)
            run();
        tg_barrier();
        if (core == 0)
            tilegrad_cycles += TG_REGISTER(TG_CLUSTER_TIMER + 8u);
    }
}

/* What the fabric controller does. */
__attribute__((used)) void tilegrad_fabric(void)
{
    for (volatile uint32_t *word = tilegrad_bss_begin; word < tilegrad_bss_end; ++word)
        *word = 0;
    TG_REGISTER(TG_UDMA) |= TG_HYPER_CLOCKS; /* for transfers to and from L3 */
    for (uint32_t core = 0; core < WORKERS; ++core)
        TG_REGISTER(TG_CLUSTER_CONTROL + 0x40u + 4u * core) = (uint32_t)tilegrad_worker_start;
    TG_REGISTER(TG_CLUSTER_CONTROL + 0x1400u) = ~0u; /* instruction caches on */
    TG_REGISTER(TG_CLUSTER_CONTROL + 8u) = 0x1ffu; /* fetch enable */
    for (;;)
        __asm__ volatile("wfi");
}
