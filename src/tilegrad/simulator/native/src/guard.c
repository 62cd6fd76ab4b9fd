/* What is checked and recorded when a run is not only to be fast: the guard table and the kernels. */
#include "machine.h"

int32_t guard_kernel(const sim_t *s, uint32_t core)
{
    const core_t *c = &s->core[core];
    return c->depth ? (int32_t)c->call[c->depth - 1].kernel : -1;
}

static int allowed(const sim_t *s, uint32_t set, uint32_t core, uint32_t first, uint32_t last, uint32_t access)
{
    for (uint32_t i = s->range_first[set]; i < s->range_first[set + 1]; i++) {
        const sim_range_t *r = &s->range[i];
        if (first >= r->first && last <= r->last && (r->access & access) == access && r->cores >> core & 1)
            return 1;
    }
    return 0;
}

static int permitted(const sim_t *s, uint32_t core, uint32_t first, uint32_t last, uint32_t access)
{
    const int32_t kernel = guard_kernel(s, core);
    if (kernel < 0 || !s->ranges)
        return 1;
    return allowed(s, (uint32_t)kernel, core, first, last, access) || allowed(s, s->kernels, core, first, last, access);
}

static int overlaps(uint32_t first, uint32_t last, uint64_t begin, uint64_t bytes)
{
    return last >= begin && first < begin + bytes;
}

static uint64_t reach(const transfer_t *t)
{
    const uint64_t lines = (t->bytes + t->line - 1) / t->line;
    return (lines - 1) * t->stride + (t->line < t->bytes ? t->line : t->bytes);
}

/* Whether [first, last] meets what a transfer that nobody has waited for writes, or, to be written, what it reads. */
static int races(const sim_t *s, uint32_t first, uint32_t last, int is_write)
{
    for (uint32_t i = 0; i < s->dma.unwaited_count; i++) {
        const transfer_t *t = &s->dma.unwaited[i].transfer;
        const int local = overlaps(first, last, t->local, t->bytes);
        int remote = overlaps(first, last, t->remote, reach(t));
        if (remote && t->stride >= t->line) {
            /* Between the lines of a 2D transfer nothing is touched. */
            const uint32_t begin = first > t->remote ? (first - t->remote) % t->stride : 0;
            remote = begin < t->line || begin + (last - first) >= t->stride;
        }
        if ((local && (t->inwards || is_write)) || (remote && (!t->inwards || is_write)))
            return 1;
    }
    return 0;
}

static int is_memory(uint32_t address)
{
    return address - L1_BASE < L1_SIZE || address - L2_BASE < L2_SIZE || address - WEIGHT_BASE < WEIGHT_SIZE;
}

access_t guard_access(sim_t *s, uint32_t core, uint32_t address, uint32_t size, int is_write)
{
    if (core != FC && address < L1_SIZE)
        address += L1_BASE;
    if (!is_memory(address))
        return ACCESS_DONE;
    const uint32_t last = address + size - 1;
    if (!permitted(s, core, address, last, is_write ? 2 : 1))
        return stop_run(s, SIM_STOP_GUARD, core, address, size, 0, is_write ? SIM_GUARD_WRITE : SIM_GUARD_READ);
    if (s->ranges && s->dma.unwaited_count && races(s, address, last, is_write))
        return stop_run(s, SIM_STOP_GUARD, core, address, size, (uint32_t)is_write, SIM_GUARD_UNWAITED);
    return ACCESS_DONE;
}

access_t guard_transfer(sim_t *s, uint32_t core, const transfer_t *t)
{
    const uint32_t local = t->local < L1_SIZE ? t->local + L1_BASE : t->local;
    if (!permitted(s, core, local, local + t->bytes - 1, t->inwards ? 2 : 1))
        return stop_run(s, SIM_STOP_GUARD, core, local, t->bytes, 0,
                        t->inwards ? SIM_GUARD_DMA_WRITE : SIM_GUARD_DMA_READ);
    for (uint32_t done = 0, at = t->remote; done < t->bytes; done += t->line, at += t->stride) {
        const uint32_t bytes = t->line < t->bytes - done ? t->line : t->bytes - done;
        if (!permitted(s, core, at, at + bytes - 1, t->inwards ? 1 : 2))
            return stop_run(s, SIM_STOP_GUARD, core, at, bytes, 0,
                            t->inwards ? SIM_GUARD_DMA_READ : SIM_GUARD_DMA_WRITE);
    }
    return ACCESS_DONE;
}

static int32_t kernel_at(const sim_t *s, uint32_t pc)
{
    if (!(s->kernel_filter[pc >> 7 & 63] >> (pc >> 1 & 63) & 1))
        return -1;
    for (uint32_t i = 0; i < s->kernels; i++)
        if (s->kernel_entry[i] == pc)
            return (int32_t)i;
    return -1;
}

/* Called before each instruction of a checked run. A kernel begins at its first instruction and ends when the core is
 * back at the return address with the stack that it had. */
void observe(sim_t *s, uint32_t core, uint32_t pc)
{
    core_t *c = &s->core[core];
    while (c->depth && c->call[c->depth - 1].back == pc && c->call[c->depth - 1].stack == c->x[2]) {
        c->depth--;
        if (s->tracing)
            trace_record(s, SIM_TRACE_LEAVE, core, c->call[c->depth].kernel, 0, 0, 0);
    }
    const int32_t kernel = s->kernels ? kernel_at(s, pc) : -1;
    /* A loop may lead back to a function's first instruction. */
    const int again = c->depth && kernel >= 0 && c->call[c->depth - 1].kernel == (uint32_t)kernel &&
                      c->call[c->depth - 1].stack == c->x[2] && c->call[c->depth - 1].back == c->x[1];
    if (kernel >= 0 && !again && c->depth < CALL_DEPTH) {
        c->call[c->depth].kernel = (uint32_t)kernel;
        c->call[c->depth].back = c->x[1];
        c->call[c->depth++].stack = c->x[2];
        if (s->tracing)
            trace_record(s, SIM_TRACE_ENTER, core, (uint32_t)kernel, 0, 0, 0);
    }
    if (s->functions)
        profile_instruction(s, core, pc);
}
