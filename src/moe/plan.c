/* SPDX-License-Identifier: Apache-2.0 */
#include "moe/plan.h"

#include "base/err.h"

void slc_plan_carve(struct slc_plan *p, int R, struct slc_arena *host)
{
    size_t row = (size_t)(R + 1) * sizeof(int32_t);

    p->R = R;
    p->total = slc_arena_take(host, "moe plan", row);
    p->sent = slc_arena_take(host, "moe plan", row);
    p->to_base = slc_arena_take(host, "moe plan", row);
    p->from_base = slc_arena_take(host, "moe plan", row);
    p->home = slc_arena_take(host, "moe plan", row);
    p->away = slc_arena_take(host, "moe plan", row);
}

void slc_plan_make(struct slc_plan *p, const int32_t *counts, int64_t ld, int me,
                   int64_t cap)
{
    int R = p->R;

    SLC_ASSERT(cap > 0 && me >= 0 && me < R);
    p->me = me;
    p->cap = cap;
    p->rounds = 1;
    p->home[0] = 0;
    for (int d = 0; d < R; d++) {
        int32_t n = 0;

        for (int s = 0; s < R; s++) {
            if (s == me)
                p->to_base[d] = n;
            if (d == me)
                p->from_base[s] = n;
            n += counts[s * ld + d];
        }
        p->total[d] = n;
        p->sent[d] = counts[me * ld + d];
        p->home[d + 1] = p->home[d] + p->sent[d];
        if ((n + cap - 1) / cap > p->rounds)
            p->rounds = (int)((n + cap - 1) / cap);
    }
    p->from_base[R] = p->total[me];
    for (int s = 0; s < R; s++) {
        p->away[s] = 0;
        for (int d = 0; d < me; d++)
            p->away[s] += counts[s * ld + d];
    }
}

/* The part of the global numbers [base, base + n) that round j moves. */
static struct slc_span cut(int64_t base, int64_t n, int64_t cap, int round)
{
    int64_t low = cap * round, high = low + cap;
    int64_t first = base > low ? base : low;
    int64_t end = base + n < high ? base + n : high;

    if (first >= end)
        return (struct slc_span){0};
    return (struct slc_span){.first = (int32_t)(first - base),
                             .count = (int32_t)(end - first),
                             .row = (int32_t)(first - low)};
}

struct slc_span slc_plan_to(const struct slc_plan *p, int d, int round)
{
    return cut(p->to_base[d], p->sent[d], p->cap, round);
}

struct slc_span slc_plan_from(const struct slc_plan *p, int s, int round)
{
    return cut(p->from_base[s], p->from_base[s + 1] - p->from_base[s], p->cap, round);
}

int32_t slc_plan_rows(const struct slc_plan *p, int round)
{
    return cut(0, p->total[p->me], p->cap, round).count;
}
