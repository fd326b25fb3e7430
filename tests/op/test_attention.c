/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/op/op.h"

struct shape {
    int64_t NQ, NK, D, window;
    int64_t n_seg;
    int32_t seg[64];
    enum slc_dtype dtype;
};

static void run_with(struct op_dev *d, const struct shape *s, const int32_t *seg_host,
                     struct op_out *o)
{
    const int64_t T = s->seg[s->n_seg], nq = T * s->NQ * s->D, nk = T * s->NK * s->D;
    const enum slc_dtype t = s->dtype;
    const size_t z = slc_dtype_size(t), bq = (size_t)nq * z, bk = (size_t)nk * z;
    const double tol = t == SLC_F32 ? 1e-5 : 1.0 / 64;
    /* P and dS are rounded to bf16, and so are the heads of a group before their sum: with
     * four heads, the worst of some 10^5 elements is 4 x 2^-9 of three deviations of a head
     * (1/85 of the rms), five deviations of the rounding of dS (1/180) and its own rounding
     * (1/512): 1/50. What a gradient as a whole may be off is held to 1.5 times PyTorch's
     * by benchmarks/gpu/errors.py. */
    const double tol_grad = t == SLC_F32 ? 1e-5 : 1.0 / 32;
    void *q = op_up(d, op_values(nq, 1, 1, t), bq),
         *k = op_up(d, op_values(nk, 2, 1, t), bk);
    void *v = op_up(d, op_values(nk, 3, 1, t), bk),
         *d_o = op_up(d, op_values(nq, 4, 1, t), bq);
    void *out = op_new(d, bq), *dq = op_new(d, bq), *dk = op_new(d, bk),
         *dv = op_new(d, bk);
    float *lse = op_new(d, (size_t)(T * s->NQ) * 4);
    int32_t *seg = op_up(d, s->seg, (size_t)(s->n_seg + 1) * 4);
    float scale = (float)(1.5 / sqrt((double)s->D));

    SLC_RUN(d->q, attention_forward, .o = out, .lse = lse, .q = q, .k = k, .v = v,
            .seg = seg, .seg_host = seg_host, .T = T, .NQ = s->NQ, .NK = s->NK,
            .D = s->D, .n_seg = s->n_seg, .max_len = T, .window = s->window,
            .scale = scale, .dtype = t);
    SLC_RUN(d->q, attention_backward, .dq = dq, .dk = dk, .dv = dv, .d_o = d_o, .q = q,
            .k = k, .v = v, .o = out, .lse = lse, .seg = seg, .seg_host = seg_host,
            .T = T, .NQ = s->NQ, .NK = s->NK, .D = s->D, .n_seg = s->n_seg,
            .max_len = T, .window = s->window, .scale = scale, .dtype = t);
    op_take(o, d, "o", t, out, nq, tol);
    op_take(o, d, "lse", SLC_F32, lse, T * s->NQ, 1e-5);
    op_take(o, d, "dq", t, dq, nq, tol_grad);
    op_take(o, d, "dk", t, dk, nk, tol_grad);
    o->v[o->n - 1].floor = o->v[o->n - 2].floor = 1; /* window 1: no gradient */
    op_take(o, d, "dv", t, dv, nk, tol_grad);
}

static void run(struct op_dev *d, const void *param, struct op_out *o)
{
    const struct shape *s = param;

    run_with(d, s, s->seg, o);
}

/* The host does not know the bounds. */
static void run_blind(struct op_dev *d, const void *param, struct op_out *o)
{
    run_with(d, param, NULL, o);
}

Test(attention, backends_agree)
{
    static const struct shape shapes[] = {
        {1, 1, 2, 0, 1, {0, 1}, SLC_F32},
        {2, 1, 8, 0, 1, {0, 0}, SLC_F32},
        {4, 2, 8, 0, 3, {0, 1, 4, 21}, SLC_F32},
        {6, 2, 32, 0, 4, {0, 0, 67, 67, 70}, SLC_F32},
        {6, 1, 16, 5, 3, {0, 67, 130, 150}, SLC_F32},
        {4, 4, 32, 130, 2, {0, 300, 301}, SLC_F32},
        {4, 2, 32, 1, 1, {0, 140}, SLC_F32},
        {2, 1, 128, 0, 1, {0, 333}, SLC_F32},
        {2, 2, 256, 64, 2, {0, 129, 200}, SLC_F32},
        {4, 2, 32, 0, 3, {0, 64, 192, 320}, SLC_F32},
        /* one key head: two threads share its queries */
        {3, 1, 24, 0, 1, {0, 201}, SLC_F32},
        {3, 1, 24, 70, 2, {0, 201, 220}, SLC_F32},
        {3, 1, 10, 0, 1, {0, 201}, SLC_BF16},
        {3, 1, 24, 70, 2, {0, 201, 220}, SLC_BF16},
        {4, 2, 16, 0, 3, {0, 1, 4, 150}, SLC_BF16},
        {4, 1, 64, 40, 1, {0, 140}, SLC_BF16},
        /* what cuDNN takes: whole rows, packed documents, grouped heads, a window */
        {4, 4, 128, 0, 1, {0, 256}, SLC_BF16},
        {4, 2, 128, 0, 1, {0, 256}, SLC_BF16},
        {4, 4, 64, 0, 4, {0, 100, 100, 228, 300}, SLC_BF16},
        {8, 2, 128, 64, 3, {0, 1, 200, 390}, SLC_BF16},
        {8, 2, 128, 100, 1, {0, 384}, SLC_BF16},
    };

    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        char label[64];

        snprintf(label, sizeof(label), "shape %zu", i);
        op_compare(run, &shapes[i], label);
    }
}

/* Documents of several classes of lengths, which a backend may compute in another order. */
Test(attention, packings)
{
    static const int32_t lengths[][48] = {
        /* unsorted, empty ones among them, one long */
        {40, 0, 600, 1, 257, 256, 300, 0, 128, 1, 90, 255, 33, 0, -1},
        /* more short ones than a power of two, a long one last */
        {7, 1, 19, 1, 64, 5, 128, 1, 2, 90, 31, 33, 17, 1, 12, 3, 8, 250, 1, 45, 1, 1,
         70, 9, 1, 22, 130, 1, 4, 11, 1, 5, 2, 66, 520, -1},
        /* of one length, and none */
        {0, 0, 300, 300, 300, 300, 300, 0, -1},
        {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1},
    };
    static const struct shape shapes[] = {
        {.NQ = 2, .NK = 2, .D = 32, .dtype = SLC_BF16},
        {.NQ = 2, .NK = 1, .D = 64, .dtype = SLC_BF16},
        {.NQ = 2, .NK = 1, .D = 128, .window = 100, .dtype = SLC_BF16},
        {.NQ = 1, .NK = 1, .D = 8, .dtype = SLC_F32},
    };

    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++)
        for (size_t j = 0; j < sizeof(shapes) / sizeof(*shapes); j++) {
            struct shape s = shapes[j];
            char label[64];

            for (; lengths[i][s.n_seg] >= 0; s.n_seg++)
                s.seg[s.n_seg + 1] = s.seg[s.n_seg] + lengths[i][s.n_seg];
            snprintf(label, sizeof(label), "packing %zu, shape %zu", i, j);
            op_compare(run, &s, label);
            if (j == 1)
                op_compare(run_blind, &s, label);
        }
}

/* In double, straight from the formula; x is q, k, v in one vector. */
struct ctx {
    const struct shape *s;
    const double *G;
};

static double score(const struct shape *s, const double *q, const double *k, int64_t t,
                    int64_t u, int64_t h)
{
    return (double)(float)(1.5 / sqrt((double)s->D)) *
           op_dot(q + (t * s->NQ + h) * s->D,
                  k + (u * s->NK + h / (s->NQ / s->NK)) * s->D, s->D);
}

static double forward(const double *x, const void *p)
{
    const struct ctx *c = p;
    const struct shape *s = c->s;
    const int64_t T = s->seg[s->n_seg], g = s->NQ / s->NK;
    const double *q = x, *k = x + T * s->NQ * s->D, *v = k + T * s->NK * s->D;
    double total = 0;

    for (int64_t i = 0; i < s->n_seg; i++)
        for (int64_t t = s->seg[i]; t < s->seg[i + 1]; t++)
            for (int64_t h = 0; h < s->NQ; h++) {
                double sum = 0, part = 0;

                for (int64_t u = s->seg[i]; u <= t; u++) {
                    if (s->window > 0 && t - u >= s->window)
                        continue;
                    double e = exp(score(s, q, k, t, u, h));
                    sum += e;
                    part += e * op_dot(c->G + (t * s->NQ + h) * s->D,
                                       v + (u * s->NK + h / g) * s->D, s->D);
                }
                total += part / sum;
            }
    return total;
}

Test(attention, backward_against_differences)
{
    static const char *const backends[] = {"ref", "cpu"};
    static const struct shape shapes[] = {
        {4, 2, 4, 0, 3, {0, 1, 9, 13}, SLC_F32},
        {3, 1, 4, 3, 2, {0, 2, 13}, SLC_F32},
    };

    for (int i = 0; i < 4; i++) {
        const struct shape *s = &shapes[i / 2];
        const int64_t T = s->seg[s->n_seg], nq = T * s->NQ * s->D,
                      nk = T * s->NK * s->D;
        struct ctx c = {s, op_doubles(op_normal(nq, 4, 1), SLC_F32, nq)};
        double *x = (double *)op_keep(malloc((size_t)(nq + 2 * nk) * 8));
        float *grad = (float *)op_keep(malloc((size_t)(nq + 2 * nk) * 4));
        struct op_out o;

        memcpy(x, op_doubles(op_normal(nq, 1, 1), SLC_F32, nq), (size_t)nq * 8);
        memcpy(x + nq, op_doubles(op_normal(nk, 2, 1), SLC_F32, nk), (size_t)nk * 8);
        memcpy(x + nq + nk, op_doubles(op_normal(nk, 3, 1), SLC_F32, nk),
               (size_t)nk * 8);
        op_run(backends[i % 2], run, s, &o);
        memcpy(grad, o.v[2].data, (size_t)nq * 4);
        memcpy(grad + nq, o.v[3].data, (size_t)nk * 4);
        memcpy(grad + nq + nk, o.v[4].data, (size_t)nk * 4);
        op_check_gradient("dq, dk, dv", forward, &c, x, nq + 2 * nk, grad, 2e-5);
        op_out_free(&o);
    }
}
