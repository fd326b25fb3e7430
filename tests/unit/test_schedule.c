/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>

#include "optim/optim.h"

static void expect_lr(const struct slc_schedule *s, int64_t step, double want)
{
    cr_expect_float_eq(slc_schedule_lr(s, step), want, 1e-12, "step %ld: %.15g, not %.15g",
                       (long)step, slc_schedule_lr(s, step), want);
}

Test(schedule, warmup)
{
    for (int kind = SLC_SCHED_COSINE; kind <= SLC_SCHED_WSD; kind++) {
        struct slc_schedule s = {.kind = kind, .lr = 2, .min_ratio = 0.1, .warmup = 4,
                                 .total = 20, .decay = 5};
        expect_lr(&s, 0, 0.5);
        expect_lr(&s, 1, 1.0);
        expect_lr(&s, 3, 2.0);
        expect_lr(&s, 4, 2.0);
    }
}

Test(schedule, cosine)
{
    struct slc_schedule s = {.kind = SLC_SCHED_COSINE, .lr = 2, .min_ratio = 0.1,
                             .total = 100};

    expect_lr(&s, 0, 2.0);
    expect_lr(&s, 25, 2 * (0.1 + 0.45 * (1 + cos(acos(-1.0) / 4))));
    expect_lr(&s, 50, 2 * 0.55);
    expect_lr(&s, 100, 0.2);
    expect_lr(&s, 1000, 0.2);
}

Test(schedule, linear)
{
    struct slc_schedule s = {.kind = SLC_SCHED_LINEAR, .lr = 1, .min_ratio = 0.2,
                             .warmup = 10, .total = 50};

    expect_lr(&s, 10, 1.0);
    expect_lr(&s, 30, 0.6);
    expect_lr(&s, 50, 0.2);
}

Test(schedule, constant)
{
    struct slc_schedule s = {.kind = SLC_SCHED_CONSTANT, .lr = 3, .min_ratio = 0.2,
                             .total = 50};

    for (int64_t step = 0; step < 100; step += 7)
        expect_lr(&s, step, 3.0);
}

Test(schedule, wsd)
{
    struct slc_schedule s = {.kind = SLC_SCHED_WSD, .lr = 1, .min_ratio = 0, .warmup = 10,
                             .total = 100, .decay = 20};

    expect_lr(&s, 10, 1.0);
    expect_lr(&s, 80, 1.0);
    expect_lr(&s, 81, 0.95);
    expect_lr(&s, 90, 0.5);
    expect_lr(&s, 100, 0.0);
    s.decay = 0;
    expect_lr(&s, 99, 1.0);
    s.decay = 500; /* longer than the run: all that is not warm-up */
    expect_lr(&s, 55, 0.5);
}

/* A warm-up as long as the run never divides by zero and ends at the peak. */
Test(schedule, warmup_is_all)
{
    for (int kind = SLC_SCHED_COSINE; kind <= SLC_SCHED_WSD; kind++) {
        struct slc_schedule s = {.kind = kind, .lr = 1, .min_ratio = 0.5, .warmup = 10,
                                 .total = 10, .decay = 3};
        expect_lr(&s, 9, 1.0);
        cr_expect(isfinite(slc_schedule_lr(&s, 10)));
    }
}
