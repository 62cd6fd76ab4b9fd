/* The uDMA's HyperBus channel, the way to L3: two register sets that start transfers, one common register set, one
 * transfer at a time. Register offsets follow the public PULP udma_hyper: 0x80 bytes per set, the common set last. */
#include <string.h>

#include "machine.h"

enum {
    RX_ADDRESS, RX_SIZE, RX_CONFIG, TX_ADDRESS, TX_SIZE, TX_CONFIG, CA_SETUP, HYPER_ADDRESS, HYPER_CONFIG, STATUS,
    TWD_ACTIVE, TWD_COUNT, TWD_STRIDE, TWD_ACTIVE_L2, TWD_COUNT_L2, TWD_STRIDE_L2
};
enum { CONFIG_ENABLE = 1 << 4, CONFIG_CONTINUOUS = 1 << 0, QUEUE = 16, BASE = 0x280, SETS = 2, TRANS_ID_ALLOC = 9 };

static uint64_t duration(const sim_t *s, uint32_t index)
{
    const uint64_t bytes = s->udma.queue[index].bytes;
    const uint64_t rate = s->udma.queue[index].inwards ? s->timing.hyper_in : s->timing.hyper_out;
    return s->timing.hyper_setup + bytes * rate / 1024;
}

static access_t wrong(sim_t *s, uint32_t core, uint32_t detail, uint32_t address, uint32_t bytes)
{
    return stop_run(s, SIM_STOP_DMA, core, address, bytes, 0, detail);
}

/* Details of SIM_STOP_DMA: 11 L3 range, 12 L2 range, 13 options, 14 queue full. */
static access_t enqueue(sim_t *s, uint32_t core, uint32_t set, uint32_t inwards, uint32_t config)
{
    udma_t *u = &s->udma;
    const uint32_t *reg = u->reg[set];
    const uint32_t local = reg[inwards ? RX_ADDRESS : TX_ADDRESS], bytes = reg[inwards ? RX_SIZE : TX_SIZE];
    const uint32_t remote = reg[HYPER_ADDRESS], reads = reg[CA_SETUP] >> 2 & 1;
    uint32_t line = bytes, stride = bytes, stride_local = bytes;
    if (reg[TWD_ACTIVE] & 1) {
        line = reg[TWD_COUNT];
        stride = reg[TWD_STRIDE];
        stride_local = line;
    } else if (reg[TWD_ACTIVE_L2] & 1) {
        line = reg[TWD_COUNT_L2];
        stride = line;
        stride_local = reg[TWD_STRIDE_L2];
    }
    if ((config & CONFIG_CONTINUOUS) || reads != inwards || !bytes || !line || bytes % line || u->common[8] > 0)
        return wrong(s, core, 13, local, bytes);
    if (u->count == QUEUE)
        return wrong(s, core, 14, local, bytes);
    const uint64_t lines = bytes / line;
    const uint64_t reach = (lines - 1) * stride + line, reach_local = (lines - 1) * stride_local + line;
    if (remote >= L3_SIZE || reach > L3_SIZE - remote)
        return wrong(s, core, 11, remote, bytes);
    if (local < L2_BASE || reach_local > L2_SIZE || !memory_at(s, local, (uint32_t)reach_local))
        return wrong(s, core, 12, local, bytes);
    const uint32_t index = (u->head + u->count++) % QUEUE;
    u->queue[index].local = local;
    u->queue[index].remote = remote;
    u->queue[index].bytes = bytes;
    u->queue[index].inwards = inwards;
    u->queue[index].line = line;
    u->queue[index].stride = stride;
    u->queue[index].stride_local = stride_local;
    u->queue[index].id = set;
    u->waiting[set]++;
    if (u->count == 1)
        u->done = s->now + duration(s, index);
    plan_devices(s);
    return ACCESS_DONE;
}

void udma_step(sim_t *s)
{
    udma_t *u = &s->udma;
    if (!u->count || u->done > s->now)
        return;
    const uint32_t index = u->head;
    uint32_t local = u->queue[index].local, remote = u->queue[index].remote;
    for (uint32_t moved = 0; moved < u->queue[index].bytes; moved += u->queue[index].line) {
        uint8_t *near = memory_at(s, local, u->queue[index].line);
        if (u->queue[index].inwards)
            memcpy(near, s->l3 + remote, u->queue[index].line);
        else
            memcpy(s->l3 + remote, near, u->queue[index].line);
        local += u->queue[index].stride_local;
        remote += u->queue[index].stride;
    }
    u->waiting[u->queue[index].id]--;
    u->head = (u->head + 1) % QUEUE;
    u->count--;
    if (u->count)
        u->done = s->now + duration(s, u->head);
}

static access_t unknown(sim_t *s, uint32_t core, uint32_t offset, int is_write)
{
    return stop_run(s, is_write ? SIM_STOP_STORE : SIM_STOP_LOAD, core, 0x1a102000u + offset, 4, 0, 0);
}

access_t udma_load(sim_t *s, uint32_t core, uint32_t offset, uint32_t *value)
{
    udma_t *u = &s->udma;
    if (offset == 0) {
        *value = u->clock_gate;
        return ACCESS_DONE;
    }
    const uint32_t set = (offset - BASE) / 0x80, index = (offset & 0x7f) / 4;
    if (offset < BASE || set > SETS || index >= (set == SETS ? 10 : 16))
        return unknown(s, core, offset, 0);
    if (set == SETS)
        *value = index == TRANS_ID_ALLOC ? (u->waiting[0] ? 1 : 0) : u->common[index];
    else if (index == STATUS)
        *value = (u->waiting[set] ? 1 : 0) | u->waiting[set] << 1;
    else
        *value = u->reg[set][index];
    return ACCESS_DONE;
}

access_t udma_store(sim_t *s, uint32_t core, uint32_t offset, uint32_t value)
{
    udma_t *u = &s->udma;
    if (offset == 0) {
        u->clock_gate = value;
        return ACCESS_DONE;
    }
    const uint32_t set = (offset - BASE) / 0x80, index = (offset & 0x7f) / 4;
    if (offset < BASE || set > SETS || index >= (set == SETS ? 10 : 16))
        return unknown(s, core, offset, 1);
    if (set == SETS) {
        u->common[index] = value;
        return ACCESS_DONE;
    }
    u->reg[set][index] = value;
    if ((index == RX_CONFIG || index == TX_CONFIG) && (value & CONFIG_ENABLE))
        return enqueue(s, core, set, index == RX_CONFIG, value);
    return ACCESS_DONE;
}
