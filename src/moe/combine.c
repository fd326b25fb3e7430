/* SPDX-License-Identifier: Apache-2.0 */
#include "moe/dispatch_private.h"

/* The way back: one row per record into the combine window of its source. */

static size_t stride_of(const struct slc_dispatch *d, const struct slc_flight *f)
{
    return f->d_out ? d->n->stride_s : d->n->stride_d;
}

int slc_combine_advance(struct slc_dispatch *d, struct slc_flight *f, struct slc_err *e)
{
    const struct slc_moe_shape *n = d->n;
    size_t stride = stride_of(d, f);
    int round = f->summed - 1, done;

    if (!f->summing)
        return 0;
    done = slc_event_test(f->summed_event, e);
    if (done < 1)
        return done;
    for (int j = 1; j < n->R; j++) {
        int r = (n->me + j) % n->R;
        struct slc_span span = slc_plan_from(&f->plan, r, round);
        size_t bytes = (size_t)span.count * stride;

        if (span.count == 0)
            continue;
        if (d->near[r]) {
            d->o.counters->near_bytes += bytes;
            slc_world_traffic(d->world)->near_bytes += bytes;
        } else {
            d->o.counters->far_bytes += bytes;
            if (slc_window_put(d->window, r,
                               f->combine +
                                   (size_t)(f->plan.away[r] + span.first) * stride,
                               f->back + (size_t)span.row * stride, bytes, e) < 0)
                return -1;
            f->back_mark = d->flushes;
        }
        if (f->plan.from_base[r + 1] <= (round + 1) * n->cap &&
            slc_line_signal(d, f, SLC_LINE_RETURNED, f->n, r, f->n, e) < 0)
            return -1;
    }
    f->summing = false;
    return 0;
}

int slc_combine_post(struct slc_dispatch *d, int slot, const void *y,
                     const float *row_weight, const float *row_scalar,
                     struct slc_err *e)
{
    const struct slc_moe_shape *n = d->n;
    struct slc_flight *f = &d->flight[slot];
    size_t stride = stride_of(d, f);
    struct slc_wait wait = {0};

    /* Rows of the round before, or of the last exchange, may still leave staging. */
    while (f->summing || (d->any_far && d->flushes <= f->back_mark))
        if (slc_dispatch_advance(d, e) < 0 || slc_wait_step(d->world, &wait, e) < 0)
            return -1;
    for (int r = 0; r < n->R; r++) {
        struct slc_span span = slc_plan_from(&f->plan, r, f->summed);
        struct slc_rows *to = &f->host_rows[r];
        size_t at = f->combine + (size_t)(f->plan.away[r] + span.first) * stride;

        *to = (struct slc_rows){.stride = (int64_t)stride,
                                .meta_stride = (int64_t)stride};
        to->first = span.row;
        to->count = span.count;
        if (span.count == 0)
            continue;
        to->data = d->near[r] ? d->near[r] + at : f->back + (size_t)span.row * stride;
        if (row_scalar)
            to->scalars = to->data + (n->row_bytes + 3) / 4 * 4;
    }
    slc_upload(f->q, f->sum_rows, f->host_rows, (size_t)n->R * sizeof(*f->host_rows));
    SLC_RUN(f->q, expert_sum, .dst = f->sum_rows, .y = y, .row_weight = row_weight,
            .row_scalar = row_scalar, .row_of = f->s->row_of,
            .n = slc_plan_rows(&f->plan, f->summed), .H = n->H, .M = n->M, .R = n->R,
            .dtype = n->dtype);
    slc_event_record(f->summed_event, f->q);
    f->summing = true;
    f->summed++;
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
    size_t stride = stride_of(d, f);
    struct slc_wait wait = {0};
    int here;

    while ((here = slc_combine_test(d, slot, e)) == 0)
        if (slc_wait_step(d->world, &wait, e) < 0)
            return -1;
    if (here < 0)
        return -1;
    for (int r = 0; r < n->R; r++) {
        struct slc_rows *from = &f->host_rows[r];

        *from = (struct slc_rows){.stride = (int64_t)stride,
                                  .meta_stride = (int64_t)stride};
        from->count = f->plan.sent[r];
        from->data = (char *)slc_window_local(d->window) + f->combine +
                     (size_t)f->plan.home[r] * stride;
        if (dweights)
            from->scalars = from->data + (n->row_bytes + 3) / 4 * 4;
    }
    slc_upload(f->q, f->home_rows, f->host_rows, (size_t)n->R * sizeof(*f->host_rows));
    SLC_RUN(f->q, combine_sum, .out = out, .dweights = dweights, .add = add,
            .src = f->home_rows, .ids = f->s->ids, .slot_rank = f->s->slot_rank,
            .slot_row = f->s->slot_row, .first_expert = d->first_expert, .T = n->T,
            .H = n->H, .K = n->K, .R = n->R, .S = n->S, .M = n->M, .dtype = n->dtype);
    slc_event_record(f->combined, f->q);
    f->active = false;
    return 0;
}
