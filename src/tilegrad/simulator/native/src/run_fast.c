#define RUN run_fast
#define CHECKED 0
#include "execute.h"
