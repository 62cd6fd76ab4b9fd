/* Life of a machine: creation, cores that start, sleep and wake, output, trace records. */
#include "machine.h"

#include <stdlib.h>
#include <string.h>

access_t stop_run(sim_t *s, uint32_t reason, uint32_t core, uint32_t address, uint32_t size, uint32_t value,
                  uint32_t detail)
{
    if (s->stop.reason == SIM_STOP_NONE)
        s->stop = (sim_stop_t){.reason = reason, .core = core, .address = address, .size = size, .value = value,
                               .detail = detail, .kernel = guard_kernel(s, core), .cycle = s->now,
                               .tile = s->core[core].depth ? s->core[core].call[s->core[core].depth - 1].tile : 0,
                               .pc = s->core[core].at ? pc_of(s, &s->core[core], s->core[core].at) : 0};
    return ACCESS_STOP;
}

/* `at` lies ahead of the clock. Beyond the wheel's horizon a core passes through its last slot. */
void schedule(sim_t *s, uint32_t core, uint64_t at)
{
    uint64_t slot = at;
    if (at - s->now >= WHEEL) {
        s->core[core].far_until = at;
        s->far |= 1u << core;
        slot = s->now + WHEEL - 1;
    }
    s->wheel[slot % WHEEL] |= (uint16_t)(1u << core);
}

void fall_asleep(sim_t *s, uint32_t core, uint32_t wait)
{
    core_t *c = &s->core[core];
    c->wait = wait;
    c->asleep_since = s->now;
    s->awake &= ~(1u << core);
    if (s->tracing)
        trace_record(s, SIM_TRACE_SLEEP, core, wait, 0, 0, 0);
}

void wake(sim_t *s, uint32_t core, uint64_t at)
{
    core_t *c = &s->core[core];
    if (s->tracing)
        trace_record(s, SIM_TRACE_WAKE, core, c->wait, 0, 0, 0);
    c->wait = SIM_WAIT_NONE;
    c->count.sleep += s->now - c->asleep_since;
    c->count.stalls[SIM_STALL_EVENT] += at - s->now;
    s->awake |= 1u << core;
    schedule(s, core, at);
}

void start_core(sim_t *s, uint32_t core, uint32_t pc)
{
    core_t *c = &s->core[core];
    c->at = entry_of(s, pc);
    if (!c->at) {
        (void)stop_run(s, SIM_STOP_FETCH, core, pc, 4, 0, 0);
        return;
    }
    c->line = 0;
    c->wait = SIM_WAIT_NONE;
    c->started = s->now;
    c->count = (sim_counters_t){0};
    c->function = -1;
    c->hot = NULL;
    c->hot_from = c->count;
    c->depth = 0;
    s->awake |= 1u << core;
    schedule(s, core, s->now + s->timing.start);
}

static void append_output(sim_t *s, const char *text, uint32_t length)
{
    if (s->output_length + length > s->output_capacity) {
        const uint32_t capacity = 2 * (s->output_length + length) + 1024;
        char *grown = realloc(s->output, capacity);
        if (!grown)
            return;
        s->output = grown;
        s->output_capacity = capacity;
    }
    memcpy(s->output + s->output_length, text, length);
    s->output_length += length;
}

static void flush_line(sim_t *s, uint32_t cluster, uint32_t core)
{
    if (s->line_length[cluster][core])
        append_output(s, s->line_buffer[cluster][core], s->line_length[cluster][core]);
    s->line_length[cluster][core] = 0;
}

void print_byte(sim_t *s, uint32_t cluster, uint32_t core, uint8_t byte)
{
    uint16_t *length = &s->line_length[cluster][core];
    s->line_buffer[cluster][core][(*length)++] = (char)byte;
    if (byte == '\n' || *length == sizeof s->line_buffer[cluster][core])
        flush_line(s, cluster, core);
}

void flush_lines(sim_t *s)
{
    for (uint32_t cluster = 0; cluster < 32; cluster++)
        for (uint32_t core = 0; core < 8; core++)
            flush_line(s, cluster, core);
}

void trace_record(sim_t *s, uint32_t kind, uint32_t core, uint32_t a, uint32_t b, uint32_t bytes, uint32_t flags)
{
    if (s->trace_length == s->trace_capacity) {
        const uint32_t capacity = s->trace_capacity ? 2 * s->trace_capacity : 4096;
        sim_trace_t *grown = realloc(s->trace, capacity * sizeof *grown);
        if (!grown)
            return;
        s->trace = grown;
        s->trace_capacity = capacity;
    }
    const sim_counters_t *count = &s->core[core < CORES ? core : FC].count;
    sim_trace_t *record = &s->trace[s->trace_length++];
    *record = (sim_trace_t){.cycle = s->now, .kind = kind, .core = core, .a = a, .b = b, .bytes = bytes,
                            .flags = flags, .multiply_adds = count->multiply_adds};
    memcpy(record->stalls, count->stalls, sizeof record->stalls);
}

void plan_devices(sim_t *s)
{
    uint64_t next = NEVER;
    if (s->dma.in_flight)
        next = s->now + 1;
    if (s->udma.count && s->udma.done < next)
        next = s->udma.done;
    s->next_device = next;
}

/* Decoded code, aligned so that the entries of one cache line are found by division. */
static decoded_t *code_table(uint32_t bytes, void **block)
{
    const size_t line = LINE_HALFWORDS * sizeof(decoded_t);
    *block = calloc(bytes / 2 * sizeof(decoded_t) + 3 * line, 1);
    if (!*block)
        return NULL;
    return (decoded_t *)(((uintptr_t)*block + 2 * line - 1) / line * line);
}

static void reset_core(sim_t *s, uint32_t i)
{
    core_t *c = &s->core[i];
    c->wait = SIM_WAIT_OFF;
    c->near_base = L1_BASE;
    c->near_size = i == FC ? 0 : L1_SIZE;
    c->function = -1;
    c->last[1].operation = OP_UNDECODED;
}

sim_t *machine_create(uint32_t cores)
{
    sim_t *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->workers = cores;
    s->l1 = malloc(L1_SIZE);
    s->l2 = malloc(L2_SIZE);
    s->weight = malloc(WEIGHT_SIZE);
    s->l3 = malloc(L3_SIZE);
    s->code_l1 = code_table(L1_SIZE, &s->code_l1_block);
    s->code_l2 = code_table(L2_SIZE, &s->code_l2_block);
    if (!s->l1 || !s->l2 || !s->weight || !s->l3 || !s->code_l1 || !s->code_l2) {
        machine_destroy(s);
        return NULL;
    }
    /* Memory that nobody wrote holds neither zeros nor anything useful, as on the platform. */
    memset(s->l1, UNWRITTEN, L1_SIZE);
    memset(s->l2, UNWRITTEN, L2_SIZE);
    memset(s->weight, UNWRITTEN, WEIGHT_SIZE);
    memset(s->l3, UNWRITTEN, L3_SIZE);
    timing_defaults(&s->timing);
    s->next_device = NEVER;
    s->code_first = UINT32_MAX;
    for (uint32_t i = 0; i < CORES; i++)
        reset_core(s, i);
    flush_fetch(s);
    return s;
}

void machine_destroy(sim_t *s)
{
    free(s->l1);
    free(s->l2);
    free(s->weight);
    free(s->l3);
    free(s->code_l1_block);
    free(s->code_l2_block);
    free(s->output);
    free(s->kernel_entry);
    free(s->kernel_calls);
    free(s->loaded);
    free(s->range_first);
    free(s->range);
    free(s->trace);
    free(s->function_bound);
    free(s->function_count);
    free(s->hot_first);
    free(s->hot);
    free(s);
}
