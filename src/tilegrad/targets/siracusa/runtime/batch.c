/* Runs the program by itself where nobody can stop it and reach into its memory: core 0 follows a list of commands that
   stands in memory beside the program, and prints what the list asks for.

   Lines that begin with @ are for whoever wrote the list: "@call CYCLES" after a call, "@show BYTES" before bytes in
   lines "@:HEX", and "@end". Numbers are hexadecimal. */
#include <stddef.h>
#include <stdint.h>

#include "tilegrad_print.h"
#include "tilegrad_team.h"

void *memcpy(void *restrict target, const void *restrict source, size_t bytes);
void *memset(void *target, int byte, size_t bytes);

enum { END, COPY, CLEAR, CALL, SHOW };
typedef struct {
    uint32_t what;
    uint32_t place;  /* COPY, CLEAR: where to; CALL: the function; SHOW: where from */
    uint32_t bytes;  /* CALL: how many times */
    uint32_t source; /* COPY: where from */
} command_t;

enum { LINE = 64 };

extern volatile uint32_t tilegrad_script;
extern void (*volatile tilegrad_command)(void);
extern volatile uint64_t tilegrad_cycles;
void tilegrad_batch(void);

static uint32_t position, calls_left;
static uint64_t cycles_before;
static uint32_t words[LINE / 4 + 1]; /* on the way to and from L3 */

static int in_l3(uint32_t address)
{
    return address >= TG_L3_BASE;
}

/* Up to LINE bytes of any memory. L3 moves in whole words: its part of them is read first, and written back for a copy. */
static const uint8_t *line_at(uint32_t address, uint32_t bytes)
{
    if (!in_l3(address))
        return (const uint8_t *)address;
    const uint32_t first = address & ~3u, span = ((address + bytes + 3u) & ~3u) - first;
    tg_l3_in(words, (const void *)first, span);
    return (const uint8_t *)words + (address - first);
}

static void write_line(uint32_t address, uint32_t source, uint32_t bytes)
{
    if (in_l3(address)) {
        const uint32_t first = address & ~3u, span = ((address + bytes + 3u) & ~3u) - first;
        if (span != bytes)
            tg_l3_in(words, (const void *)first, span);
        uint8_t *const at = (uint8_t *)words + (address - first);
        if (source)
            memcpy(at, (const void *)source, bytes);
        else
            memset(at, 0, bytes);
        tg_l3_out((void *)first, words, span);
    } else if (source)
        memcpy((void *)address, (const void *)source, bytes);
    else
        memset((void *)address, 0, bytes);
}

/* Copies, or clears where there is no source. */
static void write_lines(uint32_t address, uint32_t source, uint32_t bytes)
{
    for (uint32_t done = 0; done < bytes; done += LINE)
        write_line(address + done, source ? source + done : 0, bytes - done < LINE ? bytes - done : LINE);
}

static void show(uint32_t address, uint32_t bytes)
{
    tg_print("@show ");
    tg_print_hex(bytes, 8);
    tg_print("\n");
    for (uint32_t done = 0; done < bytes; done += LINE) {
        const uint32_t now = bytes - done < LINE ? bytes - done : LINE;
        const uint8_t *const at = line_at(address + done, now);
        tg_print("@:");
        for (uint32_t i = 0; i < now; i++)
            tg_print_hex(at[i], 2);
        tg_print("\n");
    }
}

static void report_call(void)
{
    const uint64_t cycles = tilegrad_cycles - cycles_before;
    tg_print("@call ");
    tg_print_hex((uint32_t)(cycles >> 32), 8);
    tg_print_hex((uint32_t)cycles, 8);
    tg_print("\n");
}

/* Follows the list up to the next call, which the team then executes, or to its end. */
void tilegrad_batch(void)
{
    if (calls_left) {
        if (--calls_left)
            return;
        report_call();
    }
    for (;;) {
        const command_t *const now = (const command_t *)tilegrad_script + position++;
        switch (now->what) {
        case COPY:
            write_lines(now->place, now->source, now->bytes);
            break;
        case CLEAR:
            write_lines(now->place, 0, now->bytes);
            break;
        case CALL:
            calls_left = now->bytes;
            cycles_before = tilegrad_cycles;
            tilegrad_command = (void (*)(void))now->place;
            return;
        case SHOW:
            show(now->place, now->bytes);
            break;
        case END:
            tg_print("@end\n");
            tg_exit(0);
        default:
            tg_print("the list of commands is damaged\n");
            tg_exit(2);
        }
    }
}
