/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CPU_WEIGHTED_H
#define SLC_KERNELS_CPU_WEIGHTED_H

#include "kernels/cpu/stream.h"
#include "kernels/cpu/vec.h"

/*
 * Sums of a few weighted rows, the inner loop of both sides of combine. Rows are taken in
 * the order given: acc = first (or 0), then acc += w * row one after the other, in fp32,
 * however many are taken in one pass.
 */
#define SLC_WEIGHTED_ROWS 8
/* Elements of a step of a sum past the caches: small, so that memory is read and written at
 * once, not in turn. Each asks for the same part of the rows that are summed next. */
#define SLC_WEIGHTED_STEP 256

struct slc_weighted {
    int n;
    const void *row[SLC_WEIGHTED_ROWS];
    float w[SLC_WEIGHTED_ROWS];
};

/* Ask for bytes [at, at + n) of rows that are summed soon. */
static inline void slc_weighted_ahead(const struct slc_weighted *x, size_t at, size_t n)
{
    for (int i = 0; i < x->n; i++)
        for (size_t line = at; line < at + n; line += 64)
            slc_prefetch((const char *)x->row[i] + line);
}

/* acc [n] (+)= the rows' elements [at, at + n); n <= SLC_CPU_CHUNK. */
static inline void slc_weighted_add(const struct slc_weighted *x, enum slc_dtype dtype,
                                    int64_t at, int64_t n, float *acc, bool begin)
{
    float buf[2][SLC_CPU_CHUNK];
    int i = 0;

    if (begin && x->n == 0)
        memset(acc, 0, (size_t)n * sizeof(*acc));
    for (; i + 2 <= x->n; i += 2, begin = false) {
        const float *a = slc_in(x->row[i], dtype, at, n, buf[0]);
        const float *b = slc_in(x->row[i + 1], dtype, at, n, buf[1]);
        const float u = x->w[i], v = x->w[i + 1];

        if (begin) {
#pragma omp simd
            for (int64_t j = 0; j < n; j++)
                acc[j] = (0.0f + u * a[j]) + v * b[j];
        } else {
#pragma omp simd
            for (int64_t j = 0; j < n; j++)
                acc[j] = (acc[j] + u * a[j]) + v * b[j];
        }
    }
    if (i == x->n)
        return;
    const float *a = slc_in(x->row[i], dtype, at, n, buf[0]);
    const float u = x->w[i];
    if (begin) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++)
            acc[j] = 0.0f + u * a[j];
    } else {
#pragma omp simd
        for (int64_t j = 0; j < n; j++)
            acc[j] += u * a[j];
    }
}

/* Elements [at, at + n) of out = acc, rounded once. out may be acc. */
static inline void slc_weighted_put(void *out, enum slc_dtype dtype, int64_t at, int64_t n,
                                    const float *acc, bool stream)
{
    const size_t size = dtype == SLC_F32 ? 4 : 2;
    uint16_t low[SLC_CPU_CHUNK];

    if (dtype == SLC_F32 && acc == (float *)out + at)
        return;
    if (dtype != SLC_F32)
        slc_put(low, dtype, 0, n, acc);
    slc_store((char *)out + (size_t)at * size, dtype == SLC_F32 ? (const void *)acc : low,
              (size_t)n * size, stream);
}

#endif
