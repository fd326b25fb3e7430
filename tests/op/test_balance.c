/* SPDX-License-Identifier: Apache-2.0 */
#include "moe/balance.h"
#include "tests/op/op.h"

struct param {
    int64_t rows, E;
    bool pooled;
};

static int32_t *counts(const struct param *c)
{
    int32_t *count = op_ints(c->rows * c->E, 3, 50);

    for (int64_t i = 0; c->rows > 2 && i < c->E; i++)
        count[c->E + i] = 0; /* a document without routed tokens */
    return count;
}

static void run(struct op_dev *d, const void *param, struct op_out *o)
{
    const struct param *c = param;
    const int64_t n = c->rows * c->E, out = c->pooled ? c->E : n;
    int32_t *count = op_up(d, counts(c), (size_t)n * 4);
    float *g = op_new(d, (size_t)out * 4);

    SLC_RUN(d->q, balance, .out = g, .count = count, .rows = c->rows, .E = c->E,
            .scale = 0.37, .pooled = c->pooled);
    op_take(o, d, "gradient", SLC_F32, g, out, 1e-7);
}

Test(balance, backends_agree)
{
    static const struct param p[] = {{1, 1, true},    {1, 8, false},    {16, 64, true},
                                     {7, 60, false},  {48, 128, true},  {300, 257, false}};

    for (int i = 0; i < 6; i++) {
        char label[64];

        snprintf(label, sizeof(label), "rows %d, E %d", (int)p[i].rows, (int)p[i].E);
        op_compare(run, &p[i], label);
    }
}

/* Against the losses themselves, which the host puts together. */
Test(balance, is_the_gradient_of_the_loss)
{
    const struct param c = {5, 12, false}, all = {5, 12, true};
    const int64_t n = c.rows * c.E, K = 2;
    const int32_t *count = counts(&c);
    float *prob = op_normal(n, 4, 1), slope[60], want[60];
    double sums[12] = {0}, zero[12] = {0};
    struct op_out o;

    op_run("ref", run, &c, &o);
    /* 0.37 = coef E K / sequences */
    slc_aux_sequence(c.E, K, c.rows, count, prob, 0.37 * 3 / (double)(c.E * K), 3, want);
    for (int64_t i = 0; i < n; i++)
        cr_expect_float_eq(((float *)o.v[0].data)[i], want[i], 1e-7 * fabsf(want[i]) + 1e-12);
    op_out_free(&o);
    op_run("ref", run, &all, &o);
    for (int64_t i = 0; i < n; i++)
        sums[i % c.E] += count[i];
    /* 0.37 = share coef E / n^2 */
    slc_aux_micro(c.E, sums, zero, 10, 0.37 * 100 / (double)c.E, 1, slope);
    for (int64_t i = 0; i < c.E; i++)
        cr_expect_float_eq(((float *)o.v[0].data)[i], slope[i], 1e-6 * fabsf(slope[i]));
    op_out_free(&o);
}
