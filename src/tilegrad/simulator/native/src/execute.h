/* The execution loop, included once for fast runs and once for checked ones: define RUN, its name, and CHECKED first.
 *
 * Time is a wheel of cycles, each with a mask of the cores whose next instruction runs in it; an instruction leaves its
 * core in the slot of the cycle at which the next may begin. Of the cores of one cycle, the one that was woken last comes
 * first, then the others from the highest number down: the order in which the platform's model runs them, and in which
 * they get banks and units. */

#include <math.h>
#include <string.h>

#include "float.h"
#include "machine.h"

static inline float as_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t as_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return LIKELY(value == value) ? bits : FLOAT_NAN;
}

/* What follows the last instruction of a hardware loop. */
static decoded_t *after_loop(sim_t *s, core_t *c)
{
    const uint32_t pc = pc_of(s, c, c->last_origin);
    for (uint32_t loop = 0; loop < 2; loop++)
        if (c->loop_count[loop] && c->loop_end[loop] == pc && --c->loop_count[loop])
            return entry_of(s, c->loop_start[loop]);
    return c->last_origin + c->last_origin->size;
}

static int ends_loop(const core_t *c, uint32_t pc)
{
    return (c->loop_count[0] && c->loop_end[0] == pc) || (c->loop_count[1] && c->loop_end[1] == pc);
}

/* 0 where a loop cannot be: its ends must hold code. */
static int set_loop(sim_t *s, core_t *c, uint32_t loop, const uint32_t *start, const uint32_t *end)
{
    if (start) {
        if (!entry_of(s, *start))
            return 0;
        c->loop_start[loop] = *start;
    }
    if (end) {
        decoded_t *at = entry_of(s, *end);
        if (!at)
            return 0;
        if (at->operation == OP_UNDECODED)
            decode_at(s, at, *end);
        patch(at, OP_LOOP_END);
        c->loop_end[loop] = *end;
    }
    return 1;
}

static uint32_t divide(enum operation operation, uint32_t a, uint32_t b)
{
    const int32_t x = (int32_t)a, y = (int32_t)b;
    const int overflow = a == 0x80000000u && b == 0xffffffffu;
    switch (operation) {
    case OP_DIV: return b == 0 ? UINT32_MAX : overflow ? a : (uint32_t)(x / y);
    case OP_DIVU: return b == 0 ? UINT32_MAX : a / b;
    case OP_REM: return b == 0 ? a : overflow ? 0 : (uint32_t)(x % y);
    default: return b == 0 ? a : a % b;
    }
}

static uint32_t divide_cycles(const sim_t *s, enum operation operation, uint32_t b)
{
    if (!b)
        return 1;
    const int is_signed = operation == OP_DIV || operation == OP_REM;
    const uint32_t magnitude = is_signed && (int32_t)b < 0 ? 0 - b : b;
    return s->timing.divide_least + (uint32_t)__builtin_clz(magnitude);
}

static uint32_t clip(uint32_t value, int32_t low, int32_t high)
{
    const int32_t x = (int32_t)value;
    return (uint32_t)(x < low ? low : x > high ? high : x);
}

/* The cycles that a float instruction waits for its unit, which several cores share, and for what was just loaded. */
static inline uint32_t float_unit(sim_t *s, core_t *c, uint32_t core, uint64_t now)
{
    uint64_t *free = &s->float_free[core % FLOAT_UNITS];
    uint32_t stall = 0;
    if (*free > now) {
        stall = (uint32_t)(*free - now);
        c->count.stalls[SIM_STALL_FPU] += stall;
        *free += 1;
    } else
        *free = now + 1;
    if (c->operand > now + stall) {
        c->count.stalls[SIM_STALL_LOAD_USE] += c->operand - now - stall;
        stall = (uint32_t)(c->operand - now);
    }
    return stall;
}

/* A float instruction that is still being fetched keeps its unit from other cores: the platform books the unit for the
 * cycle in which the instruction will begin, and what comes later queues behind it. */
static void claim_float_unit(sim_t *s, decoded_t *d, uint32_t pc, uint32_t core, uint64_t until)
{
    if (d->operation == OP_UNDECODED && entry_of(s, pc))
        decode_at(s, d, pc);
    const int uses_unit = d->operation >= OP_FMADD && d->operation <= OP_FCVT_S_WU &&
                          d->operation != OP_FDIV && d->operation != OP_FSQRT;
    uint64_t *free = &s->float_free[core % FLOAT_UNITS];
    if (uses_unit && *free < until)
        *free = until;
}

static inline uint32_t divider(sim_t *s, core_t *c, uint64_t now)
{
    const uint32_t duration = s->timing.float_divide;
    uint32_t stall = 0;
    if (s->divider_free > now) {
        stall = (uint32_t)(s->divider_free - now);
        s->divider_free += duration;
    } else
        s->divider_free = now + duration;
    if (c->operand > now + stall)
        stall = (uint32_t)(c->operand - now);
    stall += duration - 1;
    c->count.stalls[SIM_STALL_DIVIDER] += stall;
    return stall;
}

void RUN(sim_t *s, uint64_t until)
{
    static const void *const labels[OPERATION_COUNT] = {
#define X(name) &&label_##name,
        OPERATIONS(X)
#undef X
    };
    uint64_t now = s->now;
    uint32_t m = 0, i = 0, stall = 0, value = 0, address = 0, size = 0;
    core_t *c = &s->core[0];
    decoded_t *d = NULL;
    access_t access;
    uint8_t *const l1 = s->l1;

#if CHECKED
#define OBSERVE()                                   \
    do {                                            \
        if (d->operation != OP_BREAKPOINT || c->broke == d) \
            observe(s, i, pc_of(s, c, d));          \
    } while (0)
#define GUARD(bytes, is_write)                                                   \
    do {                                                                         \
        if (UNLIKELY(guard_access(s, i, address, bytes, is_write) == ACCESS_STOP)) \
            goto stopped;                                                        \
    } while (0)
#else
#define OBSERVE() (void)0
#define GUARD(bytes, is_write) (void)0
#endif

#define RUN_CORE()                               \
    do {                                         \
        i = 31 - (uint32_t)__builtin_clz(m & s->first ? s->first : m); \
        m &= ~(1u << i);                         \
        c = &s->core[i];                         \
        d = c->at;                               \
        if (UNLIKELY(line_of(d) != c->line))     \
            goto fetch;                          \
        c->count.instructions++;                 \
        OBSERVE();                               \
        goto *labels[d->operation];              \
    } while (0)
/* Ends an instruction: the core's next one may begin `cycles` later. */
#define END(cycles)                                                   \
    do {                                                              \
        s->wheel[(now + (cycles)) % WHEEL] |= (uint16_t)(1u << i);    \
        if (m)                                                        \
            RUN_CORE();                                               \
        goto next_cycle;                                              \
    } while (0)
#define NEXT(cycles)           \
    do {                       \
        c->at = d + d->size;   \
        END(cycles);           \
    } while (0)
/* Where the number of cycles may go beyond the wheel. */
#define NEXT_FAR(cycles)                   \
    do {                                   \
        c->at = d + d->size;               \
        schedule(s, i, now + (cycles));    \
        if (m)                             \
            RUN_CORE();                    \
        goto next_cycle;                   \
    } while (0)
#define COMPUTE(name, expression)        \
    label_##name:                        \
    {                                    \
        const uint32_t a = c->x[d->rs1]; \
        c->x[d->rd] = (expression);      \
        NEXT(1);                         \
    }
#define COMPUTE2(name, expression)                               \
    label_##name:                                                \
    {                                                            \
        const uint32_t a = c->x[d->rs1], b = c->x[d->rs2];       \
        c->x[d->rd] = (expression);                              \
        NEXT(1);                                                 \
    }
#define BRANCH(name, condition)                                                             \
    label_##name:                                                                           \
    {                                                                                       \
        const uint32_t a = c->x[d->rs1], b = c->x[d->rs2];                                  \
        (void)b;                                                                            \
        c->count.branches++;                                                                \
        if (condition) {                                                                    \
            c->count.taken++;                                                               \
            c->count.stalls[SIM_STALL_CONTROL] += s->timing.taken_branch;                   \
            c->at = d + d->immediate;                                                       \
            END(1 + s->timing.taken_branch);                                                \
        }                                                                                   \
        NEXT(1);                                                                            \
    }
/* Loads: `where` computes the address, `after` what else the instruction does once it is done. */
#define LOAD(name, type, where, after)                                                      \
    label_##name:                                                                           \
    {                                                                                       \
        address = (where);                                                                  \
        size = sizeof(type);                                                                \
        GUARD(size, 0);                                                                     \
        const uint32_t offset = address - c->near_base;                                     \
        if (LIKELY(offset < c->near_size && (offset & 3) + sizeof(type) <= 4)) {            \
            type loaded;                                                                    \
            memcpy(&loaded, l1 + offset, sizeof loaded);                                    \
            stall = bank_access(s, offset, now);                                            \
            c->count.loads++;                                                               \
            c->count.stalls[SIM_STALL_BANK] += stall;                                       \
            after;                                                                          \
            c->x[d->rd] = (uint32_t)(int32_t)loaded;                                        \
            stall += 1;                                                                     \
        } else {                                                                            \
            access = ACCESS_DONE;                                                           \
            c->wait_register = d->rd;                                                       \
            access = memory_load(s, i, address, size, &value, &stall);                      \
            if (access == ACCESS_STOP)                                                      \
                goto stopped;                                                               \
            c->count.loads++;                                                               \
            after;                                                                          \
            if (access == ACCESS_SLEEP)                                                     \
                goto asleep;                                                                \
            c->x[d->rd] = (uint32_t)(int32_t)(type)value;                                   \
            c->count.stalls[SIM_STALL_MEMORY] += stall;                                     \
            stall += 1;                                                                     \
        }                                                                                   \
        if (d->stall == 1) {                                                                \
            stall += s->timing.load_use;                                                    \
            c->count.stalls[SIM_STALL_LOAD_USE] += s->timing.load_use;                      \
        } else if (d->stall == 2)                                                           \
            c->operand = now + stall + s->timing.load_use;                                  \
        NEXT(stall);                                                                        \
    }
#define STORE(name, bytes, where, after)                                                    \
    label_##name:                                                                           \
    {                                                                                       \
        address = (where);                                                                  \
        GUARD(bytes, 1);                                                                    \
        const uint32_t offset = address - c->near_base, stored = c->x[d->rs2];              \
        c->count.stores++;                                                                  \
        if (LIKELY(offset < c->near_size && (offset & 3) + bytes <= 4)) {                   \
            memcpy(l1 + offset, &stored, bytes);                                            \
            stall = bank_access(s, offset, now);                                            \
            c->count.stalls[SIM_STALL_BANK] += stall;                                       \
        } else {                                                                            \
            access = memory_store(s, i, address, bytes, stored, &stall);                    \
            if (access == ACCESS_STOP)                                                      \
                goto stopped;                                                               \
            if (access == ACCESS_SLEEP)                                                     \
                goto asleep;                                                                \
            c->count.stalls[SIM_STALL_MEMORY] += stall;                                     \
        }                                                                                   \
        after;                                                                              \
        NEXT(1 + stall);                                                                    \
    }
#define LOADS(suffix, where, after)              \
    LOAD(LB##suffix, int8_t, where, after)       \
    LOAD(LH##suffix, int16_t, where, after)      \
    LOAD(LW##suffix, uint32_t, where, after)     \
    LOAD(LBU##suffix, uint8_t, where, after)     \
    LOAD(LHU##suffix, uint16_t, where, after)
#define STORES(suffix, where, after)     \
    STORE(SB##suffix, 1, where, after)   \
    STORE(SH##suffix, 2, where, after)   \
    STORE(SW##suffix, 4, where, after)
/* Arithmetic in the default rounding mode; anything else goes the exact way. */
#define FLOAT(name, counter, expression)                                                              \
    label_##name:                                                                                     \
    {                                                                                                 \
        if (UNLIKELY(i == FC))                                                                        \
            goto float_on_fc;                                                                         \
        if (UNLIKELY(c->float_slow))                                                                  \
            goto label_FLOAT_SLOW;                                                                    \
        const float a = as_float(c->f[d->rs1]), b = as_float(c->f[d->rs2]), x = as_float(c->f[d->rs3]); \
        (void)b;                                                                                      \
        (void)x;                                                                                      \
        c->f[d->rd] = as_bits(expression);                                                            \
        c->count.counter++;                                                                           \
        stall = float_unit(s, c, i, now);                                                             \
        NEXT(1 + stall);                                                                              \
    }
#define FLOAT_BITS(name, destination, expression)                                  \
    label_##name:                                                                  \
    {                                                                              \
        if (UNLIKELY(i == FC))                                                     \
            goto float_on_fc;                                                      \
        const uint32_t a = c->f[d->rs1], b = c->f[d->rs2];                         \
        (void)b;                                                                   \
        c->destination[d->rd] = (expression);                                      \
        c->count.floats++;                                                         \
        stall = float_unit(s, c, i, now);                                          \
        NEXT(1 + stall);                                                           \
    }
#define PRODUCT(name, cycles, expression)                        \
    label_##name:                                                \
    {                                                            \
        const uint32_t a = c->x[d->rs1], b = c->x[d->rs2];       \
        c->x[d->rd] = (expression);                              \
        stall = (cycles) + (d->stall ? s->timing.multiply_use : 0); \
        c->count.stalls[SIM_STALL_MULTIPLY] += stall;            \
        NEXT(1 + stall);                                         \
    }
#define DIVISION(name)                                           \
    label_##name:                                                \
    {                                                            \
        const uint32_t a = c->x[d->rs1], b = c->x[d->rs2];       \
        c->x[d->rd] = divide(OP_##name, a, b);                   \
        stall = divide_cycles(s, OP_##name, b);                  \
        c->count.stalls[SIM_STALL_MULTIPLY] += stall - 1;        \
        NEXT(stall);                                             \
    }
#define LOOP(name, start, end, count)                                                                        \
    label_##name:                                                                                            \
    {                                                                                                        \
        const uint32_t pc = pc_of(s, c, d), near = pc + (uint32_t)d->immediate * 2, loop = d->rd;            \
        const uint32_t behind = pc + d->size * 2u, tail = pc + d->extra * 2u;                                \
        (void)near, (void)behind, (void)tail;                                                                \
        if (!set_loop(s, c, loop, start, end))                                                               \
            goto label_ILLEGAL;                                                                              \
        count;                                                                                               \
        NEXT(1);                                                                                             \
    }

    goto cycle;

next_cycle:
    now++;
cycle:
    s->now = now;
    if (UNLIKELY(s->stop.reason))
        return;
    if (UNLIKELY(now >= s->next_device)) {
        if (s->dma.in_flight)
            dma_step(s);
        udma_step(s);
        plan_devices(s);
        if (s->stop.reason)
            return;
    }
    if (UNLIKELY(now >= until)) {
        s->stop.reason = SIM_STOP_BUDGET;
        s->stop.cycle = now;
        return;
    }
    m = s->wheel[now % WHEEL];
    if (!m) {
        if (LIKELY(s->awake))
            goto next_cycle;
        if (s->next_device == NEVER) {
            (void)stop_run(s, SIM_STOP_DEADLOCK, 0, 0, 0, 0, 0);
            return;
        }
        now = s->next_device < until ? s->next_device : until;
        goto cycle;
    }
    s->wheel[now % WHEEL] = 0;
    if (UNLIKELY(m & s->far)) {
        const uint32_t far = m & s->far;
        s->far &= ~far;
        for (i = 0; i < CORES; i++)
            if (far >> i & 1 && s->core[i].far_until > now) {
                m &= ~(1u << i);
                schedule(s, i, s->core[i].far_until);
            }
    }
    RUN_CORE();

fetch:
    if (d == &c->last[1]) {
        d = c->at = after_loop(s, c);
        if (line_of(d) == c->line)
            goto fetched;
    }
    stall = 0;
    if (line_of(d) != line_of(d - 1) && c->line != line_of(d - 1))
        stall = fetch_line(s, i, pc_of(s, c, d));
    stall += fetch_line(s, i, pc_of(s, c, d) + 2);
    c->line = line_of(d);
    if (stall) {
        claim_float_unit(s, d, pc_of(s, c, d), i, now + stall);
        END(stall);
    }
fetched:
    c->count.instructions++;
    OBSERVE();
    goto *labels[d->operation];

asleep: /* the instruction is done, its core sleeps until an event schedules it */
    c->at = d + d->size;
    if (m)
        RUN_CORE();
    goto next_cycle;

float_on_fc:
    (void)stop_run(s, SIM_STOP_FLOAT, i, pc_of(s, c, d), 4, 0, 0);
stopped: /* the core stays at its instruction; what else would have run in this cycle still will */
    c->count.instructions--;
    s->wheel[now % WHEEL] |= (uint16_t)(m | 1u << i);
    return;

label_UNDECODED:
    address = pc_of(s, c, d);
    if (UNLIKELY(!entry_of(s, address))) {
        (void)stop_run(s, SIM_STOP_FETCH, i, address, 4, 0, 0);
        goto stopped;
    }
    decode_at(s, d, address);
    goto *labels[d->operation];

label_ILLEGAL:
    (void)stop_run(s, SIM_STOP_ILLEGAL, i, pc_of(s, c, d), d->size * 2u, (uint32_t)d->immediate, 0);
    goto stopped;

label_TRAP:
    (void)stop_run(s, SIM_STOP_TRAP, i, pc_of(s, c, d), d->size * 2u, (uint32_t)d->immediate, 0);
    goto stopped;

label_BREAKPOINT:
    if (c->broke == d) {
        c->broke = NULL;
        goto *labels[d->hidden];
    }
    c->broke = d;
    (void)stop_run(s, SIM_STOP_BREAKPOINT, i, pc_of(s, c, d), 0, 0, 0);
    goto stopped;

label_LOOP_END:
    if (!ends_loop(c, pc_of(s, c, d)))
        goto *labels[d->hidden];
    if ((d->hidden >= OP_JAL && d->hidden <= OP_BNE_IMM) ||
        (d->hidden >= OP_LOOP_START && d->hidden <= OP_LOOP_SETUP_IMM)) {
        (void)stop_run(s, SIM_STOP_ILLEGAL, i, pc_of(s, c, d), d->size * 2u, 0, 2);
        goto stopped;
    }
    c->last_origin = d;
    c->last[0] = *d;
    c->last[0].operation = d->hidden;
    c->last[0].size = 1;
    d = c->at = &c->last[0];
    goto *labels[d->operation];

label_CONSTANT:
    c->x[d->rd] = (uint32_t)d->immediate;
    NEXT(1);
label_JAL:
    c->count.jumps++;
    c->count.stalls[SIM_STALL_CONTROL] += s->timing.jump;
    c->x[d->rd] = pc_of(s, c, d) + d->size * 2u;
    c->at = d + d->immediate;
    END(1 + s->timing.jump);
label_JALR: {
    const uint32_t target = (c->x[d->rs1] + (uint32_t)d->immediate) & ~1u;
    decoded_t *to = entry_of(s, target);
    if (UNLIKELY(!to)) {
        (void)stop_run(s, SIM_STOP_FETCH, i, target, 4, 0, 0);
        goto stopped;
    }
    c->count.jumps++;
    c->count.stalls[SIM_STALL_CONTROL] += s->timing.jump;
    c->x[d->rd] = pc_of(s, c, d) + d->size * 2u;
    c->at = to;
    END(1 + s->timing.jump);
}
    BRANCH(BEQ, a == b)
    BRANCH(BNE, a != b)
    BRANCH(BLT, (int32_t)a < (int32_t)b)
    BRANCH(BGE, (int32_t)a >= (int32_t)b)
    BRANCH(BLTU, a < b)
    BRANCH(BGEU, a >= b)
    BRANCH(BEQ_IMM, a == (uint32_t)(int16_t)d->extra)
    BRANCH(BNE_IMM, a != (uint32_t)(int16_t)d->extra)

    LOADS(, c->x[d->rs1] + (uint32_t)d->immediate, (void)0)
    LOADS(_POST, c->x[d->rs1], c->x[d->rs1] += (uint32_t)d->immediate)
    LOADS(_REG, c->x[d->rs1] + c->x[d->rs2], (void)0)
    LOADS(_REG_POST, c->x[d->rs1], c->x[d->rs1] += c->x[d->rs2])
    LOAD(ELW, uint32_t, c->x[d->rs1] + (uint32_t)d->immediate, (void)0)
    STORES(, c->x[d->rs1] + (uint32_t)d->immediate, (void)0)
    STORES(_POST, c->x[d->rs1], c->x[d->rs1] += (uint32_t)d->immediate)
    STORES(_REG, c->x[d->rs1] + c->x[d->rs3], (void)0)
    STORES(_REG_POST, c->x[d->rs1], c->x[d->rs1] += c->x[d->rs3])

label_FLW: {
    if (UNLIKELY(i == FC))
        goto float_on_fc;
    address = c->x[d->rs1] + (uint32_t)d->immediate;
    GUARD(4, 0);
    const uint32_t offset = address - c->near_base;
    if (LIKELY(offset < c->near_size && !(offset & 3))) {
        memcpy(&c->f[d->rd], l1 + offset, 4);
        stall = bank_access(s, offset, now);
        c->count.stalls[SIM_STALL_BANK] += stall;
    } else {
        c->wait_register = REGISTER_SINK;
        access = memory_load(s, i, address, 4, &value, &stall);
        if (access == ACCESS_SLEEP)
            (void)stop_run(s, SIM_STOP_LOAD, i, address, 4, 0, 2);
        if (access != ACCESS_DONE)
            goto stopped;
        c->f[d->rd] = value;
        c->count.stalls[SIM_STALL_MEMORY] += stall;
    }
    c->count.loads++;
    stall += 1;
    if (d->stall == 2)
        c->operand = now + stall + s->timing.load_use;
    else if (d->stall == 1) {
        stall += s->timing.load_use;
        c->count.stalls[SIM_STALL_LOAD_USE] += s->timing.load_use;
    }
    NEXT(stall);
}
label_FSW: {
    if (UNLIKELY(i == FC))
        goto float_on_fc;
    address = c->x[d->rs1] + (uint32_t)d->immediate;
    GUARD(4, 1);
    const uint32_t offset = address - c->near_base;
    c->count.stores++;
    if (LIKELY(offset < c->near_size && !(offset & 3))) {
        memcpy(l1 + offset, &c->f[d->rs2], 4);
        stall = bank_access(s, offset, now);
        c->count.stalls[SIM_STALL_BANK] += stall;
    } else {
        access = memory_store(s, i, address, 4, c->f[d->rs2], &stall);
        if (access == ACCESS_STOP)
            goto stopped;
        if (access == ACCESS_SLEEP)
            goto asleep;
        c->count.stalls[SIM_STALL_MEMORY] += stall;
    }
    NEXT(1 + stall);
}

    COMPUTE(ADDI, a + (uint32_t)d->immediate)
label_ADDI_STACK:
    c->x[2] += (uint32_t)d->immediate;
    if (UNLIKELY(c->x[2] < c->stack_lowest)) {
        (void)stop_run(s, SIM_STOP_STACK, i, c->x[2], 0, c->stack_lowest, 0);
        goto stopped;
    }
    NEXT(1);
    COMPUTE(SLTI, (int32_t)a < d->immediate)
    COMPUTE(SLTIU, a < (uint32_t)d->immediate)
    COMPUTE(XORI, a ^ (uint32_t)d->immediate)
    COMPUTE(ORI, a | (uint32_t)d->immediate)
    COMPUTE(ANDI, a & (uint32_t)d->immediate)
    COMPUTE(SLLI, a << d->immediate)
    COMPUTE(SRLI, a >> d->immediate)
    COMPUTE(SRAI, (uint32_t)((int32_t)a >> d->immediate))
    COMPUTE2(ADD, a + b)
    COMPUTE2(SUB, a - b)
    COMPUTE2(SLL, a << (b & 31))
    COMPUTE2(SLT, (int32_t)a < (int32_t)b)
    COMPUTE2(SLTU, a < b)
    COMPUTE2(XOR, a ^ b)
    COMPUTE2(SRL, a >> (b & 31))
    COMPUTE2(SRA, (uint32_t)((int32_t)a >> (b & 31)))
    COMPUTE2(OR, a | b)
    COMPUTE2(AND, a & b)
    PRODUCT(MUL, s->timing.multiply, a * b)
    PRODUCT(MULH, s->timing.multiply_high, (uint32_t)((uint64_t)((int64_t)(int32_t)a * (int32_t)b) >> 32))
    PRODUCT(MULHSU, s->timing.multiply_high, (uint32_t)((uint64_t)((int64_t)(int32_t)a * (int64_t)b) >> 32))
    PRODUCT(MULHU, s->timing.multiply_high, (uint32_t)((uint64_t)a * b >> 32))
    DIVISION(DIV)
    DIVISION(DIVU)
    DIVISION(REM)
    DIVISION(REMU)

label_FENCE:
    NEXT(1);
label_FENCE_I:
    c->at = d + d->size;
    forget_code(s, 0, UINT32_MAX);
    flush_fetch(s);
    END(1);
label_WFI:
    fall_asleep(s, i, SIM_WAIT_INTERRUPT);
    goto asleep;
label_CSR:
    if (access_csr(s, i, d, pc_of(s, c, d)) == ACCESS_STOP)
        goto stopped;
    NEXT(1);

    FLOAT(FMADD, multiply_adds, __builtin_fmaf(a, b, x))
    FLOAT(FMSUB, multiply_adds, __builtin_fmaf(a, b, -x))
    FLOAT(FNMSUB, multiply_adds, __builtin_fmaf(-a, b, x))
    FLOAT(FNMADD, multiply_adds, __builtin_fmaf(-a, b, -x))
    FLOAT(FADD, floats, a + b)
    FLOAT(FSUB, floats, a - b)
    FLOAT(FMUL, floats, a * b)
label_FDIV:
    if (UNLIKELY(i == FC))
        goto float_on_fc;
    if (UNLIKELY(c->float_slow))
        goto label_FLOAT_SLOW;
    c->f[d->rd] = as_bits(as_float(c->f[d->rs1]) / as_float(c->f[d->rs2]));
    c->count.floats++;
    stall = divider(s, c, now);
    NEXT_FAR(1 + stall);
label_FSQRT:
    if (UNLIKELY(i == FC))
        goto float_on_fc;
    if (UNLIKELY(c->float_slow))
        goto label_FLOAT_SLOW;
    c->f[d->rd] = as_bits(sqrtf(as_float(c->f[d->rs1])));
    c->count.floats++;
    stall = divider(s, c, now);
    NEXT_FAR(1 + stall);
label_FLOAT_SLOW: {
    if (UNLIKELY(i == FC))
        goto float_on_fc;
    const uint32_t operation = d->extra >> 8, coded = d->extra & 7, mode = coded == 7 ? c->rounding : coded;
    if (mode > ROUND_NEAREST_AWAY)
        goto label_ILLEGAL;
    const int from_integer = operation == OP_FCVT_S_W || operation == OP_FCVT_S_WU;
    const int to_integer = operation == OP_FCVT_W || operation == OP_FCVT_WU;
    const uint32_t a = from_integer ? c->x[d->rs1] : c->f[d->rs1];
    value = float_operate(operation, mode, a, c->f[d->rs2], c->f[d->rs3], &c->flags);
    *(to_integer ? &c->x[d->rd] : &c->f[d->rd]) = value;
    if (operation <= OP_FNMADD)
        c->count.multiply_adds++;
    else
        c->count.floats++;
    stall = operation == OP_FDIV || operation == OP_FSQRT ? divider(s, c, now) : float_unit(s, c, i, now);
    NEXT_FAR(1 + stall);
}
    FLOAT_BITS(FSGNJ, f, (a & 0x7fffffffu) | (b & 0x80000000u))
    FLOAT_BITS(FSGNJN, f, (a & 0x7fffffffu) | (~b & 0x80000000u))
    FLOAT_BITS(FSGNJX, f, a ^ (b & 0x80000000u))
    FLOAT_BITS(FMIN, f, float_minmax(0, a, b, &c->flags))
    FLOAT_BITS(FMAX, f, float_minmax(1, a, b, &c->flags))
    FLOAT_BITS(FEQ, x, float_compare(OP_FEQ, a, b, &c->flags))
    FLOAT_BITS(FLT, x, float_compare(OP_FLT, a, b, &c->flags))
    FLOAT_BITS(FLE, x, float_compare(OP_FLE, a, b, &c->flags))
    FLOAT_BITS(FCLASS, x, float_class(a))
label_FCVT_W:
label_FCVT_WU:
label_FCVT_S_W:
label_FCVT_S_WU:
    goto label_FLOAT_SLOW;
label_FMV_X:
    if (UNLIKELY(i == FC))
        goto float_on_fc;
    c->x[d->rd] = c->f[d->rs1];
    NEXT(1);
label_FMV_F:
    if (UNLIKELY(i == FC))
        goto float_on_fc;
    c->f[d->rd] = c->x[d->rs1];
    NEXT(1);

    LOOP(LOOP_START, &near, NULL, (void)0)
    LOOP(LOOP_SET_END, NULL, &near, (void)0)
    LOOP(LOOP_COUNT, NULL, NULL, c->loop_count[loop] = c->x[d->rs1])
    LOOP(LOOP_COUNT_IMM, NULL, NULL, c->loop_count[loop] = (uint32_t)d->immediate)
    LOOP(LOOP_SETUP, &behind, &near, c->loop_count[loop] = c->x[d->rs1])
    LOOP(LOOP_SETUP_IMM, &behind, &tail, c->loop_count[loop] = (uint32_t)d->immediate)
    COMPUTE2(MAC, c->x[d->rd] + a * b)
    COMPUTE2(MSU, c->x[d->rd] - a * b)
    COMPUTE2(SLET, (int32_t)a <= (int32_t)b)
    COMPUTE2(SLETU, a <= b)
    COMPUTE2(MIN, (int32_t)a < (int32_t)b ? a : b)
    COMPUTE2(MINU, a < b ? a : b)
    COMPUTE2(MAX, (int32_t)a > (int32_t)b ? a : b)
    COMPUTE2(MAXU, a > b ? a : b)
    COMPUTE(ABS, (int32_t)a < 0 ? 0 - a : a)
    COMPUTE2(ROR, a >> (b & 31) | a << (-b & 31))
    COMPUTE(FF1, a ? (uint32_t)__builtin_ctz(a) : 32)
    COMPUTE(FL1, a ? 31 - (uint32_t)__builtin_clz(a) : 32)
    COMPUTE(CNT, (uint32_t)__builtin_popcount(a))
    COMPUTE(EXTHS, (uint32_t)(int32_t)(int16_t)a)
    COMPUTE(EXTHZ, a & 0xffffu)
    COMPUTE(EXTBS, (uint32_t)(int32_t)(int8_t)a)
    COMPUTE(EXTBZ, a & 0xffu)
    COMPUTE(CLIP, d->immediate ? clip(a, -(1 << (d->immediate - 1)), (1 << (d->immediate - 1)) - 1) : clip(a, -1, 0))
    COMPUTE(CLIPU, d->immediate ? clip(a, 0, (1 << (d->immediate - 1)) - 1) : clip(a, 0, 0))
    COMPUTE2(CLIP_REG, clip(a, (int32_t)~b, (int32_t)b))
    COMPUTE2(CLIPU_REG, clip(a, 0, (int32_t)b))
    COMPUTE(EXTRACT, (uint32_t)((int32_t)(a << (31 - d->immediate - d->extra)) >> (31 - d->immediate)))
    COMPUTE(EXTRACTU, a << (31 - d->immediate - d->extra) >> (31 - d->immediate))
    COMPUTE(BSET, a | UINT32_MAX >> (31 - d->immediate) << d->extra)
    COMPUTE(BCLR, a & ~(UINT32_MAX >> (31 - d->immediate) << d->extra))
}
