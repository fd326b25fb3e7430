/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "optim/optim.h"

/* How far step is from `from` on the way to `to`, 0 to 1. */
static double way(int64_t step, int64_t from, int64_t to)
{
    if (step <= from)
        return 0;
    return step >= to ? 1 : (double)(step - from) / (double)(to - from);
}

double slc_schedule_lr(const struct slc_schedule *s, int64_t step)
{
    const double pi = 3.14159265358979323846, fall = 1 - s->min_ratio;
    int64_t last = s->total - s->decay;

    if (step < s->warmup)
        return s->lr * (double)(step + 1) / (double)s->warmup;
    switch (s->kind) {
    case SLC_SCHED_COSINE:
        return s->lr *
               (s->min_ratio + fall / 2 * (1 + cos(pi * way(step, s->warmup, s->total))));
    case SLC_SCHED_LINEAR:
        return s->lr * (1 - fall * way(step, s->warmup, s->total));
    case SLC_SCHED_WSD:
        if (last < s->warmup)
            last = s->warmup;
        return s->decay > 0 ? s->lr * (1 - fall * way(step, last, s->total)) : s->lr;
    case SLC_SCHED_CONSTANT:
        break;
    }
    return s->lr;
}
