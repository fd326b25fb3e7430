/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"
#include "kernels/cpu/weighted.h"

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

/* The token's rows from slot s on, at most SLC_WEIGHTED_ROWS of them. */
static int64_t gather_rows(const struct slc_combine_sum_args *a, int64_t t, int64_t s,
                           struct slc_weighted *x)
{
    const struct slc_rows *rows = NULL;

    for (x->n = 0; s < a->S && x->n < SLC_WEIGHTED_ROWS; s++) {
        const int64_t row = slot_row(a, t, s, &rows);

        if (row < 0)
            continue;
        x->row[x->n] = rows->data + row * rows->stride;
        x->w[x->n++] = 1;
    }
    return s;
}

/* The starts of the rows of a token. */
static void ahead(const struct slc_combine_sum_args *a, int64_t t)
{
    const struct slc_rows *rows = NULL;

    for (int64_t s = 0; s < a->S; s++) {
        const int64_t row = slot_row(a, t, s, &rows);

        if (row >= 0)
            slc_fetch_ahead(rows->data + row * rows->stride, (size_t)rows->stride);
    }
}

static void sum_token(const struct slc_combine_sum_args *a, int64_t t, bool stream)
{
    const size_t bytes = (size_t)a->H * slc_dtype_size(a->dtype);
    char *out = (char *)a->out + (size_t)t * bytes;
    const bool direct = a->dtype == SLC_F32 && !stream;
    struct slc_weighted x;
    const int64_t more = gather_rows(a, t, 0, &x);

    if (t + 1 < a->T)
        ahead(a, t + 1);
    for (int64_t at = 0; at < a->H; at += SLC_CPU_CHUNK) {
        const int64_t n = slc_min(SLC_CPU_CHUNK, a->H - at);
        float buf[SLC_CPU_CHUNK], *acc = direct ? (float *)out + at : buf;
        struct slc_weighted rest;

        if (a->add) {
            const float *first = slc_in(a->add, a->dtype, t * a->H + at, n, acc);

            if (first != acc)
                memcpy(acc, first, (size_t)n * sizeof(*acc));
        }
        slc_weighted_add(&x, a->dtype, at, n, acc, !a->add);
        for (int64_t s = more; s < a->S;) {
            s = gather_rows(a, t, s, &rest);
            slc_weighted_add(&rest, a->dtype, at, n, acc, false);
        }
        slc_weighted_put(out, a->dtype, at, n, acc, stream);
    }
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
    const bool stream =
        a->T * a->H * (int64_t)slc_dtype_size(a->dtype) >= SLC_STREAM_BYTES;

    (void)q;
#pragma omp parallel if (a->T * a->H > SLC_CPU_GRAIN)
    {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < a->T; t++) {
            sum_token(a, t, stream);
            if (a->dweights)
                take_weights(a, t);
        }
        if (stream)
            slc_stream_end();
    }
}
