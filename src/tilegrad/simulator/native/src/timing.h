/* The timing model's parameters, one table: docs/simulator.md explains each. */
#ifndef TILEGRAD_TIMING_H
#define TILEGRAD_TIMING_H

#include <stdint.h>

/* name, default (cycles unless said otherwise) */
#define TIMING_PARAMETERS(X)                                                                    \
    X(taken_branch, 2)       /* beyond the branch's own cycle */                                 \
    X(jump, 1)               /* beyond the jump's own cycle */                                   \
    X(load_use, 1)           /* where the next instruction uses what was loaded */               \
    X(misaligned, 1)         /* second access of one that crosses a word */                      \
    X(multiply, 1)           /* beyond the multiplication's own cycle */                         \
    X(multiply_high, 4)      /* likewise, upper half */                                          \
    X(multiply_use, 1)       /* where the next instruction uses the product */                   \
    X(divide_least, 3)       /* integer division; one more for each leading zero of the divisor */ \
    X(float_divide, 14)      /* float division and square root, one unit for all cores */        \
    X(l2, 14)                /* beyond a load's or store's own cycle, from a worker */           \
    X(weight, 8)             /* likewise, weight memory */                                       \
    X(cluster_device, 2)     /* likewise, cluster peripherals through the interconnect */        \
    X(soc_device, 22)        /* likewise, SoC peripherals */                                     \
    X(fc_l2, 1)              /* likewise, L2 from the fabric controller */                       \
    X(fc_cluster, 14)        /* likewise, cluster memory and peripherals from it */              \
    X(fc_soc_device, 8)      /* likewise, SoC peripherals from it */                             \
    X(fetch_private, 2)      /* refill of a line of a core's private instruction cache */        \
    X(fetch_shared, 3)       /* refill of a line of the shared instruction cache, besides L2 */  \
    X(fetch_l2, 14)          /* 16 bytes of code from L2 */                                      \
    X(wake, 5)               /* from an event to the next instruction of the core it wakes */    \
    X(start, 10)             /* from fetch enable to a core's first instruction */               \
    X(dma_start, 5)          /* from the last word of a command to its first data */             \
    X(dma_line_out, 1)       /* per line of a transfer from L1, and per 256 bytes of one */       \
    X(hyper_setup, 40)       /* per transfer of the uDMA's HyperBus channel */                   \
    X(hyper_out, 1844)       /* L2 to L3, cycles per 1024 bytes */                               \
    X(hyper_in, 1024)        /* L3 to L2, cycles per 1024 bytes */                               \
    X(fc_timer, 711)         /* what the fabric controller's timer counts in 1024 cycles */

typedef struct {
#define X(name, value) uint32_t name;
    TIMING_PARAMETERS(X)
#undef X
} timing_t;

enum {
#define X(name, value) +1
    TIMING_COUNT = 0 TIMING_PARAMETERS(X)
#undef X
};

void timing_defaults(timing_t *timing);
const char *timing_name(uint32_t index);

#endif
