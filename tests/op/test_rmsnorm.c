/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/op/op.h"

struct shape {
    int64_t T, H;
    bool add, dres, dw;
    enum slc_dtype dtype;
};

static const float eps = 1e-6f;

static void run(struct op_dev *d, const void *param, struct op_out *o)
{
    const struct shape *s = param;
    const int64_t n = s->T * s->H, T = s->T, H = s->H;
    const enum slc_dtype t = s->dtype;
    const size_t bytes = (size_t)n * slc_dtype_size(t),
                 row = (size_t)H * slc_dtype_size(t);
    const double tol = t == SLC_F32 ? 2e-6 : 1.0 / 128;
    void *x = op_up(d, op_values(n, 1, 1, t), bytes);
    void *add = s->add ? op_up(d, op_values(n, 2, 1, t), bytes) : NULL;
    void *w = op_up(d, op_values(H, 3, 1, t), row), *y = op_new(d, bytes);
    void *dy = op_up(d, op_values(n, 4, 1, t), bytes);
    void *dx = op_up(d, op_values(n, 5, 1, t), bytes); /* also dres */
    float *rstd = op_new(d, (size_t)T * 4),
          *dw = op_up(d, op_normal(H, 6, 1), (size_t)H * 4);

    /* The sum replaces x, as the layers use it. */
    SLC_RUN(d->q, rmsnorm_forward, .y = y, .sum = add ? x : NULL, .rstd = rstd, .x = x,
            .add = add, .w = w, .T = T, .H = H, .eps = eps, .dtype = t);
    SLC_RUN(d->q, rmsnorm_backward, .dx = dx, .dw = s->dw ? dw : NULL, .dy = dy, .x = x,
            .w = w, .dres = s->dres ? dx : NULL, .rstd = rstd, .T = T, .H = H,
            .dtype = t);
    op_take(o, d, "sum", t, x, n, t == SLC_F32 ? 0 : tol);
    op_take(o, d, "y", t, y, n, tol);
    op_take(o, d, "rstd", SLC_F32, rstd, T, 2e-6);
    op_take(o, d, "dx", t, dx, n, t == SLC_F32 ? 5e-6 : tol);
    o->v[o->n - 1].floor = 1;
    op_take(o, d, "dw", SLC_F32, dw, H, t == SLC_F32 ? 5e-6 : 1e-5);
}

Test(rmsnorm, backends_agree)
{
    static const int64_t T[] = {0, 1, 3, 17, 67, 2100}, H[] = {3, 8, 37, 256, 2500};

    for (int t = 0; t < 6; t++)
        for (int h = 0; h < 5; h++)
            for (int k = 0; k < 4; k++) {
                struct shape s = {T[t],  H[h],   k & 1,
                                  k & 2, k != 3, k == 2 ? SLC_BF16 : SLC_F32};
                char label[64];

                if (T[t] * H[h] > 200000)
                    continue;
                snprintf(label, sizeof(label), "T %d H %d case %d", (int)T[t],
                         (int)H[h], k);
                op_compare(run, &s, label);
            }
}

/* In double: <dy, rmsnorm(x) w> + <dres, x>, x then w in one vector. */
struct ctx {
    int64_t T, H;
    const double *dy, *dres;
};

static double forward(const double *xw, const void *p)
{
    const struct ctx *c = p;
    const double *w = xw + c->T * c->H;
    double total = op_dot(xw, c->dres, c->T * c->H);

    for (int64_t t = 0; t < c->T; t++) {
        const double *x = xw + t * c->H;
        double rstd = 1 / sqrt(op_dot(x, x, c->H) / (double)c->H + eps);

        for (int64_t i = 0; i < c->H; i++)
            total += c->dy[t * c->H + i] * x[i] * rstd * w[i];
    }
    return total;
}

Test(rmsnorm, backward_against_differences)
{
    static const char *const backends[] = {"ref", "cpu"};
    const struct shape s = {5, 37, false, true, true, SLC_F32};
    const int64_t n = s.T * s.H;

    for (int b = 0; b < 2; b++) {
        struct op_out o;
        struct ctx c = {s.T, s.H, op_doubles(op_normal(n, 4, 1), SLC_F32, n),
                        op_doubles(op_normal(n, 5, 1), SLC_F32, n)};
        double *xw = (double *)op_keep(malloc((size_t)(n + s.H) * sizeof(double)));
        float *dw0 = op_normal(s.H, 6, 1), dw[37];

        memcpy(xw, op_doubles(op_normal(n, 1, 1), SLC_F32, n), (size_t)n * 8);
        memcpy(xw + n, op_doubles(op_normal(s.H, 3, 1), SLC_F32, s.H), (size_t)s.H * 8);
        op_run(backends[b], run, &s, &o);
        op_check_gradient("dx", forward, &c, xw, n, o.v[3].data, 1e-5);
        for (int64_t i = 0; i < s.H; i++)
            dw[i] = ((float *)o.v[4].data)[i] - dw0[i];
        float *both = (float *)op_keep(malloc((size_t)(n + s.H) * 4));
        memcpy(both, o.v[3].data, (size_t)n * 4);
        memcpy(both + n, dw, sizeof(dw));
        op_check_gradient("dx, dw", forward, &c, xw, n + s.H, both, 1e-5);
        op_out_free(&o);
    }
}
