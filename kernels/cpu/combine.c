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

/* The record to be summed from expert rows, or NULL. */
static const int32_t *own_record(const struct slc_combine_sum_args *a, int64_t t, int64_t s)
{
    const int64_t at = t * a->S + s;

    if (!a->own_rows || a->slot_rank[at] != a->me)
        return NULL;
    return a->own_rows + (int64_t)a->slot_row[at] * a->M;
}

/* Rows that are added up in one pass: some of a token's slots. */
struct part {
    struct slc_weighted x;
    int own;                /* which of them is this rank's own record, -1: none */
    const int32_t *own_row; /* its expert rows [M] */
};

/* The token's rows from slot s on, at most SLC_WEIGHTED_ROWS of them. */
static int64_t gather_rows(const struct slc_combine_sum_args *a, int64_t t, int64_t s,
                           struct part *p)
{
    const struct slc_rows *rows = NULL;

    p->own = -1;
    for (p->x.n = 0; s < a->S && p->x.n < SLC_WEIGHTED_ROWS; s++) {
        const int32_t *own = own_record(a, t, s);
        const int64_t row = own ? -1 : slot_row(a, t, s, &rows);

        if (own) {
            p->own = p->x.n;
            p->own_row = own;
        } else if (row < 0) {
            continue;
        } else {
            p->x.row[p->x.n] = rows->data + row * rows->stride;
        }
        p->x.w[p->x.n++] = 1;
    }
    return s;
}

/* Elements [at, at + n) of an own record, as expert_sum rounds them. */
static void sum_own(const struct slc_combine_sum_args *a, const int32_t *own_row, int64_t at,
                    int64_t n, float *to)
{
    const size_t bytes = (size_t)a->H * slc_dtype_size(a->dtype);
    float buf[SLC_CPU_CHUNK], *acc = a->dtype == SLC_F32 ? to : buf;
    struct slc_weighted x;
    bool begin = true;

    for (int64_t m = 0; m < a->M || begin; begin = false) {
        for (x.n = 0; m < a->M && x.n < SLC_WEIGHTED_ROWS; m++) {
            if (own_row[m] < 0)
                continue;
            x.row[x.n] = (const char *)a->y + (size_t)own_row[m] * bytes;
            x.w[x.n++] = a->row_weight ? a->row_weight[own_row[m]] : 1.0f;
        }
        slc_weighted_add(&x, a->dtype, at, n, acc, begin);
    }
    slc_weighted_put(to, a->dtype, 0, n, acc, false);
}

/* acc [n] (+)= elements [at, at + n) of a part. */
static void add_part(const struct slc_combine_sum_args *a, const struct part *p, int64_t at,
                     int64_t n, float *acc, bool begin)
{
    const size_t skip = (size_t)at * slc_dtype_size(a->dtype);
    struct slc_weighted x = {.n = p->x.n};
    float own[SLC_CPU_CHUNK];

    if (p->own < 0) {
        slc_weighted_add(&p->x, a->dtype, at, n, acc, begin);
        return;
    }
    sum_own(a, p->own_row, at, n, own);
    for (int i = 0; i < x.n; i++) {
        x.row[i] = i == p->own ? (const char *)own : (const char *)p->x.row[i] + skip;
        x.w[i] = 1;
    }
    slc_weighted_add(&x, a->dtype, 0, n, acc, begin);
}

/* The rows that a token is summed from, as many as there is room for. */
static void list_rows(const struct slc_combine_sum_args *a, int64_t t, struct slc_weighted *x)
{
    const size_t bytes = (size_t)a->H * slc_dtype_size(a->dtype);
    const struct slc_rows *rows = NULL;

    for (int64_t s = 0; s < a->S; s++) {
        const int32_t *own = own_record(a, t, s);
        const int64_t row = own ? -1 : slot_row(a, t, s, &rows);

        for (int64_t m = 0; own && m < a->M && x->n < SLC_WEIGHTED_ROWS; m++)
            if (own[m] >= 0)
                x->row[x->n++] = (const char *)a->y + (size_t)own[m] * bytes;
        if (row >= 0 && x->n < SLC_WEIGHTED_ROWS)
            x->row[x->n++] = rows->data + row * rows->stride;
    }
}

static void sum_token(const struct slc_combine_sum_args *a, int64_t t, bool stream)
{
    const int64_t step = stream ? SLC_WEIGHTED_STEP : SLC_CPU_CHUNK;
    const size_t size = slc_dtype_size(a->dtype), bytes = (size_t)a->H * size;
    char *out = (char *)a->out + (size_t)t * bytes;
    const bool direct = a->dtype == SLC_F32 && !stream;
    struct slc_weighted next = {.n = 0};
    struct part first, rest;
    const int64_t more = gather_rows(a, t, 0, &first);

    if (stream && t + 1 < a->T)
        list_rows(a, t + 1, &next);
    for (int64_t at = 0; at < a->H; at += step) {
        const int64_t n = slc_min(step, a->H - at);
        float buf[SLC_CPU_CHUNK], *acc = direct ? (float *)out + at : buf;

        if (stream)
            slc_weighted_ahead(&next, (size_t)at * size, (size_t)n * size);
        if (a->add) {
            const float *from = slc_in(a->add, a->dtype, t * a->H + at, n, acc);

            if (from != acc)
                memcpy(acc, from, (size_t)n * sizeof(*acc));
        }
        add_part(a, &first, at, n, acc, !a->add);
        for (int64_t s = more; s < a->S;) {
            s = gather_rows(a, t, s, &rest);
            add_part(a, &rest, at, n, acc, false);
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
        const int32_t *own = own_record(a, t, s);
        const int64_t row = slot_row(a, t, s, &rows), r = a->slot_rank[t * a->S + s];
        const float *scalars = NULL;
        int64_t m = 0;

        if (row < 0 && !own)
            continue;
        if (!own)
            scalars = (const float *)(rows->scalars + row * rows->meta_stride);
        for (int64_t k = 0; k < a->K; k++)
            if (ids[k] >= a->first_expert[r] && ids[k] < a->first_expert[r + 1]) {
                a->dweights[t * a->K + k] = own ? a->row_scalar[own[m]] : scalars[m];
                m++;
            }
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
