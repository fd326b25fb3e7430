/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "moe/dispatch_private.h"

/*
 * Token rows and gradient rows on their way out. Of this rank's own records only ids and
 * weights are written: their rows are read where they are. Near members are packed straight into
 * their window. With far members tokens are packed in chunks into staging and put from
 * there while they are still in the cache; staging is used again from its start once all
 * puts are done.
 */

void slc_rows_place(const struct slc_dispatch *d, struct slc_rows *to, char *rows,
                    char *meta, size_t meta_bytes, int64_t row, int32_t count)
{
    *to = (struct slc_rows){.data = rows + (size_t)row * d->n->stride,
                            .stride = (int64_t)d->n->stride,
                            .meta_stride = (int64_t)meta_bytes,
                            .count = count};
    if (!meta)
        return;
    to->scalars = meta + (size_t)row * meta_bytes;
    if (meta_bytes == d->n->meta_x) {
        to->ids = to->scalars;
        to->scalars += d->n->M * 4;
    }
}

char *slc_staging_take(struct slc_dispatch *d, struct slc_staging *s, size_t bytes)
{
    char *taken;

    if (s->waiting == 0) {
        if (d->flushes <= s->mark && slc_window_flushed(d->window))
            d->flushes++;
        if (d->flushes > s->mark)
            s->used = 0;
    }
    if (s->used + bytes > s->size)
        return NULL;
    taken = s->base + s->used;
    s->used += bytes;
    s->waiting++;
    return taken;
}

int slc_records_put(struct slc_dispatch *d, struct slc_staging *s, int r, const char *from,
                    int32_t count, size_t rows_at, size_t meta_at, size_t meta_bytes,
                    int64_t row, struct slc_err *e)
{
    size_t bytes = (size_t)count * d->n->stride;

    s->mark = d->flushes;
    if (slc_window_put(d->window, r, rows_at + (size_t)row * d->n->stride, from, bytes, e) <
        0)
        return -1;
    return slc_window_put(d->window, r, meta_at + (size_t)row * meta_bytes, from + bytes,
                          (size_t)count * meta_bytes, e);
}

void slc_records_count(struct slc_dispatch *d, int r, int32_t count, size_t meta_bytes)
{
    size_t bytes = (size_t)count * (d->n->stride + meta_bytes);

    if (d->near[r]) {
        d->o.counters->near_bytes += bytes;
        slc_world_traffic(d->world)->near_bytes += bytes;
    } else {
        d->o.counters->far_bytes += bytes;
    }
}

int slc_dispatch_cut(struct slc_dispatch *d, struct slc_flight *f, struct slc_err *e)
{
    const int64_t S = d->n->S, all = d->n->T * S, step = d->chunk_tokens * S;
    const size_t R = (size_t)d->n->R;

    if (d->n_far == 0)
        return 0;
    if (slc_fetch(f->q, d->slots, f->s->slot_rank, (size_t)all * sizeof(int32_t), e) < 0 ||
        slc_fetch(f->q, d->slots + all, f->s->slot_row, (size_t)all * sizeof(int32_t), e) <
            0)
        return -1;
    memset(f->bound, 0, R * sizeof(*f->bound));
    for (int c = 0; c < d->chunks; c++) {
        int32_t *next = f->bound + (size_t)(c + 1) * R;
        int64_t end = (c + 1) * step < all ? (c + 1) * step : all;

        memcpy(next, next - R, R * sizeof(*next));
        for (int64_t i = c * step; i < end; i++)
            if (d->slots[i] >= 0)
                next[d->slots[i]] = d->slots[all + i] + 1;
    }
    return 0;
}

/* The part of a round's records to r whose tokens are in a chunk. */
static struct slc_span part(const struct slc_dispatch *d, const struct slc_flight *f,
                            int round, int chunk, int r)
{
    struct slc_span span = slc_plan_to(&f->plan, r, round);
    int32_t low = span.first, high = span.first + span.count;

    if (f->early[r]) /* sent */
        return (struct slc_span){0};

    if (d->n_far) {
        const int32_t *bound = f->bound + (size_t)chunk * (size_t)d->n->R;

        low = bound[r] > low ? bound[r] : low;
        high = bound[d->n->R + r] < high ? bound[d->n->R + r] : high;
    }
    if (low >= high)
        return (struct slc_span){0};
    return (struct slc_span){
        .first = low, .count = high - low, .row = span.row + low - span.first};
}

/* Use i may go to all its destinations. */
static bool may_send(const struct slc_dispatch *d, const struct slc_flight *f, int i)
{
    int round = slc_use_round(f, i);

    for (int r = 0; r < d->n->R; r++) {
        if (slc_plan_to(&f->plan, r, round).count == 0 || f->early[r])
            continue;
        if (r == d->n->me ? f->taken < i - 1 : !slc_dispatch_has_credit(d, f, i, r))
            return false;
    }
    return true;
}

/* Staging that `count` records to one member take. */
static size_t staged(const struct slc_dispatch *d, int32_t count, size_t meta)
{
    return ((size_t)count * (d->n->stride + meta) + 63) / 64 * 64;
}

static size_t meta_of(const struct slc_dispatch *d, bool grad)
{
    return grad ? 0 : d->n->meta_x;
}

void slc_pack_tokens(struct slc_dispatch *d, struct slc_flight *f, int64_t first,
                     int64_t count, bool grad)
{
    const struct slc_moe_shape *n = d->n;

    slc_upload(f->q, f->pack_rows, f->host_rows, (size_t)n->R * sizeof(*f->host_rows));
    SLC_RUN(f->q, dispatch_pack, .dst = f->pack_rows,
            .x = (const char *)(grad ? f->d_out : f->x) + (size_t)first * n->row_bytes,
            .ids = grad ? NULL : f->s->ids + first * n->K,
            .slot_rank = f->s->slot_rank + first * n->S,
            .slot_row = f->s->slot_row + first * n->S, .first_expert = d->first_expert,
            .weights = f->s->weights + first * n->K, .T = count, .H = n->H, .K = n->K,
            .R = n->R, .S = n->S, .M = n->M, .dtype = n->dtype);
    slc_event_record(f->packed, f->q);
}

/* Pack the tokens of f->chunk: 1 when it is on the queue, 0 while staging is not free. */
static int pack(struct slc_dispatch *d, struct slc_flight *f, int i)
{
    const struct slc_moe_shape *n = d->n;
    const bool grad = slc_use_has_grad(f, i);
    const size_t meta = meta_of(d, grad);
    const int64_t first = f->chunk * d->chunk_tokens;
    const uint64_t use = f->base + (uint64_t)i;
    size_t bytes = 0;
    int32_t all = 0;
    char *at;

    for (int r = 0; r < n->R; r++) {
        struct slc_span p = part(d, f, slc_use_round(f, i), f->chunk, r);

        all += grad && slc_own_in_place(d, r) ? 0 : p.count;
        bytes += d->near[r] ? 0 : staged(d, p.count, meta);
    }
    if (all == 0) {
        slc_event_record(f->packed, f->q);
        return 1;
    }
    if (d->n_far && !(f->packed_at = slc_staging_take(d, &f->out, bytes)))
        return 0;
    at = f->packed_at;
    for (int r = 0; r < n->R; r++) {
        struct slc_span p = part(d, f, slc_use_round(f, i), f->chunk, r);
        struct slc_rows *to = &f->host_rows[r];
        char *rows = at, *meta_at = grad ? NULL : at + (size_t)p.count * n->stride;

        if (d->near[r]) {
            rows = d->near[r] + slc_half_offset(d, f, use);
            meta_at = grad ? NULL : d->near[r] + slc_half_meta(d, f, use);
        }
        slc_rows_place(d, to, rows, meta_at, n->meta_x, d->near[r] ? p.row : 0, p.count);
        to->first = p.first;
        if (slc_own_in_place(d, r))
            to->data = NULL;
        at += d->near[r] ? 0 : staged(d, p.count, meta);
    }
    slc_pack_tokens(d, f, first,
                    n->T - first < d->chunk_tokens ? n->T - first : d->chunk_tokens, grad);
    return 1;
}

/* The pack of f->chunk has run: put what is far. */
static int put(struct slc_dispatch *d, struct slc_flight *f, int i, struct slc_err *e)
{
    const bool grad = slc_use_has_grad(f, i);
    const uint64_t use = f->base + (uint64_t)i;
    const size_t rows_at = slc_half_offset(d, f, use), meta_at = slc_half_meta(d, f, use);
    const size_t meta = meta_of(d, grad);
    const char *at = f->packed_at;

    if (!at)
        return 0;
    for (int r = 0; r < d->n->R; r++) {
        struct slc_span p = part(d, f, slc_use_round(f, i), f->chunk, r);

        if (d->near[r] || p.count == 0)
            continue;
        if (slc_records_put(d, &f->out, r, at, p.count, rows_at, meta_at, meta, p.row, e) <
            0)
            return -1;
        at += staged(d, p.count, meta);
    }
    f->packed_at = NULL;
    f->out.waiting--;
    return 0;
}

/* All of use i is written or put: say so to all who get rows. */
static int signal_all(struct slc_dispatch *d, struct slc_flight *f, int i,
                      struct slc_err *e)
{
    const uint64_t use = f->base + (uint64_t)i;

    for (int j = 1; j < d->n->R; j++) {
        int r = (d->n->me + j) % d->n->R;
        struct slc_span span = slc_plan_to(&f->plan, r, slc_use_round(f, i));

        if (span.count == 0)
            continue;
        slc_records_count(d, r, span.count, meta_of(d, slc_use_has_grad(f, i)));
        if (!f->early[r] && slc_line_signal(d, f, SLC_LINE_ARRIVED, use, r, use + 1, e) < 0)
            return -1;
    }
    return 0;
}

int slc_dispatch_send(struct slc_dispatch *d, struct slc_flight *f, struct slc_err *e)
{
    while (f->planned && f->published && f->sent < f->uses) {
        int done;

        if (!f->packing) {
            if (f->chunk == 0 && !may_send(d, f, f->sent))
                return 0;
            if (pack(d, f, f->sent) == 0)
                return 0;
            f->packing = true;
        }
        done = slc_event_test(f->packed, e);
        if (done < 1)
            return done;
        if (put(d, f, f->sent, e) < 0)
            return -1;
        f->packing = false;
        if (++f->chunk < d->chunks)
            continue;
        if (signal_all(d, f, f->sent, e) < 0)
            return -1;
        f->chunk = 0;
        f->sent++;
    }
    return 0;
}
