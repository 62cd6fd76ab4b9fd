/* The event unit: what cores sleep for. Its registers appear in each core's private view and, in part, on the bus. */
#include "machine.h"

enum { EVENT_DMA = 8, EVENT_BARRIER = 16, EVENT_MUTEX = 17, EVENT_DISPATCH = 18 };

static access_t unknown(sim_t *s, uint32_t core, uint32_t offset, int is_write)
{
    return stop_run(s, is_write ? SIM_STOP_STORE : SIM_STOP_LOAD, core, 0x10204000u + offset, 4, 0, 0);
}

static uint32_t wanted_event(uint32_t wait)
{
    switch (wait) {
    case SIM_WAIT_BARRIER: return 1u << EVENT_BARRIER;
    case SIM_WAIT_MUTEX: return 1u << EVENT_MUTEX;
    case SIM_WAIT_DISPATCH: return 1u << EVENT_DISPATCH;
    default: return UINT32_MAX;
    }
}

/* Wakes a core whose masked events let it go on. Hardware ends a wait at any masked event, also one that a barrier does
 * not wait for; a program that gets there is wrong, so this stops it. */
static access_t settle(sim_t *s, uint32_t core)
{
    event_unit_t *eu = &s->events;
    core_t *c = &s->core[core];
    const uint32_t active = eu->status[core] & eu->mask[core];
    const int waits = c->wait == SIM_WAIT_EVENT || (c->wait >= SIM_WAIT_BARRIER && c->wait <= SIM_WAIT_DISPATCH);
    if (!waits || !active)
        return ACCESS_DONE;
    if (!(active & wanted_event(c->wait)))
        return stop_run(s, SIM_STOP_DEVICE, core, 0x10204000u, 4, active, 1);
    if (c->wait == SIM_WAIT_EVENT || c->wait == SIM_WAIT_BARRIER)
        c->x[c->wait_register] = active;
    if (active & 1u << EVENT_DMA)
        dma_woke(s, core);
    if (eu->clear[core])
        eu->status[core] &= ~active;
    wake(s, core, s->now + s->timing.wake);
    s->first = 1u << core;
    return ACCESS_DONE;
}

static access_t wait_for_event(sim_t *s, uint32_t core, uint32_t wait, int clear)
{
    s->events.clear[core] = clear;
    fall_asleep(s, core, wait);
    return settle(s, core) == ACCESS_STOP ? ACCESS_STOP : ACCESS_SLEEP;
}

void events_raise(sim_t *s, uint32_t cores, uint32_t event)
{
    for (uint32_t core = 0; core < WORKERS; core++)
        if (cores >> core & 1) {
            s->events.status[core] |= 1u << event;
            (void)settle(s, core); /* a fault is in s->stop */
        }
}

static void check_barrier(sim_t *s, barrier_t *barrier)
{
    if (!barrier->trigger || (barrier->status & barrier->trigger) != barrier->trigger)
        return;
    barrier->status = 0;
    dma_told(s, barrier->trigger, barrier->target);
    events_raise(s, barrier->target, EVENT_BARRIER);
}

static access_t load_barrier(sim_t *s, uint32_t core, uint32_t offset, uint32_t *value)
{
    barrier_t *barrier = &s->events.barrier[offset >> 5 & 15];
    switch (offset & 0x1f) {
    case 0x00: *value = barrier->trigger; return ACCESS_DONE;
    case 0x04: *value = barrier->status; return ACCESS_DONE;
    case 0x0c: *value = barrier->target; return ACCESS_DONE;
    case 0x18: case 0x1c:
        s->events.clear[core] = (offset & 0x1f) == 0x1c;
        fall_asleep(s, core, SIM_WAIT_BARRIER);
        if (settle(s, core) == ACCESS_STOP)
            return ACCESS_STOP;
        barrier->status |= 1u << core;
        check_barrier(s, barrier);
        if (s->core[core].wait != SIM_WAIT_BARRIER)
            s->first = 1u << core; /* whoever comes last is woken last */
        return s->stop.reason ? ACCESS_STOP : ACCESS_SLEEP;
    default: return unknown(s, core, offset, 0);
    }
}

static access_t store_barrier(sim_t *s, uint32_t core, uint32_t offset, uint32_t value)
{
    barrier_t *barrier = &s->events.barrier[offset >> 5 & 15];
    switch (offset & 0x1f) {
    case 0x00: barrier->trigger = value; break;
    case 0x04: barrier->status = value; break;
    case 0x0c:
        if (value && !barrier->trigger) /* nobody is all that it waits for, so it would end at once */
            return stop_run(s, SIM_STOP_DEVICE, core, 0x1020420cu + (offset & ~0x1fu), 4, value, 4);
        barrier->target = value;
        break;
    case 0x10: barrier->status |= value; break;
    case 0x14: barrier->status |= 1u << core; break;
    default: return unknown(s, core, offset, 1);
    }
    check_barrier(s, barrier);
    return s->stop.reason ? ACCESS_STOP : ACCESS_DONE;
}

static access_t load_mutex(sim_t *s, uint32_t core, uint32_t mutex)
{
    event_unit_t *eu = &s->events;
    if (!(eu->mutex_locked >> mutex & 1)) {
        eu->mutex_locked |= 1u << mutex;
        return ACCESS_DONE;
    }
    eu->mutex_waiting[mutex] |= 1u << core;
    return wait_for_event(s, core, SIM_WAIT_MUTEX, 1);
}

/* The lock goes to the waiting core of the lowest number. */
static access_t store_mutex(sim_t *s, uint32_t mutex, uint32_t value)
{
    event_unit_t *eu = &s->events;
    for (uint32_t core = 0; core < WORKERS; core++)
        if (eu->mutex_waiting[mutex] >> core & 1) {
            eu->mutex_waiting[mutex] &= ~(1u << core);
            s->core[core].x[s->core[core].wait_register] = value;
            events_raise(s, 1u << core, EVENT_MUTEX);
            return s->stop.reason ? ACCESS_STOP : ACCESS_DONE;
        }
    eu->mutex_locked &= ~(1u << mutex);
    return ACCESS_DONE;
}

static access_t load_dispatch(sim_t *s, uint32_t core, uint32_t *value)
{
    event_unit_t *eu = &s->events;
    while (eu->dispatch_tail[core] != eu->dispatch_head) {
        const uint32_t index = eu->dispatch_tail[core]++ & 7;
        if (eu->dispatch[index].readers >> core & 1) {
            eu->dispatch[index].readers &= ~(1u << core);
            *value = eu->dispatch[index].value;
            return ACCESS_DONE;
        }
    }
    return wait_for_event(s, core, SIM_WAIT_DISPATCH, 1);
}

static access_t store_dispatch(sim_t *s, uint32_t core, uint32_t value)
{
    event_unit_t *eu = &s->events;
    const uint32_t index = eu->dispatch_head & 7;
    if (eu->dispatch[index].readers)
        return stop_run(s, SIM_STOP_DEVICE, core, 0x10204080u, 4, value, 2);
    eu->dispatch_head++;
    eu->dispatch[index].value = value;
    eu->dispatch[index].readers = eu->team;
    for (uint32_t other = 0; other < WORKERS; other++)
        if (s->core[other].wait == SIM_WAIT_DISPATCH && eu->team >> other & 1) {
            uint32_t taken = 0;
            (void)load_dispatch(s, other, &taken);
            s->core[other].x[s->core[other].wait_register] = taken;
            events_raise(s, 1u << other, EVENT_DISPATCH);
        }
    return s->stop.reason ? ACCESS_STOP : ACCESS_DONE;
}

static access_t load_core(sim_t *s, uint32_t view, uint32_t offset, uint32_t *value)
{
    event_unit_t *eu = &s->events;
    switch (offset) {
    case 0x00: *value = eu->mask[view]; return ACCESS_DONE;
    case 0x1c: *value = eu->status[view]; return ACCESS_DONE;
    case 0x20: *value = eu->status[view] & eu->mask[view]; return ACCESS_DONE;
    default: return unknown(s, view, offset, 0);
    }
}

static access_t store_core(sim_t *s, uint32_t view, uint32_t offset, uint32_t value)
{
    event_unit_t *eu = &s->events;
    switch (offset) {
    case 0x00: eu->mask[view] = value; break;
    case 0x04: eu->mask[view] &= ~value; break;
    case 0x08: eu->mask[view] |= value; break;
    case 0x28: eu->status[view] &= ~value; break;
    default: return unknown(s, view, offset, 1);
    }
    return settle(s, view);
}

access_t events_load(sim_t *s, uint32_t core, uint32_t offset, uint32_t *value)
{
    *value = 0;
    if (offset < 0x38)
        return load_core(s, core, offset, value);
    if (offset == 0x38 || offset == 0x3c)
        return wait_for_event(s, core, SIM_WAIT_EVENT, offset == 0x3c);
    if (offset == 0x80)
        return load_dispatch(s, core, value);
    if (offset == 0x84) {
        *value = s->events.team;
        return ACCESS_DONE;
    }
    if (offset >= 0xc0 && offset < 0xe0)
        return load_mutex(s, core, (offset - 0xc0) / 4);
    if (offset >= 0x200 && offset < 0x400)
        return load_barrier(s, core, offset - 0x200, value);
    return unknown(s, core, offset, 0);
}

access_t events_store(sim_t *s, uint32_t core, uint32_t offset, uint32_t value)
{
    if (offset < 0x38)
        return store_core(s, core, offset, value);
    /* Whom a mutex, a dispatch or an event reaches at last is not followed: everybody. */
    if (offset < 0x200)
        dma_told(s, 1u << core, EVERY_CORE);
    if (offset == 0x80)
        return store_dispatch(s, core, value);
    if (offset == 0x84) {
        s->events.team = value;
        return ACCESS_DONE;
    }
    if (offset >= 0xc0 && offset < 0xe0)
        return store_mutex(s, (offset - 0xc0) / 4, value);
    if (offset >= 0x100 && offset < 0x120) {
        events_raise(s, value, (offset - 0x100) / 4);
        return s->stop.reason ? ACCESS_STOP : ACCESS_DONE;
    }
    if (offset >= 0x200 && offset < 0x400)
        return store_barrier(s, core, offset - 0x200, value);
    return unknown(s, core, offset, 1);
}

/* The registers that the bus shows at 0x10200800: every core's mask and the software events. Barriers are in the private
 * views only: the platform's model ends the run where the bus asks for one. */
access_t events_bus(sim_t *s, uint32_t core, uint32_t offset, uint32_t *value, int is_write)
{
    if (offset < 0x40 * WORKERS && (offset & 0x3f) < 0x38)
        return is_write ? store_core(s, offset / 0x40, offset & 0x3f, *value)
                        : load_core(s, offset / 0x40, offset & 0x3f, value);
    if (is_write && offset >= 0x600 && offset < 0x620) {
        dma_told(s, 1u << core, EVERY_CORE);
        events_raise(s, *value, (offset - 0x600) / 4);
        return s->stop.reason ? ACCESS_STOP : ACCESS_DONE;
    }
    return stop_run(s, is_write ? SIM_STOP_STORE : SIM_STOP_LOAD, core, 0x10200800u + offset, 4, *value, 0);
}
