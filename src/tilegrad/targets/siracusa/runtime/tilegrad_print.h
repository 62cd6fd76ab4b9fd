/* Output and end of a program, from any core: the platform shows what is printed line by line. */
#ifndef TILEGRAD_PRINT_H
#define TILEGRAD_PRINT_H

#include <stdint.h>

#include "tilegrad_registers.h"

#define TG_STDOUT 0x1a10f000u
#define TG_EXIT 0x1a1040a0u

static inline void tg_print_character(char character)
{
    uint32_t hart;
    __asm__("csrr %0, 0xf14" : "=r"(hart));
    *(volatile uint8_t *)(TG_STDOUT + (hart >> 5 << 7) + ((hart & 0xfu) << 3)) = (uint8_t)character;
}

static inline void tg_print(const char *text)
{
    while (*text)
        tg_print_character(*text++);
}

/* The lowest digits of a number in base 16. */
static inline void tg_print_hex(uint32_t value, int digits)
{
    while (digits-- > 0)
        tg_print_character("0123456789abcdef"[value >> 4 * digits & 15u]);
}

static inline void tg_print_unsigned(uint32_t value)
{
    char text[10];
    int digits = 0;
    do {
        text[digits++] = (char)('0' + value % 10u);
        value /= 10u;
    } while (value);
    while (digits > 0)
        tg_print_character(text[--digits]);
}

/* Ends the program with an exit code; what was printed since the last line break is lost. */
static inline __attribute__((__noreturn__)) void tg_exit(uint32_t code)
{
    TG_REGISTER(TG_EXIT) = 0x80000000u | code;
    for (;;)
        __asm__ volatile("wfi");
}

#endif
