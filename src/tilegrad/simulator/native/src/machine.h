/* The machine's state, shared by all modules. */
#ifndef TILEGRAD_MACHINE_H
#define TILEGRAD_MACHINE_H

#include <stdint.h>

#include "decode.h"
#include "simulator.h"
#include "timing.h"

enum {
    WORKERS = 9,
    FC = 9, /* index of the fabric controller */
    CORES = 10,
    FC_HART = 992,
    BANKS = 16,
    FLOAT_UNITS = 4,
    WHEEL = 256,
    LINE_HALFWORDS = 8, /* of an instruction cache line */
    TRANSFERS = 8, /* of one direction that wait or move */
    CHANNEL_DEPTH = 2,
    CHANNELS = 10, /* DMA views: one per worker, one for the peripheral bus */
    GUARD_UNWAITED = 256,
    CALL_DEPTH = 32,
    L1_WORDS = 0x10000,
    EVERY_CORE = 0x3ff,
    UNWRITTEN = 0x57
};

#define L1_BASE 0x10000000u
#define L1_SIZE 0x00040000u
#define WEIGHT_BASE 0x10400000u
#define WEIGHT_SIZE 0x00800000u
#define L2_BASE 0x1c000000u
#define L2_SIZE 0x00200000u
#define L3_SIZE 0x00800000u
/* Where sim_read and sim_write show L3; programs reach it through the uDMA only. */
#define L3_WINDOW 0x80000000u

#define NEVER UINT64_MAX

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

typedef enum { ACCESS_DONE, ACCESS_SLEEP, ACCESS_STOP } access_t;

typedef struct {
    decoded_t *at;   /* what runs next */
    uintptr_t line;  /* instruction cache line it was fetched from, see line_of */
    uint64_t operand; /* when a float unit may read what the last load brought */
    uint32_t x[33];
    uint32_t f[32];
    uint32_t rounding, flags;
    uint32_t float_slow; /* a rounding mode other than the default, or flags that somebody reads */
    uint32_t near_base, near_size; /* the part of memory that this core reaches in one cycle */
    uint32_t stack_lowest;
    /* Hardware loops. */
    uint32_t loop_start[2], loop_end[2], loop_count[2];
    decoded_t last[2];      /* a loop's last instruction, copied, and what leads on from it */
    decoded_t *last_origin; /* where it was copied from */
    /* Sleep. */
    uint32_t wait;
    uint32_t wait_register;
    uint32_t wait_value; /* what a store waits to write */
    uint64_t asleep_since;
    uint64_t far_until;
    uint64_t started;
    decoded_t *broke; /* the breakpoint that stopped the last run */
    sim_counters_t count;
    /* Performance counters as the program sees them. */
    uint32_t pcer, pcmr;
    uint32_t pccr[32];
    uint64_t pccr_from[32];
    uint32_t scratch;
    /* Private instruction cache. */
    uint32_t tag[8][4];
    uint8_t shift_register;
    /* Kernels that run, innermost last. */
    struct {
        uint32_t kernel, back, stack;
        uint32_t tile, first, last; /* which call it is; its own ranges, last exclusive */
    } call[CALL_DEPTH];
    uint32_t depth;
    int32_t function; /* for the profile */
    sim_counters_t function_from;
    sim_hot_t *hot; /* the instruction that runs, and what was counted when it began */
    sim_counters_t hot_from;
} core_t;

typedef struct {
    uint32_t status, trigger, target;
} barrier_t;

typedef struct {
    uint32_t mask[WORKERS], status[WORKERS];
    int clear[WORKERS]; /* the wait that the core sleeps in clears the events it returns */
    barrier_t barrier[16];
    uint32_t mutex_locked, mutex_waiting[8];
    uint32_t team;
    struct {
        uint32_t value, readers;
    } dispatch[8];
    uint32_t dispatch_head, dispatch_tail[WORKERS];
} event_unit_t;

typedef struct {
    uint32_t local, remote, bytes, line, stride; /* line and stride in external memory; line == bytes where 1D */
    uint32_t inwards, two_d, event;
    uint32_t counter, channel;
    uint32_t serial;
    uint32_t pc;    /* where it was started */
    uint64_t start; /* the first cycle in which it may move data */
    uint32_t moved, line_address, in_line; /* progress */
} transfer_t;

typedef struct {
    transfer_t item[TRANSFERS];
    uint32_t head, count;
} transfer_queue_t;

typedef struct {
    uint32_t word[5], words; /* the command being written */
    uint32_t counter;
    transfer_queue_t waiting;
} channel_t;

typedef struct {
    channel_t channel[CHANNELS];
    transfer_queue_t global[2]; /* by direction: from L1, to L1 */
    uint64_t port_free[2][2];
    uint32_t pending[16];
    uint32_t allocated;
    uint32_t next_channel;
    uint32_t serial;
    uint32_t in_flight;
    /* For the guard: transfers of whose end some worker does not know. */
    struct {
        transfer_t transfer;
        int done;
        uint32_t shown, known; /* masks of the cores that were told of its end, that have acted on it or met one that has */
    } unwaited[GUARD_UNWAITED];
    uint32_t unwaited_count;
} dma_t;

typedef struct {
    uint32_t reg[2][16], common[16], clock_gate;
    struct {
        uint32_t local, remote, bytes, inwards, line, stride, stride_local, id;
    } queue[16];
    uint32_t head, count;
    uint32_t waiting[2];
    uint64_t done; /* when the transfer at the head of the queue is */
} udma_t;

typedef struct {
    uint32_t config;
    uint64_t from;
    uint32_t held;
} counter_t;

typedef struct {
    uint32_t tag[8][4];
    uint64_t ready[8][4]; /* when the line is there */
    uint64_t free;        /* when the bank may refill another line */
    uint8_t shift_register;
} shared_bank_t;

struct simulator {
    core_t core[CORES];
    uint32_t workers; /* how many exist */
    uint64_t now;
    uint16_t wheel[WHEEL]; /* cores by the cycle that they run in next */
    uint32_t awake, far;
    uint32_t first; /* mask of the core that was woken last: the first in each cycle */
    uint64_t next_device;
    uint64_t bank_free[BANKS], float_free[FLOAT_UNITS], divider_free;
    timing_t timing;
    uint8_t *l1, *l2, *weight, *l3;
    decoded_t *code_l1, *code_l2;
    void *code_l1_block, *code_l2_block;
    uint32_t code_first, code_last; /* addresses between which anything was decoded */
    int track_flags;
    shared_bank_t shared_cache[8];
    uint32_t cache_enabled, fetch_enable, boot_address[WORKERS];
    event_unit_t events;
    dma_t dma;
    udma_t udma;
    counter_t cluster_timer, fc_timer;
    uint32_t soc_control[64];
    char line_buffer[32][8][256];
    uint16_t line_length[32][8];
    char *output;
    uint32_t output_length, output_capacity;
    sim_stop_t stop;
    /* Guard, trace, profile. */
    int checked, tracing;
    uint32_t *kernel_entry; /* of the kernels, then of the starts */
    uint32_t kernels, starts;
    uint32_t *kernel_calls; /* by core and kernel */
    uint64_t kernel_filter[64]; /* by bits 1 to 12 of the entry points */
    uint32_t *range_first; /* kernels + 2 entries: ranges of kernel k by tile, ranges of all kernels last */
    sim_range_t *range;
    uint32_t ranges;
    uint16_t *loaded; /* for each word of L1, the cores that may read it: something has written it; NULL without guard */
    sim_trace_t *trace;
    uint32_t trace_length, trace_capacity, trace_read;
    uint32_t *function_bound;
    uint32_t functions;
    sim_counters_t *function_count;
    uint32_t *hot_first; /* of each function, in `hot`, which has one entry for each of its halfwords; NULL: off */
    sim_hot_t *hot;
};

static inline uint32_t pc_of(const sim_t *s, const core_t *c, const decoded_t *at)
{
    if (at == &c->last[0])
        at = c->last_origin;
    if (at >= s->code_l1 && at < s->code_l1 + L1_SIZE / 2 + LINE_HALFWORDS)
        return L1_BASE + (uint32_t)(at - s->code_l1) * 2;
    return L2_BASE + (uint32_t)(at - s->code_l2) * 2;
}

/* NULL where no code can be. */
static inline decoded_t *entry_of(const sim_t *s, uint32_t pc)
{
    if (pc & 1)
        return 0;
    if (pc - L2_BASE < L2_SIZE)
        return s->code_l2 + (pc - L2_BASE) / 2;
    if (pc - L1_BASE < L1_SIZE)
        return s->code_l1 + (pc - L1_BASE) / 2;
    return 0;
}

/* The cache line that a core has fetched when it executes an instruction: that of the second halfword. A core always
 * fetches two halfwords, also for a compressed instruction. Entries of one line share it: the tables are aligned to their
 * lines. */
static inline uintptr_t line_of(const decoded_t *at)
{
    return (uintptr_t)(at + 1) / (LINE_HALFWORDS * sizeof(decoded_t));
}

/* Takes one access of a bank from cycle `at` on; returns the cycles it has to wait. */
static inline uint32_t bank_access(sim_t *s, uint32_t offset, uint64_t at)
{
    uint64_t *free = &s->bank_free[offset >> 2 & (BANKS - 1)];
    const uint64_t wait = *free > at ? *free - at : 0;
    *free = at + wait + 1;
    return (uint32_t)wait;
}

/* machine.c */
sim_t *machine_create(uint32_t cores);
void machine_destroy(sim_t *s);
access_t stop_run(sim_t *s, uint32_t reason, uint32_t core, uint32_t address, uint32_t size, uint32_t value,
                  uint32_t detail);
void schedule(sim_t *s, uint32_t core, uint64_t at);
void fall_asleep(sim_t *s, uint32_t core, uint32_t wait);
void wake(sim_t *s, uint32_t core, uint64_t at);
void start_core(sim_t *s, uint32_t core, uint32_t pc);
void print_byte(sim_t *s, uint32_t cluster, uint32_t core, uint8_t byte);
void flush_lines(sim_t *s);
void trace_record(sim_t *s, uint32_t kind, uint32_t core, uint32_t a, uint32_t b, uint32_t bytes, uint32_t flags);
/* Whether runs are checked ones: whether anything is to be guarded, traced or counted. */
static inline void choose_run(sim_t *s)
{
    s->checked = s->ranges || s->tracing || s->functions;
}

/* The earliest of what devices do next. */
void plan_devices(sim_t *s);

/* memory.c */
uint8_t *memory_at(sim_t *s, uint32_t address, uint32_t bytes);
access_t memory_load(sim_t *s, uint32_t core, uint32_t address, uint32_t size, uint32_t *value, uint32_t *stall);
access_t memory_store(sim_t *s, uint32_t core, uint32_t address, uint32_t size, uint32_t value, uint32_t *stall);

/* fetch.c */
uint32_t fetch_line(sim_t *s, uint32_t core, uint32_t pc);
void flush_fetch(sim_t *s);
void decode_at(sim_t *s, decoded_t *at, uint32_t pc);
void forget_code(sim_t *s, uint32_t first, uint32_t bytes);
void patch(decoded_t *at, uint16_t operation);

/* csr.c */
access_t access_csr(sim_t *s, uint32_t core, const decoded_t *e, uint32_t pc);

/* event_unit.c */
access_t events_load(sim_t *s, uint32_t core, uint32_t offset, uint32_t *value);
access_t events_store(sim_t *s, uint32_t core, uint32_t offset, uint32_t value);
access_t events_bus(sim_t *s, uint32_t core, uint32_t offset, uint32_t *value, int is_write);
void events_raise(sim_t *s, uint32_t cores, uint32_t event);

/* dma.c */
access_t dma_load(sim_t *s, uint32_t core, uint32_t offset, uint32_t *value);
access_t dma_store(sim_t *s, uint32_t core, uint32_t offset, uint32_t value);
void dma_step(sim_t *s);
/* For the guard: a core woke at the DMA's event; what some cores know of transfers, others get to know from them. */
void dma_woke(sim_t *s, uint32_t core);
void dma_told(sim_t *s, uint32_t from, uint32_t to);

/* udma.c */
access_t udma_load(sim_t *s, uint32_t core, uint32_t offset, uint32_t *value);
access_t udma_store(sim_t *s, uint32_t core, uint32_t offset, uint32_t value);
void udma_step(sim_t *s);

/* guard.c: all return ACCESS_DONE or ACCESS_STOP. */
int32_t guard_kernel(const sim_t *s, uint32_t core);
access_t guard_access(sim_t *s, uint32_t core, uint32_t address, uint32_t size, int is_write);
access_t guard_transfer(sim_t *s, uint32_t core, const transfer_t *transfer);
void guard_loaded(sim_t *s, uint32_t address, uint32_t bytes);
void observe(sim_t *s, uint32_t core, uint32_t pc);

/* profile.c */
void profile_instruction(sim_t *s, uint32_t core, uint32_t pc);

/* run_fast.c, run_checked.c */
void run_fast(sim_t *s, uint64_t until);
void run_checked(sim_t *s, uint64_t until);

#endif
