/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

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
            a->rec_of[at] = (int32_t)j;
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

        if (a->rec_of[i] < 0)
            memset(x, 0, bytes);
        else
            memcpy(x, a->src.data + a->rec_of[i] * a->src.stride, bytes);
    }
}

static const struct slc_rows *holder(const struct slc_rows *list, int64_t R, int64_t j)
{
    for (int64_t r = 0; r < R; r++)
        if (j >= list[r].first && j < (int64_t)list[r].first + list[r].count)
            return &list[r];
    return NULL;
}

static void sum_chunk(const struct slc_expert_sum_args *a, int64_t j, char *out,
                      int64_t at, int64_t n)
{
    float acc[SLC_CPU_CHUNK], buf[SLC_CPU_CHUNK];

    memset(acc, 0, (size_t)n * sizeof(*acc));
    for (int64_t m = 0; m < a->M; m++) {
        const int64_t row = a->row_of[j * a->M + m];

        if (row < 0)
            continue;
        const float w = a->row_weight ? a->row_weight[row] : 1.0f;
        const float *y = slc_in(a->y, a->dtype, row * a->H + at, n, buf);
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            acc[i] += w * y[i];
    }
    if (a->add) {
        const float *y = slc_in(a->add, a->dtype, j * a->H + at, n, buf);

#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            acc[i] += y[i];
    }
    if (a->dtype == SLC_F32)
        memcpy((float *)out + at, acc, (size_t)n * sizeof(*acc));
    else
        slc_put(out, a->dtype, at, n, acc);
}

void SLC_CPU(expert_sum)(struct slc_queue *q, const struct slc_expert_sum_args *a)
{
    (void)q;
#pragma omp parallel for schedule(static) if (a->n * a->H > SLC_CPU_GRAIN)
    for (int64_t j = 0; j < a->n; j++) {
        const struct slc_rows *d = holder(a->dst, a->R, j);

        if (!d)
            continue;
        if (d->data)
            for (int64_t i = 0; i < a->H; i += SLC_CPU_CHUNK)
                sum_chunk(a, j, d->data + (j - d->first) * d->stride, i,
                          slc_min(SLC_CPU_CHUNK, a->H - i));
        if (!a->row_scalar || !d->scalars)
            continue;
        float *scalars = (float *)(d->scalars + (j - d->first) * d->meta_stride);
        for (int64_t m = 0; m < a->M; m++) {
            const int64_t row = a->row_of[j * a->M + m];

            scalars[m] = row < 0 ? 0 : a->row_scalar[row];
        }
    }
}
