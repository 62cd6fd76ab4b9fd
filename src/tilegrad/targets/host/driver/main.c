/* Drives a generated project on a host: a parent process sends frames on standard input and gets answers on what was
 * standard output. Integers are in this machine's byte order; they are 32 bits wide unless marked.
 *
 *   greeting   magic, symbols, entries; per symbol: bytes, name length, name; per entry: name length, name
 *   request    writes, reads, entry (NONE calls nothing), repeat;
 *              per read: symbol, bytes;
 *              per write: symbol, bytes, then that many bytes of data
 *   answer     status (0: done), length of a message, nanoseconds (64 bits); then the message,
 *              or the data of all reads one after the other
 *
 * A request is read to its end before anything is answered, so that the two processes never wait for each other. A
 * request with a mistake in it changes nothing but the symbols written before the mistake. End of input ends the
 * program. What a kernel prints goes to standard error.
 */
#define _POSIX_C_SOURCE 200809L

#include <float.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__) || defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "tilegrad_model.h"

#if FLT_EVAL_METHOD != 0
#error "this compiler computes float in a wider type: on 32-bit x86 use -msse2 -mfpmath=sse"
#endif

#define MAGIC 0x31474754u /* "TGG1" */
#define NONE 0xffffffffu

typedef struct {
    uint32_t writes, reads, entry, repeat;
} request_t;

typedef struct {
    uint32_t symbol, bytes;
} access_t;

static FILE *answers;
static char message[256];

static void stop(const char *why)
{
    fprintf(stderr, "driver: %s\n", why);
    exit(3);
}

static void receive(void *data, size_t bytes)
{
    if (bytes != 0 && fread(data, 1, bytes, stdin) != bytes) {
        stop("the request ends before its end");
    }
}

static void answer(const void *data, size_t bytes)
{
    if (bytes != 0 && fwrite(data, 1, bytes, answers) != bytes) {
        stop("nobody reads the answers");
    }
}

/* Round to nearest, subnormal numbers kept: the modes that every number of the program is defined in. */
static void set_float_mode(void)
{
#if defined(__x86_64__) || defined(__SSE2__)
    _mm_setcsr(0x1f80u);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
#endif
}

/* The volatile values keep the compiler from computing these itself. */
static void check_arithmetic(void)
{
    volatile float smallest = FLT_MIN, half = 0.5f;
    if (smallest * half == 0.0f) {
        stop("this machine flushes subnormal numbers to zero, and the driver does not know how to stop it");
    }
    /* A product just below half an ulp of the odd number it is added to: rounding in between, to float or to double,
     * makes it a tie and goes up to the even neighbour. */
    volatile float up = 0x1.000002p-12f, down = 0x1.fffffcp-13f, odd = 0x1.000002p0f;
    if (__builtin_fmaf(up, down, odd) != 0x1.000002p0f) {
        stop("fmaf of this C library rounds twice, so its results differ from a fused multiply-add; "
             "build for a CPU with FMA instructions or use another C library");
    }
}

static void greet(void)
{
    const uint32_t head[3] = {MAGIC, tilegrad_symbol_count, tilegrad_entry_count};
    answer(head, sizeof head);
    for (uint32_t i = 0; i < tilegrad_symbol_count; i++) {
        const uint32_t sizes[2] = {tilegrad_symbols[i].bytes, (uint32_t)strlen(tilegrad_symbols[i].name)};
        answer(sizes, sizeof sizes);
        answer(tilegrad_symbols[i].name, sizes[1]);
    }
    for (uint32_t i = 0; i < tilegrad_entry_count; i++) {
        const uint32_t length = (uint32_t)strlen(tilegrad_entries[i].name);
        answer(&length, sizeof length);
        answer(tilegrad_entries[i].name, length);
    }
    fflush(answers);
}

/* Whether an access names a symbol and all of it; the first mistake of a request becomes its answer. */
static int allowed(access_t access)
{
    if (access.symbol >= tilegrad_symbol_count) {
        if (message[0] == '\0') {
            snprintf(message, sizeof message, "there is no symbol number %lu", (unsigned long)access.symbol);
        }
        return 0;
    }
    if (access.bytes != tilegrad_symbols[access.symbol].bytes) {
        if (message[0] == '\0') {
            snprintf(message, sizeof message, "symbol %.100s has %lu bytes, not %lu",
                     tilegrad_symbols[access.symbol].name, (unsigned long)tilegrad_symbols[access.symbol].bytes,
                     (unsigned long)access.bytes);
        }
        return 0;
    }
    return 1;
}

static void receive_write(void)
{
    access_t access;
    receive(&access, sizeof access);
    if (message[0] == '\0' && allowed(access)) {
        receive(tilegrad_symbols[access.symbol].data, access.bytes);
        return;
    }
    char skipped[4096];
    for (size_t left = access.bytes; left != 0;) {
        const size_t part = left < sizeof skipped ? left : sizeof skipped;
        receive(skipped, part);
        left -= part;
    }
}

static uint64_t call(uint32_t entry, uint32_t repeat)
{
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (uint32_t i = 0; i < repeat; i++) {
        set_float_mode();
        tilegrad_entries[entry].run();
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    return (uint64_t)(to.tv_sec - from.tv_sec) * 1000000000u + (uint64_t)to.tv_nsec - (uint64_t)from.tv_nsec;
}

static void serve(const request_t *request)
{
    message[0] = '\0';
    access_t *reads = NULL;
    if (request->reads != 0) {
        reads = malloc(request->reads * sizeof *reads);
        if (reads == NULL) {
            stop("no memory for a request");
        }
        receive(reads, request->reads * sizeof *reads);
    }
    for (uint32_t i = 0; i < request->reads && allowed(reads[i]); i++) {
    }
    for (uint32_t i = 0; i < request->writes; i++) {
        receive_write();
    }
    if (message[0] == '\0' && request->entry != NONE && request->entry >= tilegrad_entry_count) {
        snprintf(message, sizeof message, "there is no entry number %lu", (unsigned long)request->entry);
    }
    const int failed = message[0] != '\0';
    const uint64_t elapsed = failed || request->entry == NONE ? 0 : call(request->entry, request->repeat);
    const uint32_t head[2] = {(uint32_t)failed, (uint32_t)strlen(message)};
    answer(head, sizeof head);
    answer(&elapsed, sizeof elapsed);
    answer(message, head[1]);
    for (uint32_t i = 0; i < request->reads && !failed; i++) {
        answer(tilegrad_symbols[reads[i].symbol].data, reads[i].bytes);
    }
    fflush(answers);
    free(reads);
}

int main(void)
{
    const int channel = dup(STDOUT_FILENO);
    answers = channel < 0 ? NULL : fdopen(channel, "wb");
    if (answers == NULL || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
        stop("standard output cannot be taken over");
    }
    set_float_mode();
    check_arithmetic();
    greet();
    request_t request;
    while (fread(&request, sizeof request, 1, stdin) == 1) {
        serve(&request);
    }
    return 0;
}
