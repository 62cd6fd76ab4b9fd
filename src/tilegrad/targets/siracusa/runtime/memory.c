/* memcpy, memmove, memset and memcmp, which compilers call by themselves and a bare machine does not bring along. The empty
   assembly in the loops keeps compilers from taking them for what they are, and calling memcpy in memcpy. */
#include <stddef.h>
#include <stdint.h>

typedef uint32_t __attribute__((__may_alias__)) word_t;

#define STEP() __asm__ volatile("" ::: "memory")

static int aligned(const void *a, const void *b)
{
    return !(((uintptr_t)a | (uintptr_t)b) & 3u);
}

void *memcpy(void *restrict target, const void *restrict source, size_t bytes)
{
    uint8_t *to = (uint8_t *)target;
    const uint8_t *from = (const uint8_t *)source;
    if (aligned(to, from)) {
        for (; bytes >= 16; bytes -= 16, to += 16, from += 16) {
            const word_t *const in = (const word_t *)(const void *)from;
            word_t *const out = (word_t *)(void *)to;
            const uint32_t a = in[0], b = in[1], c = in[2], d = in[3];
            out[0] = a;
            out[1] = b;
            out[2] = c;
            out[3] = d;
            STEP();
        }
        for (; bytes >= 4; bytes -= 4, to += 4, from += 4) {
            *(word_t *)(void *)to = *(const word_t *)(const void *)from;
            STEP();
        }
    }
    for (; bytes; bytes--) {
        *to++ = *from++;
        STEP();
    }
    return target;
}

void *memmove(void *target, const void *source, size_t bytes)
{
    uint8_t *to = (uint8_t *)target;
    const uint8_t *from = (const uint8_t *)source;
    if (to <= from || to >= from + bytes)
        return memcpy(target, source, bytes);
    while (bytes) {
        bytes--;
        to[bytes] = from[bytes];
        STEP();
    }
    return target;
}

void *memset(void *target, int byte, size_t bytes)
{
    uint8_t *to = (uint8_t *)target;
    const uint32_t word = (uint8_t)byte * 0x01010101u;
    if (aligned(to, to))
        for (; bytes >= 4; bytes -= 4, to += 4) {
            *(word_t *)(void *)to = word;
            STEP();
        }
    for (; bytes; bytes--) {
        *to++ = (uint8_t)byte;
        STEP();
    }
    return target;
}

int memcmp(const void *left, const void *right, size_t bytes)
{
    const uint8_t *a = (const uint8_t *)left, *b = (const uint8_t *)right;
    for (; bytes; bytes--, a++, b++) {
        if (*a != *b)
            return *a - *b;
        STEP();
    }
    return 0;
}
