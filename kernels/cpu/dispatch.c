/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/stream.h"
#include "kernels/cpu/vec.h"

/*
 * Numbering is a running count over tokens, so it stays on one thread: T*K additions
 * are far below one row copy.
 */
void SLC_CPU(dispatch_index)(struct slc_queue *q,
                             const struct slc_dispatch_index_args *a)
{
    (void)q;
    memset(a->counts, 0, (size_t)(a->R + a->E) * sizeof(*a->counts));
    for (int64_t t = 0; t < a->T; t++) {
        int32_t *rank = a->slot_rank + t * a->S, *row = a->slot_row + t * a->S;
        int64_t slot = 0, r = -1;

        for (int64_t k = 0; k < a->K; k++) {
            const int32_t id = a->ids[t * a->K + k];
            int64_t owner = r < 0 ? 0 : r; /* ids ascend, so the ranks do */

            if (id < 0)
                continue;
            while (a->first_expert[owner + 1] <= id)
                owner++;
            a->counts[a->R + id]++;
            if (owner == r)
                continue;
            r = owner;
            if (a->own_token && r == a->me)
                a->own_token[a->counts[r]] = (int32_t)t;
            rank[slot] = (int32_t)r;
            row[slot++] = a->counts[r]++;
        }
        for (; slot < a->S; slot++)
            rank[slot] = row[slot] = -1;
    }
}

static void pack_meta(const struct slc_dispatch_pack_args *a, const struct slc_rows *d,
                      int64_t t, int64_t r, int64_t row)
{
    int32_t *ids = (int32_t *)(d->ids + row * d->meta_stride);
    float *scalars = d->scalars ? (float *)(d->scalars + row * d->meta_stride) : NULL;
    const int32_t from = a->first_expert[r], to = a->first_expert[r + 1];
    int64_t m = 0;

    for (int64_t k = 0; k < a->K && m < a->M; k++) {
        const int32_t id = a->ids[t * a->K + k];

        if (id < from || id >= to)
            continue;
        ids[m] = id - from;
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

/* The start of a token's row, and the pages its records go to. */
static void ahead(const struct slc_dispatch_pack_args *a, int64_t t)
{
    const size_t bytes = (size_t)a->H * slc_dtype_size(a->dtype);

    slc_fetch_ahead((const char *)a->x + (size_t)t * bytes, bytes);
    for (int64_t s = 0; s < a->S && a->slot_rank[t * a->S + s] >= 0; s++) {
        const struct slc_rows *d = &a->dst[a->slot_rank[t * a->S + s]];
        const int64_t row = (int64_t)a->slot_row[t * a->S + s] - d->first;

        if (row >= 0 && row < d->count && d->data)
            slc_prefetch(d->data + row * d->stride);
    }
}

static void pack_token(const struct slc_dispatch_pack_args *a, int64_t t, bool stream)
{
    const size_t bytes = (size_t)a->H * slc_dtype_size(a->dtype);

    if (stream && t + 1 < a->T)
        ahead(a, t + 1);
    for (int64_t s = 0; s < a->S && a->slot_rank[t * a->S + s] >= 0; s++) {
        const int64_t r = a->slot_rank[t * a->S + s];
        const struct slc_rows *d = &a->dst[r];
        const int64_t row = (int64_t)a->slot_row[t * a->S + s] - d->first;

        if (row < 0 || row >= d->count)
            continue;
        if (d->data)
            slc_store(d->data + row * d->stride, (const char *)a->x + (size_t)t * bytes,
                      bytes, stream);
        if (a->ids && d->ids)
            pack_meta(a, d, t, r, row);
    }
}

void SLC_CPU(dispatch_pack)(struct slc_queue *q, const struct slc_dispatch_pack_args *a)
{
    const bool stream = slc_cpu_rows_bytes(a->dst, a->R) >= SLC_STREAM_BYTES;

    (void)q;
#pragma omp parallel if (a->T * a->H > SLC_CPU_GRAIN)
    {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < a->T; t++)
            pack_token(a, t, stream);
        if (stream)
            slc_stream_end();
    }
}
