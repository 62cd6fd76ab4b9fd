/* The loops whose cycles are known, one run of one of them per core: `kernel` says which, `elapsed` what it took. The
 * numbers are printed, too, for whoever cannot look into the memory. */
#include "runtime.h"

volatile uint32_t kernel __attribute__((section(".data"))) = 1;
volatile uint32_t elapsed[4][8] __attribute__((section(".data"))) = {{1}};
volatile uint32_t fabric_elapsed __attribute__((section(".data"))) = 1;
static L1_DATA float left[4160], right[4160];
L1_DATA float product[4160];
static uint32_t storage[20480] __attribute__((section(".data"), aligned(64))) = {1};

static volatile uint32_t one __attribute__((section(".data"))) = 1;

#define REPEAT4(x) x x x x
#define REPEAT16(x) REPEAT4(REPEAT4(x))

static void dot(uint32_t core, uint32_t cores)
{
    (void)cores;
    const float *a = left, *b = right + 16 * (core & 1), *end = left + 1024;
    __asm__ volatile(".balign 32\n 1: flw fa4, 0(%0)\n flw fa5, 0(%1)\n addi %0, %0, 4\n addi %1, %1, 4\n"
                     "fmadd.s fa0, fa4, fa5, fa0\n bne %0, %2, 1b\n"
                     : "+r"(a), "+r"(b) : "r"(end) : "fa4", "fa5", "fa0", "memory");
}

static void dot4(uint32_t core, uint32_t cores)
{
    (void)cores;
    const float *a = left, *b = right + 16 * (core & 1), *end = left + 1024;
    __asm__ volatile(".balign 32\n 1: flw fa0, 0(%0)\n flw fa1, 0(%1)\n flw fa2, 4(%0)\n flw fa3, 4(%1)\n"
                     "flw fa4, 8(%0)\n flw fa5, 8(%1)\n flw fs0, 12(%0)\n flw fs1, 12(%1)\n"
                     "addi %0, %0, 16\n addi %1, %1, 16\n"
                     "fmadd.s ft0, fa0, fa1, ft0\n fmadd.s ft1, fa2, fa3, ft1\n"
                     "fmadd.s ft2, fa4, fa5, ft2\n fmadd.s ft3, fs0, fs1, ft3\n bne %0, %2, 1b\n"
                     : "+r"(a), "+r"(b) : "r"(end)
                     : "fa0", "fa1", "fa2", "fa3", "fa4", "fa5", "fs0", "fs1", "ft0", "ft1", "ft2", "ft3", "memory");
}

static void stream(uint32_t core, uint32_t cores)
{
    (void)cores;
    uint32_t count = 20;
    (void)core;
    __asm__ volatile(".balign 32\n 1:\n" REPEAT16("fmadd.s fa0, ft0, ft1, fa0\n fmadd.s fa1, ft0, ft1, fa1\n"
                                     "fmadd.s fa2, ft0, ft1, fa2\n fmadd.s fa3, ft0, ft1, fa3\n"
                                     "fmadd.s fa4, ft0, ft1, fa4\n fmadd.s fa5, ft0, ft1, fa5\n"
                                     "fmadd.s fa6, ft0, ft1, fa6\n fmadd.s fa7, ft0, ft1, fa7\n")
                     "addi %0, %0, -1\n bnez %0, 1b\n"
                     : "+r"(count) : : "fa0", "fa1", "fa2", "fa3", "fa4", "fa5", "fa6", "fa7");
}

static void pairs(uint32_t core, uint32_t cores)
{
    (void)cores;
    uint32_t count = 160;
    const float *a = left + core;
    __asm__ volatile(".balign 32\n 1:\n" REPEAT4("flw ft2, 0(%1)\n fmadd.s fa0, ft0, ft1, fa0\n flw ft3, 64(%1)\n"
                                    "fmadd.s fa1, ft0, ft1, fa1\n flw ft4, 128(%1)\n fmadd.s fa2, ft0, ft1, fa2\n"
                                    "flw ft5, 192(%1)\n fmadd.s fa3, ft0, ft1, fa3\n")
                     "addi %0, %0, -1\n bnez %0, 1b\n"
                     : "+r"(count) : "r"(a) : "ft2", "ft3", "ft4", "ft5", "fa0", "fa1", "fa2", "fa3");
}

static void sparse(uint32_t core, uint32_t cores)
{
    (void)cores;
    uint32_t count = 160;
    const float *a = left + core;
    __asm__ volatile(".balign 32\n 1:\n" REPEAT4("flw ft2, 0(%1)\n fmadd.s fa0, ft0, ft1, fa0\n fmadd.s fa1, ft0, ft1, fa1\n"
                                    "flw ft3, 64(%1)\n fmadd.s fa2, ft0, ft1, fa2\n fmadd.s fa3, ft0, ft1, fa3\n")
                     "addi %0, %0, -1\n bnez %0, 1b\n"
                     : "+r"(count) : "r"(a) : "ft2", "ft3", "fa0", "fa1", "fa2", "fa3");
}

static void divide(uint32_t core, uint32_t cores)
{
    (void)cores;
    uint32_t count = 64;
    (void)core;
    __asm__ volatile(".balign 32\n 1: fdiv.s fa0, ft0, ft1\n fdiv.s fa1, ft0, ft1\n fdiv.s fa2, ft0, ft1\n fdiv.s fa3, ft0, ft1\n"
                     "fdiv.s fa4, ft0, ft1\n fdiv.s fa5, ft0, ft1\n fdiv.s fa6, ft0, ft1\n fdiv.s fa7, ft0, ft1\n"
                     "addi %0, %0, -1\n bnez %0, 1b\n"
                     : "+r"(count) : : "fa0", "fa1", "fa2", "fa3", "fa4", "fa5", "fa6", "fa7");
}

static void load(uint32_t address)
{
    uint32_t count = 256;
    __asm__ volatile(".balign 32\n 1: lw t0, 0(%1)\n lw t1, 0(%1)\n lw t2, 0(%1)\n lw t3, 0(%1)\n"
                     "lw t0, 0(%1)\n lw t1, 0(%1)\n lw t2, 0(%1)\n lw t3, 0(%1)\n"
                     "addi %0, %0, -1\n bnez %0, 1b\n"
                     : "+r"(count) : "r"(address) : "t0", "t1", "t2", "t3");
}

static void load_far(uint32_t address)
{
    uint32_t count = 128;
    __asm__ volatile(".balign 32\n 1:\n" REPEAT4("lw t0, 0(%1)\n lw t1, 0(%1)\n lw t2, 0(%1)\n lw t3, 0(%1)\n")
                     "addi %0, %0, -1\n bnez %0, 1b\n"
                     : "+r"(count) : "r"(address) : "t0", "t1", "t2", "t3");
}

static void banks(uint32_t core, uint32_t cores)
{
    (void)cores;
    load((uint32_t)(left + core));
}

static void one_bank(uint32_t core, uint32_t cores)
{
    (void)cores;
    load((uint32_t)(left + 16 * core));
}

static void shared_memory(uint32_t core, uint32_t cores)
{
    (void)cores;
    load_far((uint32_t)(storage + core));
}

static void weight_memory(uint32_t core, uint32_t cores)
{
    (void)cores;
    load_far(0x10400000u + 4 * core);
}

/* rows x columns x depth, two rows and four columns at a time; the sizes are not known to the compiler. */
__attribute__((noinline)) static void multiply(const float *a, const float *b, float *c, uint32_t first, uint32_t last,
                                               uint32_t columns, uint32_t depth)
{
    for (uint32_t i = first; i < last; i += 2)
        for (uint32_t j = 0; j < columns; j += 4) {
            float s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
            for (uint32_t k = 0; k < depth; k++) {
                const float a0 = a[i * depth + k], a1 = a[(i + 1) * depth + k];
                const float b0 = b[k * columns + j], b1 = b[k * columns + j + 1];
                const float b2 = b[k * columns + j + 2], b3 = b[k * columns + j + 3];
                s00 = __builtin_fmaf(a0, b0, s00);
                s01 = __builtin_fmaf(a0, b1, s01);
                s02 = __builtin_fmaf(a0, b2, s02);
                s03 = __builtin_fmaf(a0, b3, s03);
                s10 = __builtin_fmaf(a1, b0, s10);
                s11 = __builtin_fmaf(a1, b1, s11);
                s12 = __builtin_fmaf(a1, b2, s12);
                s13 = __builtin_fmaf(a1, b3, s13);
            }
            c[i * columns + j] = s00, c[i * columns + j + 1] = s01;
            c[i * columns + j + 2] = s02, c[i * columns + j + 3] = s03;
            c[(i + 1) * columns + j] = s10, c[(i + 1) * columns + j + 1] = s11;
            c[(i + 1) * columns + j + 2] = s12, c[(i + 1) * columns + j + 3] = s13;
        }
}

static void matmul(uint32_t core, uint32_t cores)
{
    const uint32_t rows = 64 / cores;
    multiply(left, right, product, core * rows, (core + 1) * rows, 64 * one, 64 * one);
}

/* The cycles of one transfer, from asking for its identifier to having seen its end. */
__attribute__((noinline)) static uint32_t transfer(uint32_t command, uint32_t local)
{
    const uint32_t before = cycles(), id = dma_start(command, local, (uint32_t)storage);
    if (command >> 19 & 1) {
        REGISTER(DMA) = 64;
        REGISTER(DMA) = 128;
    }
    dma_wait(id);
    return cycles() - before;
}

static const uint32_t commands[][2] = {{256 | 3u << 17, 0x10020000u},
                                       {4096 | 3u << 17, 0x10020000u},
                                       {65536 | 3u << 17, 0x10020000u},
                                       {16384 | 3u << 17 | 1u << 19, 0x10020000u},
                                       {16384 | 1u << 18 | 1u << 19, 0x10020000u}};

static void (*const kernels[])(uint32_t, uint32_t) = {dot,   dot4,     stream,        pairs,         sparse, divide,
                                            banks, one_bank, shared_memory, weight_memory, matmul};

static void print_number(uint32_t value)
{
    char text[12];
    uint32_t at = sizeof text - 1;
    text[at] = 0;
    do
        text[--at] = (char)('0' + value % 10);
    while (value /= 10);
    text[--at] = ' ';
    print(text + at);
}

static void print_cycles(const volatile uint32_t *numbers, uint32_t count)
{
    print("cycles");
    for (uint32_t i = 0; i < count; i++)
        print_number(numbers[i]);
    print("\n");
}

/* Four rounds, with 1, 2, 4 and 8 cores; the first finds the caches cold, as it was when the figures were taken. */
void program(uint32_t core)
{
    const uint32_t which = kernel;
    for (uint32_t round = 0; round < 4; round++) {
        barrier();
        if (core >> (which < 11 ? round : 0))
            continue;
        if (which >= 11) {
            elapsed[round][core] = transfer(commands[which - 11][0], commands[which - 11][1]);
            continue;
        }
        void (*const run)(uint32_t, uint32_t) = kernels[which];
        const uint32_t before = cycles();
        run(core, 1u << round);
        elapsed[round][core] = cycles() - before;
    }
    barrier();
    for (uint32_t round = 0; core == 0 && round < 4; round++)
        print_cycles(elapsed[round], 8);
}

/* L3: 4 KiB out, or in, by the FC's timer. */
void fabric_program(void)
{
    if (kernel < 100)
        return;
    const uint32_t inwards = kernel - 100, base = 0x1a102280u;
    REGISTER(0x1a102000u) |= 7u << 4; /* the clocks of the HyperBus */
    REGISTER(FC_TIMER) = 3;
    REGISTER(base + (inwards ? 0x00 : 0x0c)) = (uint32_t)storage;
    REGISTER(base + (inwards ? 0x04 : 0x10)) = 4096;
    REGISTER(base + 0x18) = inwards ? 5 : 1;
    REGISTER(base + 0x1c) = 0;
    REGISTER(base + (inwards ? 0x08 : 0x14)) = 0x10;
    while (REGISTER(base + 0x24) & 1)
        ;
    fabric_elapsed = REGISTER(FC_TIMER + 8);
    print_cycles(&fabric_elapsed, 1);
    leave(0);
}
