/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

static int64_t rank_of(const int32_t *first_expert, int64_t R, int32_t expert)
{
    int64_t r = 0;

    while (r + 1 < R && first_expert[r + 1] <= expert)
        r++;
    return r;
}

void slc_ref_dispatch_index(struct slc_queue *q,
                            const struct slc_dispatch_index_args *a)
{
    (void)q;
    memset(a->counts, 0, (size_t)(a->R + a->E) * sizeof(*a->counts));
    for (int64_t t = 0; t < a->T; t++) {
        int64_t slot = 0, last = -1;

        for (int64_t k = 0; k < a->K; k++) {
            int32_t id = a->ids[t * a->K + k];

            if (id < 0)
                continue;
            int64_t r = rank_of(a->first_expert, a->R, id);
            a->counts[a->R + id]++;
            if (r == last) /* ids ascend, so the ranks do */
                continue;
            last = r;
            a->slot_rank[t * a->S + slot] = (int32_t)r;
            if (a->own_token && r == a->me)
                a->own_token[a->counts[r]] = (int32_t)t;
            a->slot_row[t * a->S + slot] = a->counts[r]++;
            slot++;
        }
        for (; slot < a->S; slot++) {
            a->slot_rank[t * a->S + slot] = -1;
            a->slot_row[t * a->S + slot] = -1;
        }
    }
}

/* Ids and weights of the token's experts on rank r. */
static void pack_meta(const struct slc_dispatch_pack_args *a, int64_t t, int64_t r,
                      int64_t row)
{
    const struct slc_rows *d = &a->dst[r];
    int32_t *ids = (int32_t *)(d->ids + row * d->meta_stride);
    float *scalars = d->scalars ? (float *)(d->scalars + row * d->meta_stride) : NULL;
    int64_t m = 0;

    for (int64_t k = 0; k < a->K; k++) {
        int32_t id = a->ids[t * a->K + k];

        if (id < a->first_expert[r] || id >= a->first_expert[r + 1])
            continue;
        SLC_ASSERT(m < a->M);
        ids[m] = id - a->first_expert[r];
        if (scalars)
            scalars[m] = a->weights[t * a->K + k];
        m++;
    }
    for (; m < a->M; m++) {
        ids[m] = -1;
        if (scalars)
            scalars[m] = 0;
    }
}

void slc_ref_dispatch_pack(struct slc_queue *q, const struct slc_dispatch_pack_args *a)
{
    const size_t bytes = (size_t)a->H * slc_dtype_size(a->dtype);

    (void)q;
    for (int64_t t = 0; t < a->T; t++)
        for (int64_t s = 0; s < a->S; s++) {
            const int64_t r = a->slot_rank[t * a->S + s];

            if (r < 0)
                break;
            const struct slc_rows *d = &a->dst[r];
            const int64_t row = a->slot_row[t * a->S + s] - d->first;
            if (row < 0 || row >= d->count)
                continue;
            if (d->data)
                memcpy(d->data + row * d->stride,
                       (const char *)a->x + (size_t)t * bytes, bytes);
            if (a->ids && d->ids)
                pack_meta(a, t, r, row);
        }
}
