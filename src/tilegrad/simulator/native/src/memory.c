/* The memory map beyond what the execution loop does by itself: L2, weight memory, other views of L1, devices. */
#include <string.h>

#include "machine.h"

uint8_t *memory_at(sim_t *s, uint32_t address, uint32_t bytes)
{
    if (address - L1_BASE < L1_SIZE && bytes <= L1_SIZE - (address - L1_BASE))
        return s->l1 + (address - L1_BASE);
    if (address - L2_BASE < L2_SIZE && bytes <= L2_SIZE - (address - L2_BASE))
        return s->l2 + (address - L2_BASE);
    if (address - WEIGHT_BASE < WEIGHT_SIZE && bytes <= WEIGHT_SIZE - (address - WEIGHT_BASE))
        return s->weight + (address - WEIGHT_BASE);
    return NULL;
}

/* The fabric controller has a slower clock, and with it its timer. */
static uint32_t counter_now(const sim_t *s, const counter_t *counter)
{
    const uint64_t rate = counter == &s->fc_timer ? s->timing.fc_timer : 1024;
    return counter->held + (counter->config & 1 ? (uint32_t)((s->now - counter->from) * rate / 1024) : 0);
}

static access_t counter_access(sim_t *s, uint32_t core, counter_t *counter, uint32_t address, uint32_t *value,
                               int is_write)
{
    switch (address & 0x3f) {
    case 0x00:
        if (!is_write) {
            *value = counter->config;
            return ACCESS_DONE;
        }
        counter->held = *value & 2 ? 0 : counter_now(s, counter);
        counter->from = s->now;
        counter->config = *value & ~2u;
        return ACCESS_DONE;
    case 0x08:
        if (is_write) {
            counter->held = *value;
            counter->from = s->now;
        } else
            *value = counter_now(s, counter);
        return ACCESS_DONE;
    default:
        return stop_run(s, is_write ? SIM_STOP_STORE : SIM_STOP_LOAD, core, address, 4, *value, 0);
    }
}

static access_t cluster_control(sim_t *s, uint32_t core, uint32_t offset, uint32_t *value, int is_write)
{
    if (offset == 0x08) {
        if (!is_write) {
            *value = s->fetch_enable;
            return ACCESS_DONE;
        }
        for (uint32_t i = 0; i < s->workers; i++)
            if (*value >> i & 1 && s->core[i].wait == SIM_WAIT_OFF)
                start_core(s, i, s->boot_address[i]);
        s->fetch_enable = *value;
        return ACCESS_DONE;
    }
    if (offset >= 0x40 && offset < 0x40 + 4 * WORKERS) {
        uint32_t *boot = &s->boot_address[(offset - 0x40) / 4];
        if (is_write)
            *boot = *value;
        else
            *value = *boot;
        return ACCESS_DONE;
    }
    if (offset == 0) /* end of computation: a note to the host */
        return ACCESS_DONE;
    return stop_run(s, is_write ? SIM_STOP_STORE : SIM_STOP_LOAD, core, 0x10200000u + offset, 4, *value, 0);
}

static access_t cluster_device(sim_t *s, uint32_t core, uint32_t address, uint32_t *value, int is_write)
{
    const uint32_t offset = address - 0x10200000u;
    if (offset < 0x400)
        return cluster_control(s, core, offset, value, is_write);
    if (offset < 0x800)
        return counter_access(s, core, &s->cluster_timer, address, value, is_write);
    if (offset < 0x1000)
        return events_bus(s, core, offset - 0x800, value, is_write);
    if (offset >= 0x1400 && offset < 0x1410 && is_write) {
        if (offset == 0x1400)
            s->cache_enabled = *value;
        else
            flush_fetch(s);
        return ACCESS_DONE;
    }
    if (offset >= 0x1800 && offset < 0x1808)
        return is_write ? dma_store(s, FC, offset & 7, *value) : dma_load(s, FC, offset & 7, value);
    return stop_run(s, is_write ? SIM_STOP_STORE : SIM_STOP_LOAD, core, address, 4, *value, 0);
}

static access_t soc_device(sim_t *s, uint32_t core, uint32_t address, uint32_t *value, int is_write)
{
    if (address == 0x1a1040a0u && is_write) {
        if (*value >> 31)
            return stop_run(s, SIM_STOP_EXIT, core, address, 4, *value & 0x7fffffffu, 0);
        return stop_run(s, SIM_STOP_DEVICE, core, address, 4, *value, 3);
    }
    if (address >= 0x1a104000u && address < 0x1a104100u) {
        uint32_t *reg = &s->soc_control[(address - 0x1a104000u) / 4];
        if (is_write)
            *reg = *value;
        else
            *value = *reg;
        return ACCESS_DONE;
    }
    if (address >= 0x1a102000u && address < 0x1a104000u)
        return is_write ? udma_store(s, core, address - 0x1a102000u, *value)
                        : udma_load(s, core, address - 0x1a102000u, value);
    if (address >= 0x1a10b000u && address < 0x1a10b800u)
        return counter_access(s, core, &s->fc_timer, address, value, is_write);
    return stop_run(s, is_write ? SIM_STOP_STORE : SIM_STOP_LOAD, core, address, 4, *value, 0);
}

/* Registers are words; only the print device takes less. */
static access_t device(sim_t *s, uint32_t core, uint32_t address, uint32_t size, uint32_t *value, int is_write,
                       uint32_t *stall)
{
    const int private_view = core != FC && (address - 0x00204000u < 0x800 || address - 0x10204000u < 0x800);
    if (address >= 0x1a10f000u && address < 0x1a110000u && is_write) {
        *stall = core == FC ? s->timing.fc_soc_device : s->timing.soc_device;
        print_byte(s, address >> 7 & 31, address >> 3 & 7, (uint8_t)*value);
        return ACCESS_DONE;
    }
    if (size != 4 || address & 3)
        return stop_run(s, is_write ? SIM_STOP_STORE : SIM_STOP_LOAD, core, address, size, *value, 1);
    if (private_view) {
        const uint32_t offset = address & 0x7ff;
        *stall = 0;
        if (offset < 0x400)
            return is_write ? events_store(s, core, offset, *value) : events_load(s, core, offset, value);
        return is_write ? dma_store(s, core, offset - 0x400, *value) : dma_load(s, core, offset - 0x400, value);
    }
    if (address - 0x00200000u < 0x4000 && core != FC)
        address += L1_BASE;
    if (address - 0x10200000u < 0x4000) {
        *stall = core == FC ? s->timing.fc_cluster : s->timing.cluster_device;
        return cluster_device(s, core, address, value, is_write);
    }
    if (address - 0x1a100000u < 0x100000u) {
        *stall = core == FC ? s->timing.fc_soc_device : s->timing.soc_device;
        return soc_device(s, core, address, value, is_write);
    }
    return stop_run(s, is_write ? SIM_STOP_STORE : SIM_STOP_LOAD, core, address, size, *value, 0);
}

/* Where memory is, with the stall of an access to it; NULL for devices and holes. */
static uint8_t *memory(sim_t *s, uint32_t core, uint32_t address, uint32_t size, uint32_t *stall)
{
    const int crosses = (address & 3) + size > 4;
    const timing_t *t = &s->timing;
    if (core != FC && address < L1_SIZE)
        address += L1_BASE;
    uint8_t *at = memory_at(s, address, size);
    if (!at)
        return NULL;
    uint32_t once;
    if (address - L1_BASE < L1_SIZE) {
        if (core == FC)
            once = t->fc_cluster;
        else {
            once = bank_access(s, address - L1_BASE, s->now);
            if (crosses) {
                const uint32_t again = once + t->misaligned;
                once = again + bank_access(s, address - L1_BASE + 4, s->now + again);
            }
            *stall = once;
            return at;
        }
    } else if (address >= L2_BASE)
        once = core == FC ? t->fc_l2 : t->l2;
    else
        once = core == FC ? t->fc_cluster + t->weight : t->weight;
    *stall = crosses ? 2 * once + t->misaligned : once;
    return at;
}

access_t memory_load(sim_t *s, uint32_t core, uint32_t address, uint32_t size, uint32_t *value, uint32_t *stall)
{
    const uint8_t *at = memory(s, core, address, size, stall);
    *value = 0;
    if (!at)
        return device(s, core, address, size, value, 0, stall);
    memcpy(value, at, size);
    return ACCESS_DONE;
}

access_t memory_store(sim_t *s, uint32_t core, uint32_t address, uint32_t size, uint32_t value, uint32_t *stall)
{
    uint8_t *at = memory(s, core, address, size, stall);
    if (!at)
        return device(s, core, address, size, &value, 1, stall);
    memcpy(at, &value, size);
    return ACCESS_DONE;
}
