/* A step in tiles, double buffered: core 0 moves data, all cores compute. `plant` says which error is in it. */
#include "runtime.h"

enum { TILES = 4, WORDS = 64, STEPS = 2 };
enum {
    NONE,
    OVERFLOW,           /* tile 2 writes one element behind its scratch buffer */
    OTHER_BUFFER,       /* tile 2 reads the input of tile 1 */
    MISSING_TRANSFER,   /* tile 2 reads what tile 0 left in its buffer */
    MISSING_WAIT,       /* nobody waits for the input of tile 1 */
    LATE_WAIT,          /* core 0 waits for the input of tile 1, and the others do not wait for core 0 */
    MISSING_WAIT_OUT,   /* tile 2 overwrites the results of tile 0, which are still on their way */
    EARLY_TRANSFER,     /* the input of tile 2 is fetched into a buffer that is still being filled with that of tile 0 */
    UNWRITTEN_SCRATCH,  /* tile 0 reads scratch space that it has not written */
    UNPLANNED_TILE      /* the kernel is called once more than there are tiles */
};

volatile uint32_t plant __attribute__((section(".data"))) = NONE;
uint32_t input[TILES * WORDS] __attribute__((section(".data"), aligned(64))) = {1};
uint32_t output[TILES * WORDS] __attribute__((section(".data"), aligned(64))) = {1};
L1_DATA uint32_t in_even[WORDS], in_odd[WORDS], out_even[WORDS], out_odd[WORDS], scratch[WORDS], behind_scratch[1];

void scale(const uint32_t *in, uint32_t *out, uint32_t core, uint32_t error);
void step(uint32_t core);

/* out = 3 in + 1, by way of a scratch buffer; each core has a slice. */
__attribute__((noinline)) void scale(const uint32_t *in, uint32_t *out, uint32_t core, uint32_t error)
{
    const uint32_t first = core * WORDS / 8, last = first + WORDS / 8 + (error == OVERFLOW && core == 7);
    volatile uint32_t *const room = scratch;
    for (uint32_t i = first; i < last; i++)
        if (error != UNWRITTEN_SCRATCH)
            room[i] = 3 * in[i < WORDS ? i : 0];
    for (uint32_t i = first; i < first + WORDS / 8; i++)
        out[i] = room[i] + 1;
}

static uint32_t fetch(uint32_t tile)
{
    return dma_start(4 * WORDS | 3u << 17, (uint32_t)(tile & 1 ? in_odd : in_even), (uint32_t)(input + tile * WORDS));
}

static uint32_t put(uint32_t tile)
{
    return dma_start(4 * WORDS | 1u << 18, (uint32_t)(tile & 1 ? out_odd : out_even), (uint32_t)(output + tile * WORDS));
}

__attribute__((noinline)) void step(uint32_t core)
{
    const uint32_t error = plant;
    uint32_t in[2] = {0, 0}, out[2] = {0, 0};
    if (core == 0) {
        in[0] = fetch(0);
        if (error == EARLY_TRANSFER)
            (void)fetch(2);
    }
    for (uint32_t tile = 0; tile < TILES + (error == UNPLANNED_TILE); tile++) {
        if (core == 0 && tile < TILES) {
            if (tile + 1 < TILES && !(error == MISSING_TRANSFER && tile == 1))
                in[(tile + 1) & 1] = fetch(tile + 1);
            if (!(error == MISSING_WAIT && tile == 1) && !(error == MISSING_TRANSFER && tile == 2))
                dma_wait(in[tile & 1]);
            if (tile >= 2 && error != MISSING_WAIT_OUT)
                dma_wait(out[tile & 1]);
        }
        if (!(error == LATE_WAIT && tile == 1))
            barrier();
        const uint32_t read = tile - (error == OTHER_BUFFER && tile == 2);
        const uint32_t wrong = (error == OVERFLOW && tile == 2) || (error == UNWRITTEN_SCRATCH && tile == 0) ? error : 0;
        scale(read & 1 ? in_odd : in_even, tile & 1 ? out_odd : out_even, core, wrong);
        barrier();
        if (core == 0 && tile < TILES)
            out[tile & 1] = put(tile);
    }
    if (core == 0) {
        dma_wait(out[0]);
        dma_wait(out[1]);
    }
}

void program(uint32_t core)
{
    for (uint32_t turn = 0; turn < STEPS; turn++) {
        step(core);
        barrier();
    }
}
