/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

/* List and row of the token's slot s; -1: no slot, or another round's. */
static int64_t slot_row(const struct slc_combine_sum_args *a, int64_t t, int64_t s,
                        const struct slc_rows **rows)
{
    const int64_t r = a->slot_rank[t * a->S + s];

    if (r < 0)
        return -1;
    *rows = &a->src[r];
    const int64_t row = (int64_t)a->slot_row[t * a->S + s] - (*rows)->first;
    return row < (*rows)->count ? row : -1;
}

static void sum_chunk(const struct slc_combine_sum_args *a, int64_t t, int64_t at,
                      int64_t n)
{
    const struct slc_rows *rows = NULL;
    float acc[SLC_CPU_CHUNK], buf[SLC_CPU_CHUNK];

    if (a->add)
        memcpy(acc, slc_in(a->add, a->dtype, t * a->H + at, n, buf),
               (size_t)n * sizeof(*acc));
    else
        memset(acc, 0, (size_t)n * sizeof(*acc));
    for (int64_t s = 0; s < a->S; s++) {
        const int64_t row = slot_row(a, t, s, &rows);

        if (row < 0)
            continue;
        const float *y = slc_in(rows->data + row * rows->stride, a->dtype, at, n, buf);
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            acc[i] += y[i];
    }
    if (a->dtype == SLC_F32)
        memcpy((float *)a->out + t * a->H + at, acc, (size_t)n * sizeof(*acc));
    else
        slc_put(a->out, a->dtype, t * a->H + at, n, acc);
}

/* The scalars of a record belong to the token's experts on that rank, ascending. */
static void take_weights(const struct slc_combine_sum_args *a, int64_t t)
{
    const int32_t *ids = a->ids + t * a->K;
    const struct slc_rows *rows = NULL;

    for (int64_t k = 0; k < a->K; k++)
        if (ids[k] < 0)
            a->dweights[t * a->K + k] = 0;
    for (int64_t s = 0; s < a->S; s++) {
        const int64_t row = slot_row(a, t, s, &rows), r = a->slot_rank[t * a->S + s];
        int64_t m = 0;

        if (row < 0)
            continue;
        const float *scalars = (const float *)(rows->scalars + row * rows->meta_stride);
        for (int64_t k = 0; k < a->K; k++)
            if (ids[k] >= a->first_expert[r] && ids[k] < a->first_expert[r + 1])
                a->dweights[t * a->K + k] = scalars[m++];
    }
}

void SLC_CPU(combine_sum)(struct slc_queue *q, const struct slc_combine_sum_args *a)
{
    (void)q;
#pragma omp parallel for schedule(static) if (a->T * a->H > SLC_CPU_GRAIN)
    for (int64_t t = 0; t < a->T; t++) {
        for (int64_t i = 0; i < a->H; i += SLC_CPU_CHUNK)
            sum_chunk(a, t, i, slc_min(SLC_CPU_CHUNK, a->H - i));
        if (a->dweights)
            take_weights(a, t);
    }
}
