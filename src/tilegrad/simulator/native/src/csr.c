/* Control and status registers: float state, identity, counters, hardware loops. */
#include "machine.h"

enum {
    CSR_FFLAGS = 0x001, CSR_FRM = 0x002, CSR_FCSR = 0x003, CSR_MSTATUS = 0x300, CSR_MISA = 0x301, CSR_MTVEC = 0x305,
    CSR_MSCRATCH = 0x340, CSR_LOOP = 0x7b0, CSR_PCCR = 0x780, CSR_PCER = 0xcc0, CSR_PCMR = 0xcc1, CSR_MCYCLE = 0xb00,
    CSR_MINSTRET = 0xb02, CSR_CYCLE = 0xc00, CSR_HIGH = 0x080, CSR_MHARTID = 0xf14
};

/* What performance counter `index` has counted since the core was started. */
static uint64_t event_count(const sim_t *s, uint32_t core, uint32_t index)
{
    const core_t *c = &s->core[core];
    const sim_counters_t *n = &c->count;
    switch (index) {
    case 0: return s->now - c->started - n->sleep;
    case 1: return n->instructions;
    case 2: return n->stalls[SIM_STALL_LOAD_USE];
    case 4: return n->stalls[SIM_STALL_FETCH];
    case 5: return n->loads;
    case 6: return n->stores;
    case 7: return n->jumps;
    case 8: return n->branches;
    case 9: return n->taken;
    case 16: return n->stalls[SIM_STALL_BANK];
    default: return 0;
    }
}

static int counts(const core_t *c, uint32_t index)
{
    return (c->pcmr & 1) && (c->pcer >> index & 1);
}

static void settle_counters(sim_t *s, uint32_t core)
{
    core_t *c = &s->core[core];
    for (uint32_t i = 0; i < 32; i++) {
        const uint64_t count = event_count(s, core, i);
        if (counts(c, i))
            c->pccr[i] += (uint32_t)(count - c->pccr_from[i]);
        c->pccr_from[i] = count;
    }
}

static void update_float_slow(sim_t *s, core_t *c)
{
    c->float_slow = c->rounding != 0 || s->track_flags;
}

static int read_csr(sim_t *s, uint32_t core, uint32_t number, uint32_t *value)
{
    core_t *c = &s->core[core];
    const uint64_t instructions = c->count.instructions;
    settle_counters(s, core);
    if (number - CSR_PCCR < 32) {
        *value = c->pccr[number - CSR_PCCR];
        return 1;
    }
    switch (number) {
    case CSR_FFLAGS: *value = c->flags; return core != FC;
    case CSR_FRM: *value = c->rounding; return core != FC;
    case CSR_FCSR: *value = c->rounding << 5 | c->flags; return core != FC;
    case CSR_MSTATUS: *value = 0x1800u | (core == FC ? 0 : 0x6000u); return 1;
    case CSR_MISA: *value = core == FC ? 0x40001104u : 0x40001124u; return 1;
    case CSR_MTVEC: *value = 0; return 1;
    case CSR_MSCRATCH: *value = c->scratch; return 1;
    case CSR_MHARTID: *value = core == FC ? FC_HART : core; return 1;
    case CSR_PCER: *value = c->pcer; return 1;
    case CSR_PCMR: *value = c->pcmr; return 1;
    case CSR_MCYCLE: case CSR_CYCLE: *value = (uint32_t)event_count(s, core, 0); return 1;
    case CSR_MCYCLE | CSR_HIGH: case CSR_CYCLE | CSR_HIGH: *value = (uint32_t)(event_count(s, core, 0) >> 32); return 1;
    case CSR_MINSTRET: case CSR_CYCLE + 2: *value = (uint32_t)instructions; return 1;
    case CSR_MINSTRET | CSR_HIGH: case (CSR_CYCLE + 2) | CSR_HIGH: *value = (uint32_t)(instructions >> 32); return 1;
    default: break;
    }
    if (number - CSR_LOOP < 8 && (number & 3) != 3) {
        const uint32_t loop = number >> 2 & 1;
        const uint32_t *part[3] = {&c->loop_start[loop], &c->loop_end[loop], &c->loop_count[loop]};
        *value = *part[number & 3];
        return 1;
    }
    return 0;
}

static int write_csr(sim_t *s, uint32_t core, uint32_t number, uint32_t value)
{
    core_t *c = &s->core[core];
    if (number - CSR_PCCR < 32) {
        if (number == CSR_PCCR + 31) /* all of them */
            for (uint32_t i = 0; i < 32; i++)
                c->pccr[i] = value;
        else
            c->pccr[number - CSR_PCCR] = value;
        return 1;
    }
    switch (number) {
    case CSR_FFLAGS: c->flags = value & 31; break;
    case CSR_FRM: c->rounding = value & 7; break;
    case CSR_FCSR:
        c->flags = value & 31;
        c->rounding = value >> 5 & 7;
        break;
    case CSR_MSTATUS: case CSR_MTVEC: return 1; /* no interrupts, no traps: nothing to set up */
    case CSR_MSCRATCH: c->scratch = value; return 1;
    case CSR_PCER: c->pcer = value; return 1;
    case CSR_PCMR: c->pcmr = value; return 1;
    default: return 0;
    }
    update_float_slow(s, c);
    return core != FC;
}

access_t access_csr(sim_t *s, uint32_t core, const decoded_t *e, uint32_t pc)
{
    core_t *c = &s->core[core];
    const uint32_t number = (uint32_t)e->immediate, kind = e->extra & 3;
    const uint32_t operand = e->extra & 4 ? e->rs1 : c->x[e->rs1];
    uint32_t value = 0;
    if ((number == CSR_FFLAGS || number == CSR_FCSR) && !s->track_flags) {
        /* Code that was not part of a segment when the program was loaded. */
        s->track_flags = 1;
        for (uint32_t i = 0; i < CORES; i++)
            update_float_slow(s, &s->core[i]);
    }
    if (!read_csr(s, core, number, &value))
        return stop_run(s, SIM_STOP_ILLEGAL, core, pc, 4, number << 20 | (uint32_t)e->extra << 12 | 0x73, 1);
    const uint32_t updated = kind == 1 ? operand : kind == 2 ? value | operand : value & ~operand;
    if ((kind == 1 || e->rs1) && !write_csr(s, core, number, updated))
        return stop_run(s, SIM_STOP_ILLEGAL, core, pc, 4, number << 20 | (uint32_t)e->extra << 12 | 0x73, 1);
    c->x[e->rd] = value;
    return ACCESS_DONE;
}
