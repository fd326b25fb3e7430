/* SPDX-License-Identifier: Apache-2.0 */
#include "base/crc.h"

#include <isa-l.h>

#define POLY 0x82f63b78u /* reflected: bit 31 is x^0 */

uint32_t slc_crc32c(uint32_t before, const void *buf, size_t len)
{
    unsigned char *p = (unsigned char *)buf; /* ISA-L only reads it */
    uint32_t crc = ~before;

    while (len > 0) {
        int n = len > (1u << 30) ? 1 << 30 : (int)len;
        crc = crc32_iscsi(p, n, crc);
        p += n;
        len -= (size_t)n;
    }
    return ~crc;
}

/* a(x) b(x) mod P(x), both reflected. */
static uint32_t multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;

    for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
        if (a & bit)
            product ^= b;
        b = b & 1 ? (b >> 1) ^ POLY : b >> 1;
    }
    return product;
}

/* Appending len_b bytes multiplies the first CRC by x^(8 len_b); the inversions before
 * and after cancel out, because both CRCs carry them. */
uint32_t slc_crc32c_combine(uint32_t a, uint32_t b, uint64_t len_b)
{
    uint32_t power = 1u << 31;  /* x^0 */
    uint32_t square = 1u << 23; /* x^8 */

    for (; len_b; len_b >>= 1) {
        if (len_b & 1)
            power = multiply(square, power);
        square = multiply(square, square);
    }
    return multiply(power, a) ^ b;
}
