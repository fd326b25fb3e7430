/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

static int64_t local_id(const struct slc_expert_index_args *a, int64_t j, int64_t m)
{
    const char *ids = a->src.ids + j * a->src.meta_stride;
    int64_t id = ((const int32_t *)ids)[m];

    return id < 0 || id - a->base < 0 || id - a->base >= a->El ? -1 : id - a->base;
}

static float scalar(const struct slc_expert_index_args *a, int64_t j, int64_t m)
{
    return ((const float *)(a->src.scalars + j * a->src.meta_stride))[m];
}

void slc_ref_expert_index(struct slc_queue *q, const struct slc_expert_index_args *a)
{
    const int64_t n = a->src.count;
    int64_t row = 0;

    (void)q;
    for (int64_t i = 0; i < a->rows_cap; i++) {
        a->rec_of[i] = -1;
        if (a->row_weight)
            a->row_weight[i] = 0;
    }
    for (int64_t i = 0; i < n * a->M; i++)
        a->row_of[i] = -1;
    for (int64_t e = 0; e < a->El; e++) {
        a->off[e] = (int32_t)row;
        for (int64_t j = 0; j < n; j++)
            for (int64_t m = 0; m < a->M; m++)
                if (local_id(a, j, m) == e) {
                    SLC_ASSERT(row < a->rows_cap);
                    a->row_of[j * a->M + m] = (int32_t)row;
                    a->rec_of[row] = slc_rows_name(&a->src, j);
                    if (a->row_weight)
                        a->row_weight[row] = scalar(a, j, m);
                    row++;
                }
        if (a->load)
            a->load[e] = (a->acc ? a->load[e] : 0) + (int32_t)row - a->off[e];
        row = (row + a->row_align - 1) / a->row_align * a->row_align;
        SLC_ASSERT(row <= a->rows_cap);
    }
    a->off[a->El] = (int32_t)row;
}

void slc_ref_expert_gather(struct slc_queue *q, const struct slc_expert_gather_args *a)
{
    const size_t bytes = (size_t)a->H * slc_dtype_size(a->dtype);

    (void)q;
    for (int64_t i = 0; i < a->off[a->El]; i++) {
        char *x = (char *)a->x + (size_t)i * bytes;

        const char *from = slc_rows_data(&a->src, a->rec_of[i], bytes);

        if (from)
            memcpy(x, from, bytes);
        else
            memset(x, 0, bytes);
    }
}

/* The list that holds row j, or NULL. */
static const struct slc_rows *holder(const struct slc_rows *list, int64_t R, int64_t j)
{
    for (int64_t r = 0; r < R; r++)
        if (j >= list[r].first && j < (int64_t)list[r].first + list[r].count)
            return &list[r];
    return NULL;
}

static void sum_one(const struct slc_expert_sum_args *a, const struct slc_rows *d,
                    int64_t j)
{
    const int64_t at = j - d->first;
    char *out = d->data ? d->data + at * d->stride : NULL;

    for (int64_t i = 0; out && i < a->H; i++) {
        double sum = 0;

        for (int64_t m = 0; m < a->M; m++) {
            int64_t row = a->row_of[j * a->M + m];

            if (row >= 0)
                sum += (a->row_weight ? a->row_weight[row] : 1.0) *
                       slc_ref_load(a->y, a->dtype, row * a->H + i);
        }
        if (a->add)
            sum += slc_ref_load(a->add, a->dtype, j * a->H + i);
        slc_ref_store(out, a->dtype, i, sum);
    }
    if (!a->row_scalar || !d->scalars)
        return;
    float *scalars = (float *)(d->scalars + at * d->meta_stride);
    for (int64_t m = 0; m < a->M; m++) {
        int64_t row = a->row_of[j * a->M + m];

        scalars[m] = row < 0 ? 0 : a->row_scalar[row];
    }
}

void slc_ref_expert_sum(struct slc_queue *q, const struct slc_expert_sum_args *a)
{
    (void)q;
    for (int64_t j = 0; j < a->n; j++) {
        const struct slc_rows *d = holder(a->dst, a->R, j);

        if (d)
            sum_one(a, d, j);
    }
}
