/* As run_fast.c, with every access checked against the guard table and every instruction observed. */
#define RUN run_checked
#define CHECKED 1
#include "execute.h"
