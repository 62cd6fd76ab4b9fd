#include "timing.h"

#include <stddef.h>

void timing_defaults(timing_t *timing)
{
    *timing = (timing_t){
#define X(name, value) .name = value,
        TIMING_PARAMETERS(X)
#undef X
    };
}

const char *timing_name(uint32_t index)
{
    static const char *const names[] = {
#define X(name, value) #name,
        TIMING_PARAMETERS(X)
#undef X
    };
    return index < TIMING_COUNT ? names[index] : NULL;
}
