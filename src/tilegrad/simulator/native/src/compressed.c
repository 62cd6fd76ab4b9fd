/* The compressed instructions of RV32FC, expanded to the instructions that they abbreviate. */
#include "compressed.h"

static uint32_t bits(uint32_t word, unsigned first, unsigned count)
{
    return (word >> first) & ((1u << count) - 1);
}

static uint32_t sign_extend(uint32_t value, unsigned width)
{
    const uint32_t sign = 1u << (width - 1);
    return (value ^ sign) - sign;
}

static uint32_t type_i(uint32_t opcode, uint32_t funct3, uint32_t rd, uint32_t rs1, uint32_t immediate)
{
    return opcode | rd << 7 | funct3 << 12 | rs1 << 15 | immediate << 20;
}

static uint32_t type_s(uint32_t opcode, uint32_t funct3, uint32_t rs1, uint32_t rs2, uint32_t immediate)
{
    return opcode | bits(immediate, 0, 5) << 7 | funct3 << 12 | rs1 << 15 | rs2 << 20 | bits(immediate, 5, 7) << 25;
}

static uint32_t type_r(uint32_t funct7, uint32_t funct3, uint32_t rd, uint32_t rs1, uint32_t rs2)
{
    return 0x33 | rd << 7 | funct3 << 12 | rs1 << 15 | rs2 << 20 | funct7 << 25;
}

static uint32_t jump(uint32_t rd, uint32_t offset)
{
    return 0x6f | rd << 7 | bits(offset, 12, 8) << 12 | bits(offset, 11, 1) << 20 | bits(offset, 1, 10) << 21 |
           bits(offset, 20, 1) << 31;
}

static uint32_t branch(uint32_t funct3, uint32_t rs1, uint32_t offset)
{
    return 0x63 | bits(offset, 11, 1) << 7 | bits(offset, 1, 4) << 8 | funct3 << 12 | rs1 << 15 |
           bits(offset, 5, 6) << 25 | bits(offset, 12, 1) << 31;
}

static uint32_t quadrant0(uint32_t c)
{
    const uint32_t near = 8 + bits(c, 2, 3), base = 8 + bits(c, 7, 3);
    const uint32_t word = bits(c, 6, 1) << 2 | bits(c, 10, 3) << 3 | bits(c, 5, 1) << 6;
    const uint32_t frame = bits(c, 6, 1) << 2 | bits(c, 5, 1) << 3 | bits(c, 11, 2) << 4 | bits(c, 7, 4) << 6;
    switch (bits(c, 13, 3)) {
    case 0: return frame ? type_i(0x13, 0, near, 2, frame) : 0; /* c.addi4spn */
    case 2: return type_i(0x03, 2, near, base, word);           /* c.lw */
    case 3: return type_i(0x07, 2, near, base, word);           /* c.flw */
    case 6: return type_s(0x23, 2, base, near, word);           /* c.sw */
    case 7: return type_s(0x27, 2, base, near, word);           /* c.fsw */
    default: return 0;
    }
}

static uint32_t arithmetic(uint32_t c)
{
    static const uint32_t funct3[4] = {0, 4, 6, 7};
    const uint32_t rd = 8 + bits(c, 7, 3), rs2 = 8 + bits(c, 2, 3), shift = bits(c, 2, 5);
    switch (bits(c, 10, 2)) {
    case 0: return bits(c, 12, 1) ? 0 : type_i(0x13, 5, rd, rd, shift);         /* c.srli */
    case 1: return bits(c, 12, 1) ? 0 : type_i(0x13, 5, rd, rd, shift | 0x400); /* c.srai */
    case 2: return type_i(0x13, 7, rd, rd, sign_extend(bits(c, 12, 1) << 5 | shift, 6)); /* c.andi */
    default: break;
    }
    if (bits(c, 12, 1))
        return 0;
    return type_r(bits(c, 5, 2) == 0 ? 0x20 : 0, funct3[bits(c, 5, 2)], rd, rd, rs2); /* c.sub, xor, or, and */
}

static uint32_t quadrant1(uint32_t c)
{
    const uint32_t rd = bits(c, 7, 5);
    const uint32_t small = sign_extend(bits(c, 12, 1) << 5 | bits(c, 2, 5), 6);
    const uint32_t stack = sign_extend(bits(c, 6, 1) << 4 | bits(c, 2, 1) << 5 | bits(c, 5, 1) << 6 |
                                           bits(c, 3, 2) << 7 | bits(c, 12, 1) << 9, 10);
    const uint32_t far = sign_extend(bits(c, 3, 3) << 1 | bits(c, 11, 1) << 4 | bits(c, 2, 1) << 5 |
                                         bits(c, 7, 1) << 6 | bits(c, 6, 1) << 7 | bits(c, 9, 2) << 8 |
                                         bits(c, 8, 1) << 10 | bits(c, 12, 1) << 11, 12);
    const uint32_t close = sign_extend(bits(c, 3, 2) << 1 | bits(c, 10, 2) << 3 | bits(c, 2, 1) << 5 |
                                           bits(c, 5, 2) << 6 | bits(c, 12, 1) << 8, 9);
    switch (bits(c, 13, 3)) {
    case 0: return type_i(0x13, 0, rd, rd, small); /* c.addi, c.nop */
    case 1: return jump(1, far);                   /* c.jal */
    case 2: return type_i(0x13, 0, rd, 0, small);  /* c.li */
    case 3:
        if (rd == 2)
            return stack ? type_i(0x13, 0, 2, 2, stack) : 0;          /* c.addi16sp */
        return small ? 0x37 | rd << 7 | (small & 0xfffff) << 12 : 0; /* c.lui */
    case 4: return arithmetic(c);
    case 5: return jump(0, far);                                /* c.j */
    case 6: return branch(0, 8 + bits(c, 7, 3), close);         /* c.beqz */
    default: return branch(1, 8 + bits(c, 7, 3), close);        /* c.bnez */
    }
}

static uint32_t quadrant2(uint32_t c)
{
    const uint32_t rd = bits(c, 7, 5), rs2 = bits(c, 2, 5);
    const uint32_t load = bits(c, 4, 3) << 2 | bits(c, 12, 1) << 5 | bits(c, 2, 2) << 6;
    const uint32_t store = bits(c, 9, 4) << 2 | bits(c, 7, 2) << 6;
    switch (bits(c, 13, 3)) {
    case 0: return bits(c, 12, 1) ? 0 : type_i(0x13, 1, rd, rd, rs2); /* c.slli */
    case 2: return rd ? type_i(0x03, 2, rd, 2, load) : 0;            /* c.lwsp */
    case 3: return type_i(0x07, 2, rd, 2, load);                     /* c.flwsp */
    case 4:
        if (!bits(c, 12, 1)) {
            if (rs2)
                return type_r(0, 0, rd, 0, rs2);            /* c.mv */
            return rd ? type_i(0x67, 0, 0, rd, 0) : 0;      /* c.jr */
        }
        if (rs2)
            return type_r(0, 0, rd, rd, rs2);               /* c.add */
        return rd ? type_i(0x67, 0, 1, rd, 0) : 0x00100073; /* c.jalr, c.ebreak */
    case 6: return type_s(0x23, 2, 2, rs2, store);          /* c.swsp */
    case 7: return type_s(0x27, 2, 2, rs2, store);          /* c.fswsp */
    default: return 0;
    }
}

uint32_t expand_compressed(uint32_t word)
{
    const uint32_t c = word & 0xffff;
    switch (c & 3) {
    case 0: return quadrant0(c);
    case 1: return quadrant1(c);
    case 2: return quadrant2(c);
    default: return word;
    }
}
