/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CPU_ATTENTION_H
#define SLC_KERNELS_CPU_ATTENTION_H

#include "kernels/cpu/block.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

/* Queries and keys of one block: the scores of a block fit the first cache level. */
#define SLC_ATTN_BQ 64
#define SLC_ATTN_BK 64

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
        slc_in(p, t, at + i * heads * D, D, buf + i * D);
    return (struct slc_block){buf, D};
}

/* Query t of a document starting at `from` sees keys [first_key, t]. */
static inline int64_t slc_first_key(int64_t t, int64_t from, int64_t window)
{
    return window > 0 && t - window + 1 > from ? t - window + 1 : from;
}

#endif
