/* SPDX-License-Identifier: Apache-2.0 */
#include "moe/dispatch_private.h"

/*
 * The way back: one row per record into the combine window of its source; this rank's own
 * are summed where the source adds rows up. Near sources are
 * summed straight into it, far ones in chunks into staging, put from there while they are
 * still in the cache.
 */

static size_t meta_of(const struct slc_dispatch *d, const struct slc_flight *f)
{
    return f->d_out ? d->n->meta_s : 0;
}

/* The sums on the queue have run: put what is far; after the last, signal. */
int slc_combine_advance(struct slc_dispatch *d, struct slc_flight *f, struct slc_err *e)
{
    const struct slc_moe_shape *n = d->n;
    int round = f->summed - 1, done;

    if (!f->summing)
        return 0;
    done = slc_event_test(f->summed_event, e);
    if (done < 1)
        return done;
    for (int i = 0; i < f->n_returning; i++) {
        const struct slc_returning *x = &f->returning[i];

        if (slc_records_put(d, &f->back, x->to, x->rows, x->count, f->combine,
                            slc_combine_meta(d, f), meta_of(d, f),
                            f->plan.away[x->to] + x->first, e) < 0)
            return -1;
        f->back.waiting--;
    }
    f->n_returning = 0;
    if (!f->asked)
        return 0;
    for (int j = 1; j < n->R; j++) {
        int r = (n->me + j) % n->R;
        struct slc_span span = slc_plan_from(&f->plan, r, round);

        if (span.count == 0)
            continue;
        slc_records_count(d, r, span.count, meta_of(d, f));
        if (f->plan.from_base[r + 1] <= (round + 1) * n->cap &&
            slc_line_signal(d, f, SLC_LINE_RETURNED, f->n, r, f->n, e) < 0)
            return -1;
    }
    f->summing = false;
    return 0;
}

/* Enqueue the sums of n records from `first` of the round on; lists [R] of host_rows. */
static void sum(struct slc_dispatch *d, struct slc_flight *f, const struct slc_sums *x,
                int64_t first, int64_t count, int R)
{
    const struct slc_moe_shape *n = d->n;

    slc_upload(f->q, f->sum_rows, f->host_rows, (size_t)R * sizeof(*f->host_rows));
    SLC_RUN(f->q, expert_sum, .dst = f->sum_rows, .y = x->y, .row_weight = x->weight,
            .row_scalar = x->scalar, .row_of = f->s->row_of + first * n->M, .n = count,
            .H = n->H, .M = n->M, .R = R, .dtype = n->dtype);
    slc_event_record(f->summed_event, f->q);
}

/* Sums for all near sources, this rank among them unless it needs none. */
static void sum_near(struct slc_dispatch *d, struct slc_flight *f, const struct slc_sums *x)
{
    const struct slc_moe_shape *n = d->n;
    int32_t all = 0;

    for (int r = 0; r < n->R; r++) {
        struct slc_span span = slc_plan_from(&f->plan, r, f->summed - 1);
        struct slc_rows *to = &f->host_rows[r];

        *to = (struct slc_rows){0};
        if (!d->near[r] || span.count == 0 || slc_own_returns_in_place(d, f, r))
            continue;
        all += span.count;
        slc_rows_place(d, to, d->near[r] + f->combine,
                       x->scalar ? d->near[r] + slc_combine_meta(d, f) : NULL, n->meta_s,
                       f->plan.away[r] + span.first, span.count);
        to->first = span.row;
    }
    if (all > 0)
        sum(d, f, x, 0, slc_plan_rows(&f->plan, f->summed - 1), n->R);
    else
        slc_event_record(f->summed_event, f->q);
}

/* Sums for a far source, chunk by chunk. */
static int sum_far(struct slc_dispatch *d, struct slc_flight *f, const struct slc_sums *x, int r,
                   struct slc_err *e)
{
    const struct slc_moe_shape *n = d->n;
    struct slc_span span = slc_plan_from(&f->plan, r, f->summed - 1);
    size_t meta = meta_of(d, f);

    for (int32_t at = 0; at < span.count; at += (int32_t)d->chunk_records) {
        int32_t left = span.count - at;
        int32_t count = left < d->chunk_records ? left : (int32_t)d->chunk_records;
        size_t bytes = ((size_t)count * (n->stride + meta) + 63) / 64 * 64;
        struct slc_wait wait = {0};
        char *rows;

        while (f->n_returning == d->returns ||
               !(rows = slc_staging_take(d, &f->back, bytes)))
            if (slc_dispatch_advance(d, e) < 0 || slc_wait_step(d->world, &wait, e) < 0)
                return -1;
        slc_rows_place(d, &f->host_rows[0], rows,
                       x->scalar ? rows + (size_t)count * n->stride : NULL, n->meta_s, 0,
                       count);
        f->returning[f->n_returning++] = (struct slc_returning){
            .to = r, .first = span.first + at, .count = count, .rows = rows};
        sum(d, f, x, span.row + at, count, 1);
        if (slc_combine_advance(d, f, e) < 0)
            return -1;
    }
    return 0;
}

int slc_combine_post(struct slc_dispatch *d, int slot, const void *y,
                     const float *row_weight, const float *row_scalar,
                     struct slc_err *e)
{
    const struct slc_sums x = {y, row_weight, row_scalar};
    struct slc_flight *f = &d->flight[slot];
    struct slc_wait wait = {0};

    while (f->summing) /* the round before */
        if (slc_dispatch_advance(d, e) < 0 || slc_wait_step(d->world, &wait, e) < 0)
            return -1;
    f->summed++;
    f->summing = true;
    f->asked = false;
    f->sums = x;
    sum_near(d, f, &x);
    for (int j = 1; j < d->n->R; j++) {
        int r = (d->n->me + j) % d->n->R;

        if (!d->near[r] && sum_far(d, f, &x, r, e) < 0)
            return -1;
    }
    f->asked = true;
    return slc_dispatch_advance(d, e);
}
int slc_combine_test(struct slc_dispatch *d, int slot, struct slc_err *e)
{
    struct slc_flight *f = &d->flight[slot];

    SLC_ASSERT(f->active && f->planned && f->summed == f->plan.rounds);
    if (slc_dispatch_advance(d, e) < 0)
        return -1;
    if (f->summing || f->sent < f->uses || f->credited < f->taken)
        return 0;
    for (int r = 0; r < d->n->R; r++)
        if (r != d->n->me && f->plan.sent[r] > 0 &&
            !slc_line_reached(d, f, SLC_LINE_RETURNED, f->n, r, f->n))
            return 0;
    return 1;
}

int slc_combine_finish(struct slc_dispatch *d, int slot, void *out, const void *add,
                       float *dweights, struct slc_err *e)
{
    const struct slc_moe_shape *n = d->n;
    struct slc_flight *f = &d->flight[slot];
    char *local = slc_window_local(d->window);
    const int32_t *own = NULL;
    struct slc_wait wait = {0};
    int here;

    while ((here = slc_combine_test(d, slot, e)) == 0)
        if (slc_wait_step(d->world, &wait, e) < 0)
            return -1;
    if (here < 0)
        return -1;
    for (int r = 0; r < n->R; r++)
        slc_rows_place(d, &f->host_rows[r], local + f->combine,
                       dweights ? local + slc_combine_meta(d, f) : NULL, n->meta_s,
                       f->plan.home[r], f->plan.sent[r]);
    if (slc_own_returns_in_place(d, f, n->me)) {
        own = f->s->row_of + (int64_t)slc_plan_from(&f->plan, n->me, 0).row * n->M;
        f->host_rows[n->me].count = 0;
    }
    slc_upload(f->q, f->home_rows, f->host_rows, (size_t)n->R * sizeof(*f->host_rows));
    SLC_RUN(f->q, combine_sum, .out = out, .dweights = dweights, .add = add,
            .src = f->home_rows, .ids = f->s->ids, .slot_rank = f->s->slot_rank,
            .slot_row = f->s->slot_row, .first_expert = d->first_expert, .own_rows = own,
            .y = f->sums.y, .row_weight = f->sums.weight, .row_scalar = f->sums.scalar,
            .T = n->T, .H = n->H, .K = n->K, .R = n->R, .S = n->S, .M = n->M, .me = n->me,
            .dtype = n->dtype);
    slc_event_record(f->combined, f->q);
    f->active = false;
    return 0;
}
