/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/op/op.h"

static void run(struct op_dev *d, const void *param, struct op_out *o)
{
    const int64_t n = *(const int64_t *)param;
    const size_t bytes = (size_t)n * 4;
    float *p = op_up(d, op_normal(n, 1, 0.1), bytes);
    float *m = op_new(d, bytes), *v = op_new(d, bytes);
    uint16_t *low = op_new(d, (size_t)n * 2);

    SLC_RUN(d->q, zero, .dst = m, .bytes = (int64_t)bytes);
    SLC_RUN(d->q, zero, .dst = v, .bytes = (int64_t)bytes);
    for (int step = 1; step <= 5; step++) {
        float *g = op_up(d, op_normal(n, (uint64_t)(10 + step), 1e-3), bytes);

        SLC_RUN(d->q, adamw, .p = p, .m = m, .v = v, .g = g,
                .p_low = step & 1 ? low : NULL, .n = n, .lr = 1e-3, .beta1 = 0.9,
                .beta2 = 0.999, .eps = 1e-8, .wd = 0.1, .grad_scale = 0.5f,
                .bc1 = 1 - pow(0.9, step), .bc2 = 1 - pow(0.999, step));
    }
    op_take(o, d, "p", SLC_F32, p, n, 1e-6);
    op_take(o, d, "m", SLC_F32, m, n, 1e-6);
    op_take(o, d, "v", SLC_F32, v, n, 1e-6);
    op_take(o, d, "bf16", SLC_BF16, low, n, 1.0 / 256);
}

Test(adamw, backends_agree)
{
    static const int64_t n[] = {0, 1, 3, 17, 1025, 40001};

    for (int i = 0; i < 6; i++) {
        char label[64];

        snprintf(label, sizeof(label), "n %d", (int)n[i]);
        op_compare(run, &n[i], label);
    }
}

/* The published update of one number, written out for two steps. */
Test(adamw, by_hand)
{
    const int64_t n = 1;
    struct op_out o;
    double p = op_get(op_normal(1, 1, 0.1), SLC_F32, 0), m = 0, v = 0;

    for (int step = 1; step <= 5; step++) {
        double g = 0.5 * op_get(op_normal(1, (uint64_t)(10 + step), 1e-3), SLC_F32, 0);

        p -= 1e-3 * 0.1 * p;
        m = 0.9 * m + 0.1 * g;
        v = 0.999 * v + 0.001 * g * g;
        p -= 1e-3 * (m / (1 - pow(0.9, step))) /
             (sqrt(v / (1 - pow(0.999, step))) + 1e-8);
    }
    op_run("ref", run, &n, &o);
    cr_assert_float_eq(*(float *)o.v[0].data, p, 1e-6 * fabs(p));
    cr_assert_float_eq(*(float *)o.v[2].data, v, 1e-6 * fabs(v));
    op_out_free(&o);
}
