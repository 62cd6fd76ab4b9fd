/* RV32IMFC, Zicsr, Zifencei and a part of Xpulp (docs/simulator.md lists it) to `decoded_t`. */
#include "decode.h"

#include "compressed.h"

static uint32_t bits(uint32_t word, unsigned first, unsigned count)
{
    return (word >> first) & ((1u << count) - 1);
}

static int32_t immediate_i(uint32_t word)
{
    return (int32_t)word >> 20;
}

static int32_t immediate_s(uint32_t word)
{
    return ((int32_t)word >> 25) * 32 + (int32_t)bits(word, 7, 5);
}

/* In halfwords. */
static int32_t immediate_b(uint32_t word)
{
    return ((int32_t)word >> 31) * 2048 + (int32_t)(bits(word, 7, 1) << 10 | bits(word, 25, 6) << 4 | bits(word, 8, 4));
}

static int32_t immediate_j(uint32_t word)
{
    return ((int32_t)word >> 31) * 524288 +
           (int32_t)(bits(word, 12, 8) << 11 | bits(word, 20, 1) << 10 | bits(word, 21, 10));
}

static uint8_t sink(uint32_t rd)
{
    return (uint8_t)(rd ? rd : REGISTER_SINK);
}

static void set(decoded_t *e, enum operation operation)
{
    e->operation = (uint16_t)operation;
}

/* Picks from a table by an index; ILLEGAL (never UNDECODED) where the table has no entry. */
static void pick(decoded_t *e, const uint16_t *table, uint32_t index)
{
    e->operation = table[index] ? table[index] : OP_ILLEGAL;
}

static void decode_load(decoded_t *e, uint32_t word)
{
    static const uint16_t plain[8] = {OP_LB, OP_LH, OP_LW, 0, OP_LBU, OP_LHU, OP_ELW, 0};
    static const uint16_t indexed[128] = {
        [0x00] = OP_LB_REG, [0x08] = OP_LH_REG, [0x10] = OP_LW_REG, [0x20] = OP_LBU_REG, [0x28] = OP_LHU_REG};
    e->immediate = immediate_i(word);
    if (bits(word, 12, 3) == 7)
        pick(e, indexed, bits(word, 25, 7));
    else
        pick(e, plain, bits(word, 12, 3));
}

static void decode_load_post(decoded_t *e, uint32_t word)
{
    static const uint16_t plain[8] = {OP_LB_POST, OP_LH_POST, OP_LW_POST, 0, OP_LBU_POST, OP_LHU_POST, 0, 0};
    static const uint16_t indexed[128] = {[0x00] = OP_LB_REG_POST, [0x08] = OP_LH_REG_POST, [0x10] = OP_LW_REG_POST,
                                          [0x20] = OP_LBU_REG_POST, [0x28] = OP_LHU_REG_POST};
    e->immediate = immediate_i(word);
    if (bits(word, 12, 3) == 7)
        pick(e, indexed, bits(word, 25, 7));
    else
        pick(e, plain, bits(word, 12, 3));
    /* Which of the two results a register would hold is not specified. */
    if (bits(word, 7, 5) == bits(word, 15, 5))
        set(e, OP_ILLEGAL);
}

static void decode_store(decoded_t *e, uint32_t word)
{
    static const uint16_t table[8] = {OP_SB, OP_SH, OP_SW, 0, OP_SB_REG, OP_SH_REG, OP_SW_REG, 0};
    e->immediate = immediate_s(word);
    e->rs3 = (uint8_t)bits(word, 7, 5);
    pick(e, table, bits(word, 12, 3));
    if (bits(word, 14, 1) && bits(word, 25, 7))
        set(e, OP_ILLEGAL);
}

static void decode_store_post(decoded_t *e, uint32_t word)
{
    static const uint16_t table[8] = {OP_SB_POST,     OP_SH_POST,     OP_SW_POST,     0,
                                      OP_SB_REG_POST, OP_SH_REG_POST, OP_SW_REG_POST, 0};
    e->immediate = immediate_s(word);
    e->rs3 = (uint8_t)bits(word, 7, 5);
    pick(e, table, bits(word, 12, 3));
    if (bits(word, 14, 1) && bits(word, 25, 7))
        set(e, OP_ILLEGAL);
}

static void decode_immediate(decoded_t *e, uint32_t word)
{
    static const uint16_t table[8] = {OP_ADDI, OP_SLLI, OP_SLTI, OP_SLTIU, OP_XORI, OP_SRLI, OP_ORI, OP_ANDI};
    const uint32_t funct3 = bits(word, 12, 3), funct7 = bits(word, 25, 7);
    e->immediate = immediate_i(word);
    pick(e, table, funct3);
    if (funct3 == 0 && e->rd == 2 && e->rs1 == 2)
        set(e, OP_ADDI_STACK);
    if (funct3 == 0 && e->rs1 == 0)
        set(e, OP_CONSTANT);
    if (funct3 == 1 || funct3 == 5) {
        e->immediate = (int32_t)bits(word, 20, 5);
        if (funct3 == 5 && funct7 == 0x20)
            set(e, OP_SRAI);
        else if (funct7)
            set(e, OP_ILLEGAL);
    }
}

/* Bit manipulation with a field of `immediate` + 1 bits at `extra`. */
static void decode_field(decoded_t *e, uint32_t word)
{
    static const uint16_t table[8] = {OP_EXTRACT, OP_EXTRACTU, 0, OP_BCLR, OP_BSET, 0, 0, 0};
    pick(e, table, bits(word, 12, 3));
    e->immediate = (int32_t)bits(word, 25, 5);
    e->extra = (uint16_t)bits(word, 20, 5);
    if (e->immediate + e->extra > 31)
        set(e, OP_ILLEGAL);
}

static void decode_unary(decoded_t *e, uint32_t word)
{
    static const uint16_t table[8] = {OP_FF1, OP_FL1, 0, OP_CNT, OP_EXTHS, OP_EXTHZ, OP_EXTBS, OP_EXTBZ};
    pick(e, table, bits(word, 12, 3));
    if (bits(word, 20, 5))
        set(e, OP_ILLEGAL);
}

static void decode_register(decoded_t *e, uint32_t word)
{
    static const uint16_t base[8] = {OP_ADD, OP_SLL, OP_SLT, OP_SLTU, OP_XOR, OP_SRL, OP_OR, OP_AND};
    static const uint16_t multiply[8] = {OP_MUL, OP_MULH, OP_MULHSU, OP_MULHU, OP_DIV, OP_DIVU, OP_REM, OP_REMU};
    static const uint16_t compare[8] = {OP_ABS, 0, OP_SLET, OP_SLETU, OP_MIN, OP_MINU, OP_MAX, OP_MAXU};
    static const uint16_t clip[8] = {0, OP_CLIP, OP_CLIPU, 0, 0, OP_CLIP_REG, OP_CLIPU_REG, 0};
    static const uint16_t alternate[8] = {OP_SUB, 0, 0, 0, 0, OP_SRA, 0, 0};
    static const uint16_t accumulate[8] = {OP_MAC, OP_MSU, 0, 0, 0, 0, 0, 0};
    static const uint16_t rotate[8] = {0, 0, 0, 0, 0, OP_ROR, 0, 0};
    const uint32_t funct3 = bits(word, 12, 3);
    if (bits(word, 30, 2) == 3) {
        decode_field(e, word);
        return;
    }
    switch (bits(word, 25, 7)) {
    case 0x00: pick(e, base, funct3); break;
    case 0x01: pick(e, multiply, funct3); break;
    case 0x20: pick(e, alternate, funct3); break;
    case 0x02:
        pick(e, compare, funct3);
        if (funct3 == 0 && bits(word, 20, 5))
            set(e, OP_ILLEGAL);
        break;
    case 0x04: pick(e, rotate, funct3); break;
    case 0x08: decode_unary(e, word); break;
    case 0x0a:
        pick(e, clip, funct3);
        e->immediate = (int32_t)bits(word, 20, 5);
        break;
    case 0x21: pick(e, accumulate, funct3); break;
    default: set(e, OP_ILLEGAL); break;
    }
}

static void decode_branch(decoded_t *e, uint32_t word)
{
    static const uint16_t table[8] = {OP_BEQ, OP_BNE, OP_BEQ_IMM, OP_BNE_IMM, OP_BLT, OP_BGE, OP_BLTU, OP_BGEU};
    pick(e, table, bits(word, 12, 3));
    e->immediate = immediate_b(word);
    /* The sign-extended operand of the branches that compare with one. */
    e->extra = (uint16_t)(int16_t)((int32_t)(word << 7) >> 27);
}

static void decode_system(decoded_t *e, uint32_t word)
{
    const uint32_t funct3 = bits(word, 12, 3);
    e->immediate = (int32_t)word;
    if (word == 0x00000073 || word == 0x00100073)
        set(e, OP_TRAP);
    else if (word == 0x10500073)
        set(e, OP_WFI);
    else if (funct3 & 3) {
        set(e, OP_CSR);
        e->extra = (uint16_t)funct3;
        e->immediate = (int32_t)bits(word, 20, 12);
    } else
        set(e, OP_ILLEGAL);
}

static void decode_hardware_loop(decoded_t *e, uint32_t word)
{
    static const uint16_t table[8] = {OP_LOOP_START, OP_LOOP_SET_END, OP_LOOP_COUNT, OP_LOOP_COUNT_IMM,
                                      OP_LOOP_SETUP, OP_LOOP_SETUP_IMM, 0, 0};
    pick(e, table, bits(word, 12, 3));
    e->rd = (uint8_t)bits(word, 7, 1);
    e->immediate = (int32_t)bits(word, 20, 12);
    e->extra = (uint16_t)bits(word, 15, 5);
    if (bits(word, 8, 4))
        set(e, OP_ILLEGAL);
}

/* With a rounding mode: 0 and 7 have operations of their own, reserved ones are illegal. */
static void rounded(decoded_t *e, enum operation operation, uint32_t mode)
{
    set(e, operation);
    e->extra = (uint16_t)(mode | (uint32_t)operation << 8);
    if (mode == 5 || mode == 6)
        set(e, OP_ILLEGAL);
    else if (mode != 0 && mode != 7)
        set(e, OP_FLOAT_SLOW);
}

static void decode_float_pair(decoded_t *e, uint32_t funct3, const uint16_t *table)
{
    e->operation = funct3 < 3 ? table[funct3] : OP_ILLEGAL;
}

static void decode_float(decoded_t *e, uint32_t word)
{
    static const uint16_t sign[3] = {OP_FSGNJ, OP_FSGNJN, OP_FSGNJX};
    static const uint16_t extreme[3] = {OP_FMIN, OP_FMAX, OP_ILLEGAL};
    static const uint16_t compare[3] = {OP_FLE, OP_FLT, OP_FEQ};
    const uint32_t mode = bits(word, 12, 3), source = bits(word, 20, 5);
    set(e, OP_ILLEGAL);
    switch (bits(word, 25, 7)) {
    case 0x00: rounded(e, OP_FADD, mode); break;
    case 0x04: rounded(e, OP_FSUB, mode); break;
    case 0x08: rounded(e, OP_FMUL, mode); break;
    case 0x0c: rounded(e, OP_FDIV, mode); break;
    case 0x10: decode_float_pair(e, mode, sign); break;
    case 0x14: decode_float_pair(e, mode, extreme); break;
    case 0x2c:
        if (source == 0)
            rounded(e, OP_FSQRT, mode);
        break;
    case 0x50:
        decode_float_pair(e, mode, compare);
        e->rd = sink(bits(word, 7, 5));
        break;
    case 0x60:
        if (source < 2)
            rounded(e, source ? OP_FCVT_WU : OP_FCVT_W, mode);
        e->rd = sink(bits(word, 7, 5));
        break;
    case 0x68:
        if (source < 2)
            rounded(e, source ? OP_FCVT_S_WU : OP_FCVT_S_W, mode);
        break;
    case 0x70:
        if (source == 0 && mode < 2)
            set(e, mode ? OP_FCLASS : OP_FMV_X);
        e->rd = sink(bits(word, 7, 5));
        break;
    case 0x78:
        if (source == 0 && mode == 0)
            set(e, OP_FMV_F);
        break;
    default: break;
    }
}

static void decode_fused(decoded_t *e, uint32_t word, enum operation operation)
{
    e->rs3 = (uint8_t)bits(word, 27, 5);
    if (bits(word, 25, 2))
        set(e, OP_ILLEGAL);
    else
        rounded(e, operation, bits(word, 12, 3));
}

static void decode_word(decoded_t *e, uint32_t pc, uint32_t word)
{
    const uint32_t rd = bits(word, 7, 5), funct3 = bits(word, 12, 3);
    e->rd = sink(rd);
    e->rs1 = (uint8_t)bits(word, 15, 5);
    e->rs2 = (uint8_t)bits(word, 20, 5);
    switch (word & 0x7f) {
    case 0x03: decode_load(e, word); break;
    case 0x07:
    case 0x27:
        set(e, funct3 != 2 ? OP_ILLEGAL : (word & 0x20) ? OP_FSW : OP_FLW);
        e->immediate = (word & 0x20) ? immediate_s(word) : immediate_i(word);
        e->rd = (uint8_t)rd;
        break;
    case 0x0b: decode_load_post(e, word); break;
    case 0x0f: set(e, funct3 == 0 ? OP_FENCE : funct3 == 1 ? OP_FENCE_I : OP_ILLEGAL); break;
    case 0x13: decode_immediate(e, word); break;
    case 0x17:
        set(e, OP_CONSTANT);
        e->immediate = (int32_t)(pc + (word & 0xfffff000u));
        break;
    case 0x23: decode_store(e, word); break;
    case 0x2b: decode_store_post(e, word); break;
    case 0x33: decode_register(e, word); break;
    case 0x37:
        set(e, OP_CONSTANT);
        e->immediate = (int32_t)(word & 0xfffff000u);
        break;
    case 0x43: case 0x47: case 0x4b: case 0x4f:
        e->rd = (uint8_t)rd;
        decode_fused(e, word, (enum operation)(OP_FMADD + ((word >> 2) & 3)));
        break;
    case 0x53:
        e->rd = (uint8_t)rd;
        decode_float(e, word);
        break;
    case 0x63: decode_branch(e, word); break;
    case 0x67:
        set(e, funct3 == 0 ? OP_JALR : OP_ILLEGAL);
        e->immediate = immediate_i(word);
        break;
    case 0x6f:
        set(e, OP_JAL);
        e->immediate = immediate_j(word);
        break;
    case 0x73: decode_system(e, word); break;
    case 0x7b: decode_hardware_loop(e, word); break;
    default: set(e, OP_ILLEGAL); break;
    }
}

static int is_integer_load(uint16_t operation)
{
    return (operation >= OP_LB && operation <= OP_LHU) || (operation >= OP_LB_POST && operation <= OP_LHU_POST) ||
           (operation >= OP_LB_REG && operation <= OP_LHU_REG) ||
           (operation >= OP_LB_REG_POST && operation <= OP_LHU_REG_POST);
}

static int is_product(uint16_t operation)
{
    return operation >= OP_MUL && operation <= OP_MULHU;
}

/* 0 no, 1 an instruction of the integer pipeline reads register `r`, 2 one that goes to a float unit does. */
static uint8_t reads(uint32_t word, uint32_t r, int is_float)
{
    const uint32_t rd = bits(word, 7, 5), rs1 = bits(word, 15, 5), rs2 = bits(word, 20, 5);
    const uint32_t funct7 = bits(word, 25, 7), funct3 = bits(word, 12, 3);
    switch (word & 0x7f) {
    case 0x03: case 0x0b: return !is_float && (rs1 == r || (funct3 == 7 && rs2 == r));
    case 0x07: case 0x13: case 0x67: return !is_float && rs1 == r;
    case 0x23: case 0x2b: return !is_float && (rs1 == r || rs2 == r || (funct3 > 3 && rd == r));
    case 0x27: return is_float ? rs2 == r : rs1 == r;
    case 0x33: return !is_float && (rs1 == r || (funct7 < 0x60 && rs2 == r) || (funct7 == 0x21 && rd == r));
    case 0x63: return !is_float && (rs1 == r || (bits(word, 13, 2) != 1 && rs2 == r));
    case 0x73: return !is_float && funct3 > 0 && funct3 < 4 && rs1 == r;
    case 0x7b: return !is_float && (funct3 == 2 || funct3 == 4) && rs1 == r;
    case 0x43: case 0x47: case 0x4b: case 0x4f:
        return is_float && (rs1 == r || rs2 == r || bits(word, 27, 5) == r) ? 2 : 0;
    case 0x53:
        if (funct7 == 0x78 || funct7 == 0x68)
            return !is_float && rs1 == r ? (funct7 == 0x78 ? 1 : 2) : 0;
        if (funct7 == 0x70)
            return is_float && rs1 == r;
        return is_float && (rs1 == r || (rs2 == r && funct7 != 0x60 && funct7 != 0x2c)) ? 2 : 0;
    default: return 0;
    }
}

void decode(decoded_t *e, uint32_t pc, uint32_t word, uint32_t following)
{
    const uint32_t full = expand_compressed(word);
    *e = (decoded_t){.size = (uint8_t)(instruction_bytes(word) / 2)};
    decode_word(e, pc, full);
    if (e->operation == OP_ILLEGAL)
        e->immediate = (int32_t)(e->size == 1 ? word & 0xffff : word);
    const uint32_t rd = bits(full, 7, 5);
    if (e->operation == OP_FLW || (rd && (is_integer_load(e->operation) || is_product(e->operation))))
        e->stall = reads(expand_compressed(following), rd, e->operation == OP_FLW);
}
