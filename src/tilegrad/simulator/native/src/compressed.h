#ifndef TILEGRAD_COMPRESSED_H
#define TILEGRAD_COMPRESSED_H

#include <stdint.h>

/* The 32-bit instruction that a 16-bit one stands for, 0 where it is illegal; a 32-bit one is returned as it is. */
uint32_t expand_compressed(uint32_t word);

#endif
