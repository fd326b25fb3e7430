/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "moe/dispatch_private.h"

/*
 * By messages, small exchanges cost what their messages cost, one after the other: count
 * rows, then token rows, then results. So rows to a member that has a place for all of them
 * go along with the count row, before anybody has a plan, and the member copies them to
 * where its plan says. A plan of several rounds knows nothing of them: then they are sent
 * again like any others.
 *
 * The place [number % 2][member] begins with the exchange's number. It is free again when
 * the count row's is. In backward, where no count row was waited for, too: results of
 * everything that was sent in n-2 are back.
 */

#define MOST (128u << 10) /* more takes longer to copy than a message to arrive */
#define HEAD 64

size_t slc_early_bytes(const struct slc_moe_shape *n)
{
    const size_t record = n->stride + n->meta_x, all = (size_t)n->T * record;

    if (HEAD + (size_t)n->S * all / (size_t)n->R > MOST) /* few would fit */
        return 0;
    return (HEAD + all < MOST ? HEAD + all + 63 : MOST) / 64 * 64;
}

void slc_early_carve(struct slc_dispatch *d, struct slc_flight *f, struct slc_arena *host)
{
    const struct slc_moe_shape *n = d->n;

    f->early = slc_arena_take(host, "moe plan", (size_t)n->R * sizeof(*f->early));
    f->looked = slc_arena_take(host, "moe plan", (size_t)n->R * sizeof(*f->looked));
    f->here = slc_arena_take(host, "moe plan", (size_t)n->R * sizeof(*f->here));
}

size_t slc_early_staging(const struct slc_dispatch *d)
{
    const struct slc_moe_shape *n = d->n;

    if (!d->early_bytes)
        return 0;
    return (size_t)(n->T * n->S) * (n->stride + n->meta_x) + 2 * HEAD * (size_t)n->R;
}

static size_t meta_of(const struct slc_dispatch *d, const struct slc_flight *f)
{
    return f->d_out ? 0 : d->n->meta_x;
}

/* With its head, the bytes of `count` records. */
static size_t bytes_of(const struct slc_dispatch *d, const struct slc_flight *f, int32_t count)
{
    return HEAD + (size_t)count * (d->n->stride + meta_of(d, f));
}

static int32_t count_to(const struct slc_dispatch *d, const struct slc_flight *f, int r)
{
    return f->s->plan[d->n->me * (d->n->R + d->n->E) + r];
}

static size_t place(const struct slc_dispatch *d, const struct slc_flight *f, int from)
{
    return f->early_at + (f->n % 2 * (size_t)d->n->R + (size_t)from) * d->early_bytes;
}

void slc_early_choose(struct slc_dispatch *d, struct slc_flight *f)
{
    f->early_packed = false;
    for (int r = 0; r < d->n->R; r++) {
        const int32_t count = count_to(d, f, r);

        f->looked[r] = f->here[r] = false;
        f->early[r] = d->message[r] && count > 0 && bytes_of(d, f, count) <= d->early_bytes &&
                      !(f->planned && f->plan.rounds > 1);
    }
}

/* Where in early_out the bytes to r are. */
static char *packed_for(const struct slc_dispatch *d, const struct slc_flight *f, int r)
{
    char *at = f->early_out;

    for (int i = 0; i < r; i++)
        if (f->early[i])
            at += (bytes_of(d, f, count_to(d, f, i)) + 63) / 64 * 64;
    return at;
}

int slc_early_pack(struct slc_dispatch *d, struct slc_flight *f, struct slc_err *e)
{
    const struct slc_moe_shape *n = d->n;
    int32_t all = 0;

    for (int r = 0; r < n->R && !f->early_packed; r++) {
        const int32_t count = f->early[r] ? count_to(d, f, r) : 0;
        char *at = count ? packed_for(d, f, r) : NULL;

        f->host_rows[r] = (struct slc_rows){0};
        if (count == 0)
            continue;
        all += count;
        memset(at, 0, HEAD);
        memcpy(at, &f->n, sizeof(f->n));
        slc_rows_place(d, &f->host_rows[r], at + HEAD,
                       f->d_out ? NULL : at + HEAD + (size_t)count * n->stride, n->meta_x, 0,
                       count);
    }
    if (all > 0)
        slc_pack_tokens(d, f, 0, n->T, f->d_out != NULL);
    f->early_packed = true;
    return slc_event_test(f->packed, e);
}

int slc_early_put(struct slc_dispatch *d, struct slc_flight *f, int r, struct slc_err *e)
{
    if (!f->early[r])
        return 0;
    return slc_window_put(d->window, r, place(d, f, d->n->me), packed_for(d, f, r),
                          bytes_of(d, f, count_to(d, f, r)), e);
}

void slc_early_take(struct slc_dispatch *d, struct slc_flight *f)
{
    const struct slc_moe_shape *n = d->n;
    char *local = slc_window_local(d->window);

    if (!d->early_bytes || !f->published || !f->planned || f->plan.rounds > 1)
        return;
    for (int r = 0; r < n->R; r++) {
        struct slc_span span = slc_plan_from(&f->plan, r, 0);
        const char *from = local + place(d, f, r);
        const size_t rows = (size_t)span.count * n->stride, meta = meta_of(d, f);
        uint64_t number;

        if (f->looked[r] || r == n->me || span.count == 0 ||
            !slc_line_reached(d, f, SLC_LINE_ROW, f->n, r, f->n))
            continue;
        f->looked[r] = true;
        memcpy(&number, from, sizeof(number));
        if (number != f->n)
            continue;
        memcpy(local + slc_half_offset(d, f, f->base) + (size_t)span.row * n->stride,
               from + HEAD, rows);
        memcpy(local + slc_half_meta(d, f, f->base) + (size_t)span.row * meta,
               from + HEAD + rows, (size_t)span.count * meta);
        f->here[r] = true;
        d->o.counters->early++;
    }
}
