/* Start-up of the Siracusa platform and the loop that runs entry points on the cluster.

   The fabric controller clears .bss, starts the cluster and sleeps. Core 0 of the cluster then waits in tilegrad_idle
   for a command; the other cores wait at a barrier. A debugger or the simulator stops in tilegrad_idle, fills the
   inputs, puts the address of an entry point into tilegrad_command and lets core 0 go on: the whole team executes the
   entry point, and core 0 comes back to tilegrad_idle. */
#include <stdint.h>
#include <stddef.h>

#include "tilegrad_team.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define WORKERS 9u /* eight and a spare, which stays parked */
#define STACK_BYTES 2048u /* the start-up code below shifts by its logarithm, 11 */
#define CLUSTER_TIMER 0x10200400u
#define TEAM_MASK ((1u << TILEGRAD_CORES) - 1u)

void (*volatile tilegrad_command)(void);
volatile uint64_t tilegrad_cycles; /* spent in entry points since the start */

__attribute__((section(".l1"), aligned(64))) uint8_t tilegrad_stacks[WORKERS * STACK_BYTES];
static uint32_t fabric_stack[256] __attribute__((section(".data"))) = {1};
uint32_t *const tilegrad_fabric_stack_top __attribute__((used)) = fabric_stack + 256;
uint8_t *const tilegrad_first_stack_top __attribute__((used)) = tilegrad_stacks + STACK_BYTES;

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
                     "lw sp, tilegrad_first_stack_top\n"
                     "slli a1, a0, 11\n"
                     "add sp, sp, a1\n"
                     "j tilegrad_worker\n");
}

static void sleep_forever(void)
{
    for (;;)
        __asm__ volatile("wfi");
}

/* Where core 0 waits for a command. */
__attribute__((noinline)) void tilegrad_idle(void)
{
    __asm__ volatile("" ::: "memory");
}

/* What every core of the cluster does. */
__attribute__((used)) void tilegrad_worker(uint32_t core)
{
    if (core >= TILEGRAD_CORES)
        sleep_forever();
    REGISTER(TG_EVENT_UNIT) = 0x70000u; /* barriers, mutexes, dispatch; not the DMA, whose events would end a barrier */
    for (;;) {
        if (core == 0) {
            tilegrad_idle();
            REGISTER(CLUSTER_TIMER) = 3u; /* from 0 */
        }
        tg_barrier();
        void (*const run)(void) = tilegrad_command;
        if (run)
            run();
        tg_barrier();
        if (core == 0)
            tilegrad_cycles += REGISTER(CLUSTER_TIMER + 8u);
    }
}

/* What the fabric controller does. */
__attribute__((used)) void tilegrad_fabric(void)
{
    for (volatile uint32_t *word = tilegrad_bss_begin; word < tilegrad_bss_end; ++word)
        *word = 0;
    for (uint32_t core = 0; core < WORKERS; ++core)
        REGISTER(0x10200040u + 4u * core) = (uint32_t)tilegrad_worker_start;
    REGISTER(0x10201400u) = ~0u; /* instruction caches on */
    REGISTER(0x10200c00u) = TEAM_MASK; /* barrier 0, as the fabric controller sees it: who triggers, who waits */
    REGISTER(0x10200c0cu) = TEAM_MASK;
    REGISTER(0x10200008u) = 0x1ffu; /* fetch enable */
    sleep_forever();
}
