/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/op/op.h"

struct shape {
    int64_t T, NQ, NK, D;
    enum slc_qk_norm norm;
    float clip;
    int32_t last_pos;
    enum slc_dtype dtype;
};

static const float eps = 1e-6f;

static int64_t weights_of(const struct shape *s, bool k)
{
    return s->norm == SLC_QK_NORM_FULL ? (k ? s->NK : s->NQ) * s->D : s->D;
}

static float *freqs(int64_t D)
{
    float *f = malloc((size_t)(D / 2 + 1) * 4);

    op_keep(f);
    for (int64_t i = 0; i < D / 2; i++)
        f[i] = (float)pow(1e4, -2.0 * (double)i / (double)D);
    return f;
}

static void run(struct op_dev *d, const void *param, struct op_out *o)
{
    const struct shape *s = param;
    const int64_t T = s->T, D = s->D, nq = T * s->NQ * D, nk = T * s->NK * D;
    const int64_t n = nq + 2 * nk, wq = weights_of(s, false), wk = weights_of(s, true);
    const int64_t nr = s->norm == SLC_QK_NORM_FULL ? 2 : s->NQ + s->NK;
    const enum slc_dtype t = s->dtype;
    const size_t z = slc_dtype_size(t);
    const double tol = t == SLC_F32 ? 5e-6 : 1.0 / 128;
    void *qkv = op_up(d, op_values(n, 1, 1, t), (size_t)n * z),
         *dqkv = op_new(d, (size_t)n * z);
    void *q = op_new(d, (size_t)nq * z), *k = op_new(d, (size_t)nk * z);
    void *v = op_new(d, (size_t)nk * z);
    void *qw = op_up(d, op_values(wq, 2, 1, t), (size_t)wq * z);
    void *kw = op_up(d, op_values(wk, 3, 1, t), (size_t)wk * z);
    float *dqw = op_up(d, op_normal(wq, 4, 1), (size_t)wq * 4);
    float *dkw = op_up(d, op_normal(wk, 5, 1), (size_t)wk * 4);
    float *rstd = op_new(d, (size_t)(T * nr) * 4);
    int32_t *pos = op_up(d, op_ints(T, 6, s->last_pos + 1), (size_t)T * 4);
    float *inv_freq = op_up(d, freqs(D), (size_t)(D / 2) * 4);
    const bool norm = s->norm != SLC_QK_NORM_NONE;

    SLC_RUN(d->q, qkv_rope_forward, .q = q, .k = k, .v = v, .rstd = norm ? rstd : NULL,
            .qkv = qkv, .q_weight = norm ? qw : NULL, .k_weight = norm ? kw : NULL,
            .pos = pos, .inv_freq = inv_freq, .T = T, .NQ = s->NQ, .NK = s->NK, .D = D,
            .eps = eps, .clip = s->clip, .norm = s->norm, .dtype = t);
    SLC_RUN(d->q, qkv_rope_backward, .dqkv = dqkv, .dq_weight = norm ? dqw : NULL,
            .dk_weight = norm ? dkw : NULL,
            .dq = op_up(d, op_values(nq, 7, 1, t), (size_t)nq * z),
            .dk = op_up(d, op_values(nk, 8, 1, t), (size_t)nk * z),
            .dv = op_up(d, op_values(nk, 9, 1, t), (size_t)nk * z), .qkv = qkv,
            .q_weight = norm ? qw : NULL, .k_weight = norm ? kw : NULL,
            .rstd = norm ? rstd : NULL, .pos = pos, .inv_freq = inv_freq, .T = T,
            .NQ = s->NQ, .NK = s->NK, .D = D, .eps = eps, .clip = s->clip,
            .norm = s->norm, .dtype = t);
    op_take(o, d, "q", t, q, nq, tol);
    op_take(o, d, "k", t, k, nk, tol);
    op_take(o, d, "v", t, v, nk, 0);
    op_take(o, d, "dqkv", t, dqkv, n, tol);
    op_take(o, d, "dq_weight", SLC_F32, dqw, wq, t == SLC_F32 ? 1e-5 : 1e-4);
    op_take(o, d, "dk_weight", SLC_F32, dkw, wk, t == SLC_F32 ? 1e-5 : 1e-4);
    op_take(o, d, "rstd", SLC_F32, rstd, norm ? T * nr : 0, 2e-6);
}

Test(qkv_rope, backends_agree)
{
    static const struct shape shapes[] = {
        {0, 2, 1, 8, SLC_QK_NORM_HEAD, 0, 10, SLC_F32},
        {1, 1, 1, 2, SLC_QK_NORM_NONE, 0, 0, SLC_F32},
        {3, 2, 1, 8, SLC_QK_NORM_HEAD, 0, 10, SLC_F32},
        {17, 4, 2, 34, SLC_QK_NORM_FULL, 0, 5000, SLC_F32},
        {67, 6, 2, 32, SLC_QK_NORM_NONE, 0.7f, 1000000, SLC_F32},
        {67, 8, 4, 32, SLC_QK_NORM_HEAD, 1.1f, 100000, SLC_F32},
        {2100, 4, 1, 16, SLC_QK_NORM_HEAD, 0, 2100, SLC_F32},
        {300, 8, 8, 64, SLC_QK_NORM_FULL, 0.9f, 4096, SLC_F32},
        {20, 2, 2, 256, SLC_QK_NORM_HEAD, 0, 4096, SLC_F32},
        {67, 8, 4, 32, SLC_QK_NORM_HEAD, 0, 4096, SLC_BF16},
        {67, 4, 2, 34, SLC_QK_NORM_FULL, 0, 4096, SLC_BF16},
        {67, 4, 2, 34, SLC_QK_NORM_NONE, 0, 4096, SLC_BF16},
    };

    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        char label[64];

        snprintf(label, sizeof(label), "shape %zu", i);
        op_compare(run, &shapes[i], label);
    }
}

/* In double from the formula; x is qkv, q_weight, k_weight in one vector. */
struct ctx {
    const struct shape *s;
    const double *dq, *dk, *dv;
};

static double clamped(double x, double clip)
{
    return clip > 0 ? fmin(fmax(x, -clip), clip) : x;
}

static double part(const struct ctx *c, const double *x, const double *w, int64_t t,
                   int64_t heads, const double *G)
{
    const struct shape *s = c->s;
    const int64_t D = s->D, half = D / 2;
    const bool full = s->norm == SLC_QK_NORM_FULL;
    double rstd = 1 / sqrt(op_dot(x, x, heads * D) / (double)(heads * D) + eps),
           total = 0;
    const float *inv_freq = freqs(D);
    const float pos = (float)op_ints(s->T, 6, s->last_pos + 1)[t];

    for (int64_t h = 0; h < heads; h++) {
        double y[64];

        if (!full)
            rstd = 1 / sqrt(op_dot(x + h * D, x + h * D, D) / (double)D + eps);
        for (int64_t i = 0; i < D; i++)
            y[i] = clamped(s->norm == SLC_QK_NORM_NONE
                               ? x[h * D + i]
                               : x[h * D + i] * rstd * w[full ? h * D + i : i],
                           s->clip);
        for (int64_t i = 0; i < half; i++) {
            double angle = pos * inv_freq[i];
            double lo = y[i] * cos(angle) - y[i + half] * sin(angle);
            double hi = y[i + half] * cos(angle) + y[i] * sin(angle);

            total += G[h * D + i] * lo + G[h * D + i + half] * hi;
        }
    }
    return total;
}

static double forward(const double *x, const void *p)
{
    const struct ctx *c = p;
    const struct shape *s = c->s;
    const int64_t D = s->D, row = (s->NQ + 2 * s->NK) * D;
    const double *qw = x + s->T * row, *kw = qw + weights_of(s, false);
    double total = 0;

    for (int64_t t = 0; t < s->T; t++) {
        const double *r = x + t * row, *v = r + (s->NQ + s->NK) * D;

        total += part(c, r, qw, t, s->NQ, c->dq + t * s->NQ * D);
        total += part(c, r + s->NQ * D, kw, t, s->NK, c->dk + t * s->NK * D);
        for (int64_t i = 0; i < s->NK * D; i++)
            total += c->dv[t * s->NK * D + i] * clamped(v[i], s->clip);
    }
    return total;
}

static void one_shape(const struct shape *s, const char *backend)
{
    const int64_t nq = s->T * s->NQ * s->D, nk = s->T * s->NK * s->D, n = nq + 2 * nk;
    const int64_t wq = weights_of(s, false), wk = weights_of(s, true);
    const int64_t all = n + (s->norm ? wq + wk : 0);
    struct ctx c = {s, op_doubles(op_normal(nq, 7, 1), SLC_F32, nq),
                    op_doubles(op_normal(nk, 8, 1), SLC_F32, nk),
                    op_doubles(op_normal(nk, 9, 1), SLC_F32, nk)};
    double *x = (double *)op_keep(malloc((size_t)(n + wq + wk) * 8));
    float *grad = (float *)op_keep(malloc((size_t)(n + wq + wk) * 4));
    float *q0 = op_normal(wq, 4, 1), *k0 = op_normal(wk, 5, 1);
    struct op_out o;

    memcpy(x, op_doubles(op_normal(n, 1, 1), SLC_F32, n), (size_t)n * 8);
    memcpy(x + n, op_doubles(op_normal(wq, 2, 1), SLC_F32, wq), (size_t)wq * 8);
    memcpy(x + n + wq, op_doubles(op_normal(wk, 3, 1), SLC_F32, wk), (size_t)wk * 8);
    op_run(backend, run, s, &o);
    memcpy(grad, o.v[3].data, (size_t)n * 4);
    for (int64_t i = 0; i < wq; i++)
        grad[n + i] = ((float *)o.v[4].data)[i] - q0[i];
    for (int64_t i = 0; i < wk; i++)
        grad[n + wq + i] = ((float *)o.v[5].data)[i] - k0[i];
    op_check_gradient("dqkv and weights", forward, &c, x, all, grad, 2e-5);
    op_out_free(&o);
}

Test(qkv_rope, backward_against_differences)
{
    static const struct shape shapes[] = {
        {3, 2, 1, 6, SLC_QK_NORM_NONE, 0, 50, SLC_F32},
        {3, 2, 1, 6, SLC_QK_NORM_NONE, 0.8f, 50, SLC_F32},
        {3, 2, 1, 6, SLC_QK_NORM_HEAD, 0, 50, SLC_F32},
        {3, 2, 1, 6, SLC_QK_NORM_HEAD, 0.8f, 50, SLC_F32},
        {3, 2, 1, 6, SLC_QK_NORM_FULL, 0, 50, SLC_F32},
        {3, 2, 1, 6, SLC_QK_NORM_FULL, 0.8f, 50, SLC_F32},
    };

    for (int i = 0; i < 6; i++) {
        one_shape(&shapes[i], "ref");
        one_shape(&shapes[i], "cpu");
    }
}
