/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"
#include "kernels/cpu/weighted.h"

static int64_t local_id(const struct slc_expert_index_args *a, int64_t j, int64_t m)
{
    const int32_t *ids = (const int32_t *)(a->src.ids + j * a->src.meta_stride);
    const int64_t id = ids[m] - a->base;

    return ids[m] < 0 || id < 0 || id >= a->El ? -1 : id;
}

/* Counting sort on one thread: n*M small steps, two passes. */
void SLC_CPU(expert_index)(struct slc_queue *q, const struct slc_expert_index_args *a)
{
    int32_t next[SLC_CPU_EXPERTS];
    int64_t row = 0;

    if (a->El > SLC_CPU_EXPERTS) {
        slc_cpu_refuse(q, "more than 4096 experts on one rank; use a larger ep");
        return;
    }
    memset(next, 0, (size_t)a->El * sizeof(*next));
    for (int64_t j = 0; j < a->src.count; j++)
        for (int64_t m = 0; m < a->M; m++) {
            const int64_t e = local_id(a, j, m);

            if (e >= 0)
                next[e]++;
        }
    for (int64_t e = 0; e < a->El; e++) {
        const int32_t n = next[e];

        if (a->load)
            a->load[e] = (a->acc ? a->load[e] : 0) + n;
        a->off[e] = next[e] = (int32_t)row;
        row = (row + n + a->row_align - 1) / a->row_align * a->row_align;
    }
    a->off[a->El] = (int32_t)row;
    SLC_ASSERT(row <= a->rows_cap);
    memset(a->rec_of, 0xff, (size_t)a->rows_cap * sizeof(*a->rec_of));
    if (a->row_weight)
        memset(a->row_weight, 0, (size_t)a->rows_cap * sizeof(*a->row_weight));
    for (int64_t j = 0; j < a->src.count; j++)
        for (int64_t m = 0; m < a->M; m++) {
            const int64_t e = local_id(a, j, m), at = e < 0 ? -1 : next[e]++;

            a->row_of[j * a->M + m] = (int32_t)at;
            if (at < 0)
                continue;
            a->rec_of[at] = slc_rows_name(&a->src, j);
            if (a->row_weight)
                a->row_weight[at] =
                    ((const float *)(a->src.scalars + j * a->src.meta_stride))[m];
        }
}

void SLC_CPU(expert_gather)(struct slc_queue *q, const struct slc_expert_gather_args *a)
{
    const size_t bytes = (size_t)a->H * slc_dtype_size(a->dtype);
    const int64_t rows = a->off[a->El];

    (void)q;
#pragma omp parallel for schedule(static) if (rows * a->H > SLC_CPU_GRAIN)
    for (int64_t i = 0; i < rows; i++) {
        char *x = (char *)a->x + (size_t)i * bytes;

        const char *from = slc_rows_data(&a->src, a->rec_of[i], bytes);
        const char *next = i + 1 < rows ? slc_rows_data(&a->src, a->rec_of[i + 1], bytes) : NULL;

        if (next)
            slc_fetch_ahead(next, bytes);
        if (from)
            memcpy(x, from, bytes);
        else
            memset(x, 0, bytes);
    }
}

static const struct slc_rows *holder(const struct slc_rows *list, int64_t R, int64_t j)
{
    for (int64_t r = 0; r < R; r++)
        if (j >= list[r].first && j < (int64_t)list[r].first + list[r].count)
            return &list[r];
    return NULL;
}

/* One row of the sum: the record's rows from m on, at most SLC_WEIGHTED_ROWS of them. */
static int64_t gather_rows(const struct slc_expert_sum_args *a, int64_t j, int64_t m,
                           struct slc_weighted *x)
{
    const size_t bytes = (size_t)a->H * slc_dtype_size(a->dtype);

    for (x->n = 0; m < a->M && x->n < SLC_WEIGHTED_ROWS; m++) {
        const int64_t row = a->row_of[j * a->M + m];

        if (row < 0)
            continue;
        x->row[x->n] = (const char *)a->y + (size_t)row * bytes;
        x->w[x->n++] = a->row_weight ? a->row_weight[row] : 1.0f;
    }
    return m;
}

/* The record's sum to out; batch NULL: past the caches, while next is asked for. */
static void sum_row(const struct slc_expert_sum_args *a, int64_t j, char *out,
                    struct slc_batch *batch, const struct slc_weighted *next)
{
    const int64_t step = batch ? SLC_CPU_CHUNK : SLC_WEIGHTED_STEP;
    const size_t size = slc_dtype_size(a->dtype);
    struct slc_weighted x, add = {.n = a->add != NULL, .w = {1}};
    const int64_t more = gather_rows(a, j, 0, &x);

    add.row[0] = (const char *)a->add + (size_t)(j * a->H) * size;
    for (int64_t at = 0; at < a->H; at += step) {
        const int64_t n = slc_min(step, a->H - at);
        float buf[SLC_CPU_CHUNK], *acc = buf;
        char *to = out + (size_t)at * size;
        struct slc_weighted rest;

        if (batch)
            to = slc_batch_take(batch, to, (size_t)n * size);
        else
            slc_weighted_ahead(next, (size_t)at * size, (size_t)n * size);
        if (batch && a->dtype == SLC_F32)
            acc = (float *)to;
        slc_weighted_add(&x, a->dtype, at, n, acc, true);
        for (int64_t m = more; m < a->M;) {
            m = gather_rows(a, j, m, &rest);
            slc_weighted_add(&rest, a->dtype, at, n, acc, false);
        }
        slc_weighted_add(&add, a->dtype, at, n, acc, false);
        slc_weighted_put(to, a->dtype, 0, n, acc, !batch);
    }
}

/* The first rows of a record that is summed next, asking for the page its sum goes to. */
static void look_ahead(const struct slc_expert_sum_args *a, int64_t j, struct slc_weighted *next)
{
    const struct slc_rows *d = holder(a->dst, a->R, j);

    if (!d || !d->data)
        return;
    slc_prefetch(d->data + (j - d->first) * d->stride);
    gather_rows(a, j, 0, next);
}

static void sum_record(const struct slc_expert_sum_args *a, int64_t j, struct slc_batch *batch)
{
    const struct slc_rows *d = holder(a->dst, a->R, j);
    struct slc_weighted next = {.n = 0};

    if (!d)
        return;
    if (!batch && j + 1 < a->n)
        look_ahead(a, j + 1, &next);
    if (d->data)
        sum_row(a, j, d->data + (j - d->first) * d->stride, batch, &next);
    if (!a->row_scalar || !d->scalars)
        return;
    float *scalars = (float *)(d->scalars + (j - d->first) * d->meta_stride);
    for (int64_t m = 0; m < a->M; m++) {
        const int64_t row = a->row_of[j * a->M + m];

        scalars[m] = row < 0 ? 0 : a->row_scalar[row];
    }
}

void SLC_CPU(expert_sum)(struct slc_queue *q, const struct slc_expert_sum_args *a)
{
    const bool stream = slc_cpu_rows_bytes(a->dst, a->R) >= SLC_STREAM_BYTES;

    (void)q;
#pragma omp parallel if (a->n * a->H > SLC_CPU_GRAIN)
    {
        struct slc_batch batch;

        slc_batch_begin(&batch);
#pragma omp for schedule(static)
        for (int64_t j = 0; j < a->n; j++)
            sum_record(a, j, stream ? NULL : &batch);
        slc_batch_end(&batch);
        if (stream)
            slc_stream_end();
    }
}
