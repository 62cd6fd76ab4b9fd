/* Instruction fetch: the two levels of instruction cache, and the decoded copies of instructions. */
#include <string.h>

#include "machine.h"

/* The way to replace, from an 8-bit shift register with linear feedback. */
static uint32_t victim(uint8_t *shift_register)
{
    const uint8_t r = *shift_register;
    const uint8_t in = (uint8_t)(~((r >> 7) ^ (r >> 3) ^ (r >> 2) ^ (r >> 1)) & 1);
    *shift_register = (uint8_t)(r << 1 | in);
    return *shift_register >> 1 & 3;
}

/* The way that holds a line, or -1. */
static int find_way(const uint32_t *ways, uint32_t line)
{
    for (int way = 0; way < 4; way++)
        if (ways[way] == line)
            return way;
    return -1;
}

/* The cycles until the shared cache has a line: each of its banks refills one line at a time. */
static uint32_t fetch_shared(sim_t *s, uint32_t line)
{
    shared_bank_t *bank = &s->shared_cache[line & 7];
    const uint32_t set = line >> 3 & 7;
    int way = find_way(bank->tag[set], line);
    if (way < 0) {
        way = (int)victim(&bank->shift_register);
        const uint64_t begin = bank->free > s->now ? bank->free : s->now;
        bank->tag[set][way] = line;
        bank->free = begin + s->timing.fetch_shared + s->timing.fetch_l2;
        bank->ready[set][way] = bank->free;
    }
    const uint64_t ready = bank->ready[set][way];
    return ready > s->now ? (uint32_t)(ready - s->now) : 0;
}

uint32_t fetch_line(sim_t *s, uint32_t core, uint32_t pc)
{
    if (core == FC)
        return 0;
    const uint32_t line = pc >> 4;
    core_t *c = &s->core[core];
    uint32_t *ways = c->tag[line & 7], stall = s->timing.fetch_l2;
    if (s->cache_enabled) {
        if (LIKELY(find_way(ways, line) >= 0))
            return 0;
        ways[victim(&c->shift_register)] = line;
        stall = s->timing.fetch_private + fetch_shared(s, line);
    }
    c->count.stalls[SIM_STALL_FETCH] += stall;
    return stall;
}

void flush_fetch(sim_t *s)
{
    for (uint32_t i = 0; i < CORES; i++)
        memset(s->core[i].tag, 0xff, sizeof s->core[i].tag);
    for (uint32_t i = 0; i < 8; i++)
        memset(s->shared_cache[i].tag, 0xff, sizeof s->shared_cache[i].tag);
}

static uint32_t word_at(sim_t *s, uint32_t pc)
{
    uint32_t word = 0;
    const uint8_t *at = memory_at(s, pc, 2);
    if (at)
        memcpy(&word, at, memory_at(s, pc, 4) ? 4 : 2);
    return word;
}

void decode_at(sim_t *s, decoded_t *at, uint32_t pc)
{
    const uint32_t word = word_at(s, pc);
    decode(at, pc, word, word_at(s, pc + instruction_bytes(word)));
    const int jumps = at->operation == OP_JAL || (at->operation >= OP_BEQ && at->operation <= OP_BNE_IMM);
    if (jumps && !entry_of(s, pc + (uint32_t)at->immediate * 2)) {
        at->operation = OP_ILLEGAL;
        at->immediate = (int32_t)word;
    }
    if (pc < s->code_first)
        s->code_first = pc;
    if (pc + 4 > s->code_last)
        s->code_last = pc + 4;
}

void patch(decoded_t *at, uint16_t operation)
{
    if (at->operation == OP_BREAKPOINT || at->operation == OP_LOOP_END)
        return;
    at->hidden = at->operation;
    at->operation = operation;
}

/* Forgets what was decoded from changed memory; breakpoints stay. */
void forget_code(sim_t *s, uint32_t first, uint32_t bytes)
{
    /* An instruction may begin two bytes before the change, and the stall of the one before it looks ahead. */
    const uint64_t begin = first < 8 ? 0 : first - 8, end = (uint64_t)first + bytes;
    const uint64_t from = begin > s->code_first ? begin : s->code_first;
    const uint64_t to = end < s->code_last ? end : s->code_last;
    for (uint64_t pc = from & ~1ull; pc < to; pc += 2) {
        decoded_t *at = entry_of(s, (uint32_t)pc);
        if (!at)
            continue;
        if (at->operation == OP_BREAKPOINT) {
            decode_at(s, at, (uint32_t)pc);
            patch(at, OP_BREAKPOINT);
        } else
            at->operation = OP_UNDECODED;
    }
}
