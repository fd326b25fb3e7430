/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BASE_CRC_H
#define SLC_BASE_CRC_H

#include <stddef.h>
#include <stdint.h>

/*
 * CRC-32C (Castagnoli, RFC 3720 appendix B.4), computed by ISA-L. It finds damage, not
 * malice. The CRC of "123456789" is 0xe3069283.
 */

/* CRC of what came before (0 at the start) followed by buf [len]. */
uint32_t slc_crc32c(uint32_t before, const void *buf, size_t len);

/* CRC of A followed by B, from crc(A), crc(B) and B's length: a block that several
 * ranks wrote needs no second reading. */
uint32_t slc_crc32c_combine(uint32_t a, uint32_t b, uint64_t len_b);

#endif
