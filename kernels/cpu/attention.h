/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CPU_ATTENTION_H
#define SLC_KERNELS_CPU_ATTENTION_H

#include "kernels/cpu/block.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

/* Queries and keys of one block: the scores of a block fit the first cache level. */
#define SLC_ATTN_BQ 64
#define SLC_ATTN_BK 64
/* On the diagonal, strips of so many rows leave out what no query sees. */
#define SLC_ATTN_STRIP 16

/*
 * Rows of a block in a buffer lie this far apart (words): a power of two would put them
 * into few sets of the first cache level, and so do heads in memory, which is why a block
 * that is read several times is copied.
 */
#define SLC_ATTN_ROW (SLC_CPU_HEAD + 16)
static inline int64_t slc_attn_row(int64_t D)
{
    return (D + 15) / 16 * 16 + 16;
}

/* bf16 is multiplied as pairs; elsewhere its rows are converted to fp32 first. */
static inline bool slc_attn_pairs(enum slc_dtype t, int64_t D)
{
    return SLC_PAIRS && t == SLC_BF16 && D % 2 == 0;
}

/* A block of rows of one head: `rows` of words at distance `ld`. */
struct slc_block {
    const float *rows;
    int64_t ld;
};

/*
 * Rows [first, first+n) of `head` of p [T,heads,D]: in place where they are words already,
 * else converted into buf.
 */
static inline struct slc_block slc_block_of(const void *p, enum slc_dtype t,
                                            int64_t first, int64_t n, int64_t heads,
                                            int64_t head, int64_t D, float *buf)
{
    const int64_t at = (first * heads + head) * D;

    if (t == SLC_F32)
        return (struct slc_block){(const float *)p + at, heads * D};
    if (slc_attn_pairs(t, D))
        return (struct slc_block){(const float *)(const void *)((const uint16_t *)p + at),
                                  heads * D / 2};
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
    const size_t bytes = (size_t)D * (slc_attn_pairs(t, D) ? 2 : 4);

    for (int64_t i = 0; b.rows != buf && i < n; i++)
        memcpy(buf + i * ld, b.rows + i * b.ld, bytes);
    return (struct slc_block){buf, ld};
}

/*
 * The same rows as the right side of a product that sums over them: fp32 rows, or, in
 * pairs, word d of row i of buf = elements d of rows 2i and 2i+1 (0 past the last row).
 */
static inline void slc_block_right(const void *p, enum slc_dtype t, int64_t first,
                                   int64_t n, int64_t heads, int64_t head, int64_t D,
                                   float *buf)
{
    const uint16_t *x = (const uint16_t *)p + (first * heads + head) * D;
    const int64_t ld = slc_attn_row(D), step = heads * D;

    if (!slc_attn_pairs(t, D)) {
        slc_block_copy(p, t, first, n, heads, head, D, buf);
        return;
    }
    for (int64_t i = 0; i < n; i += 2) {
        const uint16_t *a = x + i * step, *b = i + 1 < n ? a + step : NULL;
        float *out = buf + i / 2 * ld;

        if (b)
#pragma omp simd
            for (int64_t d = 0; d < D; d++)
                out[d] = slc_float_of((uint32_t)a[d] | (uint32_t)b[d] << 16);
        else
#pragma omp simd
            for (int64_t d = 0; d < D; d++)
                out[d] = slc_float_of((uint32_t)a[d]);
    }
}

/* Two fp32 as one word: the first below. */
static inline float slc_pair(float low, float high)
{
    return slc_float_of((uint32_t)slc_to_bf16(low) | (uint32_t)slc_to_bf16(high) << 16);
}

/*
 * n columns of `rows` fp32 rows at ld as pairs of rows: word i of row j of out = rows 2j
 * and 2j+1 of column i. n is a multiple of SLC_VL.
 */
static inline void slc_pair_rows(const float *x, int64_t rows, int64_t n, int64_t ld,
                                 float *out)
{
    for (int64_t j = 0; j < rows; j += 2) {
        const float *a = x + j * ld, *b = j + 1 < rows ? a + ld : NULL;
        float *y = out + j / 2 * ld;

        for (int64_t i = 0; i < n; i += SLC_VL)
#pragma omp simd
            for (int64_t l = 0; l < SLC_VL; l++)
                y[i + l] = slc_pair(a[i + l], b ? b[i + l] : 0.0f);
    }
}

/* Query t of a document starting at `from` sees keys [first_key, t]. */
static inline int64_t slc_first_key(int64_t t, int64_t from, int64_t window)
{
    return window > 0 && t - window + 1 > from ? t - window + 1 : from;
}

#endif
