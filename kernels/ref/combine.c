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

/* The record's number when it is to be summed from expert rows, or -1. */
static int64_t own_record(const struct slc_combine_sum_args *a, int64_t t, int64_t s)
{
    const int64_t at = t * a->S + s;

    return a->own_rows && a->slot_rank[at] == a->me ? a->slot_row[at] : -1;
}

/* Element i of what expert_sum would have returned for own record j. */
static double own_sum(const struct slc_combine_sum_args *a, int64_t j, int64_t i)
{
    double sum = 0, kept[1];

    for (int64_t m = 0; m < a->M; m++) {
        const int64_t row = a->own_rows[j * a->M + m];

        if (row >= 0)
            sum += (a->row_weight ? a->row_weight[row] : 1.0) *
                   slc_ref_load(a->y, a->dtype, row * a->H + i);
    }
    slc_ref_store(kept, a->dtype, 0, sum);
    return slc_ref_load(kept, a->dtype, 0);
}

/* The scalars of a record belong to the token's experts on that rank, ascending. */
static void weights_of(const struct slc_combine_sum_args *a, int64_t t, int64_t r,
                       int64_t own, const float *scalars)
{
    int64_t m = 0;

    for (int64_t k = 0; k < a->K; k++) {
        int32_t id = a->ids[t * a->K + k];

        if (id >= a->first_expert[r] && id < a->first_expert[r + 1])
            a->dweights[t * a->K + k] =
                own < 0 ? scalars[m++] : a->row_scalar[a->own_rows[own * a->M + m++]];
    }
}

static void one_token(const struct slc_combine_sum_args *a, int64_t t)
{
    const struct slc_rows *rows = NULL;

    for (int64_t i = 0; i < a->H; i++) {
        double sum = a->add ? slc_ref_load(a->add, a->dtype, t * a->H + i) : 0;

        for (int64_t s = 0; s < a->S; s++) {
            int64_t row = slot_row(a, t, s, &rows), own = own_record(a, t, s);

            if (own >= 0)
                sum += own_sum(a, own, i);
            else if (row >= 0)
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
        int64_t row = slot_row(a, t, s, &rows), own = own_record(a, t, s);

        if (own >= 0)
            weights_of(a, t, a->me, own, NULL);
        else if (row >= 0)
            weights_of(a, t, a->slot_rank[t * a->S + s], -1,
                       (const float *)(rows->scalars + row * rows->meta_stride));
    }
}

void slc_ref_combine_sum(struct slc_queue *q, const struct slc_combine_sum_args *a)
{
    (void)q;
    for (int64_t t = 0; t < a->T; t++)
        one_token(a, t);
}
