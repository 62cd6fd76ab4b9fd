/* The interface of simulator.h. */
#include <fenv.h>
#include <stdlib.h>
#include <string.h>

#include "compressed.h"
#include "machine.h"

uint32_t sim_interface(void)
{
    return SIM_INTERFACE;
}

sim_t *sim_create(uint32_t cores)
{
    return machine_create(cores);
}

void sim_destroy(sim_t *s)
{
    machine_destroy(s);
}

int sim_parameter_get(sim_t *s, uint32_t index, uint32_t *value)
{
    if (index >= TIMING_COUNT)
        return 0;
    memcpy(value, (const char *)&s->timing + index * sizeof(uint32_t), sizeof *value);
    return 1;
}

int sim_parameter_set(sim_t *s, uint32_t index, uint32_t value)
{
    if (index >= TIMING_COUNT)
        return 0;
    memcpy((char *)&s->timing + index * sizeof(uint32_t), &value, sizeof value);
    return 1;
}

const char *sim_parameter_name(uint32_t index)
{
    return timing_name(index);
}

static uint8_t *host_view(sim_t *s, uint32_t address, uint32_t bytes)
{
    if (address - L3_WINDOW < L3_SIZE && bytes <= L3_SIZE - (address - L3_WINDOW))
        return s->l3 + (address - L3_WINDOW);
    return memory_at(s, address, bytes);
}

int sim_read(sim_t *s, uint32_t address, void *data, uint32_t bytes)
{
    const uint8_t *at = host_view(s, address, bytes);
    if (!at)
        return 0;
    memcpy(data, at, bytes);
    return 1;
}

int sim_write(sim_t *s, uint32_t address, const void *data, uint32_t bytes)
{
    uint8_t *at = host_view(s, address, bytes);
    if (!at)
        return 0;
    memcpy(at, data, bytes);
    forget_code(s, address, bytes);
    guard_loaded(s, address, bytes);
    return 1;
}

void sim_scan_code(sim_t *s, uint32_t address, uint32_t bytes)
{
    for (uint32_t at = address; at < address + bytes; at += 2) {
        uint32_t word;
        if (!sim_read(s, at, &word, sizeof word))
            break;
        const uint32_t number = word >> 20;
        if ((word & 0x7f) == 0x73 && (word >> 12 & 3) && (number == 1 || number == 3))
            s->track_flags = 1;
    }
    for (uint32_t i = 0; i < CORES; i++)
        s->core[i].float_slow = s->core[i].rounding != 0 || s->track_flags;
}

void sim_start(sim_t *s, uint32_t core, uint32_t pc)
{
    if (core < CORES && s->core[core].wait == SIM_WAIT_OFF)
        start_core(s, core, pc);
}

void sim_park(sim_t *s, uint32_t core)
{
    if (core >= CORES)
        return;
    for (uint32_t slot = 0; slot < WHEEL; slot++)
        s->wheel[slot] &= (uint16_t)~(1u << core);
    s->far &= ~(1u << core);
    s->awake &= ~(1u << core);
    s->core[core].wait = SIM_WAIT_OFF;
}

void sim_set_stack(sim_t *s, uint32_t core, uint32_t lowest)
{
    if (core < CORES)
        s->core[core].stack_lowest = lowest;
}

int sim_breakpoint(sim_t *s, uint32_t pc, int on)
{
    decoded_t *at = entry_of(s, pc);
    if (!at)
        return 0;
    if (at->operation == OP_UNDECODED || at->operation == OP_LOOP_END)
        decode_at(s, at, pc);
    if (on)
        patch(at, OP_BREAKPOINT);
    else if (at->operation == OP_BREAKPOINT)
        decode_at(s, at, pc);
    return 1;
}

void sim_run(sim_t *s, uint64_t until, sim_stop_t *stop)
{
    /* The host may flush denormals or round differently; numbers here may not depend on it. */
    fenv_t host;
    fegetenv(&host);
    fesetenv(FE_DFL_ENV);
    s->stop = (sim_stop_t){.reason = SIM_STOP_NONE, .kernel = -1};
    if (s->checked)
        run_checked(s, until);
    else
        run_fast(s, until);
    if (s->stop.reason != SIM_STOP_BUDGET && s->stop.reason != SIM_STOP_BREAKPOINT)
        flush_lines(s);
    *stop = s->stop;
    fesetenv(&host);
}

uint32_t sim_register_get(sim_t *s, uint32_t core, uint32_t index)
{
    const core_t *c = &s->core[core < CORES ? core : 0];
    if (index < 32)
        return c->x[index];
    if (index < 64)
        return c->f[index - 32];
    switch (index) {
    case 64: return c->at ? pc_of(s, c, c->at) : 0;
    case 65: return c->rounding << 5 | c->flags;
    case 66: return c->wait;
    default: return 0;
    }
}

void sim_register_set(sim_t *s, uint32_t core, uint32_t index, uint32_t value)
{
    core_t *c = &s->core[core < CORES ? core : 0];
    if (index > 0 && index < 32)
        c->x[index] = value;
    else if (index >= 32 && index < 64)
        c->f[index - 32] = value;
    else if (index == 64 && entry_of(s, value)) {
        c->at = entry_of(s, value);
        c->line = 0;
    } else if (index == 65) {
        c->flags = value & 31;
        c->rounding = value >> 5 & 7;
        c->float_slow = c->rounding != 0 || s->track_flags;
    }
}

uint64_t sim_cycle(sim_t *s)
{
    return s->now;
}

void sim_counters(sim_t *s, uint32_t core, sim_counters_t *counters)
{
    const core_t *c = &s->core[core < CORES ? core : 0];
    *counters = c->count;
    if (c->wait == SIM_WAIT_OFF && !c->at)
        return;
    if (c->wait != SIM_WAIT_NONE)
        counters->sleep += s->now - c->asleep_since;
    counters->cycles = s->now - c->started - counters->sleep;
}

uint32_t sim_output(sim_t *s, char *text, uint32_t capacity)
{
    const uint32_t length = s->output_length < capacity ? s->output_length : capacity;
    if (!length)
        return 0;
    memcpy(text, s->output, length);
    memmove(s->output, s->output + length, s->output_length - length);
    s->output_length -= length;
    return length;
}

void sim_trace(sim_t *s, int on)
{
    s->tracing = on;
    choose_run(s);
}

uint32_t sim_trace_read(sim_t *s, sim_trace_t *records, uint32_t capacity)
{
    const uint32_t left = s->trace_length - s->trace_read, count = left < capacity ? left : capacity;
    if (count)
        memcpy(records, s->trace + s->trace_read, count * sizeof *records);
    s->trace_read += count;
    if (s->trace_read == s->trace_length)
        s->trace_read = s->trace_length = 0;
    return count;
}
