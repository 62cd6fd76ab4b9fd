/* The cluster's DMA controller (MCHAN): commands go from a core's queue to the queue of their direction, and each
 * direction moves up to two words of L1 a cycle, competing with the cores for banks. */
#include <string.h>

#include "machine.h"

enum { LENGTH_MASK = 0x1ffff, BIT_INWARDS = 17, BIT_INCREMENT = 18, BIT_2D = 19, BIT_EVENT = 20, BIT_2D_LOCAL = 23 };

static void push(transfer_queue_t *queue, const transfer_t *transfer)
{
    queue->item[(queue->head + queue->count++) % TRANSFERS] = *transfer;
}

/* Takes the first transfer of a direction out of a queue; 0 where there is none. */
static int take(transfer_queue_t *queue, uint32_t inwards, transfer_t *taken)
{
    for (uint32_t i = 0; i < queue->count; i++) {
        *taken = queue->item[(queue->head + i) % TRANSFERS];
        if (taken->inwards != inwards)
            continue;
        for (uint32_t j = i; j + 1 < queue->count; j++)
            queue->item[(queue->head + j) % TRANSFERS] = queue->item[(queue->head + j + 1) % TRANSFERS];
        queue->count--;
        return 1;
    }
    return 0;
}

static uint32_t channel_of(uint32_t core)
{
    return core == FC ? CHANNELS - 1 : core;
}

static access_t wrong(sim_t *s, uint32_t core, uint32_t detail, uint32_t address, uint32_t bytes)
{
    return stop_run(s, SIM_STOP_DMA, core, address, bytes, 0, detail);
}

/* Details of SIM_STOP_DMA: 1 option, 2 length, 3 L1 range, 4 external range, 5 counter. */
static access_t check(sim_t *s, uint32_t core, uint32_t command, const transfer_t *t)
{
    const uint32_t local = t->local < L1_SIZE ? t->local : t->local - L1_BASE;
    if (!(command >> BIT_INCREMENT & 1) || command >> BIT_2D_LOCAL & 1)
        return wrong(s, core, 1, command, t->bytes);
    if (!t->bytes || !t->line)
        return wrong(s, core, 2, t->local, t->bytes);
    if (local >= L1_SIZE || t->bytes > L1_SIZE - local)
        return wrong(s, core, 3, t->local, t->bytes);
    const uint64_t lines = (t->bytes + t->line - 1) / t->line;
    /* A last line that is cut short counts in full. */
    const uint64_t reach = (lines - 1) * t->stride + (t->line < t->bytes ? t->line : t->bytes);
    if (t->remote < WEIGHT_BASE || reach > UINT32_MAX || !memory_at(s, t->remote, (uint32_t)reach))
        return wrong(s, core, 4, t->remote, (uint32_t)reach);
    return s->checked ? guard_transfer(s, core, t) : ACCESS_DONE;
}

/* Notes a transfer for the guard, in place of the oldest one that somebody has waited for where there is no room. */
static access_t watch(sim_t *s, uint32_t core, const transfer_t *t)
{
    dma_t *dma = &s->dma;
    uint32_t old = 0;
    while (dma->unwaited_count == GUARD_UNWAITED && old < GUARD_UNWAITED && !dma->unwaited[old].known)
        old++;
    if (old == GUARD_UNWAITED)
        return stop_run(s, SIM_STOP_GUARD, core, t->local, t->bytes, GUARD_UNWAITED, SIM_GUARD_TRANSFERS);
    if (dma->unwaited_count == GUARD_UNWAITED) {
        dma->unwaited_count--;
        memmove(&dma->unwaited[old], &dma->unwaited[old + 1], (dma->unwaited_count - old) * sizeof dma->unwaited[0]);
    }
    dma->unwaited[dma->unwaited_count].transfer = *t;
    dma->unwaited[dma->unwaited_count].shown = dma->unwaited[dma->unwaited_count].known = 0;
    dma->unwaited[dma->unwaited_count++].done = 0;
    return ACCESS_DONE;
}

static access_t issue(sim_t *s, uint32_t core)
{
    dma_t *dma = &s->dma;
    channel_t *channel = &dma->channel[channel_of(core)];
    const uint32_t command = channel->word[0], two_d = command >> BIT_2D & 1;
    transfer_t t = {.local = channel->word[1], .remote = channel->word[2], .bytes = command & LENGTH_MASK,
                    .inwards = command >> BIT_INWARDS & 1, .two_d = two_d, .event = command >> BIT_EVENT & 1,
                    .counter = channel->counter, .channel = channel_of(core), .serial = dma->serial++,
                    .pc = pc_of(s, &s->core[core], s->core[core].at), .start = s->now + s->timing.dma_start};
    t.line = two_d ? channel->word[3] : t.bytes;
    t.stride = two_d ? channel->word[4] : t.bytes;
    t.line_address = t.remote;
    channel->words = 0;
    if (!(dma->allocated >> t.counter & 1))
        return wrong(s, core, 5, t.local, t.bytes);
    if (check(s, core, command, &t) == ACCESS_STOP)
        return ACCESS_STOP;
    t.local = L1_BASE + (t.local & (L1_SIZE - 1));
    dma->pending[t.counter] += t.bytes;
    dma->in_flight++;
    push(&channel->waiting, &t);
    if (s->ranges && watch(s, core, &t) == ACCESS_STOP)
        return ACCESS_STOP;
    if (s->tracing)
        trace_record(s, SIM_TRACE_DMA_BEGIN, core, t.local, t.remote, t.bytes,
                     t.inwards | t.two_d << 1 | t.serial << 2);
    if (s->next_device > s->now + 1)
        s->next_device = s->now + 1;
    return ACCESS_DONE;
}

static access_t write_word(sim_t *s, uint32_t core, uint32_t value)
{
    channel_t *channel = &s->dma.channel[channel_of(core)];
    channel->word[channel->words++] = value;
    const uint32_t needed = channel->word[0] >> BIT_2D & 1 ? 5 : 3;
    return channel->words == needed ? issue(s, core) : ACCESS_DONE;
}

static access_t allocate(sim_t *s, uint32_t core, uint32_t *value)
{
    dma_t *dma = &s->dma;
    for (uint32_t counter = 0; counter < 16; counter++)
        if (!(dma->allocated >> counter & 1)) {
            dma->allocated |= 1u << counter;
            dma->channel[channel_of(core)].counter = counter;
            *value = counter;
            return ACCESS_DONE;
        }
    fall_asleep(s, core, SIM_WAIT_DMA_COUNTER);
    return ACCESS_SLEEP;
}

/* The workers that execute anything still. */
static uint32_t running(const sim_t *s)
{
    uint32_t mask = 0;
    for (uint32_t core = 0; core < WORKERS; core++)
        if (s->core[core].wait != SIM_WAIT_OFF && s->core[core].wait != SIM_WAIT_INTERRUPT)
            mask |= 1u << core;
    return mask;
}

/* Forgets transfers that every worker knows to have ended. */
static void forget_known(dma_t *dma, uint32_t workers)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < dma->unwaited_count; i++)
        if (workers & ~dma->unwaited[i].known)
            dma->unwaited[kept++] = dma->unwaited[i];
    dma->unwaited_count = kept;
}

/* A core could see which of these identifiers' transfers have ended. */
static void show(sim_t *s, uint32_t core, uint32_t counters)
{
    dma_t *dma = &s->dma;
    for (uint32_t i = 0; i < dma->unwaited_count; i++)
        if (dma->unwaited[i].done && counters >> dma->unwaited[i].transfer.counter & 1)
            dma->unwaited[i].shown |= 1u << core;
}

/* A core has waited for those of these identifiers' transfers whose end it was shown: it frees the identifiers. A status
 * alone, which shows all identifiers, does not tell which one the program asked for. */
static void settle(sim_t *s, uint32_t core, uint32_t counters)
{
    dma_t *dma = &s->dma;
    if (!dma->unwaited_count)
        return;
    for (uint32_t i = 0; i < dma->unwaited_count; i++)
        if (dma->unwaited[i].shown >> core & counters >> dma->unwaited[i].transfer.counter & 1)
            dma->unwaited[i].known |= 1u << core;
    forget_known(dma, running(s));
}

access_t dma_load(sim_t *s, uint32_t core, uint32_t offset, uint32_t *value)
{
    dma_t *dma = &s->dma;
    if (offset == 0)
        return allocate(s, core, value);
    if (offset != 4)
        return stop_run(s, SIM_STOP_LOAD, core, 0x10204400u + offset, 4, 0, 0);
    uint32_t busy = 0;
    for (uint32_t counter = 0; counter < 16; counter++)
        busy |= (dma->pending[counter] != 0 ? 1u : 0u) << counter;
    show(s, core, ~busy);
    *value = busy | dma->allocated << 16;
    return ACCESS_DONE;
}

access_t dma_store(sim_t *s, uint32_t core, uint32_t offset, uint32_t value)
{
    dma_t *dma = &s->dma;
    if (offset == 0) {
        if (dma->channel[channel_of(core)].waiting.count >= CHANNEL_DEPTH) {
            s->core[core].wait_value = value;
            fall_asleep(s, core, SIM_WAIT_DMA_QUEUE);
            return ACCESS_SLEEP;
        }
        return write_word(s, core, value);
    }
    if (offset != 4)
        return stop_run(s, SIM_STOP_STORE, core, 0x10204400u + offset, 4, value, 0);
    settle(s, core, value);
    dma->allocated &= ~value;
    for (uint32_t other = 0; other < CORES; other++)
        if (s->core[other].wait == SIM_WAIT_DMA_COUNTER && (dma->allocated & 0xffff) != 0xffff) {
            uint32_t counter = 0;
            (void)allocate(s, other, &counter);
            s->core[other].x[s->core[other].wait_register] = counter;
            wake(s, other, s->now + 1);
        }
    return ACCESS_DONE;
}

void dma_woke(sim_t *s, uint32_t core)
{
    for (uint32_t i = 0; i < s->dma.unwaited_count; i++)
        if (s->dma.unwaited[i].done && s->dma.unwaited[i].transfer.channel == core)
            s->dma.unwaited[i].shown |= 1u << core;
}

void dma_told(sim_t *s, uint32_t from, uint32_t to)
{
    dma_t *dma = &s->dma;
    if (!dma->unwaited_count)
        return;
    for (uint32_t i = 0; i < dma->unwaited_count; i++)
        if (dma->unwaited[i].known & from)
            dma->unwaited[i].known |= to;
    forget_known(dma, running(s));
}

static void finish(sim_t *s, const transfer_t *t)
{
    dma_t *dma = &s->dma;
    dma->in_flight--;
    for (uint32_t i = 0; i < dma->unwaited_count; i++)
        if (dma->unwaited[i].transfer.serial == t->serial)
            dma->unwaited[i].done = 1;
    if (s->tracing)
        trace_record(s, SIM_TRACE_DMA_END, t->channel, t->local, t->remote, t->bytes,
                     t->inwards | t->two_d << 1 | t->serial << 2);
    if (!dma->pending[t->counter] && t->event && t->channel < WORKERS)
        events_raise(s, 1u << t->channel, 8);
}

/* Moves at most one word; returns how many cycles its port is busy. */
static uint32_t move_word(sim_t *s, transfer_t *t, uint32_t *line_ended)
{
    const uint32_t local = t->local + t->moved - L1_BASE;
    uint32_t bytes = 4 - (local & 3);
    if (bytes > t->line - t->in_line)
        bytes = t->line - t->in_line;
    if (bytes > t->bytes - t->moved)
        bytes = t->bytes - t->moved;
    uint8_t *near = s->l1 + local, *far = memory_at(s, t->line_address + t->in_line, bytes);
    if (t->inwards)
        memcpy(near, far, bytes), guard_loaded(s, L1_BASE + local, bytes);
    else
        memcpy(far, near, bytes);
    t->moved += bytes;
    t->in_line += bytes;
    s->dma.pending[t->counter] -= bytes;
    *line_ended = t->in_line == t->line;
    if (*line_ended) {
        t->in_line = 0;
        t->line_address += t->stride;
    }
    return bank_access(s, local, s->now) + 1;
}

static void step_direction(sim_t *s, uint32_t inwards)
{
    dma_t *dma = &s->dma;
    transfer_queue_t *queue = &dma->global[inwards];
    for (uint32_t port = 0; port < 2; port++) {
        transfer_t *t = &queue->item[queue->head];
        if (!queue->count || t->start > s->now)
            return;
        if (dma->port_free[inwards][port] > s->now)
            continue;
        uint32_t line_ended;
        dma->port_free[inwards][port] = s->now + move_word(s, t, &line_ended);
        /* a word pair ends with its burst; out of L1 each burst of 256 bytes costs a cycle more */
        const uint32_t burst_ended = line_ended || t->moved == t->bytes || (!inwards && t->in_line % 256 == 0);
        if (burst_ended && !inwards) {
            const uint64_t from = dma->port_free[inwards][port];
            dma->port_free[inwards][0] = dma->port_free[inwards][1] = from + s->timing.dma_line_out;
        } else if (burst_ended && t->two_d && t->line <= 4)
            dma->port_free[inwards][0] = dma->port_free[inwards][1] = dma->port_free[inwards][port];
        if (t->moved == t->bytes) {
            const transfer_t done = *t;
            queue->head = (queue->head + 1) % TRANSFERS;
            queue->count--;
            finish(s, &done);
        }
    }
}

/* One command a cycle from the cores' queues, by turns. */
static void forward(sim_t *s)
{
    dma_t *dma = &s->dma;
    for (uint32_t turn = 0; turn < 2; turn++) {
        const uint32_t inwards = !turn;
        if (dma->global[inwards].count == TRANSFERS)
            continue;
        for (uint32_t i = 0; i < CHANNELS; i++) {
            const uint32_t index = (dma->next_channel + i) % CHANNELS, core = index == CHANNELS - 1 ? FC : index;
            transfer_t t;
            if (!take(&dma->channel[index].waiting, inwards, &t))
                continue;
            push(&dma->global[inwards], &t);
            dma->next_channel = (index + 1) % CHANNELS;
            if (s->core[core].wait == SIM_WAIT_DMA_QUEUE) {
                wake(s, core, s->now + 1);
                (void)write_word(s, core, s->core[core].wait_value); /* a fault is in s->stop */
            }
            return;
        }
    }
}

void dma_step(sim_t *s)
{
    step_direction(s, 1);
    step_direction(s, 0);
    forward(s);
}
