/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "moe/dispatch_private.h"

/* What the number n of another member means is said in dispatch.h. */

static int publish(struct slc_dispatch *d, struct slc_flight *f, struct slc_err *e)
{
    const struct slc_moe_shape *n = d->n;
    struct slc_event *mine[] = {f->read[0], f->read[1], f->combined};
    int packed;

    if (f->published || d->flushes <= f->row_mark)
        return 0;
    for (int i = 0; i < 3; i++) {
        int done = slc_event_test(mine[i], e);

        if (done < 1)
            return done;
    }
    if ((packed = slc_early_pack(d, f, e)) < 1)
        return packed;
    /* A member that published n-1 has read the row n-2, whose place this row takes. */
    for (int r = 0; r < n->R && !f->d_out; r++)
        if (r != n->me && !slc_line_reached(d, f, SLC_LINE_ROW, f->n - 1, r, f->n - 1))
            return 0;
    if (!f->d_out)
        memcpy(f->row, f->s->plan + n->me * (n->R + n->E),
               (size_t)(n->R + n->E) * sizeof(int32_t));
    for (int i = 1; i < n->R; i++) {
        int r = (n->me + i) % n->R;
        size_t at = f->rows + (f->n % 2 * (size_t)n->R + (size_t)n->me) * d->row_stride;

        if (!f->d_out && slc_window_put(d->window, r, at, f->row,
                                        (size_t)(n->R + n->E) * sizeof(int32_t), e) < 0)
            return -1;
        if (slc_early_put(d, f, r, e) < 0)
            return -1;
        if (slc_line_signal(d, f, SLC_LINE_ROW, f->n, r, f->n, e) < 0)
            return -1;
    }
    f->row_mark = d->flushes;
    f->published = true;
    return 0;
}

static int check_row(const struct slc_dispatch *d, const int32_t *row, int from,
                     struct slc_err *e)
{
    for (int r = 0; r < d->n->R; r++)
        if (row[r] < 0 || row[r] > d->n->T)
            return slc_errf(e, SLC_EXIT_BUG,
                            "token exchange: rank %d says it has %d of at most %lld "
                            "records for one rank",
                            slc_group_member(d->o.group, from), row[r],
                            (long long)d->n->T);
    return 0;
}

static void use_plan(struct slc_dispatch *d, struct slc_flight *f)
{
    slc_plan_make(&f->plan, f->s->plan, d->n->R + d->n->E, d->n->me, d->n->cap);
    f->s->rounds = f->plan.rounds;
    f->uses = f->d_out && f->plan.rounds > 1 ? 2 * f->plan.rounds : f->plan.rounds;
    f->planned = true;
    if (f->plan.rounds > 1)
        memset(f->early, 0, (size_t)d->n->R * sizeof(*f->early));
    d->o.counters->rounds += (unsigned)f->plan.rounds;
}

static int plan(struct slc_dispatch *d, struct slc_flight *f, struct slc_err *e)
{
    const struct slc_moe_shape *n = d->n;
    const char *rows = (char *)slc_window_local(d->window) + f->rows;

    if (f->planned || !f->published)
        return 0;
    for (int r = 0; r < n->R; r++)
        if (r != n->me && !slc_line_reached(d, f, SLC_LINE_ROW, f->n, r, f->n))
            return 0;
    for (int r = 0; r < n->R; r++) {
        const char *row = rows + (f->n % 2 * (size_t)n->R + (size_t)r) * d->row_stride;
        int32_t *to = f->s->plan + r * (n->R + n->E);

        if (r == n->me)
            continue;
        memcpy(to, row, (size_t)(n->R + n->E) * sizeof(int32_t));
        if (check_row(d, to, r, e) < 0)
            return -1;
    }
    use_plan(d, f);
    return 0;
}

/* Tell the sources that use i + 2 may overwrite use i, once its reads have run. */
static int give_credit(struct slc_dispatch *d, struct slc_flight *f, struct slc_err *e)
{
    while (f->credited < f->taken) {
        uint64_t use = f->base + (uint64_t)f->credited;
        int next = f->credited + 2, done = slc_event_test(f->read[use % 2], e);

        if (done < 1)
            return done;
        for (int r = 0; r < d->n->R && next < f->uses; r++) {
            if (r == d->n->me ||
                slc_plan_from(&f->plan, r, slc_use_round(f, next)).count == 0)
                continue;
            if (slc_line_signal(d, f, SLC_LINE_CREDIT, use, r, use + 1, e) < 0)
                return -1;
        }
        f->credited++;
    }
    return 0;
}

int slc_dispatch_advance(struct slc_dispatch *d, struct slc_err *e)
{
    if (slc_world_progress(d->world, e) < 0)
        return -1;
    if (slc_window_flushed(d->window))
        d->flushes++;
    for (int i = 0; i < d->o.slots; i++) {
        struct slc_flight *f = &d->flight[i];

        if (f->active &&
            (publish(d, f, e) < 0 || plan(d, f, e) < 0 || slc_dispatch_send(d, f, e) < 0 ||
             give_credit(d, f, e) < 0 || slc_combine_advance(d, f, e) < 0))
            return -1;
        if (f->active)
            slc_early_take(d, f);
    }
    return 0;
}

int slc_dispatch_post(struct slc_dispatch *d, int slot, struct slc_queue *q,
                      struct slc_moe_saved *s, const void *x, const void *d_out,
                      struct slc_err *e)
{
    const struct slc_moe_shape *n = d->n;
    struct slc_flight *f = &d->flight[slot];

    SLC_ASSERT(slot < d->o.slots && !f->active && (!d_out || d->o.training));
    f->q = q;
    f->s = s;
    f->x = x;
    f->d_out = d_out;
    f->base += (uint64_t)f->uses;
    f->n++;
    f->uses = f->sent = f->taken = f->credited = f->summed = 0;
    f->chunk = f->n_returning = 0;
    f->published = f->planned = f->packing = f->summing = f->asked = false;
    if (d_out) {
        use_plan(d, f);
    } else {
        SLC_RUN(q, dispatch_index, .counts = s->counts, .slot_rank = s->slot_rank,
                .slot_row = s->slot_row,
                .own_token = d->o.backend->own_in_place ? s->own_token : NULL,
                .ids = s->ids, .first_expert = d->first_expert, .T = n->T, .E = n->E,
                .K = n->K, .R = n->R, .S = n->S, .me = n->me);
        if (slc_fetch(q, s->plan + n->me * (n->R + n->E), s->counts,
                      (size_t)(n->R + n->E) * sizeof(int32_t), e) < 0)
            return -1;
    }
    slc_early_choose(d, f);
    if (slc_dispatch_cut(d, f, e) < 0)
        return -1;
    f->active = true;
    return slc_dispatch_advance(d, e);
}

static bool arrived(const struct slc_dispatch *d, const struct slc_flight *f)
{
    uint64_t use = f->base + (uint64_t)f->taken;
    int round;

    if (!f->planned || f->sent <= f->taken)
        return false;
    round = slc_use_round(f, f->taken);
    for (int r = 0; r < d->n->R; r++)
        if (r != d->n->me && !f->here[r] && slc_plan_from(&f->plan, r, round).count > 0 &&
            !slc_line_reached(d, f, SLC_LINE_ARRIVED, use, r, use + 1))
            return false;
    return true;
}

int slc_dispatch_test(struct slc_dispatch *d, int slot, struct slc_err *e)
{
    struct slc_flight *f = &d->flight[slot];

    SLC_ASSERT(f->active);
    if (slc_dispatch_advance(d, e) < 0)
        return -1;
    SLC_ASSERT(!f->planned || f->taken < f->uses);
    return arrived(d, f);
}

int slc_dispatch_finish(struct slc_dispatch *d, int slot, struct slc_rows *view,
                        struct slc_err *e)
{
    struct slc_flight *f = &d->flight[slot];
    struct slc_wait wait = {0};
    uint64_t use;
    char *local;
    bool grad;
    int here;

    while ((here = slc_dispatch_test(d, slot, e)) == 0)
        if (slc_wait_step(d->world, &wait, e) < 0)
            return -1;
    if (here < 0)
        return -1;
    grad = slc_use_has_grad(f, f->taken);
    use = f->base + (uint64_t)f->taken;
    local = slc_window_local(d->window);
    slc_rows_place(d, view, local + slc_half_offset(d, f, use),
                   grad ? NULL : local + slc_half_meta(d, f, use), d->n->meta_x, 0,
                   slc_plan_rows(&f->plan, slc_use_round(f, f->taken)));
    if (d->o.backend->own_in_place) {
        struct slc_span own = slc_plan_from(&f->plan, d->n->me, slc_use_round(f, f->taken));

        view->own = grad ? f->d_out : f->x;
        view->own_token = f->s->own_token + own.first;
        view->own_first = own.row;
        view->own_count = own.count;
    }
    return 0;
}

void slc_dispatch_release(struct slc_dispatch *d, int slot)
{
    struct slc_flight *f = &d->flight[slot];

    slc_event_record(f->read[(f->base + (uint64_t)f->taken) % 2], f->q);
    f->taken++;
}
