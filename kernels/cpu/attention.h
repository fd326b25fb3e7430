/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CPU_ATTENTION_H
#define SLC_KERNELS_CPU_ATTENTION_H

#include "kernels/cpu/block.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

/* Queries and keys of one block: the scores of a block fit the first cache level. */
#define SLC_ATTN_BQ 64
#define SLC_ATTN_BK 64

/*
 * Rows of a block in a buffer lie this far apart: a power of two would put them into
 * few sets of the first cache level, and so do heads in memory, which is why a block
 * that is read several times is copied.
 */
#define SLC_ATTN_ROW (SLC_CPU_HEAD + 16)
static inline int64_t slc_attn_row(int64_t D)
{
    return (D + 15) / 16 * 16 + 16;
}

/* A block of rows of one head as fp32: `rows` at distance `ld`. */
struct slc_block {
    const float *rows;
    int64_t ld;
};

/* Rows [first, first+n) of `head` of p [T,heads,D]: in place, or converted into buf. */
static inline struct slc_block slc_block_of(const void *p, enum slc_dtype t,
                                            int64_t first, int64_t n, int64_t heads,
                                            int64_t head, int64_t D, float *buf)
{
    const int64_t at = (first * heads + head) * D;

    if (t == SLC_F32)
        return (struct slc_block){(const float *)p + at, heads * D};
    for (int64_t i = 0; i < n; i++)
        slc_in(p, t, at + i * heads * D, D, buf + i * slc_attn_row(D));
    return (struct slc_block){buf, slc_attn_row(D)};
}

/* The same, always in buf. */
static inline struct slc_block slc_block_copy(const void *p, enum slc_dtype t,
                                              int64_t first, int64_t n, int64_t heads,
                                              int64_t head, int64_t D, float *buf)
{
    const struct slc_block b = slc_block_of(p, t, first, n, heads, head, D, buf);
    const int64_t ld = slc_attn_row(D);

    for (int64_t i = 0; b.rows != buf && i < n; i++)
        memcpy(buf + i * ld, b.rows + i * b.ld, (size_t)D * sizeof(*buf));
    return (struct slc_block){buf, ld};
}

/* Query t of a document starting at `from` sees keys [first_key, t]. */
static inline int64_t slc_first_key(int64_t t, int64_t from, int64_t window)
{
    return window > 0 && t - window + 1 > from ? t - window + 1 : from;
}

#endif
