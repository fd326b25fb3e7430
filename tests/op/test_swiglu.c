/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/op/op.h"

struct shape {
    int64_t rows, F;
    int32_t used; /* *rows_dev; -1: no rows_dev */
    bool w, dw, aw;
    enum slc_dtype dtype;
};

static void run(struct op_dev *d, const void *param, struct op_out *o)
{
    const struct shape *s = param;
    const int64_t n = s->rows * s->F,
                  used = s->used < 0 || s->used > s->rows ? s->rows : s->used;
    const enum slc_dtype t = s->dtype;
    const size_t bytes = (size_t)n * slc_dtype_size(t);
    const double tol = t == SLC_F32 ? 3e-6 : 1.0 / 128;
    void *h = op_up(d, op_values(2 * n, 1, 3, t), 2 * bytes), *a = op_new(d, bytes);
    void *da0 = op_up(d, op_values(n, 2, 1, t), bytes), *aw = op_new(d, bytes);
    float *w = op_up(d, op_normal(s->rows, 3, 1), (size_t)s->rows * 4);
    float *dw = op_new(d, (size_t)s->rows * 4);
    int32_t *rows_dev = s->used < 0 ? NULL : op_up(d, &s->used, 4);

    SLC_RUN(d->q, swiglu_forward, .a = a, .h = h, .rows_dev = rows_dev, .rows = s->rows,
            .F = s->F, .dtype = t);
    SLC_RUN(d->q, swiglu_backward, .dh = h, .aw = s->aw ? aw : NULL,
            .dw = s->dw ? dw : NULL, .da0 = da0, .h = h, .w = s->w ? w : NULL,
            .rows_dev = rows_dev, .rows = s->rows, .F = s->F, .dtype = t);
    op_take(o, d, "a", t, a, used * s->F, tol);
    op_take(o, d, "dh", t, h, 2 * n, tol);
    op_take(o, d, "aw", t, aw, n, tol);
    op_take(o, d, "dw", SLC_F32, dw, s->rows, 3e-6);
}

Test(swiglu, backends_agree)
{
    static const struct shape shapes[] = {
        {0, 5, -1, true, true, true, SLC_F32},
        {1, 1, -1, true, true, true, SLC_F32},
        {3, 17, -1, false, true, true, SLC_F32},
        {67, 40, 41, true, false, true, SLC_F32},
        {130, 256, 0, true, true, false, SLC_F32},
        {130, 256, 500, true, true, true, SLC_F32},
        {5, 2500, -1, true, true, true, SLC_F32},
        {67, 40, 41, true, true, true, SLC_BF16},
        {5, 2500, -1, true, true, true, SLC_BF16},
        {300, 256, 299, true, true, true, SLC_BF16},
    };

    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        char label[64];

        snprintf(label, sizeof(label), "shape %zu", i);
        op_compare(run, &shapes[i], label);
    }
}

/* Extreme gates: no overflow to NaN, and the limits are right. */
static void extremes(struct op_dev *d, const void *param, struct op_out *o)
{
    const float h[12] = {-1e4f, -120, -88, 88, 120, 1e4f, 1, 1, 1, 1, 1, 1};
    const float da[6] = {1, 1, 1, 1, 1, 1};
    float *hd = op_up(d, h, sizeof(h)), *dh = op_new(d, sizeof(h)),
          *a = op_new(d, sizeof(da));

    (void)param;
    SLC_RUN(d->q, swiglu_forward, .a = a, .h = hd, .rows = 1, .F = 6);
    SLC_RUN(d->q, swiglu_backward, .dh = dh, .da0 = op_up(d, da, sizeof(da)), .h = hd,
            .rows = 1, .F = 6);
    op_take(o, d, "a", SLC_F32, a, 6, 1e-6);
    op_take(o, d, "dh", SLC_F32, dh, 12, 1e-6);
}

Test(swiglu, extreme_gates)
{
    struct op_out o;

    op_compare(extremes, NULL, "extremes");
    op_run("cpu", extremes, NULL, &o);
    cr_assert_float_eq(((float *)o.v[0].data)[0], 0, 1e-30);
    cr_assert_float_eq(((float *)o.v[0].data)[5], 1e4, 1e-2);
    op_out_free(&o);
}

/* In double: sum of G * w * silu(g) u with G the gradient before the router weight. */
struct ctx {
    int64_t rows, F;
    const double *G, *w;
};

static double forward(const double *x, const void *p)
{
    const struct ctx *c = p;
    double total = 0;

    for (int64_t r = 0; r < c->rows; r++)
        for (int64_t f = 0; f < c->F; f++) {
            double g = x[r * 2 * c->F + f], u = x[r * 2 * c->F + c->F + f];

            total += c->w[r] * c->G[r * c->F + f] * g / (1 + exp(-g)) * u;
        }
    return total;
}

static double by_weight(const double *w, const void *p)
{
    const struct ctx *c = p;
    struct ctx with = *c;

    with.w = w;
    return forward(
        op_doubles(op_normal(2 * c->rows * c->F, 1, 3), SLC_F32, 2 * c->rows * c->F),
        &with);
}

Test(swiglu, backward_against_differences)
{
    static const char *const backends[] = {"ref", "cpu"};
    const struct shape s = {5, 11, -1, true, true, true, SLC_F32};
    const int64_t n = s.rows * s.F;

    for (int b = 0; b < 2; b++) {
        struct op_out o;
        double *w = op_doubles(op_normal(s.rows, 3, 1), SLC_F32, s.rows);
        struct ctx c = {s.rows, s.F, op_doubles(op_normal(n, 2, 1), SLC_F32, n), w};

        op_run(backends[b], run, &s, &o);
        op_check_gradient("dh", forward, &c,
                          op_doubles(op_normal(2 * n, 1, 3), SLC_F32, 2 * n), 2 * n,
                          o.v[1].data, 1e-5);
        op_check_gradient("dw", by_weight, &c, w, s.rows, o.v[3].data, 1e-5);
        op_out_free(&o);
    }
}
