/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

/* Row of the token's slot s, or -1; *rows is the list that holds it. */
static int64_t slot_row(const struct slc_combine_sum_args *a, int64_t t, int64_t s,
                        const struct slc_rows **rows)
{
    const int64_t r = a->slot_rank[t * a->S + s];

    if (r < 0)
        return -1;
    *rows = &a->src[r];
    int64_t row = a->slot_row[t * a->S + s] - (*rows)->first;
    return row < (*rows)->count ? row : -1;
}

/* The scalars of a record belong to the token's experts on that rank, ascending. */
static void weights_of(const struct slc_combine_sum_args *a, int64_t t, int64_t r,
                       const float *scalars)
{
    int64_t m = 0;

    for (int64_t k = 0; k < a->K; k++) {
        int32_t id = a->ids[t * a->K + k];

        if (id >= a->first_expert[r] && id < a->first_expert[r + 1])
            a->dweights[t * a->K + k] = scalars[m++];
    }
}

static void one_token(const struct slc_combine_sum_args *a, int64_t t)
{
    const struct slc_rows *rows = NULL;

    for (int64_t i = 0; i < a->H; i++) {
        double sum = a->add ? slc_ref_load(a->add, a->dtype, t * a->H + i) : 0;

        for (int64_t s = 0; s < a->S; s++) {
            int64_t row = slot_row(a, t, s, &rows);

            if (row >= 0)
                sum += slc_ref_load(rows->data + row * rows->stride, a->dtype, i);
        }
        slc_ref_store(a->out, a->dtype, t * a->H + i, sum);
    }
    if (!a->dweights)
        return;
    for (int64_t k = 0; k < a->K; k++)
        if (a->ids[t * a->K + k] < 0)
            a->dweights[t * a->K + k] = 0;
    for (int64_t s = 0; s < a->S; s++) {
        int64_t row = slot_row(a, t, s, &rows);

        if (row >= 0)
            weights_of(a, t, a->slot_rank[t * a->S + s],
                       (const float *)(rows->scalars + row * rows->meta_stride));
    }
}

void slc_ref_combine_sum(struct slc_queue *q, const struct slc_combine_sum_args *a)
{
    (void)q;
    for (int64_t t = 0; t < a->T; t++)
        one_token(a, t);
}
