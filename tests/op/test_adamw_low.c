/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/op/op.h"

struct param {
    int64_t n;
    enum slc_dtype g;
    int64_t first;
};

/* Rounding is of values that backends compute to the last bit of fp32 or one beside it, so
 * a few elements may fall to the other neighbour: one step of bf16. */
static void run(struct op_dev *d, const void *param, struct op_out *o)
{
    const struct param *c = param;
    const int64_t n = c->n;
    uint16_t *p = op_up(d, op_values(n, 1, 0.1, SLC_BF16), (size_t)n * 2);
    uint16_t *m = op_new(d, (size_t)n * 2), *v = op_new(d, (size_t)n * 2);

    SLC_RUN(d->q, zero, .dst = m, .bytes = n * 2);
    SLC_RUN(d->q, zero, .dst = v, .bytes = n * 2);
    for (int step = 1; step <= 3; step++) {
        void *g = op_up(d, op_values(n, (uint64_t)(10 + step), 1e-3, c->g),
                        (size_t)n * slc_dtype_size(c->g));

        SLC_RUN(d->q, adamw_low, .p = p, .m = m, .v = v, .g = g, .g_dtype = c->g, .n = n,
                .first = c->first, .key = (uint64_t)step * 77, .lr = 1e-3, .beta1 = 0.9,
                .beta2 = 0.999, .eps = 1e-8, .wd = 0.1, .grad_scale = 0.5f,
                .bc1 = 1 - pow(0.9, step), .bc2 = 1 - pow(0.999, step));
    }
    op_take(o, d, "p", SLC_BF16, p, n, 1.0 / 128);
    op_take(o, d, "m", SLC_BF16, m, n, 1.0 / 128);
    op_take(o, d, "v", SLC_BF16, v, n, 1.0 / 128);
}

Test(adamw_low, backends_agree)
{
    static const struct param p[] = {{0, SLC_F32, 0},    {1, SLC_BF16, 7},
                                     {17, SLC_F32, 0},   {1025, SLC_BF16, 1 << 20},
                                     {8192, SLC_F32, 3}, {40001, SLC_BF16, 0}};

    for (int i = 0; i < 6; i++) {
        char label[64];

        snprintf(label, sizeof(label), "n %d, gradient %s", (int)p[i].n,
                 slc_dtype_name(p[i].g));
        op_compare(run, &p[i], label);
    }
}

/* Weights of 1 take an update of 0.001, a quarter of the step of bf16 below 1: none of them
 * would move by rounding to nearest; their mean moves by the update. */
static void drift(struct op_dev *d, const void *param, struct op_out *o)
{
    const int64_t n = *(const int64_t *)param, cut = n / 3;
    float *one = malloc((size_t)n * 4);
    uint16_t *low = malloc((size_t)n * 2);

    op_keep(one);
    op_keep(low);
    for (int64_t i = 0; i < n; i++) {
        one[i] = 1;
        low[i] = slc_f32_to_bf16(1);
    }
    float *g = op_up(d, one, (size_t)n * 4);
    uint16_t *state[2][3];
    for (int k = 0; k < 2; k++) {
        state[k][0] = op_up(d, low, (size_t)n * 2);
        for (int j = 1; j < 3; j++) {
            state[k][j] = op_new(d, (size_t)n * 2);
            SLC_RUN(d->q, zero, .dst = state[k][j], .bytes = n * 2);
        }
    }
    /* at once, and as two extents */
    const int64_t at[] = {0, 0, cut}, count[] = {n, cut, n - cut};
    for (int i = 0; i < 3; i++) {
        uint16_t **s = state[i > 0];
        SLC_RUN(d->q, adamw_low, .p = s[0] + at[i], .m = s[1] + at[i], .v = s[2] + at[i],
                .g = g + at[i], .g_dtype = SLC_F32, .n = count[i], .first = at[i],
                .key = 5, .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8,
                .grad_scale = 1, .bc1 = 0.1, .bc2 = 0.001);
    }
    op_take(o, d, "p", SLC_BF16, state[0][0], n, 1.0 / 128);
    op_take(o, d, "p in two extents", SLC_BF16, state[1][0], n, 1.0 / 128);
    op_take(o, d, "m", SLC_BF16, state[0][1], n, 1.0 / 128);
}

static double mean(const struct op_value *v)
{
    double sum = 0;

    for (int64_t i = 0; i < v->n; i++)
        sum += op_get(v->data, v->dtype, i);
    return sum / (double)v->n;
}

Test(adamw_low, small_updates_are_not_lost)
{
    const int64_t n = 100000;
    struct op_out o;

    op_run("cpu", drift, &n, &o);
    /* 100000 times a step of 1/256, taken with probability 0.256 */
    cr_expect_float_eq(mean(&o.v[0]), 1 - 1e-3, 4e-5, "mean %.7f", mean(&o.v[0]));
    cr_expect_float_eq(mean(&o.v[2]), 0.1, 4e-5 * 0.1, "mean %.7f", mean(&o.v[2]));
    cr_expect_eq(memcmp(o.v[0].data, o.v[1].data, (size_t)n * 2), 0,
                 "extents change the rounding");
    op_out_free(&o);
}

static void not_finite(struct op_dev *d, const void *param, struct op_out *o)
{
    const float g[2] = {INFINITY, NAN};
    const uint16_t one[2] = {0x3f80, 0x3f80}, zero[2] = {0};
    uint16_t *p = op_up(d, one, 4), *m = op_up(d, zero, 4), *v = op_up(d, zero, 4);
    float *dg = op_up(d, g, 8);

    (void)param;
    SLC_RUN(d->q, adamw_low, .p = p, .m = m, .v = v, .g = dg, .g_dtype = SLC_F32, .n = 2,
            .key = 1, .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8,
            .grad_scale = 1, .bc1 = 0.1, .bc2 = 0.001);
    op_take(o, d, "m", SLC_BF16, m, 2, 0);
}

Test(adamw_low, infinity_and_nan_stay)
{
    struct op_out o;

    op_run("cpu", not_finite, NULL, &o);
    cr_expect(isinf(op_get(o.v[0].data, SLC_BF16, 0)));
    cr_expect(isnan(op_get(o.v[0].data, SLC_BF16, 1)));
    op_out_free(&o);
}
