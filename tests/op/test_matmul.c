/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/op/op.h"

struct shape {
    int64_t M, N, K, pad; /* pad: added to every stride */
    bool trans_a, trans_b, acc;
    enum slc_dtype dtype, c_dtype;
};

static void run(struct op_dev *d, const void *param, struct op_out *o)
{
    const struct shape *s = param;
    const int64_t lda = (s->trans_a ? s->M : s->K) + s->pad;
    const int64_t ldb = (s->trans_b ? s->K : s->N) + s->pad, ldc = s->N + s->pad;
    const int64_t na = (s->trans_a ? s->K : s->M) * lda,
                  nb = (s->trans_b ? s->N : s->K) * ldb;
    const int64_t nc = s->M * ldc;
    const size_t z = slc_dtype_size(s->dtype), zc = slc_dtype_size(s->c_dtype);
    void *a = op_up(d, op_values(na, 1, 1, s->dtype), (size_t)na * z);
    void *b = op_up(d, op_values(nb, 2, 1, s->dtype), (size_t)nb * z);
    void *c = op_up(d, op_values(nc, 3, 1, s->c_dtype), (size_t)nc * zc);

    SLC_RUN(d->q, matmul, .c = c, .a = a, .b = b, .M = s->M, .N = s->N, .K = s->K,
            .lda = s->pad ? lda : 0, .ldb = s->pad ? ldb : 0, .ldc = s->pad ? ldc : 0,
            .trans_a = s->trans_a, .trans_b = s->trans_b, .acc = s->acc,
            .dtype = s->dtype, .c_dtype = s->c_dtype);
    op_take(o, d, "c", s->c_dtype, c, nc, s->c_dtype == SLC_F32 ? 1e-5 : 1.0 / 128);
}

/* bf16 in, bf16 or fp32 out; every layout, K longer than a piece that is converted. */
Test(matmul, backends_agree_in_bf16)
{
    static const int64_t mnk[][3] = {
        {4, 4, 0}, {1, 1, 1}, {3, 67, 33}, {67, 29, 300}, {257, 513, 5}, {30, 70, 517},
    };

    for (int i = 0; i < 6; i++)
        for (int k = 0; k < 32; k++) {
            struct shape s = {mnk[i][0],     mnk[i][1], mnk[i][2],
                              k & 8 ? 3 : 0, k & 1,     k & 2,
                              k & 4,         SLC_BF16,  k & 16 ? SLC_BF16 : SLC_F32};
            char label[64];

            snprintf(label, sizeof(label), "M %d N %d K %d case %d", (int)s.M, (int)s.N,
                     (int)s.K, k);
            op_compare(run, &s, label);
        }
}

Test(matmul, backends_agree)
{
    static const int64_t mnk[][3] = {
        {0, 4, 4},    {4, 4, 0},     {1, 1, 1},     {1, 67, 33},   {3, 5, 17},
        {17, 256, 3}, {67, 29, 300}, {300, 200, 9}, {30, 70, 517}, {257, 513, 7},
    };

    for (int i = 0; i < 10; i++)
        for (int k = 0; k < 16; k++) {
            struct shape s = {mnk[i][0], mnk[i][1], mnk[i][2], k & 8 ? 3 : 0, k & 1,
                              k & 2,     k & 4,     SLC_F32,   SLC_F32};
            char label[64];

            snprintf(label, sizeof(label), "M %d N %d K %d case %d", (int)s.M, (int)s.N,
                     (int)s.K, k);
            op_compare(run, &s, label);
        }
}

Test(matmul, bf16_backends_agree)
{
    static const int64_t mnk[][3] = {
        {1, 1, 1}, {3, 5, 17}, {67, 129, 300}, {256, 128, 64}, {130, 72, 520},
    };

    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 32; k++) {
            struct shape s = {mnk[i][0],     mnk[i][1], mnk[i][2],
                              k & 8 ? 3 : 0, k & 1,     k & 2,
                              k & 4,         SLC_BF16,  k & 16 ? SLC_F32 : SLC_BF16};
            char label[64];

            snprintf(label, sizeof(label), "bf16 M %d N %d K %d case %d", (int)s.M,
                     (int)s.N, (int)s.K, k);
            op_compare(run, &s, label);
        }
}

/* The rows of the header: y = x W^T, dx = dy W, dW += dy^T x as one layer, in double.
 */
struct ctx {
    int64_t T, in, out;
    const double *x, *w, *dy;
    int which; /* 0: x varies, 1: w varies */
};

static double forward(const double *v, const void *p)
{
    const struct ctx *c = p;
    const double *x = c->which ? c->x : v, *w = c->which ? v : c->w;
    double total = 0;

    for (int64_t t = 0; t < c->T; t++)
        for (int64_t o = 0; o < c->out; o++)
            total +=
                c->dy[t * c->out + o] * op_dot(x + t * c->in, w + o * c->in, c->in);
    return total;
}

static void layer(struct op_dev *d, const void *param, struct op_out *o)
{
    const struct ctx *c = param;
    const int64_t T = c->T, in = c->in, out = c->out;
    float *x = op_up(d, op_normal(T * in, 1, 1), (size_t)(T * in) * 4);
    float *w = op_up(d, op_normal(out * in, 2, 1), (size_t)(out * in) * 4);
    float *dy = op_up(d, op_normal(T * out, 3, 1), (size_t)(T * out) * 4);
    float *dx = op_new(d, (size_t)(T * in) * 4),
          *dw = op_new(d, (size_t)(out * in) * 4);

    SLC_RUN(d->q, zero, .dst = dw, .bytes = out * in * 4);
    SLC_RUN(d->q, matmul, .c = dx, .a = dy, .b = w, .M = T, .N = in, .K = out);
    SLC_RUN(d->q, matmul, .c = dw, .a = dy, .b = x, .M = out, .N = in, .K = T,
            .trans_a = true, .acc = true);
    op_take(o, d, "dx", SLC_F32, dx, T * in, 1e-5);
    op_take(o, d, "dw", SLC_F32, dw, out * in, 1e-5);
}

Test(matmul, backward_against_differences)
{
    static const char *const backends[] = {"ref", "cpu"};
    struct ctx c = {.T = 7, .in = 5, .out = 9};
    double *x = op_doubles(op_normal(c.T * c.in, 1, 1), SLC_F32, c.T * c.in);
    double *w = op_doubles(op_normal(c.out * c.in, 2, 1), SLC_F32, c.out * c.in);

    c.x = x;
    c.w = w;
    c.dy = op_doubles(op_normal(c.T * c.out, 3, 1), SLC_F32, c.T * c.out);
    for (int b = 0; b < 2; b++) {
        struct op_out o;

        op_run(backends[b], layer, &c, &o);
        c.which = 0;
        op_check_gradient("dx", forward, &c, x, c.T * c.in, o.v[0].data, 1e-5);
        c.which = 1;
        op_check_gradient("dw", forward, &c, w, c.out * c.in, o.v[1].data, 1e-5);
        op_out_free(&o);
    }
}
