/* The simulator's C interface: everything that the Python driver calls. */
#ifndef TILEGRAD_SIMULATOR_H
#define TILEGRAD_SIMULATOR_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define SIM_API __attribute__((visibility("default")))
#else
#define SIM_API
#endif

enum { SIM_INTERFACE = 4 };

/* Why a run stopped. The names in simulator/machine.py follow this order. */
enum sim_stop {
    SIM_STOP_NONE,
    SIM_STOP_EXIT,       /* the program stored its exit code: value */
    SIM_STOP_BUDGET,     /* the cycles granted are used up */
    SIM_STOP_BREAKPOINT, /* core reached a breakpoint: pc */
    SIM_STOP_ILLEGAL,    /* illegal instruction: value is its encoding */
    SIM_STOP_FLOAT,      /* float instruction on the fabric controller */
    SIM_STOP_TRAP,       /* ecall, ebreak: value is the encoding */
    SIM_STOP_FETCH,      /* instruction fetch from where no code can be: address */
    SIM_STOP_LOAD,       /* load from unmapped memory or an unmodelled device: address, size */
    SIM_STOP_STORE,      /* store likewise */
    SIM_STOP_DEVICE,     /* a device register was used wrongly: address, value, detail */
    SIM_STOP_DMA,        /* DMA or uDMA outside mapped memory: address, size, detail */
    SIM_STOP_STACK,      /* stack pointer below its bound: address is the pointer */
    SIM_STOP_DEADLOCK,   /* every core sleeps and nothing can wake one */
    SIM_STOP_GUARD       /* access that the guard table forbids: address, size, kernel, detail */
};

/* What sim_stop.detail says for SIM_STOP_GUARD. */
enum sim_guard_detail {
    SIM_GUARD_READ,
    SIM_GUARD_WRITE,
    SIM_GUARD_DMA_READ,
    SIM_GUARD_DMA_WRITE,
    SIM_GUARD_UNWAITED,     /* a load, or with value 1 a store, of what an unfinished transfer moves */
    SIM_GUARD_DMA_UNWAITED, /* likewise by a transfer: value 1 where it writes */
    SIM_GUARD_UNLOADED,     /* a load from L1 that nothing has written, or nothing since its contents died */
    SIM_GUARD_TRANSFERS     /* too many transfers that nobody has waited for */
};

typedef struct {
    uint32_t reason;
    uint32_t core;
    uint32_t pc;
    uint32_t address;
    uint32_t size;
    uint32_t value;
    uint32_t detail;
    int32_t kernel; /* the kernel that ran on the core, or -1 */
    uint32_t tile;  /* which of its calls that was */
    /* SIM_GUARD_UNWAITED, SIM_GUARD_DMA_UNWAITED: the transfer that nobody has waited for, and where it was started. */
    uint32_t transfer_core, transfer_pc, transfer_bytes, transfer_inwards;
    uint64_t cycle;
} sim_stop_t;

/* A core waits for one of these while it sleeps. */
enum sim_wait {
    SIM_WAIT_NONE,
    SIM_WAIT_OFF, /* not started */
    SIM_WAIT_INTERRUPT,
    SIM_WAIT_EVENT,
    SIM_WAIT_BARRIER,
    SIM_WAIT_MUTEX,
    SIM_WAIT_DISPATCH,
    SIM_WAIT_DMA_QUEUE,
    SIM_WAIT_DMA_COUNTER
};

enum sim_stall {
    SIM_STALL_LOAD_USE,
    SIM_STALL_BANK,
    SIM_STALL_MEMORY,
    SIM_STALL_FPU,
    SIM_STALL_DIVIDER,
    SIM_STALL_FETCH,
    SIM_STALL_CONTROL,
    SIM_STALL_MULTIPLY,
    SIM_STALL_EVENT,
    SIM_STALL_KINDS
};

/* Counters of one core, or of one function on one core. */
typedef struct {
    uint64_t cycles; /* while awake */
    uint64_t instructions;
    uint64_t loads;
    uint64_t stores;
    uint64_t branches;
    uint64_t taken;
    uint64_t jumps;
    uint64_t multiply_adds; /* fused float */
    uint64_t floats;        /* other float arithmetic */
    uint64_t sleep;         /* cycles asleep since it was started */
    uint64_t stalls[SIM_STALL_KINDS];
} sim_counters_t;

/* What one instruction did, on all cores together. */
typedef struct {
    uint64_t count; /* how often it was executed */
    uint64_t sleep;
    uint64_t stalls[SIM_STALL_KINDS];
} sim_hot_t;

enum sim_trace_kind {
    SIM_TRACE_ENTER,
    SIM_TRACE_LEAVE,
    SIM_TRACE_SLEEP,
    SIM_TRACE_WAKE,
    SIM_TRACE_DMA_BEGIN,
    SIM_TRACE_DMA_END
};

typedef struct {
    uint64_t cycle;
    uint32_t kind;
    uint32_t core;
    uint32_t a; /* kernel, with the call in b; what the core waits for; L1 address of the transfer */
    uint32_t b; /* external address of the transfer */
    uint32_t bytes;
    uint32_t flags;  /* transfer: bit 0 external to L1, bit 1 2D; direction and number of the transfer above */
    /* What the core has counted so far. */
    uint64_t multiply_adds;
    uint64_t stalls[SIM_STALL_KINDS];
} sim_trace_t;

/* One range that a kernel may touch; kernel -1: every kernel; tile -1: in every call. */
typedef struct {
    int32_t kernel;
    int32_t tile;
    uint32_t first;
    uint32_t last; /* inclusive */
    uint32_t access; /* bit 0 read, bit 1 write, bit 2: what it holds is dead after the call */
    uint32_t cores;  /* mask */
} sim_range_t;

typedef struct simulator sim_t;

SIM_API uint32_t sim_interface(void);
SIM_API sim_t *sim_create(uint32_t cores);
SIM_API void sim_destroy(sim_t *sim);

/* Timing parameters by index in the order of timing.h; returns 0 where there is none of that index. */
SIM_API int sim_parameter_get(sim_t *sim, uint32_t index, uint32_t *value);
SIM_API int sim_parameter_set(sim_t *sim, uint32_t index, uint32_t value);
SIM_API const char *sim_parameter_name(uint32_t index);

/* Memory as a program sees it, L3 from 0x80000000; 0 where the range is not mapped. */
SIM_API int sim_read(sim_t *sim, uint32_t address, void *data, uint32_t bytes);
SIM_API int sim_write(sim_t *sim, uint32_t address, const void *data, uint32_t bytes);
/* Notes whether code reads the float flags; called with each executable segment after its bytes are written. */
SIM_API void sim_scan_code(sim_t *sim, uint32_t address, uint32_t bytes);

SIM_API void sim_start(sim_t *sim, uint32_t core, uint32_t pc);
SIM_API void sim_park(sim_t *sim, uint32_t core);
SIM_API void sim_set_stack(sim_t *sim, uint32_t core, uint32_t lowest);
SIM_API int sim_breakpoint(sim_t *sim, uint32_t pc, int on);
/* Runs until something stops the program, at most to the given cycle of the clock. */
SIM_API void sim_run(sim_t *sim, uint64_t until, sim_stop_t *stop);

/* 0..31 x, 32..63 f, 64 pc, 65 fcsr, 66 what the core waits for. */
SIM_API uint32_t sim_register_get(sim_t *sim, uint32_t core, uint32_t index);
SIM_API void sim_register_set(sim_t *sim, uint32_t core, uint32_t index, uint32_t value);
SIM_API uint64_t sim_cycle(sim_t *sim);
SIM_API void sim_counters(sim_t *sim, uint32_t core, sim_counters_t *counters);
/* Text printed since the last call; returns how many bytes were copied. */
SIM_API uint32_t sim_output(sim_t *sim, char *text, uint32_t capacity);

/* Kernels for guard and trace: first instructions of functions, numbered from 0, then `starts` functions at whose
 * first instruction a core begins anew to count its calls of each kernel. */
SIM_API int sim_kernels(sim_t *sim, const uint32_t *entries, uint32_t count, uint32_t starts);
/* The ranges by kernel, those of every call of a kernel before those of its tiles 0, 1, ..., those of every kernel last. */
SIM_API int sim_guard(sim_t *sim, const sim_range_t *ranges, uint32_t count);
SIM_API void sim_trace(sim_t *sim, int on);
SIM_API uint32_t sim_trace_read(sim_t *sim, sim_trace_t *records, uint32_t capacity);
/* Functions for the profile: sorted, disjoint [first, end) pairs; with `instructions`, each of theirs is counted too. */
SIM_API int sim_profile(sim_t *sim, const uint32_t *bounds, uint32_t count, int instructions);
SIM_API int sim_profile_read(sim_t *sim, uint32_t core, uint32_t function, sim_counters_t *counters);
/* What was counted for the instruction at pc; 0 where instructions are not counted there. */
SIM_API int sim_hot_read(sim_t *sim, uint32_t pc, sim_hot_t *hot);

#endif
