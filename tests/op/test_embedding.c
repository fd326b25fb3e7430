/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/op/op.h"

struct shape {
    int64_t T, H, V;
    enum slc_dtype dtype;
};

static void run(struct op_dev *d, const void *param, struct op_out *o)
{
    const struct shape *s = param;
    const int64_t n = s->T * s->H, w = s->V * s->H;
    const enum slc_dtype t = s->dtype;
    const size_t z = slc_dtype_size(t);
    int32_t *ids = op_up(d, op_ints(s->T, 1, (int32_t)s->V), (size_t)s->T * 4);
    void *y = op_new(d, (size_t)n * z);
    float *dw = op_up(d, op_normal(w, 4, 1), (size_t)w * 4);

    SLC_RUN(d->q, embedding_forward, .y = y,
            .w = op_up(d, op_values(w, 2, 1, t), (size_t)w * z), .ids = ids, .T = s->T,
            .H = s->H, .V = s->V, .dtype = t);
    SLC_RUN(d->q, embedding_backward, .dw = dw,
            .dy = op_up(d, op_values(n, 3, 1, t), (size_t)n * z), .ids = ids, .T = s->T,
            .H = s->H, .V = s->V, .dtype = t);
    op_take(o, d, "y", t, y, n, 0);
    op_take(o, d, "dw", SLC_F32, dw, w, 0); /* the order is fixed: same bits */
}

Test(embedding, backends_agree)
{
    static const struct shape shapes[] = {
        {0, 8, 5, SLC_F32},       {1, 1, 1, SLC_F32},       {3, 17, 2, SLC_F32},
        {67, 40, 9, SLC_F32},     {300, 300, 256, SLC_F32}, {67, 37, 9, SLC_BF16},
        {300, 700, 30, SLC_BF16},
    };

    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        char label[64];

        snprintf(label, sizeof(label), "shape %zu", i);
        op_compare(run, &shapes[i], label);
    }
}

/* In double: <dy, w[ids]>. */
struct ctx {
    const struct shape *s;
    const int32_t *ids;
    const double *dy;
};

static double forward(const double *w, const void *p)
{
    const struct ctx *c = p;
    double total = 0;

    for (int64_t t = 0; t < c->s->T; t++)
        total += op_dot(c->dy + t * c->s->H, w + c->ids[t] * c->s->H, c->s->H);
    return total;
}

Test(embedding, backward_against_differences)
{
    static const char *const backends[] = {"ref", "cpu"};
    const struct shape s = {13, 5, 4, SLC_F32};
    const int64_t n = s.T * s.H, w = s.V * s.H;

    for (int b = 0; b < 2; b++) {
        struct ctx c = {&s, op_ints(s.T, 1, (int32_t)s.V),
                        op_doubles(op_normal(n, 3, 1), SLC_F32, n)};
        float *start = op_normal(w, 4, 1), grad[20];
        struct op_out o;

        op_run(backends[b], run, &s, &o);
        for (int64_t i = 0; i < w; i++)
            grad[i] = ((float *)o.v[1].data)[i] - start[i];
        op_check_gradient("dw", forward, &c, op_doubles(op_normal(w, 2, 1), SLC_F32, w),
                          w, grad, 1e-5);
        op_out_free(&o);
    }
}
