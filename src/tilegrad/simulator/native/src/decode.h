/* Instructions as the execution loop wants them: decoded once, then run many times. */
#ifndef TILEGRAD_DECODE_H
#define TILEGRAD_DECODE_H

#include <stdint.h>

/* Every operation of the execution loop. Zeroed memory decodes to UNDECODED. */
#define OPERATIONS(X)                                                                                         \
    X(UNDECODED) X(ILLEGAL) X(BREAKPOINT) X(LOOP_END)                                                        \
    X(CONSTANT) X(JAL) X(JALR) X(BEQ) X(BNE) X(BLT) X(BGE) X(BLTU) X(BGEU) X(BEQ_IMM) X(BNE_IMM)            \
    X(LB) X(LH) X(LW) X(LBU) X(LHU) X(SB) X(SH) X(SW)                                                        \
    X(LB_POST) X(LH_POST) X(LW_POST) X(LBU_POST) X(LHU_POST) X(SB_POST) X(SH_POST) X(SW_POST)                \
    X(LB_REG) X(LH_REG) X(LW_REG) X(LBU_REG) X(LHU_REG) X(SB_REG) X(SH_REG) X(SW_REG)                        \
    X(LB_REG_POST) X(LH_REG_POST) X(LW_REG_POST) X(LBU_REG_POST) X(LHU_REG_POST)                             \
    X(SB_REG_POST) X(SH_REG_POST) X(SW_REG_POST) X(ELW) X(FLW) X(FSW)                                        \
    X(ADDI) X(ADDI_STACK) X(SLTI) X(SLTIU) X(XORI) X(ORI) X(ANDI) X(SLLI) X(SRLI) X(SRAI)                    \
    X(ADD) X(SUB) X(SLL) X(SLT) X(SLTU) X(XOR) X(SRL) X(SRA) X(OR) X(AND)                                    \
    X(MUL) X(MULH) X(MULHSU) X(MULHU) X(DIV) X(DIVU) X(REM) X(REMU)                                          \
    X(FENCE) X(FENCE_I) X(TRAP) X(WFI) X(CSR)                                                                \
    X(FMADD) X(FMSUB) X(FNMSUB) X(FNMADD) X(FADD) X(FSUB) X(FMUL) X(FDIV) X(FSQRT) X(FLOAT_SLOW)             \
    X(FSGNJ) X(FSGNJN) X(FSGNJX) X(FMIN) X(FMAX) X(FEQ) X(FLT) X(FLE) X(FCLASS)                              \
    X(FCVT_W) X(FCVT_WU) X(FCVT_S_W) X(FCVT_S_WU) X(FMV_X) X(FMV_F)                                          \
    X(LOOP_START) X(LOOP_SET_END) X(LOOP_COUNT) X(LOOP_COUNT_IMM) X(LOOP_SETUP) X(LOOP_SETUP_IMM)            \
    X(MAC) X(MSU) X(SLET) X(SLETU) X(MIN) X(MINU) X(MAX) X(MAXU) X(ABS) X(ROR) X(FF1) X(FL1) X(CNT)          \
    X(EXTHS) X(EXTHZ) X(EXTBS) X(EXTBZ) X(CLIP) X(CLIPU) X(CLIP_REG) X(CLIPU_REG)                            \
    X(EXTRACT) X(EXTRACTU) X(BSET) X(BCLR)

enum operation {
#define X(name) OP_##name,
    OPERATIONS(X)
#undef X
    OPERATION_COUNT
};

/* Register index 32 takes what is written to x0. */
enum { REGISTER_SINK = 32 };

typedef struct {
    uint16_t operation;
    uint8_t rd, rs1, rs2, rs3;
    uint8_t size;    /* in halfwords */
    uint8_t stall;   /* the next instruction uses the result: 1 integer unit, 2 float unit */
    int32_t immediate; /* branches and jumps: distance in halfwords */
    uint16_t extra;    /* CSR function, second immediate; float: rounding mode, and the operation from bit 8 */
    uint16_t hidden;   /* the operation that BREAKPOINT or LOOP_END stands for */
} decoded_t;

/* Decodes the instruction at pc; `word` holds its 32 bits (the upper half of a 16-bit one is the next instruction),
 * `following` the bytes behind its first two halfwords. */
void decode(decoded_t *entry, uint32_t pc, uint32_t word, uint32_t following);

/* Length in bytes of an instruction. */
static inline uint32_t instruction_bytes(uint32_t word)
{
    return (word & 3) == 3 ? 4 : 2;
}

#endif
