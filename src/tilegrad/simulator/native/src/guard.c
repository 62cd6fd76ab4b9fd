/* The guard: kernels and their calls, what each may touch, transfers that nobody waited for, contents that died. */
#include <stdlib.h>
#include <string.h>

#include "machine.h"

enum { READ = 1, WRITE = 2, LAST = 4 };

int32_t guard_kernel(const sim_t *s, uint32_t core)
{
    const core_t *c = &s->core[core];
    return c->depth ? (int32_t)c->call[c->depth - 1].kernel : -1;
}

static int allowed(const sim_t *s, uint32_t core, uint32_t begin, uint32_t end, uint32_t first, uint32_t last,
                   uint32_t access)
{
    for (uint32_t i = begin; i < end; i++) {
        const sim_range_t *r = &s->range[i];
        if (first >= r->first && last <= r->last && (r->access & access) == access && r->cores >> core & 1)
            return 1;
    }
    return 0;
}

/* The ranges of a kernel begin with those of all its calls. */
static uint32_t after_every_tile(const sim_t *s, uint32_t kernel)
{
    uint32_t i = s->range_first[kernel];
    while (i < s->range_first[kernel + 1] && s->range[i].tile < 0)
        i++;
    return i;
}

/* 0 not permitted, 1 by what every kernel may touch, 2 by the kernel's own ranges. */
static int permitted(const sim_t *s, uint32_t core, uint32_t first, uint32_t last, uint32_t access)
{
    const core_t *c = &s->core[core];
    if (!c->depth || !s->ranges)
        return 1;
    const uint32_t kernel = c->call[c->depth - 1].kernel;
    if (allowed(s, core, c->call[c->depth - 1].first, c->call[c->depth - 1].last, first, last, access) ||
        allowed(s, core, s->range_first[kernel], after_every_tile(s, kernel), first, last, access))
        return 2;
    return allowed(s, core, s->range_first[s->kernels], s->ranges, first, last, access);
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

/* A transfer of whose end the core does not know, and that writes something of [first, last] or, to be written, reads it;
 * NULL where there is none. */
static const transfer_t *races(const sim_t *s, uint32_t core, uint32_t first, uint32_t last, int is_write)
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
        const int meets = (local && (t->inwards || is_write)) || (remote && (!t->inwards || is_write));
        if (meets && !(s->dma.unwaited[i].known >> core & 1))
            return t;
    }
    return NULL;
}

static access_t unwaited(sim_t *s, uint32_t core, uint32_t address, uint32_t size, int is_write, uint32_t detail,
                         const transfer_t *t)
{
    (void)stop_run(s, SIM_STOP_GUARD, core, address, size, (uint32_t)is_write, detail);
    s->stop.transfer_core = t->channel == CHANNELS - 1 ? FC : t->channel;
    s->stop.transfer_pc = t->pc;
    s->stop.transfer_bytes = t->bytes;
    s->stop.transfer_inwards = t->inwards;
    return ACCESS_STOP;
}

static int is_memory(uint32_t address)
{
    return address - L1_BASE < L1_SIZE || address - L2_BASE < L2_SIZE || address - WEIGHT_BASE < WEIGHT_SIZE;
}

void guard_loaded(sim_t *s, uint32_t address, uint32_t bytes)
{
    if (!s->loaded || !bytes || address - L1_BASE >= L1_SIZE)
        return;
    const uint32_t first = address - L1_BASE;
    for (uint32_t word = first / 4; word <= (first + bytes - 1) / 4; word++)
        s->loaded[word % L1_WORDS] = EVERY_CORE;
}

static int is_loaded(const sim_t *s, uint32_t core, uint32_t first, uint32_t last)
{
    if (first - L1_BASE >= L1_SIZE || last - L1_BASE >= L1_SIZE)
        return 1;
    return s->loaded[(first - L1_BASE) / 4] & s->loaded[(last - L1_BASE) / 4] & 1u << core ? 1 : 0;
}

access_t guard_access(sim_t *s, uint32_t core, uint32_t address, uint32_t size, int is_write)
{
    if (!s->ranges)
        return ACCESS_DONE;
    if (core != FC && address < L1_SIZE)
        address += L1_BASE;
    if (!is_memory(address))
        return ACCESS_DONE;
    const uint32_t last = address + size - 1;
    const int by = permitted(s, core, address, last, is_write ? WRITE : READ);
    if (!by)
        return stop_run(s, SIM_STOP_GUARD, core, address, size, 0, is_write ? SIM_GUARD_WRITE : SIM_GUARD_READ);
    const transfer_t *t = s->dma.unwaited_count ? races(s, core, address, last, is_write) : NULL;
    if (t)
        return unwaited(s, core, address, size, is_write, SIM_GUARD_UNWAITED, t);
    if (is_write)
        guard_loaded(s, address, size);
    else if (by == 2 && !is_loaded(s, core, address, last))
        return stop_run(s, SIM_STOP_GUARD, core, address, size, 0, SIM_GUARD_UNLOADED);
    return ACCESS_DONE;
}

/* One side of a transfer: a line in external memory, or all of it in L1. */
static access_t guard_piece(sim_t *s, uint32_t core, uint32_t first, uint32_t bytes, int is_write)
{
    const uint32_t last = first + bytes - 1;
    if (!permitted(s, core, first, last, is_write ? WRITE : READ))
        return stop_run(s, SIM_STOP_GUARD, core, first, bytes, 0, is_write ? SIM_GUARD_DMA_WRITE : SIM_GUARD_DMA_READ);
    const transfer_t *t = s->dma.unwaited_count ? races(s, core, first, last, is_write) : NULL;
    return t ? unwaited(s, core, first, bytes, is_write, SIM_GUARD_DMA_UNWAITED, t) : ACCESS_DONE;
}

access_t guard_transfer(sim_t *s, uint32_t core, const transfer_t *t)
{
    const uint32_t local = t->local < L1_SIZE ? t->local + L1_BASE : t->local;
    if (!s->ranges)
        return ACCESS_DONE;
    if (guard_piece(s, core, local, t->bytes, t->inwards != 0) == ACCESS_STOP)
        return ACCESS_STOP;
    for (uint32_t done = 0, at = t->remote; done < t->bytes; done += t->line, at += t->stride) {
        const uint32_t bytes = t->line < t->bytes - done ? t->line : t->bytes - done;
        if (guard_piece(s, core, at, bytes, !t->inwards) == ACCESS_STOP)
            return ACCESS_STOP;
    }
    return ACCESS_DONE;
}

static int32_t kernel_at(const sim_t *s, uint32_t pc)
{
    if (!(s->kernel_filter[pc >> 7 & 63] >> (pc >> 1 & 63) & 1))
        return -1;
    for (uint32_t i = 0; i < s->kernels + s->starts; i++)
        if (s->kernel_entry[i] == pc)
            return (int32_t)i;
    return -1;
}

/* What the ranges [begin, end) say to be dead after a call is so for the core that leaves it. */
static void forget_contents(sim_t *s, uint32_t core, uint32_t begin, uint32_t end)
{
    for (uint32_t i = begin; i < end; i++) {
        const sim_range_t *r = &s->range[i];
        if (!(r->access & LAST) || !(r->cores >> core & 1) || r->first - L1_BASE >= L1_SIZE)
            continue;
        /* A word that belongs to the buffer in part may belong to another one too. */
        const uint32_t first = (r->first - L1_BASE + 3) / 4, after = (r->last - L1_BASE + 1) / 4;
        for (uint32_t word = first; word < after && word < L1_WORDS; word++)
            s->loaded[word] &= (uint16_t)~(1u << core);
    }
}

static void leave_kernel(sim_t *s, uint32_t core)
{
    core_t *c = &s->core[core];
    c->depth--;
    const uint32_t kernel = c->call[c->depth].kernel;
    if (s->ranges) {
        forget_contents(s, core, c->call[c->depth].first, c->call[c->depth].last);
        forget_contents(s, core, s->range_first[kernel], after_every_tile(s, kernel));
    }
    if (s->tracing)
        trace_record(s, SIM_TRACE_LEAVE, core, kernel, c->call[c->depth].tile, 0, 0);
}

static void enter_kernel(sim_t *s, uint32_t core, uint32_t kernel)
{
    core_t *c = &s->core[core];
    const uint32_t tile = s->kernel_calls[core * s->kernels + kernel]++;
    uint32_t first = 0, last = 0;
    if (s->ranges) {
        first = after_every_tile(s, kernel);
        while (first < s->range_first[kernel + 1] && (uint32_t)s->range[first].tile != tile)
            first++;
        last = first;
        while (last < s->range_first[kernel + 1] && (uint32_t)s->range[last].tile == tile)
            last++;
    }
    c->call[c->depth].kernel = kernel;
    c->call[c->depth].tile = tile;
    c->call[c->depth].first = first;
    c->call[c->depth].last = last;
    c->call[c->depth].back = c->x[1];
    c->call[c->depth++].stack = c->x[2];
    if (s->tracing)
        trace_record(s, SIM_TRACE_ENTER, core, kernel, tile, 0, 0);
}

/* Called before each instruction of a checked run. A kernel begins at its first instruction and ends when the core is
 * back at the return address with the stack that it had. */
void observe(sim_t *s, uint32_t core, uint32_t pc)
{
    core_t *c = &s->core[core];
    while (c->depth && c->call[c->depth - 1].back == pc && c->call[c->depth - 1].stack == c->x[2])
        leave_kernel(s, core);
    const int32_t kernel = s->kernels ? kernel_at(s, pc) : -1;
    /* A loop may lead back to a function's first instruction. */
    const int again = c->depth && kernel >= 0 && c->call[c->depth - 1].kernel == (uint32_t)kernel &&
                      c->call[c->depth - 1].stack == c->x[2] && c->call[c->depth - 1].back == c->x[1];
    if (kernel >= (int32_t)s->kernels)
        memset(&s->kernel_calls[core * s->kernels], 0, s->kernels * sizeof *s->kernel_calls);
    else if (kernel >= 0 && !again && c->depth < CALL_DEPTH)
        enter_kernel(s, core, (uint32_t)kernel);
    if (s->functions)
        profile_instruction(s, core, pc);
}

int sim_kernels(sim_t *s, const uint32_t *entries, uint32_t count, uint32_t starts)
{
    uint32_t *copy = malloc((count + starts + 1) * sizeof *copy);
    uint32_t *calls = calloc((size_t)count * CORES + 1, sizeof *calls);
    if (!copy || !calls) {
        free(copy);
        free(calls);
        return 0;
    }
    free(s->kernel_entry);
    free(s->kernel_calls);
    s->kernel_entry = copy;
    s->kernel_calls = calls;
    s->kernels = count;
    s->starts = starts;
    s->ranges = 0;
    s->dma.unwaited_count = 0;
    memset(s->kernel_filter, 0, sizeof s->kernel_filter);
    for (uint32_t i = 0; i < count + starts; i++) {
        copy[i] = entries[i];
        s->kernel_filter[entries[i] >> 7 & 63] |= 1ull << (entries[i] >> 1 & 63);
    }
    for (uint32_t i = 0; i < CORES; i++)
        s->core[i].depth = 0;
    choose_run(s);
    return 1;
}

/* Words of L1 that differ from what memory holds at the start have been written. */
static void find_loaded(sim_t *s)
{
    for (uint32_t word = 0; word < L1_WORDS; word++) {
        static const uint8_t unwritten[4] = {UNWRITTEN, UNWRITTEN, UNWRITTEN, UNWRITTEN};
        s->loaded[word] = memcmp(s->l1 + 4 * word, unwritten, 4) ? EVERY_CORE : 0;
    }
}

int sim_guard(sim_t *s, const sim_range_t *ranges, uint32_t count)
{
    sim_range_t *copy = malloc((count + 1) * sizeof *copy);
    uint32_t *first = calloc(s->kernels + 2, sizeof *first);
    uint16_t *loaded = s->loaded ? s->loaded : malloc(L1_WORDS * sizeof *loaded);
    s->loaded = loaded;
    if (!copy || !first || !loaded) {
        free(copy);
        free(first);
        return 0;
    }
    memcpy(copy, ranges, count * sizeof *copy);
    for (uint32_t i = 0; i < count; i++)
        first[copy[i].kernel < 0 ? s->kernels + 1 : (uint32_t)copy[i].kernel + 1]++;
    for (uint32_t i = 0; i <= s->kernels; i++)
        first[i + 1] += first[i];
    free(s->range);
    free(s->range_first);
    s->range = copy;
    s->range_first = first;
    s->ranges = count;
    find_loaded(s);
    choose_run(s);
    return 1;
}
