/* The profile: what functions, and single instructions, did. */
#include <stdlib.h>
#include <string.h>

#include "machine.h"

/* Charges the function that the core was in with what was counted since, but for instructions that have only `begun`. */
static void leave_function(sim_t *s, uint32_t core, uint32_t begun)
{
    core_t *c = &s->core[core];
    sim_counters_t now = c->count;
    now.instructions -= begun;
    now.cycles = s->now - c->started - now.sleep;
    if (c->function >= 0) {
        uint64_t *sum = (uint64_t *)&s->function_count[core * s->functions + (uint32_t)c->function];
        const uint64_t *to = (const uint64_t *)&now, *from = (const uint64_t *)&c->function_from;
        for (uint32_t i = 0; i < sizeof now / sizeof(uint64_t); i++)
            sum[i] += to[i] - from[i];
    }
    c->function_from = now;
}

static int32_t function_at(const sim_t *s, uint32_t pc)
{
    uint32_t low = 0, high = s->functions;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (s->function_bound[2 * middle + 1] <= pc)
            low = middle + 1;
        else
            high = middle;
    }
    return low < s->functions && s->function_bound[2 * low] <= pc ? (int32_t)low : -1;
}

/* Charges the instruction that ran on a core with what was counted since it began, but for the cycles that fetching the
 * next one took, and for the next one itself where that has `begun`. */
static void leave_instruction(core_t *c, sim_hot_t *next, uint32_t begun)
{
    sim_hot_t *hot = c->hot;
    sim_counters_t now = c->count;
    now.instructions -= begun;
    for (uint32_t i = 0; i < SIM_STALL_KINDS; i++) {
        sim_hot_t *charged = i == SIM_STALL_FETCH ? next : hot;
        if (charged)
            charged->stalls[i] += now.stalls[i] - c->hot_from.stalls[i];
    }
    if (hot) {
        hot->count += now.instructions - c->hot_from.instructions;
        hot->sleep += now.sleep - c->hot_from.sleep;
    }
    c->hot_from = now;
    c->hot = next;
}

static sim_hot_t *hot_at(const sim_t *s, int32_t function, uint32_t pc)
{
    if (function < 0)
        return NULL;
    return &s->hot[s->hot_first[function] + (pc - s->function_bound[2 * function]) / 2];
}

/* Called before each instruction. */
void profile_instruction(sim_t *s, uint32_t core, uint32_t pc)
{
    core_t *c = &s->core[core];
    const int inside = c->function >= 0 && pc >= s->function_bound[2 * c->function] &&
                       pc < s->function_bound[2 * c->function + 1];
    if (!inside) {
        leave_function(s, core, 1);
        c->function = function_at(s, pc);
    }
    if (s->hot)
        leave_instruction(c, hot_at(s, c->function, pc), 1);
}

static void forget_profile(sim_t *s)
{
    free(s->function_bound);
    free(s->function_count);
    free(s->hot_first);
    free(s->hot);
    s->function_bound = NULL;
    s->function_count = NULL;
    s->hot_first = NULL;
    s->hot = NULL;
    s->functions = 0;
    for (uint32_t i = 0; i < CORES; i++) {
        s->core[i].function = -1;
        s->core[i].hot = NULL;
        s->core[i].hot_from = s->core[i].count;
    }
    choose_run(s);
}

int sim_profile(sim_t *s, const uint32_t *bounds, uint32_t count, int instructions)
{
    forget_profile(s);
    s->function_bound = malloc((2 * count + 1) * sizeof *s->function_bound);
    s->function_count = calloc((size_t)count * CORES + 1, sizeof *s->function_count);
    s->hot_first = calloc(count + 1, sizeof *s->hot_first);
    if (!s->function_bound || !s->function_count || !s->hot_first)
        return 0;
    if (count)
        memcpy(s->function_bound, bounds, 2 * count * sizeof *bounds);
    for (uint32_t i = 0; i < count; i++)
        s->hot_first[i + 1] = s->hot_first[i] + (bounds[2 * i + 1] - bounds[2 * i] + 1) / 2;
    if (instructions && !(s->hot = calloc(s->hot_first[count] + 1, sizeof *s->hot)))
        return 0;
    s->functions = count;
    choose_run(s);
    return 1;
}

int sim_profile_read(sim_t *s, uint32_t core, uint32_t function, sim_counters_t *counters)
{
    if (core >= CORES || function >= s->functions)
        return 0;
    if (s->core[core].function >= 0)
        leave_function(s, core, 0);
    *counters = s->function_count[core * s->functions + function];
    return 1;
}

int sim_hot_read(sim_t *s, uint32_t pc, sim_hot_t *hot)
{
    const int32_t function = s->functions ? function_at(s, pc) : -1;
    if (!s->hot || function < 0)
        return 0;
    for (uint32_t i = 0; i < CORES; i++)
        leave_instruction(&s->core[i], s->core[i].hot, 0);
    *hot = *hot_at(s, function, pc);
    return 1;
}
